package push

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/telemetry"
)

// Commit takes rows of a site and returns when they are durable: synced to the edge's outbox, or stored in the stream by
// a hub. Rows are valid until it returns. An error may be a *Refusal. It is safe for concurrent use.
type Commit func(ctx context.Context, site string, rows []*series.Row) error

// Refusal says that rows are not taken, now or ever, and with what status that is answered.
type Refusal struct {
	Status     int           // such as 403
	RetryAfter time.Duration // 0: it is no use to try again
	Err        error
}

func (r *Refusal) Error() string { return r.Err.Error() }

func (r *Refusal) Unwrap() error { return r.Err }

// Options of Open. Dir, Commit, Catalog and Logger are required, and one of Site and SiteName.
type Options struct {
	// Dir holds the groups on disk. It is made if it is not there, and belongs to one Gateway at a time.
	Dir string
	// Site says which site a request speaks for. Nil: there is one site, SiteName, whatever its name was before.
	Site     func(*http.Request) string
	SiteName string
	// Commit takes the rows of pushes and deletions, whose clients wait for it.
	Commit Commit
	// Sample takes rows that nobody waits for: those of groups that are sampled again, and the ends of those that expired.
	// It need not wait until they are durable. Nil: Commit.
	Sample   Commit
	Catalog  *series.Catalog
	Settings Settings
	Limits   Limits
	// Own makes ServeMetrics serve what Metrics collects beside the groups, unless there are several sites, which need not
	// know of each other. Families of these names cannot be pushed then.
	Own bool
	// Version stands in /api/v1/status.
	Version string
	Logger  *slog.Logger
	Now     func() time.Time // nil: time.Now
}

// Settings are what a reload may change.
type Settings struct {
	// Interval at which groups are sampled again. Required.
	Interval time.Duration
	// TTL of groups whose last push did not say one; 0 is none.
	TTL time.Duration
	// Admin serves /api/v1/admin/wipe.
	Admin bool
	// Keeps says whether there still is who may push for a site; the groups of others end. Nil: there is.
	Keeps func(site string) bool
}

// Limits bound what is kept of each site, and bodies. Zero values mean the defaults.
type Limits struct {
	Groups int // default 100,000
	Series int // metrics as the Pushgateway counts them; a histogram is one. Default 2,000,000
	Bytes  int // of families in protobuf, and labels. Default 256 MiB
	Body   int // bytes of one push, decompressed. Default 8 MiB
}

func (l *Limits) setDefaults() {
	for _, d := range []struct {
		limit *int
		value int
	}{{&l.Groups, 100_000}, {&l.Series, 2_000_000}, {&l.Bytes, 256 << 20}, {&l.Body, 8 << 20}} {
		if *d.limit == 0 {
			*d.limit = d.value
		}
	}
}

const (
	// maxChanges bounds the requests of a site under way that change groups. More are refused: rows are not stored as fast as
	// they come.
	maxChanges = 1000
	// maxReading bounds the bodies of a site that are read at a time, maxDecoding those that are decoded; others wait.
	maxReading  = 32
	maxDecoding = 4
	// readTimeout is how long a client may take for its body.
	readTimeout = time.Minute
	// storeTimeout is how long rows may take to become durable.
	storeTimeout = 30 * time.Second
	// repeatEvery bounds how often the same trouble is logged.
	repeatEvery = time.Minute
)

// Gateway keeps pushed groups.
type Gateway struct {
	options  Options
	settings atomic.Pointer[Settings]
	journal  *journal
	metrics  *gatewayMetrics
	own      *ownMetrics // nil without Options.Own
	repeats  *telemetry.Repeats
	wake     chan struct{} // pokes Run: there is something to do earlier than it thinks
	started  time.Time

	mu    sync.RWMutex
	sites map[string]*site
}

// Open reads the groups that are on disk. Whatever is wrong with them is logged and counted; an error is about the
// directory itself.
func Open(o Options) (*Gateway, error) {
	o.Limits.setDefaults()
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Sample == nil {
		o.Sample = o.Commit
	}
	g := &Gateway{
		options: o, metrics: newGatewayMetrics(), repeats: telemetry.NewRepeats(o.Logger, repeatEvery),
		wake: make(chan struct{}, 1), started: o.Now(), sites: map[string]*site{},
	}
	g.Reload(o.Settings)
	var err error
	if g.journal, err = openJournal(o.Dir, o.Logger, g.restore); err != nil {
		return nil, fmt.Errorf("open pushed groups: %w", err)
	}
	if o.Own && o.Site == nil {
		if g.own, err = newOwnMetrics(g.Metrics()); err != nil {
			return nil, errors.Join(err, g.journal.close())
		}
	}
	if len(g.journal.damaged) > 0 { // now that what could be read is not elsewhere
		if err := g.journal.rewrite(g.records); err != nil {
			o.Logger.Error("journal of pushed groups cannot be written anew", "err", err)
		}
	}
	return g, nil
}

// Reload puts other settings in force.
func (g *Gateway) Reload(s Settings) {
	g.settings.Store(&s)
	for _, site := range g.allSites() {
		site.reschedule(s.TTL)
	}
	g.poke()
}

// Close writes what is to be written and lets go of the directory. Pushes under way are answered first; later ones fail.
func (g *Gateway) Close() error { return g.journal.close() }

// Stats counts what is kept of all sites.
type Stats struct {
	Groups, Series, Bytes int
}

// Stats counts what is kept.
func (g *Gateway) Stats() Stats {
	var total Stats
	for _, s := range g.allSites() {
		s.mu.Lock()
		total.Groups += s.stats.Groups
		total.Series += s.stats.Series
		total.Bytes += s.stats.Bytes
		s.mu.Unlock()
	}
	return total
}

// Handlers are the endpoints of the Pushgateway by pattern of http.ServeMux, without those that only a listener of its own
// can have (ServeMetrics).
func (g *Gateway) Handlers() map[string]http.Handler {
	handlers := map[string]http.Handler{
		"/api/v1/metrics":    api(http.MethodGet, g.serveGroups),
		"/api/v1/status":     api(http.MethodGet, g.serveStatus),
		"/api/v1/admin/wipe": api(http.MethodPut, g.wipe),
	}
	for _, root := range []string{"/metrics/job", "/metrics/job" + base64Suffix} {
		handlers[root] = http.HandlerFunc(http.NotFound)
		handlers[root+"/"] = http.HandlerFunc(g.group)
	}
	return handlers
}

// poke makes Run look again when it has to do something next.
func (g *Gateway) poke() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

func (g *Gateway) siteOf(r *http.Request) *site {
	if g.options.Site == nil {
		return g.site(g.options.SiteName)
	}
	return g.site(g.options.Site(r))
}

// site returns the groups of a site, which there may be none of yet.
func (g *Gateway) site(name string) *site {
	g.mu.RLock()
	s := g.sites[name]
	g.mu.RUnlock()
	if s != nil {
		return s
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if s = g.sites[name]; s == nil {
		s = newSite(name, g.options.Limits)
		g.sites[name] = s
		g.poke() // its first cycle begins now
	}
	return s
}

func (g *Gateway) allSites() []*site {
	g.mu.RLock()
	defer g.mu.RUnlock()
	sites := make([]*site, 0, len(g.sites))
	for _, s := range g.sites {
		sites = append(sites, s)
	}
	return sites
}

// ownMetrics are what the gateway says of itself beside the groups.
type ownMetrics struct {
	registry *prometheus.Registry
	names    map[string]bool // of its families
}

func newOwnMetrics(collectors []prometheus.Collector) (*ownMetrics, error) {
	o := &ownMetrics{registry: prometheus.NewRegistry(), names: map[string]bool{}}
	for _, c := range collectors {
		if err := o.registry.Register(c); err != nil {
			return nil, fmt.Errorf("register own metrics: %w", err)
		}
	}
	families, err := o.registry.Gather()
	if err != nil {
		return nil, fmt.Errorf("gather own metrics: %w", err)
	}
	for _, f := range families {
		o.names[f.GetName()] = true
	}
	return o, nil
}

// restore takes a record of the journal.
func (g *Gateway) restore(r record) error {
	if r.kind == recordReset {
		g.sites = map[string]*site{}
		return nil
	}
	if g.options.Site == nil {
		r.site = g.options.SiteName
	}
	var next *state
	if r.kind == recordGroup {
		var err error
		if next, err = r.grouping.restored(r.state); err != nil {
			return fmt.Errorf("group %q: %w", r.grouping.key(), err)
		}
	}
	group := g.site(r.site).acquire(r.grouping)
	defer group.release()
	group.site.put(group, next, g.settings.Load().TTL)
	return nil
}
