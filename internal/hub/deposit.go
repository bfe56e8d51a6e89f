package hub

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/pipeline"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/telemeter"
)

// Deposits stores rows of sites that have no edge: they go behind the last message of the site's live lane, whichever hub
// wrote that, so that ledgers see one sequence of frames (docs/adr/009-pushes-go-by-the-lane.md). Safe for concurrent use.
type Deposits struct {
	hub        *Hub
	metrics    *depositMetrics
	compressor *frame.Compressor

	mu         sync.Mutex
	lanes      map[string]*depositLane
	guards     *guards // of the lanes, by the configuration of this generation
	generation uint64
}

const (
	// depositSpacing is the least time between two rounds for callers that wait for the same site.
	depositSpacing = 20 * time.Millisecond
	// depositTimeout bounds a round, after which nobody waits any more.
	depositTimeout = 30 * time.Second
	// maxDepositLanes bounds the sites whose encoders are kept, and depositIdle how long after the last row they are: that
	// is longer than senders pause. What comes for a site without one begins with a keyframe.
	maxDepositLanes = 1000
	depositIdle     = 5 * time.Minute
	// depositSampleBurst is how long a site may have saved up samples for. It is less than what readers grant, so that they
	// turn away nothing that came in one request and was acknowledged.
	depositSampleBurst = pipeline.DefaultBurst / 2
)

// depositLane is a site for which rows come again and again.
type depositLane struct {
	turn chan struct{} // held by whoever stores for all that wait, and uses depositor and stored
	depositor
	stored time.Time // when the last round ended

	// Guarded by Deposits.mu.
	waiting []*deposit
	callers int
	used    time.Time
}

// deposit is rows that somebody waits for.
type deposit struct {
	rows []*series.Row // that are not stored yet
	done chan struct{} // closed when err holds
	err  error
}

func (w *deposit) end(err error) {
	w.err = err
	close(w.done)
}

func (w *deposit) ended() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

func newDeposits(h *Hub) *Deposits {
	d := &Deposits{
		hub: h, metrics: newDepositMetrics(), compressor: frame.NewCompressor(runtime.GOMAXPROCS(0)), lanes: map[string]*depositLane{},
	}
	config := h.config
	d.guards = newGuards(&config, h.catalog, h.log, h.metrics.refuse)
	d.guards.burst = depositSampleBurst
	return d
}

// Deposits returns what stores rows through this hub.
func (h *Hub) Deposits() *Deposits { return h.deposits }

var _ telemeter.Lanes = (*Deposits)(nil)

// Commit returns nil when the rows are stored for good, so that every hub will have them, once. Rows of one source have to
// be in order; they are valid until it returns. Callers of one site share messages and an encoder.
//
// The error is a *telemeter.EarlyError if the site sends more than it may, or has ErrTaken, ErrNotAdmitted or ErrTooLarge
// of that package in its chain; after any other one some of the rows may be stored.
func (d *Deposits) Commit(ctx context.Context, site string, rows []*series.Row) error {
	err := d.admit(site)
	for _, row := range rows {
		err = cmp.Or(err, frame.CheckRow(row)) // a bad one is nobody else's business
	}
	if err != nil || len(rows) == 0 {
		return err
	}
	w := &deposit{rows: rows, done: make(chan struct{})}
	l := d.enter(site, w)
	defer d.leave(l)
	select {
	case <-w.done:
		return w.err
	case l.turn <- struct{}{}:
		if !w.ended() {
			d.round(ctx, l)
		}
		<-l.turn
	case <-ctx.Done():
		if d.withdraw(l, w) {
			return context.Cause(ctx)
		}
	}
	<-w.done // its rows are in use
	return w.err
}

// Filter returns what the limits and rules for a site leave of rows, and tells which samples are refused. Readers look at
// what comes by all hubs; this one knows what came by it. The error is a *pipeline.EarlyError if the site sends more
// samples than it may, or has ErrNotAdmitted of telemeter in its chain.
func (d *Deposits) Filter(site string, rows []*series.Row, refused pipeline.Refused) (left []*series.Row, err error) {
	if err := d.admit(site); err != nil {
		return nil, err
	}
	untouched := make(map[*series.Row]bool, len(rows))
	for _, row := range rows {
		untouched[row] = true
	}
	err = d.guard(site).ApplyAll(rows, d.hub.now().UnixMilli(), func(row *series.Row) error {
		if !untouched[row] {
			row = copyRow(row)
		}
		left = append(left, row)
		return nil
	}, refused)
	return left, err
}

// copyRow copies what a pipeline made of a row.
func copyRow(r *series.Row) *series.Row {
	c := *r
	c.Columns, c.Present, c.Values = slices.Clone(r.Columns), slices.Clone(r.Present), slices.Clone(r.Values)
	c.Histograms, c.Exemplars, c.Starts = slices.Clone(r.Histograms), slices.Clone(r.Exemplars), slices.Clone(r.Starts)
	return &c
}

// guard returns the pipeline that says what readers leave of a site's rows.
func (d *Deposits) guard(site string) *pipeline.Pipeline {
	config, generation := d.hub.configured()
	d.mu.Lock()
	defer d.mu.Unlock()
	if generation > d.generation {
		d.generation = generation
		d.guards.reload(config)
	}
	d.lane(site) // with which it goes
	g := d.guards.sites[site]
	if g == nil {
		g = newGuard(d.guards.make(site))
		d.guards.sites[site] = g
	}
	return g.live
}

func (d *Deposits) admit(site string) error {
	if config, _ := d.hub.configured(); !config.admits(site) {
		return fmt.Errorf("deposit row of site %q: %w", site, telemeter.ErrNotAdmitted)
	}
	return nil
}

// enter queues rows of a site.
func (d *Deposits) enter(site string, w *deposit) *depositLane {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.lane(site)
	l.callers++
	l.waiting = append(l.waiting, w)
	return l
}

// lane returns that of a site. The caller holds mu.
func (d *Deposits) lane(site string) *depositLane {
	l := d.lanes[site]
	if l == nil {
		d.evict()
		l = &depositLane{turn: make(chan struct{}, 1), depositor: d.depositor(site), used: d.hub.now()}
		d.lanes[site] = l
	}
	return l
}

func (d *Deposits) leave(l *depositLane) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l.callers--
	l.used = d.hub.now()
}

// withdraw takes rows back that nobody has begun to store.
func (d *Deposits) withdraw(l *depositLane, w *deposit) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := slices.Index(l.waiting, w)
	if i < 0 {
		return false
	}
	l.waiting = slices.Delete(l.waiting, i, i+1)
	return true
}

// evict makes room for another lane, if one is idle: those with callers stay, and there are no more callers than
// requests. The caller holds mu.
func (d *Deposits) evict() {
	if len(d.lanes) < maxDepositLanes {
		return
	}
	oldest := ""
	for site, l := range d.lanes {
		if l.callers == 0 && (oldest == "" || l.used.Before(d.lanes[oldest].used)) {
			oldest = site
		}
	}
	d.drop(oldest)
}

// drop drops the lane of a site. The caller holds mu.
func (d *Deposits) drop(site string) {
	delete(d.lanes, site)
	delete(d.guards.sites, site)
}

// expire drops the lanes that nobody used for a while.
func (d *Deposits) expire(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for site, l := range d.lanes {
		if l.callers == 0 && now.Sub(l.used) > depositIdle {
			d.drop(site)
		}
	}
}

// round stores for all that wait. The caller has the turn, and may go away meanwhile.
func (d *Deposits) round(ctx context.Context, l *depositLane) {
	if wait := depositSpacing - time.Since(l.stored); wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		<-t.C
	}
	d.mu.Lock()
	queue := l.waiting
	l.waiting = nil
	d.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), depositTimeout)
	defer cancel()
	l.store(ctx, 0, queue)
	l.stored = time.Now()
}

// Ready implements telemeter.Lanes.
func (d *Deposits) Ready(ctx context.Context, site string, spacing time.Duration) error {
	if err := d.admit(site); err != nil {
		return err
	}
	p := d.depositor(site)
	if _, err := p.look(ctx, spacing); err != nil {
		return fmt.Errorf("deposit row of site %q: %w", site, err)
	}
	return nil
}

// Store implements telemeter.Lanes. The row stands alone, behind a keyframe: the next one comes after minutes.
func (d *Deposits) Store(ctx context.Context, site string, spacing time.Duration, row *series.Row) error {
	if err := d.admit(site); err != nil {
		return err
	}
	w := &deposit{rows: []*series.Row{row}, done: make(chan struct{})}
	p := d.depositor(site)
	p.store(ctx, spacing, []*deposit{w})
	return w.err
}

type depositMetrics struct {
	rows, messages, bytes, keyframes, moved prometheus.Counter
}

func newDepositMetrics() *depositMetrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "thalweg_hub_deposited_" + name, Help: help})
	}
	return &depositMetrics{
		rows:      counter("rows_total", "Rows of sites without an edge that this hub stored in the stream."),
		messages:  counter("messages_total", "Messages with such rows."),
		bytes:     counter("bytes_total", "Bytes of those messages."),
		keyframes: counter("keyframes_total", "Keyframes in those messages: at the start, when another hub wrote the lane, and at intervals."),
		moved:     counter("conflicts_total", "Times another hub was faster to store rows of the same site, and this one had to try again."),
	}
}

func (m *depositMetrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.rows, m.messages, m.bytes, m.keyframes, m.moved}
}
