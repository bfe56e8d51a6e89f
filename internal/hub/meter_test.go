package hub

import (
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/lane"
)

func TestMeter(t *testing.T) {
	m := newMeter()
	l := &Limits{BytesPerSecond: 1000, FrameBytes: 500}
	now := int64(1_000_000)
	f := func(bytes int, within, flood bool) {
		t.Helper()
		if w, f := m.take("a", bytes, now, l); w != within || f != flood {
			t.Errorf("%d bytes at %d: within %v, flood %v; want %v, %v", bytes, now, w, f, within, flood)
		}
	}
	f(10_000, true, false) // ten seconds, and a frame
	f(600, false, false)
	f(500, true, false)
	now += 200
	f(201, false, false)
	f(200, true, false)
	now -= 5000 // another server's clock
	f(1, false, false)
	now += 6000
	f(1000, true, false)
	// 4 times the limit for 30 s, or as much at once, is a flood; it is said once in that time.
	now += 31_000
	for range 119 {
		m.take("a", 1000, now, l)
	}
	f(1000, false, false)
	f(1, true, true) // there is room for it
	f(1000, false, false)
	if n := m.dropped("a"); n < 100 {
		t.Errorf("%d messages are counted as dropped", n)
	}
	// Another site has its own, and 0 is no limit.
	if within, _ := m.take("b", 10_000, now, l); !within {
		t.Error("another site pays for it")
	}
	if within, flood := m.take("c", 1<<30, now, &Limits{}); !within || flood {
		t.Error("a site without a limit is metered")
	}
	m.take("d", 1, now-1, l)
	m.expire(now, func(site string) bool { return site == "b" })
	if len(m.sites) != 2 || m.dropped("a") == 0 {
		t.Errorf("who sent nothing since is still metered: %d sites", len(m.sites))
	}
	m.expire(now+1, func(string) bool { return false })
	f(10_000, true, false)
}

// Sites that are not let in are metered, so that one that floods is cut off, and forgotten soon: they leave room for
// others.
func TestMeterForgetsWhoIsNotLetIn(t *testing.T) {
	server := bustest.NewServer(t)
	c := newHub(t, bustest.Hub(t, server), func(c *Config) { c.StrictSites, c.Sites = true, map[string]Site{"good": {}} })
	var ahead atomic.Int64
	c.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	runHub(t, c)
	o, stop := openOutput(t, c, t.TempDir(), newCollector(), true)
	evil, good := newWriter(t, server.URL(), "evil", 1, 5), newWriter(t, server.URL(), "good", 2, 5)
	evil.live(1)
	good.live(1)
	c.rows(t, good.name, 1)
	metered := func(mu *sync.Mutex, m *meter) []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Sorted(maps.Keys(m.sites))
	}
	bustest.WaitFor(t, "the output", func() bool { return len(metered(&o.mu, o.feeds[0].meter)) == 2 })
	if got := metered(&c.mu, c.meter); len(got) != 2 {
		t.Errorf("metered are %q", got)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	ahead.Store(int64(forgetEvery + time.Minute))
	c.forgetSites()
	o.forgetSites(c.now())
	for _, got := range [][]string{metered(&c.mu, c.meter), metered(&o.mu, o.feeds[0].meter)} {
		if !slices.Equal(got, []string{good.name}) {
			t.Errorf("metered are still %q", got)
		}
	}
}

// A site that floods is not looked into, what it sent is missing, it is cut off, and comes back with a keyframe. Another
// one does not notice.
func TestFloodingSite(t *testing.T) {
	server := bustest.NewServer(t)
	conn := bustest.Hub(t, server)
	cut := make(chan string, 10)
	c := newHub(t, conn, func(c *Config) { c.Limits.FrameBytes, c.Limits.BytesPerSecond = 64*units.KiB, units.KiB })
	c.refuse = func(site string, d time.Duration) {
		if d == cutOff {
			cut <- site
		}
	}
	runHub(t, c)
	evil, good := newWriter(t, server.URL(), "evil", 1, 500), newWriter(t, server.URL(), "good", 2, 5)
	evil.live(1)
	good.live(1)
	c.rows(t, good.name, 1)
	for range 40 {
		evil.publish(bus.Live, make([]byte, 10<<10))
	}
	if site := <-cut; site != evil.name {
		t.Errorf("%q is cut off", site)
	}
	evil.live(20) // more than comes in for them meanwhile
	good.live(3)
	c.rows(t, good.name, 4)
	bustest.WaitFor(t, "the frames behind to be missing", func() bool {
		return c.site(evil.name).Missing.Rows[lane.Rejected] >= 3
	})
	st := c.site(evil.name)
	if st.Refused()["bytes_per_second"] < 20 {
		t.Errorf("%d rows came, refused were %v", st.Rows, st.Refused())
	}
	if n := testutil.ToFloat64(c.metrics.floods); n == 0 {
		t.Error("no flood is counted")
	}
	if n := c.logs.count("site sends far more than it may"); n == 0 {
		t.Error("no flood is in the log")
	}
	if s := c.site(good.name); s.Missing.Total() != 0 || s.Waiting || s.Dropped != 0 {
		t.Errorf("the other site: %+v", s)
	}
}

// What limits refuse is in the status of the site, in the metrics and, once, in the log, with the worst offenders. The
// rest goes on, and a lower limit counts from the next row on.
func TestSeriesBeyondTheLimit(t *testing.T) {
	server := bustest.NewServer(t)
	c := startHub(t, bustest.Hub(t, server), func(c *Config) {
		c.Limits.Series = 100
		c.Sites = map[string]Site{"big": {Expected: true, Limits: SiteLimits{Series: new(30)}}}
	})
	big, small := newWriter(t, server.URL(), "big", 1, 50), newWriter(t, server.URL(), "small", 2, 50)
	big.live(2)
	small.live(2)
	c.rows(t, big.name, 2)
	c.rows(t, small.name, 2)
	held := func(site string) (series int) {
		for _, s := range c.store.Sites() {
			if s.Name == site {
				return s.Series
			}
		}
		return 0
	}
	if got := []int{held(big.name), held(small.name)}; got[0] != 30 || got[1] != 50 {
		t.Errorf("the store has %v series, want 30 and 50", got)
	}
	s := c.site(big.name)
	if s.Usage.Series != 30 || s.Usage.Held != 20 || s.Refused()["series"] != 20 {
		t.Errorf("%+v", s.Usage)
	}
	if n := testutil.ToFloat64(c.metrics.refused.WithLabelValues("series")); n != 20 {
		t.Errorf("%v series are counted as refused, want 20", n)
	}
	c.reportLimits()
	c.reportLimits()
	if n := c.logs.count("site is beyond its limits", "site=big", "series=20", "refused_series=20", "(series)"); n != 1 {
		t.Errorf("%d lines, want 1", n)
	}
	lower := c.config
	lower.Limits.Series = 10
	if err := c.Apply(lower); err != nil {
		t.Fatal(err)
	}
	small.live(1)
	c.rows(t, small.name, 3)
	if n := held(small.name); n != 10 {
		t.Errorf("after the reload the store has %d series, want 10", n)
	}
}

// Nothing fails open: selectors that cannot be read let nothing in.
func TestGuardFailsClosed(t *testing.T) {
	c := DefaultConfig()
	c.Match = []string{"{"}
	g := newGuards(&c, nil, slog.New(slog.DiscardHandler), uncounted)
	s := g.selection("a", c.Match)
	if len(s) == 0 || s.Selects(labels.FromStrings("__name__", "a")) {
		t.Error("selectors that cannot be read let a series in")
	}
}
