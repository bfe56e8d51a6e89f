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
}

func (s *valuesDecoder) begin() {
	s.columns, s.active = s.columns[:0], s.active[:0]
}

func (s *valuesDecoder) resize(n int, anew bool) {
	if anew {
		s.columns, s.active = s.columns[:0], s.active[:0]
	}
	s.columns, s.active = growColumns(s.columns, n), growColumns(s.active, (n+63)/64)
}

// rowReader is a range of a row that is being decoded.
type rowReader struct {
	tokens, bits bitReader
	sets         *reader
	gaps         gaps
	gap          uint64 // columns until the next token
	like         int64
}

// token reads the way of the column at a token, and the gap behind it.
func (w *rowReader) token(expected way) way {
	next := &w.gaps.next[expected]
	field := w.tokens.take(4)
	if field&1 == 0 {
		w.tokens.at -= 3
	} else {
		*next = way(field >> 1)
	}
	w.readGap()
	return *next
}

func (w *rowReader) readGap() {
	w.gap = w.tokens.number(w.gaps.k())
	w.gaps.add(w.gap)
}

// readValues decodes the float columns of a range.
func (v *valuesDecoder) readValues(d *Decoder, s *decoderSource, r *reader, first, end int) {
	size := r.bounded(len(d.bits)+1, "size of tokens")
	w := rowReader{tokens: bitReader{b: d.bits}, bits: bitReader{b: d.bits[size:]}, sets: r, gaps: newGaps()}
	w.readGap()
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
		} else {
			v.readToken(w, at, &s.values[at])
		}
		v.columns[at].decode(w, &s.values[at])
		s.partial[i] = s.values[at]
	}
}

// readToken makes the way at a token the expected one of its column, which is still to be decoded.
func (v *valuesDecoder) readToken(w *rowReader, at int, value *float64) {
	c := &v.columns[at]
	c.way = w.token(c.way)
	switch c.way {
	case waySet:
		c.decodeSet(w.sets, value)
		c.way = waySame
	case wayScale:
		c.decodeScale(w.sets)
	}
	v.active.put(at, c.way != waySame)
}

// readWhole decodes a range of a whole row, 64 columns at a time: first the tokens, then, as tokens and bits do not
// depend on each other, the bits of those that are active now.
func (v *valuesDecoder) readWhole(w *rowReader, s *decoderSource, first, end int) {
	present := s.present
	if s.allPresent {
		present = nil
	}
	for base := first &^ 63; base < end && w.sets.err == nil; base += 64 {
		all := floatsAt(s.schema.schema, present, base, first, end)
		columns, values := v.columns[base:min(base+64, len(v.columns))], s.values[base:]
		values = values[:len(columns)]
		left := all
		n := uint64(bits.OnesCount64(left))
		for w.gap < n {
			at := nth(left, uint(w.gap))
			n -= w.gap + 1
			left &= ^uint64(1) << (at & 63)
			v.readToken(w, base+int(at), &values[at])
		}
		w.gap -= n
		w.readActive(v.active[base>>6]&all, columns, values)
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
		c.decode(w, value)
		at, like = w.bits.at, w.like
	}
	w.bits.at, w.like = at, like
}

// decode brings the column forward by its expected way.
func (c *column) decode(w *rowReader, value *float64) {
	switch c.way {
	case waySame:
		return
	case wayMaybe, wayMaybeNear:
		if w.bits.take(1) == 0 {
			return
		}
	}
	var ok bool
	if c.way == wayLike {
		ok = c.take(w.like, zigzag(w.like-c.expected()), value)
	} else {
		ok = c.decodeCode(w, value)
	}
	switch {
	case !ok:
		c.fail(w)
		return
	case c.way == wayCode || c.way == wayMaybe || c.way == wayLike:
		return
	case c.power == powerBits:
		w.sets.failf("distance from an integer that is only bits")
		return
	}
	ulps := w.ulps()
	*value = math.Float64frombits(math.Float64bits(*value) + uint64(ulps))
	if c.way == wayScale {
		c.way = afterScale(ulps)
	}
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

func (c *column) decodeSet(r *reader, value *float64) {
	mode := r.byte()
	power, shift := int8(mode&modePower), uint8(0)
	if mode == modeBits {
		c.set(int64(r.uint64()), powerBits, 0)
		*value = c.value()
		return
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
		return
	}
	c.set(scaled, power, shift)
	if !c.fits(scaled) {
		r.failf("scaled integer %d is beyond 53 bits", scaled)
		return
	}
	*value = c.value()
	if mode&modeUlps != 0 {
		*value = math.Float64frombits(math.Float64bits(*value) + uint64(r.varint()))
	}
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
