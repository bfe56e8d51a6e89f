package hub

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
)

// gapList writes gaps as site epoch/from-to:rows cause.
func gapList(gaps []SiteGap) string {
	var list []string
	for _, g := range gaps {
		list = append(list, fmt.Sprintf("%s %d/%d-%d:%d %s", g.Site, g.Epoch, g.From, g.To, g.Rows, g.Cause))
	}
	return strings.Join(list, ", ")
}

// wantGaps waits until the hub lists exactly these gaps, and has nothing left to read.
func (c *center) wantGaps(t *testing.T, want string) {
	t.Helper()
	got := ""
	defer func() {
		if t.Failed() {
			t.Errorf("gaps are %q, want %q", got, want)
		}
	}()
	bustest.WaitFor(t, "gaps "+want, func() bool {
		got = gapList(c.Gaps(100))
		return c.Account(nil).Complete && got == want
	})
}

// stopped runs a hub and returns what stops it.
func stopped(t *testing.T, c *center) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	var over bool
	stop = func() {
		if over {
			return
		}
		over = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// What is missing, by cause: told on the page, in metrics and in the log, once when it is found and once when it came.
func TestGaps(t *testing.T) {
	server := bustest.NewServer(t)
	c := startHub(t, bustest.Hub(t, server), func(c *Config) { c.Limits.Series = 100 })
	w := newWriter(t, server.URL(), "ams-1", 1, 5)
	w.live(2)
	c.wantGaps(t, "")

	w.frame() // 3 and 4 are lost
	w.frame()
	w.encoder.RequestKeyframe()
	w.live(2) // 5, 6
	c.wantGaps(t, "ams-1 1/3-4:2 not_arrived")
	bustest.WaitFor(t, "a line about the gap", func() bool {
		return c.logs.count("rows of a site have not arrived", "site=ams-1", "rows=2", "first_frame=3", "last_frame=4") == 1
	})
	w.encoder.Loss(frame.Loss{Epoch: 1, From: 3, To: 4, Rows: 2, Cause: frame.CauseEvicted})
	w.live(1) // 7
	c.wantGaps(t, "ams-1 1/3-4:2 evicted")
	bustest.WaitFor(t, "a line about the loss", func() bool {
		return c.logs.count("site lost rows", "site=ams-1", "cause=evicted", "rows=2") == 1 &&
			c.logs.count("no row of the site is awaited any more", "site=ams-1") == 1
	})
	if n := testutil.ToFloat64(c.metrics.lost.WithLabelValues("evicted")); n != 2 {
		t.Errorf("%v rows are counted as evicted, want 2", n)
	}

	damaged := w.frame() // 8
	damaged[len(damaged)-1] ^= 1
	w.publish(bus.Live, damaged)
	w.live(1) // 9 applies to 8
	c.wantGaps(t, "ams-1 1/3-4:2 evicted, ams-1 1/8-9:2 undecodable")
	account := c.Account(nil)
	if account.Missing.Gaps != 2 || account.Missing.Rows[lane.Undecodable] != 2 || account.Missing.Total() != 4 || time.Since(account.Since) > time.Hour {
		t.Errorf("account %+v", account)
	}
}

// Rows that the hub does not let in are missing at the hub.
func TestGapsOfRejectedRows(t *testing.T) {
	server := bustest.NewServer(t)
	c := startHub(t, bustest.Hub(t, server))
	w := newWriter(t, server.URL(), "ams-1", 1, 5)
	w.live(1)
	w.tick += time.Hour.Milliseconds() // its clock jumps
	w.live(4)
	newWriter(t, server.URL(), "ams-2", 2, 5).live(4)
	c.wantGaps(t, "ams-1 1/2-5:4 rejected")
}

// So are those of a site of which nothing can be taken, also if they came before the hub began.
func TestGapsOfASiteBeyondItsLimits(t *testing.T) {
	server := bustest.NewServer(t)
	conn := bustest.Hub(t, server)
	w := newWriter(t, server.URL(), "ams-1", 1, 500)
	w.live(2)
	w.encoder.RequestKeyframe()
	w.live(2)
	c := startHub(t, conn, func(c *Config) { c.Limits.Series = 10 })
	// What was before the first frame is not known, and so that counts as the last of it.
	c.wantGaps(t, "ams-1 1/2-2:1 undecodable, ams-1 1/3-3:1 rejected, ams-1 1/4-4:1 undecodable")
}

// A hub that was off while the stream was replaced notices when it starts, once, and reads on.
func TestHubThatMissedAnotherStream(t *testing.T) {
	server := bustest.NewServer(t)
	conn := bustest.Hub(t, server)
	dir := t.TempDir()
	begin := func() (*center, func()) {
		c := newHub(t, conn)
		c.dir = dir
		if err := c.ledgers.load(dir, AllParts); err != nil {
			t.Fatal(err)
		}
		return c, stopped(t, c)
	}
	w := newWriter(t, server.URL(), "ams-1", 1, 5)
	c, stop := begin()
	w.live(3)
	c.wantGaps(t, "")
	c.rows(t, "ams-1", 3)
	stop()
	c, stop = begin()
	<-c.CaughtUp()
	stop()
	if r := c.LastReset(); !r.At.IsZero() {
		t.Errorf("with the stream of before the last reset is %+v", r)
	}
	if _, err := conn.Request(t.Context(), "$JS.API.STREAM.DELETE."+bustest.StreamConfig().Name, nil); err != nil {
		t.Fatal(err)
	}
	bustest.EnsureStream(t, conn)
	w.last = map[bus.Lane]uint64{}
	w.encoder.RequestKeyframe()
	w.live(2)
	c, stop = begin()
	c.rows(t, "ams-1", 2)
	if r := c.LastReset(); r.Reason != bus.StreamRecreated {
		t.Errorf("with another stream the last reset is %+v", r)
	}
	stop()
	c, stop = begin()
	<-c.CaughtUp()
	stop()
	if r := c.LastReset(); !r.At.IsZero() {
		t.Errorf("the next time the last reset is %+v", r)
	}
}

// A line about lost rows tells of the gaps that are new.
func TestWhereRowsAreMissing(t *testing.T) {
	gap := func(from, rows uint64, cause lane.Cause) lane.Gap {
		return lane.Gap{Epoch: 1, From: from, To: from + 1, Rows: rows, First: int64(from) * 1000, Last: int64(from)*1000 + 500, Cause: cause}
	}
	gaps := []lane.Gap{gap(2, 9, lane.Evicted), gap(5, 4, lane.Evicted), gap(7, 4, lane.Corrupt), gap(9, 6, lane.Evicted)}
	f := func(rows uint64, want string) {
		t.Helper()
		text := ""
		for _, a := range where(gaps, lane.Evicted, rows) {
			if a.Value.Kind() == slog.KindTime {
				a.Value = slog.Int64Value(a.Value.Time().UnixMilli())
			}
			text += a.String() + " "
		}
		if text != want {
			t.Errorf("of %d rows it says %q, want %q", rows, text, want)
		}
	}
	f(6, "from=9000 to=9500 gaps=1 epoch=0000000000000001 first_frame=9 last_frame=10 ")
	f(2, "from=9000 to=9500 gaps=1 epoch=0000000000000001 first_frame=9 last_frame=10 ")
	f(10, "from=5000 to=9500 gaps=2 ")
	f(30, "from=2000 to=9500 gaps=3 ")
	gaps = nil
	f(3, "")
}

// A hub that is stopped, killed or new says the same about what is missing as one that was there all the time.
func TestGapsOutliveTheHub(t *testing.T) {
	server := bustest.NewServer(t)
	conn := bustest.Hub(t, server)
	w := newWriter(t, server.URL(), "ams-1", 1, 5)
	dir := t.TempDir()
	begin := func(dir string) (*center, func()) {
		c := newHub(t, conn)
		c.dir = dir
		if err := c.ledgers.load(dir, AllParts); err != nil {
			t.Fatal(err)
		}
		return c, stopped(t, c)
	}
	first, stop := begin(dir)
	w.live(2)
	stored := time.Now()
	w.frame() // 3 is lost
	w.encoder.RequestKeyframe()
	w.live(1)
	const want = "ams-1 1/3-3:1 not_arrived"
	first.wantGaps(t, want)
	since := first.Account(nil).Since
	killed := t.TempDir() // what is on disk if the process is killed before it saves again
	if err := first.ledgers.save(killed, AllParts); err != nil {
		t.Fatal(err)
	}
	w.live(1)
	w.frame() // 6 is lost
	w.encoder.RequestKeyframe()
	w.live(1)
	const more = want + ", ams-1 1/6-6:1 not_arrived"
	first.wantGaps(t, more)
	stop()
	for name, dir := range map[string]string{"stopped": dir, "killed": killed, "new": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			c, stop := begin(dir)
			c.wantGaps(t, more)
			switch got := c.Account(nil).Since; {
			case name != "new" && !got.Equal(since):
				t.Errorf("the account begins at %s, want %s", got, since)
			case got.IsZero() || got.After(stored):
				t.Errorf("the account begins at %s, which leaves out what was stored at %s", got, stored)
			}
			if n := c.series(); n != 5 {
				t.Errorf("the store has %d series, want 5", n)
			}
			stop()
		})
	}
}

// A hub that was down for longer than the tail reader reaches back is at the head at once, and reads what was in between
// behind it. While it does it says so, and does not complain of what it has not read yet.
func TestHistory(t *testing.T) {
	server := bustest.NewServer(t)
	conn := bustest.Hub(t, server)
	w := newWriter(t, server.URL(), "ams-1", 1, 5)
	dir := t.TempDir()
	old := newHub(t, conn)
	old.dir = dir
	stop := stopped(t, old)
	w.live(3)
	old.wantGaps(t, "")
	stop()
	w.live(2) // 4, 5
	w.frame() // 6 is lost
	w.encoder.RequestKeyframe()
	w.live(2) // 7, 8
	// An edge begins anew, twice; the epoch between the others is known from the stream alone.
	second := newWriter(t, server.URL(), "ams-1", 2, 5)
	second.encoder = frame.NewEncoder(frame.EncoderConfig{Epoch: 2, Predecessor: frame.Predecessor{ID: frame.ID{Epoch: 1, Number: 9}, Rows: 9}})
	second.last = w.last
	second.live(3)
	third := newWriter(t, server.URL(), "ams-1", 3, 5)
	third.encoder = frame.NewEncoder(frame.EncoderConfig{Epoch: 3, Predecessor: frame.Predecessor{ID: frame.ID{Epoch: 2, Number: 3}, Rows: 3}})
	third.last = second.last
	third.live(1)
	third.frame() // 2 is lost
	third.encoder.RequestKeyframe()
	stored := time.Now()
	bustest.WaitFor(t, "another moment", func() bool { return time.Since(stored) > 50*time.Millisecond })
	third.live(2) // 3, 4

	// To a hub whose clock is fast all but the newest messages are older than its tail reader looks back.
	last, err := third.conn.Last(t.Context(), third.conn.Root().Lane("ams-1", bus.Live))
	if err != nil {
		t.Fatal(err)
	}
	ahead := last.Time.Sub(stored)/2 + tailBack - time.Since(stored)
	const want = "ams-1 1/6-6:1 not_arrived, ams-1 1/9-9:1 not_arrived, ams-1 3/2-2:1 not_arrived"
	for name, dir := range map[string]string{"knows the past": dir, "knows nothing": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			c := newHub(t, conn)
			skew := ahead
			c.now = func() time.Time { return time.Now().Add(skew) }
			c.dir = dir
			if err := c.ledgers.load(dir, AllParts); err != nil {
				t.Fatal(err)
			}
			stop := stopped(t, c)
			<-c.CaughtUp()
			if s := c.site("ams-1"); s.Rows > 4 {
				t.Errorf("the tail reader took %d rows, more than stand near the head", s.Rows)
			}
			c.wantGaps(t, want)
			bustest.WaitFor(t, "a line about history", func() bool { return c.logs.count("what the stream holds was read") == 1 })
			stop()
		})
	}
}

// Reading for the account that was interrupted begins again, whether or not the tail reader met the same.
func TestHistoryInterrupted(t *testing.T) {
	server := bustest.NewServer(t)
	c := newHub(t, bustest.Hub(t, server))
	w := newWriter(t, server.URL(), "ams-1", 1, 5)
	w.live(2)
	w.frame() // 3 is lost
	w.encoder.RequestKeyframe()
	w.live(2)
	set := func(parts Parts) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.config.Parts, c.catchingUp, c.caughtUpAt = parts, false, 4 // as if the tail reader had read all
	}
	set(0) // there is nothing that could be read
	c.history.pause = time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); c.history.run(ctx) }()
	defer func() { cancel(); <-done }()
	c.history.caughtUp()
	bustest.WaitFor(t, "a line about it", func() bool { return c.logs.count("reading what the stream holds was interrupted") == 1 })
	if c.Account(nil).Complete {
		t.Error("the account is complete, and nothing was read")
	}
	set(AllParts)
	c.wantGaps(t, "ams-1 1/3-3:1 not_arrived")
}

// Whatever happens to the file, a hub starts, and says what it could not use.
func TestLedgerFileDamaged(t *testing.T) {
	dir := t.TempDir()
	l := newLedgers(bustest.Logger(t), nil)
	v := view{ledgers: l, at: 1_700_000_000_000}
	for i := range 3 {
		h := frame.Header{Kind: frame.Keyframe, ID: frame.ID{Epoch: 3, Number: 5}, RowsBefore: 4, Rows: 1, Sent: v.at}
		v.took(&lane.Delivery{Site: fmt.Sprintf("site-%d", i), Header: &h})
	}
	l.complete(v.at, time.Now())
	if err := l.save(dir, AllParts); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, ledgerFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	load := func(data []byte, parts Parts) (*ledgers, error) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		fresh := newLedgers(bustest.Logger(t), nil)
		return fresh, fresh.load(dir, parts)
	}
	if fresh, err := load(good, AllParts); err != nil || len(fresh.sites) != 3 || fresh.since != v.at {
		t.Fatalf("%d sites, since %d, %v", len(fresh.sites), fresh.since, err)
	}
	if fresh, err := load(good, 1<<bus.PartOf("site-1")); err != nil || len(fresh.sites) != 1 {
		t.Errorf("of one part: %v, %v", fresh.names(), err)
	}
	for at := range good[:len(good)-1] {
		bad := slices.Clone(good)
		bad[at] ^= 4
		if fresh, err := load(bad, AllParts); err == nil || len(fresh.sites) != 0 || !strings.Contains(err.Error(), path) {
			t.Fatalf("byte %d changed: %d sites, %v", at, len(fresh.sites), err)
		}
		if fresh, err := load(good[:at], AllParts); err == nil || len(fresh.sites) != 0 {
			t.Fatalf("cut to %d bytes: %d sites, %v", at, len(fresh.sites), err)
		}
	}
	part := Parts(1 << bus.PartOf("site-1"))
	if err := l.save(dir, part); err != nil {
		t.Fatal(err)
	}
	narrow := newLedgers(bustest.Logger(t), nil)
	if err := narrow.load(dir, AllParts); err != nil || len(narrow.sites) != 0 || narrow.until != 0 {
		t.Errorf("a file of one part stands for all: %v, %v", narrow.names(), err)
	}
}

// What left the stream before the hub had read it, and is not with the site any more, has a cause of its own.
func TestGapsOfAnExpiredStream(t *testing.T) {
	server := bustest.NewServer(t)
	conn := bustest.Hub(t, server)
	dir := t.TempDir()
	c := newHub(t, conn)
	c.dir = dir
	stop := stopped(t, c)
	w := newWriter(t, server.URL(), "ams-1", 1, 5)
	w.encoder = frame.NewEncoder(frame.EncoderConfig{Epoch: 1, Facts: []frame.Fact{{Name: lane.FactPending}}})
	w.live(3)
	c.rows(t, "ams-1", 3)
	c.wantGaps(t, "")
	stop()
	w.live(3) // 4 to 6
	request := fmt.Sprintf(`{"seq": %d}`, w.last[bus.Live]+1)
	if _, err := conn.Request(t.Context(), "$JS.API.STREAM.PURGE."+bustest.StreamConfig().Name, []byte(request)); err != nil {
		t.Fatal(err)
	}
	w.last[bus.Live] = 0
	w.encoder.RequestKeyframe()
	w.live(1)
	again := newHub(t, conn)
	if err := again.ledgers.load(dir, AllParts); err != nil {
		t.Fatal(err)
	}
	stopped(t, again)
	again.wantGaps(t, "ams-1 1/4-6:3 expired")
	bustest.WaitFor(t, "a line about the loss", func() bool {
		return again.logs.count("site lost rows", "site=ams-1", "cause=expired", "rows=3") == 1
	})
}

// manyLedgers has sites of which each has had nine processes, with every third frame lost, and tells of all of that.
func manyLedgers(sites int, at int64) *ledgers {
	l := newLedgers(slog.New(slog.DiscardHandler), newMetrics(&Hub{}).lost)
	v := view{ledgers: l, at: at}
	for i := range sites {
		before := frame.Predecessor{}
		for epoch := frame.Epoch(1); epoch <= 9; epoch++ {
			for n := uint64(1); n <= 60; n++ {
				h := frame.Header{Kind: frame.Keyframe, ID: frame.ID{Epoch: epoch, Number: n}, RowsBefore: n - 1, Rows: 1, Sent: at}
				if n == 1 {
					h.Flags, h.Predecessor = frame.FlagFirst, before
				}
				if n%3 != 0 {
					v.took(&lane.Delivery{Site: fmt.Sprintf("site-%d", i), Header: &h})
				}
			}
			before = frame.Predecessor{ID: frame.ID{Epoch: epoch, Number: 60}, Rows: 60}
			v.lose(fmt.Sprintf("site-%d", i), frame.Loss{Epoch: epoch, From: 1, To: 60, Rows: 60, Cause: frame.CauseEvicted})
		}
	}
	l.complete(at, time.UnixMilli(at))
	return l
}

// What is long known goes when the ledgers are trimmed. What is reported each second does not look for it.
func TestLedgersAreTrimmed(t *testing.T) {
	at := time.Now()
	l := manyLedgers(2, at.UnixMilli())
	l.report()
	all := l.missing("site-1").Rows[lane.Evicted]
	if all == 0 || l.sites["site-1"].told.Rows[lane.Evicted] != all {
		t.Fatalf("%d rows are missing, %d were reported", all, l.sites["site-1"].told.Rows[lane.Evicted])
	}
	l.trim(at.Add(gapsKept - time.Minute))
	if n := l.missing("site-1").Rows[lane.Evicted]; n != all {
		t.Errorf("%d rows are missing, want %d", n, all)
	}
	l.trim(at.Add(gapsKept + time.Minute))
	if m := l.missing("site-1"); m != l.missing("site-0") || m.Gaps != 0 {
		t.Errorf("still missing are %+v", m)
	}
}

// With a lock that the tail reader takes for each frame. Site is what one site costs.
func BenchmarkLedgers(b *testing.B) {
	at := time.Now()
	const sites = 1000
	l := manyLedgers(sites, at.UnixMilli())
	for name, f := range map[string]func(){"report": l.report, "trim": func() { l.trim(at) }} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				f()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/sites, "ns/site")
		})
	}
}

// A hub that runs and was cut off for long goes on near the head of the stream, and reads behind it what it left out.
func TestHubThatWasCutOff(t *testing.T) {
	server := bustest.NewServer(t)
	near := bustest.Hub(t, server)
	proxy := bustest.NewProxy(t, server.Addr())
	c := newHub(t, bustest.Connected(t, bus.Options{Config: bustest.Config(proxy.URL())}))
	var ahead atomic.Int64
	c.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	runHub(t, c)
	w := newWriter(t, server.URL(), "ams-1", 1, 5)
	w.live(2)
	c.wantGaps(t, "")
	proxy.Refuse(true)
	proxy.Cut()
	w.frame() // 3 is lost
	w.encoder.RequestKeyframe()
	w.live(skipBehind + 100)
	ahead.Store(int64(3 * tailBack))
	proxy.Refuse(false)
	c.wantGaps(t, "ams-1 1/3-3:1 not_arrived")
	bustest.WaitFor(t, "lines about what is left out and read", func() bool {
		return c.logs.count("hub was cut off for long") == 1 && c.logs.count("what the stream holds was read") >= 2
	})
	if s := c.site("ams-1"); s.Rows > 100 {
		t.Errorf("the tail reader took %d rows that stand far behind the head", s.Rows)
	}
	w.encoder.RequestKeyframe()
	w.live(1)
	last, err := near.Last(t.Context(), near.Root().Lane("ams-1", bus.Live))
	if err != nil {
		t.Fatal(err)
	}
	bustest.WaitFor(t, "the newest frame", func() bool { return c.site("ams-1").LastSequence == last.Sequence })
}
