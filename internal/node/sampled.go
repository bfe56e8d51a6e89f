package node

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/telemetry"
)

// sampled is a source of an edge whose metrics this process has or reads, and nobody has to scrape: a row every interval.
type sampled struct {
	edge *edgeRole
	// gather may end early when ctx does; what it has then is not used.
	gather   func(ctx context.Context) ([]*dto.MetricFamily, error)
	key, job string
	interval atomic.Int64
	changed  chan struct{} // tells that interval was
}

// addSampled adds a source, with the site as instance, which yields rows once it is run.
func (r *edgeRole) addSampled(key, job string, gather func(context.Context) ([]*dto.MetricFamily, error)) {
	s := &sampled{edge: r, gather: gather, key: key, job: job, changed: make(chan struct{}, 1)}
	s.interval.Store(int64(r.node.config.Global.ScrapeInterval))
	r.sampled = append(r.sampled, s)
}

// setInterval has a row made every d from now on.
func (s *sampled) setInterval(d model.Duration) {
	if s.interval.Swap(int64(d)) == int64(d) {
		return
	}
	select {
	case s.changed <- struct{}{}:
	default: // it has been told already
	}
}

// run makes rows until ctx ends.
func (s *sampled) run(ctx context.Context) error {
	n := s.edge.node
	log := telemetry.NewRepeats(n.log.With("job", s.job), time.Minute)
	interval := time.Duration(s.interval.Load())
	tick := time.NewTicker(interval) // what takes longer than the interval makes as many rows as it can
	defer tick.Stop()
	var sampler *telemetry.Sampler
	for {
		if sampler == nil {
			gatherer := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return s.gather(ctx) })
			sampler = telemetry.NewSampler(gatherer, n.catalog, &series.Source{
				Key:      s.key,
				Labels:   labels.FromStrings(model.InstanceLabel, n.options.Config.Site, model.JobLabel, s.job),
				Interval: interval,
			})
		}
		row, err := sampler.Row(time.Now())
		if ctx.Err() != nil {
			return nil
		}
		if row != nil {
			if sinkErr := s.edge.sink(row); err == nil {
				err = sinkErr
			}
		}
		if err != nil {
			log.Log(slog.LevelWarn, "row", "row of own metrics", slog.Any("err", err))
		}
		select {
		case <-tick.C:
		case <-s.changed:
			interval, sampler = time.Duration(s.interval.Load()), nil
			tick.Reset(interval)
		case <-ctx.Done():
			return nil
		}
	}
}
