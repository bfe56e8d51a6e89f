package frame

import (
	"encoding/binary"
	"math"
	"math/bits"

	"github.com/thalweg/thalweg/internal/series"
)

// worstValue bounds the bytes that the value of one column takes, with its token; worstToken and worstBits those of a
// token and of bits.
const (
	worstValue = 36
	worstToken = 14
	worstBits  = 24
)

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
	columns []column
	habits  []habit
	active  columnSet // those that are not expected to stay the same
	rows    uint16
	schema  uint64   // of the last row
	present []uint64 // of the last whole row; empty: all
	nextT   int64    // time that the next row is expected to have
}

// habit is what only the encoder knows of a column.
type habit struct {
	flipped uint16 // row of the last change between same and not same
	quick   uint8  // such changes that followed each other quickly
	run     int8   // of wayMaybe: rows with a change, or without if negative
	wide    uint8  // values far from a decimal, or changes since a column of bits was looked at
}

// begin forgets everything but its memory.
func (s *valuesEncoder) begin() {
	*s = valuesEncoder{last: s.last[:0], columns: s.columns[:0], habits: s.habits[:0], active: s.active[:0], present: s.present[:0]}
}

func (s *valuesEncoder) resize(n int, anew bool) {
	if anew {
		s.last, s.columns, s.habits, s.active, s.present = s.last[:0], s.columns[:0], s.habits[:0], s.active[:0], s.present[:0]
	}
	s.last, s.columns, s.habits = growColumns(s.last, n), growColumns(s.columns, n), growColumns(s.habits, n)
	s.active = growColumns(s.active, (n+63)/64)
	if len(s.present) > 0 {
		s.present = growPresence(s.present, n)
	}
}

// growPresence appends present columns up to n, and all that share their words.
func growPresence(present []uint64, n int) []uint64 {
	for len(present) < (n+63)/64 {
		present = append(present, math.MaxUint64)
	}
	return present
}

func (s *valuesEncoder) count() int { return len(s.columns) }

// changesPresence compares a range of a whole row with the last whole row, whose place it takes.
func (s *valuesEncoder) changesPresence(row *series.Row, first, end int) bool {
	if row.Present == nil && len(s.present) == 0 {
		return false
	}
	s.present = growPresence(s.present, row.Schema.Len())
	changes := false
	for i := first >> 6; i<<6 < end; i++ {
		present := uint64(math.MaxUint64)
		if row.Present != nil {
			present = row.Present[i]
		}
		differ := (present ^ s.present[i]) & rangeAt(i<<6, first, end)
		s.present[i] ^= differ
		changes = changes || differ != 0
	}
	return changes
}

func (s *valuesEncoder) appendHead(dst []byte, e *Encoder, id uint64, row *series.Row, flags byte, continued bool) []byte {
	dst = appendVarint(dst, int64(id-e.nextRow))
	e.nextRow = id + 1
	if continued {
		return append(dst, flags)
	}
	if schema := e.schemas[row.Schema]; schema != s.schema {
		s.schema = schema
		dst = binary.AppendUvarint(append(dst, flags|rowSchema), schema)
	} else {
		dst = append(dst, flags)
	}
	dst = appendVarint(dst, row.T-s.nextT)
	s.nextT = row.T + intervalMs(row.Source)
	return dst
}

// rowWriter is a range of a row under construction.
type rowWriter struct {
	tokens, bits bitWriter
	sets         []byte
	gaps         gaps
	after        int // columns up to the last token
	like         int64
}

// token changes the way of a column, which has so many before it.
func (w *rowWriter) token(before int, from, to way) {
	gap := uint64(before - w.after)
	w.after = before + 1
	w.tokens.reserve(worstToken)
	w.tokens.number(gap, w.gaps.k())
	w.gaps.add(gap)
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
	w := &e.row
	*w = rowWriter{tokens: w.tokens, bits: w.bits, sets: w.sets[:0], gaps: newGaps()}
	w.tokens.reset()
	w.bits.reset()
	columns := 0
	if row.Columns != nil {
		columns = s.writeList(w, row, first, end)
	} else {
		columns = s.writeWhole(w, row, first, end)
	}
	w.tokens.reserve(worstToken)
	w.tokens.number(uint64(columns-w.after), w.gaps.k())
	tokens := w.tokens.bytes()
	e.rowBits = append(append(e.rowBits[:0], tokens...), w.bits.bytes()...)
	dst = binary.AppendUvarint(dst, uint64(len(tokens)))
	return append(dst, w.sets...)
}

// writeList writes the columns that a partial row lists, and returns how many of them are floats.
func (s *valuesEncoder) writeList(w *rowWriter, row *series.Row, first, end int) (columns int) {
	floats := row.Schema.FloatsOnly()
	for i := first; i < end; i++ {
		at := int(row.Columns[i])
		if !floats && row.Schema.Column(at).Kind != series.Float {
			continue
		}
		s.encode(w, at, columns, math.Float64bits(row.Values[i]))
		columns++
	}
	return columns
}

// writeWhole writes a range of a whole row, 64 columns at a time. Those that are expected to stay the same and do are
// only counted.
func (s *valuesEncoder) writeWhole(w *rowWriter, row *series.Row, first, end int) (columns int) {
	for base := first &^ 63; base < end; base += 64 {
		all := floatsAt(row.Schema, row.Present, base, first, end)
		values := row.Values[base:min(base+64, len(row.Values))]
		for set := all & (changed(s.last[base:], values) | s.active[base>>6]); set != 0; set &= set - 1 {
			i := bits.TrailingZeros64(set)
			before := columns + bits.OnesCount64(all&(set&-set-1))
			s.encode(w, base+i, before, math.Float64bits(values[i]))
		}
		columns += bits.OnesCount64(all)
	}
	return columns
}

// changed returns which of at most 64 values are not the last ones.
func changed(last []uint64, values []float64) (set uint64) {
	last = last[:len(values)]
	for i, v := range values {
		differ := math.Float64bits(v) ^ last[i]
		set = set>>1 | (differ|-differ)&(1<<63)
	}
	return set >> ((64 - len(values)) & 63)
}

// expect makes a way the expected one of a column.
func (s *valuesEncoder) expect(at int, as way) {
	s.columns[at].way = as
	s.active.put(at, as != waySame)
}

// encode writes the value of one column, which has so many before it.
func (s *valuesEncoder) encode(w *rowWriter, at, before int, b uint64) {
	c, last, h := &s.columns[at], s.last[at], &s.habits[at]
	expected := c.way
	w.bits.reserve(worstBits)
	if b == last {
		s.encodeSame(w, at, before, c, h)
		return
	}
	s.last[at] = b
	var p place
	if scaled, ok := c.at(b, last); ok {
		p.scaled, h.wide = scaled, 0
	} else {
		p = h.place(c, b, last)
	}
	if p.set {
		w.token(before, expected, waySet)
		s.expect(at, waySame)
		w.set(c, &p)
		return
	}
	if p.scale {
		w.token(before, expected, wayScale)
		w.sets = append(w.sets, byte(p.power)|modeShift, p.shift)
		c.refine(p.power, p.shift)
		d := p.scaled - c.scaled
		w.code(c, d, zigzag(d-c.expected()))
		w.ulps(p.ulps)
		s.expect(at, afterScale(p.ulps))
		return
	}
	d := p.scaled - c.scaled
	u := zigzag(d - c.expected())
	near := p.ulps != 0 || expected == wayNear || expected == wayMaybeNear
	to := wayCode
	switch {
	case near:
		to = wayNear
	case d == w.like && d != 0 && (expected == wayLike || numberBits(u, c.k()) >= likeBits):
		to = wayLike
	}
	if maybe := to + wayMaybe - wayCode; expected == maybe && to != wayLike && !h.steady(true) {
		w.bits.put(1, 1)
	} else if expected != to {
		take := to
		if expected == waySame && to != wayLike && h.flips(s.rows) {
			take = maybe
		}
		w.token(before, expected, take)
		if s.expect(at, take); take == maybe {
			w.bits.put(1, 1)
		}
	}
	if to == wayLike {
		c.step(d, u)
		return
	}
	w.code(c, d, u)
	if near {
		w.ulps(p.ulps)
	}
}

// encodeSame writes that a column did not change.
func (s *valuesEncoder) encodeSame(w *rowWriter, at, before int, c *column, h *habit) {
	switch c.way {
	case waySame:
		return
	case wayMaybe, wayMaybeNear:
		if !h.steady(false) {
			w.bits.put(0, 1)
			return
		}
	case wayCode, wayNear:
		u := zigzag(-c.expected())
		if numberBits(u, c.k()) <= stayBits {
			w.code(c, 0, u)
			if c.way == wayNear {
				w.ulps(int64(s.last[at] - math.Float64bits(c.value())))
			}
			return
		}
		h.flips(s.rows)
	}
	w.token(before, c.way, waySame)
	s.expect(at, waySame)
}

// code writes the number u for a difference.
func (w *rowWriter) code(c *column, d int64, u uint64) {
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

// at is the integer that a changed value is in the mode of a column with a value; ok is false if there is none, and then
// place finds more.
func (c *column) at(b, last uint64) (scaled int64, ok bool) {
	if c.power == powerBits || last == 0 && c.age == 0 {
		return 0, false
	}
	scaled, ok = scale(math.Float64frombits(b), c.power)
	shifted := scaled >> (c.shift & 63)
	return shifted, ok && shifted<<(c.shift&63) == scaled
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
