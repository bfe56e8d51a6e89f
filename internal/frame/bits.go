package frame

import (
	"encoding/binary"
	"math/bits"
)

// A number is coded by ones that say in which range it lies, a zero, and its distance from the beginning of the range
// (docs/frame.md, section 5.2): ranges of 2^k numbers at first, twice as many with every further one. maxOnes announces
// a number as it is, in 64 bits.
const (
	maxOnes = 31
	// maxPut is how many bits can be written or read at once.
	maxPut = 57
	// maxShort is less than that, for a bit before a number, and for a number below maxStep.
	maxShort = 53
)

// numberBits is how many bits bitWriter.number takes.
func numberBits(u uint64, k uint) uint {
	q := u >> k
	if q < 2 {
		return uint(q) + 1 + k
	}
	n := uint(bits.Len64(q-1)) - 1
	if n+2 >= maxOnes {
		return maxOnes + 64
	}
	return 2 + n + 1 + n + k
}

// bitWriter appends bits, the least significant first, to memory that reserve made sure of.
type bitWriter struct {
	b    []byte
	at   int    // the first byte that is not full
	acc  uint64 // its bits,
	held uint   // of which there are so many, less than 8 between calls
}

func (w *bitWriter) reset() { w.at, w.acc, w.held = 0, 0, 0 }

// reserve makes room for n further bytes.
func (w *bitWriter) reserve(n int) {
	if w.at+n+8 > len(w.b) { // 8 more, for put writes so many
		w.grow(n)
	}
}

func (w *bitWriter) grow(n int) {
	b := make([]byte, 2*w.at+n+64)
	copy(b, w.b) // with the byte that is not full
	w.b = b
}

// put writes the lower n bits of v, at most maxPut; those above must be 0.
func (w *bitWriter) put(v uint64, n uint) {
	acc := w.acc | v<<w.held
	held := w.held + n
	binary.LittleEndian.PutUint64(w.b[w.at:], acc)
	w.at += int(held >> 3)
	w.acc = acc >> (held &^ 7)
	w.held = held & 7
}

// put64 writes the lower n bits of v, at most 64.
func (w *bitWriter) put64(v uint64, n uint) {
	if n > 32 {
		w.put(v&(1<<32-1), 32)
		v, n = v>>32, n-32
	}
	w.put(v, n)
}

func (w *bitWriter) number(u uint64, k uint) {
	low := u & (1<<k - 1)
	q := u >> k
	if q < 2 {
		if k < maxPut-2 {
			w.put(q|low<<(q+1), uint(q)+1+k) // q ones and a zero
			return
		}
		w.put(q, uint(q)+1)
		w.put64(low, k)
		return
	}
	n := uint(bits.Len64(q-1)) - 1
	ones := n + 2
	if ones >= maxOnes {
		w.put(1<<maxOnes-1, maxOnes)
		w.put64(u, 64)
		return
	}
	low |= (q - 1 - 1<<n) << k
	if size := ones + 1 + n + k; size <= maxPut {
		w.put(1<<ones-1|low<<(ones+1), size)
		return
	}
	w.put(1<<ones-1, ones+1)
	w.put64(low, n+k)
}

// bytes are the bits written, filled up with zeros to whole bytes. They are valid until the writer is used again.
func (w *bitWriter) bytes() []byte {
	if w.held > 0 {
		return w.b[:w.at+1]
	}
	return w.b[:w.at]
}

// bitReader takes bits off the front of b. Behind its end there are zeros; whoever reads asks over afterwards.
type bitReader struct {
	b   []byte
	at  uint // in bits
	bad bool // a number does not fit 64 bits
}

// peek returns the next bits, at least maxPut of them.
func (r *bitReader) peek() uint64 {
	at := int(r.at >> 3)
	if at+8 <= len(r.b) {
		return binary.LittleEndian.Uint64(r.b[at:]) >> (r.at & 7)
	}
	return r.peekEnd(at)
}

func (r *bitReader) peekEnd(at int) uint64 {
	var last uint64
	for i := len(r.b) - 1; i >= at; i-- {
		last = last<<8 | uint64(r.b[i])
	}
	return last >> (r.at & 7)
}

// take reads n bits, at most 64.
func (r *bitReader) take(n uint) uint64 {
	if n > 32 {
		low := r.peek() & (1<<32 - 1)
		r.at += 32
		n -= 32
		high := r.peek() & (1<<n - 1)
		r.at += n
		return low | high<<32
	}
	v := r.peek() & (1<<n - 1)
	r.at += n
	return v
}

// number reads what bitWriter.number wrote with the same k.
func (r *bitReader) number(k uint) uint64 {
	field := r.peek()
	if u, size := shortNumber(field, k); size <= maxPut {
		r.at += size
		return u
	}
	return r.longNumber(min(uint(bits.TrailingZeros64(^field)), maxOnes), k)
}

// shortNumber is the number at the beginning of field and how many bits it takes. It is right if those are at most
// maxPut; up to maxShort it is below maxStep. No branch depends on the number, for none could be predicted.
func shortNumber(field uint64, k uint) (u uint64, size uint) {
	ones := bits.TrailingZeros64(^field)
	n := (ones - 2) &^ ((ones - 2) >> (bits.UintSize - 1)) // not below 0
	first := (uint64(1)<<(n&63) + uint64(ones-n) - 1) << (k & 63)
	return field>>(uint(ones+1)&63)&(1<<((uint(n)+k)&63)-1) + first, uint(ones+1+n) + k
}

func (r *bitReader) longNumber(ones, k uint) uint64 {
	if ones == maxOnes {
		r.at += maxOnes
		return r.take(64)
	}
	n := max(ones, 2) - 2
	first := uint64(1)<<n + uint64(min(ones, 2)) - 1
	r.at += ones + 1
	if n+k > 64 || first<<k>>k != first {
		r.bad = true
		return 0
	}
	u := r.take(n+k) + first<<k
	r.bad = r.bad || u < first<<k
	return u
}

// over reports whether more was read than there is, or a number did not fit.
func (r *bitReader) over() bool { return r.bad || r.at > uint(len(r.b))*8 }

// end returns what begins behind the byte that the last bit was read from, and whether the rest of that byte is 0.
func (r *bitReader) end() (rest []byte, ok bool) {
	used := int(r.at+7) >> 3
	if r.over() || r.at&7 != 0 && r.b[used-1]>>(r.at&7) != 0 {
		return nil, false
	}
	return r.b[used:], true
}
