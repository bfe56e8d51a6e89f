package scrape

import (
	"fmt"
	"slices"

	"github.com/prometheus/common/model"
	promconfig "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"

	"github.com/thalweg/thalweg/internal/expo"
	"github.com/thalweg/thalweg/internal/series"
)

// mapper turns the labels that a series is exposed with into those of its column: honor_labels,
// metric_relabel_configs, names, label limits, in Prometheus' order. It is for one goroutine.
type mapper struct {
	cfg    *promconfig.ScrapeConfig
	target labels.Labels
	b      *labels.Builder
}

func newMapper(cfg *promconfig.ScrapeConfig, target labels.Labels) *mapper {
	return &mapper{cfg: cfg, target: target, b: labels.NewBuilder(labels.EmptyLabels())}
}

func (m *mapper) column(exposed labels.Labels) (labels.Labels, bool, error) {
	m.b.Reset(exposed)
	if m.cfg.HonorLabels {
		m.target.Range(func(l labels.Label) {
			// An exposed label counts even if it is empty: that is how federation removes an instance.
			if !exposed.Has(l.Name) {
				m.b.Set(l.Name, l.Value)
			}
		})
	} else {
		m.overrideLabels(exposed)
	}
	if !relabel.ProcessBuilder(m.b, m.cfg.MetricRelabelConfigs...) {
		return labels.EmptyLabels(), false, nil
	}
	final := m.b.Labels()
	if final.IsEmpty() {
		return final, false, nil
	}
	if !final.Has(model.MetricNameLabel) {
		return final, false, &nameError{fmt.Errorf("series %.200s has no name", final)}
	}
	if !final.IsValid(m.cfg.MetricNameValidationScheme) {
		return final, false, &nameError{fmt.Errorf("series %.200s has an invalid name or label name", final)}
	}
	if err := m.checkLimits(final); err != nil {
		return final, false, err
	}
	return series.Relative(final, m.target), true, nil
}

// nameError says that a series has no valid name.
type nameError struct{ error }

// overrideLabels sets the target's labels. Exposed labels of the same name move to exported_ and so on, the shorter
// names first.
func (m *mapper) overrideLabels(exposed labels.Labels) {
	var conflicts []labels.Label
	m.target.Range(func(l labels.Label) {
		if v := exposed.Get(l.Name); v != "" {
			conflicts = append(conflicts, labels.Label{Name: l.Name, Value: v})
		}
		m.b.Set(l.Name, l.Value)
	})
	slices.SortStableFunc(conflicts, func(a, b labels.Label) int { return len(a.Name) - len(b.Name) })
	for _, l := range conflicts {
		name := model.ExportedLabelPrefix + l.Name
		for m.b.Get(name) != "" {
			name = model.ExportedLabelPrefix + name
		}
		m.b.Set(name, l.Value)
	}
}

func (m *mapper) checkLimits(l labels.Labels) error {
	name := l.Get(model.MetricNameLabel)
	if most := int(m.cfg.LabelLimit); most > 0 && l.Len() > most {
		return &expo.LimitError{Limit: "label_limit", Max: most, Got: l.Len(), Detail: fmt.Sprintf("series %.50s", name)}
	}
	longestName, longestValue := int(m.cfg.LabelNameLengthLimit), int(m.cfg.LabelValueLengthLimit)
	if longestName == 0 && longestValue == 0 {
		return nil
	}
	return l.Validate(func(l labels.Label) error {
		detail := fmt.Sprintf("series %.50s, label %.50s", name, l.Name)
		if n := len(l.Name); longestName > 0 && n > longestName {
			return &expo.LimitError{Limit: "label_name_length_limit", Max: longestName, Got: n, Detail: detail}
		}
		if n := len(l.Value); longestValue > 0 && n > longestValue {
			return &expo.LimitError{Limit: "label_value_length_limit", Max: longestValue, Got: n, Detail: detail}
		}
		return nil
	})
}
