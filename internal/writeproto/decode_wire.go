package writeproto

import (
	"encoding/binary"
	"errors"
	"fmt"
)

var (
	errTruncated = errors.New("protobuf message is truncated")
	errVarint    = errors.New("protobuf varint is longer than ten bytes")
	errNegative  = errors.New("protobuf length is negative")
	errGroup     = errors.New("protobuf group ends that did not begin")
)

// wire reads a protobuf message field by field. It takes what the code that gogo/protobuf generates takes, which is what
// Prometheus has: bits of a number that do not fit its type are dropped.
type wire struct {
	b []byte
	i int
}

func (w *wire) more() bool { return w.i < len(w.b) }

// tag reads the number and the type of the next field.
func (w *wire) tag() (field int32, typ int, err error) {
	if w.i < len(w.b) && w.b[w.i] < 0x80 {
		v := w.b[w.i]
		if v >= 8 && v&7 != 4 {
			w.i++
			return int32(v >> 3), int(v & 7), nil
		}
	}
	v, err := w.varint()
	if err != nil {
		return 0, 0, err
	}
	field, typ = int32(v>>3), int(v&7)
	if field <= 0 || typ == 4 {
		return 0, 0, fmt.Errorf("protobuf field %d has wire type %d", field, typ)
	}
	return field, typ, nil
}

func (w *wire) varint() (uint64, error) {
	if w.i < len(w.b) && w.b[w.i] < 0x80 {
		w.i++
		return uint64(w.b[w.i-1]), nil
	}
	v := uint64(0)
	for shift := uint(0); shift < 64; shift += 7 {
		if w.i >= len(w.b) {
			return 0, errTruncated
		}
		b := w.b[w.i]
		w.i++
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return v, nil
		}
	}
	return 0, errVarint
}

func (w *wire) fixed() (uint64, error) {
	if len(w.b)-w.i < 8 {
		return 0, errTruncated
	}
	v := binary.LittleEndian.Uint64(w.b[w.i:])
	w.i += 8
	return v, nil
}

// bytes reads a length and as many bytes, which are a part of the message.
func (w *wire) bytes() ([]byte, error) {
	v, err := w.varint()
	if err != nil {
		return nil, err
	}
	n := int(v)
	if n < 0 || uint64(n) != v {
		return nil, errNegative
	}
	if n > len(w.b)-w.i {
		return nil, errTruncated
	}
	b := w.b[w.i : w.i+n : w.i+n]
	w.i += n
	return b, nil
}

// skip goes over the value of a field whose tag has been read.
func (w *wire) skip(typ int) error {
	for depth := 0; ; {
		var err error
		switch typ {
		case wireVarint:
			_, err = w.varint()
		case wireFixed:
			err = w.advance(8)
		case wireBytes:
			_, err = w.bytes()
		case 3:
			depth++
		case 4:
			if depth--; depth < 0 {
				err = errGroup
			}
		case 5:
			err = w.advance(4)
		default:
			err = fmt.Errorf("protobuf wire type is %d", typ)
		}
		if err != nil || depth == 0 {
			return err
		}
		tag, err := w.varint()
		if err != nil {
			return err
		}
		typ = int(tag & 7)
	}
}

func (w *wire) advance(n int) error {
	if n > len(w.b)-w.i {
		return errTruncated
	}
	w.i += n
	return nil
}

// unzigzag is the number that a field of type sint64 stands for.
func unzigzag(v uint64) int64 { return int64(v>>1) ^ -int64(v&1) }

// unzigzag32 is that of a field of type sint32.
func unzigzag32(v uint64) int32 { return int32(uint32(v)>>1) ^ -int32(v&1) }

// appendNumbers appends the numbers of a field that is repeated, whether it is packed or not. It reads those that take
// one by one; plain is the type of a field that has one of them.
func appendNumbers[T any](dst []T, w *wire, typ, plain int, one func(*wire) (T, error)) ([]T, error) {
	if typ != wireBytes {
		if typ != plain {
			return dst, wrongType("a list of numbers", typ)
		}
		v, err := one(w)
		if err != nil {
			return dst, err
		}
		return append(dst, v), nil
	}
	b, err := w.bytes()
	if err != nil {
		return dst, err
	}
	for in := (wire{b: b}); in.more(); {
		v, err := one(&in)
		if err != nil {
			return dst, err
		}
		dst = append(dst, v)
	}
	return dst, nil
}

func wrongType(what string, typ int) error {
	return fmt.Errorf("protobuf field of %s has wire type %d", what, typ)
}
