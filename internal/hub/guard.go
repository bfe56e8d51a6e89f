package hub

import (
	"log/slog"

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
	refused func(pipeline.Reason)           // counts a series
	sites   map[string][]*pipeline.Pipeline // all must let a row pass
}

func newGuards(c *Config, catalog *series.Catalog, log *slog.Logger, refused func(pipeline.Reason)) *guards {
	return &guards{config: c, catalog: catalog, log: log, refused: refused, sites: map[string][]*pipeline.Pipeline{}}
}

// uncounted is for the guards of outputs: what they refuse the tail reader has refused and counted before.
func uncounted(pipeline.Reason) {}

// apply gives next what a site's guard leaves of a row.
func (g *guards) apply(site string, row *series.Row, next series.Sink) error {
	pipelines, ok := g.sites[site]
	if !ok {
		pipelines = g.make(site)
		g.sites[site] = pipelines
	}
	for i := len(pipelines) - 1; i >= 0; i-- {
		next = pipelines[i].Wrap(next)
	}
	return next(row)
}

func (g *guards) make(site string) (pipelines []*pipeline.Pipeline) {
	for _, match := range [][]string{g.config.Match, g.config.Sites[site].Match} {
		if len(match) == 0 {
			continue
		}
		matchers, err := pipeline.ParseMatch(match)
		if err != nil { // the configuration was validated; nothing fails open
			g.log.Error("selectors of a site cannot be read; nothing of it is taken", "site", site, "err", err)
			matchers = [][]*labels.Matcher{{labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, "")}}
		}
		p, err := pipeline.New(pipeline.Options{
			Catalog: g.catalog, Match: matchers, Always: pipeline.AlwaysPass("thalweg"), OnDrop: g.refused,
		})
		if err != nil {
			panic("BUG: hub: " + err.Error())
		}
		pipelines = append(pipelines, p)
	}
	return pipelines
}
