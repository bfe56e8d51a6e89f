package frame

import (
	"encoding/binary"
	"math"
	"math/bits"

	"github.com/thalweg/thalweg/internal/series"
)

// worstValue bounds the bytes that the value of one column takes, with its token.
const worstValue = 36

// How an encoder of version 2 chooses. A decoder need not know.
const (
	stayBits   = 3  // a column that is expected to change and did not is coded nevertheless, if it takes no more
	likeBits   = 5  // wayLike is taken in place of a number that takes as much
	quickRows  = 8  // changes between same and not same that follow each other within so many rows
	quickFlips = 2  // so many times, make a column wayMaybe;
	steadyRows = 20 // so many rows of one kind end that
	minShift   = 3  // least power of two worth a byte
	mostShift  = 16 // large pages; a first value may be a multiple of more by accident
	commonTens = 9  // power of ten that many programs write: nanoseconds
	smallUlps  = 64 // what summing up decimals leaves, as zigzag
	largeUlps  = 1 << 52
	mostWide   = 4 // so many large distances in a row, and the column is no decimal
	retryRows  = 8 // after so many changes a column of bits is looked at again
)

// valuesEncoder writes the float columns of a source.
type valuesEncoder struct {
	last    []uint64 // values, as bits
	ways    []way    // as expected
	columns []column
	habits  []habit
	rows    uint16
	lastT   int64
}

// habit is what only the encoder knows of a column.
type habit struct {
	flipped uint16 // row of the last change between same and not same
	quick   uint8  // such changes that followed each other quickly
	run     int8   // of wayMaybe: rows with a change, or without if negative
	wide    uint8  // values far from a decimal, or changes since a column of bits was looked at
}

func (s *valuesEncoder) resize(n int, anew bool) {
	if anew {
		s.last, s.ways, s.columns, s.habits = s.last[:0], s.ways[:0], s.columns[:0], s.habits[:0]
	}
	s.last, s.ways, s.columns, s.habits = growColumns(s.last, n), growColumns(s.ways, n), growColumns(s.columns, n), growColumns(s.habits, n)
}

func (s *valuesEncoder) count() int { return len(s.columns) }

// appendTime writes a row's time against that of the source's last row.
func (s *valuesEncoder) appendTime(dst []byte, t int64) []byte {
	dst = appendVarint(dst, t-s.lastT)
	s.lastT = t
	return dst
}

// rowWriter is a range of a row under construction.
type rowWriter struct {
	tokens, bits *bitWriter
	sets         []byte
	gaps         gaps
	gap          uint64
	like         int64
}

func (w *rowWriter) token(from, to way) {
	w.tokens.number(w.gap, w.gaps.k())
	w.gaps.add(w.gap)
	w.gap = 0
	if w.gaps.next[from] == to {
		w.tokens.put(0, 1)
		return
	}
	w.gaps.next[from] = to
	w.tokens.put(1|uint64(to)<<1, 4)
}

// appendValues codes the float columns of a range: to dst the size of the tokens and what sets need, to e.bits the
// tokens and the bits.
func (s *valuesEncoder) appendValues(dst []byte, e *Encoder, row *series.Row, first, end int) []byte {
	if first == 0 {
		s.rows++
	}
	w := rowWriter{tokens: &e.tokenBits, bits: &e.valueBits, sets: e.residue[:0], gaps: newGaps()}
	w.tokens.reset()
	w.bits.reset()
	w.tokens.reserve((end - first + 1) * worstValue / 3)
	w.bits.reserve((end - first) * worstValue)
	floats := row.Schema.FloatsOnly()
	dense := floats && row.Columns == nil && row.Present == nil
	for i := first; i < end; i++ {
		at := i
		switch {
		case dense:
			same := sameValues(s.last[i:end], row.Values[i:end], s.ways[i:end])
			w.gap += uint64(same)
			if i += same; i == end {
				continue
			}
			at = i
		case row.Columns != nil:
			at = int(row.Columns[i])
		case !row.Has(i):
			continue
		}
		if !floats && row.Schema.Column(at).Kind != series.Float {
			continue
		}
		s.encode(&w, at, math.Float64bits(row.Values[i]))
	}
	w.tokens.number(w.gap, w.gaps.k())
	e.residue = w.sets
	tokens := w.tokens.bytes()
	e.rowBits = append(append(e.rowBits[:0], tokens...), w.bits.bytes()...)
	dst = binary.AppendUvarint(dst, uint64(len(tokens)))
	return append(dst, w.sets...)
}

// sameValues counts the first columns that are expected to be unchanged and are, of three lists of one length.
func sameValues(last []uint64, values []float64, ways []way) int {
	n := len(ways)
	last, values = last[:n], values[:n]
	i := 0
	for ; i+8 <= n; i += 8 {
		l, v := last[i:i+8:i+8], values[i:i+8:i+8]
		differ := binary.LittleEndian.Uint64(ways[i:]) |
			(l[0] ^ math.Float64bits(v[0])) | (l[1] ^ math.Float64bits(v[1])) | (l[2] ^ math.Float64bits(v[2])) | (l[3] ^ math.Float64bits(v[3])) |
			(l[4] ^ math.Float64bits(v[4])) | (l[5] ^ math.Float64bits(v[5])) | (l[6] ^ math.Float64bits(v[6])) | (l[7] ^ math.Float64bits(v[7]))
		if differ != 0 {
			break
		}
	}
	for i < n && ways[i] == waySame && last[i] == math.Float64bits(values[i]) {
		i++
	}
	return i
}

// encode writes the value of one column.
func (s *valuesEncoder) encode(w *rowWriter, at int, b uint64) {
	c, expected := &s.columns[at], s.ways[at]
	if b == s.last[at] {
		s.encodeSame(w, at, c, expected)
		return
	}
	last := s.last[at]
	s.last[at] = b
	p := s.habits[at].place(c, b, last)
	if p.set {
		w.token(expected, waySet)
		s.ways[at] = waySame
		w.set(c, &p)
		return
	}
	if p.scale {
		w.token(expected, wayScale)
		w.sets = append(w.sets, byte(p.power)|modeShift, p.shift)
		c.refine(p.power, p.shift)
		w.code(c, p.scaled-c.scaled)
		w.ulps(p.ulps)
		s.ways[at] = afterScale(p.ulps)
		return
	}
	d := p.scaled - c.scaled
	near := p.ulps != 0 || expected == wayNear || expected == wayMaybeNear
	to := wayCode
	switch {
	case near:
		to = wayNear
	case d == w.like && d != 0 && (expected == wayLike || numberBits(zigzag(d-c.expected()), c.k()) >= likeBits):
		to = wayLike
	}
	if maybe := to + wayMaybe - wayCode; expected == maybe && to != wayLike && !s.habits[at].steady(true) {
		w.gap++
		w.bits.put(1, 1)
	} else if expected == to {
		w.gap++
	} else {
		take := to
		if expected == waySame && to != wayLike && s.habits[at].flips(s.rows) {
			take = maybe
		}
		w.token(expected, take)
		if s.ways[at] = take; take == maybe {
			w.bits.put(1, 1)
		}
	}
	if to == wayLike {
		c.step(d, zigzag(d-c.expected()))
		return
	}
	w.code(c, d)
	if near {
		w.ulps(p.ulps)
	}
}

// encodeSame writes that a column did not change.
func (s *valuesEncoder) encodeSame(w *rowWriter, at int, c *column, expected way) {
	switch expected {
	case waySame:
		w.gap++
		return
	case wayMaybe, wayMaybeNear:
		if !s.habits[at].steady(false) {
			w.gap++
			w.bits.put(0, 1)
			return
		}
	case wayCode, wayNear:
		if numberBits(zigzag(-c.expected()), c.k()) <= stayBits {
			w.gap++
			w.code(c, 0)
			if expected == wayNear {
				w.ulps(int64(s.last[at] - math.Float64bits(c.value())))
			}
			return
		}
		s.habits[at].flips(s.rows)
	}
	w.token(expected, waySame)
	s.ways[at] = waySame
}

// code writes the number for a difference.
func (w *rowWriter) code(c *column, d int64) {
	u := zigzag(d - c.expected())
	w.bits.number(u, c.k())
	c.step(d, u)
	if d != 0 {
		w.like = d
	}
}

// ulps writes how many representable numbers lie between a value and its integer.
func (w *rowWriter) ulps(ulps int64) {
	u := zigzag(ulps)
	n := uint(bits.Len64(u))
	w.bits.number(uint64(n), 0)
	if n > 1 {
		w.bits.put64(u&(1<<(n-1)-1), n-1)
	}
}

func (w *rowWriter) set(c *column, p *place) {
	c.set(p.scaled, p.power, p.shift)
	if p.power == powerBits {
		w.sets = binary.LittleEndian.AppendUint64(append(w.sets, modeBits), uint64(p.scaled))
		return
	}
	at := len(w.sets)
	w.sets = append(w.sets, byte(p.power))
	if p.shift > 0 {
		w.sets[at] |= modeShift
		w.sets = append(w.sets, p.shift)
	}
	w.sets = appendVarint(w.sets, p.scaled)
	if p.ulps != 0 {
		w.sets[at] |= modeUlps
		w.sets = appendVarint(w.sets, p.ulps)
	}
}

// place is where a value stands in a column: an integer in the column's mode, or in the one given with scale or set.
type place struct {
	scaled     int64
	ulps       int64
	power      int8
	shift      uint8
	scale, set bool
}

// place finds where a value stands.
func (h *habit) place(c *column, b, last uint64) place {
	v := math.Float64frombits(b)
	if c.power == powerBits {
		if h.wide++; h.wide%retryRows == 0 || last&infinite == infinite {
			if p := placeAnew(v); p.power != powerBits {
				return p
			}
		}
		return place{scaled: int64(b)}
	}
	if last == 0 && c.age == 0 { // there was no value yet, or it says nothing
		return placeAnew(v)
	}
	scaled, exact := scale(v, c.power)
	if exact {
		h.wide = 0
		if scaled&(1<<c.shift-1) == 0 {
			return place{scaled: scaled >> c.shift}
		}
		shift := uint8(bits.TrailingZeros64(uint64(scaled)))
		return place{scaled: scaled >> shift, power: c.power, shift: shift, scale: true}
	}
	if !(math.Abs(v)*powers[c.power] < maxScaled-1) {
		return placeAnew(v)
	}
	ulps := ulpsFrom(b, scaled, c.power)
	if zigzag(ulps) <= smallUlps {
		h.wide = 0
	} else if p, ok := finer(v, c); ok {
		return p
	} else if h.wide++; h.wide >= mostWide || zigzag(ulps) >= largeUlps {
		h.wide = 0
		return placeAnew(v)
	}
	if scaled&(1<<c.shift-1) == 0 {
		return place{scaled: scaled >> c.shift, ulps: ulps}
	}
	return place{scaled: scaled, ulps: ulps, power: c.power, scale: true}
}

const infinite = 0x7ff << 52 // bits of the exponent of infinities and NaNs

// finer finds a mode in which both the value and what the column holds are integers.
func finer(v float64, c *column) (place, bool) {
	for power := c.power + 1; power <= max(commonTens, min(c.power+3, maxPower)); power++ {
		scaled, exact := scale(v, power)
		if !exact {
			continue
		}
		try := *c
		shift := min(c.shift, uint8(bits.TrailingZeros64(uint64(scaled))))
		return place{scaled: scaled >> shift, power: power, shift: shift, scale: true}, try.refine(power, shift)
	}
	return place{}, false
}

// placeAnew finds the mode for a value of which nothing is known.
func placeAnew(v float64) place {
	p := place{set: true}
	scaled, power, exact := scaleAny(v)
	switch {
	case exact && power <= commonTens:
		shift := bits.TrailingZeros64(uint64(scaled))
		if scaled == 0 || shift < minShift {
			shift = 0
		}
		p.shift = uint8(min(shift, mostShift))
		p.scaled, p.power = scaled>>p.shift, power
		return p
	case math.Abs(v) < maxScaled/1e9-1:
		near, _ := scale(v, commonTens)
		if ulps := ulpsFrom(math.Float64bits(v), near, commonTens); zigzag(ulps) <= smallUlps/2 && near != 0 {
			p.scaled, p.power, p.ulps = near, commonTens, ulps
			return p
		}
	}
	if exact {
		p.scaled, p.power = scaled, power
		return p
	}
	p.scaled, p.power = int64(math.Float64bits(v)), powerBits
	return p
}

func ulpsFrom(b uint64, scaled int64, power int8) int64 {
	return int64(b - math.Float64bits(unscale(scaled, power)))
}

// flips notes that the column turned from unchanged to changed or back, and reports whether it does so often.
func (h *habit) flips(row uint16) bool {
	if row-h.flipped > quickRows {
		h.quick = 0
	} else {
		h.quick++
	}
	h.flipped, h.run = row, 0
	return h.quick >= quickFlips
}

// steady notes whether a column changed, and reports whether it did or did not for many rows.
func (h *habit) steady(changed bool) bool {
	switch {
	case changed:
		h.run = max(h.run, 0) + 1
	default:
		h.run = min(h.run, 0) - 1
	}
	if h.run >= steadyRows || h.run <= -steadyRows {
		h.quick, h.run = 0, 0
		return true
	}
	return false
}
