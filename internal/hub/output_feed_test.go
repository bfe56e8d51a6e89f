package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/value"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/series"
)

// hold lets the flushes of one feed wait until it is released or their context ends.
func (c *collector) hold(backfill bool) (release func()) {
	released := make(chan struct{})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flush = func(ctx context.Context, t *taker, _ func(int, int, string)) (bool, error) {
		if t.backfill != backfill {
			return true, nil
		}
		select {
		case <-released:
			return true, nil
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
	return func() { close(released) }
}

// delivered waits until a row was, by its time.
func (c *collector) delivered(t *testing.T, w *writer, tick int64) {
	t.Helper()
	key := fmt.Sprintf("%s %s %d", w.name, w.source.Key, tick)
	bustest.WaitFor(t, "row "+key, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.rows[key] > 0
	})
}

// output returns what the hub knows of the output of these tests.
func (c *center) output() OutputStatus {
	for _, o := range c.Outputs() {
		if o.Name == "out" {
			return o
		}
	}
	return OutputStatus{}
}

// A batch takes the rows of many messages, and is flushed when it is full or nothing more comes.
func TestOutputBatches(t *testing.T) {
	server := bustest.NewServer(t)
	c := newHub(t, bustest.Hub(t, server))
	w := newWriter(t, server.URL(), "ams-1", 1, 5)
	w.live(100)
	d := newCollector()
	d.full = 30
	startOutput(t, c, t.TempDir(), d, true)
	d.wait(t, 100)
	d.mu.Lock()
	defer d.mu.Unlock()
	// Three full ones and the rest, and some more should the server have sent the messages in pieces.
	if d.flushes < 4 || d.flushes > 20 {
		t.Errorf("100 rows were delivered in %d batches of 30", d.flushes)
	}
}

// Neither feed waits for the other, and what comes on both lanes is delivered once.
func TestFeedsDoNotWait(t *testing.T) {
	for _, backfill := range []bool{false, true} {
		t.Run(fmt.Sprintf("backfill held %v", backfill), func(t *testing.T) {
			server := bustest.NewServer(t)
			c := newHub(t, bustest.Hub(t, server))
			w := newWriter(t, server.URL(), "ams-1", 1, 5)
			d := newCollector()
			first := w.frame()
			w.publish(bus.Live, first)
			dir := t.TempDir()
			stop := startOutput(t, c, dir, d, true)
			d.wait(t, 1)
			bustest.WaitFor(t, "the batch to be noted", func() bool { return c.output().Live.Rows == 1 })
			release := d.hold(backfill)
			held, free := bus.Live, bus.Backfill
			if backfill {
				held, free = free, held
			}
			w.encoder.RequestKeyframe()
			both := w.frame()
			w.publish(held, first) // which came
			w.publish(held, both)
			heldTick := w.tick
			bustest.WaitFor(t, "the row that waits", func() bool {
				s := c.output()
				return s.Live.Waiting+s.Backfill.Waiting == 1 && s.Live.Lag+s.Backfill.Lag > 0
			})
			w.encoder.RequestKeyframe()
			for range 3 {
				w.publish(free, w.frame())
				d.delivered(t, w, w.tick)
			}
			w.publish(free, both) // which waits on the other lane
			w.encoder.RequestKeyframe()
			w.publish(free, w.frame())
			d.delivered(t, w, w.tick)
			release()
			d.delivered(t, w, heldTick)
			d.wait(t, 6)
			bustest.WaitFor(t, "the status", func() bool {
				s := c.output()
				return s.Live.Rows+s.Backfill.Rows == 6 && s.Live.Lag+s.Backfill.Lag == 0 && s.Holder && s.Running
			})
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			startOutput(t, c, dir, d, true)
			w.encoder.RequestKeyframe()
			w.live(1)
			d.wait(t, 7)
		})
	}
}

// A process that is killed while a batch is on its way: the next one delivers that batch, and nothing before, whatever
// keyframes stand in it.
func TestOutputKilledInFlight(t *testing.T) {
	server := bustest.NewServer(t)
	c := newHub(t, bustest.Hub(t, server))
	w := newWriter(t, server.URL(), "ams-1", 1, 5)
	dir, d := t.TempDir(), newCollector()
	o, _ := openOutput(t, c, dir, d, true)
	w.live(3)
	d.wait(t, 3)
	bustest.WaitFor(t, "the batch to be noted", func() bool { return c.output().Live.Rows == 3 })
	d.hold(false)
	w.live(2)
	w.encoder.RequestKeyframe()
	w.live(2)
	bustest.WaitFor(t, "rows in flight", func() bool { return c.output().Live.Waiting > 0 })
	w.live(1)
	o.feeds[0].restarted = time.Time{} // it would be time to note where to begin again
	journal, err := os.ReadFile(filepath.Join(dir, "out.cursor"))
	if err != nil {
		t.Fatal(err)
	}
	next, again := t.TempDir(), newCollector()
	if err := os.WriteFile(filepath.Join(next, "out.cursor"), journal, 0o600); err != nil {
		t.Fatal(err)
	}
	startOutput(t, c, next, again, true)
	again.wait(t, 5)
	for key := range d.rows {
		if again.rows[key] > 0 {
			t.Errorf("row %s came again", key)
		}
	}
}

// What a destination cannot deliver for the time being waits, while newer rows go on to it.
func TestFlushThatIsNotDone(t *testing.T) {
	server := bustest.NewServer(t)
	c := newHub(t, bustest.Hub(t, server))
	w := newWriter(t, server.URL(), "ams-1", 1, 5)
	dir, d := t.TempDir(), newCollector()
	down := true
	d.flush = func(_ context.Context, _ *taker, _ func(int, int, string)) (bool, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		return !down, nil
	}
	stop := startOutput(t, c, dir, d, true)
	w.live(2)
	bustest.WaitFor(t, "two rows that wait", func() bool { return c.output().Live.Waiting == 2 && c.output().Live.Postponed > 0 })
	w.live(3)
	bustest.WaitFor(t, "five rows that wait", func() bool { return c.output().Live.Waiting == 5 })
	if err := stop(); err != nil { // before it was delivered
		t.Fatal(err)
	}
	stop = startOutput(t, c, dir, d, true)
	bustest.WaitFor(t, "five rows that wait again", func() bool { return c.output().Live.Waiting == 5 && c.output().Live.Postponed > 1 })
	d.mu.Lock()
	down = false
	d.mu.Unlock()
	d.wait(t, 5)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	startOutput(t, c, dir, d, true)
	w.live(1)
	d.wait(t, 6)
}

// Reading waits when too much does, and goes on with the destination.
func TestPendingFramesAreBounded(t *testing.T) {
	server := bustest.NewServer(t)
	c := newHub(t, bustest.Hub(t, server))
	w := newWriter(t, server.URL(), "ams-1", 1, 5)
	d := newCollector()
	down := true
	d.flush = func(context.Context, *taker, func(int, int, string)) (bool, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		return !down, nil
	}
	w.live(20)
	o, err := NewOutput(OutputOptions{Name: "out", Dir: t.TempDir(), Hub: c.Hub, Live: d.live(), Backfill: d.later(), Oldest: true})
	if err != nil {
		t.Fatal(err)
	}
	o.feeds[0].most = 8
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- o.Run(ctx) }()
	bustest.WaitFor(t, "two flushes that were not done", func() bool { return c.output().Live.Postponed >= 2 })
	if s := c.output().Live; s.Waiting != 8 || s.Behind == 0 || s.Lag == 0 {
		t.Errorf("status is %+v, want 8 rows that wait", s)
	}
	d.mu.Lock()
	down = false
	d.mu.Unlock()
	d.wait(t, 20)
	stop()
	if err := errors.Join(<-done, o.Close()); err != nil {
		t.Fatal(err)
	}
}

// An output that cannot read says so, and lags behind what it read last.
func TestOutputThatIsCutOff(t *testing.T) {
	server := bustest.NewServer(t)
	c := newHub(t, bustest.Hub(t, server))
	w := newWriter(t, server.URL(), "ams-1", 1, 5)
	d := newCollector()
	startOutput(t, c, t.TempDir(), d, true)
	w.live(1)
	d.wait(t, 1)
	bustest.WaitFor(t, "the batch to be noted", func() bool { return c.output().Live.Rows == 1 })
	if s := c.output().Live; s.Problem != "" || s.Lag != 0 {
		t.Errorf("status is %+v", s)
	}
	server.Stop()
	bustest.WaitFor(t, "a problem", func() bool {
		s := c.output().Live
		return strings.Contains(s.Problem, "not connected") && s.Lag > 0
	})
}

// What a destination refuses is a gap of this output, over its restarts.
func TestRefusedRows(t *testing.T) {
	server := bustest.NewServer(t)
	c := newHub(t, bustest.Hub(t, server))
	w := newWriter(t, server.URL(), "ams-1", 1, 5)
	dir, d := t.TempDir(), newCollector()
	w.live(10)
	answer := "400: out of bounds <for ever>"
	refusing := true
	d.flush = func(_ context.Context, x *taker, refused func(row, samples int, why string)) (bool, error) {
		if x.backfill || !refusing || len(x.taken) < 5 {
			return true, nil
		}
		refusing = false
		refused(3, 2, answer) // in two requests
		refused(3, 1, answer)
		refused(4, 5, answer)
		return true, nil
	}
	o, stop := openOutput(t, c, dir, d, true)
	want := "ams-1 1/4-5:2 refused_by_output"
	check := func(o *Output) {
		t.Helper()
		if got := gapList(o.Gaps(10)); got != want {
			t.Errorf("gaps are %q, want %q", got, want)
		}
		if m := c.output().Missing; m.Rows[lane.RefusedByOutput] != 2 {
			t.Errorf("missing are %+v", m)
		}
	}
	d.wait(t, 10)
	bustest.WaitFor(t, "the end of the flush", func() bool { return c.output().Live.Rows == 10 })
	check(o)
	if n := c.output().Live.Refused; n != 8 {
		t.Errorf("%d samples are refused, want 8", n)
	}
	if c.logs.count("destination refuses samples", answer) != 1 {
		t.Error("the log does not quote the destination once")
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	o, _ = openOutput(t, c, dir, d, true)
	w.live(1)
	d.wait(t, 11)
	check(o)
}

// An output without backfill is one of the newest rows.
func TestOutputOfNewestRows(t *testing.T) {
	server := bustest.NewServer(t)
	c := newHub(t, bustest.Hub(t, server))
	w := newWriter(t, server.URL(), "ams-1", 1, 5)
	d := newCollector()
	o, err := NewOutput(OutputOptions{Name: "out", Dir: t.TempDir(), Hub: c.Hub, Live: d.live(), Oldest: true})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	go func() { done <- o.Run(ctx) }()
	w.live(2)
	late := w.frame()
	w.publish(bus.Backfill, late)
	w.encoder.RequestKeyframe()
	w.live(1)
	d.wait(t, 3)
	if gaps := gapList(o.Gaps(10)); gaps != "" {
		t.Errorf("gaps are %q, want none", gaps)
	}
	stop()
	if err := errors.Join(<-done, o.Close()); err != nil {
		t.Fatal(err)
	}
}

// A journal of the release before is read: its place to begin again is that of both lanes.
func TestCursorOfReleaseBefore(t *testing.T) {
	server := bustest.NewServer(t)
	c := newHub(t, bustest.Hub(t, server))
	w := newWriter(t, server.URL(), "ams-1", 1, 5)
	first := w.frame()
	w.publish(bus.Live, first)
	header, _, _, err := frame.Split(first)
	if err != nil {
		t.Fatal(err)
	}
	line, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	journal := strings.Join([]string{
		`{"snapshot":{"since":0,"restart":"","sites":{"ams-2":{"epochs":null}}}}`,
		`{"frame":{"site":"ams-1","header":` + string(line) + `}}`,
		`{"restart":"1700000000000000000-1099511627776-00000005"}`, "",
	}, "\n")
	if err := os.WriteFile(filepath.Join(dir, "out.cursor"), []byte(journal), 0o600); err != nil {
		t.Fatal(err)
	}
	read, err := openCursor(dir, "out", 7)
	if err != nil {
		t.Fatal(err)
	}
	if read.live.Sequence != 1<<40 || read.backfill != read.live || read.since != 0 || len(read.ledgers) != 2 {
		t.Errorf("it says %s and %s, since %d, of %d sites", read.live, read.backfill, read.since, len(read.ledgers))
	}
	if err := read.close(); err != nil {
		t.Fatal(err)
	}
	d := newCollector()
	startOutput(t, c, dir, d, false)
	w.live(1)
	d.wait(t, 1) // and not the first
	if d.rows[fmt.Sprintf("%s %s %d", w.name, w.source.Key, w.tick)] != 1 {
		t.Errorf("delivered were %v", d.rows)
	}
}

// marked is a destination that keeps the times and columns of the stale markers that it is given.
type marked struct {
	*taker
	rows    []string
	refuses bool
}

func (m *marked) Row(site string, row *series.Row) {
	m.taker.Row(site, row)
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, c := range row.Columns {
		if value.IsStaleNaN(row.Values[i]) {
			m.rows = append(m.rows, fmt.Sprintf("%d of row %d: %s at %d", len(m.rows), len(m.taken)-1, row.Schema.Column(int(c)).Labels.Get(model.MetricNameLabel), row.T))
		}
	}
}

func (m *marked) Flush(ctx context.Context, refused func(row, samples int, why string)) (bool, error) {
	if m.refuses {
		for i := range m.taken {
			refused(i, 1, "closed")
		}
	}
	return m.taker.Flush(ctx, refused)
}

// A series that ends has one marker, over restarts, and one that is refused is no gap.
func TestOutputTellsOfEnds(t *testing.T) {
	server := bustest.NewServer(t)
	c := newHub(t, bustest.Hub(t, server))
	w := newWriter(t, server.URL(), "ams-1", 1, 3)
	dir, d := t.TempDir(), newCollector()
	rows := uint64(0)
	run := func(refuses bool, want ...string) *Output {
		t.Helper()
		m := &marked{taker: d.live(), refuses: refuses}
		o, err := NewOutput(OutputOptions{Name: "out", Dir: dir, Hub: c.Hub, Live: m, Backfill: d.later(), Ends: true, Oldest: true})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- o.Run(ctx) }()
		d.delivered(t, w, w.tick)
		rows++
		bustest.WaitFor(t, "the batch to be noted", func() bool { return c.output().Live.Rows == rows+uint64(len(want)) })
		rows += uint64(len(want))
		stop()
		if err := errors.Join(<-done, o.Close()); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(m.rows) != fmt.Sprint(want) {
			t.Errorf("markers are %q, want %q", m.rows, want)
		}
		return o
	}
	w.live(1)
	run(false)
	w.absent = 1 << 1
	w.live(1)
	run(false, fmt.Sprintf("0 of row 0: metric_1 at %d", w.tick))
	w.live(1)
	run(false)
	w.absent = 0
	w.live(1)
	run(false)
	w.absent = 1 << 2
	w.live(1)
	o := run(true, fmt.Sprintf("0 of row 0: metric_2 at %d", w.tick))
	if gaps := gapList(o.Gaps(10)); gaps != "ams-1 1/5-5:1 refused_by_output" {
		t.Errorf("gaps are %q", gaps)
	}
}
