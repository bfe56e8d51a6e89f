package hub

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
)

// A live keyframe says that the site holds nothing more, while the backfill feed has not read yet what the stream has: that
// is not given up, and series end where it shows.
func TestKeyframeAheadOfBackfill(t *testing.T) {
	server := bustest.NewServer(t)
	c := newHub(t, bustest.Hub(t, server))
	w := newWriter(t, server.URL(), "ams-1", 1, 3)
	w.encoder = frame.NewEncoder(frame.EncoderConfig{Epoch: 1, Facts: []frame.Fact{{Name: lane.FactPending}}})
	d := newCollector()
	live, later := &marked{taker: d.live()}, &marked{taker: d.later()}
	o, err := NewOutput(OutputOptions{Name: "out", Dir: t.TempDir(), Hub: c.Hub, Live: live, Backfill: later, Ends: true, Oldest: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- o.Run(ctx) }()
	w.live(1)
	d.wait(t, 1)
	release := d.hold(true)
	next := func() []byte {
		w.encoder.RequestKeyframe()
		return w.frame()
	}
	w.publish(bus.Backfill, next())
	bustest.WaitFor(t, "a batch of backfill that waits", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.flushes == 2
	})
	w.absent = 1 << 1
	w.publish(bus.Backfill, next())
	ended := w.tick
	next() // and is lost
	w.publish(bus.Live, next())
	d.delivered(t, w, w.tick)
	if gaps := gapList(o.Gaps(10)); gaps != "ams-1 1/3-4:2 not_arrived" {
		t.Errorf("before backfill is read gaps are %q", gaps)
	}
	release()
	bustest.WaitFor(t, "the rest", func() bool { return c.output().Backfill.Rows == 3 }) // two and a marker
	w.live(1)
	d.delivered(t, w, w.tick)
	bustest.WaitFor(t, "what is lost to be known", func() bool { return gapList(o.Gaps(10)) == "ams-1 1/4-4:1 expired" })
	stop()
	if err := errors.Join(<-done, o.Close()); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(live.rows, later.rows), fmt.Sprintf("[] [0 of row 0: metric_1 at %d]", ended); got != want {
		t.Errorf("markers are %s, want %s", got, want)
	}
}
