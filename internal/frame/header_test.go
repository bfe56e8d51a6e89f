package frame_test

import (
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/thalweg/thalweg/internal/frame"
)

// TestHeader seals headers with every field set, and reads them back.
func TestHeader(t *testing.T) {
	for _, h := range []frame.Header{
		{Version: 1, Kind: frame.Keyframe, Flags: frame.FlagFirst, ID: frame.ID{Epoch: 1, Number: 1}, Rows: math.MaxUint32, Sent: -1},
		{Kind: frame.Keyframe, Flags: frame.FlagFirst | frame.FlagZstd, ID: frame.ID{Epoch: math.MaxUint64, Number: 1},
			Predecessor: frame.Predecessor{ID: frame.ID{Epoch: 2, Number: 3}, Rows: 4}},
		{Kind: frame.Keyframe, ID: frame.ID{Epoch: 1, Number: math.MaxUint64}, RowsBefore: math.MaxUint64 - 1, Rows: 1, Sent: math.MaxInt64},
		{Kind: frame.Delta, Flags: frame.FlagZstd, ID: frame.ID{Epoch: 1, Number: 1 << 40}, Base: 1<<40 - math.MaxUint32, Sent: math.MinInt64},
	} {
		b := frame.Seal([]byte("before"), h, []byte("body"))[len("before"):]
		h.Size = len(b)
		if h.Version == 0 {
			h.Version = frame.Version
		}
		got, first, rest, err := frame.Split(append(b, "behind"...))
		if err != nil || got != h || string(rest) != "behind" || string(first) != string(b) {
			t.Errorf("got %+v, %v\nwant %+v", got, err, h)
		}
		if got, err := frame.Verify(b); err != nil || got != h {
			t.Errorf("got %+v, %v", got, err)
		}
		if _, err := frame.Verify(append(b, 0)); err == nil || !strings.Contains(err.Error(), "1 bytes behind its end") {
			t.Errorf("a byte behind the frame: %v", err)
		}
		for n := range len(b) {
			if got, err := frame.ParseHeader(b[:n]); !errors.Is(err, frame.ErrShort) || n >= frame.HeaderSize && got.Size != len(b) {
				t.Errorf("%d bytes of %d: size %d, %v", n, len(b), got.Size, err)
			}
		}
		for i := range b { // no bit goes unnoticed
			for bit := range 8 {
				b[i] ^= 1 << bit
				if _, err := frame.Verify(b); err == nil {
					t.Errorf("bit %d of byte %d is another and nobody noticed", bit, i)
				}
				b[i] ^= 1 << bit
			}
		}
	}
}

// TestHeaderRefuses writes single fields of sound headers anew.
func TestHeaderRefuses(t *testing.T) {
	first := frame.Seal(nil, frame.Header{Kind: frame.Keyframe, Flags: frame.FlagFirst, ID: frame.ID{Epoch: 5, Number: 1},
		Predecessor: frame.Predecessor{ID: frame.ID{Epoch: 4, Number: 9}, Rows: 1}}, nil)
	delta := frame.Seal(nil, frame.Header{Kind: frame.Delta, ID: frame.ID{Epoch: 5, Number: 7}, Base: 6, Rows: 1}, nil)
	f := func(b []byte, offset, size int, v uint64, want string) {
		t.Helper()
		b = append([]byte(nil), b...)
		var field [8]byte
		binary.LittleEndian.PutUint64(field[:], v)
		copy(b[offset:offset+size], field[:])
		reseal(b)
		if _, err := frame.ParseHeader(b); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want %q", err, want)
		}
	}
	f(delta, 0, 1, 't', "magic is")
	f(delta, 3, 1, 0, "unknown frame version 0")
	f(delta, 3, 1, frame.Version+1, "unknown frame version 3")
	f(delta, 8, 4, 55, "size is 55, want 56")
	f(first, 8, 4, 79, "size is 79, want 80")
	f(delta, 8, 4, frame.MaxSize+1, "size is 67108865")
	f(delta, 12, 1, 0, "unknown frame kind 0")
	f(delta, 12, 1, 3, "unknown frame kind 3")
	f(delta, 13, 1, 4, "unknown flags 0x4")
	f(delta, 13, 1, 1, "size is 56, want 80") // no room for a predecessor
	f(first, 13, 1, 0, "after 0 rows has flags 0x0")
	f(first, 14, 2, 0x100, "reserved field is 0x100")
	f(delta, 16, 8, 0, "epoch is 0")
	f(delta, 24, 8, 0, "number is 0")
	f(delta, 24, 8, 1, "names a base 1 before it")
	f(first, 24, 8, 2, "has flags 0x1")
	f(first, 32, 8, 1, "after 1 rows")
	f(delta, 32, 8, math.MaxUint64, "overflow")
	f(delta, 44, 4, 0, "names a base 0 before it")
	f(delta, 44, 4, 7, "names a base 7 before it")
	f(first, 44, 4, 1, "names a base")
	f(first, 56, 8, 0, "as its predecessor")
	f(first, 56, 8, 5, "as its predecessor")
	f(first, 64, 8, 0, "as its predecessor")
}

func TestHeaderText(t *testing.T) {
	h := frame.Header{Kind: frame.Delta, ID: frame.ID{Epoch: 0xabc, Number: 7}, RowsBefore: 40, Rows: 2, Sent: 1_800_000_000_123}
	f := func(got, want any) {
		t.Helper()
		if got != want {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	f(h.ID.String(), "0000000000000abc/7")
	f(h.Kind.String(), "delta")
	f(frame.Keyframe.String(), "keyframe")
	f(frame.Kind(9).String(), "kind 9")
	f(frame.CausePaused.String(), "paused")
	f(frame.Cause(99).String(), "unknown")
	f(h.RowsAfter(), uint64(42))
	f(h.SentTime().UTC(), time.Date(2027, 1, 15, 8, 0, 0, 123e6, time.UTC))
}
