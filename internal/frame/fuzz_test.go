package frame_test

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/series/seriestest"
)

// fuzzLimits are small, so that inputs of a fuzzer's size reach them.
func fuzzLimits() frame.DecoderConfig {
	return frame.DecoderConfig{Catalog: series.NewCatalog(), MaxBody: 64 << 10, MaxColumns: 2000, MaxSources: 50, MaxState: 256 << 10}
}

// realFrames are those of a generated world and of the vectors.
func realFrames(f *testing.F) (frames [][]byte) {
	w := seriestest.New(1)
	enc := frame.NewEncoder(frame.EncoderConfig{Epoch: 7, MaxBody: 4 << 10})
	for range 30 {
		var err error
		if frames, err = enc.Append(frames, w.Row(), w.T); err != nil {
			f.Fatal(err)
		}
		frames = enc.Close(frames, w.T)
	}
	var files []string
	for _, set := range vectorSets {
		found, err := filepath.Glob(set.dir + "/*.txt")
		if err != nil || len(found) == 0 {
			f.Fatalf("no vectors in %s: %v", set.dir, err)
		}
		files = append(files, found...)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		v, err := parseVector(string(b))
		if err != nil {
			f.Fatal(err)
		}
		frames = append(frames, v.messages...)
	}
	return frames
}

// body cuts the header off a frame.
func body(b []byte) (body []byte, zstd, ok bool) {
	h, _, _, err := frame.Split(b)
	if err != nil {
		return nil, false, false
	}
	start := frame.HeaderSize
	if h.Flags&frame.FlagFirst != 0 {
		start += frame.PredecessorSize
	}
	return b[start:h.Size], h.Flags&frame.FlagZstd != 0, true
}

// FuzzDecode gives a decoder hostile bodies under sound headers: a keyframe, a delta to it, a keyframe again. Whatever
// they hold, rows that come out are sound enough to be encoded again, and an error leaves the decoder waiting for a
// keyframe.
func FuzzDecode(f *testing.F) {
	for _, b := range realFrames(f) {
		if body, zstd, ok := body(b); ok {
			f.Add(body, body, zstd, uint32(1))
			f.Add(body, []byte{}, zstd, uint32(0))
		}
	}
	f.Fuzz(func(t *testing.T, first, second []byte, zstd bool, rows uint32) {
		dec := frame.NewDecoder(fuzzLimits())
		enc := frame.NewEncoder(frame.EncoderConfig{Epoch: 9})
		handler := frame.Handler{Row: func(r *series.Row) {
			frame.AppendRow(nil, r)
			if _, err := enc.Append(nil, r, 0); err != nil {
				t.Errorf("a decoded row cannot be encoded: %s", err)
			}
		}}
		flags := frame.Flags(0)
		if zstd {
			flags = frame.FlagZstd
		}
		k := frame.Header{Kind: frame.Keyframe, Flags: flags | frame.FlagFirst, ID: frame.ID{Epoch: 1, Number: 1}, Rows: rows % 8}
		d := frame.Header{Kind: frame.Delta, Flags: flags, ID: frame.ID{Epoch: 1, Number: 2}, Base: 1, RowsBefore: 5, Rows: rows / 8 % 8}
		last := frame.Header{Kind: frame.Keyframe, Flags: flags, ID: frame.ID{Epoch: 1, Number: 3}, RowsBefore: 7, Rows: rows % 8}
		for _, b := range [][]byte{frame.Seal(nil, k, first), frame.Seal(nil, d, second), frame.Seal(nil, last, second)} {
			before := dec.Have()
			h, err := dec.Decode(b, handler)
			var mismatch *frame.MismatchError
			switch {
			case err == nil:
				if dec.Have() != h.ID {
					t.Fatalf("after frame %s the decoder is after %s", h.ID, dec.Have())
				}
			case errors.As(err, &mismatch):
				if dec.Have() != before {
					t.Fatalf("a mismatch moved the decoder from %s to %s", before, dec.Have())
				}
			case dec.Have() != frame.ID{}:
				t.Fatalf("after error %q the decoder is after %s", err, dec.Have())
			}
			if dec.Sources() > 50 {
				t.Fatalf("%d sources", dec.Sources())
			}
		}
	})
}

// FuzzRoundTrip lets the fuzzer steer the generator: what goes in must come out, bit for bit.
func FuzzRoundTrip(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed, []byte{1, 2, 3, 4, 5, 6, 7, 8, 250, 251, 252}, uint16(4<<10))
	}
	f.Fuzz(func(t *testing.T, seed uint64, steps []byte, maxBody uint16) {
		w := seriestest.New(seed)
		w.Rand = rand.New(&steered{steps: steps, then: rand.NewPCG(seed, 2)})
		enc := frame.NewEncoder(frame.EncoderConfig{Epoch: 7, MaxBody: int(maxBody)})
		dec := frame.NewDecoder(frame.DecoderConfig{Catalog: series.NewCatalog()})
		var want []string
		got := 0
		decode := func(frames [][]byte) {
			for _, b := range frames {
				h, err := dec.Decode(b, frame.Handler{Row: func(r *series.Row) {
					if text := seriestest.Show(r); text != want[got] {
						t.Fatalf("row %d\ngot\n%s\nwant\n%s", got, text, want[got])
					}
					got++
				}})
				if err != nil {
					t.Fatal(err)
				}
				if uint64(got) != h.RowsAfter() {
					t.Fatalf("after frame %s: %d rows came, its header says %d", h.ID, got, h.RowsAfter())
				}
			}
		}
		for i := range 20 {
			row := w.Row()
			want = append(want, seriestest.Show(row))
			frames, err := enc.Append(nil, row, w.T)
			if err != nil {
				t.Fatal(err)
			}
			if len(steps) > 0 && steps[i%len(steps)] > 200 {
				enc.RequestKeyframe()
			}
			if len(steps) > 0 && steps[i%len(steps)]%3 == 0 {
				frames = enc.Close(frames, w.T)
			}
			decode(frames)
		}
		decode(enc.Close(nil, w.T))
		if got != len(want) {
			t.Fatalf("%d rows came, %d were sent", got, len(want))
		}
	})
}

// steered is a source of randomness that a fuzzer writes the beginning of.
type steered struct {
	steps []byte
	then  rand.Source
}

func (s *steered) Uint64() uint64 {
	if len(s.steps) == 0 {
		return s.then.Uint64()
	}
	var b [8]byte
	n := copy(b[:], s.steps)
	s.steps = s.steps[n:]
	slices.Reverse(b[:]) // small inputs make large numbers, for IntN looks at the upper bits
	return binary.LittleEndian.Uint64(b[:])
}

// FuzzHeader: what ParseHeader takes, Seal writes again byte for byte; a frame has one form.
func FuzzHeader(f *testing.F) {
	for _, b := range realFrames(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, first, rest, err := frame.Split(b)
		if err != nil {
			if len(first) > 0 || len(rest) != len(b) {
				t.Fatalf("an error cut the bytes: %s", err)
			}
			if frame.ErrorKind(err) == "" {
				t.Fatalf("error %q has no kind", err)
			}
			return
		}
		if len(first)+len(rest) != len(b) || len(first) != h.Size {
			t.Fatalf("%d and %d bytes of %d, the header says %d", len(first), len(rest), len(b), h.Size)
		}
		content, _, _ := body(first)
		again := frame.Seal(nil, h, content)
		reseal(first)
		if string(again) != string(first) {
			t.Fatalf("sealed again it is\n%x\nand was\n%x", again, first)
		}
		if _, err := frame.Verify(again); err != nil {
			t.Fatal(err)
		}
	})
}
