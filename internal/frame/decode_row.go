package frame

import (
	"fmt"
	"math"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

func newSource(key string, ls labels.Labels, intervalMs uint64) *series.Source {
	return &series.Source{Key: key, Labels: ls, Interval: time.Duration(intervalMs) * time.Millisecond}
}

// row applies a row block and hands the row out when it is complete.
func (d *Decoder) row(r *reader, h *Handler) (bool, error) {
	sourceID, schemaID := r.uvarint(), r.uvarint()
	if r.err != nil {
		return false, r.err
	}
	s, schema := d.sources[sourceID], d.schemas[schemaID]
	if s == nil {
		return false, fmt.Errorf("source %d is not there", sourceID)
	}
	t := s.coded.readTime(r)
	flags := r.byte()
	if r.err != nil {
		return false, r.err
	}
	switch {
	case schema == nil || schema.schema == nil:
		return false, fmt.Errorf("schema %d is not there", schemaID)
	case flags&^rowKnown != 0:
		return false, fmt.Errorf("row has flags %#x", flags)
	case flags&rowMore != 0 && flags&rowRange == 0, flags&rowPartial != 0 && flags&rowPresence != 0,
		s.next < 0 && flags&(rowRange|rowMore) == rowRange:
		return false, fmt.Errorf("row has flags %#x, which exclude each other", flags)
	}
	if s.next < 0 {
		if err := d.beginRow(s, schema, t, flags); err != nil {
			return false, err
		}
	} else if flags&rowRange == 0 || s.schema != schema || s.row.T != t || s.flagsRow != flags&rowPartial {
		return false, fmt.Errorf("source %q: a row begins before the one at %d is complete", s.source.Key, s.row.T)
	}
	first, end := s.readRange(r, flags)
	if r.err != nil {
		return false, r.err
	}
	if err := d.touch(end - first); err != nil {
		return false, err
	}
	s.coded.readValues(d, s, r, first, end)
	if flags&rowHistograms != 0 {
		s.readHistograms(r, first, end)
	}
	if flags&rowExemplars != 0 {
		s.readExemplars(r, first, end, &d.builder)
	}
	if flags&rowStarts != 0 {
		s.readStarts(r, first, end)
	}
	if r.err != nil {
		return false, r.err
	}
	s.next = end
	if flags&rowMore != 0 {
		return false, nil
	}
	if flags&rowPartial == 0 && end != s.schema.schema.Len() {
		return false, fmt.Errorf("row of source %q ends at column %d of %d", s.source.Key, end, s.schema.schema.Len())
	}
	s.next = -1
	if h.Row != nil {
		h.Row(s.finish())
	}
	return true, nil
}

// beginRow brings a source's state to the schema of a row.
func (d *Decoder) beginRow(s *decoderSource, schema *decoderSchema, t int64, flags byte) error {
	if s.schema != schema {
		d.columns -= len(s.values)
		anew := !schema.extends(s.schema)
		if anew {
			s.values, s.starts, s.histograms, s.exemplars = s.values[:0], nil, nil, nil
			d.room.left += s.extra
			s.extra, s.row.Exemplars = 0, nil
		}
		n := schema.schema.Len()
		if d.columns += n; d.columns > d.cfg.MaxColumns {
			return &LimitError{"columns", d.cfg.MaxColumns}
		}
		if err := d.touch(n); err != nil {
			return err
		}
		s.schema = schema
		s.values = growColumns(s.values, n)
		s.coded.resize(n, anew)
	}
	s.flagsRow, s.next = flags&rowPartial, 0
	s.allPresent = true
	s.list, s.partial = s.list[:0], s.partial[:0]
	s.row = series.Row{
		Source: s.source, Schema: schema.schema, T: t,
		Histograms: s.row.Histograms[:0], Exemplars: s.row.Exemplars[:0],
	}
	return nil
}

// readRange reads which places of the row a block covers: columns of a whole row, elements of the list of a partial
// one.
func (s *decoderSource) readRange(r *reader, flags byte) (first, end int) {
	n := s.schema.schema.Len()
	first, end = s.next, n
	if flags&rowPartial != 0 {
		count := r.count(1)
		if count == 0 && flags&rowRange != 0 {
			r.failf("empty range")
		}
		least := 0 // every block of a row begins its list anew, above the last
		for range count {
			c := r.column(least, n)
			if len(s.list) > 0 && c <= int(s.list[len(s.list)-1]) {
				r.failf("column %d listed after %d", c, s.list[len(s.list)-1])
			}
			if r.err != nil {
				return 0, 0
			}
			s.list = append(s.list, uint32(c))
			least = c + 1
		}
		return first, len(s.list)
	}
	if flags&rowRange != 0 {
		if from := r.bounded(n+1, "first column"); r.err == nil && from != first {
			r.failf("range begins at column %d, the last one ended at %d", from, first)
		}
		end = first + r.bounded(n-first+1, "column count")
		if r.err == nil && end == first {
			r.failf("empty range")
		}
	}
	if r.err != nil {
		return 0, 0
	}
	if flags&rowPresence != 0 {
		s.readPresence(r, first, end)
	} else if !s.allPresent {
		setRange(s.present, first, end)
	}
	return first, end
}

func (s *decoderSource) readPresence(r *reader, first, end int) {
	if s.allPresent {
		s.allPresent = false
		s.present = series.Bitmap(s.present, s.schema.schema.Len())
		setRange(s.present, 0, first)
	}
	present := true
	for i := first; ; present = !present {
		run := r.bounded(end-i+1, "run of columns")
		if run == 0 && (i > first || !present) {
			r.failf("empty run of columns")
		}
		if r.err != nil {
			return
		}
		if present {
			setRange(s.present, i, i+run)
		}
		if i += run; i == end {
			return
		}
	}
}

// setRange sets the bits from first up to end.
func setRange(b []uint64, first, end int) {
	for i := first; i < end; {
		if i&63 == 0 && end-i >= 64 {
			b[i>>6] = math.MaxUint64
			i += 64
			continue
		}
		series.SetBit(b, i)
		i++
	}
}

// finish makes the row of a complete state.
func (s *decoderSource) finish() *series.Row {
	row := &s.row
	if s.flagsRow&rowPartial != 0 {
		row.Columns, row.Values = s.list, s.partial
		if row.Columns == nil {
			row.Columns = []uint32{}
		}
		return row
	}
	row.Values = s.values
	row.Starts = s.starts
	if !s.allPresent {
		row.Present = s.present
	}
	return row
}
