package push

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"

	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/telemetry"
)

const (
	// maxOutgoing bounds the groups that are held. Beyond, those that were silent for longest are forgotten.
	maxOutgoing = 100_000
	// outgoingIdle is how long a group is held after its last row.
	outgoingIdle = time.Hour
	// maxRefusals bounds the rows that wait to be told of.
	maxRefusals = 10_000
)

// ClientOptions of NewClient. All are required but Now.
type ClientOptions struct {
	Config  ClientConfig
	Name    string         // of the output in logs
	Metrics *ClientMetrics // of the output
	Logger  *slog.Logger
	Now     func() time.Time
}

// Client pushes the last row of every source to a Push Gateway. It is the destination of the live rows of an output; rows
// of the past have no place there.
//
// A group is all that a site has under one job and instance. It is pushed as a whole, by PUT, so that what is not there
// any more vanishes from the gateway, and deleted when its last source ends. While the gateway does not take it, newer
// rows replace what waits, and it is tried again; what the gateway refuses (a status of 4xx) is given up until the next
// row of the source. Types are those that the gateway has already (gatewayTypes).
//
// Row, Full and Flush are for one goroutine. Apply and Problem are safe for concurrent use.
type Client struct {
	log     *slog.Logger
	repeats *telemetry.Repeats
	// Of groups that sites take from each other, which they will do again and again.
	overwrites *telemetry.Repeats
	now        func() time.Time
	metrics    *ClientMetrics
	wanted     atomic.Pointer[clientSettings]
	problem    atomic.Pointer[string] // of the last push, nil if there is none

	settings *clientSettings // in force
	groups   map[outgoingKey]*outgoing
	waiting  []*outgoing       // in the order in which they are pushed
	owners   map[string]string // by path, without publisher_label: the site that pushed last
	refusals []rowRefusal
	rows     int       // since the last Flush that was done
	learned  time.Time // when types were asked for
	typesMu  sync.Mutex
	types    gatewayTypes // guarded by typesMu while groups are pushed
	pause    time.Duration
	resume   time.Time // nothing is pushed before
	swept    time.Time
	bodies   [pushesAtOnce]*clientBody
}

// clientSettings are what a reload changes.
type clientSettings struct {
	url       string
	publisher bool
	maxAge    time.Duration
	http      *http.Client
}

// rowRefusal is a row that will never be pushed.
type rowRefusal struct {
	row, samples int
	why          string
}

// NewClient returns a client. It connects to nothing yet.
func NewClient(o ClientOptions) (*Client, error) {
	log := o.Logger.With("output", o.Name)
	c := &Client{
		log: log, repeats: telemetry.NewRepeats(log, time.Minute), overwrites: telemetry.NewRepeats(log, time.Hour), now: o.Now, metrics: o.Metrics,
		groups: map[outgoingKey]*outgoing{}, owners: map[string]string{},
	}
	if c.now == nil {
		c.now = time.Now
	}
	for i := range c.bodies {
		c.bodies[i] = newClientBody()
	}
	if err := c.Apply(o.Config); err != nil {
		return nil, err
	}
	c.settings, c.swept = c.wanted.Load(), c.now()
	return c, nil
}

// Apply puts another configuration in force, from the next Row or Flush on. A gateway at another URL gets everything
// that is held. On an error nothing changes.
func (c *Client) Apply(cfg ClientConfig) error {
	client, err := config.NewClientFromConfig(cfg.HTTP, "pushgateway", config.WithUserAgent("thalweg"))
	if err != nil {
		return fmt.Errorf("create client of Push Gateway: %w", err)
	}
	c.wanted.Store(&clientSettings{
		url: strings.TrimRight(cfg.URL, "/"), publisher: cfg.PublisherLabel, maxAge: time.Duration(cfg.MaxAge), http: client,
	})
	return nil
}

// adopt puts in force what Apply was given.
func (c *Client) adopt() {
	before, s := c.settings, c.wanted.Load()
	if s == before {
		return
	}
	c.settings, c.pause, c.resume = s, 0, time.Time{}
	before.http.CloseIdleConnections()
	if s.url == before.url && s.publisher == before.publisher {
		return
	}
	clear(c.owners)
	c.types, c.learned = nil, time.Time{}
	for _, g := range c.groups {
		c.enqueue(g)
	}
}

// Problem returns why the gateway does not take what waits; nil if it does.
func (c *Client) Problem() error {
	if p := c.problem.Load(); p != nil {
		return errors.New(*p)
	}
	return nil
}

// Row takes a row of a site, of which it copies what it keeps. Rows of a source come in order.
func (c *Client) Row(site string, row *series.Row) {
	c.adopt()
	number := c.rows
	c.rows++
	now := c.now()
	key := keyOf(site, row.Source)
	switch g := c.groups[key]; {
	case key.job == "" && row.End: // nothing was pushed of it
	case key.job == "":
		c.refuse(number, row.Samples(), "the source has no label job, without which there is no group")
	case row.End:
		c.endSource(key, row, number, now)
	case c.isAged(row.T, now):
		c.refuseAged(number, row.Samples())
	case g == nil && len(c.groups) >= maxOutgoing && !c.forgetSilent(len(c.groups)/10):
		c.refuse(number, row.Samples(), fmt.Sprintf("%d groups wait already", len(c.groups)))
	default:
		g = c.group(key, now)
		m := g.memberOf(row.Source, now)
		m.take(row, now)
		m.number, m.samples, g.ended = number, row.Samples(), nil
		c.enqueue(g)
		c.warnOfAge(site, row.Source)
	}
}

// endSource takes a source out of its group, which may not be held: the gateway may have it all the same.
func (c *Client) endSource(key outgoingKey, row *series.Row, number int, now time.Time) {
	g := c.group(key, now)
	g.remove(row.Source.Key)
	g.ended = &lastRow{source: row.Source, t: row.T, number: number}
	c.enqueue(g)
}

// group returns the group of a key, a new one if there is none.
func (c *Client) group(key outgoingKey, now time.Time) *outgoing {
	g := c.groups[key]
	if g == nil {
		g = &outgoing{outgoingKey: key}
		c.groups[key] = g
		c.metrics.groups.Set(float64(len(c.groups)))
	}
	g.heard = now
	return g
}

// enqueue makes a group wait to be pushed.
func (c *Client) enqueue(g *outgoing) {
	if g.waiting {
		return
	}
	g.waiting = true
	c.waiting = append(c.waiting, g)
	c.metrics.waiting.Set(float64(len(c.waiting)))
}

func (c *Client) isAged(t int64, now time.Time) bool {
	return c.settings.maxAge > 0 && now.UnixMilli()-t > c.settings.maxAge.Milliseconds()
}

func (c *Client) refuse(row, samples int, why string) {
	c.refusals = append(c.refusals, rowRefusal{row, samples, why})
}

func (c *Client) refuseAged(row, samples int) {
	c.metrics.aged.Inc()
	c.refuse(row, samples, fmt.Sprintf("older than max_age, %s", model.Duration(c.settings.maxAge)))
}

// warnOfAge tells of a source that max_age is too short for.
func (c *Client) warnOfAge(site string, s *series.Source) {
	if age := c.settings.maxAge; age > 0 && age < 2*s.Interval {
		c.repeats.Log(slog.LevelWarn, "age "+site, "max_age is less than two intervals of a source: its rows may be dropped",
			slog.String("site", site), slog.String("source", s.Key), slog.Duration("interval", s.Interval), slog.Duration("max_age", age))
	}
}

// Full reports whether there is so much to tell of that Flush should be called.
func (c *Client) Full() bool { return len(c.refusals) >= maxRefusals }

// Flush pushes what waits, and returns when each push was answered. It is not done while the gateway cannot be reached
// or has no answer but a status of 5xx: then there is a pause in which it returns at once, half a second at first, later
// up to 30 s. Refused is called for rows that will never be pushed. The only error is that of ctx.
func (c *Client) Flush(ctx context.Context, refused func(row, samples int, why string)) (done bool, err error) {
	c.adopt()
	now := c.now()
	if !now.Before(c.resume) {
		c.push(ctx)
	}
	if now.Sub(c.swept) > time.Minute {
		c.swept = now
		c.forgetIdle(now)
	}
	for _, r := range c.refusals {
		refused(r.row, r.samples, r.why)
	}
	clear(c.refusals)
	c.refusals = c.refusals[:0]
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if len(c.waiting) > 0 {
		return false, nil
	}
	c.rows = 0
	return true, nil
}

// Oldest returns the number of the oldest row that waits, that of the next row if none does. Each of the others was
// pushed, refused, or replaced by a newer one.
func (c *Client) Oldest() int {
	oldest := c.rows
	if len(c.refusals) > 0 {
		oldest = c.refusals[0].row
	}
	for _, g := range c.waiting {
		for m := range g.rows() {
			if m.number != settled {
				oldest = min(oldest, m.number)
			}
		}
	}
	return oldest
}

// settle ends the wait of a group.
func (c *Client) settle(g *outgoing, o *pushOutcome) {
	g.waiting = false
	for m := range g.rows() {
		switch {
		case m.number == settled, m == g.ended && len(g.members) > 0:
		case o.result == pushRefused:
			c.refuse(m.number, m.samples, o.why)
		case o.result == pushAged:
			c.refuseAged(m.number, m.samples)
		}
		m.number = settled
	}
	if len(g.members) == 0 {
		c.forget(g)
	}
}

// forget drops what is held of a group.
func (c *Client) forget(g *outgoing) {
	delete(c.groups, g.outgoingKey)
	if path := groupPath(g.job, g.instance, ""); c.owners[path] == g.site {
		delete(c.owners, path)
	}
}

// forgetIdle forgets groups of which nothing came for long. The gateway keeps them.
func (c *Client) forgetIdle(now time.Time) {
	for _, g := range c.groups {
		if !g.waiting && now.Sub(g.heard) > outgoingIdle {
			c.forget(g)
		}
	}
	c.metrics.groups.Set(float64(len(c.groups)))
}

// forgetSilent forgets n groups that do not wait, those first that were silent for longest. It is false if all wait.
func (c *Client) forgetSilent(n int) bool {
	var idle []*outgoing
	for _, g := range c.groups {
		if !g.waiting {
			idle = append(idle, g)
		}
	}
	slices.SortFunc(idle, func(a, b *outgoing) int { return a.heard.Compare(b.heard) })
	for _, g := range idle[:min(n, len(idle))] {
		c.forget(g)
	}
	return len(idle) > 0
}
