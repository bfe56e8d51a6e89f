package frame

import (
	"encoding/binary"
	"math"
	"math/bits"

	"github.com/thalweg/thalweg/internal/series"
)

// valuesEncoder1 writes the float columns of a source in version 1.
type valuesEncoder1 struct{ columns []column1 }

func (s *valuesEncoder1) begin() { s.columns = s.columns[:0] }

func (s *valuesEncoder1) resize(n int, anew bool) {
	if anew {
		s.columns = s.columns[:0]
	}
	s.columns = growColumns(s.columns, n)
}

func (s *valuesEncoder1) count() int { return len(s.columns) }

func (s *valuesEncoder1) changesPresence(row *series.Row, _, _ int) bool { return row.Present != nil }

func (s *valuesEncoder1) appendHead(dst []byte, e *Encoder, id uint64, row *series.Row, flags byte, _ bool) []byte {
	dst = binary.AppendUvarint(dst, id)
	dst = binary.AppendUvarint(dst, e.schemas[row.Schema])
	return append(appendVarint(dst, row.T), flags)
}

// appendValues codes the float columns of a range: tokens first, then what they need.
func (s *valuesEncoder1) appendValues(dst []byte, e *Encoder, row *series.Row, first, end int) []byte {
	tokens, residue := e.tokens[:0], e.residue[:0]
	var (
		run  byte // 0: none yet
		way  byte
		like int64 // delta of the last column that has one
	)
	floats := row.Schema.FloatsOnly()
	for i := first; i < end; i++ {
		at := i
		if row.Columns != nil {
			at = int(row.Columns[i])
		} else if !row.Has(i) {
			continue
		}
		if !floats && row.Schema.Column(at).Kind != series.Float {
			continue
		}
		var w byte
		if c := &s.columns[at]; math.Float64bits(row.Values[i]) != c.bits {
			w, residue = c.encode(residue, row.Values[i], &like)
		}
		if w == way && run > 0 && run < maxRun {
			run++
			continue
		}
		if run > 0 {
			tokens = append(tokens, way<<5|(run-1))
		}
		way, run = w, 1
	}
	if run > 0 {
		tokens = append(tokens, way<<5|(run-1))
	}
	e.tokens, e.residue = tokens, residue
	dst = binary.AppendUvarint(dst, uint64(len(tokens)))
	dst = append(dst, tokens...)
	return append(dst, residue...)
}

// encode chooses the way to a value that differs from the last one, appends what the way needs, and brings the state
// forward.
func (c *column1) encode(dst []byte, v float64, like *int64) (byte, []byte) {
	last := c.bits
	c.bits = math.Float64bits(v)
	if c.power != powerNone {
		if scaled, ok := scale(v, c.power); ok {
			delta, before := scaled-c.scaled, c.delta
			c.scaled, c.delta = scaled, delta
			match := *like
			*like = delta
			switch {
			case delta == before:
				return wayStep1, dst
			case delta == match:
				return wayLike1, dst
			case abs(delta-before) < abs(delta):
				return wayTurn, appendVarint(dst, delta-before)
			}
			return wayDelta, appendVarint(dst, delta)
		}
	}
	if scaled, power, ok := scaleAny(v); ok {
		c.scaled, c.delta, c.power = scaled, 0, power
		return wayInt, appendVarint(append(dst, byte(power)), scaled)
	}
	c.scaled, c.delta, c.power = 0, 0, powerNone
	return wayXOR, appendXOR(dst, last^c.bits)
}

// appendXOR writes non-zero bits without their trailing and leading zero bytes.
func appendXOR(dst []byte, x uint64) []byte {
	trailing := bits.TrailingZeros64(x) / 8
	x >>= 8 * trailing
	length := (bits.Len64(x) + 7) / 8
	dst = append(dst, byte(trailing<<4|length))
	for range length {
		dst = append(dst, byte(x))
		x >>= 8
	}
	return dst
}
