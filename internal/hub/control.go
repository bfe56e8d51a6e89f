package hub

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/thalweg/thalweg/internal/lane"
)

const (
	// controlQueue bounds the keyframe requests that wait to be sent; a site whose request finds no room is asked when
	// its next frame cannot be decoded.
	controlQueue = 1024
	// maxControls bounds the sites that are remembered, for as long as they say hello.
	maxControls = 100_000
	// keyframeRate spreads the requests after a restart of the fleet.
	keyframeRate = 20 * time.Millisecond
	// askers is how many requests are under way at a time, and askTimeout how long one may take: edges that are gone
	// must not hold up the others.
	askers     = 8
	askTimeout = 2 * time.Second
)

// control answers hellos and asks edges for keyframes.
type control struct {
	hub      *Hub
	instance string // tells this process from other hubs
	queue    chan string
	timeout  time.Duration // of a request to an edge

	mu    sync.Mutex
	edges map[string]*greeted // by site
}

// greeted is what a site said in its last hello.
type greeted struct {
	hello lane.Hello
	at    time.Time
	// behind is the hub's clock less the edge's, in ms, when the hello came.
	behind int64
	asked  time.Time
}

func newControl(h *Hub) *control {
	return &control{hub: h, instance: rand.Text(), queue: make(chan string, controlQueue), timeout: askTimeout, edges: map[string]*greeted{}}
}

// run serves until ctx ends.
func (c *control) run(ctx context.Context) {
	stop, err := c.hub.conn.Serve(c.hub.conn.Root().Hellos(), c.welcome)
	if err != nil {
		c.hub.log.Error("listen for hellos", "err", err)
	} else {
		defer stop()
	}
	pace := time.NewTicker(keyframeRate)
	defer pace.Stop()
	var asking sync.WaitGroup
	for range askers {
		asking.Go(func() { c.keepAsking(ctx, pace.C) })
	}
	asking.Wait()
}

// keepAsking sends a request of the queue with each tick, until ctx ends.
func (c *control) keepAsking(ctx context.Context, pace <-chan time.Time) {
	for {
		select {
		case site := <-c.queue:
			select {
			case <-pace:
			case <-ctx.Done():
				return
			}
			c.ask(ctx, site)
		case <-ctx.Done():
			return
		}
	}
}

// welcome answers a hello.
func (c *control) welcome(subject string, data []byte) []byte {
	now := c.hub.now()
	site, err := c.hub.conn.Root().ParseHello(subject)
	if err != nil {
		return nil
	}
	var hello lane.Hello
	if err := json.Unmarshal(data, &hello); err != nil {
		c.refuse(site, err.Error())
		return nil
	}
	// What a site says of others does not count: the subject is what the server let it use.
	if of, err := c.hub.conn.Root().ParseControl(hello.Control); err != nil || of != site {
		c.refuse(site, "its control subject is not its own")
		return nil
	}
	config, _ := c.hub.configured()
	admitted := config.admits(site)
	limits := config.SiteLimits(site)
	c.mu.Lock()
	g := c.edges[site]
	if g == nil && admitted && len(c.edges) < maxControls {
		g = &greeted{}
		c.edges[site] = g
	}
	if g != nil {
		g.hello, g.at, g.behind = hello, now, now.UnixMilli()-hello.NowMs
	}
	c.mu.Unlock()
	if c.hub.waits(site) {
		c.wantKeyframe(site)
	}
	if slices.Contains(hello.Heard, c.instance) {
		return nil
	}
	answer, err := json.Marshal(lane.Welcome{
		Hub: c.hub.name, Instance: c.instance, NowMs: now.UnixMilli(), FrameVersion: lane.FrameVersions()[0], KeyframeIntervalMs: keyframeBound.Milliseconds(),
		BytesPerSecond: int64(limits.BytesPerSecond),
	})
	if err != nil {
		panic("BUG: hub: encode welcome: " + err.Error())
	}
	return answer
}

func (c *control) refuse(site, why string) {
	c.hub.metrics.problems.WithLabelValues("hello").Inc()
	c.hub.repeats.Log(slog.LevelWarn, "hello "+site, "hello was refused", slog.String("site", site), slog.String("reason", why))
}

// forget drops the sites whose last hello was before a time.
func (c *control) forget(before time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.edges, func(_ string, g *greeted) bool { return g.at.Before(before) })
}

// waits reports whether the live lane of a site cannot be decoded without a keyframe.
func (h *Hub) waits(site string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.receiver.Site(site)
	return s != nil && s.Waiting
}

// wantKeyframe asks a site for a keyframe, soon, unless it was asked a moment ago.
func (c *control) wantKeyframe(site string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g := c.edges[site]
	now := c.hub.now()
	if g == nil || now.Sub(g.asked) < lane.KeyframeSpacing {
		return // who has not said hello yet is asked when it does
	}
	select {
	case c.queue <- site:
		g.asked = now
	default:
		c.hub.metrics.keyframeRequests.WithLabelValues("queue_full").Inc()
	}
}

func (c *control) ask(ctx context.Context, site string) {
	c.mu.Lock()
	subject := ""
	if g := c.edges[site]; g != nil {
		subject = g.hello.Control
	}
	c.mu.Unlock()
	if subject == "" {
		return
	}
	request, err := json.Marshal(lane.Control{Hub: c.hub.name, Op: lane.OpKeyframe})
	if err != nil {
		panic("BUG: hub: encode control request: " + err.Error())
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	data, err := c.hub.conn.Request(ctx, subject, request)
	var answer lane.ControlAnswer
	if err == nil {
		err = json.Unmarshal(data, &answer)
	}
	outcome := "granted"
	switch {
	case err != nil:
		outcome = "unanswered"
	case !answer.Done:
		outcome = "declined"
	}
	c.hub.metrics.keyframeRequests.WithLabelValues(outcome).Inc()
	c.hub.log.Debug("asked for a keyframe", "site", site, "outcome", outcome, "reason", answer.Reason, "err", err)
}

// greeting returns what a site said last.
func (c *control) greeting(site string) (greeted, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if g := c.edges[site]; g != nil {
		return *g, true
	}
	return greeted{}, false
}
