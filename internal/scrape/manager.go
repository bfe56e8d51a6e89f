package scrape

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	promconfig "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery"
	_ "github.com/prometheus/prometheus/discovery/dns"  // dns_sd_configs
	_ "github.com/prometheus/prometheus/discovery/file" // file_sd_configs
	_ "github.com/prometheus/prometheus/discovery/http" // http_sd_configs
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/expo"
	"github.com/thalweg/thalweg/internal/series"
)

// Options of a Manager. Catalog, Sink and Logger are required.
type Options struct {
	// Site names the site; it decides when its targets are scraped.
	Site string
	// Version of the program, for the User-Agent header.
	Version string
	// Align puts the scrapes of a site close together; otherwise they are spread over the interval.
	Align bool
	// Immediate makes the first scrape of a target as soon as it is discovered.
	Immediate bool
	// KeyframeInterval is how long series have to be absent before a schema may be made anew. Zero: 40 scrapes.
	KeyframeInterval time.Duration
	Catalog          *series.Catalog
	Sink             series.Sink
	Logger           *slog.Logger
}

// Health of a target.
type Health string

const (
	Unknown Health = "unknown" // not scraped yet
	Up      Health = "up"
	Down    Health = "down"
)

// Target is the state of a target for people and status pages.
type Target struct {
	Job      string
	Source   string        // the key of its source
	Labels   labels.Labels // public ones
	URL      string        // without password
	Interval time.Duration
	Timeout  time.Duration

	// Of the last scrape:
	Health     Health
	LastScrape time.Time // zero: there was none
	Duration   time.Duration
	Samples    int   // before relabelling
	Err        error // nil when Up
}

func (t *Target) describe(s *settings) {
	t.Job, t.Source, t.Labels, t.URL = s.cfg.JobName, s.target.source.Key, s.target.source.Labels, s.target.url.Redacted()
	t.Interval, t.Timeout = s.target.interval, s.target.timeout
	t.Health = cmp.Or(t.Health, Unknown)
}

// Manager scrapes the targets of scrape configs.
type Manager struct {
	shared  shared
	active  atomic.Pointer[[]*loop] // as of the last change
	apply   chan applyRequest
	stopped chan struct{} // closed when Run has returned

	// Of Run:
	discovery *discovery.Manager // nil until a job needs it
	found     <-chan map[string][]*targetgroup.Group
	jobs      map[string]*job
	syncs     int
	loops     map[string]*loop // by the key of the source
	slots     slots
	running   sync.WaitGroup // loops and discovery
	ended     chan *loop
}

type applyRequest struct {
	configs []*promconfig.ScrapeConfig
	done    chan error
}

// New returns a manager for the given scrape configs, which must have been resolved against the global settings.
func New(o Options, configs []*promconfig.ScrapeConfig) (*Manager, error) {
	if o.Catalog == nil || o.Sink == nil || o.Logger == nil {
		return nil, errors.New("new scrape manager: catalog, sink or logger is missing")
	}
	m := &Manager{
		shared:  shared{Options: o, memory: newMemory(), scripts: expo.NewScripts(), logs: newLimitedLog(o.Logger)},
		loops:   map[string]*loop{},
		ended:   make(chan *loop),
		apply:   make(chan applyRequest),
		stopped: make(chan struct{}),
	}
	m.active.Store(&[]*loop{})
	m.shared.metrics = newMetrics(func() int { return len(*m.active.Load()) })
	jobs, err := m.replacements(configs)
	if err != nil {
		return nil, fmt.Errorf("new scrape manager: %w", err)
	}
	m.jobs = jobs
	return m, nil
}

// Metrics returns the collectors of the manager.
func (m *Manager) Metrics() []prometheus.Collector { return m.shared.metrics.all() }

func (m *Manager) userAgent() string { return "Thalweg/" + m.shared.Version }

// Run discovers and scrapes until ctx is done and all scrapes under way have ended. It is called once.
func (m *Manager) Run(ctx context.Context) error {
	defer close(m.stopped)
	if err := m.discover(ctx); err != nil {
		return err
	}
	defer m.closeJobs()
	defer m.running.Wait()
	for _, j := range m.jobs {
		if j.static {
			m.sync(ctx, j)
		}
	}
	m.publish()

	for {
		select {
		case groups, ok := <-m.found:
			if !ok {
				return nil // ctx is done
			}
			m.update(ctx, groups)
		case <-ctx.Done():
			return nil
		case r := <-m.apply:
			r.done <- m.reload(ctx, r.configs)
		case l := <-m.ended:
			m.remove(l)
		}
		m.publish()
	}
}

// ApplyConfig replaces the scrape configs. Targets that stay as they are do not notice; targets of changed jobs go on
// under the new settings; targets that are gone end. After an error nothing has changed. It blocks until Run has taken
// the configs.
func (m *Manager) ApplyConfig(ctx context.Context, configs []*promconfig.ScrapeConfig) error {
	r := applyRequest{configs, make(chan error, 1)}
	select {
	case m.apply <- r:
		return <-r.done
	case <-m.stopped:
		return errors.New("apply scrape configs: scraping has stopped")
	case <-ctx.Done():
		return fmt.Errorf("apply scrape configs: %w", ctx.Err())
	}
}

// Targets returns the state of all targets, ordered by job and source.
func (m *Manager) Targets() []Target {
	var targets []Target
	for _, l := range *m.active.Load() {
		if t, wanted := l.snapshot(); wanted {
			targets = append(targets, t)
		}
	}
	slices.SortFunc(targets, func(a, b Target) int {
		return cmp.Or(cmp.Compare(a.Job, b.Job), cmp.Compare(a.Source, b.Source))
	})
	return targets
}

// replacements makes the jobs for the given configs. Those that did not change are the present ones.
func (m *Manager) replacements(configs []*promconfig.ScrapeConfig) (_ map[string]*job, err error) {
	jobs := map[string]*job{}
	defer func() {
		if err != nil {
			closeReplaced(jobs, m.jobs)
		}
	}()
	for _, cfg := range configs {
		if jobs[cfg.JobName] != nil {
			return nil, fmt.Errorf("job name %q is not unique", cfg.JobName)
		}
		j := m.jobs[cfg.JobName]
		if j == nil || !j.equal(cfg) {
			if j, err = newJob(cfg); err != nil {
				return nil, err
			}
		}
		jobs[cfg.JobName] = j
	}
	return jobs, nil
}

// discover makes discovery look for the targets of the jobs that need it.
func (m *Manager) discover(ctx context.Context) error {
	configs := map[string]discovery.Configs{}
	for name, j := range m.jobs {
		if !j.static {
			configs[name] = j.cfg.ServiceDiscoveryConfigs
		}
	}
	if m.discovery == nil {
		if len(configs) == 0 {
			return nil // it would look for updates ten times a second
		}
		if err := m.startDiscovery(ctx); err != nil {
			return err
		}
	}
	if err := m.discovery.ApplyConfig(configs); err != nil {
		return fmt.Errorf("apply discovery configs: %w", err)
	}
	return nil
}

func (m *Manager) startDiscovery(ctx context.Context) error {
	sdMetrics, err := discovery.CreateAndRegisterSDMetrics(prometheus.NewRegistry())
	if err != nil {
		return fmt.Errorf("register discovery metrics: %w", err)
	}
	d := discovery.NewManager(ctx, m.shared.Logger, prometheus.NewRegistry(), sdMetrics, discovery.Name("scrape"))
	if d == nil {
		return errors.New("create discovery manager: see its log line")
	}
	m.discovery, m.found = d, d.SyncCh()
	m.running.Go(func() { d.Run() })
	return nil
}

func (m *Manager) reload(ctx context.Context, configs []*promconfig.ScrapeConfig) error {
	jobs, err := m.replacements(configs)
	if err != nil {
		return fmt.Errorf("apply scrape configs: %w", err)
	}
	old := m.jobs
	m.jobs = jobs
	if err := m.discover(ctx); err != nil {
		m.jobs = old
		closeReplaced(jobs, old)
		return fmt.Errorf("apply scrape configs: %w", err)
	}
	for name, j := range jobs {
		before := old[name]
		if before == j {
			continue
		}
		if before != nil && !j.static {
			j.groups = before.groups // until discovery tells more
		}
		if before != nil || j.static {
			m.sync(ctx, j)
		}
	}
	m.sweep()
	closeReplaced(old, jobs)
	return nil
}

// closeReplaced closes the jobs that are not in use any more.
func closeReplaced(jobs, inUse map[string]*job) {
	for name, j := range jobs {
		if inUse[name] != j {
			j.close()
		}
	}
}

// update takes what discovery has found.
func (m *Manager) update(ctx context.Context, groups map[string][]*targetgroup.Group) {
	for name, found := range groups {
		if j := m.jobs[name]; j != nil && !j.static {
			j.groups = found
			m.sync(ctx, j)
		}
	}
	m.sweep()
}

// start runs a loop, after the end of the one it replaces.
func (m *Manager) start(ctx context.Context, l, old *loop) {
	var after <-chan struct{}
	if old != nil {
		after = old.done
	}
	m.running.Go(func() {
		l.run(ctx, after)
		select {
		case m.ended <- l:
		case <-ctx.Done():
		}
	})
}

func (m *Manager) remove(l *loop) {
	m.slots.give(l.slot)
	if m.loops[l.key] == l {
		delete(m.loops, l.key)
	}
}

// publish makes the loops visible to Targets.
func (m *Manager) publish() {
	all := slices.Collect(maps.Values(m.loops))
	m.active.Store(&all)
}

func (m *Manager) closeJobs() {
	for _, j := range m.jobs {
		j.close()
	}
}
