package frame

import (
	"encoding/binary"
	"slices"

	"github.com/thalweg/thalweg/internal/series"
)

// worstColumn bounds the bytes that one column of a row takes: its value, its share of presence or list; worstStart
// those of its start timestamp.
const (
	worstColumn = worstValue + 5
	worstStart  = 15
)

// appendRow emits a row, in ranges of columns if it does not fit a block.
func (e *Encoder) appendRow(dst [][]byte, s *encoderSource, row *series.Row, now int64) [][]byte {
	n := len(row.Values)
	x := extras{histograms: row.Histograms, exemplars: row.Exemplars}
	for first := 0; ; {
		end, part := x.cut(row, first, n, e.cfg.MaxBody/2)
		flags := byte(0)
		if first > 0 || end < n {
			flags |= rowRange
		}
		if end < n {
			flags |= rowMore
		}
		dst = e.emit(dst, blockRow, e.encodeRange(s, row, first, end, flags, part), now)
		if first = end; first >= n {
			return dst
		}
	}
}

// extras is what is left of a row's sparse parts while it is cut into ranges.
type extras struct {
	histograms []series.HistogramAt
	exemplars  []series.ExemplarAt
}

// cut returns where a range that begins at place first ends so that its block stays below limit, and takes off x what
// belongs to it. A range has at least one place.
func (x *extras) cut(row *series.Row, first, n, limit int) (end int, part extras) {
	worst := worstColumn
	if len(row.Starts) > 0 {
		worst += worstStart
	}
	end = min(n, first+max(limit/worst, 1))
	size := (end - first) * worst
	for i := range x.histograms {
		place := row.Place(x.histograms[i].Column)
		if place >= end {
			break
		}
		if size += histogramSize(&x.histograms[i]); size > limit {
			end = max(place, first+1)
			break
		}
	}
	for i := range x.exemplars {
		place := row.Place(x.exemplars[i].Column)
		if place >= end {
			break
		}
		if size += exemplarSize(&x.exemplars[i]); size > limit {
			end = max(place, first+1)
			break
		}
	}
	h := 0
	for h < len(x.histograms) && row.Place(x.histograms[h].Column) < end {
		h++
	}
	m := 0
	for m < len(x.exemplars) && row.Place(x.exemplars[m].Column) < end {
		m++
	}
	part = extras{x.histograms[:h], x.exemplars[:m]}
	x.histograms, x.exemplars = x.histograms[h:], x.exemplars[m:]
	return end, part
}

// encodeRange writes the places first to end of a row: columns of a whole row, elements of the list of a partial one.
func (e *Encoder) encodeRange(s *encoderSource, row *series.Row, first, end int, flags byte, x extras) []byte {
	if row.Columns != nil {
		flags |= rowPartial
	} else if s.values.changesPresence(row, first, end) {
		flags |= rowPresence
	}
	if len(x.histograms) > 0 {
		flags |= rowHistograms
	}
	if len(x.exemplars) > 0 {
		flags |= rowExemplars
	}
	starts, changed := s.startsIn(row, first, end)
	if changed {
		flags |= rowStarts
	}
	p := s.values.appendHead(e.payload[:0], e, s.id, row, flags, first > 0)
	switch {
	case flags&rowPartial != 0:
		p = appendColumnList(p, row.Columns[first:end])
	case flags&rowRange != 0:
		p = binary.AppendUvarint(p, uint64(first))
		p = binary.AppendUvarint(p, uint64(end-first))
	}
	if flags&rowPresence != 0 {
		p = appendPresence(p, row.Present, first, end)
	}
	p = s.values.appendValues(p, e, row, first, end)
	if flags&rowHistograms != 0 {
		p = s.appendHistograms(p, x.histograms)
	}
	if flags&rowExemplars != 0 {
		p = s.appendExemplars(p, x.exemplars, row.T)
	}
	if flags&rowStarts != 0 {
		p = appendStarts(p, starts)
	}
	return p
}

func appendColumnList(dst []byte, columns []uint32) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(columns)))
	next := uint32(0)
	for _, c := range columns {
		dst = binary.AppendUvarint(dst, uint64(c-next))
		next = c + 1
	}
	return dst
}

// appendPresence writes the lengths of alternate runs of present and absent columns, the first of them present.
func appendPresence(dst []byte, present []uint64, first, end int) []byte {
	bit, start := uint64(1), first
	for i := first; i < end && present != nil; i++ {
		if present[i>>6]>>(i&63)&1 != bit {
			dst = binary.AppendUvarint(dst, uint64(i-start))
			bit, start = 1-bit, i
		}
	}
	return binary.AppendUvarint(dst, uint64(end-start))
}

// startsIn returns the start timestamps of the places first to end of a row, and whether they must be written: those of
// whole rows if they differ from the last row's, whose place they take; those of partial rows always.
func (s *encoderSource) startsIn(row *series.Row, first, end int) ([]series.StartAt, bool) {
	if row.Columns != nil {
		if first == end {
			return nil, false
		}
		from, to := startsIn(row.Starts, int(row.Columns[first]), int(row.Columns[end-1])+1)
		return row.Starts[from:to], to > from
	}
	from, to := startsIn(row.Starts, first, end)
	starts := row.Starts[from:to]
	from, to = startsIn(s.starts, first, end)
	if slices.Equal(s.starts[from:to], starts) {
		return nil, false
	}
	s.starts = slices.Replace(s.starts, from, to, starts...)
	return starts, true
}

func appendStarts(dst []byte, starts []series.StartAt) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(starts)))
	next, ms := uint32(0), int64(0)
	for _, s := range starts {
		dst = binary.AppendUvarint(dst, uint64(s.Column-next))
		dst = appendVarint(dst, s.Ms-ms)
		next, ms = s.Column+1, s.Ms
	}
	return dst
}
