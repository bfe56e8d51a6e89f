package edge

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/outbox"
)

// purge makes the server lose all messages of a lane.
func (p *place) purge(t *testing.T, l bus.Lane) {
	t.Helper()
	subject := p.hub.Root().Lane(site, l)
	_, err := p.hub.Request(t.Context(), "$JS.API.STREAM.PURGE."+bustest.StreamConfig().Name, fmt.Appendf(nil, `{"filter": %q}`, subject))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.hub.Last(t.Context(), subject); err == nil {
		t.Fatalf("lane %s has a message still", l)
	}
}

// While an edge is off, the server loses a part of what the edge had sent: of one lane, of both, or the whole stream.
// The next process finds out and sends again what the outbox still holds.
func TestServerLossBetweenProcesses(t *testing.T) {
	t.Parallel()
	f := func(name string, lose func(t *testing.T, p *place)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := single(t)
			dir := t.TempDir()
			s := prepare(t, p.proxy.URL(), dir)
			s.edge.tailBytes = 0
			s.sink(3)
			s.sink(3)
			s.ahead.Store(int64(2 * time.Minute))
			s.run()
			s.plannedTimes(1)
			s.sink(2)
			s.allStored()
			p.reading.expect(s)
			if p.reading.count(bus.Backfill) == 0 {
				t.Fatal("nothing on the backfill lane")
			}
			s.stop()
			lose(t, p)
			again := start(t, p.proxy.URL(), dir)
			again.rows = s.rows
			again.sink(1)
			bustest.WaitFor(t, "the loss", func() bool { return again.logs.count("sending again") == 1 })
			again.allStored()
			p.reading.expect(again)      // who read them before gets no row twice
			read(t, p.hub).expect(again) // who reads the lanes now gets all
		})
	}
	f("backfill", func(t *testing.T, p *place) { p.purge(t, bus.Backfill) })
	f("live", func(t *testing.T, p *place) { p.purge(t, bus.Live) })
	f("stream", func(t *testing.T, p *place) {
		deleteStream(t, p.hub)
		bustest.EnsureStream(t, p.hub)
	})
}

// A lane whose newest message went with its age is none that lost anything: nobody holds that frame any more.
func TestExpiredLaneIsNoLoss(t *testing.T) {
	t.Parallel()
	p := single(t)
	dir := t.TempDir()
	s := start(t, p.proxy.URL(), dir)
	s.sink(3)
	s.allStored()
	s.stop()
	p.purge(t, bus.Live)
	again := prepare(t, p.proxy.URL(), dir)
	again.ahead.Store(int64(time.Hour))
	if err := again.edge.outbox.Expire(again.edge.now()); err != nil {
		t.Fatal(err)
	}
	again.run()
	again.sink(1)
	again.allStored()
	again.noLoss()
}

// The stream is made anew, the edge publishes on it, and then an old copy of the first one is restored, whose sequences
// had gone on for longer.
func TestOldCopyBehindAnotherStream(t *testing.T) {
	t.Parallel()
	p := single(t)
	dir := t.TempDir()
	s := start(t, p.proxy.URL(), dir)
	for range 20 {
		s.sink(1)
		s.allStored()
	}
	p.servers[0].Stop()
	older := p.servers[0].CopyStore()
	p.servers[0].Start()
	bustest.WaitFor(t, "connection", func() bool { return p.hub.State().Connected })
	deleteStream(t, p.hub)
	bustest.EnsureStream(t, p.hub)
	bustest.WaitFor(t, "the first loss", func() bool {
		s.sink(1)
		return s.logs.count("sending again") == 1
	})
	for range 2 {
		s.sink(1)
		s.allStored()
	}
	s.stop()
	p.servers[0].Stop()
	p.servers[0].RestoreStore(older)
	p.servers[0].Start()
	again := start(t, p.proxy.URL(), dir)
	again.rows = s.rows
	again.sink(1)
	again.allStored()
	read(t, p.hub).expect(again)
	if n := testutil.ToFloat64(again.edge.metrics.serverLosses); n != 1 || again.logs.count("level=WARN", "the server no longer holds what it had stored") != 1 {
		t.Errorf("%v losses of the server are counted, want 1, and a line about it", n)
	}
	if again.logs.count(takingLine) != 0 {
		t.Error("the frames of an earlier process count as another's")
	}
}

// An old copy of the stream is restored under an edge that runs, and ends with frames of an earlier process of which the
// outbox has none any more: they are its own all the same, and not another process's.
func TestOldCopyOfForgottenEpoch(t *testing.T) {
	t.Parallel()
	p := single(t)
	dir := t.TempDir()
	s := start(t, p.proxy.URL(), dir)
	for range 20 {
		s.sink(1)
		s.allStored()
	}
	s.stop()
	p.servers[0].Stop()
	older := p.servers[0].CopyStore()
	p.servers[0].Start()
	bustest.WaitFor(t, "connection", func() bool { return p.hub.State().Connected })
	deleteStream(t, p.hub)
	bustest.EnsureStream(t, p.hub)
	again := prepare(t, p.proxy.URL(), dir)
	again.ahead.Store(int64(time.Hour))
	if err := again.edge.outbox.Expire(again.edge.now()); err != nil {
		t.Fatal(err)
	}
	if n := again.edge.Status().Outbox.Files; n != 0 {
		t.Fatalf("%d files are left of the earlier process", n)
	}
	again.run()
	again.rows = s.rows
	again.sink(2)
	again.allStored()
	p.servers[0].Stop()
	p.servers[0].RestoreStore(older)
	p.servers[0].Start()
	again.sink(1)
	again.allStored()
	read(t, p.hub).expect(again)
	if again.logs.count(replacedLine) != 0 || again.logs.count("sending again what the outbox holds") != 1 {
		t.Errorf("it says %d times that it was replaced, and %d times that the server lost something",
			again.logs.count(replacedLine), again.logs.count("sending again what the outbox holds"))
	}
}

// Hubs are told of more losses than stand in one frame, over several.
func TestManyLosses(t *testing.T) {
	t.Parallel()
	p := single(t)
	s := start(t, p.proxy.URL(), t.TempDir())
	s.sink(1)
	const losses = 300
	for n := range uint64(losses) {
		r := outbox.Range{Epoch: s.edge.Epoch() + 1, From: 2*n + 1, To: 2*n + 1, Rows: 1}
		s.edge.outbox.Lose(outbox.Loss{Range: r, Cause: outbox.CauseOversize})
	}
	for len(s.edge.outbox.Losses()) > 0 {
		s.sink(1)
	}
	bustest.WaitFor(t, "all notices", func() bool {
		p.reading.mu.Lock()
		defer p.reading.mu.Unlock()
		return len(p.reading.losses) == losses
	})
}
