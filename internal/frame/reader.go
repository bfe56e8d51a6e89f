package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// errTruncated and the like need no values: the caller adds the block and its offset.
var (
	errTruncated = errors.New("ends early")
	errOverlong  = errors.New("number is not in its shortest form")
)

// reader takes fields off the front of a block. The first error sticks and every later call returns zero, so that a
// block is parsed without a check a field and checked once; lengths are checked before anything is allocated.
type reader struct {
	b    []byte
	err  error
	room *room // for what is kept; nil where nothing is
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.b = nil
}

func (r *reader) failf(format string, args ...any) { r.fail(fmt.Errorf(format, args...)) }

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail(errTruncated)
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *reader) uvarint() uint64 {
	if len(r.b) > 0 && r.b[0] < 0x80 {
		v := r.b[0]
		r.b = r.b[1:]
		return uint64(v)
	}
	v, n := binary.Uvarint(r.b)
	switch {
	case n == 0:
		r.fail(errTruncated)
		return 0
	case n < 0:
		r.failf("number does not fit 64 bits")
		return 0
	case r.b[n-1] == 0:
		r.fail(errOverlong)
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 { return unzigzag(r.uvarint()) }

// count reads the number of elements that take at least size bytes each, and refuses one that cannot be there.
func (r *reader) count(size int) int {
	v := r.uvarint()
	if v > uint64(len(r.b)/size) {
		r.failf("%d elements do not fit %d bytes", v, len(r.b))
		return 0
	}
	return int(v)
}

// list is count for lists that the format bounds.
func (r *reader) list(size, limit int) int {
	n := r.count(size)
	if n > limit {
		r.failf("%d elements, at most %d are allowed", n, limit)
		return 0
	}
	return n
}

// bounded reads a number that must be below limit.
func (r *reader) bounded(limit int, what string) int {
	v := r.uvarint()
	if r.err == nil && v >= uint64(limit) {
		r.failf("%s %d is not below %d", what, v, limit)
		return 0
	}
	return int(v)
}

// column reads how far a column lies behind the least one that may come, and returns it. Columns end at end.
func (r *reader) column(least, end int) int {
	return least + r.bounded(end-least, "distance of columns")
}

// int32 and uint32 refuse what does not fit rather than cut it.
func (r *reader) int32() int32 {
	v := r.varint()
	if int64(int32(v)) != v {
		r.failf("number %d does not fit 32 bits", v)
		return 0
	}
	return int32(v)
}

func (r *reader) uint32() uint32 {
	v := r.uvarint()
	if v > math.MaxUint32 {
		r.failf("number %d does not fit 32 bits", v)
		return 0
	}
	return uint32(v)
}

func (r *reader) bytes() []byte {
	n := r.count(1)
	if r.err != nil {
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) string() string { return string(r.bytes()) }

func (r *reader) uint64() uint64 {
	if len(r.b) < 8 {
		r.fail(errTruncated)
		return 0
	}
	v := binary.LittleEndian.Uint64(r.b)
	r.b = r.b[8:]
	return v
}

func (r *reader) float() float64 { return math.Float64frombits(r.uint64()) }

// end checks that nothing is left.
func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.failf("%d bytes are left over", len(r.b))
	}
	return r.err
}

func zigzag(v int64) uint64   { return uint64(v)<<1 ^ uint64(v>>63) }
func unzigzag(v uint64) int64 { return int64(v>>1) ^ -int64(v&1) }

func appendVarint(dst []byte, v int64) []byte { return binary.AppendUvarint(dst, zigzag(v)) }

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func appendFloat(dst []byte, v float64) []byte {
	return binary.LittleEndian.AppendUint64(dst, math.Float64bits(v))
}
