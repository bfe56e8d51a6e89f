package lane_test

import (
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
