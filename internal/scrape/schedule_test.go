package scrape

import (
	"testing"
	"time"
)

func TestGrid(t *testing.T) {
	base := time.Unix(1_700_000_000, 0) // a multiple of 10 s
	at := func(d time.Duration) time.Time { return base.Add(d) }
	g := grid{interval: 10 * time.Second, offset: 3 * time.Second}
	f := func(what string, last, now time.Time, want time.Duration) {
		t.Helper()
		if got := g.next(last, now); !got.Equal(at(want)) {
			t.Errorf("%s: next is %s, want %s", what, got.Sub(base), want)
		}
	}
	s := time.Second
	f("first", time.Time{}, at(0), 3*s)
	f("first, on the grid", time.Time{}, at(3*s), 13*s)
	f("in time", at(3*s), at(4*s), 13*s)
	f("early timer", at(3*s), at(13*s-1), 13*s)
	f("after an immediate one", at(1*s), at(2*s), 3*s)
	f("scrape took longer than the interval", at(3*s), at(14*s), 13*s)
	f("several missed", at(3*s), at(44*s), 43*s)
	f("clock set back", at(1003*s), at(4*s), 13*s)
	f("clock set forward", at(3*s), at(1004*s), 1003*s)
	f("interval became shorter", at(-50*s), at(2*s), -7*s)

	r := func(due, now, want time.Duration) {
		t.Helper()
		if got := g.rowTime(at(due), at(now)); !got.Equal(at(want)) {
			t.Errorf("due %s, begun %s: row time %s, want %s", due, now, got.Sub(base), want)
		}
	}
	ms := time.Millisecond
	r(3*s, 3*s+2*ms, 3*s)
	r(3*s, 3*s-2*ms, 3*s)
	r(3*s, 3*s+3*ms, 3*s+3*ms)
	r(13*s, 3*s, 3*s)
}

func TestGridsOfASite(t *testing.T) {
	const interval = 5 * time.Second
	first := alignedGrid(interval, "ams-1", 0)
	for slot := range 1000 {
		g := alignedGrid(interval, "ams-1", slot)
		if g.offset < 0 || g.offset >= interval {
			t.Fatalf("slot %d: offset %s", slot, g.offset)
		}
		if want := (first.offset + time.Duration(slot)*spacing) % interval; g.offset != want {
			t.Errorf("slot %d: offset %s, want %s", slot, g.offset, want)
		}
	}
	if alignedGrid(interval, "ams-2", 0) == first {
		t.Error("two sites scrape at the same time")
	}
	if spreadGrid(interval, "ams-1", "a") == spreadGrid(interval, "ams-1", "b") {
		t.Error("two targets are not spread")
	}
}

func TestSlots(t *testing.T) {
	var s slots
	a, b := s.take(), s.take()
	s.give(a)
	if c, d := s.take(), s.take(); a != 0 || b != 1 || c != a || d != 2 {
		t.Errorf("slots %d %d %d %d", a, b, c, d)
	}
}
