package frame

import (
	"fmt"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

func newSource(key string, ls labels.Labels, intervalMs uint64) *series.Source {
	return &series.Source{Key: key, Labels: ls, Interval: time.Duration(intervalMs) * time.Millisecond}
}

// rowHead is what a row block begins with, up to what tells its columns.
type rowHead struct {
	source *decoderSource
	schema *decoderSchema
	t      int64
	flags  byte
}

func (d *Decoder) readHead(r *reader) (h rowHead, err error) {
	if d.version == 1 {
		return d.readHead1(r)
	}
	id := d.nextRow + uint64(r.varint())
	d.nextRow = id + 1
	h.flags = r.byte()
	if h.source = d.sources[id]; r.err == nil && h.source == nil {
		return h, fmt.Errorf("source %d is not there", id)
	}
	if r.err != nil {
		return h, r.err
	}
	s := h.source
	h.schema, h.t = s.schema, s.row.T
	if s.next >= 0 {
		if h.flags&rowSchema != 0 {
			return h, s.unfinished()
		}
		return h, nil
	}
	if h.flags&rowSchema != 0 {
		schema := r.uvarint()
		if h.schema = d.schemas[schema]; r.err == nil && (h.schema == nil || h.schema.schema == nil) {
			return h, fmt.Errorf("schema %d is not there", schema)
		}
	}
	h.t = s.nextT + r.varint()
	s.nextT = h.t + intervalMs(s.source)
	return h, r.err
}

func (s *decoderSource) unfinished() error {
	return fmt.Errorf("source %q: a row begins before the one at %d is complete", s.source.Key, s.row.T)
}

// row applies a row block and hands the row out when it is complete.
func (d *Decoder) row(r *reader, h *Handler) (bool, error) {
	head, err := d.readHead(r)
	if err != nil {
		return false, err
	}
	s, schema, t, flags := head.source, head.schema, head.t, head.flags
	if flags&rowMore != 0 && flags&rowRange == 0 || flags&rowPartial != 0 && flags&rowPresence != 0 ||
		s.next < 0 && flags&(rowRange|rowMore) == rowRange {
		return false, fmt.Errorf("row has flags %#x, which exclude each other", flags)
	}
	if s.next < 0 {
		if err := d.beginRow(s, schema, t, flags); err != nil {
			return false, err
		}
	} else if flags&rowRange == 0 || s.flagsRow != flags&rowPartial {
		return false, s.unfinished()
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
			s.values, s.starts, s.histograms, s.exemplars, s.allPresent = s.values[:0], nil, nil, nil, true
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
		if !s.allPresent {
			s.present = growColumns(s.present, (n+63)/64)
			putRange(s.present, len(s.values), n, true)
		}
		s.values = growColumns(s.values, n)
		s.coded.resize(n, anew)
	}
	s.flagsRow, s.next = flags&rowPartial, 0
	if d.version == 1 {
		s.allPresent = true
	}
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
	}
	return first, end
}

func (s *decoderSource) readPresence(r *reader, first, end int) {
	n := s.schema.schema.Len()
	if s.allPresent {
		s.present = series.Bitmap(s.present, n)
		putRange(s.present, 0, n, true)
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
		putRange(s.present, i, i+run, present)
		if s.allPresent = run == n && present; i+run == end {
			return
		}
		i += run
	}
}

// putRange sets or clears the bits from first up to end.
func putRange(b []uint64, first, end int, to bool) {
	for base := first &^ 63; base < end; base += 64 {
		if b[base>>6] |= rangeAt(base, first, end); !to {
			b[base>>6] &^= rangeAt(base, first, end)
		}
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
