package hub

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/store"
	"github.com/thalweg/thalweg/internal/telemetry"
)

const (
	// keyframeBound is the keyframe interval that a hub asks of edges, and tailBack how far back its tail reader
	// begins: a keyframe and a half.
	keyframeBound = 10 * time.Minute
	tailBack      = keyframeBound * 3 / 2
	// expireEvery is how often silent sources are looked for.
	expireEvery = 15 * time.Second
	// bytesPerSeries is how much a site may hold in labels, metadata, buckets and exemplars, for each series allowed.
	bytesPerSeries = 512
	// columnsPerSeries is how many columns of schemas a site may have, for each series allowed: between two keyframes
	// schemas grow and fork, and what they leave behind counts, as do series that limits refuse later.
	columnsPerSeries = 4
	// repeatEvery bounds how often the same problem of the same site is logged.
	repeatEvery = time.Minute
	// forgetEvery is how often silent sites are looked for. siteIdle is how long one is silent before its decoders go,
	// which the next keyframe makes anew; what else is known of it goes when nothing of it can be in the stream any more.
	forgetEvery = 10 * time.Minute
	siteIdle    = 24 * time.Hour
	// reportEvery is how often it is looked whether gaps opened or closed, saveEvery how often the ledgers are trimmed and
	// saved.
	reportEvery = time.Second
	saveEvery   = time.Minute
	// skipBehind is how many messages must wait for a tail reader that is far behind to leave them to history.
	skipBehind = 1000
)

// Options of New. All are required but Dir, URL, Retention, Refuse and Now.
type Options struct {
	Config Config
	// Name of this hub, for edges and pages.
	Name    string
	Conn    *bus.Conn
	Store   *store.Store
	Catalog *series.Catalog
	Logger  *slog.Logger
	// Dir holds what is known of missing rows; "" keeps nothing.
	Dir string
	// URL of the web listener, for other hubs and Prometheus.
	URL string
	// Retention is how long the stream holds messages: a site that was silent for longer, and for a day at least, is
	// forgotten.
	Retention time.Duration
	// Refuse closes the connections of a site and refuses it for a while, where that is possible. Called when a site
	// sends far more than it may; nil: what it sends is dropped, no more.
	Refuse func(site string, d time.Duration)
	// StreamBytes is what the stream holds at most. When that is nearly reached, the oldest messages of a site that
	// holds more than its share are deleted; 0: nobody's are.
	StreamBytes int64
	Now         func() time.Time
}

// Hub reads the lanes of all its sites. All methods are safe for concurrent use.
type Hub struct {
	name     string
	conn     *bus.Conn
	store    *store.Store
	catalog  *series.Catalog
	scratch  *frame.Scratch // of all decoders
	log      *slog.Logger
	repeats  *telemetry.Repeats
	now      func() time.Time
	refuse   func(site string, d time.Duration)
	metrics  *metrics
	control  *control
	peers    *peers
	ledgers  *ledgers
	history  *history
	deposits *Deposits // which write lanes
	outputs  *outputs
	dir      string
	// retention of the stream.
	retention time.Duration

	purges       chan excess
	caughtUp     chan struct{}
	caughtUpOnce sync.Once

	mu     sync.Mutex
	config Config
	// generation counts the configurations, for outputs.
	generation uint64
	receiver   *lane.Receiver
	guards     *guards
	meter      *meter
	shares     *shares
	lastRow    map[string]int64 // by site: when the last row was applied, by this clock
	catchingUp bool             // the tail reader has not reached the head since it began
	caughtUpAt uint64           // the last sequence of the stream when it did; what comes behind it is read by it
	tail       tailPlace
	// tailPosition is that of the tail reader; nil before there is one.
	tailPosition func() bus.Position
	reset        StreamReset
	problem      string // what is wrong with the stream at the moment
	trouble      error  // why it cannot be read although nothing is wrong with it
}

// New returns a hub that has read nothing.
func New(o Options) (*Hub, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	h := &Hub{
		name: o.Name, conn: o.Conn, store: o.Store, catalog: o.Catalog, scratch: &frame.Scratch{}, log: o.Logger, now: o.Now, refuse: o.Refuse, config: o.Config,
		repeats: telemetry.NewRepeats(o.Logger, repeatEvery), retention: o.Retention, caughtUp: make(chan struct{}),
		lastRow: map[string]int64{}, meter: newMeter(), shares: newShares(o.StreamBytes, o.Retention),
		purges: make(chan excess, purgeQueue), problem: "starting", dir: o.Dir, catchingUp: true,
	}
	h.metrics = newMetrics(h)
	h.control = newControl(h)
	h.peers = newPeers(h, o.URL)
	h.history = newHistory(h)
	h.outputs = newOutputs()
	h.deposits = newDeposits(h)
	h.ledgers = newLedgers(h.log, h.metrics.lost)
	if h.dir != "" {
		if err := h.ledgers.load(h.dir, h.config.Parts); err != nil {
			// The stream has most of it.
			h.log.Error("what was known of missing rows cannot be read; beginning anew", "err", err)
		}
	}
	h.receiver = h.newReceiver()
	h.guards = newGuards(&h.config, h.catalog, h.log, h.metrics.refuse)
	return h, nil
}

// newReceiver returns a receiver with the limits of the configuration in force. It is used with mu held.
func (h *Hub) newReceiver() *lane.Receiver {
	return lane.NewReceiver(lane.ReceiverConfig{Decoder: func(site string) (frame.DecoderConfig, bool) {
		return h.config.decoder(h.catalog, h.scratch, site)
	}})
}

// admits reports whether a site is let in.
func (c *Config) admits(site string) bool {
	_, listed := c.Sites[site]
	return listed || !c.StrictSites
}

// decoder returns the limits of a site's frames, and whether the site is let in.
func (c *Config) decoder(catalog *series.Catalog, scratch *frame.Scratch, site string) (frame.DecoderConfig, bool) {
	if !c.admits(site) {
		return frame.DecoderConfig{}, false
	}
	l := c.SiteLimits(site)
	d := frame.DecoderConfig{
		Catalog: catalog, Scratch: scratch, MaxBody: int(l.FrameBytes), MaxSources: l.Sources,
		MaxColumns: columnsPerSeries * l.Series,
		MaxState:   bytesPerSeries * l.Series,
	}
	if l.AllowUnlimited {
		d.MaxBody, d.MaxSources = orMost(d.MaxBody, frame.MaxSize), orMost(d.MaxSources, 1<<30)
		d.MaxColumns, d.MaxState = orMost(d.MaxColumns, 1<<30), orMost(d.MaxState, math.MaxInt)
	}
	return d, true
}

func orMost(limit, most int) int {
	if limit == 0 {
		return most
	}
	return limit
}

// StoreLimits bound the memory of a site in the store. Its series and sources are counted before, by its guard.
func (c *Config) StoreLimits(site string) store.Limits {
	l := c.SiteLimits(site)
	return store.Limits{Series: columnsPerSeries * l.Series, Sources: 2 * l.Sources}
}

// Apply puts a changed configuration in force: limits, sites and match for what comes from now on. Parts need a
// restart.
func (h *Hub) Apply(c Config) error {
	if err := h.store.Reload(c.Store); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	c.Parts = h.config.Parts
	h.config = c
	h.guards.reload(&h.config)
	h.generation++
	h.receiver.Readmit()
	return nil
}

// configured returns the configuration in force, which is not changed any more, and its number.
func (h *Hub) configured() (*Config, uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.config
	return &c, h.generation
}

// CaughtUp is closed when everything has been read that the stream held when the hub began.
func (h *Hub) CaughtUp() <-chan struct{} { return h.caughtUp }

// Problem says why the stream cannot be read at the moment; "" if it can.
func (h *Hub) Problem() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.problem == "" && h.trouble != nil {
		return h.trouble.Error()
	}
	return h.problem
}

// behind reports whether the tail reader has not caught up since it began.
func (h *Hub) behind() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.catchingUp
}

func (h *Hub) setTrouble(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.trouble = err
}

func (h *Hub) setProblem(reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.problem = reason
}

// Run reads until ctx ends.
func (h *Hub) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var parts sync.WaitGroup
	usable := make(chan struct{})
	usableOnce := sync.OnceFunc(func() { close(usable) })
	parts.Go(func() {
		h.conn.KeepStream(ctx, func(problem string) {
			h.setProblem(problem)
			if problem == "" {
				usableOnce()
			}
		})
	})
	parts.Go(func() { h.control.run(ctx) })
	parts.Go(func() { h.peers.run(ctx) })
	parts.Go(func() { h.keepExpiring(ctx) })
	parts.Go(func() { h.history.run(ctx) })
	parts.Go(func() { h.keepLedgers(ctx) })
	parts.Go(func() { h.keepPurging(ctx) })
	var err error
	select {
	case <-usable:
		err = h.keepTail(ctx)
	case <-ctx.Done():
	}
	cancel()
	parts.Wait()
	h.saveLedgers()
	if errors.Is(err, context.Canceled) {
		return nil // the reader ends by itself for no other reason
	}
	return err
}

func (h *Hub) keepExpiring(ctx context.Context) {
	sources, sites := time.NewTicker(expireEvery), time.NewTicker(forgetEvery)
	defer sources.Stop()
	defer sites.Stop()
	for {
		select {
		case <-sources.C:
			h.store.Expire(h.now().UnixMilli())
			h.deposits.expire(h.now())
			h.reportLimits()
		case <-sites.C:
			h.forgetSites()
		case <-ctx.Done():
			return
		}
	}
}

// keepLedgers reports and saves what is missing, until ctx ends.
func (h *Hub) keepLedgers(ctx context.Context) {
	report, save := time.NewTicker(reportEvery), time.NewTicker(saveEvery)
	defer report.Stop()
	defer save.Stop()
	for {
		select {
		case <-report.C:
			h.ledgers.report()
		case <-save.C:
			h.ledgers.trim(h.now())
			h.saveLedgers()
		case <-ctx.Done():
			return
		}
	}
}

func (h *Hub) saveLedgers() {
	if h.dir == "" {
		return
	}
	h.mu.Lock()
	position := h.tailPosition
	h.mu.Unlock()
	if position != nil {
		h.ledgers.stand(position())
	}
	config, _ := h.configured()
	if err := h.ledgers.save(h.dir, config.Parts); err != nil {
		h.metrics.saveErrors.Inc()
		h.repeats.Log(slog.LevelError, "save", "what is known of missing rows cannot be saved", slog.Any("err", err))
	}
}

// forgetSites drops what is held of sites that were silent for long.
func (h *Hub) forgetSites() {
	now := h.now()
	h.mu.Lock()
	gone := now.Add(-h.config.siteLife(h.retention)).UnixMilli()
	h.receiver.Expire(now.Add(-siteIdle).UnixMilli(), gone, func(site string) {
		delete(h.lastRow, site)
		delete(h.guards.sites, site)
		h.log.Info("site was silent for long and is forgotten", slog.String("site", site))
	})
	h.shares.expire(gone)
	known := func(site string) bool { return h.receiver.Site(site) != nil }
	h.meter.expire(now.Add(-forgetEvery).UnixMilli(), known) // those that are not let in are metered, too
	// What is missing is told for as long as of others, and who comes back after a long outage has its horizon.
	h.ledgers.forget(min(gone, now.Add(-gapsKept).UnixMilli()), known)
	h.mu.Unlock()
	h.control.forget(now.Add(-siteIdle))
}

// siteLife is how long a silent site is remembered: as long as something of it may be in the stream, or in the store,
// where ranks that begin anew would take new rows for old ones.
func (c *Config) siteLife(retention time.Duration) time.Duration {
	return max(retention, siteIdle, time.Duration(c.Store.Lookback)) + store.FutureBound
}

// subjects of the lanes that this hub reads.
func (c *Config) subjects(root bus.Root) []string {
	if c.Parts == AllParts {
		return []string{root.AllLanes()}
	}
	var subjects []string
	for _, l := range bus.Lanes() {
		subjects = append(subjects, c.subjectsOf(root, l)...)
	}
	return subjects
}

// subjectsOf are those of the live or the backfill lanes alone, unless this hub reads all parts: to pick messages costs
// the server more, by far, the more sites there are, than to send all of them.
func (c *Config) subjectsOf(root bus.Root, l bus.Lane) []string {
	if c.Parts == AllParts {
		return []string{root.AllLanes()}
	}
	var subjects []string
	for _, part := range c.Parts.List() {
		subjects = append(subjects, root.LanesOfPart(int(part), l))
	}
	return subjects
}

// Metrics to register: totals.
func (h *Hub) Metrics() []prometheus.Collector {
	return slices.Concat(h.metrics.all(), h.peers.collectors(), h.deposits.metrics.all(), h.outputs.collectors(h))
}

// SiteMetrics to register: one series of each for every site.
func (h *Hub) SiteMetrics() []prometheus.Collector { return []prometheus.Collector{siteCollector{h}} }
