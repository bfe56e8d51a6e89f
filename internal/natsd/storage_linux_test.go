package natsd_test

import (
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"

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
		if n := collect(t, s.Metrics(), "thalweg_natsd_refused_publishes_total"); n == 0 {
			t.Error("refused publishes are not counted")
		}
		if n := collect(t, s.Metrics(), "thalweg_natsd_jetstream_restarts_total"); n == 0 {
			t.Error("restarts of JetStream are not counted")
		}
		if n := collect(t, s.Metrics(), "thalweg_natsd_jetstream_up"); n != 1 {
			t.Error("JetStream is not up")
		}
	})
}

// TestDiskFullAtFirst: the server starts and says what is coming, and the stream is made when there is space.
func TestDiskFullAtFirst(t *testing.T) {
	bustest.OnSmallDisk(t, diskSize, func(t *testing.T, disk *bustest.Disk) {
		disk.Fill()
		log := &lines{}
		s := bustest.NewServer(t, func(o *natsd.Options) {
			o.StoreDir = filepath.Join(disk.Dir, "nats")
			o.Stream.MaxBytes = 1 << 60
			o.Logger = slog.New(slog.NewTextHandler(log, nil))
		})
		if !strings.Contains(log.String(), "disk will be full before the stream is") {
			t.Error("nothing is said about a disk that is too small")
		}
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

// TestDiskFullInCluster: a server that turned JetStream off for want of space turns it on again, and is of use.
func TestDiskFullInCluster(t *testing.T) {
	bustest.OnSmallDisk(t, diskSize, func(t *testing.T, disk *bustest.Disk) {
		var told problems
		servers := bustest.NewCluster(t, func(i int, o *natsd.Options) {
			if i == 0 {
				o.StoreDir = filepath.Join(disk.Dir, "nats")
				o.Report = told.report
			}
		})
		config := bustest.Config(servers[0].URL(), servers[2].URL())
		config.Stream.Replicas = 3
		hub := bustest.Connected(t, bus.Options{Config: config})
		bustest.EnsureStream(t, hub)
		l := &lane{t: t, conn: hub, subject: hub.Root().Lane("ams-1", bus.Live)}
		for range 5 {
			bustest.WaitFor(t, "message to be stored", l.stored)
		}
		disk.Fill()
		bustest.WaitFor(t, "report", func() bool {
			l.stored() // by the others, if they have space
			return told.now() != ""
		})
		disk.Free()
		bustest.WaitFor(t, "end of the problem", func() bool { return told.now() == "" })
		bustest.WaitFor(t, "message to be stored", l.stored)

		disk.Fill()
		servers[0].Stop()
		servers[0].Start()
		bustest.WaitFor(t, "report of the restarted server", func() bool { return told.now() != "" })
		disk.Free()
		bustest.WaitFor(t, "end of the problem", func() bool { return told.now() == "" })
		servers[1].Stop() // which leaves two: both are needed
		before := l.last
		bustest.WaitFor(t, "message to be stored by two", func() bool { return l.stored() && l.last > before })
	})
}
