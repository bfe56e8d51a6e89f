package store

import (
	"cmp"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

const exportedPrefix = "exported_"

// base is what all series of a source have in common. It is not changed: selections hold it.
type base struct {
	labels []labels.Label // sorted, none empty, the site label included; without it if contested
	set    uint64         // hash of labels
	// The source's own labels have the site label: its series are resolved one by one.
	contested bool
}

// setBase works out what the series of a source have in common.
func (s *Store) setBase(src *source) {
	site := s.config.SiteLabel
	b := &base{
		labels:    appendLabels(make([]labels.Label, 0, src.origin.Labels.Len()+1), src.origin.Labels),
		contested: site != "" && src.origin.Labels.Get(site) != "",
	}
	if site != "" && !b.contested {
		b.labels = setLabel(b.labels, site, src.site.name)
	}
	b.labels = slices.DeleteFunc(b.labels, func(l labels.Label) bool { return l.Value == "" })
	b.set = hashLabels("", b.labels)
	s.baseSets[b.set]++
	for _, l := range b.labels {
		if s.baseNames[l.Name]++; s.baseNames[l.Name] == 1 {
			s.baseVersion++
		}
	}
	src.base = b
}

// forgetBase undoes setBase.
func (s *Store) forgetBase(src *source) {
	if s.baseSets[src.base.set]--; s.baseSets[src.base.set] == 0 {
		delete(s.baseSets, src.base.set)
	}
	for _, l := range src.base.labels {
		if s.baseNames[l.Name]--; s.baseNames[l.Name] == 0 {
			delete(s.baseNames, l.Name)
		}
	}
	src.base = nil
}

// resolve returns the labels of a series as readers see them; see Config.Resolve. Series that are not contested need no
// more than mergeLabels of the base and the column's labels.
func (s *Store) resolve(src *source, column labels.Labels) (resolved []labels.Label, ok bool) {
	return s.config.Resolve(src.site.name, src.origin.Labels, column)
}

// Resolve returns the labels of a series of a site as readers see them, sorted, none empty, without the metric name. The
// series is given by the labels of its source and those of its column. It is false for a series that is dropped because
// it has the site label already.
func (c *Config) Resolve(siteName string, source, column labels.Labels) (resolved []labels.Label, ok bool) {
	own := mergeLabels(nil, appendLabels(nil, source), column)
	site := c.SiteLabel
	if site == "" {
		return own, true
	}
	if value, ok := findValue(own, site); ok {
		if c.OnConflict != Export {
			return nil, false
		}
		name := exportedPrefix + site
		for {
			if _, taken := findValue(own, name); !taken {
				break
			}
			name = exportedPrefix + name
		}
		own = setLabel(own, name, value)
	}
	return setLabel(own, site, siteName), true
}

// countDropped counts the series of a source from a column on that on_conflict drops.
func (s *Store) countDropped(src *source, first int) {
	if s.config.OnConflict != Drop || s.config.SiteLabel == "" {
		return
	}
	for i := first; i < src.columns(); i++ {
		if !src.base.contested && !src.index.isContested(uint32(i)) {
			continue
		}
		if _, ok := s.resolve(src, src.schema.Column(i).Labels); !ok {
			s.metrics.dropped.Inc()
		}
	}
}

// isContested reports whether a label of that name may have to give way to the site label.
func isContested(name, siteLabel string) bool {
	for name != siteLabel {
		var ok bool
		if name, ok = strings.CutPrefix(name, exportedPrefix); !ok {
			return false
		}
	}
	return true
}

// findLabel returns a column that has the label.
func findLabel(columns []series.Column, name string) *series.Column {
	for i := range columns {
		if columns[i].Labels.Get(name) != "" {
			return &columns[i]
		}
	}
	return nil
}

// appendLabels appends all labels but the metric name.
func appendLabels(dst []labels.Label, ls labels.Labels) []labels.Label {
	ls.Range(func(l labels.Label) {
		if l.Name != model.MetricNameLabel {
			dst = append(dst, l)
		}
	})
	return dst
}

// mergeLabels appends base, and column's labels without the metric name over it: both are sorted, a label of column
// replaces one of base, and empty ones are not there.
func mergeLabels(dst, base []labels.Label, column labels.Labels) []labels.Label {
	column.Range(func(l labels.Label) {
		if l.Name == model.MetricNameLabel {
			return
		}
		for len(base) > 0 && base[0].Name < l.Name {
			dst, base = appendPresent(dst, base[0]), base[1:]
		}
		if len(base) > 0 && base[0].Name == l.Name {
			base = base[1:]
		}
		dst = appendPresent(dst, l)
	})
	for i := range base {
		dst = appendPresent(dst, base[i])
	}
	return dst
}

func appendPresent(dst []labels.Label, l labels.Label) []labels.Label {
	if l.Value == "" {
		return dst
	}
	return append(dst, l)
}

// setLabel sets one of sorted labels.
func setLabel(ls []labels.Label, name, value string) []labels.Label {
	i, ok := slices.BinarySearchFunc(ls, name, func(l labels.Label, name string) int { return cmp.Compare(l.Name, name) })
	if ok {
		ls[i].Value = value
		return ls
	}
	return slices.Insert(ls, i, labels.Label{Name: name, Value: value})
}

// findValue returns the value of one of sorted labels, and whether it is there.
func findValue(ls []labels.Label, name string) (string, bool) {
	for i := range ls {
		if ls[i].Name == name {
			return ls[i].Value, ls[i].Value != ""
		}
	}
	return "", false
}

// hashLabels hashes a series, or the labels of a source if name is empty.
func hashLabels(name string, ls []labels.Label) uint64 {
	var d xxhash.Digest
	d.Reset()
	separator := [1]byte{0xff} // never in valid UTF-8
	d.WriteString(name)
	for i := range ls {
		d.Write(separator[:])
		d.WriteString(ls[i].Name)
		d.Write(separator[:])
		d.WriteString(ls[i].Value)
	}
	return d.Sum64()
}
