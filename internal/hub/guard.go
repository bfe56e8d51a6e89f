package hub

import (
	"log/slog"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/pipeline"
	"github.com/thalweg/thalweg/internal/series"
)

// guards is the second pipeline of each site: what the hub takes from it. Each reader of the stream has its own. They
// are for one goroutine.
type guards struct {
	config  *Config
	catalog *series.Catalog
	log     *slog.Logger
	refused func(pipeline.Reason) // counts a series
	burst   time.Duration         // of samples; 0: pipeline.DefaultBurst
	sites   map[string]*guard
}

// guard is that of one site. What comes on the backfill lane is of another time, and counted for itself. Time is that at
// which the server stored a message, so that it does not matter when it is read.
type guard struct {
	live, backfill *pipeline.Pipeline // backfill is nil until there is some
	reported       map[pipeline.Reason]uint64
}

func newGuards(c *Config, catalog *series.Catalog, log *slog.Logger, refused func(pipeline.Reason)) *guards {
	return &guards{config: c, catalog: catalog, log: log, refused: refused, sites: map[string]*guard{}}
}

// uncounted is for the guards of outputs: what they refuse the tail reader has refused and counted before.
func uncounted(pipeline.Reason) {}

// apply gives next what a site's guard leaves of a row, which the server stored at a time.
func (g *guards) apply(site string, backfill bool, row *series.Row, stored int64, next series.Sink) error {
	guard := g.sites[site]
	if guard == nil {
		guard = newGuard(g.make(site))
		g.sites[site] = guard
	}
	p := guard.live
	if backfill {
		if guard.backfill == nil {
			guard.backfill = g.make(site)
		}
		p = guard.backfill
	}
	return p.Apply(row, stored, next)
}

func newGuard(live *pipeline.Pipeline) *guard {
	return &guard{live: live, reported: map[pipeline.Reason]uint64{}}
}

// reload puts another configuration in force. What is counted goes on.
func (g *guards) reload(c *Config) {
	g.config = c
	for site, guard := range g.sites {
		o := g.options(site)
		guard.live.Reload(o)
		if guard.backfill != nil {
			guard.backfill.Reload(o)
		}
	}
}

func (g *guards) make(site string) *pipeline.Pipeline {
	p, err := pipeline.New(g.options(site))
	if err != nil {
		panic("BUG: hub: " + err.Error())
	}
	return p
}

func (g *guards) options(site string) pipeline.Options {
	limits := g.config.SiteLimits(site)
	return pipeline.Options{
		Catalog: g.catalog, Match: []pipeline.Selection{g.selection(site, g.config.Match), g.selection(site, g.config.Sites[site].Match)},
		Always: pipeline.AlwaysPass("thalweg"), RequiredLabels: g.config.RequiredLabels, Limits: limits.Limits, MaxSources: limits.Sources,
		Burst: g.burst, OnDrop: g.refused,
	}
}

func (g *guards) selection(site string, match []string) pipeline.Selection {
	s, err := pipeline.ParseMatch(match)
	if err != nil { // the configuration was validated; nothing fails open
		g.log.Error("selectors of a site cannot be read; nothing of it is taken", "site", site, "err", err)
		return pipeline.Selection{{labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, "")}}
	}
	return s
}

// worstShown is how many offenders a log line and the pages name.
const worstShown = 5

// reportLimits says of each site what limits have refused since the last time.
func (h *Hub) reportLimits() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for site, guard := range h.guards.sites {
		usage := guard.live.Usage(worstShown)
		over := usage.Since(guard.reported)
		if len(over) == 0 {
			continue
		}
		guard.reported = usage.Refused
		h.repeats.Log(slog.LevelWarn, "limits "+site, "site is beyond its limits; the excess is refused", append(
			[]slog.Attr{slog.String("site", site)}, pipeline.Attrs(over, &usage)...)...)
	}
}
