package expo

import (
	"cmp"
	"math"
	"slices"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/value"

	"github.com/thalweg/thalweg/internal/series"
)

// stamp is a sample of a stamped row.
type stamp struct {
	sample
	column    uint32
	schema    *series.Schema // of column, if that is not the schema the body has left behind
	start     int64
	exemplars []exemplar.Exemplar
}

// mark adds stale markers at t for the series with timestamps that were alive in old and that the current body does
// not have in now; nil stands for a body without any.
func (p *Parser) mark(old, now *table, t int64) {
	for i := range old.columns {
		c := &old.columns[i]
		if !c.alive || p.hasMoved(old, now, uint32(i)) {
			continue
		}
		c.alive, c.last = false, max(c.last, t)
		s := stamp{column: uint32(i), sample: sample{t: t, kind: old.column(uint32(i)).Kind}}
		if now != nil && now != old {
			s.schema = old.schema
		}
		switch stale := math.Float64frombits(value.StaleNaN); s.kind {
		case series.Float:
			s.v = stale
		case series.Histogram:
			s.h = &histogram.Histogram{Sum: stale}
		case series.GaugeHistogram:
			s.h = &histogram.Histogram{Sum: stale, CounterResetHint: histogram.GaugeType}
		}
		p.stamps = append(p.stamps, s)
	}
}

func (p *Parser) hasMoved(old, now *table, i uint32) bool {
	switch now {
	case nil:
		return false
	case old:
		return now.columns[i].moved == p.round
	}
	j, found := now.find(old.column(i).Labels)
	return found && now.columns[j].moved == p.round
}

// finish makes the rows of the result from what was collected.
func (p *Parser) finish(t int64) {
	n := p.known.whole.len()
	for len(p.present) < (n+63)/64 {
		p.present = append(p.present, 0)
	}
	p.row = series.Row{
		Source:     p.options.Source,
		Schema:     p.known.whole.schema,
		T:          t,
		Values:     p.values,
		Present:    p.present,
		Histograms: p.histograms,
		Exemplars:  p.exemplars,
		Starts:     p.starts,
	}
	if series.CountBits(p.present, n) == n {
		p.row.Present = nil
	}
	slices.SortFunc(p.histograms, func(a, b series.HistogramAt) int { return cmp.Compare(a.Column, b.Column) })
	slices.SortStableFunc(p.exemplars, func(a, b series.ExemplarAt) int { return cmp.Compare(a.Column, b.Column) })
	slices.SortFunc(p.starts, func(a, b series.StartAt) int { return cmp.Compare(a.Column, b.Column) })
	p.result.Whole = &p.row
	p.finishStamped()
}

// finishStamped makes one partial row for each timestamp. Markers in a schema that is left behind come first, so that
// the source changes its schema only once.
func (p *Parser) finishStamped() {
	slices.SortStableFunc(p.stamps, func(a, b stamp) int {
		return cmp.Or(
			cmp.Compare(order(a.schema), order(b.schema)),
			cmp.Compare(a.t, b.t),
			cmp.Compare(a.column, b.column),
		)
	})
	p.columns = slices.Grow(p.columns[:0], len(p.stamps))
	p.stamped = slices.Grow(p.stamped[:0], len(p.stamps))
	var row *series.Row
	for i := range p.stamps {
		s := &p.stamps[i]
		schema := cmp.Or(s.schema, p.known.stamped.schema)
		if row == nil || row.T != s.t || row.Schema != schema {
			p.result.Stamped = append(p.result.Stamped, series.Row{Source: p.stampedSource, Schema: schema, T: s.t})
			row = &p.result.Stamped[len(p.result.Stamped)-1]
			n := len(p.columns)
			row.Columns, row.Values = p.columns[n:n], p.stamped[n:n]
		}
		p.columns = append(p.columns, s.column)
		p.stamped = append(p.stamped, s.v)
		row.Columns = row.Columns[:len(row.Columns)+1]
		row.Values = row.Values[:len(row.Values)+1]
		if s.kind != series.Float {
			row.Histograms = append(row.Histograms, series.HistogramAt{Column: s.column, H: s.h, FH: s.fh})
		}
		if s.start != 0 {
			row.Starts = append(row.Starts, series.StartAt{Column: s.column, Ms: s.start})
		}
		for _, e := range s.exemplars {
			row.Exemplars = append(row.Exemplars, series.ExemplarAt{Column: s.column, Exemplar: e})
		}
	}
}

func order(left *series.Schema) int {
	if left != nil {
		return 0
	}
	return 1
}
