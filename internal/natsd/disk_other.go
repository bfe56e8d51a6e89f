//go:build !(linux || darwin || freebsd)

package natsd

import "math"

// diskSpace does not know.
func diskSpace(string) (free, size float64) { return math.NaN(), math.NaN() }

// diskFull does not know either.
func diskFull(error) bool { return false }
