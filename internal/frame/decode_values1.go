package frame

import (
	"math"

	"github.com/thalweg/thalweg/internal/series"
)

// valuesDecoder1 is the state of the float columns of a source in version 1.
type valuesDecoder1 struct{ columns []column1 }

func (c *valuesDecoder1) begin() { c.columns = c.columns[:0] }

func (c *valuesDecoder1) resize(n int, anew bool) {
	if anew {
		c.columns = c.columns[:0]
	}
	c.columns = growColumns(c.columns, n)
}

// readValues decodes the float columns of a range. A range of a partial row lists its columns in s.list.
func (c *valuesDecoder1) readValues(_ *Decoder, s *decoderSource, r *reader, first, end int) {
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
		if dense && way == waySame1 {
			same := min(run, end-i)
			run, i = run-same, i+same-1
			continue
		}
		run--
		if way != waySame1 {
			s.values[at] = c.columns[at].decode(r, way, &like)
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
func (c *column1) decode(r *reader, way byte, like *int64) float64 {
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
	case wayStep1:
	case wayLike1:
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

func (c *column1) set(v float64) float64 {
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
