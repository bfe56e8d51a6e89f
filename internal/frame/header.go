package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

// Sizes of the fixed parts, in bytes (docs/frame.md, section 2).
const (
	HeaderSize      = 56
	PredecessorSize = 24
	// MaxSize bounds a frame, header included, in every direction. Encoders stay far below (see Encoder), decoders
	// may be told less.
	MaxSize = 64 << 20
)

// Version is the newest version of the format; this package reads and writes it and the one before.
const Version = 2

const versionBefore = Version - 1

// Versions are those that this package reads and writes, the newest first.
func Versions() []int { return []int{Version, versionBefore} }

var magic = [3]byte{'T', 'L', 'W'}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Kind of a frame.
type Kind uint8

const (
	Keyframe Kind = 1 // stands alone
	Delta    Kind = 2 // applies to the state after one named earlier frame
)

func (k Kind) String() string {
	switch k {
	case Keyframe:
		return "keyframe"
	case Delta:
		return "delta"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Flags of a header. Unknown ones are refused.
type Flags uint8

const (
	FlagFirst Flags = 1 << 0 // the first frame of an epoch: a Predecessor stands between header and body
	FlagZstd  Flags = 1 << 1 // the body is one zstd frame

	knownFlags = FlagFirst | FlagZstd
)

// Epoch is one life of an encoder: 64 random bits, never zero.
type Epoch uint64

func (e Epoch) String() string { return fmt.Sprintf("%016x", uint64(e)) }

// ID identifies a frame for ever, whichever way and however often it travels. Numbers of an epoch begin at 1.
type ID struct {
	Epoch  Epoch
	Number uint64
}

func (id ID) String() string { return fmt.Sprintf("%s/%d", id.Epoch, id.Number) }

// Predecessor is what the first frame of an epoch says about the epoch before it in the same outbox. The zero value
// means that the encoder knows of none.
type Predecessor struct {
	ID          // of its last frame
	Rows uint64 // of the whole epoch
}

// Header is everything about a frame that can be known without decoding it.
type Header struct {
	// Version of the format: one of Versions; 0 in a header that is to be sealed means Version.
	Version int
	Kind    Kind
	Flags   Flags
	ID
	// Base is the number of the frame of the same epoch to whose state a delta applies; 0 in a keyframe.
	Base uint64
	// RowsBefore counts the rows of the epoch that were completed by earlier frames, Rows those that this one
	// completes. A row that is split over frames belongs to the one with its last part.
	RowsBefore uint64
	Rows       uint32
	// Sent is the edge's clock when the frame was closed, in milliseconds since 1970.
	Sent int64
	// Size of the whole frame in bytes, header included.
	Size int
	// Predecessor is set if Flags has FlagFirst.
	Predecessor Predecessor
}

// RowsAfter counts the rows of the epoch up to and including this frame.
func (h *Header) RowsAfter() uint64 { return h.RowsBefore + uint64(h.Rows) }

// SentTime is Sent as a time.
func (h *Header) SentTime() time.Time { return time.UnixMilli(h.Sent) }

// bodyOffset is where the body begins.
func (h *Header) bodyOffset() int {
	if h.Flags&FlagFirst != 0 {
		return HeaderSize + PredecessorSize
	}
	return HeaderSize
}

// Errors that callers tell apart. All others mean that the bytes are not a frame of this format.
var (
	// ErrShort means that the bytes end before the frame does.
	ErrShort = errors.New("frame is cut short")
	// ErrChecksum means that the frame was changed after it was sealed.
	ErrChecksum = errors.New("frame checksum does not match")
	// ErrVersion means that the frame is of a version this program does not read.
	ErrVersion = errors.New("unknown frame version")
)

// ParseHeader reads the header at the start of b, which may hold more than one frame. It does not look at the
// checksum; Verify does. A frame that ends beyond b is an error that wraps ErrShort, with the header filled in as
// soon as HeaderSize bytes are there.
func ParseHeader(b []byte) (Header, error) {
	var h Header
	if len(b) < HeaderSize {
		return h, fmt.Errorf("parse frame header: %w: %d bytes of %d", ErrShort, len(b), HeaderSize)
	}
	if [3]byte(b[:3]) != magic {
		return h, fmt.Errorf("parse frame header: magic is %q, want %q", b[:3], magic[:])
	}
	if b[3] != Version && b[3] != versionBefore {
		return h, fmt.Errorf("parse frame header: %w %d", ErrVersion, b[3])
	}
	le := binary.LittleEndian
	size := le.Uint32(b[8:])
	h = Header{
		Version:    int(b[3]),
		Kind:       Kind(b[12]),
		Flags:      Flags(b[13]),
		ID:         ID{Epoch: Epoch(le.Uint64(b[16:])), Number: le.Uint64(b[24:])},
		RowsBefore: le.Uint64(b[32:]),
		Rows:       le.Uint32(b[40:]),
		Sent:       int64(le.Uint64(b[48:])),
	}
	distance := uint64(le.Uint32(b[44:]))
	switch {
	case h.Flags&^knownFlags != 0:
		return h, fmt.Errorf("parse frame header: unknown flags %#x", b[13])
	case le.Uint16(b[14:]) != 0:
		return h, fmt.Errorf("parse frame header: reserved field is %#x, want 0", le.Uint16(b[14:]))
	case h.Epoch == 0:
		return h, errors.New("parse frame header: epoch is 0")
	case h.Number == 0:
		return h, errors.New("parse frame header: number is 0")
	case size > MaxSize || int(size) < h.bodyOffset():
		return h, fmt.Errorf("parse frame header: size is %d, want %d to %d", size, h.bodyOffset(), MaxSize)
	case h.RowsBefore+uint64(h.Rows) < h.RowsBefore:
		return h, fmt.Errorf("parse frame header: %d rows after %d overflow", h.Rows, h.RowsBefore)
	}
	h.Size = int(size)
	switch h.Kind {
	case Keyframe:
		if distance != 0 {
			return h, fmt.Errorf("parse frame header: keyframe %s names a base", h.ID)
		}
	case Delta:
		if distance == 0 || distance >= h.Number {
			return h, fmt.Errorf("parse frame header: delta %s names a base %d before it", h.ID, distance)
		}
		h.Base = h.Number - distance
	default:
		return h, fmt.Errorf("parse frame header: unknown frame kind %d", b[12])
	}
	if first := h.Flags&FlagFirst != 0; first != (h.Number == 1) || first && (h.Kind != Keyframe || h.RowsBefore != 0) {
		return h, fmt.Errorf("parse frame header: %s %s after %d rows has flags %#x", h.Kind, h.ID, h.RowsBefore, b[13])
	}
	if len(b) < h.Size {
		return h, fmt.Errorf("parse frame header: frame %s: %w: %d bytes of %d", h.ID, ErrShort, len(b), h.Size)
	}
	if h.Flags&FlagFirst != 0 {
		h.Predecessor = Predecessor{
			ID:   ID{Epoch: Epoch(le.Uint64(b[56:])), Number: le.Uint64(b[64:])},
			Rows: le.Uint64(b[72:]),
		}
		if p := &h.Predecessor; (p.Epoch == 0) != (p.Number == 0) || p.Epoch == 0 && p.Rows != 0 || p.Epoch == h.Epoch {
			return h, fmt.Errorf("parse frame header: frame %s names %s with %d rows as its predecessor", h.ID, p.ID, p.Rows)
		}
	}
	return h, nil
}

// Verify parses the header of a whole frame and compares the checksum. Bytes behind the frame are an error.
func Verify(b []byte) (Header, error) {
	h, err := ParseHeader(b)
	if err != nil {
		return h, err
	}
	if len(b) != h.Size {
		return h, fmt.Errorf("verify frame %s: %d bytes behind its end", h.ID, len(b)-h.Size)
	}
	if got, want := checksum(b), binary.LittleEndian.Uint32(b[4:]); got != want {
		return h, fmt.Errorf("verify frame %s: %w: computed %08x, header says %08x", h.ID, ErrChecksum, got, want)
	}
	return h, nil
}

// Checksum is that of a whole frame, as its header says. Frames of one name and checksum are the same.
func Checksum(b []byte) uint32 { return binary.LittleEndian.Uint32(b[4:]) }

// Split cuts the first frame off a concatenation of frames, as files and messages hold them, without verifying it.
func Split(b []byte) (h Header, first, rest []byte, err error) {
	h, err = ParseHeader(b)
	if err != nil {
		return h, nil, b, err
	}
	return h, b[:h.Size:h.Size], b[h.Size:], nil
}

// Seal appends to dst the frame with the given header and body. It sets Size and the checksum; the body is taken as
// it is, compressed already if the flags say so.
func Seal(dst []byte, h Header, body []byte) []byte {
	if h.Version == 0 {
		h.Version = Version
	}
	le := binary.LittleEndian
	start := len(dst)
	dst = append(dst, magic[0], magic[1], magic[2], byte(h.Version))
	dst = le.AppendUint32(dst, 0)
	dst = le.AppendUint32(dst, uint32(h.bodyOffset()+len(body)))
	dst = append(dst, byte(h.Kind), byte(h.Flags), 0, 0)
	dst = le.AppendUint64(dst, uint64(h.Epoch))
	dst = le.AppendUint64(dst, h.Number)
	dst = le.AppendUint64(dst, h.RowsBefore)
	dst = le.AppendUint32(dst, h.Rows)
	distance := uint32(0)
	if h.Kind == Delta {
		distance = uint32(h.Number - h.Base)
	}
	dst = le.AppendUint32(dst, distance)
	dst = le.AppendUint64(dst, uint64(h.Sent))
	if h.Flags&FlagFirst != 0 {
		dst = le.AppendUint64(dst, uint64(h.Predecessor.Epoch))
		dst = le.AppendUint64(dst, h.Predecessor.Number)
		dst = le.AppendUint64(dst, h.Predecessor.Rows)
	}
	dst = append(dst, body...)
	le.PutUint32(dst[start+4:], checksum(dst[start:]))
	return dst
}

// checksum covers everything but its own field.
func checksum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:4], castagnoli), castagnoli, b[8:])
}
