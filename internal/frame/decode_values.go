package frame

import (
	"encoding/binary"
	"math"

	"github.com/thalweg/thalweg/internal/series"
)

// valuesDecoder is the state of the float columns of a source.
type valuesDecoder struct {
	ways    []way // as expected
	columns []column
	lastT   int64
}

func (s *valuesDecoder) begin() {
	s.ways, s.columns, s.lastT = s.ways[:0], s.columns[:0], 0
}

func (s *valuesDecoder) resize(n int, anew bool) {
	if anew {
		s.ways, s.columns = s.ways[:0], s.columns[:0]
	}
	s.ways, s.columns = growColumns(s.ways, n), growColumns(s.columns, n)
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
	w := rowReader{tokens: bitReader{b: d.bits[:size]}, bits: bitReader{b: d.bits[size:]}, sets: r, gaps: newGaps()}
	partial := s.flagsRow&rowPartial != 0
	floats := s.schema.schema.FloatsOnly()
	dense := floats && !partial && s.allPresent
	if partial {
		s.partial = growColumns(s.partial, end)
	}
	w.nextGap()
	for i := first; i < end && r.err == nil; i++ {
		at := i
		switch {
		case dense:
			same := sameWays(v.ways[i:end], w.gap)
			w.gap -= uint64(same)
			if i += same; i == end {
				continue
			}
			at = i
		case partial:
			at = int(s.list[i])
		case !s.allPresent && s.present[i>>6]&(1<<(i&63)) == 0:
			continue
		}
		if !floats && s.schema.schema.Column(at).Kind != series.Float {
			continue
		}
		if w.gap > 0 {
			w.gap--
			switch as := v.ways[at]; as {
			case waySame:
			case wayCode:
				if !v.columns[at].decodeCode(&w, &s.values[at]) {
					v.columns[at].fail(&w)
				}
			default:
				v.columns[at].decode(&w, as, &s.values[at])
			}
		} else {
			as := w.token(v.ways[at])
			near := v.columns[at].decode(&w, as, &s.values[at])
			v.ways[at] = after(as, near)
			w.nextGap()
		}
		if partial {
			s.partial[i] = s.values[at]
		}
	}
	if _, ok := w.tokens.end(); r.err == nil && (w.gap > 0 || !ok || int(w.tokens.at+7)>>3 != size) {
		r.failf("tokens do not end with the columns")
	}
	rest, ok := w.bits.end()
	if r.err == nil && !ok {
		r.failf("bits end before the columns")
	}
	d.bits = rest
}

// sameWays counts the first columns, at most limit, that are expected to be unchanged.
func sameWays(ways []way, limit uint64) int {
	n := len(ways)
	if uint64(n) > limit {
		n = int(limit)
	}
	ways = ways[:n]
	i := 0
	for ; i+8 <= n && binary.LittleEndian.Uint64(ways[i:]) == 0; i += 8 {
	}
	for i < n && ways[i] == waySame {
		i++
	}
	return i
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
	*value = unscale(c.scaled<<c.shift, c.power)
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
