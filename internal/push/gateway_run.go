package push

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/thalweg/thalweg/internal/series"
)

const (
	// tick is how exact the times of samples are.
	tick = 100 * time.Millisecond
	// burst is how many groups of a site are sampled at once; more are spread over the interval.
	burst = 200
	// retryAfter is when what could not be ended is tried again.
	retryAfter = time.Second
	// rewriteRetry is the least time between two attempts to write the journal anew if the first one failed.
	rewriteRetry = time.Minute
)

// cycle is how far the sampling of a site's groups has come in an interval. Run alone uses it.
type cycle struct {
	interval time.Duration
	number   int64
	next     int       // in site.order
	n        int       // of site.order, when the cycle began
	retry    time.Time // what could not be ended
}

// Run samples groups, ends those that expire, and keeps the journal short, until ctx ends.
func (g *Gateway) Run(ctx context.Context) error {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	tasks.Go(func() { g.rewriteJournal(ctx) })
	r := runner{Gateway: g}
	for {
		wait := time.NewTimer(r.round(ctx).Sub(g.options.Now()))
		select {
		case <-wait.C:
		case <-g.wake:
			wait.Stop()
		case <-ctx.Done():
			wait.Stop()
			return nil
		}
	}
}

// rewriteJournal writes the journal anew when it has grown, but not again and again while that fails.
func (g *Gateway) rewriteJournal(ctx context.Context) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
		case <-ctx.Done():
			return
		}
		select {
		case <-g.journal.full:
		case <-ctx.Done():
			return
		}
		wait := time.Duration(0)
		if err := g.journal.rewrite(g.records); err != nil {
			g.options.Logger.Error("journal of pushed groups cannot be written anew; it grows", "err", err)
			wait = rewriteRetry
		}
		pause.Reset(wait)
	}
}

// records writes the records of all groups.
func (g *Gateway) records(write func([]byte) error) error {
	var buf []byte
	for _, site := range g.allSites() {
		for _, c := range site.contents() {
			buf = appendRecord(buf[:0], site.name, c.grouping, c.state)
			if err := write(buf); err != nil {
				return err
			}
		}
	}
	return nil
}

// runner is what Run uses again and again.
type runner struct {
	*Gateway
	groups []*group // locked
	rows   []series.Row
	refs   []*series.Row
}

// round does what is due, and returns when the next thing is.
func (r *runner) round(ctx context.Context) time.Time {
	settings := r.settings.Load()
	interval := settings.Interval
	next := r.options.Now().Add(interval)
	for _, site := range r.allSites() {
		if settings.Keeps != nil && !settings.Keeps(site.name) {
			site.expireAll(r.options.Now())
		}
		if at := r.expire(ctx, site); !at.IsZero() && at.Before(next) {
			next = at
		}
		if at := r.sample(ctx, site, interval); at.Before(next) {
			next = at
		}
	}
	return next
}

// sample makes rows of the groups of a site whose turn it is, and returns when it is that of others.
func (r *runner) sample(ctx context.Context, site *site, interval time.Duration) time.Time {
	now := r.options.Now()
	elapsed := time.Duration((now.UnixNano() - int64(site.phase(interval))) % int64(interval))
	number := (now.UnixNano() - int64(site.phase(interval))) / int64(interval)
	begun := now.Add(-elapsed)
	c := &site.cycle
	if number != c.number || interval != c.interval {
		r.begin(site, number, interval)
	}
	for c.next < due(c.n, elapsed, interval) && ctx.Err() == nil {
		r.take(site, min(c.next+burst, due(c.n, elapsed, interval)), begun.Add(elapsed.Truncate(tick)).UnixMilli())
		r.commit(ctx, site)
	}
	if c.next < c.n {
		return begun.Add(elapsed.Truncate(tick) + tick)
	}
	return begun.Add(interval)
}

// due is how many of n groups are to have been sampled when some of an interval is over.
func due(n int, elapsed, interval time.Duration) int {
	spread := interval / 10 * 8
	if n <= burst || elapsed+tick >= spread {
		return n
	}
	return int(float64(n) * float64(elapsed+tick) / float64(spread))
}

// begin begins a cycle. Groups whose turn did not come in the one before are the first. In the first cycle of an interval,
// a part of which is over, there is nothing to do.
func (r *runner) begin(site *site, number int64, interval time.Duration) {
	site.mu.Lock()
	defer site.mu.Unlock()
	c := &site.cycle
	first := c.interval != interval
	c.number, c.interval = number, interval
	if missed := min(c.n, len(site.order)) - c.next; missed > 0 && !first {
		r.metrics.late.Add(float64(missed))
		site.order = append(append(make([]*group, 0, len(site.order)), site.order[c.next:]...), site.order[:c.next]...)
	}
	kept := site.order[:0]
	for _, g := range site.order {
		if g != nil {
			g.place = len(kept)
			kept = append(kept, g)
		}
	}
	clear(site.order[len(kept):])
	site.order = kept
	c.next, c.n = 0, len(kept)
	if first {
		c.next = c.n
	}
}

// take locks the groups up to a place of the order, and makes a row of each for time t. A group that is being changed has
// a row without it.
func (r *runner) take(site *site, to int, t int64) {
	site.mu.Lock()
	groups := site.order[site.cycle.next:to]
	r.groups = r.groups[:0]
	for _, g := range groups {
		if g != nil && g.changing.TryLock() {
			r.groups = append(r.groups, g)
		}
	}
	site.mu.Unlock()
	site.cycle.next = to
	r.rows, r.refs = r.rows[:0], r.refs[:0]
	for _, g := range r.groups {
		if g.state == nil || t <= g.lastT {
			continue
		}
		if err := g.state.makeRow(r.options.Catalog, g.grouping); err != nil {
			r.metrics.sampleErrors.Inc()
			r.repeats.Log(slog.LevelError, "row", "group cannot be made a row", slog.String("group", g.key), slog.Any("err", err))
			continue
		}
		row := *g.state.row
		row.Source, row.T = r.sourceOf(g), t
		g.lastT = t
		r.rows = append(r.rows, row)
	}
	for i := range r.rows {
		r.refs = append(r.refs, &r.rows[i])
	}
}

// commit hands over the rows that were taken, and unlocks their groups.
func (r *runner) commit(ctx context.Context, site *site) {
	defer r.release()
	if len(r.refs) == 0 {
		return
	}
	if err := r.hand(ctx, site, r.options.Sample); err != nil {
		r.metrics.sampleErrors.Add(float64(len(r.refs)))
		return
	}
	r.metrics.sampled.Add(float64(len(r.refs)))
}

// hand gives rows to Sample or Commit.
func (r *runner) hand(ctx context.Context, site *site, to Commit) error {
	bounded, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	err := to(bounded, site.name, r.refs)
	if err != nil && ctx.Err() == nil {
		r.repeats.Log(slog.LevelError, "sample "+site.name, "rows of pushed groups are not taken", slog.String("site", site.name),
			slog.Int("rows", len(r.refs)), slog.Any("err", err))
	}
	return err
}

// expire ends the groups of a site whose time is over, and returns when that of the next one is; zero if there is none.
func (r *runner) expire(ctx context.Context, site *site) time.Time {
	now := r.options.Now()
	if now.Before(site.cycle.retry) {
		return site.cycle.retry
	}
	for {
		next, more := r.takeExpired(site, now)
		if len(r.groups) > 0 {
			n := len(r.groups)
			if err := r.endGroups(ctx, site, r.options.Sample); err != nil {
				site.cycle.retry = now.Add(retryAfter)
				return site.cycle.retry
			}
			r.metrics.expired.Add(float64(n))
		}
		if !more {
			return next
		}
	}
}

// takeExpired locks groups whose time is over, at most a burst. It returns when to look again, or that there are more.
func (r *runner) takeExpired(site *site, now time.Time) (next time.Time, more bool) {
	site.mu.Lock()
	defer site.mu.Unlock()
	r.groups = r.groups[:0]
	var busy []*group
	for len(site.deadlines) > 0 && !site.deadlines[0].deadline.After(now) && len(r.groups) < burst {
		g := site.deadlines[0]
		if g.changing.TryLock() {
			r.groups = append(r.groups, g)
		} else {
			busy = append(busy, g)
		}
		site.deadlines.set(g, time.Time{})
	}
	for _, g := range busy { // something is pushed to it or it is deleted, which says how long it lives
		site.deadlines.set(g, now.Add(tick))
	}
	if len(site.deadlines) == 0 {
		return time.Time{}, false
	}
	next = site.deadlines[0].deadline
	return next, !next.After(now)
}

// endGroups ends locked groups, and unlocks them. After an error they are what they were.
func (r *runner) endGroups(ctx context.Context, site *site, to Commit) (err error) {
	ttl := r.settings.Load().TTL
	states := make([]*state, len(r.groups))
	r.rows, r.refs = r.rows[:0], r.refs[:0]
	var records []byte
	for i, g := range r.groups {
		if g.state == nil {
			continue
		}
		r.rows = append(r.rows, *r.rowOf(g, nil))
		states[i] = g.state
		site.put(g, nil, 0)
		records = appendRecord(records, site.name, g.grouping, nil)
	}
	if len(r.rows) == 0 {
		r.release()
		return nil
	}
	for i := range r.rows {
		r.refs = append(r.refs, &r.rows[i])
	}
	if err = r.journal.append(records); err == nil {
		if err = r.hand(ctx, site, to); err != nil {
			if no, refused := errors.AsType[*Refusal](err); refused && no.RetryAfter == 0 {
				err = nil // nobody has their rows
			}
		}
	}
	if err != nil {
		records = records[:0]
		for i, g := range r.groups {
			if states[i] == nil {
				continue
			}
			site.put(g, states[i], ttl)
			records = appendRecord(records, site.name, g.grouping, states[i])
		}
		if again := r.journal.append(records); again != nil {
			r.repeats.Log(slog.LevelError, "undo", "groups that did not end cannot be written to disk", slog.Any("err", again))
		}
	}
	r.release()
	return err
}

// release unlocks the groups.
func (r *runner) release() {
	for _, g := range r.groups {
		g.release()
	}
	clear(r.groups)
	clear(r.rows)
	r.groups = r.groups[:0]
}

// endAll ends all groups of a site, and waits until that is durable.
func (r *runner) endAll(ctx context.Context, site *site) error {
	for contents := site.contents(); len(contents) > 0; {
		n := min(burst, len(contents))
		var busy []grouping
		for _, c := range contents[:n] {
			if g := site.tryAcquire(c.grouping); g != nil {
				r.groups = append(r.groups, g)
			} else {
				busy = append(busy, c.grouping)
			}
		}
		if err := r.endGroups(ctx, site, r.options.Commit); err != nil {
			return err
		}
		for _, by := range busy { // one by one: who waits for a group holds no other
			g := site.acquire(by)
			err := r.end(ctx, g)
			g.release()
			if err != nil {
				return err
			}
		}
		contents = contents[n:]
	}
	return nil
}
