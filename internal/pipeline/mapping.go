package pipeline

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"

	"github.com/thalweg/thalweg/internal/series"
)

// mapping is what the rules make of one source.
type mapping struct {
	mu     sync.Mutex // held while a row of the source is under way
	gone   bool       // it was thrown away; another one stands in its place
	in     *series.Source
	source *series.Source // on the way out
	rules  *rules
	gate   gate

	// When the newest row came, and how long after it the source counts as silent; guarded by Pipeline.mu.
	last     int64
	patience time.Duration

	schema *series.Schema // on the way in, as far as followed
	out    *series.Schema
	to     []int32           // column on the way out, or dropped; nil while none is
	other  bool              // some columns are passed on with other labels
	lost   map[uint32]Reason // columns on the way in that are dropped although they are wanted; nil while none is
}

const dropped = -1

// begin forgets everything but what the gate has counted: the source, or the rules and limits, are others.
func (m *mapping) begin(in *series.Source, rules *rules, c *series.Catalog) {
	if m.source == nil || m.in.Key != in.Key || !rules.changes() {
		m.source = in
	}
	m.in, m.rules = in, rules
	m.gate.key, m.gate.crowded = keyHash(in.Key), true
	m.schema, m.out, m.to, m.other, m.lost = c.Empty(), c.Empty(), nil, false, nil
}

// verdict is what the rules say of one column.
type verdict struct {
	labels labels.Labels // of the series on the way out
	reason Reason
}

// follow brings the mapping to the given schema. If that one grew from the schema before, only the new columns are
// looked at.
func (m *mapping) follow(schema *series.Schema, p *Pipeline) {
	if m.schema == schema {
		return
	}
	if !schema.Extends(m.schema) {
		m.schema, m.out, m.to, m.other, m.lost = p.catalog.Empty(), p.catalog.Empty(), nil, false, nil
	}
	start := m.schema.Len()
	columns := schema.Columns()[start:]
	verdicts := m.judge(columns)
	if m.out.Len() == 0 {
		m.setSource(verdicts)
	}
	added := make([]series.Column, 0, len(columns))
	seen := m.collisions()
	for i := range columns {
		v := &verdicts[i]
		c := columns[i]
		if v.reason == Pass {
			if c = m.column(&columns[i], v.labels); !seen.add(c.Labels) {
				v.reason = Collision
			}
		}
		if m.to == nil && v.reason != Pass {
			m.to = identity(start + i)
		}
		m.other = m.other || !c.Equal(&columns[i])
		to := int32(dropped)
		if v.reason == Pass {
			to = int32(m.out.Len() + len(added))
			added = append(added, c)
		} else {
			p.drop(v.reason, columns[i].Labels.Get(model.MetricNameLabel))
			if v.reason.loses() {
				if m.lost == nil {
					m.lost = map[uint32]Reason{}
				}
				m.lost[uint32(start+i)] = v.reason
			}
		}
		if m.to != nil {
			m.to = append(m.to, to)
		}
	}
	if m.to == nil && !m.other {
		m.out = schema
	} else {
		m.out = p.catalog.Extend(m.out, added)
	}
	m.schema = schema
}

// judge applies the rules to the series of columns.
func (m *mapping) judge(columns []series.Column) []verdict {
	verdicts := make([]verdict, len(columns))
	full, b := labels.NewBuilder(labels.EmptyLabels()), labels.NewBuilder(labels.EmptyLabels())
	for i := range columns {
		v := &verdicts[i]
		v.labels, v.reason = m.rules.apply(b, m.in.SeriesLabels(full, &columns[i]))
	}
	return verdicts
}

// setSource works out what all series that pass have in common of the source's labels and the external ones. What
// relabelling takes from all series must not leave the site with their source.
func (m *mapping) setSource(verdicts []verdict) {
	if !m.rules.changes() {
		return
	}
	var common []labels.Label
	first := true
	for i := range verdicts {
		v := &verdicts[i]
		switch {
		case v.reason != Pass:
		case first:
			first = false
			v.labels.Range(func(l labels.Label) {
				if m.in.Labels.Has(l.Name) || m.rules.external.Has(l.Name) {
					common = append(common, l)
				}
			})
		default:
			common = slices.DeleteFunc(common, func(l labels.Label) bool { return v.labels.Get(l.Name) != l.Value })
		}
	}
	if first {
		return // nothing passes
	}
	out := series.Source{Key: m.in.Key, Labels: labels.New(common...), Interval: m.in.Interval}
	if m.rules.anonymize != nil {
		out.Key = m.rules.anonymize.SourceKey(m.in.Key)
	}
	same := func(s *series.Source) bool {
		return s.Key == out.Key && s.Interval == out.Interval && labels.Equal(s.Labels, out.Labels)
	}
	switch {
	case same(m.in):
		m.source = m.in
	case !same(m.source):
		m.source = &out
	}
}

// column returns the column on the way out of a series with the given labels, for the one on the way in.
func (m *mapping) column(c *series.Column, l labels.Labels) series.Column {
	if m.source == m.in && !m.rules.changes() {
		return *c
	}
	out := series.Column{Labels: series.Relative(l, m.source.Labels), Family: c.Family, Kind: c.Kind}
	if l.Get(model.MetricNameLabel) != c.Labels.Get(model.MetricNameLabel) {
		out.Family = series.Family{} // it describes the old name
	}
	return out
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
	if !m.rules.changes() {
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

// tell says which samples of a row that was applied are lost.
func (m *mapping) tell(r *series.Row, l *limiter, refused Refused) {
	if m.lost == nil && m.gate.held == 0 {
		return
	}
	l.mu.Lock()
	full := cmp.Or(l.full(m.gate.alive), OverNew)
	l.mu.Unlock()
	eachSample(r, func(column uint32) {
		to := int32(column)
		if m.to != nil {
			to = m.to[column]
		}
		if to == dropped {
			if why := m.lost[column]; why != Pass {
				refused(r, column, why)
			}
		} else if m.gate.held > 0 && m.gate.denied[to>>6]&(1<<(to&63)) != 0 {
			refused(r, column, full)
		}
	})
}

// eachSample calls f with the columns that a row has, but for those that it ends.
func eachSample(r *series.Row, f func(column uint32)) {
	histograms := r.Histograms
	for i, v := range r.Values {
		column := uint32(i)
		if !r.Whole() {
			column = r.Columns[i]
		} else if !r.Has(i) {
			continue
		}
		for len(histograms) > 0 && histograms[0].Column < column {
			histograms = histograms[1:]
		}
		if !value.IsStaleNaN(v) && (len(histograms) == 0 || histograms[0].Column != column || !staleHistogram(&histograms[0])) {
			f(column)
		}
	}
}

// apply returns what the rules leave of a row, or nil if that is nothing. The result may use the memory of r and s.
func (m *mapping) apply(r *series.Row, s *scratch) *series.Row {
	switch {
	case m.to != nil && m.out.Len() == 0:
		return nil
	case m.to != nil && !r.End:
		r = s.translate(r, move{schema: m.out, to: m.to})
	}
	a := m.rules.anonymize
	if r == nil || m.out == r.Schema && m.source == r.Source && (a == nil || len(r.Exemplars) == 0) {
		return r
	}
	if r != &s.row {
		s.row = *r
		r = &s.row
	}
	r.Source, r.Schema = m.source, m.out
	if a != nil {
		s.exemplars = append(s.exemplars[:0], r.Exemplars...)
		for i := range s.exemplars {
			s.exemplars[i].Exemplar = a.exemplar(s.exemplars[i].Exemplar, m.rules.seen)
		}
		r.Exemplars = s.exemplars
	}
	return r
}
