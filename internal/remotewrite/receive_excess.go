package remotewrite

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/writeproto"
)

// Excess is an error of Commit: some of the samples are beyond a limit and refused for good, all others are durable.
type Excess struct{ Samples []ExcessSample } // at least one

// ExcessSample is one of a row that Commit was given.
type ExcessSample struct {
	Row    *series.Row
	Column uint32
	Limit  string // its name
}

func (e *Excess) Error() string {
	return fmt.Sprintf("%d samples are beyond limits, the first one beyond %q", len(e.Samples), e.Samples[0].Limit)
}

// exceed takes samples off the account that are refused after all. Their series are as they were: who sends them again
// has them refused again, or taken if there is room by then.
func (p *plan) exceed(e *Excess) {
	p.in.mu.Lock()
	defer p.in.mu.Unlock()
	known := make(map[*intakeSeries]*before, len(p.undo))
	for i := range p.undo {
		known[p.undo[i].series] = &p.undo[i]
	}
	for i := range e.Samples {
		s := &e.Samples[i]
		full := s.Row.Source.SeriesLabels(p.in.builder, s.Row.Schema.Column(int(s.Column)))
		if u := known[p.seriesOf(full)]; u != nil {
			u.series.last, u.series.bits = u.last, u.bits
		}
		s.leave(&p.written)
		p.refused.add(overLimit, 1, func() string { return "beyond the limit " + s.Limit + " for series " + full.String() })
	}
}

// seriesOf returns the series with the given labels; nil if there is none.
func (p *plan) seriesOf(full labels.Labels) *intakeSeries {
	p.labels = p.labels[:0]
	full.Range(func(l labels.Label) {
		p.labels = append(p.labels, writeproto.Label{Name: []byte(l.Name), Value: []byte(l.Value)})
	})
	p.key = writeproto.AppendKey(p.key[:0], p.labels)
	return p.in.findKey(writeproto.HashKey(p.in.seed, p.key), p.key)
}

// leave takes a sample, and its exemplars, off what was written.
func (s *ExcessSample) leave(c *count) {
	if _, ok := slices.BinarySearchFunc(s.Row.Histograms, s.Column, func(h series.HistogramAt, column uint32) int { return cmp.Compare(h.Column, column) }); ok {
		c.histograms--
	} else {
		c.samples--
	}
	first, _ := slices.BinarySearchFunc(s.Row.Exemplars, s.Column, func(x series.ExemplarAt, column uint32) int { return cmp.Compare(x.Column, column) })
	for _, x := range s.Row.Exemplars[first:] {
		if x.Column == s.Column && c.exemplars > 0 { // those that were held were counted when they came
			c.exemplars--
		}
	}
}
