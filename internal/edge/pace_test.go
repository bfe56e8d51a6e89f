package edge

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alecthomas/units"
	"golang.org/x/time/rate"

	"github.com/thalweg/thalweg/internal/lane"
)

// Both lanes together keep to the limit, and live frames wait for what is due of a backlog at a time at most.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace()
		if err := p.live(t.Context(), 1<<30); err != nil {
			t.Fatal(err) // without a limit nothing waits
		}
		p.set(1000)
		start := time.Now()
		const backlog = 20_000
		done := make(chan error)
		go func() { done <- p.backlog(t.Context(), backlog) }()
		time.Sleep(10 * time.Second) // the backlog is on its way
		sent := 0
		for range 5 {
			asked := time.Now()
			if err := p.live(t.Context(), 1000); err != nil {
				t.Fatal(err)
			}
			sent += 1000
			if waited := time.Since(asked); waited > time.Second+2*paceTurn {
				t.Errorf("a live frame of a second waited for %s", waited)
			}
			time.Sleep(time.Millisecond)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		want := time.Duration(float64(backlog+sent) / 1000 * float64(time.Second))
		if took := time.Since(start); (took - want).Abs() > 200*time.Millisecond {
			t.Errorf("%d bytes at 1000 a second took %s", backlog+sent, took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.live(ctx, 1<<20); err == nil {
			t.Error("a wait did not end with its context")
		}
	})
}

func TestPaceIsTheLeast(t *testing.T) {
	f := func(own int, want float64, hubs ...int64) {
		t.Helper()
		e := &Edge{pace: newPace()}
		e.config.Limits.BytesPerSecond = units.Base2Bytes(own)
		for _, h := range hubs {
			e.welcomes = append(e.welcomes, lane.Welcome{BytesPerSecond: h})
		}
		e.keepPace()
		if got := float64(e.pace.limit.Limit()); math.Abs(got-want) > 1e-6*want {
			t.Errorf("own %d, hubs %v: %v bytes per second, want %v", own, hubs, got, want)
		}
	}
	unlimited := float64(rate.Inf)
	f(0, hubShare*lane.DefaultBytesPerSecond) // no hub has said anything
	f(5000, 5000)
	f(0, 900, 1000)
	f(0, 900, 5000, 1000)
	f(0, 900, 0, 1000) // one that does not count
	f(500, 500, 1000)
	f(950, 900, 1000)
	f(0, unlimited, 0)
	f(500, 500, 0)
}
