package writeproto

import "encoding/binary"

// block is a snappy block under construction, without its header. Who writes it knows what repeats, so that nothing has to
// search for it. Copies name distances, never places: blocks can stand one behind the other.
type block struct {
	ops []byte
	n   int // bytes before compression
	// The literal under construction begins in ops at literal-1; 0: there is none.
	literal int
	// The copy under construction, which is not in ops yet.
	distance, length int
}

// Operations of the format: the low bits of their first byte.
const (
	opLiteral = 0
	opCopy1   = 1 // 4 to 11 bytes, up to 2,047 back
	opCopy2   = 2 // 1 to 64 bytes, up to 65,535 back
	opCopy4   = 3 // 1 to 64 bytes, any distance

	shortLiteral = 60 // bytes whose count is in the first byte
)

func (b *block) reset() {
	*b = block{ops: b.ops[:0]}
}

// add appends bytes that do not repeat.
func (b *block) add(p []byte) {
	if len(p) == 0 {
		return
	}
	if b.length > 0 {
		b.endCopy()
	}
	b.n += len(p)
	if b.literal > 0 {
		had := len(b.ops) - b.literal
		if had+len(p) <= shortLiteral {
			b.ops = append(b.ops, p...)
			b.ops[b.literal-1] = byte(had+len(p)-1)<<2 | opLiteral
			return
		}
		k := shortLiteral - had
		b.ops = append(b.ops, p[:k]...)
		b.ops[b.literal-1] = byte(shortLiteral-1)<<2 | opLiteral
		b.literal = 0
		p = p[k:]
	}
	for len(p) > shortLiteral {
		k := min(len(p), 1<<16)
		b.ops = append(b.ops, 61<<2|opLiteral, byte(k-1), byte((k-1)>>8))
		b.ops = append(b.ops, p[:k]...)
		p = p[k:]
	}
	if len(p) > 0 {
		b.ops = append(b.ops, byte(len(p)-1)<<2|opLiteral)
		b.literal = len(b.ops)
		b.ops = append(b.ops, p...)
	}
}

// repeat appends n bytes that stand so far back already.
func (b *block) repeat(distance, n int) {
	b.n += n
	if b.length > 0 {
		if b.distance == distance {
			b.length += n
			return
		}
		b.endCopy()
	}
	b.literal, b.distance, b.length = 0, distance, n
}

// repeats reports whether a copy over that distance is under construction, so that another byte of it costs nothing.
func (b *block) repeats(distance int) bool { return b.length > 0 && b.distance == distance }

// endCopy writes the copy under construction.
func (b *block) endCopy() {
	n, d := b.length, b.distance
	b.length = 0
	if d >= 1<<16 {
		for ; n > 0; n -= 64 {
			b.ops = append(b.ops, byte(min(n, 64)-1)<<2|opCopy4)
			b.ops = binary.LittleEndian.AppendUint32(b.ops, uint32(d))
		}
		return
	}
	for n >= 68 {
		b.ops = append(b.ops, 63<<2|opCopy2, byte(d), byte(d>>8))
		n -= 64
	}
	if n > 64 { // so that enough is left for a short one
		b.ops = append(b.ops, 59<<2|opCopy2, byte(d), byte(d>>8))
		n -= 60
	}
	if n >= 12 || n < 4 || d >= 1<<11 {
		b.ops = append(b.ops, byte(n-1)<<2|opCopy2, byte(d), byte(d>>8))
		return
	}
	b.ops = append(b.ops, byte(d>>8)<<5|byte(n-4)<<2|opCopy1, byte(d))
}

// end completes the operations.
func (b *block) end() []byte {
	if b.length > 0 {
		b.endCopy()
	}
	b.literal = 0
	return b.ops
}

// commonPrefix is how many bytes both begin with.
func commonPrefix(a, b []byte) int {
	n := min(len(a), len(b))
	i := 0
	for ; i+8 <= n; i += 8 {
		if x := binary.LittleEndian.Uint64(a[i:]) ^ binary.LittleEndian.Uint64(b[i:]); x != 0 {
			return i + zeroBytesLow(x)
		}
	}
	for i < n && a[i] == b[i] {
		i++
	}
	return i
}

// commonSuffix is how many bytes both end with.
func commonSuffix(a, b []byte) int {
	n := min(len(a), len(b))
	a, b = a[len(a)-n:], b[len(b)-n:]
	i := n
	for ; i >= 8; i -= 8 {
		if x := binary.LittleEndian.Uint64(a[i-8:]) ^ binary.LittleEndian.Uint64(b[i-8:]); x != 0 {
			return n - i + zeroBytesHigh(x)
		}
	}
	for i > 0 && a[i-1] == b[i-1] {
		i--
	}
	return n - i
}
