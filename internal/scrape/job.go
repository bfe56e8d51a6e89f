package scrape

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"reflect"
	"slices"

	"github.com/prometheus/common/promslog"
	promconfig "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/targetgroup"
)

// job is one scrape config and its targets. It belongs to the goroutine of Manager.Run.
type job struct {
	cfg     *promconfig.ScrapeConfig
	clients map[string]*http.Client // by Unix socket; "" is the network
	log     *os.File                // scrape_failure_log_file; nil if there is none
	static  bool                    // its targets stand in the config
	groups  []*targetgroup.Group    // of the config, or what discovery said last
	synced  int                     // counts the syncs
}

// targetLimitError says that a job has more targets than it may have. None is scraped then, as in Prometheus.
type targetLimitError struct{ targets, limit int }

func (e *targetLimitError) Error() string {
	return fmt.Sprintf("target_limit exceeded: limit %d, found %d", e.limit, e.targets)
}

func newJob(cfg *promconfig.ScrapeConfig) (*job, error) {
	client, err := newClient(cfg, "")
	if err != nil {
		return nil, err
	}
	j := &job{cfg: cfg, clients: map[string]*http.Client{"": client}}
	j.groups, j.static = staticGroups(cfg.ServiceDiscoveryConfigs)
	if file := cfg.ScrapeFailureLogFile; file != "" {
		if j.log, err = os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o666); err != nil {
			return nil, fmt.Errorf("open scrape_failure_log_file of job %q: %w", cfg.JobName, err)
		}
	}
	return j, nil
}

// staticGroups returns the targets that the configs list, and whether these are all there can be.
func staticGroups(configs discovery.Configs) (groups []*targetgroup.Group, all bool) {
	for _, c := range configs {
		listed, ok := c.(discovery.StaticConfig)
		if !ok {
			return nil, false
		}
		groups = append(groups, listed...)
	}
	return groups, true
}

// failureLog returns the logger for failed scrapes of a target, nil if there is none. It writes what Prometheus writes.
func (j *job) failureLog(t *target) *slog.Logger {
	if j.log == nil {
		return nil
	}
	format := promslog.NewFormat()
	_ = format.Set("json") // it knows that one
	return promslog.New(&promslog.Config{Format: format, Writer: j.log}).With("job_name", j.cfg.JobName, "target", t.url.Redacted())
}

func (j *job) equal(cfg *promconfig.ScrapeConfig) bool { return reflect.DeepEqual(j.cfg, cfg) }

func (j *job) close() {
	for _, c := range j.clients {
		c.CloseIdleConnections()
	}
	if j.log != nil {
		j.log.Close() // a scrape under way may miss it, and says so in the log of the program anyway
	}
}

func (j *job) client(socket string) (*http.Client, error) {
	if c := j.clients[socket]; c != nil {
		return c, nil
	}
	c, err := newClient(j.cfg, socket)
	if err == nil {
		j.clients[socket] = c
	}
	return c, err
}

// forgetSockets closes the clients of Unix sockets that no target has any more.
func (j *job) forgetSockets(targets map[string]*target) {
	used := map[string]bool{"": true}
	for _, t := range targets {
		used[t.socket] = true
	}
	for socket, c := range j.clients {
		if !used[socket] {
			c.CloseIdleConnections()
			delete(j.clients, socket)
		}
	}
}

// targets makes the targets of all groups, each once.
func (j *job) targets(invalid func(source string, err error)) map[string]*target {
	groups := slices.Clone(j.groups)
	slices.SortFunc(groups, func(a, b *targetgroup.Group) int { return cmp.Compare(a.Source, b.Source) })
	targets := map[string]*target{}
	for _, g := range groups {
		for _, own := range g.Targets {
			t, err := newTarget(j.cfg, own, g.Labels)
			switch {
			case err != nil:
				invalid(g.Source, err)
			case t != nil && targets[t.source.Key] == nil:
				targets[t.source.Key] = t
			}
		}
	}
	return targets
}

// sync starts loops for new targets and tells the others what changed. Loops that it does not mention are left to
// sweep.
func (m *Manager) sync(ctx context.Context, j *job) {
	invalid := func(source string, err error) {
		m.shared.metrics.invalidTargets.Inc()
		m.shared.logs.warn("discovered target cannot be scraped", "job", j.cfg.JobName, "source", source, "err", err)
	}
	m.syncs++
	j.synced = m.syncs
	targets := j.targets(invalid)
	var forced error
	if most := int(j.cfg.TargetLimit); most > 0 && len(targets) > most {
		forced = &targetLimitError{len(targets), most}
	}
	for _, key := range slices.Sorted(maps.Keys(targets)) {
		if err := m.syncTarget(ctx, j, targets[key], forced); err != nil {
			invalid(key, err)
		}
	}
	j.forgetSockets(targets)
}

func (m *Manager) syncTarget(ctx context.Context, j *job, t *target, forced error) error {
	l := m.loops[t.source.Key]
	if l != nil {
		if other := m.jobs[l.job]; other != nil && other != j && l.synced == other.synced {
			return fmt.Errorf("job %q has the same target with the same labels", l.job)
		}
		l.job, l.synced = j.cfg.JobName, j.synced
		if l.has(j.cfg, t, forced) {
			return nil
		}
	}
	client, err := j.client(t.socket)
	if err != nil {
		return err
	}
	f, err := newFetcher(client, t, j.cfg, m.userAgent(), m.shared.memory)
	if err != nil {
		return err
	}
	s := &settings{cfg: j.cfg, target: t, fetcher: f, forced: forced, failures: j.failureLog(t)}
	if l != nil {
		s.grid = m.grid(t, l.slot)
		if l.update(s) {
			return nil
		}
	}
	slot := m.slots.take()
	s.grid = m.grid(t, slot)
	next := newLoop(&m.shared, slot, s)
	next.job, next.synced = j.cfg.JobName, j.synced
	m.loops[next.key] = next
	m.start(ctx, next, l)
	return nil
}

// sweep lets the targets go that their job did not have at its last sync, or whose job is gone.
func (m *Manager) sweep() {
	for _, l := range m.loops {
		if j := m.jobs[l.job]; j == nil || j.synced != l.synced {
			l.leave()
		}
	}
}

func (m *Manager) grid(t *target, slot int) grid {
	if m.shared.Align {
		return alignedGrid(t.interval, m.shared.Site, slot)
	}
	return spreadGrid(t.interval, m.shared.Site, t.source.Key)
}

// slots numbers the targets of an aligned site. A target keeps its number while it lives.
type slots struct {
	free []int
	next int
}

func (s *slots) take() int {
	if n := len(s.free); n > 0 {
		slot := s.free[n-1]
		s.free = s.free[:n-1]
		return slot
	}
	s.next++
	return s.next - 1
}

func (s *slots) give(slot int) { s.free = append(s.free, slot) }
