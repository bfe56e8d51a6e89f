package lane_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/series"
)

// feeder gives a Sender a row every second of steady time, under a clock that may be set.
type feeder struct {
	t      *testing.T
	sender *lane.Sender
	schema *series.Schema
	source *series.Source
	now    int64
}

func newFeeder(t *testing.T) *feeder {
	m := newMaker(t, 1, 3)
	return &feeder{
		t: t, schema: m.schema, now: 1_700_000_000_000,
		source: &series.Source{Key: "static/a", Labels: labels.FromStrings("instance", "a", "job", "j"), Interval: time.Second},
		sender: lane.NewSender(lane.SenderConfig{
			Encoder: frame.EncoderConfig{Epoch: own}, KeyframeInterval: 10 * time.Second, Lookback: 5 * time.Second,
			Jitter: func() float64 { return 0 },
		}),
	}
}

// seconds returns the kinds of the frames of so many seconds, and their bytes.
func (f *feeder) seconds(n int) (kinds string, size int) {
	f.t.Helper()
	for range n {
		f.now += 1000
		frames, err := f.sender.Append(nil, &series.Row{Source: f.source, Schema: f.schema, T: f.now, Values: []float64{1, 2, 3}}, f.now)
		if err != nil {
			f.t.Fatal(err)
		}
		for _, data := range f.sender.Flush(frames, f.now) {
			h, err := frame.ParseHeader(data)
			if err != nil {
				f.t.Fatal(err)
			}
			kinds += h.Kind.String()[:1]
			size += len(data)
		}
	}
	return kinds, size
}

func TestSenderWhenTheClockIsSet(t *testing.T) {
	day := 24 * time.Hour.Milliseconds()
	for _, step := range []int64{0, -3_000, -365 * day, 365 * day, 20_000 * day} {
		steady, f := newFeeder(t), newFeeder(t)
		if kinds, _ := f.seconds(5); kinds != "kdddd" {
			t.Fatalf("first frames are %s", kinds)
		}
		steady.seconds(5)
		if f.sender.RequestKeyframe(f.now, true) {
			t.Error("a hub gets a keyframe 5 s after the last")
		}
		f.now += step
		kinds, size := f.seconds(30)
		wantKinds, wantSize := steady.seconds(30)
		if step != 0 { // how much time passed in that step cannot be told
			wantKinds = "d" + wantKinds[:29]
		}
		if kinds != wantKinds || size > wantSize*11/10 {
			t.Errorf("clock set by %d ms: frames %s of %d bytes, want %s of %d", step, kinds, size, wantKinds, wantSize)
		}
		f.now += step
		f.seconds(1)
		if f.sender.RequestKeyframe(f.now, true) {
			t.Errorf("clock set by %d ms: a hub gets a keyframe too early", step)
		}
	}
}

// The version changes whenever hubs come and go, in the middle of a frame or of a second: no row is lost with it, and none
// comes twice.
func TestSenderChangesVersion(t *testing.T) {
	key := func(r *series.Row) string { return fmt.Sprintf("%s %d %x", r.Source.Key, r.T, r.Values) }
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 4))
		catalog := series.NewCatalog()
		now := int64(1_700_000_000_000)
		sender := lane.NewSender(lane.SenderConfig{
			Encoder: frame.EncoderConfig{Epoch: own, Version: frame.Version - 1}, KeyframeInterval: 20 * time.Second, Lookback: 5 * time.Second,
			Jitter: r.Float64,
		})
		sender.Limit(4096)
		sources := make([]*series.Source, 5)
		schemas := make([]*series.Schema, len(sources))
		for i := range sources {
			sources[i] = &series.Source{Key: fmt.Sprintf("static/%d", i), Labels: labels.FromStrings("instance", fmt.Sprint(i), "job", "j"), Interval: time.Second}
			schemas[i] = catalog.Empty()
		}
		sent, came := map[string]bool{}, map[string]int{}
		var frames [][]byte
		for range 100 {
			now += int64(r.IntN(2000))
			i := r.IntN(len(sources))
			if n := schemas[i].Len(); n == 0 || r.IntN(10) == 0 {
				var columns []series.Column
				for k := range 1 + r.IntN(60) {
					columns = append(columns, series.Synthetic(fmt.Sprintf("metric_%d_%d", n, k), "A metric."))
				}
				schemas[i] = catalog.Extend(schemas[i], columns)
			}
			row := series.Row{Source: sources[i], Schema: schemas[i], T: now, Values: make([]float64, schemas[i].Len())}
			for k := range row.Values {
				row.Values[k] = float64(r.IntN(1000)) / float64(1+r.IntN(3))
			}
			var err error
			if frames, err = sender.Append(frames, &row, now); err != nil {
				t.Fatal(err)
			}
			sent[key(&row)] = true
			if r.IntN(8) == 0 {
				sender.SetVersion(frame.Version - r.IntN(2))
			}
			if r.IntN(15) == 0 {
				sender.RequestKeyframe(now, r.IntN(2) == 0)
			}
			if r.IntN(3) == 0 {
				frames = sender.Flush(frames, now)
			}
		}
		frames = sender.Flush(frames, now)
		receiver := lane.NewReceiver(lane.ReceiverConfig{Decoder: func(string) (frame.DecoderConfig, bool) {
			return frame.DecoderConfig{Catalog: series.NewCatalog()}, true
		}})
		versions := map[int]bool{}
		for i, data := range frames {
			h, err := frame.ParseHeader(data)
			if err != nil {
				t.Fatal(err)
			}
			versions[h.Version] = true
			receiver.Step(lane.Message{Site: "a", Sequence: uint64(i + 1), Received: now, Payload: data}, lane.Handler{
				Row:     func(_ *lane.Delivery, row *series.Row) { came[key(row)]++ },
				Problem: func(p lane.Problem) { t.Errorf("seed %d: frame %s: %v", seed, h.ID, p.Err) },
			})
		}
		for row := range sent {
			if came[row] != 1 {
				t.Errorf("seed %d: row %s came %d times", seed, row, came[row])
			}
		}
		if len(came) != len(sent) || len(versions) != 2 {
			t.Errorf("seed %d: %d rows came of %d, in frames of %d versions", seed, len(came), len(sent), len(versions))
		}
		ledger := receiver.Site("a").Ledger
		if have, lacking := ledger.Rows(); have != uint64(len(sent)) || lacking != 0 {
			t.Errorf("seed %d: the ledger has %d rows and lacks %d, want %d", seed, have, lacking, len(sent))
		}
		if t.Failed() {
			return
		}
	}
}
