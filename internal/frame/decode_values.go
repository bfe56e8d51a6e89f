package frame

import (
	"encoding/binary"
	"math"
	"math/bits"

	"github.com/thalweg/thalweg/internal/series"
)

// valuesDecoder is the state of the float columns of a source.
type valuesDecoder struct {
	columns []column
	active  columnSet // those that are not expected to stay the same
	lastT   int64
}

func (s *valuesDecoder) begin() {
	s.columns, s.active, s.lastT = s.columns[:0], s.active[:0], 0
}

func (s *valuesDecoder) resize(n int, anew bool) {
	if anew {
		s.columns, s.active = s.columns[:0], s.active[:0]
	}
	s.columns, s.active = growColumns(s.columns, n), growColumns(s.active, (n+63)/64)
}

// readTime reads a row's time; the parts of a row have the same.
func (s *valuesDecoder) readTime(r *reader) int64 {
	s.lastT += r.varint()
	return s.lastT
}

// rowReader is a range of a row that is being decoded.
type rowReader struct {
	tokens, bits bitReader
	sets         *reader
	gaps         gaps
	gap          uint64 // columns until the next token
	like         int64
}

func (w *rowReader) nextGap() {
	w.gap = w.tokens.number(w.gaps.k())
	w.gaps.add(w.gap)
}

func (w *rowReader) token(from way) way {
	if w.tokens.take(1) == 1 {
		w.gaps.next[from] = way(w.tokens.take(3))
	}
	return w.gaps.next[from]
}

// readValues decodes the float columns of a range.
func (v *valuesDecoder) readValues(d *Decoder, s *decoderSource, r *reader, first, end int) {
	size := r.bounded(len(d.bits)+1, "size of tokens")
	w := rowReader{tokens: bitReader{b: d.bits}, bits: bitReader{b: d.bits[size:]}, sets: r, gaps: newGaps()}
	w.nextGap()
	if s.flagsRow&rowPartial != 0 {
		v.readList(&w, s, first, end)
	} else {
		v.readWhole(&w, s, first, end)
	}
	if rest, ok := w.tokens.end(); r.err == nil && (w.gap > 0 || !ok || len(d.bits)-len(rest) != size) {
		r.failf("tokens do not end with the columns")
	}
	rest, ok := w.bits.end()
	if r.err == nil && !ok {
		r.failf("bits end before the columns")
	}
	d.bits = rest
}

// readList decodes the columns that a partial row lists.
func (v *valuesDecoder) readList(w *rowReader, s *decoderSource, first, end int) {
	s.partial = growColumns(s.partial, end)
	floats := s.schema.schema.FloatsOnly()
	for i := first; i < end && w.sets.err == nil; i++ {
		at := int(s.list[i])
		if !floats && s.schema.schema.Column(at).Kind != series.Float {
			continue
		}
		if w.gap > 0 {
			w.gap--
			v.columns[at].decode(w, v.columns[at].way, &s.values[at])
		} else {
			v.readToken(w, at, &s.values[at])
		}
		s.partial[i] = s.values[at]
	}
}

// readToken decodes the column at a token.
func (v *valuesDecoder) readToken(w *rowReader, at int, value *float64) {
	c := &v.columns[at]
	as := w.token(c.way)
	near := c.decode(w, as, value)
	c.way = after(as, near)
	v.active.put(at, c.way != waySame)
	w.nextGap()
}

// readWhole decodes a range of a whole row, 64 columns at a time: of those that go their expected way only the active
// ones are looked at.
func (v *valuesDecoder) readWhole(w *rowReader, s *decoderSource, first, end int) {
	present := s.present
	if s.allPresent {
		present = nil
	}
	for base := first &^ 63; base < end && w.sets.err == nil; base += 64 {
		left := floatsAt(s.schema.schema, present, base, first, end)
		columns, values := v.columns[base:min(base+64, len(v.columns))], s.values[base:]
		values = values[:len(columns)]
		for {
			n := uint64(bits.OnesCount64(left))
			if w.gap >= n {
				w.gap -= n
				w.readActive(v.active[base>>6]&left, columns, values)
				break
			}
			at := nth(left, uint(w.gap))
			w.readActive(v.active[base>>6]&left&(1<<(at&63)-1), columns, values)
			v.readToken(w, base+int(at), &values[at])
			left &= ^uint64(1) << (at & 63)
		}
	}
}

// readActive decodes the columns of the set, each of which goes its expected way. It is where a hub spends its time:
// numbers of columns that are not new are read here, all else by decode.
func (w *rowReader) readActive(set uint64, columns []column, values []float64) {
	b, at, like := w.bits.b, w.bits.at, w.like
	for ; set != 0; set &= set - 1 {
		i := bits.TrailingZeros64(set)
		if i >= len(columns) || i >= len(values) {
			break
		}
		c, value := &columns[i], &values[i]
		if from := int(at >> 3); (c.way == wayCode || c.way == wayMaybe) && c.age == settled && c.power < powerBits && from+8 <= len(b) {
			field, began := binary.LittleEndian.Uint64(b[from:])>>(at&7), at
			if c.way == wayMaybe {
				if at++; field&1 == 0 {
					continue
				}
				field >>= 1
			}
			if u, size := shortNumber(field, c.k()); size <= maxShort {
				at += size
				// Nothing overflows, as it might in step: where d is too large, so is scaled.
				d := c.expected() + unzigzag(u)
				c.scaled += d
				c.trend += (d<<4 - c.trend) >> settled
				c.spread += uint64(int64(u<<4-c.spread) >> 1)
				if d != 0 {
					like = d
				}
				*value = float64(c.scaled<<(c.shift&63)) / powers[c.power&modePower]
				if !c.fits(c.scaled) {
					c.fail(w)
				}
				continue
			}
			at = began
		}
		w.bits.at, w.like = at, like
		c.decode(w, c.way, value)
		at, like = w.bits.at, w.like
	}
	w.bits.at, w.like = at, like
}

// decode is the reverse of encode. It reports whether the value is not that of its integer.
func (c *column) decode(w *rowReader, as way, value *float64) (near bool) {
	switch as {
	case waySame:
		return false
	case waySet:
		return c.decodeSet(w, value)
	case wayScale:
		if c.decodeScale(w.sets); w.sets.err != nil {
			return false
		}
	case wayMaybe, wayMaybeNear:
		if w.bits.take(1) == 0 {
			return false
		}
	}
	var ok bool
	if as == wayLike {
		ok = c.take(w.like, zigzag(w.like-c.expected()), value)
	} else {
		ok = c.decodeCode(w, value)
	}
	switch {
	case !ok:
		c.fail(w)
		return false
	case as == wayCode || as == wayMaybe || as == wayLike:
		return false
	case c.power == powerBits:
		w.sets.failf("distance from an integer that is only bits")
		return false
	}
	ulps := w.ulps()
	*value = math.Float64frombits(math.Float64bits(*value) + uint64(ulps))
	return ulps != 0
}

// decodeCode is wayCode, which most values of a site go. It reports whether the integer is one that may be.
func (c *column) decodeCode(w *rowReader, value *float64) bool {
	u := w.bits.number(c.k())
	d := c.expected() + unzigzag(u)
	if d != 0 {
		w.like = d
	}
	return c.take(d, u, value)
}

// take brings column and value forward.
func (c *column) take(d int64, u uint64, value *float64) bool {
	c.step(d, u)
	if c.power == powerBits {
		*value = math.Float64frombits(uint64(c.scaled))
		return true
	}
	*value = unscale(c.scaled<<(c.shift&63), c.power)
	return c.fits(c.scaled)
}

func (c *column) fail(w *rowReader) {
	w.sets.failf("scaled integer %d is beyond 53 bits", c.scaled)
}

func (w *rowReader) ulps() int64 {
	n := w.bits.number(0)
	switch {
	case n == 0:
		return 0
	case n > 64:
		w.bits.bad = true
		return 0
	}
	return unzigzag(1<<(n-1) | w.bits.take(uint(n-1)))
}

func (c *column) decodeSet(w *rowReader, value *float64) (near bool) {
	r := w.sets
	mode := r.byte()
	power, shift := int8(mode&modePower), uint8(0)
	if mode == modeBits {
		c.set(int64(r.uint64()), powerBits, 0)
		*value = c.value()
		return false
	}
	if mode&^modeKnown != 0 || mode&modeBits != 0 {
		r.failf("mode %#x of a column", mode)
	}
	if mode&modeShift != 0 {
		if shift = r.byte(); shift == 0 || shift > maxShift {
			r.failf("power of two %d", shift)
		}
	}
	scaled := r.varint()
	if r.err != nil {
		return false
	}
	c.set(scaled, power, shift)
	if !c.fits(scaled) {
		r.failf("scaled integer %d is beyond 53 bits", scaled)
		return false
	}
	*value = c.value()
	if mode&modeUlps == 0 {
		return false
	}
	ulps := r.varint()
	*value = math.Float64frombits(math.Float64bits(*value) + uint64(ulps))
	return ulps != 0
}

func (c *column) decodeScale(r *reader) {
	mode, shift := r.byte(), r.byte()
	if r.err != nil {
		return
	}
	if mode&^modePower != modeShift || !c.refine(int8(mode&modePower), shift) {
		r.failf("mode %#x with power of two %d after power of ten %d with power of two %d", mode, shift, c.power, c.shift)
	}
}
