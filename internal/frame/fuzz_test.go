package frame_test

import (
	"encoding/binary"
	"errors"
	"math"
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
			f.Add(body, body, zstd, uint32(1), b[3] == 1)
			f.Add(body, []byte{}, zstd, uint32(0), b[3] == 1)
		}
	}
	f.Fuzz(func(t *testing.T, first, second []byte, zstd bool, rows uint32, older bool) {
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
		version := frame.Version
		if older {
			version--
		}
		k := frame.Header{Version: version, Kind: frame.Keyframe, Flags: flags | frame.FlagFirst, ID: frame.ID{Epoch: 1, Number: 1}, Rows: rows % 8}
		d := frame.Header{Version: version, Kind: frame.Delta, Flags: flags, ID: frame.ID{Epoch: 1, Number: 2}, Base: 1, RowsBefore: 5, Rows: rows / 8 % 8}
		last := frame.Header{Version: version, Kind: frame.Keyframe, Flags: flags, ID: frame.ID{Epoch: 1, Number: 3}, RowsBefore: 7, Rows: rows % 8}
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
		enc := frame.NewEncoder(frame.EncoderConfig{Epoch: 7, MaxBody: int(maxBody), Version: frame.Versions()[seed%2]})
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
			if len(steps) > 0 && steps[i%len(steps)] > 240 {
				enc.SetVersion(frame.Versions()[i%2])
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

// FuzzValues lets the fuzzer choose the values of three columns, row for row: both versions give them back, bit for bit.
func FuzzValues(f *testing.F) {
	add := func(values ...float64) {
		var b []byte
		for _, v := range values {
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
		}
		f.Add(b)
	}
	negativeZero := math.Copysign(0, -1)
	add(0, negativeZero, 1, negativeZero, 0, math.NaN(), 0, 0, 0)
	add(1<<53-1, -(1<<53 - 1), 1<<53, 1-(1<<53), 1<<53, -1, 0, 1<<53-1, 1<<52)
	add(math.Inf(1), math.Float64frombits(0x7ff0000000000002), math.MaxFloat64, 1, 2, math.SmallestNonzeroFloat64, math.Inf(-1), 3, 4)
	add(0.1, 0.3, 4096, 0.2, 0.30000000000000004, 8192, 0.25, 0.7999999999999999, 12289, 0.125, 1e-9, 1<<40)
	add(1.5, 1e15, 1e-15, 9007199254740.991, 0.1, 3e22, 1e300, -0.5, 7, 1e-300, 0.001, 8)
	add(1795230889.0761843, math.Pi, 5, 1795230894.0622323, math.E, 7, 1795230899.0670247, math.Sqrt2, 12, 1795230904.0704896, math.Phi, 14)
	var counter []float64
	for i := range 60 {
		counter = append(counter, float64(i*15), float64(i)*0.001+float64(i%3)*1e-9, float64(i*4096))
	}
	add(counter...)
	catalog := series.NewCatalog()
	schema, source := gauges(catalog, "a", "b", "c"), &series.Source{Key: "s"}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, version := range frame.Versions() {
			enc := frame.NewEncoder(frame.EncoderConfig{Epoch: 7, Version: version})
			dec := frame.NewDecoder(frame.DecoderConfig{Catalog: catalog})
			for rest, at := b, int64(0); len(rest) >= 24; rest, at = rest[24:], at+1 {
				row := &series.Row{Source: source, Schema: schema, T: at, Values: make([]float64, 3)}
				for i := range row.Values {
					row.Values[i] = math.Float64frombits(binary.LittleEndian.Uint64(rest[8*i:]))
				}
				frames, err := enc.Append(nil, row, at)
				if err != nil {
					t.Fatal(err)
				}
				want := seriestest.Show(row)
				for _, one := range enc.Close(frames, at) {
					if _, err := dec.Decode(one, frame.Handler{Row: func(r *series.Row) {
						if got := seriestest.Show(r); got != want {
							t.Fatalf("version %d, row %d\ngot\n%s\nwant\n%s", version, at, got, want)
						}
					}}); err != nil {
						t.Fatalf("version %d, row %d: %s", version, at, err)
					}
				}
			}
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
