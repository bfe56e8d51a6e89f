package hub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/series"
)

// collector is a destination that keeps what is delivered, and fails on command.
type collector struct {
	mu     sync.Mutex
	taken  []string // since the last flush
	rows   map[string]int
	series map[string]map[string]bool // names, by site
	fail   error
}

func newCollector() *collector {
	return &collector{rows: map[string]int{}, series: map[string]map[string]bool{}}
}

func (c *collector) Row(d *lane.Delivery, row *series.Row) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.taken = append(c.taken, fmt.Sprintf("%s %s %d", d.Site, row.Source.Key, row.T))
	if c.series[d.Site] == nil {
		c.series[d.Site] = map[string]bool{}
	}
	for i := range row.Values {
		if row.Has(i) {
			c.series[d.Site][row.Schema.Column(i).Labels.Get(model.MetricNameLabel)] = true
		}
	}
}

func (c *collector) Flush(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail != nil {
		return c.fail
	}
	for _, key := range c.taken {
		c.rows[key]++
	}
	c.taken = nil
	return nil
}

func (c *collector) names(site string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.series[site]))
}

// wait waits until so many rows were delivered, each of them once.
func (c *collector) wait(t *testing.T, n int) {
	t.Helper()
	bustest.WaitFor(t, fmt.Sprintf("%d rows", n), func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.rows) >= n
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.rows) != n {
		t.Errorf("%d rows were delivered, want %d", len(c.rows), n)
	}
	for key, times := range c.rows {
		if times != 1 {
			t.Errorf("row %s was delivered %d times", key, times)
		}
	}
}

// startOutput runs an output until the returned function is called, which returns Run's error.
func startOutput(t *testing.T, c *center, dir string, d Destination, oldest bool) (stop func() error) {
	t.Helper()
	_, stop = openOutput(t, c, dir, d, oldest)
	return stop
}

func openOutput(t *testing.T, c *center, dir string, d Destination, oldest bool) (o *Output, stop func() error) {
	t.Helper()
	o, err := NewOutput(OutputOptions{Name: "out", Dir: dir, Hub: c.Hub, Destination: d, Oldest: oldest})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- o.Run(ctx) }()
	var once sync.Once
	stop = func() (err error) {
		once.Do(func() {
			cancel()
			err = errors.Join(<-done, o.Close())
		})
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return o, stop
}

func TestOutputOverRestarts(t *testing.T) {
	server := bustest.NewServer(t)
	c := newHub(t, bustest.Hub(t, server))
	w := newWriter(t, server.URL(), "ams-1", 1, 5)
	dir, d := t.TempDir(), newCollector()
	for n := 1; n <= 4; n++ {
		w.live(3)
		if n == 3 {
			w.encoder.RequestKeyframe()
		}
		stop := startOutput(t, c, dir, d, true)
		d.wait(t, 3*n)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
}

// What was not delivered is delivered by the next process; what was is not.
func TestOutputWhoseDestinationFails(t *testing.T) {
	server := bustest.NewServer(t)
	c := newHub(t, bustest.Hub(t, server))
	w := newWriter(t, server.URL(), "ams-1", 1, 5)
	dir, d := t.TempDir(), newCollector()
	o, err := NewOutput(OutputOptions{Name: "out", Dir: dir, Hub: c.Hub, Destination: d, Oldest: true})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- o.Run(t.Context()) }()
	w.live(3)
	d.wait(t, 3)
	full := errors.New("it is full")
	d.mu.Lock()
	d.fail = full
	d.mu.Unlock()
	w.live(2)
	if err := <-done; !errors.Is(err, full) || !strings.Contains(err.Error(), `"out"`) {
		t.Errorf("Run returned %v", err)
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	d = newCollector()
	startOutput(t, c, dir, d, true)
	w.live(1)
	d.wait(t, 3)
}

// A new output begins with what the server stores from now on, whatever the clock of the site says.
func TestOutputStartsNow(t *testing.T) {
	server := bustest.NewServer(t)
	c := newHub(t, bustest.Hub(t, server))
	w := newWriter(t, server.URL(), "ams-1", 1, 5)
	w.tick -= 2 * time.Hour.Milliseconds() // its clock is late
	w.live(5)
	last, err := w.conn.Last(t.Context(), w.conn.Root().Lane(w.name, bus.Live))
	if err != nil {
		t.Fatal(err)
	}
	bustest.WaitFor(t, "another millisecond", func() bool { return time.Now().UnixMilli() > last.Time.UnixMilli() })
	dir, d := t.TempDir(), newCollector()
	stop := startOutput(t, c, dir, d, false)
	w.live(4)
	d.wait(t, 4)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	startOutput(t, c, dir, d, false)
	w.live(1)
	d.wait(t, 5) // and a restart does not begin anew
}

// A journal that a crash cut short, wherever: rows may come again, none is left out.
func TestCursorTornTail(t *testing.T) {
	server := bustest.NewServer(t)
	c := newHub(t, bustest.Hub(t, server))
	w := newWriter(t, server.URL(), "ams-1", 1, 5)
	dir, d := t.TempDir(), newCollector()
	stop := startOutput(t, c, dir, d, true)
	w.live(4)
	d.wait(t, 4)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	journal, err := os.ReadFile(filepath.Join(dir, "out.cursor"))
	if err != nil {
		t.Fatal(err)
	}
	snapshot := bytes.IndexByte(journal, '\n') + 1
	lines := bytes.Count(journal[snapshot:], []byte{'\n'})
	if lines < 4 {
		t.Fatalf("journal has %d lines behind its snapshot: %s", lines, journal)
	}
	for round, size := 1, snapshot; size <= len(journal); round, size = round+1, size+1+(len(journal)-snapshot)/12 {
		dir, d := t.TempDir(), newCollector()
		if err := os.WriteFile(filepath.Join(dir, "out.cursor"), journal[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		again := 0
		for _, line := range bytes.Split(journal[snapshot:], []byte{'\n'}) {
			if bytes.HasPrefix(line, []byte(`{"frame"`)) && !bytes.Contains(journal[:size], append(slices.Clone(line), '\n')) {
				again++
			}
		}
		stop := startOutput(t, c, dir, d, true)
		w.live(1)
		d.wait(t, again+round) // the rows of the rounds before are new to this journal
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCursorDamaged(t *testing.T) {
	server := bustest.NewServer(t)
	c := newHub(t, bustest.Hub(t, server))
	w := newWriter(t, server.URL(), "ams-1", 1, 5)
	dir, d := t.TempDir(), newCollector()
	stop := startOutput(t, c, dir, d, true)
	w.live(4)
	d.wait(t, 4)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "out.cursor")
	journal, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.LastIndex(journal, []byte(`{"frame"`))
	copy(journal[at:], make([]byte, 5))
	if err := os.WriteFile(file, journal, 0o600); err != nil {
		t.Fatal(err)
	}
	d = newCollector()
	stop = startOutput(t, c, dir, d, true)
	d.wait(t, 1)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if c.logs.count("cursor is damaged", file) != 1 {
		t.Error("nobody says that the cursor is damaged")
	}
	if err := os.WriteFile(file, []byte("\x00\x00\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := NewOutput(OutputOptions{Name: "out", Dir: dir, Hub: c.Hub, Destination: d}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a cursor without its snapshot opens: %v", err)
	}
}

// Compaction and reopening change nothing of what a cursor knows.
func TestCursorCompaction(t *testing.T) {
	dir := t.TempDir()
	c, err := openCursor(dir, "out", 42)
	if err != nil {
		t.Fatal(err)
	}
	var ledger lane.Ledger
	restart := bus.Position{Created: time.Unix(0, 1_700_000_000_000_000_000).UTC(), Sequence: 77, Checksum: 5}
	states := func() map[string]lane.LedgerState { return map[string]lane.LedgerState{"ams-1": ledger.State()} }
	for n := uint64(1); n <= 60; n++ {
		if n%7 == 0 {
			continue // a gap
		}
		h := frame.Header{Kind: frame.Delta, ID: frame.ID{Epoch: 3, Number: n}, Base: n - 1, RowsBefore: n - 1, Rows: 1, Sent: int64(n)}
		ledger.Place(&h, false)
		ledger.Add(&h, h.Sent)
		if err := c.add([]delivered{{site: "ams-1", header: h}}); err != nil {
			t.Fatal(err)
		}
		if n == 30 {
			c.size = compactAfter
		}
		if err := c.save(restart, states); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	again, err := openCursor(dir, "out", 99)
	if err != nil {
		t.Fatal(err)
	}
	defer again.close()
	got := again.ledgers["ams-1"]
	if again.since != 42 || again.restart != restart || !reflect.DeepEqual(got.State(), ledger.State()) {
		t.Errorf("reopened: since %d, restart %s, ledger %+v; want 42, %s, %+v", again.since, again.restart, got.State(), restart, ledger.State())
	}
	if matches, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(matches) != 1 {
		t.Errorf("files %q, want one", matches)
	}
}

// The restart is in front of the oldest keyframe that a lane needs, and lanes that are silent for long do not count.
func TestCursorRestart(t *testing.T) {
	at := func(n uint64) bus.Position { return bus.Position{Sequence: n, Checksum: 1} }
	now := time.Unix(1_700_000_000, 0)
	c := &cursor{places: map[place]*keyPlace{}}
	note := func(site string, backfill bool, when time.Time, before, keyframe uint64) {
		s := &lane.Site{KeyframeSequence: keyframe}
		c.note(site, backfill, when, at(before), s)
	}
	want := func(n uint64) {
		t.Helper()
		if got := c.oldestRestart(now); got.Sequence != n {
			t.Errorf("restart behind %d, want %d", got.Sequence, n)
		}
	}
	want(0)
	note("a", false, now, 10, 11)
	want(10)
	note("b", false, now, 12, 13)
	want(10)
	note("a", false, now, 20, 11) // a delta
	want(10)
	note("a", false, now, 30, 31)
	want(12)
	note("c", false, now, 33, 0) // a lane that nobody can decode yet holds it where it began
	note("b", false, now, 40, 41)
	want(30)
	note("a", false, now, 50, 51)
	want(33)
	now = now.Add(laneIdle + time.Second)
	note("a", false, now, 60, 61)
	want(60)
	note("d", false, now, 0, 1) // the first message of the stream has no place in front of it
	want(0)
}
