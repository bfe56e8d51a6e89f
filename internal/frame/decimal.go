package frame

import "math"

const (
	maxPower = 15
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

// scale finds the integer that v is at 10^power, or is closest to; exact says which. An integer that is not below
// maxScaled is neither: it is 0 then.
func scale(v float64, power int8) (scaled int64, exact bool) {
	f := v
	if power > 0 {
		f = math.RoundToEven(v * powers[power])
	}
	if !(f > -maxScaled && f < maxScaled) {
		return 0, false
	}
	scaled = int64(f)
	return scaled, math.Float64bits(unscale(scaled, power)) == math.Float64bits(v)
}

// scaleAny finds the smallest power of ten at which v is an integer.
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
