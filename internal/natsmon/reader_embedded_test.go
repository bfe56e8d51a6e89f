package natsmon

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/thalweg/thalweg/internal/bus/bustest"
)

// TestOwnConnectionsAreNotCounted opens and closes in-process connections between readings.
func TestOwnConnectionsAreNotCounted(t *testing.T) {
	s := startServer(t, "")
	gone := connectInProcess(t, s)
	gone.Close() // before the first reading
	connectInProcess(t, s)
	clients := connect(t, s, 3)
	r := embeddedOf(s)
	bustest.WaitFor(t, "the closed connection is among the closed ones", func() bool { return s.NumClients() == 4 })

	check := func(own int, ownTotal uint64, open int, total uint64) {
		t.Helper()
		got := readOne(t, r)
		if got.Own != own || got.OwnTotal != ownTotal {
			t.Errorf("own: %d and %d so far, want %d and %d", got.Own, got.OwnTotal, own, ownTotal)
		}
		if n := got.Varz.Connections - got.Own; n != open {
			t.Errorf("%d clients, want %d", n, open)
		}
		if n := got.Varz.TotalConnections - got.OwnTotal; n != total {
			t.Errorf("%d connections so far, want %d", n, total)
		}
		c := got.Connections
		if c.Total != open || c.ByKind[Client] != open || c.ByKind[InProcess] != 0 {
			t.Errorf("connections: %d, by kind %v, want %d clients", c.Total, c.ByKind, open)
		}
	}
	check(1, 2, 3, 3)
	more := connectInProcess(t, s)
	check(2, 3, 3, 3)
	more.Close()
	clients[0].Close()
	bustest.WaitFor(t, "both are closed", func() bool { return s.NumClients() == 3 })
	check(1, 3, 2, 3)
	shortLived := connectInProcess(t, s)
	shortLived.Close() // between two readings
	connect(t, s, 1)
	bustest.WaitFor(t, "the short-lived one is closed", func() bool { return s.NumClients() == 4 })
	check(1, 4, 3, 4)
}

// TestOwnConnectionsNeverTurnACounterBack has the server count an in-process connection before or after it tells of it.
func TestOwnConnectionsNeverTurnACounterBack(t *testing.T) {
	var o ownConnections
	last := uint64(0)
	for i, step := range []struct {
		ids    []uint64
		all    uint64
		others uint64 // what is reported
	}{
		{[]uint64{1}, 3, 2},
		{[]uint64{1, 4}, 3, 2},       // one more came after the server counted
		{[]uint64{1, 4}, 4, 2},       // now it is counted
		{[]uint64{1, 4, 6}, 6, 3},    // and one of each
		{[]uint64{1, 4, 6, 8}, 6, 3}, // again one that is not counted yet
		{nil, 9, 5},                  // all closed, and forgotten
		{[]uint64{10}, 10, 5},
	} {
		o.count(step.ids)
		others := step.all - o.of(step.all)
		if others != step.others || others < last {
			t.Errorf("step %d: %d, want %d, after %d", i, others, step.others, last)
		}
		last = others
	}
}

// TestEmbeddedServerThatStopped is an error, and no panic.
func TestEmbeddedServerThatStopped(t *testing.T) {
	s := startServer(t, "")
	r := embeddedOf(s)
	readOne(t, r)
	s.Shutdown()
	if _, err := r.Read(t.Context()); !errors.Is(err, errStopped) {
		t.Errorf("error %v", err)
	}
}

// TestCallThatHangs asks a server that hangs, as it may with its disk, twice: it is not called again until it returns.
func TestCallThatHangs(t *testing.T) {
	r := embeddedOf(startServer(t, ""))
	called, release := make(chan struct{}, 2), make(chan struct{})
	hang := embedded(r, Healthz, func() (int, error) {
		called <- struct{}{}
		<-release
		return 0, nil
	}, func(*Server, int) {})

	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-called
		cancel()
	}()
	s := &Server{}
	askAll(ctx, s, 1, []question{hang})
	if !errors.Is(s.Errors[Healthz], context.Canceled) {
		t.Errorf("first: %v", s.Errors[Healthz])
	}
	s = &Server{}
	askAll(t.Context(), s, 1, []question{hang})
	if !errors.Is(s.Errors[Healthz], errBusy) {
		t.Errorf("second: %v", s.Errors[Healthz])
	}
	close(release)
	bustest.WaitFor(t, "the call returned", func() bool {
		s := &Server{}
		askAll(t.Context(), s, 1, []question{hang})
		return s.Errors[Healthz] == nil
	})
}

// TestDisk of the store: what is left of it, and how much there is.
func TestDisk(t *testing.T) {
	s := startServer(t, storeOf(t))
	r := newEmbeddedReader(s, s.StoreDir(), false, defaultLimits(), time.Now)
	if got := readOne(t, r).Disk; got == nil || got.Free == 0 || got.Size < got.Free {
		t.Errorf("disk: %v", got)
	}
	if disk := diskOf(t.TempDir() + "/gone"); disk != nil {
		t.Errorf("disk of a directory that is not there: %v", disk)
	}
}
