package natsd_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
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

// lane publishes on one subject as an edge does.
type lane struct {
	t       *testing.T
	conn    *bus.Conn
	site    string
	subject string
	last    uint64
}

var payload = make([]byte, 64<<10)

// publish tries once, and for a moment. If an earlier message was stored after all, it goes on behind that.
func (l *lane) publish() error {
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Second)
	defer cancel()
	sequence, err := l.conn.Publish(ctx, l.subject, payload, l.last)
	if wrong := (*bus.SequenceError)(nil); errors.As(err, &wrong) {
		l.last = wrong.Last
	} else if err == nil {
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
	reader *bus.Reader

	mu        sync.Mutex
	sequences []uint64 // since the last reset
	resets    []bus.ResetReason
}

func (c *collector) handle(m bus.Message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sequences = append(c.sequences, m.Sequence)
	return nil
}

func (c *collector) reset(r bus.Reset) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sequences, c.resets = nil, append(c.resets, r.Reason)
}

// complete reports whether everything up to a sequence came, in order.
func (c *collector) complete(last uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.sequences) == int(last) && c.sequences[0] == 1 && c.sequences[last-1] == last && slices.IsSorted(c.sequences)
}

func (c *collector) has(sequence uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.sequences, sequence)
}

func (c *collector) unordered() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !slices.IsSorted(c.sequences) || len(slices.Compact(slices.Clone(c.sequences))) != len(c.sequences)
}

func readAll(t *testing.T, hub *bus.Conn) *collector { return readFrom(t, hub, bus.Position{}) }

func readFrom(t *testing.T, hub *bus.Conn, position bus.Position) *collector {
	t.Helper()
	c := &collector{}
	var err error
	c.reader, err = hub.NewReader(bus.ReaderOptions{
		Name: "test", Subjects: []string{hub.Root().AllLanes()}, Start: bus.Start{Position: position}, Handle: c.handle, Reset: c.reset,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.reader.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("reader: %v", err)
		}
	})
	return c
}

// damage does something to the files of a stopped server, in the directory of the stream.
type damage struct {
	name string
	do   func(t *testing.T, dir string)
}

// damages are what a power loss and a bad disk do.
func damages() []damage {
	const first, last, index = "msgs/1.blk", "msgs/2.blk", "msgs/index.db"
	edit := func(file string, change func(f *os.File, size int64) error) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			f, err := os.OpenFile(filepath.Join(dir, file), os.O_RDWR, 0)
			if errors.Is(err, os.ErrNotExist) && file == index {
				return // a server that was killed has none
			}
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			info, err := f.Stat()
			if err == nil {
				err = change(f, info.Size())
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	cut := func(t *testing.T, dir string) {
		edit(last, func(f *os.File, size int64) error {
			at := rand.Int64N(size)
			t.Logf("cut at %d of %d", at, size)
			return f.Truncate(at)
		})(t, dir)
	}
	zero := func(file string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			edit(file, func(f *os.File, size int64) error {
				at := rand.Int64N(size) &^ 4095
				t.Logf("zero page at %d of %d", at, size)
				_, err := f.WriteAt(make([]byte, min(4096, size-at)), at)
				return err
			})(t, dir)
		}
	}
	empty := func(file string) func(*testing.T, string) {
		return edit(file, func(f *os.File, _ int64) error { return f.Truncate(0) })
	}
	return []damage{
		{"none", func(*testing.T, string) {}},
		{"last block cut", cut}, {"last block cut again", cut}, {"last block empty", empty(last)},
		{"page of last block", zero(last)}, {"page of first block", zero(first)},
		{"index empty", empty(index)}, {"page of index", zero(index)},
		{"description empty", empty("meta.inf")}, {"checksum empty", empty("meta.sum")},
		{"no blocks", func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, "msgs")); err != nil {
				t.Fatal(err)
			}
		}},
	}
}

// TestDamagedStore: whatever a power loss or a bad disk leaves of the stream's files, the server starts, and edges and
// hubs find out what is missing and go on.
func TestDamagedStore(t *testing.T) {
	s := bustest.NewServer(t)
	hub := bustest.Hub(t, s)
	sites := []*lane{{site: "a"}, {site: "b"}, {site: "c"}}
	for _, l := range sites {
		l.t, l.conn, l.subject = t, hub, hub.Root().Lane(l.site, bus.Live)
	}
	reading := readAll(t, hub)
	for range 50 {
		for _, l := range sites {
			if err := l.publish(); err != nil {
				t.Fatal(err)
			}
		}
	}
	end := sites[2].last
	bustest.WaitFor(t, "the reader", func() bool { return reading.complete(end) })
	position := reading.reader.Position()
	killed := filepath.Join(t.TempDir(), "killed")
	if err := os.CopyFS(killed, os.DirFS(s.Options.StoreDir)); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	for how, from := range map[string]string{"killed": killed, "stopped": s.CopyStore()} {
		for _, d := range damages() {
			t.Run(how+", "+d.name, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "nats")
				if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
					t.Fatal(err)
				}
				d.do(t, filepath.Join(dir, "jetstream", "CORE", "streams", s.Options.Stream.Name))
				s := bustest.NewServer(t, func(o *natsd.Options) { o.StoreDir = dir })
				goOn(t, s, sites, position)
			})
		}
	}
}

// goOn lets edges publish where they were, and a hub read from where it was.
func goOn(t *testing.T, s *bustest.Server, sites []*lane, position bus.Position) {
	hub := bustest.Hub(t, s)
	c := readFrom(t, hub, position)
	for _, was := range sites {
		l := *was
		l.t, l.conn = t, hub
		err := l.publish()
		if wrong := (*bus.SequenceError)(nil); errors.As(err, &wrong) {
			m, lookErr := hub.Last(t.Context(), l.subject)
			switch {
			case wrong.Last == 0 && !errors.Is(lookErr, bus.ErrNoMessage), wrong.Last != 0 && lookErr != nil:
				t.Fatalf("last message on lane %s, of which %d is the last: %v", l.site, wrong.Last, lookErr)
			case m.Sequence != wrong.Last, m.Sequence >= was.last:
				t.Fatalf("lane %s ends at %d or %d, and was at %d", l.site, m.Sequence, wrong.Last, was.last)
			}
			err = l.publish()
		}
		if err != nil {
			t.Fatalf("publish on lane %s: %v", l.site, err)
		}
		bustest.WaitFor(t, "the hub to read it", func() bool { return c.has(l.last) })
	}
	if c.unordered() {
		t.Errorf("read %d, begun after %s, reset %v", c.sequences, position, c.resets)
	}
}

// TestJetStreamOfLeaderTurnedOff: the leader of a cluster takes 2 s to turn JetStream off when it cannot write. What is
// started meanwhile is stopped by that in the middle, and its copies of streams may follow no more.
func TestJetStreamOfLeaderTurnedOff(t *testing.T) {
	var leader *bustest.Server
	servers := bustest.NewCluster(t)
	bustest.WaitFor(t, "leader", func() bool {
		i := slices.IndexFunc(servers, (*bustest.Server).LeadsCluster)
		if i >= 0 {
			leader = servers[i]
		}
		return i >= 0
	})
	stopped := make(chan error, 1)
	go func() { stopped <- leader.StopJetStream() }()
	bustest.WaitFor(t, "JetStream to be off", func() bool { return !leader.JetStreamOn() })
	bustest.WaitFor(t, "JetStream to be stopped", func() bool {
		leader.LookAtStorage()
		on := leader.JetStreamOn()
		select {
		case err := <-stopped:
			if err != nil {
				t.Fatal(err)
			}
			return true
		default:
			if on {
				t.Fatal("JetStream is started while it is being stopped")
			}
			return false
		}
	})
}
