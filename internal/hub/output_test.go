package hub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/series"
)

// collector keeps what the destinations that it makes deliver, and fails on command.
type collector struct {
	mu     sync.Mutex
	rows   map[string]int
	series map[string]map[string]bool // names, by site
	fail   error
	// full is how many rows are a batch; 0: it is never full. flush, if set, decides how a flush ends.
	full    int
	flush   func(ctx context.Context, t *taker, refused func(row, samples int, why string)) (bool, error)
	flushes int
}

func newCollector() *collector {
	return &collector{rows: map[string]int{}, series: map[string]map[string]bool{}}
}

// taker is a destination.
type taker struct {
	*collector
	backfill bool
	taken    []string // since the last flush that was done
}

func (c *collector) live() *taker  { return &taker{collector: c} }
func (c *collector) later() *taker { return &taker{collector: c, backfill: true} }

func (c *taker) Row(site string, row *series.Row) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.taken = append(c.taken, fmt.Sprintf("%s %s %d", site, row.Source.Key, row.T))
	if c.series[site] == nil {
		c.series[site] = map[string]bool{}
	}
	for i := range row.Values {
		if row.Has(i) {
			c.series[site][row.Schema.Column(i).Labels.Get(model.MetricNameLabel)] = true
		}
	}
}

func (c *taker) Full() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.full > 0 && len(c.taken) >= c.full
}

func (c *taker) Flush(ctx context.Context, refused func(row, samples int, why string)) (bool, error) {
	c.mu.Lock()
	c.flushes++
	flush, err := c.flush, c.fail
	c.mu.Unlock()
	if err != nil {
		return false, err
	}
	if flush != nil {
		if done, err := flush(ctx, c, refused); !done || err != nil {
			return done, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range c.taken {
		c.rows[key]++
	}
	c.taken = nil
	return true, nil
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
func startOutput(t *testing.T, c *center, dir string, d *collector, oldest bool) (stop func() error) {
	t.Helper()
	_, stop = openOutput(t, c, dir, d, oldest)
	return stop
}

func openOutput(t *testing.T, c *center, dir string, d *collector, oldest bool) (o *Output, stop func() error) {
	t.Helper()
	o, err := NewOutput(OutputOptions{Name: "out", Dir: dir, Hub: c.Hub, Live: d.live(), Backfill: d.later(), Oldest: oldest})
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
	o, err := NewOutput(OutputOptions{Name: "out", Dir: dir, Hub: c.Hub, Live: d.live(), Backfill: d.later(), Oldest: true})
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
	snapshot := bytes.IndexByte(journal, '\n') + 1 // of no site
	if frames := bytes.Count(journal[snapshot:], []byte(`{"frame"`)); frames != 4 {
		t.Fatalf("journal has %d frames behind its snapshot: %s", frames, journal)
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
	if _, err := NewOutput(OutputOptions{Name: "out", Dir: dir, Hub: c.Hub, Live: d.live()}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a cursor without its snapshot opens: %v", err)
	}
}
