package push

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/telemetry"
)

const (
	// pushesAtOnce bounds the requests under way.
	pushesAtOnce = 8
	// pushTimeout is how long a gateway may take for one.
	pushTimeout = 30 * time.Second
	// After a failure nothing is pushed for so long, twice as long each time until one succeeds.
	firstPause, longestPause = 500 * time.Millisecond, 30 * time.Second
	// maxOutgoing bounds the groups that are held. Beyond, those that were silent for longest are forgotten.
	maxOutgoing = 100_000
	// outgoingIdle is how long a group is held after its last row.
	outgoingIdle = time.Hour
	// maxRefusals bounds the rows that wait to be told of.
	maxRefusals = 1000
	// maxWords bounds what is quoted of an answer.
	maxWords = 1 << 10
)

// ClientOptions of NewClient. All are required but Now.
type ClientOptions struct {
	Config ClientConfig
	// Name of the output in logs and metrics.
	Name   string
	Logger *slog.Logger
	Now    func() time.Time
}

// Client pushes the last row of every source to a Push Gateway. It is the destination of the live rows of an output; rows
// of the past have no place there.
//
// A group is all that a site has under one job and instance. It is pushed as a whole, by PUT, so that what is not there
// any more vanishes from the gateway, and deleted when its last source ends. While the gateway does not take it, newer
// rows replace what waits, and it is tried again; what the gateway refuses (a status of 4xx) is given up until the next
// row of the source.
//
// Row, Full and Flush are for one goroutine. Apply, Problem and Metrics are safe for concurrent use.
type Client struct {
	log     *slog.Logger
	repeats *telemetry.Repeats
	// Of groups that sites take from each other, which they will do again and again.
	overwrites *telemetry.Repeats
	now        func() time.Time
	metrics    *clientMetrics
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
		log: log, repeats: telemetry.NewRepeats(log, time.Minute), overwrites: telemetry.NewRepeats(log, time.Hour), now: o.Now, metrics: newClientMetrics(o.Name),
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

// Metrics are those of this client, labelled with the name of the output.
func (c *Client) Metrics() []prometheus.Collector { return c.metrics.all() }

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
	if len(g.members) == 0 {
		g.ended = &lastRow{source: row.Source, t: row.T, number: number}
	}
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

// push goes through what waits until something fails. Each group is pushed once, and waits on behind the others if that
// failed: one that the gateway cannot digest holds up nobody.
func (c *Client) push(ctx context.Context) {
	queue := slices.DeleteFunc(c.waiting, func(g *outgoing) bool { return !c.own(g) })
	c.waiting = nil
	if len(queue) > 0 && c.now().Sub(c.learned) > learnedFor {
		if _, err := c.learn(ctx); err != nil {
			c.waiting = queue
			c.note(ctx, false, len(queue), err.Error())
			return
		}
	}
	outcomes := c.pushAll(ctx, queue)
	c.pushFitting(ctx, queue, outcomes)
	var again []*outgoing
	var why string
	succeeded := false
	for i, g := range queue {
		o := &outcomes[i]
		switch o.result {
		case pushUntried:
			c.waiting = append(c.waiting, g)
		case pushFailed:
			again, why = append(again, g), cmp.Or(why, o.why)
		default:
			succeeded = succeeded || o.result == pushDone
			c.settle(g, o)
		}
	}
	c.waiting = append(c.waiting, again...)
	c.metrics.waiting.Set(float64(len(c.waiting)))
	c.metrics.groups.Set(float64(len(c.groups)))
	c.note(ctx, succeeded, len(again), why)
}

// pushAll pushes groups, some at a time, until something fails.
func (c *Client) pushAll(ctx context.Context, queue []*outgoing) []pushOutcome {
	outcomes := make([]pushOutcome, len(queue))
	var next atomic.Int64
	var failed atomic.Bool
	var wg sync.WaitGroup
	for i := range min(pushesAtOnce, len(queue)) {
		b := c.bodies[i]
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(queue); i = int(next.Add(1)) - 1 {
				if failed.Load() || ctx.Err() != nil {
					outcomes[i].result = pushUntried
					continue
				}
				outcomes[i] = c.pushGroup(ctx, queue[i], b)
				if outcomes[i].result == pushFailed {
					failed.Store(true)
				}
			}
		})
	}
	wg.Wait()
	return outcomes
}

// pushFitting pushes again what was refused because it contradicts what the gateway has, as that has it.
func (c *Client) pushFitting(ctx context.Context, queue []*outgoing, outcomes []pushOutcome) {
	var places []int
	var refused []*outgoing
	for i := range outcomes {
		if outcomes[i].malformed {
			places, refused = append(places, i), append(refused, queue[i])
		}
	}
	if len(refused) == 0 || c.now().Sub(c.learned) < learnEvery {
		return
	}
	if news, err := c.learn(ctx); err != nil || !news {
		return
	}
	for i, o := range c.pushAll(ctx, refused) {
		outcomes[places[i]] = o
	}
}

// own notes whose group it is at the gateway, where another site may have pushed over it without publisher_label. It is
// false if the group has ended and is the other's: there is nothing to delete.
func (c *Client) own(g *outgoing) bool {
	if c.settings.publisher {
		return true
	}
	path := groupPath(g.job, g.instance, "")
	owner, owned := c.owners[path]
	switch {
	case !owned || owner == g.site:
	case len(g.members) == 0:
		c.settle(g, &pushOutcome{})
		return false
	default:
		c.metrics.overwritten.Inc()
		c.overwrites.Log(slog.LevelWarn, path, "two sites push into one group, each over what the other pushed: set publisher_label",
			slog.String("job", g.job), slog.String("instance", g.instance), slog.String("site", g.site), slog.String("other", owner))
	}
	c.owners[path] = g.site
	return true
}

// note draws the conclusions of a round of pushes: how long to pause, and what to tell.
func (c *Client) note(ctx context.Context, succeeded bool, failed int, why string) {
	if ctx.Err() != nil {
		return
	}
	if succeeded {
		c.metrics.last.Set(float64(c.now().UnixMilli()) / 1000)
	}
	if succeeded || failed == 0 {
		c.pause = 0
	}
	if failed == 0 {
		if c.problem.Swap(nil) != nil {
			c.repeats.Forget("failed")
			c.log.Info("pushes are taken again", "url", c.settings.url)
		}
		return
	}
	c.pause = min(max(2*c.pause, firstPause), longestPause)
	c.resume = c.now().Add(c.pause)
	c.problem.Store(&why)
	c.repeats.Log(slog.LevelWarn, "failed", "push failed and is tried again", slog.String("url", c.settings.url),
		slog.Int("waiting", len(c.waiting)), slog.String("err", why))
}

// settle ends the wait of a group.
func (c *Client) settle(g *outgoing, o *pushOutcome) {
	g.waiting = false
	rows := g.members
	if g.ended != nil {
		rows = []*lastRow{g.ended}
	}
	for _, m := range rows {
		switch {
		case m.number == settled:
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

// pushOutcome is what became of a push.
type pushOutcome struct {
	result    pushResult
	why       string // for people
	malformed bool   // says the gateway, which means mostly that metrics contradict those of other groups
}

// pushGroup pushes a group or, if it has ended, deletes it.
func (c *Client) pushGroup(ctx context.Context, g *outgoing, b *clientBody) pushOutcome {
	s, now := c.settings, c.now()
	grouping := []labels.Label{{Name: model.JobLabel, Value: g.job}, {Name: model.InstanceLabel, Value: g.instance}}
	publisher := ""
	if s.publisher {
		publisher = g.site
		grouping = append(grouping, labels.Label{Name: "publisher", Value: g.site})
	}
	path := groupPath(g.job, g.instance, publisher)
	if len(g.members) == 0 {
		return c.send(ctx, http.MethodDelete, path, nil, "")
	}
	if c.isAged(g.newest(), now) {
		return pushOutcome{result: pushAged}
	}
	g.order()
	method := http.MethodPut
	if !g.complete(now) {
		method = http.MethodPost // replaces what the body has and keeps the rest
	}
	c.typesMu.Lock() // while one body is made the others are under way
	content, contentType := b.make(g, grouping, c.types)
	c.typesMu.Unlock()
	if b.dropped > 0 {
		c.metrics.dropped.Add(float64(b.dropped))
		c.repeats.Log(slog.LevelWarn, "dropped", "series are not pushed: the Push Gateway has another type for their names",
			slog.String("name", b.example), slog.Int("series", b.dropped), slog.String("group", path))
	}
	return c.send(ctx, method, path, content, contentType)
}

// send sends one request and judges the answer.
func (c *Client) send(ctx context.Context, method, path string, content []byte, contentType string) pushOutcome {
	ctx, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, c.settings.url+path, bytes.NewReader(content))
	if err != nil {
		return pushOutcome{result: pushRefused, why: err.Error()}
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	start := c.now()
	outcome := c.exchange(request)
	c.metrics.requests.WithLabelValues(string(outcome.result)).Inc()
	if outcome.result != pushFailed {
		c.metrics.seconds.Observe(c.now().Sub(start).Seconds())
	}
	return outcome
}

func (c *Client) exchange(request *http.Request) pushOutcome {
	response, err := c.settings.http.Do(request)
	if err != nil {
		return pushOutcome{result: pushFailed, why: err.Error()}
	}
	defer response.Body.Close()
	words, _ := io.ReadAll(io.LimitReader(response.Body, maxWords)) // what can be had of them
	why := fmt.Sprintf("%s %s: %s: %s", request.Method, request.URL.EscapedPath(), response.Status, strings.TrimSpace(string(words)))
	switch code := response.StatusCode; {
	case code/100 == 2:
		return pushOutcome{result: pushDone}
	case code/100 == 5, code == http.StatusTooManyRequests, code == http.StatusRequestTimeout:
		return pushOutcome{result: pushFailed, why: why}
	}
	return pushOutcome{result: pushRefused, why: why, malformed: response.StatusCode == http.StatusBadRequest}
}
