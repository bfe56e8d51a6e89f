package frame_test

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/series/seriestest"
)

func heap() uint64 {
	runtime.GC()
	runtime.GC() // what the first one's cleanups released
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestMemory plays sites that make a hub hold as much as they can, frame after frame, until a limit stops them, and
// compares the heap with what the limits promise.
func TestMemory(t *testing.T) {
	limits := frame.DecoderConfig{MaxBody: 1 << 20, MaxColumns: 50_000, MaxSources: 1000, MaxState: 8 << 20}
	// A column costs 136 bytes in a schema, which may be in two arrays while it grows, and 41 in a source; all at
	// their limits, and a body.
	const bound = 50_000*300 + 8<<20 + 4<<20
	one := values(toks(tok(same, 1)))
	long := strings.Repeat("x", 100_000)
	// growth is n columns of two bytes: the only label of the first is empty, and so are all others.
	growth := func(id, parent, n int) []byte {
		cs := [][]byte{enc(byte(names), labelList("a", ""))}
		for range n - 1 {
			cs = append(cs, enc(byte(0), 0, ""))
		}
		return schema(id, parent, cs...)
	}
	wide := func(n int) []byte { // tokens of a row of n columns
		var b []byte
		for ; n > 0; n -= 32 {
			b = append(b, tok(same, min(n, 32)))
		}
		return values(b)
	}
	buckets := func(t int) []byte {
		return row(0, 1, t, histograms, byte(0), 1, 0, byte(0), signed(0), 0.0, 1, signed(0), 90_000, 0, 0, 90_000, 0, signed(0), signed(0), 0.0, make([]byte, 90_000))
	}
	attacks := map[string]func(number int) (rows int, blocks []byte){
		"schemas": func(n int) (int, []byte) { return 0, growth(n, 0, 40_000) },
		"forks": func(n int) (int, []byte) {
			if n == 1 {
				return 0, growth(1, 0, 10_000)
			}
			return 0, schema(n, 1, column(fmt.Sprint(n)))
		},
		"chains": func(n int) (int, []byte) {
			var b []byte
			for i := range 2000 {
				id := (n-1)*2000 + i + 1
				b = append(b, schema(id, id-1, column("a"))...)
			}
			return 0, b
		},
		"sources by columns": func(n int) (int, []byte) {
			b := source(n, fmt.Sprint(n))
			if n == 1 {
				b = append(b, growth(1, 0, 9000)...)
			}
			return 1, append(b, row(n, 1, n, 0, wide(9000))...)
		},
		"shared prefixes": func(n int) (int, []byte) { return 0, schema(n, 0, repeat(long, 1000)...) },
		"unfinished schema": func(n int) (int, []byte) {
			return 0, block(2, 1, 0, byte(1), 1, enc(byte(names), labelList("a", long)))
		},
		"source labels": func(n int) (int, []byte) { return 0, block(1, n, fmt.Sprint(n), 0, labelList("a", long)) },
		"families": func(n int) (int, []byte) {
			return 0, schema(n, 0, enc(byte(family|names), "", byte(0), long, "", labelList("a", "b")))
		},
		"buckets": func(n int) (int, []byte) {
			b := slices.Concat(source(n, fmt.Sprint(n)))
			if n == 1 {
				b = append(b, schema(1, 0, histogramColumn("h"))...)
			}
			r := buckets(n)
			r = slices.Concat(r[:4], enc(n), r[5:]) // kind, three bytes of length, source
			if n > 127 {
				return 0, nil
			}
			return 1, append(b, r...)
		},
		"exemplars": func(n int) (int, []byte) {
			b := source(n, fmt.Sprint(n))
			if n == 1 {
				b = append(b, schema(1, 0, column("a"))...)
			}
			return 1, append(b, row(n, 1, n, exemplars, one, 1, 0, byte(0), labelList("a", long), 1.0)...)
		},
		"unfinished exemplars": func(n int) (int, []byte) {
			var b []byte
			if n == 1 {
				b = slices.Concat(source(0, "s"), growth(1, 0, 1000))
			}
			x := enc(0, byte(0), 0, 1.0)
			many := slices.Concat(enc(n-1), x[1:]) // the first names the column, the others repeat it
			for range 100_000 {
				many = append(many, 0, 1)
			}
			return 0, append(b, row(0, 1, 1, ranged|more|exemplars, n-1, 1, one, 100_001, many)...)
		},
	}
	messages := map[string]func(number int) []byte{}
	for name, attack := range attacks {
		messages["version 1: "+name] = func(n int) []byte {
			rows, blocks := attack(n)
			if n == 1 {
				return key(rows, blocks)
			}
			return after(n, n-2, rows, blocks)
		}
	}
	for name, attack := range attacks2(long) {
		messages[name] = func(n int) []byte {
			rows, parts := attack(n)
			if n == 1 {
				return key2(rows, parts...)
			}
			return after2(n, n-2, rows, parts...)
		}
	}
	for name, message := range messages {
		t.Run(name, func(t *testing.T) {
			before := heap()
			cfg := limits
			cfg.Catalog = series.NewCatalog()
			dec := frame.NewDecoder(cfg)
			var stopped error
			for n := 1; n <= 1000 && stopped == nil; n++ {
				b := message(n)
				if n%20 == 1 {
					if now := heap(); now > before+bound {
						t.Fatalf("after %d frames the heap has grown by %d bytes, the limits promise %d", n, now-before, bound)
					}
				}
				_, stopped = dec.Decode(b, frame.Handler{})
			}
			var limit *frame.LimitError
			if !errors.As(stopped, &limit) {
				t.Errorf("stopped by %v, want a limit", stopped)
			}
			// What a limit stopped is not held until the next keyframe either, except for the sources, which may return.
			if now := heap(); now > before+uint64(limits.MaxState)+4<<20 {
				t.Errorf("after the error the heap has grown by %d bytes", now-before)
			}
			runtime.KeepAlive(dec)
		})
	}
}

// attacks2 are those that only version 2 makes possible, or makes cheaper.
func attacks2(long string) map[string]func(number int) (rows int, parts []part) {
	// wide is a schema of n columns, whose values are all the first one's.
	wide := func(id, n int, value string) part {
		return lists{values: append([]byte(value), make([]byte, n)...), names: []byte("a\x00"), numbers: append([]byte{1}, make([]byte, n)...),
			flags: append([]byte{names}, make([]byte, n-1)...)}.schema(id, 0, 0, n)
	}
	return map[string]func(int) (int, []part){
		"values of the column before": func(n int) (int, []part) { return 0, []part{wide(n, 1000, long)} },
		"schemas":                     func(n int) (int, []part) { return 0, []part{wide(n, 40_000, "")} },
		"sources by columns": func(n int) (int, []part) {
			var parts []part
			if n == 1 {
				parts = append(parts, wide(1, 9000, ""))
			}
			return 1, append(parts, plain(source(n, fmt.Sprint(n))), row2(max(2-n, 0), 1, n, 0, tokens2(9000), nil, nil))
		},
		"chains": func(n int) (int, []part) {
			parts := make([]part, 0, 2000)
			for i := range 2000 {
				parts = append(parts, lists{values: []byte{0}, names: []byte("a\x00"), numbers: []byte{1, 0}, flags: []byte{names}}.
					schema((n-1)*2000+i+1, (n-1)*2000+i, 0, 1))
			}
			return 0, parts
		},
	}
}

// TestBombs: what a compressed body asks for is refused before it is allocated.
func TestBombs(t *testing.T) {
	dec := frame.NewDecoder(frame.DecoderConfig{Catalog: series.NewCatalog(), MaxBody: 1 << 20})
	for _, b := range [][]byte{zstdKey(0, zstdZeros(1<<31, 1<<14)), zstdKey(0, zstdZeros(1<<20, 1<<14)), zstdKey(0, zstdZeros(10, 1<<14))} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := dec.Decode(b, frame.Handler{}); err == nil {
			t.Error("a bomb was decoded")
		}
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 8<<20 {
			t.Errorf("%d bytes were allocated for a limit of 1 MiB", n)
		}
	}
}

// send encodes rows, a frame each unless together, and compares what comes out.
func send(t *testing.T, enc *frame.Encoder, together bool, rows ...*series.Row) (frames [][]byte) {
	t.Helper()
	dec := frame.NewDecoder(frame.DecoderConfig{Catalog: series.NewCatalog()})
	var err error
	for _, r := range rows {
		if frames, err = enc.Append(frames, r, r.T); err != nil {
			t.Fatal(err)
		}
		if !together {
			frames = enc.Close(frames, r.T)
		}
	}
	frames = enc.Close(frames, 0)
	got := 0
	for _, b := range frames {
		_, err := dec.Decode(b, frame.Handler{Row: func(r *series.Row) {
			if got, want := seriestest.Show(r), seriestest.Show(rows[got]); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			got++
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	if got != len(rows) {
		t.Errorf("%d rows came, %d were sent", got, len(rows))
	}
	return frames
}

func gauges(c *series.Catalog, names ...string) *series.Schema {
	var cs []series.Column
	for _, n := range names {
		cs = append(cs, series.Synthetic(n, ""))
	}
	return c.Extend(c.Empty(), cs)
}

// TestEqualSchemasOfTwoCatalogs: the encoder takes them for two, and so must the decoder, whose catalog makes one of
// them.
func TestEqualSchemasOfTwoCatalogs(t *testing.T) {
	a, b := gauges(series.NewCatalog(), "x"), gauges(series.NewCatalog(), "x")
	source := &series.Source{Key: "s"}
	send(t, frame.NewEncoder(frame.EncoderConfig{Epoch: 1}), false,
		&series.Row{Source: source, Schema: a, T: 1, Values: []float64{100}},
		&series.Row{Source: source, Schema: b, T: 2, Values: []float64{103}},
		&series.Row{Source: source, Schema: b, T: 3, Values: []float64{106}},
		&series.Row{Source: source, Schema: a, T: 4, Values: []float64{109}})
}

// TestSameKey: a source that got other labels is another object with the same key.
func TestSameKey(t *testing.T) {
	schema := gauges(series.NewCatalog(), "x")
	old := &series.Source{Key: "s", Labels: labels.FromStrings("job", "a")}
	renewed := &series.Source{Key: "s", Labels: labels.FromStrings("job", "b")}
	enc := frame.NewEncoder(frame.EncoderConfig{Epoch: 1})
	send(t, enc, true,
		&series.Row{Source: old, Schema: schema, T: 1, Values: []float64{100}},
		&series.Row{Source: renewed, Schema: schema, T: 2, Values: []float64{100}},
		&series.Row{Source: old, Schema: schema, T: 3, End: true},
		&series.Row{Source: renewed, Schema: schema, T: 4, Values: []float64{100}})
	if enc.Sources() != 1 {
		t.Errorf("%d sources, want 1", enc.Sources())
	}
}

// TestStartsAreSplit: start timestamps and exemplars of a large row stay within the size of a frame, and what did not
// change costs nothing.
func TestStartsAreSplit(t *testing.T) {
	const n, maxBody = 5000, 16 << 10
	c := series.NewCatalog()
	var names []string
	for i := range n {
		names = append(names, fmt.Sprint("m", i))
	}
	source, schema := &series.Source{Key: "s"}, gauges(c, names...)
	row := func(at int64) *series.Row {
		r := &series.Row{Source: source, Schema: schema, T: at, Values: make([]float64, n)}
		for i := range n {
			r.Values[i] = math.Sqrt(float64(i))
			r.Starts = append(r.Starts, series.StartAt{Column: uint32(i), Ms: int64(i * i * 7919)})
			if i%100 == 0 {
				r.Exemplars = append(r.Exemplars, series.ExemplarAt{Column: uint32(i), Exemplar: exemplar.Exemplar{Value: 1}})
			}
		}
		return r
	}
	frames := send(t, frame.NewEncoder(frame.EncoderConfig{Epoch: 1, MaxBody: maxBody}), false, row(1), row(2))
	dec := frame.NewDecoder(frame.DecoderConfig{Catalog: series.NewCatalog(), MaxBody: maxBody})
	for _, b := range frames {
		if _, err := dec.Decode(b, frame.Handler{}); err != nil {
			t.Errorf("with a limit of the encoder's size: %s", err)
		}
	}
	if last := len(frames[len(frames)-1]); last > 1500 {
		t.Errorf("a row in which nothing changed takes %d bytes", last)
	}
}

// TestColumnsWithoutLabels: a series may have no labels but those of its source.
func TestColumnsWithoutLabels(t *testing.T) {
	c := series.NewCatalog()
	schema := c.Extend(c.Empty(), []series.Column{{}, {Kind: series.Float}, {}})
	send(t, frame.NewEncoder(frame.EncoderConfig{Epoch: 1}), false,
		&series.Row{Source: &series.Source{Key: "s"}, Schema: schema, T: 1, Values: []float64{1, 2, 3}})
}

// TestRefusedRows: what the encoder refuses changes nothing.
func TestRefusedRows(t *testing.T) {
	schema, source := gauges(series.NewCatalog(), "x", "y"), &series.Source{Key: "s"}
	x := []series.ExemplarAt{{Column: 1}}
	for name, row := range map[string]series.Row{
		"too few values":                {Values: []float64{1}},
		"presence too short":            {Values: []float64{1, 2}, Present: []uint64{}},
		"column twice":                  {Columns: []uint32{1, 1}, Values: []float64{1, 2}},
		"column beyond":                 {Columns: []uint32{2}, Values: []float64{1}},
		"exemplar of absent column":     {Values: []float64{1, 2}, Present: []uint64{1}, Exemplars: x},
		"exemplar of column not listed": {Columns: []uint32{0}, Values: []float64{1}, Exemplars: x},
		"start of column not listed":    {Columns: []uint32{0}, Values: []float64{1}, Starts: []series.StartAt{{Column: 1}}},
		"histogram in float column":     {Values: []float64{1, 2}, Histograms: []series.HistogramAt{{Column: 0}}},
	} {
		enc := frame.NewEncoder(frame.EncoderConfig{Epoch: 1})
		row.Source, row.Schema = source, schema
		if _, err := enc.Append(nil, &row, 0); err == nil {
			t.Errorf("%s: no error", name)
		}
		if !enc.Empty() || enc.Sources() != 0 {
			t.Errorf("%s: it left something behind", name)
		}
	}
}

// TestLossIsInTheNextFrame: a loss announced while a frame is under construction goes with it.
func TestLossIsInTheNextFrame(t *testing.T) {
	enc := frame.NewEncoder(frame.EncoderConfig{Epoch: 1})
	source, schema := &series.Source{Key: "s"}, gauges(series.NewCatalog(), "x")
	if _, err := enc.Append(nil, &series.Row{Source: source, Schema: schema, Values: []float64{1}}, 0); err != nil {
		t.Fatal(err)
	}
	want := frame.Loss{Epoch: 5, From: 1, To: 2, Rows: 3, First: 4, Last: 5, Cause: frame.CauseEvicted}
	enc.Loss(want)
	frames := enc.Close(nil, 0)
	if len(frames) != 1 || !enc.Empty() {
		t.Fatalf("%d frames, empty %t", len(frames), enc.Empty())
	}
	var got frame.Loss
	dec := frame.NewDecoder(frame.DecoderConfig{Catalog: series.NewCatalog()})
	if _, err := dec.Decode(frames[0], frame.Handler{Loss: func(l frame.Loss) { got = l }}); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
}
