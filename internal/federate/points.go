package federate

import (
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/store"
)

// point is the series that make one metric: the buckets, sum and count of a histogram, or what a summary has. They
// have the same labels but for le and quantile.
type point struct {
	labels []labels.Label // those that all have, the external ones included
	series []*store.Series
}

// start is when the metric began, 0 if that is not known.
func (p *point) start() int64 {
	for _, s := range p.series {
		if s.Start != 0 {
			return s.Start
		}
	}
	return 0
}

// points is a chunk of a family, sorted into metrics. Most of them lie together already.
type points struct {
	list   []point
	byKey  map[string]int // into list
	labels []labels.Label
	key    []byte
}

// isCompound reports whether metrics of a type consist of several series.
func isCompound(t model.MetricType) bool {
	return t == model.MetricTypeHistogram || t == model.MetricTypeGaugeHistogram || t == model.MetricTypeSummary
}

// of sorts a chunk of a family whose name and type are given. The points come in the order of their first series and
// are valid until the next call.
func (p *points) of(chunk []store.Series, family string, typ model.MetricType, extra []labels.Label) []point {
	p.release()
	for i := range chunk {
		s := &chunk[i]
		first := len(p.labels)
		p.labels = s.AppendLabels(p.labels)
		if name := ownLabel(s.Name(), family, typ); name != "" {
			own := slices.DeleteFunc(p.labels[first:], func(l labels.Label) bool { return l.Name == name })
			p.labels = p.labels[:first+len(own)]
		}
		p.labels = append(p.labels[:first], appendAbsent(p.labels[first:], extra)...)
		own := p.labels[first:len(p.labels):len(p.labels)]
		if n := len(p.list); n > 0 && slices.Equal(p.list[n-1].labels, own) {
			p.list[n-1].series = append(p.list[n-1].series, s)
			p.labels = p.labels[:first]
			continue
		}
		p.add(own, s)
	}
	return p.list
}

// add puts a series into the point with its labels.
func (p *points) add(ls []labels.Label, s *store.Series) {
	p.key = p.key[:0]
	for i := range ls {
		p.key = append(append(p.key, ls[i].Name...), 0xff) // never in valid UTF-8
		p.key = append(append(p.key, ls[i].Value...), 0xff)
	}
	at, ok := p.byKey[string(p.key)]
	if !ok {
		at = len(p.list)
		p.byKey[string(p.key)] = at
		p.list = slices.Grow(p.list, 1)[:at+1]
		p.list[at] = point{labels: ls, series: p.list[at].series[:0]}
	}
	p.list[at].series = append(p.list[at].series, s)
}

// release lets go of the series, and keeps the memory.
func (p *points) release() {
	for i := range p.list {
		clear(p.list[i].series)
		p.list[i] = point{series: p.list[i].series[:0]}
	}
	clear(p.labels)
	clear(p.byKey)
	p.list, p.labels = p.list[:0], p.labels[:0]
}

// ownLabel is the label in which a series differs from the others of its metric; "" if there is none.
func ownLabel(name, family string, typ model.MetricType) string {
	switch {
	case typ == model.MetricTypeSummary && name == family:
		return model.QuantileLabel
	case (typ == model.MetricTypeHistogram || typ == model.MetricTypeGaugeHistogram) && name == family+"_bucket":
		return model.BucketLabel
	}
	return ""
}
