package frame

import (
	"math"
	"math/bits"

	"github.com/thalweg/thalweg/internal/series"
)

// way is how the value of a float column is coded (docs/frame.md, section 5.3). Each column has the way that is
// expected of it; only where another is taken, a token says so.
type way = uint8

const (
	waySame      way = iota // the same bits as before
	wayCode                 // a number: what the expected difference was wrong by
	wayNear                 // the same, and how far the value lies from that decimal
	wayLike                 // the difference of the column coded before it in this row
	wayMaybe                // a bit that says whether wayCode or waySame
	wayMaybeNear            // a bit that says whether wayNear or waySame
	waySet                  // a mode and a value
	wayScale                // a finer mode, then as wayNear

	ways
)

// Modes of a column on the wire: a power of ten in the lower four bits, or the bits of the value themselves.
const (
	modePower = 1<<4 - 1
	modeBits  = 1 << 4
	modeShift = 1 << 5 // a power of two follows, by which the integer is divided
	modeUlps  = 1 << 6 // the distance of the value from the integer follows
	modeKnown = 1<<7 - 1
)

const (
	powerBits = maxPower + 1
	maxShift  = 52
	// maxStep bounds what a difference adds to trend and spread, so that they do not overflow.
	maxStep = 1 << 54
	settled = 2
)

// column is what encoder and decoder both know of one float column beside its value: the value is the integer
// scaled * 2^shift / 10^power, or near that; with powerBits scaled is the value's bits. It begins as +0.
type column struct { // 32 bytes: two share a line of a cache
	scaled int64
	trend  int64  // running mean of the differences of scaled, times 16
	spread uint64 // running mean of the numbers coded, times 16
	power  int8
	shift  uint8
	age    uint8 // numbers coded since the mode was set, up to settled: means settle quickly first
	way    way   // as expected
}

// expected is the difference that the column is expected to make.
func (c *column) expected() int64 { return (c.trend + 8) >> 4 }

// k is how many bits of the next number are written as they are.
func (c *column) k() uint { return uint(bits.Len64(c.spread >> 5)) }

// step brings the column forward by a difference, which the number u was coded for.
func (c *column) step(d int64, u uint64) {
	c.scaled += d
	d = max(-maxStep, min(maxStep, d))
	c.trend += (d<<4 - c.trend) >> (c.age & 3)
	c.spread += uint64((int64(min(u, maxStep)<<4) - int64(c.spread)) >> (min(c.age, 1) & 3))
	c.age = min(c.age+1, settled)
}

// set begins anew with an integer in another mode.
func (c *column) set(scaled int64, power int8, shift uint8) {
	*c = column{scaled: scaled, power: power, shift: shift, spread: 16 << (bits.Len64(zigzag(scaled)) / 2), way: c.way}
}

// fits reports whether the integer is one that a decimal may have; others are not exact.
func (c *column) fits(scaled int64) bool {
	limit := uint64(maxScaled) >> (c.shift & 63)
	return uint64(scaled)+limit-1 < 2*limit-1
}

// value is that of the integer, without ulps.
func (c *column) value() float64 {
	if c.power == powerBits {
		return math.Float64frombits(uint64(c.scaled))
	}
	return unscale(c.scaled<<(c.shift&63), c.power)
}

// refine changes to a mode in which the integer is a multiple of what it is now; ok is false if there is none.
func (c *column) refine(power int8, shift uint8) (ok bool) {
	if c.power == powerBits || power > maxPower || power < c.power || shift > c.shift || power == c.power && shift == c.shift {
		return false
	}
	factor, ok := scaleUp(int64(powers[power-c.power]), 1<<(c.shift-shift), maxScaled)
	if !ok {
		return false
	}
	scaled, ok := scaleUp(c.scaled, factor, maxScaled>>shift)
	if !ok {
		return false
	}
	trend, ok := scaleUp(c.trend, factor, maxStep<<4)
	if !ok {
		trend = 0
	}
	spread, ok := scaleUp(int64(c.spread), factor, maxStep<<4)
	if !ok {
		spread = maxStep << 4
	}
	c.scaled, c.trend, c.spread, c.power, c.shift = scaled, trend, uint64(spread), power, shift
	return true
}

// scaleUp multiplies, and reports whether the product's magnitude is below limit.
func scaleUp(v, factor, limit int64) (int64, bool) {
	hi, lo := bits.Mul64(uint64(abs(v)), uint64(factor))
	if hi != 0 || lo >= uint64(limit) {
		return 0, false
	}
	return v * factor, true
}

func abs(v int64) int64 {
	if v < 0 {
		return -v
	}
	return v
}

// gaps predicts how many columns lie between tokens of a row, and which way follows which. Both ends begin it anew with
// every block.
type gaps struct {
	mean uint64 // running mean, times 16
	next [ways]way
}

func newGaps() gaps { return gaps{mean: 8 << 4, next: [ways]way{waySame: wayCode}} }

func (g *gaps) k() uint { return uint(bits.Len64(g.mean >> 5)) }

func (g *gaps) add(n uint64) { g.mean += uint64((int64(min(n, maxStep)<<4) - int64(g.mean)) >> 2) }

// columnSet is a set of columns.
type columnSet []uint64

func (s columnSet) put(i int, in bool) {
	bit := uint64(1) << (i & 63)
	s[i>>6] &^= bit
	if in {
		s[i>>6] |= bit
	}
}

// floatsAt returns which of the 64 columns from base on are float columns of the range from first to end and present,
// where nil means that all are.
func floatsAt(schema *series.Schema, present []uint64, base, first, end int) uint64 {
	in := rangeAt(base, first, end)
	if present != nil {
		in &= present[base>>6]
	}
	if !schema.FloatsOnly() {
		for rest := in; rest != 0; rest &= rest - 1 {
			if schema.Column(base+bits.TrailingZeros64(rest)).Kind != series.Float {
				in &^= rest & -rest
			}
		}
	}
	return in
}

// rangeAt returns which of the 64 columns from base on are in the range from first to end, which some of them are.
func rangeAt(base, first, end int) uint64 {
	in := ^uint64(0)
	if base < first {
		in <<= first - base
	}
	if left := end - base; left < 64 {
		in &= 1<<left - 1
	}
	return in
}

// nth is the place of the bit of set that has n bits of it below.
func nth(set uint64, n uint) uint {
	for {
		lowest := uint(bits.TrailingZeros64(set))
		run := uint(bits.TrailingZeros64(^(set >> (lowest & 63))))
		if n < run {
			return lowest + n
		}
		n -= run
		set &= ^uint64(0) << (lowest & 63) << (run & 63)
	}
}

// afterScale is the way that is expected of a column after wayScale.
func afterScale(ulps int64) way {
	if ulps != 0 {
		return wayNear
	}
	return wayCode
}
