package events

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/telemetry"
)

// Options of Open. Config, Dir, Site and Logger are required, and with a Sink Interval and Catalog.
type Options struct {
	// Config is valid: its Validate has been called.
	Config Config
	// Dir holds the state on disk. It is made if it is not there, and belongs to one Gateway at a time.
	Dir  string
	Site string
	// Sink takes the aggregate as a whole row every Interval. Nil: nobody wants it.
	Sink     series.Sink
	Interval time.Duration
	Catalog  *series.Catalog
	// Condition says whether events are taken. Nil: nobody wants to know.
	Condition *telemetry.Condition
	Logger    *slog.Logger
	Now       func() time.Time // nil: time.Now
}

const (
	// checkpointEvery is how often what has changed is written to disk, commitEvery how often when somebody waits for it.
	checkpointEvery = 500 * time.Millisecond
	commitEvery     = 20 * time.Millisecond
	// failedAtMost bounds how long it is waited after a record that could not be written: the next one holds everything, and
	// whoever wants the aggregate waits while it is made.
	failedAtMost = 5 * time.Second
	// repeatEvery bounds how often the same trouble is logged.
	repeatEvery = time.Minute
	// maxShown is how much of an event stands in the log.
	maxShown = 300
)

// Gateway aggregates events. It is safe for concurrent use.
type Gateway struct {
	options     Options
	metrics     *metrics
	repeats     *telemetry.Repeats
	checkpoints *checkpoints
	wake        chan struct{}
	damaged     bool

	// replaying is set as long as events may not count that counted before a crash.
	replaying atomic.Bool
	// rereading is the same of events of a stream.
	rereading atomic.Bool

	mu      sync.Mutex
	state   *state
	memo    memo
	parser  Parser
	rows    *rows // used by Run alone, with mu
	meta    meta
	changed bool // since the last record
	pending *commit
	writing *commit   // the one before, if somebody waits for it
	durable position  // what the last record on disk says
	failing error     // why the last record is not on disk
	trouble string    // why no events can be taken from Redis
	stopped bool      // what would be applied now would not be durable
	standby bool      // another replica takes the events, or will
	replica *replica  // nil: this gateway is none
	terms   terms     // of its lease
	still   time.Time // since when no series ends, for events cannot come
	streams []*Stream
}

// commit is what waits for the next record.
type commit struct {
	waited bool // somebody waits
	done   chan struct{}
	err    error
}

func newCommit() *commit { return &commit{done: make(chan struct{})} }

// settled is a commit for which nobody has to wait.
func settled(err error) *commit {
	c := newCommit()
	c.err = err
	close(c.done)
	return c
}

// Open reads the state that is on disk. If it is damaged, it is put aside, and the gateway begins with nothing; an error
// is about the directory itself.
func Open(o Options) (*Gateway, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	g := &Gateway{
		options: o, metrics: newMetrics(), repeats: telemetry.NewRepeats(o.Logger, repeatEvery), wake: make(chan struct{}, 1),
		pending: newCommit(), meta: newMeta(&o.Config), memo: newMemo(), terms: defaultTerms,
	}
	if c := o.Config.Redis; c != nil && c.Replicas {
		g.replica, g.standby = newReplica(g, c), true
	}
	g.begin()
	var err error
	g.checkpoints, err = openCheckpoints(o.Dir, o.Logger, func(content []byte) error {
		if content == nil {
			g.begin()
			return nil
		}
		return g.state.restore(content)
	})
	if err != nil {
		return nil, fmt.Errorf("open event gateway: %w", err)
	}
	g.damaged = g.checkpoints.damaged
	g.state.restored(o.Now().UnixMilli())
	g.durable = g.state.position.clone()
	g.replaying.Store(!g.state.clean && o.Config.Redis != nil)
	g.rereading.Store(!g.state.clean && len(g.state.position.streams) > 0 && o.Config.NATS != nil)
	g.state.clean, g.changed = false, true
	if o.Sink != nil {
		source := &series.Source{
			Key: "events", Labels: labels.FromStrings(model.InstanceLabel, o.Site, model.JobLabel, "events"), Interval: o.Interval,
		}
		g.rows = newRows(o.Catalog, source)
	}
	return g, nil
}

// begin makes the state one in which nothing is known.
func (g *Gateway) begin() {
	g.state = &state{
		aggregate: newAggregate(&g.options.Config, g.meta.names(), g.options.Now().UnixMilli()), clean: true,
		position: position{streams: map[string]StreamPosition{}},
	}
}

// Reload puts limits, rules and the TTL of another configuration in force, which is valid, and another interval of rows.
func (g *Gateway) Reload(c Config, interval time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.rows != nil {
		g.rows.setInterval(interval)
	}
	g.state.configure(&c)
	own := &g.options.Config // that of states that are begun later
	own.Limits, own.RelabelConfigs, own.TTL = c.Limits, c.RelabelConfigs, c.TTL
	g.memo.clear()
}

// Run takes events from Redis, makes rows and writes checkpoints, until ctx ends. Then everything is on disk.
func (g *Gateway) Run(ctx context.Context) error {
	c := g.options.Config.Redis
	if c == nil {
		return g.work(ctx, nil)
	}
	g.setSource("connecting to Redis")
	if g.replica != nil {
		return g.replica.run(ctx)
	}
	id, err := readID(filepath.Join(g.options.Dir, "id"))
	if err != nil {
		return fmt.Errorf("open event gateway: %w", err)
	}
	source := newRedisSource(g, c, newLease(g, c, c.claimPrefix(id)))
	err = g.work(ctx, source.run)
	source.lease.release(ctx)
	return err
}

// work has events taken, makes rows and writes checkpoints, until ctx ends. Then everything is on disk, unless it ended
// because another replica counts on.
func (g *Gateway) work(ctx context.Context, take func(ctx context.Context)) error {
	if err := g.checkpoint(); err != nil {
		g.options.Logger.Error("state of the event gateway cannot be written", "err", err)
	}
	var tasks sync.WaitGroup
	if take != nil {
		tasks.Go(func() { take(ctx) })
	}
	for _, s := range g.streams {
		tasks.Go(func() { s.run(ctx) })
	}
	tasks.Go(func() { g.tick(ctx) })
	g.write(ctx)
	tasks.Wait()
	if errors.Is(context.Cause(ctx), errLost) {
		return nil
	}
	g.mu.Lock()
	g.stopped = true
	g.state.clean, g.changed = !g.behind(), true
	g.mu.Unlock()
	if err := g.checkpoint(); err != nil {
		return fmt.Errorf("stop event gateway: %w", err)
	}
	return nil
}

// Close lets go of the directory, behind Run.
func (g *Gateway) Close() error { return g.checkpoints.close() }

// tick makes rows and ends series whose time is over.
func (g *Gateway) tick(ctx context.Context) {
	every := time.NewTicker(time.Second)
	defer every.Stop()
	var next time.Time
	for {
		select {
		case <-every.C:
		case <-ctx.Done():
			return
		}
		now := g.options.Now()
		g.expire(now)
		if g.rows == nil || now.Before(next) || g.unseen() != "" {
			continue
		}
		next = g.sample(ctx, now)
	}
}

// expire ends series whose time is over. As long as events cannot come, time stands still.
func (g *Gateway) expire(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.amiss() != "" || g.behind() {
		if g.still.IsZero() {
			g.still = now
		}
		return
	}
	if !g.still.IsZero() {
		g.state.pass(now.Sub(g.still), now.UnixMilli())
		g.still = time.Time{}
	}
	if n := g.state.expire(now.UnixMilli()); n > 0 {
		g.metrics.expired.Add(float64(n))
		g.changed = true
	}
}

// sample hands over the aggregate, and returns when it is to be handed over next.
func (g *Gateway) sample(ctx context.Context, now time.Time) time.Time {
	g.mu.Lock()
	interval := g.rows.source.Interval
	at := now.Truncate(interval)
	if at.UnixMilli() <= g.rows.row.T { // the interval is longer than it was
		g.mu.Unlock()
		return at.Add(interval)
	}
	row := g.rows.make(g.state.aggregate, at.UnixMilli())
	g.mu.Unlock()
	if g.settle(ctx) != nil {
		return at.Add(interval)
	}
	if err := g.options.Sink(row); err != nil {
		g.metrics.rowErrors.Inc()
		g.repeats.Log(slog.LevelError, "row", "row of the event gateway is not accepted", slog.Any("err", err))
	}
	return at.Add(interval)
}

// write writes checkpoints: soon if somebody waits, else every now and then, and more seldom as long as that fails.
func (g *Gateway) write(ctx context.Context) {
	every, wake := checkpointEvery, g.wake
	for {
		wait := time.NewTimer(every)
		select {
		case <-wait.C:
		case <-wake:
		case <-ctx.Done():
			wait.Stop()
			return
		}
		wait.Stop()
		err := g.checkpoint()
		switch {
		case err == nil:
			every, wake = checkpointEvery, g.wake
		case errors.Is(err, errAway): // which took nothing
			wake = nil
		default:
			every, wake = min(2*every, failedAtMost), nil
		}
		if err != nil && !errors.Is(err, errLost) { // which is said already
			g.repeats.Log(slog.LevelError, "checkpoint", "state of the event gateway cannot be written; a crash would cost it", slog.Any("err", err))
		}
		select {
		case <-time.After(commitEvery):
		case <-ctx.Done():
			return
		}
	}
}

// checkpoint makes everything durable that has been taken, and tells those who wait for it.
func (g *Gateway) checkpoint() error {
	if err := g.away(); err != nil {
		return err
	}
	err := g.record(false)
	if errors.Is(err, errForgotten) { // nobody has to wait for the whole of it
		err = g.record(true)
	}
	return err
}

// errAway is why no record is made.
var errAway = errors.New("redis, which has to have it, too, cannot be reached")

// away returns an error if the last record could not be written, and the next one cannot be either.
func (g *Gateway) away() error {
	g.mu.Lock()
	failing, stopped := g.failing, g.stopped
	g.mu.Unlock()
	if g.replica == nil || failing == nil || stopped {
		return nil
	}
	if err := g.replica.lease.reach(context.Background()); err != nil { // which has timeouts
		return fmt.Errorf("%w: %w", errAway, err)
	}
	return nil
}

// record is checkpoint; again if the journal was found to lack what it had.
func (g *Gateway) record(again bool) error {
	g.mu.Lock()
	if !g.changed && !g.pending.waited && g.failing == nil {
		g.mu.Unlock()
		return nil
	}
	whole := g.checkpoints.whole() || g.replica != nil && g.replica.journal.whole
	var record []byte
	if whole {
		record = make([]byte, 0, g.checkpoints.first*9/8)
	}
	if g.replica != nil {
		g.state.number = g.replica.journal.number + 1
	}
	record = g.state.appendRecord(record, whole)
	at := g.state.position.clone()
	waiting := g.pending
	g.pending, g.changed = newCommit(), false
	g.writing = waiting
	stopped := g.stopped
	g.mu.Unlock()

	var err error
	journaled := true
	if g.replica != nil { // the others count on from there, so that the file knows what they do not only at the end
		err = g.replica.journal.write(context.Background(), record, whole, &at) // the connection has timeouts
		if err != nil && stopped && (again || !errors.Is(err, errForgotten)) {
			g.options.Logger.Error("what was taken last stands in the state of this replica alone", "err", err)
			err, journaled = nil, false
		}
	}
	if err == nil {
		err = g.checkpoints.write(record, whole)
	}
	g.mu.Lock()
	if g.failing = err; err == nil && journaled {
		g.durable = at
	}
	g.writing = nil
	g.report()
	g.mu.Unlock()
	waiting.err = err
	close(waiting.done)
	return err
}

// await returns when everything taken so far is durable.
func (g *Gateway) await(ctx context.Context) error {
	g.mu.Lock()
	c := g.want()
	g.mu.Unlock()
	return c.wait(ctx)
}

// want asks for the next record soon. As long as none can be written, nobody has to wait to be told so. It is called with mu.
func (g *Gateway) want() *commit {
	if g.failing != nil {
		return settled(g.failing)
	}
	g.pending.waited = true
	select {
	case g.wake <- struct{}{}:
	default:
	}
	return g.pending
}

func (c *commit) wait(ctx context.Context) error {
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// settle returns when what may be shown is durable: after a crash it might not come again by itself, for Redis may have
// nothing of it either, and less would look like counters that began anew. As long as nothing can be written, it may be shown
// all the same.
func (g *Gateway) settle(ctx context.Context) error {
	g.mu.Lock()
	c := g.writing
	switch {
	case g.standby: // it has nothing to show
		c = nil
	case g.pending.waited, g.changed && g.failing == nil:
		c = g.want()
	case c != nil && !c.waited && g.failing != nil:
		c = nil
	}
	g.mu.Unlock()
	if c == nil {
		return nil
	}
	return c.wait(ctx)
}

func (p *position) clone() position {
	c := *p
	c.streams = maps.Clone(p.streams)
	return c
}

// unseen says why the sums may not be shown; "" if they may. Of replicas that wait there are none.
func (g *Gateway) unseen() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.standby:
		return ""
	case g.replica != nil && !g.replica.lease.valid():
		return "another replica may have taken over, of which Redis tells nothing"
	case g.behind() && g.amiss() != "":
		return "events that had been taken before a crash cannot be read again yet: " + g.amiss()
	case g.behind():
		return "events that had been taken before a crash are being read again"
	}
	return ""
}

// behind reports whether events may not count that counted before a crash.
func (g *Gateway) behind() bool { return g.replaying.Load() || g.rereading.Load() }

// setSource says why no events can be taken from where they come; "" if they can.
func (g *Gateway) setSource(trouble string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.trouble = trouble
	g.report()
}

// amiss says why no events can be taken from somewhere; "" if there is no reason. It is called with mu.
func (g *Gateway) amiss() string {
	if g.trouble != "" {
		return g.trouble
	}
	for _, s := range g.streams {
		if trouble := cmp.Or(s.unread, s.unclaimed); trouble != "" {
			return "no events can be taken from NATS: " + trouble
		}
	}
	return ""
}

// report tells the condition how things are. It is called with mu.
func (g *Gateway) report() {
	c := g.options.Condition
	switch {
	case c == nil:
	case g.amiss() != "":
		trouble := g.amiss()
		if g.behind() && !g.standby {
			trouble += "; until then nothing is shown, for events that had been taken before a crash are not read again yet"
		}
		c.NotReady(trouble)
	case g.failing != nil:
		c.Degraded("the state cannot be written: " + g.failing.Error())
	case g.damaged:
		c.Degraded("the state was damaged and is put aside; all series began with nothing")
	default:
		c.Ready()
	}
}
