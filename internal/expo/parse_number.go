package expo

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/bits"
	"strconv"

	"github.com/prometheus/prometheus/model/value"
)

// tens are the powers of ten that a float64 holds exactly.
var tens = [...]float64{
	1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
}

// number reads the decimal number that begins at b[i], and returns where it ends. It reads only those of which the
// result is exact by one operation on two exact numbers: at most 18 digits that are at most 2^53, times a power of ten
// of at most 22. For anything else it returns 0 as the end.
func number(b []byte, i int) (v float64, end int) {
	negative := i < len(b) && b[i] == '-'
	if negative {
		i++
	}
	first := i
	m, i := digitsAt(b, i, 0)
	n, exponent := i-first, 0
	if i < len(b) && b[i] == '.' {
		point := i + 1
		m, i = digitsAt(b, point, m)
		n += i - point
		exponent = point - i
	}
	if n == 0 || n > 18 || m > 1<<53 {
		return 0, 0
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		var e int
		if e, i = exponentAt(b, i+1); i == 0 {
			return 0, 0
		}
		exponent += e
	}
	v = float64(m)
	switch {
	case exponent == 0:
	case exponent > 0 && exponent < len(tens):
		v *= tens[exponent]
	case exponent < 0 && -exponent < len(tens):
		v /= tens[-exponent]
	default:
		return 0, 0
	}
	if negative {
		v = -v
	}
	return v, i
}

// digitsAt appends the digits that begin at b[i] to those of m, and returns where they end. It takes eight bytes at a
// time, so that numbers of different lengths take the same way through it; more than 19 digits overflow.
func digitsAt(b []byte, i int, m uint64) (uint64, int) {
	const each = 0x0101010101010101
	for i+8 <= len(b) {
		w := binary.LittleEndian.Uint64(b[i:]) ^ '0'*each // digits become 0 to 9
		n := bits.TrailingZeros64(((w+(0x80-10)*each)|w)&(0x80*each)) / 8
		w <<= 64 - 8*n // behind as many zeros as there is room for
		w = w*10 + w>>8
		w = (w&0x000000ff000000ff*(100+1000000<<32) + w>>16&0x000000ff000000ff*(1+10000<<32)) >> 32
		m = m*wholeTens[n] + w
		i += n
		if n < 8 {
			return m, i
		}
	}
	for ; i < len(b) && b[i]-'0' <= 9; i++ {
		m = m*10 + uint64(b[i]-'0')
	}
	return m, i
}

var wholeTens = [...]uint64{1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8}

// exponentAt reads an exponent of at most three digits, and returns where it ends; 0 if it is none.
func exponentAt(b []byte, i int) (e, end int) {
	negative := false
	if i < len(b) && (b[i] == '-' || b[i] == '+') {
		negative = b[i] == '-'
		i++
	}
	first := i
	for ; i < len(b) && b[i] >= '0' && b[i] <= '9'; i++ {
		if i-first == 3 {
			return 0, 0
		}
		e = e*10 + int(b[i]-'0')
	}
	if i == first {
		return 0, 0
	}
	if negative {
		e = -e
	}
	return e, i
}

// float reads a value as textparse does: any spelling of strconv but those with p or an underscore, and one NaN for all.
func float(text []byte) (float64, bool) {
	if bytes.ContainsAny(text, "pP_") {
		return 0, false
	}
	v, err := strconv.ParseFloat(string(text), 64)
	if err != nil {
		return 0, false
	}
	if math.IsNaN(v) {
		v = math.Float64frombits(value.NormalNaN)
	}
	return v, true
}

// longest is as long as a number is with all digits that a float64 can need.
const longest = 25

// longNumber reads the value that begins at b[i] if nothing but a newline follows, and returns where it ends. If
// something else follows, or it is no value, it returns 0 as the end.
func longNumber(b []byte, i int) (v float64, end int) {
	n := bytes.IndexByte(b[i:min(i+longest+1, len(b))], '\n')
	if n < 0 || bytes.IndexByte(b[i:i+n], ' ') >= 0 {
		return 0, 0
	}
	v, ok := float(b[i : i+n])
	if !ok {
		return 0, 0
	}
	return v, i + n
}

// held is the spelling of a value with the newline behind it, if both together are no longer than 15 bytes: these bytes,
// and in the last byte how many they are; 0 if nothing is held.
type held [2]uint64

// heldBytes is how many bytes of a body must be there to be compared with what is held.
const heldBytes = 16

// heldMasks are set where what is held of a given size has bytes.
var heldMasks = func() (masks [heldBytes][2]uint64) {
	for n := range masks {
		masks[n] = [2]uint64{1<<(8*n) - 1, 1<<(8*max(0, n-8)) - 1}
	}
	return masks
}()

// hold returns what is held of the value body[begin:end].
func hold(body []byte, begin, end int) held {
	n := end + 1 - begin
	if n >= heldBytes || begin+heldBytes > len(body) {
		return held{}
	}
	m := &heldMasks[n]
	return held{
		binary.LittleEndian.Uint64(body[begin:]) & m[0],
		binary.LittleEndian.Uint64(body[begin+8:])&m[1] | uint64(n)<<56,
	}
}

func (h *held) size() int { return int(h[1] >> 56) }

// at reports whether what is held stands at body[i]. It is for bodies of heldBytes more.
func (h *held) at(body []byte, i int) bool {
	m := &heldMasks[h[1]>>56%heldBytes]
	low, high := binary.LittleEndian.Uint64(body[i:]), binary.LittleEndian.Uint64(body[i+8:])
	return (low^h[0])&m[0]|(high^h[1])&m[1] == 0
}

// milliseconds reads a timestamp of the text format.
func milliseconds(text []byte) (int64, bool) {
	if len(text) == 0 || len(text) > 18 {
		return 0, false
	}
	var t int64
	for _, c := range text {
		if c < '0' || c > '9' {
			return 0, false
		}
		t = t*10 + int64(c-'0')
	}
	return t, true
}
