package expo

import (
	"math"
	"strconv"
)

// AppendFloat appends a value as expositions have it: the shortest form that reads back as the same.
//
// It is strconv.AppendFloat(dst, v, 'g', -1, 64), byte for byte, but for zero: negative zero has no sign, as in
// Prometheus. Most values are whole numbers or have few decimals, and take half the time or less.
func AppendFloat(dst []byte, v float64) []byte {
	abs := math.Abs(v)
	if abs < maxDigits {
		if n := uint64(abs); float64(n) == abs {
			return appendDecimal(dst, v < 0, n, 0)
		}
		// A decimal of at most 15 digits is the only one of its length, and so the shortest, that reads as this value.
		// It does read as this value if the division, which rounds as reading does, says so: both numbers are exact.
		decimals := 3
		if abs < 1e6 {
			decimals = 9
		}
		if n := uint64(abs*powers[decimals] + 0.5); n < maxDigits && float64(n)/powers[decimals] == abs {
			return appendDecimal(dst, v < 0, n, decimals)
		}
	}
	return strconv.AppendFloat(dst, v, 'g', -1, 64)
}

// maxDigits is the first number of 16 digits.
const maxDigits = 1e15

// powers of ten up to the ninth.
var powers = [...]float64{1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9}

// appendDecimal appends n / 10^decimals, of which n is below maxDigits.
func appendDecimal(dst []byte, negative bool, n uint64, decimals int) []byte {
	if n == 0 {
		return append(dst, '0')
	}
	if negative {
		dst = append(dst, '-')
	}
	// Without the zeros at the end of n it is the number's digits, with a point before the last decimals of them.
	for decimals >= 3 && n%1000 == 0 {
		n, decimals = n/1000, decimals-3
	}
	for decimals > 0 && n%10 == 0 {
		n, decimals = n/10, decimals-1
	}
	var digits [20]byte
	first := formatDigits(&digits, n)
	switch exponent := len(digits) - first - decimals - 1; {
	case exponent >= 6 || exponent < -4:
		return appendScientific(dst, digits[first:], exponent)
	case decimals == 0:
		return append(dst, digits[first:]...)
	case exponent >= 0:
		point := len(digits) - decimals
		dst = append(append(dst, digits[first:point]...), '.')
		return append(dst, digits[point:]...)
	default:
		dst = append(dst, "0.0000"[:1-exponent]...)
		return append(dst, digits[first:]...)
	}
}

// appendScientific appends digits with a point behind the first, and the exponent.
func appendScientific(dst, digits []byte, exponent int) []byte {
	for digits[len(digits)-1] == '0' {
		digits = digits[:len(digits)-1]
	}
	dst = append(dst, digits[0])
	if len(digits) > 1 {
		dst = append(append(dst, '.'), digits[1:]...)
	}
	sign := byte('+')
	if exponent < 0 {
		sign, exponent = '-', -exponent
	}
	return append(dst, 'e', sign, byte('0'+exponent/10), byte('0'+exponent%10))
}

// formatDigits writes n to the end of digits and returns where it begins.
func formatDigits(digits *[20]byte, n uint64) int {
	i := len(digits)
	for n >= 100 {
		pair := n % 100 * 2
		n /= 100
		i -= 2
		digits[i], digits[i+1] = pairs[pair], pairs[pair+1]
	}
	if n >= 10 {
		i -= 2
		digits[i], digits[i+1] = pairs[n*2], pairs[n*2+1]
		return i
	}
	i--
	digits[i] = byte('0' + n)
	return i
}

// pairs are the numbers from 00 to 99.
const pairs = "00010203040506070809" +
	"10111213141516171819" +
	"20212223242526272829" +
	"30313233343536373839" +
	"40414243444546474849" +
	"50515253545556575859" +
	"60616263646566676869" +
	"70717273747576777879" +
	"80818283848586878889" +
	"90919293949596979899"
