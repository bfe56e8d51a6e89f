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

func staleMarker(column uint32, kind series.Kind, t int64) stamp {
	stale := math.Float64frombits(value.StaleNaN)
	if kind == series.Float {
		return stamp{t: t, column: column, v: stale}
	}
	h := &histogram.Histogram{Sum: stale}
	if kind == series.GaugeHistogram {
		h.CounterResetHint = histogram.GaugeType
	}
	return stamp{t: t, column: column, extra: &stampExtra{HistogramAt: series.HistogramAt{Column: column, H: h}}}
}

// noRound is the round of a body that is not there.
const noRound = math.MaxUint32

// finish makes the rows of the result from what was collected in a round.
func (p *Parser) finish(t int64, round uint32) {
	p.row = series.Row{
		Source:     p.options.Source,
		Schema:     p.known.whole.schema,
		T:          t,
		Values:     p.values,
		Histograms: p.histograms,
		Exemplars:  p.exemplars,
		Starts:     p.starts,
	}
	if w := p.known.whole; w.present < w.len() {
		p.present = w.presence(p.present, p.values, round)
		p.row.Present = p.present
	}
	slices.SortFunc(p.histograms, func(a, b series.HistogramAt) int { return cmp.Compare(a.Column, b.Column) })
	slices.SortStableFunc(p.exemplars, func(a, b series.ExemplarAt) int {
		return cmp.Or(cmp.Compare(a.Column, b.Column), exemplar.Compare(a.Exemplar, b.Exemplar))
	})
	slices.SortFunc(p.starts, func(a, b series.StartAt) int { return cmp.Compare(a.Column, b.Column) })
	p.result.Whole = &p.row

	stamps := 0
	for _, table := range p.known.stamped {
		stamps += len(table.stamps)
	}
	p.columns = slices.Grow(p.columns[:0], stamps)
	p.stamped = slices.Grow(p.stamped[:0], stamps)
	for _, table := range p.known.stamped {
		p.finishStamped(table)
	}
}

// finishStamped makes one partial row for each timestamp of a table. columns and stamped have room enough for it: rows
// are parts of them.
func (p *Parser) finishStamped(t *table) {
	slices.SortFunc(t.stamps, func(a, b stamp) int {
		return cmp.Or(cmp.Compare(a.t, b.t), cmp.Compare(a.column, b.column))
	})
	var row *series.Row
	for i := range t.stamps {
		s := &t.stamps[i]
		if row == nil || row.T != s.t {
			p.result.Stamped = append(p.result.Stamped, series.Row{Source: t.source, Schema: t.schema, T: s.t})
			row = &p.result.Stamped[len(p.result.Stamped)-1]
			n := len(p.columns)
			row.Columns, row.Values = p.columns[n:n], p.stamped[n:n]
		}
		p.columns = append(p.columns, s.column)
		p.stamped = append(p.stamped, s.v)
		row.Columns = row.Columns[:len(row.Columns)+1]
		row.Values = row.Values[:len(row.Values)+1]
		if s.extra == nil {
			continue
		}
		if s.extra.H != nil || s.extra.FH != nil {
			row.Histograms = append(row.Histograms, s.extra.HistogramAt)
		}
		if s.extra.start != 0 {
			row.Starts = append(row.Starts, series.StartAt{Column: s.column, Ms: s.extra.start})
		}
		slices.SortStableFunc(s.extra.exemplars, func(a, b series.ExemplarAt) int {
			return exemplar.Compare(a.Exemplar, b.Exemplar)
		})
		row.Exemplars = append(row.Exemplars, s.extra.exemplars...)
	}
}

// tidy drops what has been absent for too long. The result says which sources ended.
func (p *Parser) tidy(t int64) {
	k, compactAfter, endAfter := p.known, p.options.CompactAfter, p.options.EndAfter
	if k.crowded() {
		compactAfter, endAfter = 1, 1
	}
	k.expire(p.round, endAfter, func(gone *table) {
		p.result.Stamped = append(p.result.Stamped, endOf(gone, t))
	})
	k.compact(p.round, compactAfter, p.options.Catalog)
}

func endOf(t *table, at int64) series.Row {
	return series.Row{Source: t.source, Schema: t.schema, T: at, End: true}
}
