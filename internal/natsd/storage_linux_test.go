package natsd_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/natsd"
)

// problems keeps what a server reports.
type problems struct {
	mu   sync.Mutex
	told []string
}

func (p *problems) report(problem string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told = append(p.told, problem)
}

func (p *problems) now() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.told[len(p.told)-1]
}

// lane publishes on one subject as an edge does.
type lane struct {
	t       *testing.T
	conn    *bus.Conn
	subject string
	last    uint64
}

var payload = make([]byte, 64<<10)

// publish tries once, and for a moment.
func (l *lane) publish() error {
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Second)
	defer cancel()
	sequence, err := l.conn.Publish(ctx, l.subject, payload, l.last)
	if err == nil {
		l.last = sequence
	}
	return err
}

func (l *lane) stored() bool { return l.publish() == nil }

// refused reports whether the server refuses to store, in words.
func (l *lane) refused() bool {
	var refusal *bus.APIError
	err := l.publish()
	return errors.As(err, &refusal) && strings.Contains(refusal.Description, "cannot write to its disk")
}

// collector reads a stream.
type collector struct {
	mu        sync.Mutex
	sequences []uint64
}

func (c *collector) handle(m bus.Message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sequences = append(c.sequences, m.Sequence)
	return nil
}

// complete reports whether everything up to a sequence came, in order.
func (c *collector) complete(last uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	var want []uint64
	for s := range last {
		want = append(want, s+1)
	}
	return slices.Equal(c.sequences, want)
}

func readAll(t *testing.T, hub *bus.Conn) *collector {
	t.Helper()
	c := &collector{}
	reader, err := hub.NewReader(bus.ReaderOptions{Name: "test", Subjects: []string{hub.Root().AllLanes()}, Handle: c.handle})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- reader.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("reader: %v", err)
		}
	})
	return c
}

const diskSize = 16 << 20

// TestDiskFull: publishers are refused in words, readers go on, and when there is space again everything goes on where
// it was, over the connections there are.
func TestDiskFull(t *testing.T) {
	bustest.OnSmallDisk(t, diskSize, func(t *testing.T, disk *bustest.Disk) {
		var told problems
		s := bustest.NewServer(t, func(o *natsd.Options) {
			o.StoreDir = filepath.Join(disk.Dir, "nats")
			o.Report = told.report
		})
		hub := bustest.Hub(t, s)
		link := bustest.NewProxy(t, s.Addr())
		edge := bustest.Connected(t, bus.Options{Config: bustest.Config(link.URL()), Site: "ams-1"})
		l := &lane{t: t, conn: edge, subject: edge.Root().Lane("ams-1", bus.Live)}
		reading := readAll(t, hub)
		for range 5 {
			bustest.WaitFor(t, "message to be stored", l.stored)
		}
		for round := 1; round <= 2; round++ {
			disk.Fill()
			bustest.WaitFor(t, "refusal", l.refused)
			bustest.WaitFor(t, "report", func() bool { return told.now() != "" })
			if m, err := edge.Last(t.Context(), l.subject); err != nil || m.Sequence != l.last {
				t.Errorf("last message while the disk is full: %d, %v; want %d", m.Sequence, err, l.last)
			}
			if late := readAll(t, hub); round == 1 {
				bustest.WaitFor(t, "reading while the disk is full", func() bool { return late.complete(l.last) })
			}
			if round == 2 { // the server is restarted on the full disk
				s.Stop()
				s.Start()
				bustest.WaitFor(t, "refusal by the restarted server", l.refused)
			}
			disk.Free()
			bustest.WaitFor(t, "message to be stored", l.stored)
			bustest.WaitFor(t, "end of the problem", func() bool { return told.now() == "" })
			bustest.WaitFor(t, "the reader", func() bool { return reading.complete(l.last) })
		}
		if n := link.Accepted(); n != 2 {
			t.Errorf("edge connected %d times, want once for each server", n)
		}
		if n := value(t, s, "thalweg_natsd_refused_publishes_total"); n == 0 {
			t.Error("refused publishes are not counted")
		}
		if n := value(t, s, "thalweg_natsd_jetstream_restarts_total"); n == 0 {
			t.Error("restarts of JetStream are not counted")
		}
		if n := value(t, s, "thalweg_natsd_jetstream_up"); n != 1 {
			t.Error("JetStream is not up")
		}
	})
}

// TestDiskFullAtFirst: the stream is made when there is space.
func TestDiskFullAtFirst(t *testing.T) {
	bustest.OnSmallDisk(t, diskSize, func(t *testing.T, disk *bustest.Disk) {
		disk.Fill()
		s := bustest.NewServer(t, func(o *natsd.Options) { o.StoreDir = filepath.Join(disk.Dir, "nats") })
		hub := bustest.Connected(t, bus.Options{Config: bustest.Config(s.URL())})
		l := &lane{t: t, conn: hub, subject: hub.Root().Lane("ams-1", bus.Live)}
		if _, err := hub.EnsureStream(t.Context()); err == nil && l.stored() {
			t.Fatal("a message was stored on a full disk")
		}
		disk.Free()
		bustest.EnsureStream(t, hub)
		bustest.WaitFor(t, "message to be stored", l.stored)
	})
}
