package natsmon

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"

	"github.com/thalweg/thalweg/internal/telemetry"
)

// Options of New. Config and Logger are required.
type Options struct {
	// Config is valid: its Validate has been called.
	Config Config
	// Embedded is the server in this process; nil if there is none.
	Embedded *server.Server
	// StoreDir is where the embedded server has its store.
	StoreDir string
	Logger   *slog.Logger
	Now      func() time.Time // nil: time.Now
}

// Exporter serves metrics of NATS servers. It is safe for concurrent use.
type Exporter struct {
	config   Config
	embedded []*target // one or none
	targets  []*target
	labelled bool // whether the basic metrics of targets name their server
	history  *history
	wire     *wireCounter // nil where the kernel does not count
	log      *telemetry.Repeats
}

// repeatEvery is how often the same is logged of a target that stays as it is.
const repeatEvery = 5 * time.Minute

// New returns an Exporter, which is to be run. It connects when it is run or scraped; servers need not be there. Bytes on
// the wire of the embedded server are counted from here on.
func New(o Options) (*Exporter, error) {
	now := o.Now
	if now == nil {
		now = time.Now
	}
	compat, limits := o.Config.Compat != "", defaultLimits()
	var readers []Reader
	for i, c := range o.Config.Servers {
		r, err := newHTTPReader(c, compat, limits, now)
		if err != nil {
			return nil, fmt.Errorf("servers[%d]: %w", i, err)
		}
		readers = append(readers, r)
	}
	for _, c := range o.Config.System {
		readers = append(readers, newSystemReader(c, compat, limits, o.Logger, now))
	}

	wire, err := newWireCounter(o.Logger)
	if err != nil {
		o.Logger.Info("bytes on the wire are estimated", "err", err)
	}
	e := &Exporter{config: o.Config, history: newHistory(), wire: wire, log: telemetry.NewRepeats(o.Logger, repeatEvery)}
	add := func(r Reader) *target { return newTarget(r, compat, limits, wire.of(r), e.log) }
	if o.Embedded != nil {
		e.embedded = []*target{add(newEmbeddedReader(o.Embedded, o.StoreDir, compat, limits, now))}
		if o.Config.Embedded {
			e.targets = append(e.targets, e.embedded...)
		}
	}
	for _, r := range readers {
		e.targets = append(e.targets, add(r))
	}
	e.labelled = len(e.targets) != 1 || len(o.Config.System) > 0
	return e, nil
}

// Run counts bytes on the wire and keeps connections to system accounts, until ctx ends.
func (e *Exporter) Run(ctx context.Context) error {
	var running sync.WaitGroup
	if e.wire != nil {
		running.Go(func() { e.wire.run(ctx) })
	}
	for _, t := range e.targets {
		if r, ok := t.reader.(interface{ run(context.Context) error }); ok {
			running.Go(func() {
				if err := r.run(ctx); err != nil {
					e.log.Log(slog.LevelError, t.reader.Name(), "reader of NATS servers ended",
						slog.String("target", t.reader.Name()), slog.Any("err", err))
				}
			})
		}
	}
	<-ctx.Done()
	running.Wait()
	return nil
}

// Gather reads all targets, for somebody who waits no longer than the timeout, and not beyond the end of ctx. With an error
// there is what could be read.
func (e *Exporter) Gather(ctx context.Context, timeout time.Duration) ([]*dto.MetricFamily, error) {
	return e.gather(ctx, timeout, e.targets, e.labelled)
}

// Handler serves what Gather returns, within the scrape timeout that the request names.
func (e *Exporter) Handler() http.Handler { return e.handler(e.targets, e.labelled) }

// EmbeddedHandler is Handler for the embedded server alone.
func (e *Exporter) EmbeddedHandler() http.Handler { return e.handler(e.embedded, false) }

// Metrics of the exporter itself.
func (e *Exporter) Metrics() []prometheus.Collector { return e.wire.metrics() }

// handler offers no OpenMetrics: it would take the type of counters whose names do not end in _total, as those of the basic
// metrics do not.
func (e *Exporter) handler(targets []*target, labelled bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		timeout := scrapeTimeout(r.Header)
		timeout -= margin(timeout)
		promhttp.HandlerFor(prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
			return e.gather(r.Context(), timeout, targets, labelled)
		}), promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}).ServeHTTP(w, r)
	})
}

const (
	defaultTimeout = 10 * time.Second
	maxTimeout     = time.Minute
)

// scrapeTimeout is how long whoever asks will wait for an answer.
func scrapeTimeout(h http.Header) time.Duration {
	seconds, err := strconv.ParseFloat(h.Get("X-Prometheus-Scrape-Timeout-Seconds"), 64)
	if err != nil || !(seconds > 0) {
		return defaultTimeout
	}
	return time.Duration(min(seconds, maxTimeout.Seconds()) * float64(time.Second))
}

// gather reads the targets within the timeout, and before ctx ends.
func (e *Exporter) gather(ctx context.Context, timeout time.Duration, targets []*target, labelled bool) ([]*dto.MetricFamily, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	readings := make([]reading, len(targets))
	var reading sync.WaitGroup
	for i, t := range targets {
		reading.Go(func() { readings[i] = t.read(ctx) })
	}
	reading.Wait()
	return e.build(targets, readings, labelled)
}

// build makes metrics of what was read. A panic on the way, of what a server answered, is an error.
func (e *Exporter) build(targets []*target, readings []reading, labelled bool) (families []*dto.MetricFamily, err error) {
	defer func() {
		if p := recover(); p != nil {
			families, err = nil, fmt.Errorf("make metrics of NATS servers: panic: %v\n%s", p, debug.Stack())
		}
	}()
	b := newBuilder(labelled, e.history, e.config.Compat, e.config.CompatPrefix)
	e.warnOfClusters(targets, readings)
	left := e.addServers(b, targets, readings)
	for i, t := range targets {
		b.addReading(t.reader.Name(), readings[i], left[i])
		if s, ok := t.reader.(*systemReader); ok && s.config.Expect > 0 {
			b.addExpected(s.Name(), s.config.Expect)
		}
	}
	return b.families(), nil
}

// addServers adds each server once, also if it is read in two ways, and returns how many of each target are left out because
// another one has their name: the one that had it before keeps it.
func (e *Exporter) addServers(b *builder, targets []*target, readings []reading) (left []int) {
	type claim struct {
		*Server
		target int
		first  bool // it has its name already
	}
	var claims []claim
	for i := range targets {
		for _, s := range readings[i].servers {
			claims = append(claims, claim{s, i, e.history.hasName(s)})
		}
	}
	slices.SortStableFunc(claims, func(x, y claim) int { return cmp.Compare(truth(y.first), truth(x.first)) })

	left = make([]int, len(targets))
	ids := map[string]bool{}
	for _, c := range claims {
		if ids[c.ID] {
			continue
		}
		target := targets[c.target].reader.Name()
		if !b.servers[c.key()] && e.history.takeName(c.Server, target) {
			b.add(c.Server)
			ids[c.ID] = true
			b.addUp(c.Server)
			continue
		}
		left[c.target]++
		e.log.Log(slog.LevelWarn, "name of "+c.ID, "two NATS servers have one name: metrics of one are left out",
			slog.String("target", target), slog.String("server", c.label()), slog.String("id", c.ID))
	}
	return left
}

// warnOfClusters looks for clusters that have one name: servers of different targets that have no route to each other. Their
// streams cannot be told apart.
func (e *Exporter) warnOfClusters(targets []*target, readings []reading) {
	type member struct {
		*Server
		target int
	}
	first := map[string]member{}
	for i, t := range targets {
		for _, s := range readings[i].servers {
			if s.Cluster == "" || s.Routes == nil {
				continue
			}
			one, there := first[s.Cluster]
			if !there {
				first[s.Cluster] = member{s, i}
			} else if one.target != i && one.ID != s.ID && !one.hasRoute(s) && !s.hasRoute(one.Server) {
				e.log.Log(slog.LevelWarn, "cluster "+s.Cluster,
					"NATS servers of one cluster name have no route to each other: two clusters need two names, or their streams are mixed up",
					slog.String("cluster", s.Cluster), slog.String("target", t.reader.Name()), slog.String("server", s.label()),
					slog.String("other_target", targets[one.target].reader.Name()), slog.String("other_server", one.label()))
			}
		}
	}
}

// hasRoute reports whether the server has a connection to the other one.
func (s *Server) hasRoute(other *Server) bool {
	return slices.ContainsFunc(s.Routes.Routes, func(r *server.RouteInfo) bool { return r.RemoteID == other.ID })
}

// addUp adds whether a server answers, which one behind a system account may not.
func (b *builder) addUp(s *Server) {
	l := labels{}.with("cluster", s.Cluster).with("server", s.label())
	b.sample("nats_server_up", "Whether the server answered (1), or only did so before (0).", dto.MetricType_GAUGE, l, truth(s.Varz != nil))
}

// addReading adds what there is to say of the reading itself.
func (b *builder) addReading(name string, r reading, clashes int) {
	l := labels{}.with("target", name)
	b.sample("nats_up", "Whether the target answered (1) or not (0).", dto.MetricType_GAUGE, l, truth(r.answered() > 0))
	b.sample("nats_target_servers", "Servers of the target that answered.", dto.MetricType_GAUGE, l, float64(r.answered()))
	b.sample("nats_scrape_duration_seconds", "How long it took to read the target.", dto.MetricType_GAUGE, l, r.took.Seconds())
	for _, endpoint := range slices.Sorted(maps.Keys(r.errors)) {
		b.sample("nats_scrape_errors_total", "Questions to servers of the target that were not answered, by endpoint; without varz there is nothing of a server.",
			dto.MetricType_COUNTER, l.with("endpoint", string(endpoint)), float64(r.errors[endpoint]))
	}
	for _, what := range objects() {
		n := r.omitted[what]
		if what == objectServer {
			n = clashes
		}
		b.sample("nats_scrape_omitted_objects", "Objects of the target without metrics: more than the exporter takes of a server, or servers of one name.",
			dto.MetricType_GAUGE, l.with("kind", string(what)), float64(n))
	}
}

// addExpected adds how many servers a target should have, which is more than those that ever answered if some never did.
func (b *builder) addExpected(name string, servers int) {
	b.sample("nats_target_expected_servers", "Servers that the target should have; absent if nobody said.",
		dto.MetricType_GAUGE, labels{}.with("target", name), float64(servers))
}
