package telemeter

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"

	"github.com/thalweg/thalweg/internal/pipeline"
)

// Bounds of what is taken from a client, as telemeter-server has them.
const (
	maxNameBytes  = 255 // of a metric
	maxLabelBytes = 255 // of a label name, and of a value
	maxAge        = 24 * time.Hour
)

// Reason why a series of a push is not taken: one of these, or of those of package pipeline.
type Reason string

const (
	badName      Reason = "name"      // the metric has no name, or one that is too long
	badType      Reason = "type"      // the family has no known type, or the metric a value of another
	badLabels    Reason = "labels"    // a label is empty, too long, no UTF-8, there twice, or not for clients to set
	badHistogram Reason = "histogram" // the buckets of a native histogram contradict each other
	tooOld       Reason = "old"       // measured more than a day ago
	collision           = Reason(pipeline.Collision)
)

// Reasons are all of them.
func Reasons() []Reason {
	all := []Reason{badName, badType, badLabels, badHistogram, tooOld, collision}
	for _, r := range []pipeline.Reason{pipeline.NoMatch, pipeline.RequiredLabel, pipeline.LongName, pipeline.LongValue} {
		all = append(all, Reason(r))
	}
	return all // pipeline.TooManyLabels is spelled as badLabels
}

// verdict is what becomes of a family.
type verdict struct {
	Family  string         `json:"family"`
	Refused map[Reason]int `json:"refused"`           // series, by reason
	Example string         `json:"example,omitempty"` // what was wrong first

	defective bool // not only because nobody wants it
}

// judge looks at the families of one push. It takes out what cannot be taken; an error means that nothing can.
type judge struct {
	label, id string
	forbidden string // a label that clients do not set; "" is none
	oldest    int64  // ms
	verdicts  []*verdict
	byFamily  map[string]*verdict
	seen      map[uint64]struct{} // hashes of what was taken
	hash      xxhash.Digest
}

func newJudge(label, id, forbidden string, now time.Time) *judge {
	return &judge{
		label: label, id: id, forbidden: forbidden, oldest: now.Add(-maxAge).UnixMilli(),
		byFamily: map[string]*verdict{}, seen: map[uint64]struct{}{},
	}
}

// families leaves of each family what can be taken, and of all those of which something can.
func (j *judge) families(all []*dto.MetricFamily) ([]*dto.MetricFamily, error) {
	kept := all[:0]
	for _, f := range all {
		metrics := f.Metric[:0]
		for _, m := range f.Metric {
			if err := j.identity(m); err != nil {
				return nil, fmt.Errorf("family %s: %w", quoted(f.GetName()), err)
			}
			if reason, err := j.metric(f, m); err != nil {
				j.refuse(f.GetName(), reason, err.Error())
				continue
			}
			metrics = append(metrics, m)
		}
		if f.Metric = metrics; len(metrics) > 0 {
			f.Unit = nil // federation has none, and one that is not in the name fails a whole body
			kept = append(kept, f)
		}
	}
	return kept, nil
}

// identity sees to it that a client speaks of nobody but itself.
func (j *judge) identity(m *dto.Metric) error {
	found := false
	for _, l := range m.Label {
		if l.GetName() != j.label || l.GetValue() == "" {
			continue
		}
		if found = true; l.GetValue() != j.id {
			return refuse(http.StatusForbidden, resultForeign, "a series has %s=%s, but the token is for %s", j.label, quoted(l.GetValue()), quoted(j.id))
		}
	}
	if !found {
		return refuse(http.StatusBadRequest, resultForeign, "a series lacks the label %s, which the answer of /authorize asks for", j.label)
	}
	return nil
}

// metric says why one cannot be taken.
func (j *judge) metric(f *dto.MetricFamily, m *dto.Metric) (Reason, error) {
	if name := f.GetName(); len(name) > maxNameBytes || !model.UTF8Validation.IsValidMetricName(name) {
		return badName, fmt.Errorf("metric name of %d bytes is empty, longer than %d, or no UTF-8", len(name), maxNameBytes)
	}
	if err := checkType(f, m); err != nil {
		return badType, err
	}
	if err := j.labels(f, m); err != nil {
		return badLabels, err
	}
	if m.TimestampMs != nil && m.GetTimestampMs() < j.oldest {
		return tooOld, fmt.Errorf("measured at %s", time.UnixMilli(m.GetTimestampMs()).UTC().Format(time.RFC3339))
	}
	if h := m.GetHistogram(); h != nil && isNative(h) {
		if err := checkNative(h); err != nil {
			return badHistogram, err
		}
	}
	id := j.identify(f, m)
	if _, taken := j.seen[id]; taken {
		return collision, errors.New("a series is there twice, the first one is taken")
	}
	j.seen[id] = struct{}{}
	return "", nil
}

// identify hashes name and labels, which are in no order.
func (j *judge) identify(f *dto.MetricFamily, m *dto.Metric) (id uint64) {
	for _, l := range m.Label {
		j.hash.Reset()
		_, _ = j.hash.WriteString(l.GetName())
		_, _ = j.hash.WriteString("\xff")
		_, _ = j.hash.WriteString(l.GetValue())
		id += j.hash.Sum64()
	}
	return id ^ xxhash.Sum64String(f.GetName())
}

func checkType(f *dto.MetricFamily, m *dto.Metric) error {
	ok := false
	switch f.GetType() {
	case dto.MetricType_COUNTER:
		ok = m.Counter != nil
	case dto.MetricType_GAUGE:
		ok = m.Gauge != nil
	case dto.MetricType_UNTYPED:
		ok = m.Untyped != nil
	case dto.MetricType_SUMMARY:
		ok = m.Summary != nil
	case dto.MetricType_HISTOGRAM, dto.MetricType_GAUGE_HISTOGRAM:
		ok = m.Histogram != nil
	}
	if f.Type == nil || !ok {
		return fmt.Errorf("a family of type %s has a metric without such a value", f.GetType())
	}
	return nil
}

func (j *judge) labels(f *dto.MetricFamily, m *dto.Metric) error {
	made := "" // by this program, for each part of the metric
	switch f.GetType() {
	case dto.MetricType_HISTOGRAM, dto.MetricType_GAUGE_HISTOGRAM:
		made = model.BucketLabel
	case dto.MetricType_SUMMARY:
		made = model.QuantileLabel
	}
	for i, l := range m.Label {
		name, value := l.GetName(), l.GetValue()
		switch {
		case len(name) > maxLabelBytes || !model.UTF8Validation.IsValidLabelName(name):
			return fmt.Errorf("label name of %d bytes is empty, longer than %d, or no UTF-8", len(name), maxLabelBytes)
		case len(value) > maxLabelBytes || !utf8.ValidString(value):
			return fmt.Errorf("value of label %s, of %d bytes, is longer than %d, or no UTF-8", quoted(name), len(value), maxLabelBytes)
		case name == model.MetricNameLabel || name == made || name == j.forbidden:
			return fmt.Errorf("label %s is not for clients to set", quoted(name))
		}
		for _, before := range m.Label[:i] {
			if before.GetName() == name {
				return fmt.Errorf("label %s is there twice", quoted(name))
			}
		}
	}
	return nil
}

// isNative reports whether a histogram is taken for a native one.
func isNative(h *dto.Histogram) bool {
	return len(h.GetPositiveSpan()) > 0 || len(h.GetNegativeSpan()) > 0 || h.GetZeroThreshold() > 0 ||
		h.GetZeroCount() > 0 || h.GetZeroCountFloat() > 0
}

// checkNative finds native histograms that say one thing in their spans and another in their buckets.
func checkNative(h *dto.Histogram) error {
	if h.GetSampleCountFloat() > 0 || h.GetZeroCountFloat() > 0 {
		return (&histogram.FloatHistogram{
			Schema: h.GetSchema(), Count: h.GetSampleCountFloat(), Sum: h.GetSampleSum(),
			ZeroThreshold: h.GetZeroThreshold(), ZeroCount: h.GetZeroCountFloat(),
			PositiveSpans: spans(h.GetPositiveSpan()), PositiveBuckets: h.GetPositiveCount(),
			NegativeSpans: spans(h.GetNegativeSpan()), NegativeBuckets: h.GetNegativeCount(),
		}).Validate()
	}
	return (&histogram.Histogram{
		Schema: h.GetSchema(), Count: h.GetSampleCount(), Sum: h.GetSampleSum(),
		ZeroThreshold: h.GetZeroThreshold(), ZeroCount: h.GetZeroCount(),
		PositiveSpans: spans(h.GetPositiveSpan()), PositiveBuckets: h.GetPositiveDelta(),
		NegativeSpans: spans(h.GetNegativeSpan()), NegativeBuckets: h.GetNegativeDelta(),
	}).Validate()
}

func spans(from []*dto.BucketSpan) []histogram.Span {
	to := make([]histogram.Span, len(from))
	for i, s := range from {
		to[i] = histogram.Span{Offset: s.GetOffset(), Length: s.GetLength()}
	}
	return to
}

// refuse notes that a series is not taken.
func (j *judge) refuse(family string, reason Reason, example string) {
	v := j.byFamily[family]
	if v == nil {
		v = &verdict{Family: shortened(family), Refused: map[Reason]int{}}
		j.byFamily[family] = v
		j.verdicts = append(j.verdicts, v)
	}
	v.Refused[reason]++
	if reason != Reason(pipeline.NoMatch) {
		v.defective = true
		if v.Example == "" {
			v.Example = example
		}
	}
}

// refused counts the series that are not taken, and says whether some have a defect.
func (j *judge) refused() (series int, defective bool) {
	for _, v := range j.verdicts {
		for _, n := range v.Refused {
			series += n
		}
		defective = defective || v.defective
	}
	return series, defective
}

// baseOf is the name of the family of a series, which may be a part of a histogram or summary. The family is one of
// those that were kept.
func baseOf(name string, kept map[string]bool) string {
	if kept[name] {
		return name
	}
	for _, suffix := range []string{"_bucket", "_count", "_sum", "_gcount", "_gsum"} {
		if base, ok := strings.CutSuffix(name, suffix); ok && kept[base] {
			return base
		}
	}
	return name
}

// shown is how much of a client's own words stands in answers and logs.
const shown = 80

// quoted quotes what a client says.
func quoted(s string) string { return fmt.Sprintf("%q", shortened(s)) }

func shortened(s string) string {
	if len(s) > shown {
		return strings.ToValidUTF8(s[:shown], "") + "..."
	}
	return s
}
