package hub

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/series"
)

// gateway is what destinations of newest rows push to: it has the last row of each site, and does not take those of all.
type gateway struct {
	mu     sync.Mutex
	poison string // a site, or "*" for all
	pushed map[string][]int64
}

func newGateway() *gateway { return &gateway{pushed: map[string][]int64{}} }

func (g *gateway) takes(poison string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.poison = poison
}

func (g *gateway) of(site string) []int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.pushed[site])
}

// waitFor waits until the last row of a site was pushed.
func (g *gateway) waitFor(t *testing.T, w *writer) {
	t.Helper()
	bustest.WaitFor(t, "the last row of "+w.name, func() bool {
		times := g.of(w.name)
		return len(times) > 0 && times[len(times)-1] == w.tick
	})
}

// pusher is a destination of newest rows.
type pusher struct {
	*gateway
	rows    int
	waiting map[string]waitingRow // by site
}

type waitingRow struct {
	number int
	t      int64
}

func (g *gateway) pusher() *pusher { return &pusher{gateway: g, waiting: map[string]waitingRow{}} }

func (p *pusher) Row(site string, row *series.Row) {
	p.waiting[site] = waitingRow{p.rows, row.T}
	p.rows++
}

func (p *pusher) Full() bool { return false }

func (p *pusher) Flush(context.Context, func(row, samples int, why string)) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for site, row := range p.waiting {
		if p.poison == site || p.poison == "*" {
			continue
		}
		p.pushed[site] = append(p.pushed[site], row.t)
		delete(p.waiting, site)
	}
	if len(p.waiting) > 0 {
		return false, nil
	}
	p.rows = 0
	return true, nil
}

func (p *pusher) Oldest() int {
	oldest := p.rows
	for _, row := range p.waiting {
		oldest = min(oldest, row.number)
	}
	return oldest
}

// push runs an output of the newest rows until the returned function is called, with so many frames that may wait.
func (g *gateway) push(t *testing.T, c *center, dir string, most int) (stop func()) {
	t.Helper()
	o, err := NewOutput(OutputOptions{Name: "out", Dir: dir, Hub: c.Hub, Live: g.pusher(), Oldest: true})
	if err != nil {
		t.Fatal(err)
	}
	o.feeds[0].most = most
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- o.Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		if err := errors.Join(<-done, o.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// What a gateway does not take of one site holds up no other, however long, and the cursor goes on: the next process
// begins with what waits.
func TestNewestRowsOfOthersGoOn(t *testing.T) {
	server := bustest.NewServer(t)
	c := newHub(t, bustest.Hub(t, server))
	good, bad := newWriter(t, server.URL(), "ams-1", 1, 5), newWriter(t, server.URL(), "ams-2", 2, 5)
	g, dir := newGateway(), t.TempDir()
	g.takes(bad.name)
	stop := g.push(t, c, dir, 8)
	for range 5 {
		good.live(5)
		bad.live(1)
		g.waitFor(t, good)
	}
	before := len(g.of(good.name))
	good.live(3)
	g.waitFor(t, good)
	bustest.WaitFor(t, "what is settled to be noted", func() bool { s := c.output().Live; return s.Rows == 29 && s.Waiting == 4 })
	stop()
	if pushed := len(g.of(good.name)); pushed <= before || pushed > before+3 {
		t.Errorf("%d rows were pushed after %d", pushed, before)
	}

	again := newGateway()
	stop = again.push(t, c, dir, 8)
	again.waitFor(t, bad)
	stop()
	if got := again.of(bad.name); len(got) != 1 {
		t.Errorf("the next process pushed %v of the site that waited", got)
	}
}

// A gateway that is away for longer than frames may wait: reading goes on, and what is pushed at last is the newest row.
func TestNewestRowsWhileTheGatewayIsAway(t *testing.T) {
	server := bustest.NewServer(t)
	c := newHub(t, bustest.Hub(t, server))
	w := newWriter(t, server.URL(), "ams-1", 1, 5)
	silent := newWriter(t, server.URL(), "ams-2", 2, 5)
	g, dir := newGateway(), t.TempDir()
	g.takes("*")
	stop := g.push(t, c, dir, 8)
	silent.live(1)
	w.live(40)
	bustest.WaitFor(t, "all to be read", func() bool { s := c.output().Live; return s.Rows+uint64(s.Waiting) == 41 && s.Behind == 0 })
	if s := c.output().Live; s.Waiting >= 8 || s.Lag == 0 {
		t.Errorf("status is %+v", s)
	}
	g.takes("")
	g.waitFor(t, silent)
	g.waitFor(t, w)
	if got := g.of(w.name); len(got) != 1 {
		t.Errorf("pushed were %v, want the newest alone", got)
	}
	bustest.WaitFor(t, "the batch to be noted", func() bool { return c.output().Live.Rows == 41 })
	w.live(1)
	g.waitFor(t, w)
	stop()

	w.live(1)
	again := newGateway()
	stop = again.push(t, c, dir, 8)
	again.waitFor(t, w)
	stop()
	if len(again.of(w.name)) != 1 || len(again.of(silent.name)) != 0 {
		t.Errorf("the next process pushed %v", again.pushed)
	}
}

// What was stored while the hub was away is read before any of it is pushed: old rows never are.
func TestNewestRowsAfterAbsence(t *testing.T) {
	server := bustest.NewServer(t)
	c := newHub(t, bustest.Hub(t, server))
	w := newWriter(t, server.URL(), "ams-1", 1, 5)
	w.live(500)
	g := newGateway()
	stop := g.push(t, c, t.TempDir(), 50)
	g.waitFor(t, w)
	stop()
	if got := g.of(w.name); len(got) != 1 {
		t.Errorf("%d rows were pushed, want the newest alone", len(got))
	}
}

// Of two hubs one pushes, and when it is killed the other one goes on with what the gateway had not taken.
func TestNewestRowsOfTwoHubs(t *testing.T) {
	r := newReplicas(t)
	other := newWriter(t, r.server.URL(), "ams-2", 2, 5)
	gateways := map[string]*gateway{"a": newGateway(), "b": newGateway()}
	start := func(name string) *replica {
		t.Helper()
		c := newHub(t, bustest.Hub(t, r.server))
		c.name = name
		shared := bustest.Connected(t, bus.Options{Config: bustest.Config(r.server.URL()), Journals: journals})
		bustest.EnsureStream(t, shared)
		return r.runTo(c, shared, OutputOptions{Dir: t.TempDir(), Live: gateways[name].pusher()}, quick)
	}
	a := start("a")
	a.holds(t)
	b := start("b")
	b.waits(t, "a")
	r.w.live(3)
	gateways["a"].waitFor(t, r.w)
	a.noted(t, 3)
	gateways["a"].takes(other.name)
	other.live(2)
	r.w.live(2)
	gateways["a"].waitFor(t, r.w)
	bustest.WaitFor(t, "what is settled to be noted", func() bool { return a.c.output().Live.Rows == 4 })
	a.kill(t)
	gateways["b"].waitFor(t, other)
	gateways["b"].waitFor(t, r.w)
	b.noted(t, 3)
	if got := gateways["b"].of(r.w.name); len(got) != 1 {
		t.Errorf("the other hub pushed %v", got)
	}
	if got := gateways["a"].of(other.name); len(got) != 0 {
		t.Errorf("the killed hub pushed %v", got)
	}
	r.w.live(1)
	gateways["b"].waitFor(t, r.w)
	if n := len(gateways["a"].of(r.w.name)); n > 5 {
		t.Errorf("the killed hub pushed %d times", n)
	}
}
