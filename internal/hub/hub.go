package hub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
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
	// repeatEvery bounds how often the same problem of the same site is logged.
	repeatEvery = time.Minute
	// forgetEvery is how often silent sites are looked for. siteIdle is how long one is silent before its decoders go,
	// which the next keyframe makes anew; what else is known of it goes when nothing of it can be in the stream any more.
	forgetEvery = 10 * time.Minute
	siteIdle    = 24 * time.Hour
)

// Options of New. All are required but Retention and Now.
type Options struct {
	Config Config
	// Name of this hub, for edges and pages.
	Name    string
	Conn    *bus.Conn
	Store   *store.Store
	Catalog *series.Catalog
	Logger  *slog.Logger
	// Retention is how long the stream holds messages: a site that was silent for longer, and for a day at least, is
	// forgotten.
	Retention time.Duration
	Now       func() time.Time
}

// Hub reads the lanes of all its sites. All methods are safe for concurrent use.
type Hub struct {
	name    string
	conn    *bus.Conn
	store   *store.Store
	catalog *series.Catalog
	scratch *frame.Scratch // of all decoders
	log     *slog.Logger
	repeats *telemetry.Repeats
	now     func() time.Time
	metrics *metrics
	control *control
	// retention of the stream.
	retention time.Duration

	caughtUp     chan struct{}
	caughtUpOnce sync.Once

	mu     sync.Mutex
	config Config
	// generation counts the configurations, for outputs.
	generation uint64
	receiver   *lane.Receiver
	guards     *guards
	lastRow    map[string]int64 // by site: when the last row was applied, by this clock
	problem    string           // what is wrong with the stream at the moment
	trouble    error            // why it cannot be read although nothing is wrong with it
}

// New returns a hub that has read nothing.
func New(o Options) (*Hub, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	h := &Hub{
		name: o.Name, conn: o.Conn, store: o.Store, catalog: o.Catalog, scratch: &frame.Scratch{}, log: o.Logger, now: o.Now, config: o.Config,
		repeats: telemetry.NewRepeats(o.Logger, repeatEvery), retention: o.Retention, caughtUp: make(chan struct{}),
		lastRow: map[string]int64{}, problem: "starting",
	}
	h.metrics = newMetrics(h.countSites)
	h.control = newControl(h)
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
		// Between two keyframes schemas grow and fork, and what they leave behind counts.
		MaxColumns: 4 * l.Series,
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

// StoreLimits bound what a site may hold in the store.
func (c *Config) StoreLimits(site string) store.Limits {
	l := c.SiteLimits(site)
	return store.Limits{Series: l.Series, Sources: l.Sources}
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
	h.guards = newGuards(&h.config, h.catalog, h.log, h.metrics.refuse)
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
	parts.Go(func() { h.keepExpiring(ctx) })
	var err error
	select {
	case <-usable:
		err = h.tail(ctx)
	case <-ctx.Done():
	}
	cancel()
	parts.Wait()
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
		case <-sites.C:
			h.forgetSites()
		case <-ctx.Done():
			return
		}
	}
}

// forgetSites drops what is held of sites that were silent for long.
func (h *Hub) forgetSites() {
	now := h.now()
	h.mu.Lock()
	h.receiver.Expire(now.Add(-siteIdle).UnixMilli(), now.Add(-h.config.siteLife(h.retention)).UnixMilli(), func(site string) {
		delete(h.lastRow, site)
		delete(h.guards.sites, site)
		h.log.Info("site was silent for long and is forgotten", slog.String("site", site))
	})
	h.mu.Unlock()
	h.control.forget(now.Add(-siteIdle))
}

// siteLife is how long a silent site is remembered: as long as something of it may be in the stream, or in the store,
// where ranks that begin anew would take new rows for old ones.
func (c *Config) siteLife(retention time.Duration) time.Duration {
	return max(retention, siteIdle, time.Duration(c.Store.Lookback)) + store.FutureBound
}

func (h *Hub) countSites() float64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return float64(h.receiver.Len())
}

// subjects of the lanes that this hub reads.
func (c *Config) subjects(root bus.Root) []string {
	if c.Parts == AllParts {
		return []string{root.AllLanes()}
	}
	var subjects []string
	for _, part := range c.Parts.List() {
		for _, l := range bus.Lanes() {
			subjects = append(subjects, root.LanesOfPart(int(part), l))
		}
	}
	return subjects
}

// errRewound ends a reader whose stream turned out to be another one.
var errRewound = errors.New("the stream is not the one that was read")

// tail reads the stream from a keyframe and a half back, and goes on at its head. If the stream turns out to be another
// one, it begins again like that.
func (h *Hub) tail(ctx context.Context) error {
	for {
		err := h.tailOnce(ctx)
		if !errors.Is(err, errRewound) {
			return err
		}
	}
}

func (h *Hub) tailOnce(ctx context.Context) error {
	rewound := false
	h.mu.Lock()
	subjects := h.config.subjects(h.conn.Root())
	h.mu.Unlock()
	reader, err := h.conn.NewReader(bus.ReaderOptions{
		Name:     "tail",
		Subjects: subjects,
		Start:    bus.Start{Time: h.now().Add(-tailBack)},
		Handle: func(m bus.Message) error {
			if rewound {
				return errRewound // its start was long ago by now
			}
			h.step(m)
			return nil
		},
		CaughtUp: func() { h.caughtUpOnce.Do(func() { close(h.caughtUp) }) },
		Trouble:  h.setTrouble,
		Reset: func(bus.Reset) {
			rewound = true
			h.mu.Lock()
			defer h.mu.Unlock()
			h.receiver.Restart()
		},
	})
	if err != nil {
		return fmt.Errorf("read lanes: %w", err)
	}
	h.setTrouble(nil) // that of a reader before this one
	return reader.Run(ctx)
}

// step takes one message of the stream.
func (h *Hub) step(m bus.Message) {
	site, l, err := h.conn.Root().ParseLane(m.Subject)
	if err != nil {
		h.metrics.problems.WithLabelValues("subject").Inc()
		h.repeats.Log(slog.LevelWarn, "subject "+m.Subject, "message on a subject that is no lane", slog.Any("err", err))
		return
	}
	now := h.now()
	var problems []lane.Problem
	h.mu.Lock()
	defer h.mu.Unlock()
	h.metrics.messages.WithLabelValues(string(l)).Inc()
	h.metrics.bytes.WithLabelValues(string(l)).Add(float64(len(m.Payload)))
	h.receiver.Step(lane.Message{Site: site, Backfill: l == bus.Backfill, Sequence: m.Sequence, Received: now.UnixMilli(), Payload: m.Payload}, lane.Handler{
		Row: func(d *lane.Delivery, row *series.Row) { h.row(d, row, now) },
		Done: func(d *lane.Delivery) {
			h.metrics.frames.WithLabelValues(string(l)).Inc()
			if !d.Backfill {
				h.metrics.delay.Observe(max(float64(now.UnixMilli()-d.Header.Sent)/1000, 0))
			}
		},
		Loss: func(site string, loss frame.Loss) {
			h.repeats.Log(slog.LevelWarn, "loss "+loss.Cause.String()+" "+site, "site lost rows", slog.String("site", site),
				slog.String("cause", loss.Cause.String()), slog.String("epoch", loss.Epoch.String()), slog.Uint64("from", loss.From),
				slog.Uint64("to", loss.To), slog.Uint64("rows", loss.Rows))
		},
		Problem: func(p lane.Problem) { problems = append(problems, p) },
	})
	for i := range problems {
		h.complain(&problems[i], l)
	}
}

// row applies a row to the store. The caller holds mu.
func (h *Hub) row(d *lane.Delivery, row *series.Row, now time.Time) {
	h.metrics.rows.Inc()
	h.metrics.samples.Add(float64(row.Samples()))
	err := h.guards.apply(d.Site, row, func(row *series.Row) error {
		return h.store.Apply(d.Site, store.Rank{Epoch: d.Rank.Epoch, Frame: d.Rank.Number}, row, now.UnixMilli())
	})
	if err != nil {
		h.repeats.Log(slog.LevelWarn, "row "+d.Site, "row was refused", slog.String("site", d.Site),
			slog.String("source", row.Source.Key), slog.Any("err", err))
		return
	}
	h.lastRow[d.Site] = now.UnixMilli()
}

// complain counts and logs a problem, and asks for a keyframe where that helps. The caller holds mu.
func (h *Hub) complain(p *lane.Problem, l bus.Lane) {
	h.metrics.problems.WithLabelValues(string(p.Reason)).Inc()
	h.repeats.Log(slog.LevelWarn, string(p.Reason)+" "+p.Message.Site, "frame was not taken", slog.String("site", p.Message.Site),
		slog.String("lane", string(l)), slog.Uint64("sequence", p.Message.Sequence), slog.String("reason", string(p.Reason)), slog.Any("err", p.Err))
	if p.WantsKeyframe() {
		h.control.wantKeyframe(p.Message.Site)
	}
}

// Metrics to register: totals.
func (h *Hub) Metrics() []prometheus.Collector { return h.metrics.all() }

// SiteMetrics to register: one series of each for every site.
func (h *Hub) SiteMetrics() []prometheus.Collector { return []prometheus.Collector{siteCollector{h}} }
