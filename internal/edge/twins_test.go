package edge

import (
	"os"
	"testing"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
)

const (
	replacedLine = "another process publishes as this site"
	takingLine   = "taking the lane over"
)

// Two processes with one site that begin at the same moment: one of them sends, the other says once who replaced it and
// leaves it at that.
func TestTwinsBeginTogether(t *testing.T) {
	t.Parallel()
	p := single(t)
	before := start(t, p.proxy.URL(), t.TempDir())
	before.sink(1)
	before.allStored()
	before.stop()
	a, b := start(t, p.proxy.URL(), t.TempDir()), start(t, p.proxy.URL(), t.TempDir())
	bustest.WaitFor(t, "one to yield", func() bool {
		a.sink(1)
		b.sink(1)
		return a.edge.live.replaced() || b.edge.live.replaced()
	})
	winner, loser := a, b
	if a.edge.live.replaced() {
		winner, loser = b, a
	}
	for range 20 {
		winner.sink(1)
		loser.sink(1)
		winner.allStored()
	}
	if winner.edge.live.replaced() || winner.logs.count(replacedLine) != 0 || winner.logs.count(takingLine) == 0 {
		t.Errorf("the one that sends says %d times that it was replaced, and %d times that it takes over",
			winner.logs.count(replacedLine), winner.logs.count(takingLine))
	}
	if n := loser.logs.count(replacedLine, winner.edge.Epoch().String()); n != 1 || loser.logs.count(replacedLine) != 1 {
		t.Errorf("the other says %d times who replaced it, want 1", n)
	}
	if loser.edge.Status().Outbox.UnackedRows == 0 {
		t.Error("the other keeps no rows")
	}
	p.reading.once(bus.Live)
}

// The one that sends is cut off, a second one begins, and the first comes back: it finds itself replaced.
func TestTwinBeginsDuringPartition(t *testing.T) {
	t.Parallel()
	p := single(t)
	cut := bustest.NewProxy(t, p.servers[0].Addr())
	a := start(t, cut.URL(), t.TempDir())
	a.sink(2)
	a.allStored()
	cut.Refuse(true)
	cut.Cut()
	a.sink(2)
	b := start(t, p.proxy.URL(), t.TempDir())
	b.sink(2)
	b.allStored()
	cut.Refuse(false)
	a.problem("link", b.edge.Epoch().String())
	for range 5 {
		a.sink(1)
		b.sink(1)
		b.allStored()
	}
	if a.logs.count(replacedLine) != 1 || b.logs.count(replacedLine) != 0 || b.logs.count(takingLine, a.edge.Epoch().String()) != 1 {
		t.Errorf("lines about a replacement: %d and %d; about a takeover: %d", a.logs.count(replacedLine), b.logs.count(replacedLine),
			b.logs.count(takingLine, a.edge.Epoch().String()))
	}
	a.noLoss()
	b.noLoss()
}

// A machine is copied while the edge runs: the copy knows the epoch that it takes over from, and says so all the same.
func TestTwinWithCopyOfOutbox(t *testing.T) {
	t.Parallel()
	p := single(t)
	dir, copied := t.TempDir(), t.TempDir()
	a := start(t, p.proxy.URL(), dir)
	a.sink(2)
	a.allStored()
	if err := a.edge.outbox.SaveState(); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		a.sink(2)
		a.allStored()
	}
	b := start(t, p.proxy.URL(), copied)
	b.sink(2)
	b.allStored()
	a.sink(1)
	a.problem("link", b.edge.Epoch().String())
	if n := b.logs.count(takingLine, "lane=live", a.edge.Epoch().String()); n != 1 || b.logs.count(takingLine) != 1 {
		t.Errorf("the copy says %d times that it takes over, want 1", n)
	}
	b.noLoss()
	b.stop()
	again := start(t, p.proxy.URL(), copied)
	again.sink(1)
	again.allStored()
	if again.logs.count(takingLine) != 0 {
		t.Error("the copy takes over from itself")
	}
}
