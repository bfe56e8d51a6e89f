package pipeline

import (
	"sync"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// mapping is what the rules make of one source.
type mapping struct {
	mu     sync.Mutex // held while a row of the source is under way
	in     *series.Source
	source *series.Source // on the way out
	rules  *rules
	last   int64 // time of the newest row; guarded by Pipeline.mu

	schema *series.Schema // on the way in, as far as followed; nil at first
	out    *series.Schema
	to     []int32 // column on the way out, or dropped; nil while every column is passed on unchanged
}

const dropped = -1

func newMapping(in *series.Source, rules *rules) *mapping {
	m := &mapping{in: in, source: in, rules: rules}
	b := labels.NewBuilder(in.Labels)
	rules.addExternal(b)
	if l := b.Labels(); !labels.Equal(l, in.Labels) {
		m.source = &series.Source{Key: in.Key, Labels: l, Interval: in.Interval}
	}
	return m
}

// follow brings the mapping to the given schema. If that one grew from the schema before, only the new columns are
// looked at.
func (m *mapping) follow(schema *series.Schema, p *Pipeline) {
	if m.schema == schema {
		return
	}
	if m.schema == nil || !schema.Extends(m.schema) {
		m.schema, m.out, m.to = p.catalog.Empty(), p.catalog.Empty(), nil
	}
	var (
		start   = m.schema.Len()
		columns = schema.Columns()[start:]
		added   = make([]series.Column, 0, len(columns))
		seen    = m.collisions()
		b       = labels.NewBuilder(labels.EmptyLabels())
	)
	for i := range columns {
		c, reason := m.column(b, &columns[i])
		if reason == Pass && !seen.add(c.Labels) {
			reason = Collision
		}
		if m.to == nil && (reason != Pass || !c.Equal(&columns[i])) {
			m.to = identity(start + i)
		}
		to := int32(dropped)
		if reason == Pass {
			to = int32(m.out.Len() + len(added))
			added = append(added, c)
		} else {
			p.onDrop(reason)
		}
		if m.to != nil {
			m.to = append(m.to, to)
		}
	}
	if m.to == nil {
		m.out = schema
	} else {
		m.out = p.catalog.Extend(m.out, added)
	}
	m.schema = schema
}

// column returns the column on the way out for one on the way in.
func (m *mapping) column(b *labels.Builder, c *series.Column) (series.Column, Reason) {
	full := m.in.SeriesLabels(b, c)
	l, reason := m.rules.apply(b, full)
	if reason != Pass || m.source == m.in && labels.Equal(l, full) {
		return *c, reason
	}
	out := series.Column{Labels: series.Relative(l, m.source.Labels), Family: c.Family, Kind: c.Kind}
	if l.Get(model.MetricNameLabel) != full.Get(model.MetricNameLabel) {
		out.Family = series.Family{} // it describes the old name
	}
	return out, Pass
}

func identity(n int) []int32 {
	to := make([]int32, n)
	for i := range to {
		to[i] = int32(i)
	}
	return to
}

// collisions is the set of the labels that columns have on the way out. It is nil, and empty for ever, if the rules
// cannot merge series.
type collisions map[uint64][]labels.Labels

func (m *mapping) collisions() collisions {
	if !m.rules.merges() {
		return nil
	}
	c := make(collisions, m.out.Len())
	for i := range m.out.Len() {
		c.add(m.out.Column(i).Labels)
	}
	return c
}

// add reports whether the labels were not there yet.
func (c collisions) add(l labels.Labels) bool {
	if c == nil {
		return true
	}
	hash := l.Hash()
	for _, other := range c[hash] {
		if labels.Equal(other, l) {
			return false
		}
	}
	c[hash] = append(c[hash], l)
	return true
}

// scratch is the memory of a row on the way out.
type scratch struct {
	row        series.Row
	columns    []uint32
	present    []uint64
	values     []float64
	histograms []series.HistogramAt
	exemplars  []series.ExemplarAt
	starts     []series.StartAt
}

// translate returns what is left of r, or nil if that is nothing. The result uses the memory of s and r.
func (s *scratch) translate(r *series.Row, m *mapping) *series.Row {
	s.row = *r
	s.row.Source, s.row.Schema = m.source, m.out
	if m.to == nil || r.End {
		return &s.row
	}
	if r.Whole() {
		s.whole(r, m)
	} else if !s.partial(r, m) {
		return nil
	}
	// Columns keep their order on the way, so that the extras stay sorted.
	s.histograms, s.exemplars, s.starts = s.histograms[:0], s.exemplars[:0], s.starts[:0]
	for _, h := range r.Histograms {
		if to := m.to[h.Column]; to != dropped {
			s.histograms = append(s.histograms, series.HistogramAt{Column: uint32(to), H: h.H, FH: h.FH})
		}
	}
	for _, e := range r.Exemplars {
		if to := m.to[e.Column]; to != dropped {
			s.exemplars = append(s.exemplars, series.ExemplarAt{Column: uint32(to), Exemplar: e.Exemplar})
		}
	}
	for _, st := range r.Starts {
		if to := m.to[st.Column]; to != dropped {
			s.starts = append(s.starts, series.StartAt{Column: uint32(to), Ms: st.Ms})
		}
	}
	s.row.Histograms, s.row.Exemplars, s.row.Starts = s.histograms, s.exemplars, s.starts
	return &s.row
}

func (s *scratch) whole(r *series.Row, m *mapping) {
	n := m.out.Len()
	s.values = append(s.values[:0], make([]float64, n)...)
	for i, to := range m.to {
		if to != dropped {
			s.values[to] = r.Values[i]
		}
	}
	s.row.Values = s.values
	if r.Present == nil {
		return
	}
	s.present = series.Bitmap(s.present, n)
	for i, to := range m.to {
		if to != dropped && r.Has(i) {
			series.SetBit(s.present, int(to))
		}
	}
	s.row.Present = s.present
}

func (s *scratch) partial(r *series.Row, m *mapping) bool {
	s.columns, s.values = s.columns[:0], s.values[:0]
	for i, column := range r.Columns {
		if to := m.to[column]; to != dropped {
			s.columns = append(s.columns, uint32(to))
			s.values = append(s.values, r.Values[i])
		}
	}
	s.row.Columns, s.row.Values = s.columns, s.values
	return len(s.columns) > 0
}
