package frame

import "math"

// Ways to code the value of a float column (docs/frame.md, section 5). A token is one byte: the way in the upper three
// bits, the number of columns that use it, less one, in the lower five.
const (
	waySame  = 0 // the same bits as before
	wayStep  = 1 // the last delta again
	wayLike  = 2 // the delta of the last column of this row that has one
	wayDelta = 3 // a delta
	wayTurn  = 4 // a delta, less the last delta
	wayInt   = 5 // a power of ten and a scaled integer
	wayXOR   = 6 // the bits that differ, as bytes

	maxRun = 32
)

// column is what encoder and decoder both know of one float column: its last value, and, if that value is an exact
// decimal, the integer it is at a power of ten. It begins as +0.
type column struct {
	bits   uint64
	scaled int64
	delta  int64
	power  int8 // value = scaled / 10^power; powerNone if the last value was not scaled
}

const (
	powerNone = -1
	maxPower  = 15
	// maxScaled keeps scaled integers exact as float64.
	maxScaled = 1 << 53
)

var powers = func() (p [maxPower + 1]float64) {
	p[0] = 1
	for i := 1; i < len(p); i++ {
		p[i] = p[i-1] * 10
	}
	return p
}()

// unscale is the value of a scaled integer. Both operands are exact, so that the division rounds once, correctly:
// the value is the one a decimal parser gives.
func unscale(scaled int64, power int8) float64 {
	if power <= 0 {
		return float64(scaled)
	}
	return float64(scaled) / powers[power]
}

// scale finds the integer that v is at 10^power.
func scale(v float64, power int8) (int64, bool) {
	f := v
	if power > 0 {
		f = math.RoundToEven(v * powers[power])
	}
	if !(f > -maxScaled && f < maxScaled) {
		return 0, false
	}
	scaled := int64(f)
	return scaled, math.Float64bits(unscale(scaled, power)) == math.Float64bits(v)
}

// scaleAny finds the smallest power of ten at which v is an integer, at first.
func scaleAny(v float64) (int64, int8, bool) {
	for power := range int8(maxPower + 1) {
		if scaled, ok := scale(v, power); ok {
			return scaled, power, true
		}
		if math.Abs(v)*powers[power] >= maxScaled {
			break
		}
	}
	return 0, 0, false
}
