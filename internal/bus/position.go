package bus

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"time"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Position is a place in one particular life of a stream: behind a message that can be recognised. The zero value is
// no position.
type Position struct {
	Created  time.Time // when the stream was created, to the nanosecond, UTC
	Sequence uint64    // of the message
	Checksum uint32    // CRC32C of its payload and of the time at which it was stored
}

// IsZero reports whether p is no position.
func (p Position) IsZero() bool { return p.Sequence == 0 }

// String is the compact text form: creation time in nanoseconds since 1970, sequence, checksum, as
// 1732176000000000000-42-e3069283; "" for the zero value.
func (p Position) String() string {
	if p.IsZero() {
		return ""
	}
	return fmt.Sprintf("%d-%d-%08x", p.Created.UnixNano(), p.Sequence, p.Checksum)
}

// ParsePosition is the inverse of String.
func ParsePosition(s string) (Position, error) {
	if s == "" {
		return Position{}, nil
	}
	fields := strings.Split(s, "-")
	if len(fields) != 3 {
		return Position{}, fmt.Errorf("parse position %q: want three fields joined by -", s)
	}
	created, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		return Position{}, fmt.Errorf("parse position %q: creation time: %w", s, err)
	}
	sequence, err := strconv.ParseUint(fields[1], 10, 64)
	if err != nil {
		return Position{}, fmt.Errorf("parse position %q: sequence: %w", s, err)
	}
	checksum, err := strconv.ParseUint(fields[2], 16, 32)
	if err != nil {
		return Position{}, fmt.Errorf("parse position %q: checksum: %w", s, err)
	}
	p := Position{Created: time.Unix(0, created).UTC(), Sequence: sequence, Checksum: uint32(checksum)}
	if p.String() != s {
		return Position{}, fmt.Errorf("parse position %q: not in its shortest form", s)
	}
	return p, nil
}

// MarshalText is String.
func (p Position) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText is ParsePosition.
func (p *Position) UnmarshalText(b []byte) (err error) {
	*p, err = ParsePosition(string(b))
	return err
}

// checksum tells a message from others of its sequence, also from one with the same payload that was stored later.
func (m *Message) checksum() uint32 {
	var at [8]byte
	binary.LittleEndian.PutUint64(at[:], uint64(m.Time.UnixNano()))
	return crc32.Update(crc32.Checksum(m.Payload, castagnoli), castagnoli, at[:])
}
