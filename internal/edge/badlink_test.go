package edge

import (
	"testing"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
)

// backlogged is an edge with a backlog of the given number of frames, not running yet.
func backlogged(t *testing.T, url string, frames int) *sender {
	t.Helper()
	s := prepare(t, url, t.TempDir())
	s.edge.tailBytes = 4 << 10
	for range frames {
		s.sink(10)
	}
	s.ahead.Store(int64(2 * time.Minute))
	return s
}

// Over a link as bad as those that are promised to work, live rows go through while a backlog is on its way, and in the
// end each row has come once.
func TestBadLink(t *testing.T) {
	t.Parallel()
	p := single(t)
	p.proxy.SetRate(256_000 / 8)
	p.proxy.SetLatency(600 * time.Millisecond)
	p.proxy.SetLoss(0.05)
	s := backlogged(t, p.proxy.URL(), 300)
	s.run()
	bustest.WaitFor(t, "backfill", func() bool { return p.reading.count(bus.Backfill) > 0 })
	for range 3 {
		s.sink(1)
		newest := s.edge.Status().Newest
		bustest.WaitFor(t, "a live row", func() bool { return s.edge.outbox.Acked(newest) })
	}
	if s.edge.Status().Outbox.UnackedFrames == 0 {
		t.Error("the backlog was gone before the live rows")
	}
	p.proxy.SetRate(0)
	p.proxy.SetLatency(0)
	p.proxy.SetLoss(0)
	s.allStored()
	p.reading.expect(s)
	p.reading.once(bus.Live)
	s.noLoss()
}

// A connection that a NAT has forgotten, and a cable that is pulled and put back: nothing is lost, nothing comes twice.
func TestSilentLinks(t *testing.T) {
	f := func(name string, harm func(*bustest.Proxy), mend func(*bustest.Proxy)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := single(t)
			s := start(t, p.proxy.URL(), t.TempDir())
			s.sink(3)
			s.allStored()
			harm(p.proxy)
			s.sink(3)
			s.problem("live", "")
			s.sink(3)
			mend(p.proxy)
			s.sink(1)
			s.allStored()
			s.healthy()
			p.reading.expect(s)
			p.reading.once(bus.Live)
			s.noLoss()
		})
	}
	f("half-open", (*bustest.Proxy).Forget, func(*bustest.Proxy) {})
	f("stalled", func(p *bustest.Proxy) { p.Stall(true) }, func(p *bustest.Proxy) { p.Stall(false) })
}

// A captive proxy answers everything with a page of its own until somebody logs in.
func TestCaptiveProxy(t *testing.T) {
	t.Parallel()
	p := single(t)
	proxy := bustest.NewHTTPProxy(t, "user:pass")
	proxy.Captive(true)
	config := bustest.Config(p.servers[0].URL())
	config.ProxyURL = proxy.URL("user:pass")
	s := prepare(t, p.proxy.URL(), t.TempDir(), func(o *Options) {
		o.Conn = bustest.Connect(t, bus.Options{Config: config, Site: site, Logger: o.Logger})
	})
	s.run()
	s.sink(3)
	s.problem("link", "")
	bustest.WaitFor(t, "the reason", func() bool { return s.edge.Status().Link.Reason != "connecting" })
	proxy.Captive(false)
	s.allStored()
	s.healthy()
	p.reading.expect(s)
}
