package store

import (
	"fmt"
	"math"
	"slices"
	"unicode/utf8"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"

	"github.com/thalweg/thalweg/internal/series"
)

// source is the last row of one source, or what partial rows have made of it, in flat memory by column number.
type source struct {
	site   *site
	origin *series.Source

	rank    Rank
	lastRow int64 // newest time of any row, in ms

	// All of the following are zero after the end of the source.
	base   *base
	schema *series.Schema
	index  *index
	slot   int // in index.sources

	time    int64   // of all columns, in ms, if times is nil
	times   []int64 // of each column, once a partial row was seen
	values  []float64
	present []uint64 // bitmap of the columns that are there

	// Few columns have these. An entry without its bit in present means nothing.
	histograms map[uint32]*nativeHistogram
	exemplars  map[uint32]exemplar.Exemplar
	starts     map[uint32]int64
}

// nativeHistogram is memory for both sorts of native histogram, used again from row to row.
type nativeHistogram struct {
	integer  histogram.Histogram
	float    histogram.FloatHistogram
	floating bool // float is the one
}

// columns is how many columns the source counts against its site's limit.
func (s *source) columns() int { return len(s.values) }

// churn is how many columns the source would have to take up anew with a schema.
func (s *source) churn(schema *series.Schema) int {
	switch {
	case s.schema == schema:
		return 0
	case s.schema != nil && schema.Extends(s.schema):
		return schema.Len() - s.columns()
	}
	return schema.Len()
}

// alive counts the series that are there.
func (s *source) alive() int { return series.CountBits(s.present, len(s.values)) }

func (s *source) has(column uint32) bool {
	return column < uint32(len(s.values)) && s.present[column>>6]&(1<<(column&63)) != 0
}

func (s *source) timeOf(column uint32) int64 {
	if s.times != nil {
		return s.times[column]
	}
	return s.time
}

// resize makes room for n columns; those that are new are absent.
func (s *source) resize(n int) {
	old := len(s.values)
	s.values = resized(s.values, n)
	s.present = resized(s.present, (n+63)/64)
	if s.times != nil {
		s.times = resized(s.times, n)
	}
	if n < old {
		trimBitmap(s.present, n)
	}
}

// resized returns b with n elements, zero where they are new. The first time it takes just what is needed: most
// schemas never grow again.
func resized[T any](b []T, n int) []T {
	if n > cap(b) {
		grown := make([]T, n, max(n, cap(b)+cap(b)/4))
		copy(grown, b)
		return grown
	}
	old := len(b)
	b = b[:n]
	if n > old {
		clear(b[old:])
	}
	return b
}

// trimBitmap clears what lies beyond the first n bits.
func trimBitmap(b []uint64, n int) {
	if rest := n & 63; rest != 0 {
		b[n>>6] &= 1<<rest - 1
	}
}

// store takes over what the row says. Its schema is the source's, and checkRow has accepted it.
func (s *source) store(row *series.Row) {
	if row.Whole() {
		s.storeWhole(row)
	} else {
		s.storePartial(row)
	}
	for i := range row.Histograms {
		s.storeHistogram(&row.Histograms[i])
	}
	for i := range row.Exemplars {
		s.storeExemplar(&row.Exemplars[i])
	}
	for _, at := range row.Starts {
		if s.starts == nil {
			s.starts = map[uint32]int64{}
		}
		s.starts[at.Column] = at.Ms
	}
}

func (s *source) storeWhole(row *series.Row) {
	copy(s.values, row.Values)
	if row.Present != nil {
		copy(s.present, row.Present)
	} else {
		for i := range s.present {
			s.present[i] = math.MaxUint64
		}
	}
	trimBitmap(s.present, len(s.values))
	s.time = row.T
	for i := range s.times {
		s.times[i] = row.T
	}
	clear(s.starts) // the row lists those of all columns
	// What has ended takes its extras along: a series that comes back is another one.
	for column := range s.histograms {
		if !s.has(column) {
			delete(s.histograms, column)
		}
	}
	for column := range s.exemplars {
		if !s.has(column) {
			delete(s.exemplars, column)
		}
	}
}

func (s *source) storePartial(row *series.Row) {
	if s.times == nil {
		s.times = make([]int64, len(s.values))
		for i := range s.times {
			s.times[i] = s.time
		}
	}
	for i, column := range row.Columns {
		v := row.Values[i]
		if value.IsStaleNaN(v) {
			s.endColumn(column)
			continue
		}
		s.values[column] = v
		s.times[column] = row.T
		series.SetBit(s.present, int(column))
	}
	s.time = row.T
}

func (s *source) endColumn(column uint32) {
	s.present[column>>6] &^= 1 << (column & 63)
	delete(s.histograms, column)
	delete(s.exemplars, column)
	delete(s.starts, column)
}

func (s *source) storeHistogram(at *series.HistogramAt) {
	if at.H != nil && value.IsStaleNaN(at.H.Sum) || at.FH != nil && value.IsStaleNaN(at.FH.Sum) {
		s.endColumn(at.Column)
		return
	}
	n := s.histograms[at.Column]
	if n == nil {
		if s.histograms == nil {
			s.histograms = map[uint32]*nativeHistogram{}
		}
		n = &nativeHistogram{}
		s.histograms[at.Column] = n
	}
	// CopyTo takes custom bounds by reference, which are the row's.
	if n.floating = at.FH != nil; n.floating {
		bounds := n.float.CustomValues
		at.FH.CopyTo(&n.float)
		n.float.CustomValues = keepBounds(bounds, at.FH.CustomValues)
	} else {
		bounds := n.integer.CustomValues
		at.H.CopyTo(&n.integer)
		n.integer.CustomValues = keepBounds(bounds, at.H.CustomValues)
	}
}

// keepBounds returns old if it says the same as bounds, else a copy of bounds.
func keepBounds(old, bounds []float64) []float64 {
	if slices.Equal(old, bounds) {
		return old
	}
	return slices.Clone(bounds)
}

func (s *source) storeExemplar(at *series.ExemplarAt) {
	e, old := at.Exemplar, s.exemplars[at.Column]
	if s.exemplars == nil {
		s.exemplars = map[uint32]exemplar.Exemplar{}
	}
	if labels.Equal(e.Labels, old.Labels) {
		e.Labels = old.Labels
	} else {
		e.Labels = e.Labels.Copy()
	}
	s.exemplars[at.Column] = e
}

// transfer moves what is stored to the columns of another schema that describe the same series, for partial rows say
// nothing about the others. A label may have moved between the columns and the source, which was origin before.
func (s *source) transfer(to *series.Schema, origin *series.Source) {
	from, old := s.schema, *s
	labelsIn := func(_ *series.Source, c *series.Column) labels.Labels { return c.Labels }
	if !labels.Equal(origin.Labels, s.origin.Labels) {
		b := labels.NewBuilder(labels.EmptyLabels())
		labelsIn = func(of *series.Source, c *series.Column) labels.Labels { return of.SeriesLabels(b, c) }
	}
	column := make(map[uint64]uint32, to.Len())
	for i := to.Len() - 1; i >= 0; i-- { // the first of equal ones stays, as in the index
		column[labelsIn(s.origin, to.Column(i)).Hash()] = uint32(i)
	}
	n := to.Len()
	s.values, s.present, s.times = make([]float64, n), make([]uint64, (n+63)/64), make([]int64, n)
	s.histograms, s.exemplars, s.starts = nil, nil, nil
	for i := range from.Columns() {
		c, was := from.Column(i), uint32(i)
		full := labelsIn(origin, c)
		is, ok := column[full.Hash()]
		if !ok || !old.has(was) || old.index.isHidden(i) {
			continue
		}
		if t := to.Column(int(is)); t.Kind != c.Kind || !labels.Equal(labelsIn(s.origin, t), full) {
			continue
		}
		s.values[is], s.times[is] = old.values[was], old.timeOf(was)
		series.SetBit(s.present, int(is))
		s.histograms = moved(s.histograms, is, old.histograms, was)
		s.exemplars = moved(s.exemplars, is, old.exemplars, was)
		s.starts = moved(s.starts, is, old.starts, was)
	}
}

// moved returns to with the entry of from, if there is one, under another column.
func moved[V any](to map[uint32]V, is uint32, from map[uint32]V, was uint32) map[uint32]V {
	v, ok := from[was]
	if !ok {
		return to
	}
	if to == nil {
		to = map[uint32]V{}
	}
	to[is] = v
	return to
}

// checkRow sees to it that no row can make the store read or write beyond its memory.
func checkRow(row *series.Row) error {
	if row.End {
		return nil
	}
	n := uint32(row.Schema.Len())
	switch {
	case row.Whole() && len(row.Values) != int(n):
		return refuse(ReasonInvalid, "%d values of %d series", len(row.Values), n)
	case row.Whole() && row.Present != nil && len(row.Present) != int(n+63)/64:
		return refuse(ReasonInvalid, "a bitmap of %d words for %d series", len(row.Present), n)
	case !row.Whole() && len(row.Values) != len(row.Columns):
		return refuse(ReasonInvalid, "%d values of %d columns", len(row.Values), len(row.Columns))
	}
	for _, c := range row.Columns {
		if c >= n {
			return refuse(ReasonInvalid, "column %d of %d", c, n)
		}
	}
	for _, at := range row.Histograms {
		if at.Column >= n || row.Schema.Column(int(at.Column)).Kind == series.Float || (at.H == nil) == (at.FH == nil) {
			return refuse(ReasonInvalid, "column %d of %d holds no histogram, or not one", at.Column, n)
		}
	}
	for _, at := range row.Exemplars {
		if at.Column >= n {
			return refuse(ReasonInvalid, "exemplar of column %d of %d", at.Column, n)
		}
	}
	for _, at := range row.Starts {
		if at.Column >= n {
			return refuse(ReasonInvalid, "start of column %d of %d", at.Column, n)
		}
	}
	return nil
}

// checkSourceLabels refuses labels that would make the answer to a reader something that no reader accepts.
func checkSourceLabels(ls labels.Labels) error {
	if ls.Has(model.MetricNameLabel) {
		return fmt.Errorf("the source has a metric name: %s", ls)
	}
	return checkLabels(ls)
}

// checkLabels reports the first label that is not valid, or not behind the one before it.
func checkLabels(ls labels.Labels) error {
	last := ""
	return ls.Validate(func(l labels.Label) error {
		switch {
		case l.Name <= last:
			return fmt.Errorf("label %q stands behind %q", l.Name, last)
		case !utf8.ValidString(l.Name) || !utf8.ValidString(l.Value):
			return fmt.Errorf("label %q=%q is not valid UTF-8", l.Name, l.Value)
		}
		last = l.Name
		return nil
	})
}
