package series

import "math/bits"

// Bitmap returns a cleared bitmap for n columns in the memory of b if that is large enough.
func Bitmap(b []uint64, n int) []uint64 {
	words := (n + 63) / 64
	if cap(b) < words {
		return make([]uint64, words)
	}
	b = b[:words]
	clear(b)
	return b
}

// SetBit sets bit i of a bitmap.
func SetBit(b []uint64, i int) { b[i>>6] |= 1 << (i & 63) }

// CountBits counts the bits set among the first n.
func CountBits(b []uint64, n int) int {
	c := 0
	for i, w := range b[:(n+63)/64] {
		if rest := n - i*64; rest < 64 {
			w &= 1<<rest - 1
		}
		c += bits.OnesCount64(w)
	}
	return c
}
