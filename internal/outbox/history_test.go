package outbox

import (
	"testing"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/common/model"
)

func TestHistory(t *testing.T) {
	var h history
	want := func(at time.Duration, want float64, known bool) {
		t.Helper()
		if got, ok := h.rate(at); got != want || ok != known {
			t.Errorf("rate after %s is %g, %t; want %g, %t", at, got, ok, want, known)
		}
	}
	h.add(0, 600)
	want(59*time.Second, 0, false)
	want(time.Minute, 10, true)
	want(2*time.Minute, 5, true)
	for s := 1; s <= 3*3600; s++ {
		h.add(time.Duration(s)*time.Second, 7)
	}
	want(3*time.Hour, 7*(59*60+1)/(59*60.), true) // the last second is counted, and has just begun
	h.add(3*time.Hour+30*time.Minute, 0)
	want(3*time.Hour+30*time.Minute, 7*(29*60+1)/(59*60.), true)
	want(9*time.Hour, 0, true)
}

// How long the outbox lasts is bounded by its size or by its age, counts what the server has as free, and needs a minute.
func TestLeft(t *testing.T) {
	f := newFixture(t)
	f.conf.MaxBytes = 10 * units.MiB
	f.conf.MaxAge = model.Duration(time.Hour)
	f.open()
	want := func(want time.Duration) {
		t.Helper()
		if got := f.box.Stats().Left; (got-want).Abs() >= time.Second || (got < 0) != (want < 0) {
			t.Errorf("%s left, want %s", got, want)
		}
	}
	want(-1)
	f.clock = f.clock.Add(99 * time.Second)
	f.group(1, 100_000) // 1,000 bytes a second
	want(time.Hour)
	f.clock = f.clock.Add(900 * time.Second)
	want(45 * time.Minute)
	f.box.Ack(f.epoch(), 1, 1)
	want(time.Hour)
	for range 10 {
		f.group(1, 1_000_000)
	}
	want(485760 * time.Second * 1010 / 10_100_000) // room by rate
	f.box.Ack(f.epoch(), 2, 6)
	want(5485760 * time.Second * 1010 / 10_100_000)
}
