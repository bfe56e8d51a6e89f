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
	t := r.varint()
	flags := r.byte()
	if r.err != nil {
		return false, r.err
	}
	s, schema := d.sources[sourceID], d.schemas[schemaID]
	switch {
	case s == nil:
		return false, fmt.Errorf("source %d is not there", sourceID)
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
	s.readValues(r, first, end)
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
		d.columns -= len(s.columns)
		if !schema.extends(s.schema) {
			s.values, s.columns, s.starts, s.histograms, s.exemplars = s.values[:0], s.columns[:0], nil, nil, nil
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
		s.columns = growColumns(s.columns, n)
		if old := len(s.values); n > cap(s.values) {
			s.values = append(s.values, make([]float64, n-old)...)
		} else {
			s.values = s.values[:n]
			clear(s.values[old:])
		}
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

// readValues decodes the float columns of a range. A range of a partial row lists its columns in s.list.
func (s *decoderSource) readValues(r *reader, first, end int) {
	tokens := r.bytes()
	partial := s.flagsRow&rowPartial != 0
	floats := s.schema.schema.FloatsOnly()
	if partial {
		for range end - len(s.partial) {
			s.partial = append(s.partial, 0)
		}
	}
	// Where every column of the range has a token, those of unchanged ones are passed over together.
	dense := !partial && floats && s.allPresent
	var like int64
	run, way := 0, byte(0)
	for i := first; i < end; i++ {
		at := i
		if partial {
			at = int(s.list[i])
		} else if !s.allPresent && s.present[i>>6]&(1<<(i&63)) == 0 {
			continue
		}
		if !floats && s.schema.schema.Column(at).Kind != series.Float {
			continue
		}
		if run == 0 {
			if len(tokens) == 0 {
				r.failf("tokens end before column %d", at)
				return
			}
			way, run = tokens[0]>>5, int(tokens[0]&(maxRun-1))+1
			tokens = tokens[1:]
		}
		if dense && way == waySame {
			same := min(run, end-i)
			run, i = run-same, i+same-1
			continue
		}
		run--
		if way != waySame {
			s.values[at] = s.columns[at].decode(r, way, &like)
		}
		if partial {
			s.partial[i] = s.values[at]
		}
	}
	if r.err == nil && (run > 0 || len(tokens) > 0) {
		r.failf("%d columns too many in the tokens", run+len(tokens))
	}
}

// decode is the reverse of encode.
func (c *column) decode(r *reader, way byte, like *int64) float64 {
	switch way {
	case wayInt:
		c.power = int8(r.bounded(maxPower+1, "power of ten"))
		c.scaled, c.delta = r.varint(), 0
		if c.scaled <= -maxScaled || c.scaled >= maxScaled {
			r.failf("scaled integer %d is beyond 53 bits", c.scaled)
		}
		return c.set(unscale(c.scaled, c.power))
	case wayXOR:
		c.scaled, c.delta, c.power = 0, 0, powerNone
		return c.set(math.Float64frombits(c.bits ^ r.xor()))
	}
	if c.power == powerNone {
		r.failf("delta to a value that is not a scaled integer")
		return 0
	}
	switch way {
	case wayStep:
	case wayLike:
		c.delta = *like
	case wayDelta:
		c.delta = r.varint()
	case wayTurn:
		c.delta += r.varint()
	default:
		r.failf("unknown way %d", way)
		return 0
	}
	*like = c.delta
	if c.scaled += c.delta; c.scaled <= -maxScaled || c.scaled >= maxScaled {
		r.failf("scaled integer %d is beyond 53 bits", c.scaled)
	}
	return c.set(unscale(c.scaled, c.power))
}

func (c *column) set(v float64) float64 {
	c.bits = math.Float64bits(v)
	return v
}

// xor reads what appendXOR wrote.
func (r *reader) xor() uint64 {
	lead := r.byte()
	trailing, length := int(lead>>4), int(lead&15)
	if r.err != nil {
		return 0
	}
	if length == 0 || trailing+length > 8 || length > len(r.b) {
		r.failf("%d differing bytes at byte %d", length, trailing)
		return 0
	}
	var x uint64
	for i := length - 1; i >= 0; i-- {
		x = x<<8 | uint64(r.b[i])
	}
	if r.b[0] == 0 || r.b[length-1] == 0 {
		r.failf("differing bytes begin or end with 0")
		return 0
	}
	r.b = r.b[length:]
	return x << (8 * trailing)
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
