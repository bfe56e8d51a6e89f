package lane_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/thalweg/thalweg/internal/lane"
)

// Over links of every kind a bundle takes about 100 ms beside the way, and never much more.
func TestPace(t *testing.T) {
	const most = 512 << 10
	type link struct {
		rate int // bytes per second
		way  time.Duration
	}
	takes := func(l link, bytes int) time.Duration {
		return l.way + time.Duration(bytes)*time.Second/time.Duration(l.rate)
	}
	run := func(p *lane.Pace, l link) (room int) {
		for range 400 {
			room = min(p.Room(), most)
			p.Sent(room, takes(l, room))
		}
		return room
	}
	f := func(l link) {
		t.Run(fmt.Sprintf("%d B/s, %s", l.rate, l.way), func(t *testing.T) {
			room := run(&lane.Pace{}, l)
			if d := takes(l, room) - l.way; d > 300*time.Millisecond {
				t.Errorf("a bundle of %d bytes takes %s", room, d)
			}
			if want := min(l.rate/40, most); room < want {
				t.Errorf("bundles have %d bytes, want at least %d", room, want)
			}
		})
	}
	for _, rate := range []int{32_000, 125_000, 1_250_000, 125_000_000} {
		for _, way := range []time.Duration{time.Millisecond, 50 * time.Millisecond, 600 * time.Millisecond} {
			f(link{rate, way})
		}
	}

	// A link that becomes slow, and quick again.
	var p lane.Pace
	quick, slow := link{125_000_000, 20 * time.Millisecond}, link{125_000, 20 * time.Millisecond}
	run(&p, quick)
	if room := run(&p, slow); takes(slow, room) > 300*time.Millisecond {
		t.Errorf("after the link became slow bundles have %d bytes", room)
	}
	if room := run(&p, quick); room < most {
		t.Errorf("after the link became quick bundles have %d bytes", room)
	}
	// One that becomes long.
	if room := run(&p, link{125_000_000, 600 * time.Millisecond}); room < most {
		t.Errorf("after the link became long bundles have %d bytes", room)
	}
}

// Small messages between say nothing about what a link carries.
func TestPaceDoesNotGrowBySmallMessages(t *testing.T) {
	var p lane.Pace
	before := p.Room()
	for range 1000 {
		p.Sent(500, 600*time.Millisecond)
	}
	if p.Room() != before {
		t.Errorf("room grew from %d to %d", before, p.Room())
	}
}
