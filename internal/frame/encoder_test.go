package frame_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/series/seriestest"
)

// TestKeyframesStandAlone decodes every keyframe, and what follows it, with a decoder of its own.
func TestKeyframesStandAlone(t *testing.T) {
	w := seriestest.New(3)
	enc := frame.NewEncoder(frame.EncoderConfig{Epoch: 7, MaxBody: 8 << 10})
	var decoders []*frame.Decoder
	var seen [][]string // by decoder, the rows of the newest frames
	for i := range 120 {
		if i%30 == 29 {
			enc.RequestKeyframe()
		}
		frames, err := enc.Append(nil, w.Row(), w.T)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range enc.Close(frames, w.T) {
			h, err := frame.Verify(b)
			if err != nil {
				t.Fatal(err)
			}
			if h.Kind == frame.Keyframe {
				decoders = append(decoders, frame.NewDecoder(frame.DecoderConfig{Catalog: series.NewCatalog()}))
			}
			seen = make([][]string, len(decoders))
			for d, dec := range decoders {
				if _, err := dec.Decode(b, frame.Handler{Row: func(r *series.Row) { seen[d] = append(seen[d], seriestest.Show(r)) }}); err != nil {
					t.Fatalf("decoder %d: %s", d, err)
				}
				if !slices.Equal(seen[d], seen[0]) {
					t.Fatalf("frame %s: decoder %d got\n%s\nthe first got\n%s", h.ID, d, seen[d], seen[0])
				}
			}
		}
	}
	if last := enc.Last(); last.RowsAfter() != 120 || last.Number < 120 {
		t.Errorf("the encoder is at %s after %d rows", last.ID, last.RowsAfter())
	}
	if len(decoders) < 4 {
		t.Errorf("%d keyframes", len(decoders))
	}
}

// TestSteadyRow counts the bytes of rows in which nothing happens: of each a byte for the kind of the block, its length,
// source, flags, time, the size of the tokens and the tokens, also if columns are absent as before.
func TestSteadyRow(t *testing.T) {
	schema := gauges(series.NewCatalog(), "x", "y", "z")
	enc := frame.NewEncoder(frame.EncoderConfig{Epoch: 1})
	a := &series.Source{Key: "a", Interval: 15 * time.Second}
	b := &series.Source{Key: "b", Interval: 10 * time.Second}
	for i := range int64(5) {
		for _, row := range []series.Row{
			{Source: a, Schema: schema, T: 1000 + i*15_000, Values: []float64{1, 2, 3}},
			{Source: b, Schema: schema, T: 2000 + i*10_000, Values: []float64{4, 0, 5}, Present: []uint64{0b101}},
		} {
			if _, err := enc.Append(nil, &row, 0); err != nil {
				t.Fatal(err)
			}
		}
		frames := enc.Close(nil, 0)
		if len(frames) != 1 {
			t.Fatalf("%d frames", len(frames))
		}
		if want := frame.HeaderSize + 1 + 2*7; i > 0 && len(frames[0]) != want {
			t.Errorf("frame %d has %d bytes, want %d: % x", i+1, len(frames[0]), want, frames[0][frame.HeaderSize:])
		}
	}
}

func TestForgetSilent(t *testing.T) {
	schema := gauges(series.NewCatalog(), "x", "y")
	enc := frame.NewEncoder(frame.EncoderConfig{Epoch: 1})
	dec := frame.NewDecoder(frame.DecoderConfig{Catalog: series.NewCatalog()})
	var forgotten []string
	decode := func(frames [][]byte) {
		t.Helper()
		for _, b := range frames {
			if _, err := dec.Decode(b, frame.Handler{Forget: func(s *series.Source) { forgotten = append(forgotten, s.Key) }}); err != nil {
				t.Fatal(err)
			}
		}
	}
	sources := make([]*series.Source, 10)
	for i := range sources {
		sources[i] = &series.Source{Key: fmt.Sprint(i)}
		frames, err := enc.Append(nil, &series.Row{Source: sources[i], Schema: schema, T: int64(i), Values: []float64{1, 2}}, int64(i))
		if err != nil {
			t.Fatal(err)
		}
		decode(frames)
	}
	if enc.Sources() != 10 || enc.Columns() != 20 {
		t.Errorf("%d sources with %d columns", enc.Sources(), enc.Columns())
	}
	until := func(n int64) func(*series.Source) int64 { return func(*series.Source) int64 { return n } }
	decode(enc.Close(enc.ForgetSilent(nil, until(4), 100), 100))
	slices.Sort(forgotten)
	if !slices.Equal(forgotten, []string{"0", "1", "2", "3"}) || dec.Sources() != 6 || enc.Sources() != 6 {
		t.Errorf("forgotten %s; the decoder has %d sources, the encoder %d", forgotten, dec.Sources(), enc.Sources())
	}
	frames, err := enc.Append(nil, &series.Row{Source: sources[0], Schema: schema, T: 200, Values: []float64{1, 2}}, 200)
	if err != nil {
		t.Fatal(err)
	}
	decode(enc.Close(frames, 200))

	// A keyframe that is due forgets all of them without a word.
	forgotten = nil
	enc.RequestKeyframe()
	decode(enc.Close(enc.ForgetSilent(nil, until(300), 300), 300))
	if len(forgotten) != 0 || dec.Sources() != 0 || enc.Sources() != 0 {
		t.Errorf("forgotten %s; the decoder has %d sources, the encoder %d", forgotten, dec.Sources(), enc.Sources())
	}
}

// TestSourcesKeepTheirAddress over keyframes and errors, as long as nothing about them changes.
func TestSourcesKeepTheirAddress(t *testing.T) {
	schema := gauges(series.NewCatalog(), "x")
	enc := frame.NewEncoder(frame.EncoderConfig{Epoch: 1})
	dec := frame.NewDecoder(frame.DecoderConfig{Catalog: series.NewCatalog()})
	now := int64(0)
	send := func(source *series.Source, end bool) (got *series.Source) {
		t.Helper()
		now++
		frames, err := enc.Append(nil, &series.Row{Source: source, Schema: schema, T: now, Values: []float64{1}, End: end}, now)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range enc.Close(frames, now) {
			if _, err := dec.Decode(b, frame.Handler{Row: func(r *series.Row) { got = r.Source }}); err != nil {
				t.Fatal(err)
			}
		}
		return got
	}
	s := &series.Source{Key: "s", Labels: labels.FromStrings("job", "a")}
	one := send(s, false)
	enc.RequestKeyframe()
	if send(s, false) != one {
		t.Error("a keyframe made another source")
	}
	if _, err := dec.Decode([]byte("damaged"), frame.Handler{}); err == nil {
		t.Error("nonsense was decoded")
	}
	enc.RequestKeyframe()
	if send(s, false) != one {
		t.Error("an error made another source")
	}
	enc.RequestKeyframe()
	if got := send(&series.Source{Key: "s", Labels: labels.FromStrings("job", "b")}, false); got == one || got.Labels.Get("job") != "b" {
		t.Error("other labels are the same source")
	}
	send(s, true)
	if send(s, false) == one {
		t.Error("an ended source came back")
	}
}

// TestNotices: facts, losses and refusals arrive, without rows too.
func TestNotices(t *testing.T) {
	facts := []frame.Fact{{Name: "version", Value: "1"}, {Name: "ü", Value: ""}}
	refusals := []frame.Refusal{{Reason: "series_limit", Series: 3, Samples: 1 << 40, Example: "up{}"}, {}}
	enc := frame.NewEncoder(frame.EncoderConfig{Epoch: 1, Facts: facts})
	if !enc.Empty() || len(enc.Close(nil, 0)) != 0 {
		t.Error("an encoder without rows made a frame")
	}
	enc.Refusals(refusals)
	if enc.Empty() {
		t.Error("refusals do not count")
	}
	enc.Refusals(make([]frame.Refusal, 5000)) // beyond what a block may list
	frames := enc.Close(nil, 0)
	if len(frames) != 1 {
		t.Fatalf("%d frames", len(frames))
	}
	dec := frame.NewDecoder(frame.DecoderConfig{Catalog: series.NewCatalog()})
	var gotFacts []frame.Fact
	var gotRefusals [][]frame.Refusal
	if _, err := dec.Decode(frames[0], frame.Handler{
		Origin:   func(f []frame.Fact) { gotFacts = f },
		Refusals: func(r []frame.Refusal) { gotRefusals = append(gotRefusals, r) },
	}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(gotFacts, facts) {
		t.Errorf("facts %v", gotFacts)
	}
	if len(gotRefusals) != 2 || !slices.Equal(gotRefusals[0], refusals) || len(gotRefusals[1]) != 1024 {
		t.Errorf("refusals %v", gotRefusals)
	}
}

// TestMetricTypes: the nine types survive, and one that nobody knows is unknown.
func TestMetricTypes(t *testing.T) {
	c := series.NewCatalog()
	for sent, want := range map[model.MetricType]model.MetricType{"": "", "unknown": "unknown", "counter": "counter", "gauge": "gauge",
		"histogram": "histogram", "gaugehistogram": "gaugehistogram", "summary": "summary", "info": "info", "stateset": "stateset", "other": "unknown"} {
		schema := c.Extend(c.Empty(), []series.Column{{Family: series.Family{Name: "f", Type: sent}}})
		enc := frame.NewEncoder(frame.EncoderConfig{Epoch: 1})
		frames, err := enc.Append(nil, &series.Row{Source: &series.Source{}, Schema: schema, Values: []float64{0}}, 0)
		if err != nil {
			t.Fatal(err)
		}
		dec := frame.NewDecoder(frame.DecoderConfig{Catalog: series.NewCatalog()})
		if _, err := dec.Decode(enc.Close(frames, 0)[0], frame.Handler{Row: func(r *series.Row) {
			if got := r.Schema.Column(0).Family.Type; got != want {
				t.Errorf("type %q became %q, want %q", sent, got, want)
			}
		}}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSetMaxBody: frames follow the server's max_payload.
func TestSetMaxBody(t *testing.T) {
	c := series.NewCatalog()
	var names []string
	for i := range 3000 {
		names = append(names, fmt.Sprint("metric_", i))
	}
	schema, source := gauges(c, names...), &series.Source{Key: "s"}
	enc := frame.NewEncoder(frame.EncoderConfig{Epoch: 1})
	row := &series.Row{Source: source, Schema: schema, Values: make([]float64, 3000)}
	whole := send(t, enc, false, row)
	enc = frame.NewEncoder(frame.EncoderConfig{Epoch: 1})
	enc.SetMaxBody(0) // as small as it can be
	cut := send(t, enc, false, row)
	if len(whole) != 1 || len(cut) < 5 {
		t.Errorf("%d frames, and %d small ones", len(whole), len(cut))
	}
	dec := frame.NewDecoder(frame.DecoderConfig{Catalog: series.NewCatalog(), MaxBody: 4 << 10})
	for _, b := range cut {
		if _, err := dec.Decode(b, frame.Handler{}); err != nil {
			t.Error(err)
		}
	}
	var limit *frame.LimitError
	if _, err := dec.Decode(whole[0], frame.Handler{}); !errors.As(err, &limit) {
		t.Errorf("a large frame: %v", err)
	}
}

// TestReset makes a decoder wait.
func TestReset(t *testing.T) {
	frames := encodeTwo(t)
	dec := frame.NewDecoder(frame.DecoderConfig{Catalog: series.NewCatalog()})
	if _, err := dec.Decode(frames[0], frame.Handler{}); err != nil {
		t.Fatal(err)
	}
	dec.Reset()
	var mismatch *frame.MismatchError
	if _, err := dec.Decode(frames[1], frame.Handler{}); !errors.As(err, &mismatch) || mismatch.Base != 1 || mismatch.Have != (frame.ID{}) {
		t.Errorf("a delta after Reset: %v", err)
	}
}

func encodeTwo(t *testing.T) [][]byte {
	schema, source := gauges(series.NewCatalog(), "x"), &series.Source{Key: "s"}
	return send(t, frame.NewEncoder(frame.EncoderConfig{Epoch: 1}), false,
		&series.Row{Source: source, Schema: schema, T: 1, Values: []float64{1}},
		&series.Row{Source: source, Schema: schema, T: 2, Values: []float64{2}})
}

// TestSharedScratch lets decoders of different lanes share the memory for decompression.
func TestSharedScratch(t *testing.T) {
	w := seriestest.New(5)
	enc := frame.NewEncoder(frame.EncoderConfig{Epoch: 7})
	var frames [][]byte
	var want []string
	for range 60 {
		row := w.Row()
		want = append(want, seriestest.Show(row))
		var err error
		if frames, err = enc.Append(frames, row, w.T); err != nil {
			t.Fatal(err)
		}
		frames = enc.Close(frames, w.T)
	}
	scratch, catalog := &frame.Scratch{}, series.NewCatalog()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			dec := frame.NewDecoder(frame.DecoderConfig{Catalog: catalog, Scratch: scratch})
			var got []string
			for _, b := range frames {
				if _, err := dec.Decode(b, frame.Handler{Row: func(r *series.Row) { got = append(got, seriestest.Show(r)) }}); err != nil {
					t.Error(err)
				}
			}
			if !slices.Equal(got, want) {
				t.Error("other rows came than were sent")
			}
		})
	}
	wg.Wait()
}

// TestSetVersion: the version changes with a keyframe and at no other time, and both ends follow.
func TestSetVersion(t *testing.T) {
	schema, source := gauges(series.NewCatalog(), "x"), &series.Source{Key: "s"}
	enc := frame.NewEncoder(frame.EncoderConfig{Epoch: 1})
	dec := frame.NewDecoder(frame.DecoderConfig{Catalog: series.NewCatalog()})
	var got []string
	now := int64(0)
	row := func() {
		t.Helper()
		now++
		frames, err := enc.Append(nil, &series.Row{Source: source, Schema: schema, T: now, Values: []float64{float64(now)}}, now)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range enc.Close(frames, now) {
			h, err := dec.Decode(b, frame.Handler{Row: func(r *series.Row) {
				if r.Values[0] != float64(now) {
					t.Errorf("value %v of row %d", r.Values[0], now)
				}
			}})
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprint(h.Version, " ", h.Kind))
		}
	}
	row()
	row()
	enc.SetVersion(1)
	row()
	row()
	enc.SetVersion(1)
	row()
	enc.SetVersion(2)
	row()
	row()
	want := []string{"2 keyframe", "2 delta", "1 keyframe", "1 delta", "1 delta", "2 keyframe", "2 delta"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestAllocations: a row that only has other values costs no memory, neither where it is written nor where it is read.
func TestAllocations(t *testing.T) {
	rows := corpusRows(t, "node")
	schema := rows[0].Schema
	next, now := 0, int64(0)
	row := func() *series.Row {
		now++
		r := *rows[next%len(rows)]
		next++
		r.T, r.Schema, r.Present, r.Values = now, schema, nil, r.Values[:schema.Len()]
		return &r
	}
	enc := frame.NewEncoder(frame.EncoderConfig{Epoch: 1})
	var frames [][]byte
	for range 300 {
		var err error
		if frames, err = enc.Append(frames, row(), now); err != nil {
			t.Fatal(err)
		}
		frames = enc.Close(frames, now)
	}
	dec := frame.NewDecoder(frame.DecoderConfig{Catalog: series.NewCatalog()})
	handler := frame.Handler{Row: func(*series.Row) {}}
	at := 0
	decode := func() {
		if _, err := dec.Decode(frames[at], handler); err != nil {
			t.Fatal(err)
		}
		at++
	}
	for range 100 {
		decode()
	}
	if n := testing.AllocsPerRun(150, decode); n > 0 {
		t.Errorf("decoding a row allocates %v times", n)
	}
	var list []*series.Row
	for range 100 {
		list = append(list, row())
	}
	at = 0
	if n := testing.AllocsPerRun(80, func() {
		if _, err := enc.Append(nil, list[at], now); err != nil {
			t.Fatal(err)
		}
		at++
	}); n > 0 {
		t.Errorf("encoding a row allocates %v times", n)
	}
}

// TestAllocationsOfFleet: a frame of many rows costs the memory of the frame where it is made, and none where it is read.
func TestAllocationsOfFleet(t *testing.T) {
	const fleet, rounds = 20, 60
	rows := corpusRows(t, "node")
	schema := rows[0].Schema
	var sources [fleet]*series.Source
	for i := range sources {
		sources[i] = &series.Source{Key: fmt.Sprint("node-", i)}
	}
	list := make([]*series.Row, 0, fleet*rounds)
	for i := range cap(list) {
		r := *rows[(i/fleet+i)%len(rows)]
		r.Source, r.Schema, r.T = sources[i%fleet], schema, int64(i/fleet)
		r.Present, r.Values = nil, r.Values[:schema.Len()]
		list = append(list, &r)
	}
	enc := frame.NewEncoder(frame.EncoderConfig{Epoch: 1})
	frames := make([][]byte, 0, 2*rounds)
	round := 0
	encode := func() {
		for _, r := range list[round*fleet : (round+1)*fleet] {
			var err error
			if frames, err = enc.Append(frames, r, r.T); err != nil {
				t.Fatal(err)
			}
		}
		frames = enc.Close(frames, int64(round))
		round++
	}
	for round < rounds/2 {
		encode()
	}
	if n := testing.AllocsPerRun(rounds-round-1, encode); n > 1 {
		t.Errorf("encoding a frame of %d rows allocates %v times", fleet, n)
	}
	dec := frame.NewDecoder(frame.DecoderConfig{Catalog: series.NewCatalog()})
	at := 0
	decode := func() {
		if _, err := dec.Decode(frames[at], frame.Handler{Row: func(*series.Row) {}}); err != nil {
			t.Fatal(err)
		}
		at++
	}
	for at < len(frames)/2 {
		decode()
	}
	if n := testing.AllocsPerRun(len(frames)-at-1, decode); n > 0 {
		t.Errorf("decoding a frame of %d rows allocates %v times", fleet, n)
	}
}
