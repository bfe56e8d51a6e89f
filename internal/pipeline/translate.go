package pipeline

import (
	"cmp"
	"slices"
	"sort"

	"github.com/thalweg/thalweg/internal/series"
)

// move says where the columns of a row go.
type move struct {
	schema *series.Schema // on the way out
	to     []int32        // column in it, or dropped
	denied []uint64       // bitmap of columns that are left out all the same; nil: none
	// shuffled: to is not ascending.
	shuffled bool
}

// of returns where a column goes, or dropped.
func (m *move) of(column uint32) int32 {
	if m.denied != nil && m.denied[column>>6]&(1<<(column&63)) != 0 {
		return dropped
	}
	return m.to[column]
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

// translate returns a row with its columns elsewhere, or nil if nothing is left of a partial one. The result uses the
// memory of s and r. The exemplars of r may be those of s.
func (s *scratch) translate(r *series.Row, m move) *series.Row {
	s.row = *r
	s.row.Schema = m.schema
	if r.Whole() {
		s.whole(r, &m)
	} else if !s.partial(r, &m) {
		return nil
	}
	s.histograms, s.exemplars, s.starts = s.histograms[:0], s.exemplars[:0], s.starts[:0]
	for _, h := range r.Histograms {
		if to := m.of(h.Column); to != dropped {
			s.histograms = append(s.histograms, series.HistogramAt{Column: uint32(to), H: h.H, FH: h.FH})
		}
	}
	for _, e := range r.Exemplars {
		if to := m.of(e.Column); to != dropped {
			s.exemplars = append(s.exemplars, series.ExemplarAt{Column: uint32(to), Exemplar: e.Exemplar})
		}
	}
	for _, st := range r.Starts {
		if to := m.of(st.Column); to != dropped {
			s.starts = append(s.starts, series.StartAt{Column: uint32(to), Ms: st.Ms})
		}
	}
	if m.shuffled {
		s.sort()
	}
	s.row.Histograms, s.row.Exemplars, s.row.Starts = s.histograms, s.exemplars, s.starts
	return &s.row
}

func (s *scratch) whole(r *series.Row, m *move) {
	n := m.schema.Len()
	s.values = slices.Grow(s.values[:0], n)[:n]
	clear(s.values)
	s.row.Values = s.values
	if r.Present == nil && m.denied == nil {
		for i, to := range m.to {
			if to != dropped {
				s.values[to] = r.Values[i]
			}
		}
		return
	}
	s.present = series.Bitmap(s.present, n)
	for i := range m.to {
		if to := m.of(uint32(i)); to != dropped && r.Has(i) {
			s.values[to] = r.Values[i]
			series.SetBit(s.present, int(to))
		}
	}
	s.row.Present = s.present
}

func (s *scratch) partial(r *series.Row, m *move) bool {
	s.columns, s.values = s.columns[:0], s.values[:0]
	for i, column := range r.Columns {
		if to := m.of(column); to != dropped {
			s.columns = append(s.columns, uint32(to))
			s.values = append(s.values, r.Values[i])
		}
	}
	s.row.Columns, s.row.Values = s.columns, s.values
	return len(s.columns) > 0
}

// sort puts what was translated into the order of columns.
func (s *scratch) sort() {
	slices.SortFunc(s.histograms, func(a, b series.HistogramAt) int { return cmp.Compare(a.Column, b.Column) })
	slices.SortStableFunc(s.exemplars, func(a, b series.ExemplarAt) int { return cmp.Compare(a.Column, b.Column) })
	slices.SortFunc(s.starts, func(a, b series.StartAt) int { return cmp.Compare(a.Column, b.Column) })
	if s.row.Columns != nil {
		sort.Sort((*byColumn)(s))
	}
}

// byColumn sorts the samples of a partial row.
type byColumn scratch

func (s *byColumn) Len() int           { return len(s.columns) }
func (s *byColumn) Less(i, j int) bool { return s.columns[i] < s.columns[j] }
func (s *byColumn) Swap(i, j int) {
	s.columns[i], s.columns[j] = s.columns[j], s.columns[i]
	s.values[i], s.values[j] = s.values[j], s.values[i]
}
