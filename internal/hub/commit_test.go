package hub

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/telemeter"
)

func (c *center) commit(t *testing.T, site string, rows ...*series.Row) error {
	t.Helper()
	return c.Deposits().Commit(t.Context(), site, rows)
}

// sources makes rows of counters, each of which stands in one of n sources, as those of a sender of remote write.
func sources(c *center, n int) (next func(i int) *series.Row) { return sourcesOf(c, "", n) }

func sourcesOf(c *center, sender string, n int) (next func(i int) *series.Row) {
	columns := make([]series.Column, 40)
	for i := range columns {
		columns[i] = series.Synthetic(fmt.Sprintf("metric_%d_total", i), "A metric.")
	}
	schema := c.catalog.Extend(c.catalog.Empty(), columns)
	all := make([]*series.Source, n)
	for i := range all {
		all[i] = &series.Source{Key: fmt.Sprint("write/", sender, i), Labels: labels.FromStrings("job", "j", "instance", fmt.Sprint(i))}
	}
	var last atomic.Int64
	last.Store(time.Now().UnixMilli())
	return func(i int) *series.Row {
		t := last.Add(1)
		row := &series.Row{Source: all[i%n], Schema: schema, T: t, Columns: make([]uint32, len(columns)), Values: make([]float64, len(columns))}
		for k := range columns {
			row.Columns[k], row.Values[k] = uint32(k), float64(t*int64(k))
		}
		return row
	}
}

func (c *center) whole(t *testing.T, site string) {
	t.Helper()
	if s := c.site(site); s.Missing.Total() != 0 || s.Missing.Gaps != 0 || s.Waiting || s.Live.Problem != "" {
		t.Errorf("%+v", s)
	}
}

// What one sender commits are deltas behind one keyframe, in which names and metadata are told once.
func TestCommittedRowsAreDeltas(t *testing.T) {
	c := startHub(t, bustest.Hub(t, bustest.NewServer(t)))
	next := sources(c, 3)
	for i := range 30 {
		if err := c.commit(t, "a", next(i), next(i+1)); err != nil {
			t.Fatal(err)
		}
	}
	c.rows(t, "a", 60)
	c.whole(t, "a")
	m := c.Deposits().metrics
	if keyframes, messages, rows := testutil.ToFloat64(m.keyframes), testutil.ToFloat64(m.messages), testutil.ToFloat64(m.rows); keyframes != 1 || messages != 30 || rows != 60 {
		t.Errorf("%v keyframes in %v messages of %v rows", keyframes, messages, rows)
	}
	if perSample := testutil.ToFloat64(m.bytes) / (60 * 40); perSample > 5 {
		t.Errorf("a sample costs %.1f B", perSample)
	}
	// Whoever begins to read now needs no more than what is there.
	late := startHub(t, c.conn)
	late.rows(t, "a", 60)
	late.whole(t, "a")
	// After a pause, when nothing is kept any more, another keyframe tells all again.
	c.Deposits().expire(time.Now().Add(time.Hour))
	if n := len(c.Deposits().lanes); n != 0 {
		t.Errorf("%d sites are remembered", n)
	}
	if err := c.commit(t, "a", next(0)); err != nil {
		t.Fatal(err)
	}
	if n := testutil.ToFloat64(m.keyframes); n != 2 {
		t.Errorf("%v keyframes, want 2", n)
	}
	late.rows(t, "a", 61)
	late.whole(t, "a")
}

// Callers that wait at a time share a message, and one that gives up before its rows are taken leaves none.
func TestCommitsShareAMessage(t *testing.T) {
	c := startHub(t, bustest.Hub(t, bustest.NewServer(t)))
	next := sources(c, 10)
	if err := c.commit(t, "a", next(0)); err != nil {
		t.Fatal(err)
	}
	d := c.Deposits()
	l := d.lanes["a"]
	l.turn <- struct{}{}
	var callers sync.WaitGroup
	for i := range 100 {
		row := next(i)
		callers.Go(func() {
			if err := c.commit(t, "a", row); err != nil {
				t.Error(err)
			}
		})
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	callers.Go(func() {
		if err := d.Commit(ctx, "a", []*series.Row{next(0)}); !errors.Is(err, gone) {
			t.Errorf("who went away got %v", err)
		}
	})
	waiting := func(n int) func() bool {
		return func() bool {
			d.mu.Lock()
			defer d.mu.Unlock()
			return len(l.waiting) == n
		}
	}
	bustest.WaitFor(t, "all callers", waiting(101))
	cancel(gone)
	bustest.WaitFor(t, "one to go", waiting(100))
	<-l.turn
	callers.Wait()
	c.rows(t, "a", 101)
	c.whole(t, "a")
	if n := testutil.ToFloat64(d.metrics.messages); n != 2 {
		t.Errorf("%v messages, want 2", n)
	}
}

// Several senders write one site through two hubs at once, which are replaced by others now and then. Each row that was
// committed is there once, for all that read.
func TestCommitsThroughTwoHubs(t *testing.T) {
	server := bustest.NewServer(t)
	hubs := []*center{startHub(t, bustest.Hub(t, server)), startHub(t, bustest.Hub(t, server))}
	delivered := newCollector()
	startOutput(t, hubs[0], t.TempDir(), delivered, true)
	var stored atomic.Uint64
	for round := range 3 {
		var senders sync.WaitGroup
		for i := range 6 {
			c := hubs[i%2]
			next := sourcesOf(c, fmt.Sprintf("%d-%d/", round, i), 5)
			senders.Go(func() {
				for k := range 10 {
					rows := []*series.Row{next(k), next(k + 1), next(k + 2)}
					for c.commit(t, "a", rows...) != nil { // as a sender does
						if t.Context().Err() != nil {
							return
						}
					}
					stored.Add(3)
				}
			})
		}
		senders.Wait()
		hubs = append([]*center{startHub(t, bustest.Hub(t, server))}, hubs...)
	}
	for _, c := range hubs {
		c.rows(t, "a", stored.Load())
		c.whole(t, "a")
	}
	delivered.wait(t, int(stored.Load()))
	again := newCollector()
	startOutput(t, hubs[0], t.TempDir(), again, true)
	again.wait(t, int(stored.Load()))
}

// An older copy of the stream comes back: what is stored from then on has names of its own, so that those who have read
// what is lost take it.
func TestCommitBehindAnOldCopy(t *testing.T) {
	server := bustest.NewServer(t)
	one, other := startHub(t, bustest.Hub(t, server)), startHub(t, bustest.Hub(t, server))
	next := sources(one, 2)
	commit := func(c *center) {
		t.Helper()
		bustest.WaitFor(t, "a commit", func() bool { return c.commit(t, "a", next(0)) == nil })
	}
	for range 3 {
		commit(one)
	}
	server.Stop()
	older := server.CopyStore()
	server.Start()
	for range 4 {
		commit(one)
	}
	one.rows(t, "a", 7)
	other.rows(t, "a", 7)
	server.Stop()
	server.RestoreStore(older)
	server.Start()
	commit(other) // which wrote nothing of what is lost, but has read it
	commit(one)
	for _, c := range []*center{one, other} {
		c.rows(t, "a", 9)
		c.whole(t, "a")
	}
	late := startHub(t, bustest.Hub(t, server))
	late.rows(t, "a", 5)
	if s := late.site("a"); s.Missing.Total() != 4 {
		t.Errorf("who begins now misses %d rows, want the 4 that are lost", s.Missing.Total())
	}
}

// A connection is lost with the answers: what is committed then is stored once, and its sender knows.
func TestCommitWhoseAnswerIsLost(t *testing.T) {
	server := bustest.NewServer(t)
	observer := startHub(t, bustest.Hub(t, server))
	proxy := bustest.NewProxy(t, server.Addr())
	c := newHub(t, bustest.Connected(t, bus.Options{Config: bustest.Config(proxy.URL())}))
	next := sources(c, 1)
	if err := c.commit(t, "a", next(0)); err != nil {
		t.Fatal(err)
	}
	proxy.LoseAnswers(true)
	done := make(chan error, 1)
	row := next(0)
	go func() { done <- c.Deposits().Commit(t.Context(), "a", []*series.Row{row}) }()
	observer.rows(t, "a", 2)
	proxy.LoseAnswers(false)
	proxy.Cut()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := c.commit(t, "a", next(0)); err != nil {
		t.Error(err)
	}
	observer.rows(t, "a", 3)
	observer.whole(t, "a")
}

// What a reader would turn away because the site sends too much is not acknowledged in the first place.
func TestCommitBeyondTheRate(t *testing.T) {
	c := startHub(t, bustest.Hub(t, bustest.NewServer(t)), func(c *Config) { c.Limits.BytesPerSecond = 2 * units.KiB })
	stored := uint64(0)
	for i := range 1000 {
		row := pushed(c, 500, float64(i*7919)/3)
		row.T += int64(i)
		err := c.commit(t, "a", row)
		if early, ok := errors.AsType[*telemeter.EarlyError](err); ok {
			if early.Wait <= 0 || early.Wait > time.Minute {
				t.Errorf("wait %s", early.Wait)
			}
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		stored++
	}
	if stored == 1000 {
		t.Fatal("nothing was refused")
	}
	c.rows(t, "a", stored)
	if n := c.meter.dropped("a"); n != 0 {
		t.Errorf("%d messages were turned away", n)
	}
	c.whole(t, "a")
}

// A lane that cannot be decoded any more goes on with a keyframe, and a site that is not let in gets no lane.
func TestCommitWhereAKeyframeIsWanted(t *testing.T) {
	c := newHub(t, bustest.Hub(t, bustest.NewServer(t)), func(c *Config) { c.Sites, c.StrictSites = map[string]Site{"a": {}}, true })
	var ahead atomic.Int64
	c.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	runHub(t, c)
	next := sources(c, 1)
	if err := c.commit(t, "a", next(0)); err != nil {
		t.Fatal(err)
	}
	c.rows(t, "a", 1)
	c.mu.Lock()
	c.receiver.Site("a").Waiting = true
	c.mu.Unlock()
	for _, want := range []float64{1, 2} { // not at once, for the last one is there
		if err := c.commit(t, "a", next(0)); err != nil {
			t.Fatal(err)
		}
		if n := testutil.ToFloat64(c.Deposits().metrics.keyframes); n != want {
			t.Errorf("%v keyframes, want %v", n, want)
		}
		ahead.Add(int64(31 * time.Second))
	}
	c.rows(t, "a", 3)
	c.whole(t, "a")
	if err := c.commit(t, "b", next(0)); !errors.Is(err, telemeter.ErrNotAdmitted) {
		t.Errorf("a site that is not listed: %v", err)
	}
	bad := next(0)
	bad.Values = bad.Values[1:]
	if err := c.commit(t, "a", next(0), bad); err == nil {
		t.Error("a broken row was taken")
	}
	if err := c.commit(t, "a"); err != nil {
		t.Errorf("no rows: %v", err)
	}
}

// BenchmarkCommit has senders of one site that each wait for a row of 40 counters, and then make the next one. The first
// keyframe is not counted.
func BenchmarkCommit(b *testing.B) {
	for _, senders := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("senders=%d", senders), func(b *testing.B) {
			c := startHub(b, bustest.Hub(b, bustest.NewServer(b)))
			next := sources(c, senders)
			for i := range senders {
				if err := c.Deposits().Commit(b.Context(), "a", []*series.Row{next(i)}); err != nil {
					b.Fatal(err)
				}
			}
			m := c.Deposits().metrics
			rows, bytes, messages := testutil.ToFloat64(m.rows), testutil.ToFloat64(m.bytes), testutil.ToFloat64(m.messages)
			var left atomic.Int64
			left.Store(int64(b.N))
			var tasks sync.WaitGroup
			b.ResetTimer()
			for i := range senders {
				tasks.Go(func() {
					for left.Add(-1) >= 0 {
						if err := c.Deposits().Commit(b.Context(), "a", []*series.Row{next(i)}); err != nil {
							b.Error(err)
						}
					}
				})
			}
			tasks.Wait()
			rows, bytes, messages = testutil.ToFloat64(m.rows)-rows, testutil.ToFloat64(m.bytes)-bytes, testutil.ToFloat64(m.messages)-messages
			b.ReportMetric(bytes/(rows*40), "B/sample")
			b.ReportMetric(rows/messages, "rows/message")
		})
	}
}
