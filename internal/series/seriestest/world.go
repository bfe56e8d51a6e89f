package seriestest

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"

	"github.com/thalweg/thalweg/internal/series"
)

// Show renders everything that a row says, so that two rows can be compared bit for bit and a difference read.
func Show(r *series.Row) string {
	s := fmt.Appendf(nil, "%s %s %v t=%d whole=%t end=%t\n", r.Source.Key, r.Source.Labels, r.Source.Interval, r.T, r.Whole(), r.End)
	if r.End {
		return string(s)
	}
	for i, v := range r.Values {
		at := i
		if r.Columns != nil {
			at = int(r.Columns[i])
		} else if !r.Has(i) {
			continue
		}
		c := r.Schema.Column(at)
		s = fmt.Appendf(s, "%d %s %+v %s", at, c.Labels, c.Family, c.Kind)
		if c.Kind == series.Float {
			s = fmt.Appendf(s, " %016x", math.Float64bits(v))
		}
		s = append(s, '\n')
	}
	for _, h := range r.Histograms {
		if h.H != nil {
			s = fmt.Appendf(s, "h %d %d %+v\n", h.Column, h.H.CounterResetHint, *h.H)
		} else {
			s = fmt.Appendf(s, "fh %d %d %+v\n", h.Column, h.FH.CounterResetHint, *h.FH)
		}
	}
	for _, x := range r.Exemplars {
		s = fmt.Appendf(s, "x %d %s %016x %t %d\n", x.Column, x.Exemplar.Labels, math.Float64bits(x.Exemplar.Value), x.Exemplar.HasTs, x.Exemplar.Ts)
	}
	for _, x := range r.Starts {
		s = fmt.Appendf(s, "st %d %d\n", x.Column, x.Ms)
	}
	return string(s)
}

// World makes rows of all kinds, the way inputs do: schemas that grow, fork and are replaced, series that come and go,
// values of every kind.
type World struct {
	*rand.Rand
	Catalog *series.Catalog
	sources []*worldSource
	T       int64 // of the last row, in milliseconds
}

type worldSource struct {
	source *series.Source
	schema *series.Schema
	last   []float64
}

// New returns a world without sources.
func New(seed uint64) *World {
	return &World{Rand: rand.New(rand.NewPCG(seed, 1)), Catalog: series.NewCatalog(), T: 1_700_000_000_000}
}

func (w *World) column() series.Column {
	n := w.IntN(6)
	c := series.Column{Labels: labels.FromStrings("__name__", fmt.Sprintf("metric_%d", n), "code", fmt.Sprint(w.IntN(1000)), "ü", "a\nb")}
	if n%2 == 0 {
		c.Labels = labels.FromStrings("__name__", fmt.Sprintf("metric_%d", n), "path", fmt.Sprintf("/v%d", w.IntN(1000)))
	}
	if w.IntN(4) > 0 {
		c.Family = series.Family{Name: fmt.Sprintf("metric_%d", n), Type: model.MetricTypeCounter, Help: "Help\\ of " + fmt.Sprint(n), Unit: "s"}
	}
	switch w.IntN(8) {
	case 0:
		c.Kind = series.Histogram
	case 1:
		c.Kind = series.GaugeHistogram
	}
	return c
}

func (w *World) columns() []series.Column {
	cs := make([]series.Column, 1+w.IntN(40))
	for i := range cs {
		cs[i] = w.column()
	}
	return cs
}

func (w *World) value(last float64) float64 {
	switch w.IntN(14) {
	case 0:
		return math.Float64frombits(w.Uint64())
	case 1:
		return math.Float64frombits(value.StaleNaN)
	case 2:
		return math.Copysign(0, -1)
	case 3:
		return []float64{math.NaN(), math.Inf(1), math.Inf(-1), math.MaxFloat64, math.SmallestNonzeroFloat64, 1 << 53, -(1 << 53), 1<<53 - 1}[w.IntN(8)]
	case 4:
		return w.Float64()
	case 5, 6:
		return last + 15
	case 7:
		return last + float64(w.IntN(1000))
	case 8:
		return math.Round(w.Float64()*1000) / 1000
	}
	return last
}

func (w *World) histogramAt(c uint32) series.HistogramAt {
	buckets := 1 + w.IntN(3)
	h := histogram.Histogram{
		Schema: int32(w.IntN(5)), ZeroThreshold: 0.001, ZeroCount: uint64(w.IntN(9)), Sum: w.value(3),
		CounterResetHint: histogram.CounterResetHint(w.IntN(4)),
		PositiveSpans:    []histogram.Span{{Offset: int32(w.IntN(3)), Length: uint32(buckets)}},
		PositiveBuckets:  make([]int64, buckets),
	}
	total := h.ZeroCount
	current := int64(0)
	for i := range h.PositiveBuckets {
		next := int64(w.IntN(100))
		h.PositiveBuckets[i] = next - current
		current = next
		total += uint64(next)
	}
	h.Count = total
	if w.IntN(4) == 0 { // custom buckets
		h.Schema, h.ZeroThreshold, h.ZeroCount, h.Count = histogram.CustomBucketsSchema, 0, 0, total-h.ZeroCount
		h.PositiveSpans[0].Offset = 0
		for i := range buckets {
			h.CustomValues = append(h.CustomValues, float64(i)+0.5)
		}
	}
	if math.IsNaN(h.Sum) {
		h.Sum = 1.5
	}
	if w.IntN(2) == 0 {
		return series.HistogramAt{Column: c, H: &h}
	}
	return series.HistogramAt{Column: c, FH: h.ToFloat(nil)}
}

// Row makes the next row; it stays valid.
func (w *World) Row() *series.Row {
	w.T += int64(w.IntN(5000))
	if len(w.sources) == 0 || len(w.sources) < 12 && w.IntN(10) == 0 {
		w.sources = append(w.sources, &worldSource{
			source: &series.Source{Key: fmt.Sprintf("scrape/job/%d", w.Uint32()), Labels: labels.FromStrings("job", "job", "instance", fmt.Sprint(w.IntN(99)))},
			schema: w.Catalog.Extend(w.Catalog.Empty(), w.columns()),
		})
	}
	i := w.IntN(len(w.sources))
	s := w.sources[i]
	if w.IntN(40) == 0 {
		w.sources = append(w.sources[:i], w.sources[i+1:]...)
		return &series.Row{Source: s.source, Schema: s.schema, T: w.T, End: true}
	}
	switch w.IntN(12) {
	case 0:
		s.schema = w.Catalog.Extend(s.schema, w.columns())
	case 1: // another source's schema, shared or forked
		s.schema = w.sources[w.IntN(len(w.sources))].schema
		if w.IntN(2) == 0 && s.schema.Parent() != nil {
			s.schema = w.Catalog.Extend(s.schema.Parent(), w.columns())
		}
	case 2:
		s.schema = w.Catalog.Extend(w.Catalog.Empty(), w.columns())
	}
	n := s.schema.Len()
	for len(s.last) < n {
		s.last = append(s.last, 0)
	}
	row := &series.Row{Source: s.source, Schema: s.schema, T: w.T}
	for c := range n {
		if w.IntN(3) > 0 {
			s.last[c] = w.value(s.last[c])
		}
	}
	there := func(int) bool { return true }
	switch w.IntN(4) {
	case 0: // partial
		row.Columns = []uint32{}
		for c := range n {
			if w.IntN(4) == 0 {
				row.Columns = append(row.Columns, uint32(c))
				row.Values = append(row.Values, s.last[c])
			}
		}
		there = func(c int) bool {
			p := row.Place(uint32(c))
			return p < len(row.Columns) && row.Columns[p] == uint32(c)
		}
	case 1:
		row.Present = series.Bitmap(nil, n)
		for c := range n {
			if w.IntN(5) > 0 {
				series.SetBit(row.Present, c)
			}
		}
		there = row.Has
		fallthrough
	default:
		row.Values = append(row.Values, s.last[:n]...)
	}
	for c := range n {
		if !there(c) {
			continue
		}
		if s.schema.Column(c).Kind != series.Float {
			row.Histograms = append(row.Histograms, w.histogramAt(uint32(c)))
		}
		for w.IntN(10) == 0 {
			row.Exemplars = append(row.Exemplars, series.ExemplarAt{Column: uint32(c), Exemplar: exemplar.Exemplar{
				Labels: labels.FromStrings("trace_id", fmt.Sprint(w.IntN(3))), Value: float64(w.IntN(2)), HasTs: w.IntN(2) == 0, Ts: 0}})
			if x := &row.Exemplars[len(row.Exemplars)-1].Exemplar; x.HasTs {
				x.Ts = w.T - int64(w.IntN(2))
			}
		}
		if c%5 == 0 {
			row.Starts = append(row.Starts, series.StartAt{Column: uint32(c), Ms: 1_600_000_000_000 + int64(w.IntN(3)/2)})
		}
	}
	return row
}
