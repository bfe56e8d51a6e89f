package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/config"
	"github.com/thalweg/thalweg/internal/edge"
	"github.com/thalweg/thalweg/internal/federate"
	"github.com/thalweg/thalweg/internal/pipeline"
	"github.com/thalweg/thalweg/internal/receive"
	"github.com/thalweg/thalweg/internal/remotewrite"
	"github.com/thalweg/thalweg/internal/scrape"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/store"
	"github.com/thalweg/thalweg/internal/telemetry"
)

// selfJob is the job of a process's own metrics.
const selfJob = "thalweg"

// worstShown is how many offenders a log line names.
const worstShown = 5

// edgeRole is an edge and the inputs before it.
type edgeRole struct {
	node     *Node
	conn     *bus.Conn
	edge     *edge.Edge
	scrape   *scrape.Manager
	pipeline *pipeline.Pipeline
	clear    *edge.ClearValues // the values behind pseudonyms
	receiver *receiver         // nil where nothing is received
	store    *store.Store      // of an edge alone: its own last rows; nil beside a hub
	federate *federate.Handler
	sampled  []*sampled // sources that nobody has to scrape
	repeats  *telemetry.Repeats
	reported map[pipeline.Reason]uint64 // what limits had refused when that was last logged
}

func (n *Node) newEdge(handlers map[string]http.Handler) (*edgeRole, error) {
	c := n.config
	r := &edgeRole{node: n, repeats: telemetry.NewRepeats(n.log.With("component", "edge"), time.Minute)}
	var err error
	if r.conn, err = n.connect(c.EdgeClient(), "edge", c.Site); err != nil {
		return nil, err
	}
	r.clear = edge.OpenClearValues(c.DataDir, n.log.With("component", "edge"))
	options, err := r.pipelineOptions(c)
	if err != nil {
		return nil, err
	}
	if r.pipeline, err = pipeline.New(options); err != nil {
		return nil, err
	}
	n.metrics.MustRegister(r.pipeline.Metrics()...)
	n.metrics.MustRegister(r.clear.Metrics()...)
	lookback := time.Duration(store.DefaultConfig().Lookback)
	if n.hub == nil {
		if err := r.newFederate(c, handlers); err != nil {
			return nil, err
		}
	}
	r.scrape, err = scrape.New(scrape.Options{
		Site: c.Site, Version: n.options.Version, Align: c.Edge.Scrape.Align, Immediate: n.options.Immediate,
		KeyframeInterval: time.Duration(c.Edge.KeyframeInterval), Catalog: n.catalog, Sink: r.sink,
		Logger: n.log.With("component", "scrape"),
	}, c.Edge.Scrape.Jobs)
	if err != nil {
		return nil, err
	}
	n.metrics.MustRegister(r.scrape.Metrics()...)
	r.edge, err = edge.New(edge.Options{
		Site: c.Site, Config: c.Edge.Config, Dir: filepath.Join(c.DataDir, "outbox"), Conn: r.conn, Version: n.options.Version,
		Logger: n.log.With("component", "edge"), StreamMaxAge: time.Duration(c.EdgeClient().Stream.MaxAge), Lookback: lookback,
	})
	if err != nil {
		return nil, err
	}
	n.metrics.MustRegister(r.edge.Metrics()...)
	if c.Edge.Self {
		r.addSampled("self/"+selfJob+"/"+c.Site, selfJob, func(context.Context) ([]*dto.MetricFamily, error) { return n.metrics.Gather() })
	}
	r.receiver, err = n.newReceiver(receiverOptions{
		role: receive.Edge, config: &c.Edge.Receive, commit: r.commit, sample: r.sample, site: c.Site, dir: groupsDir(c, receive.Edge),
	}, handlers)
	if err != nil {
		return nil, errors.Join(err, r.edge.Close())
	}
	return r, nil
}

// newFederate makes the store and the handler of an edge without a hub beside it.
func (r *edgeRole) newFederate(c *config.Config, handlers map[string]http.Handler) error {
	settings := store.DefaultConfig()
	settings.SiteLabel = ""
	var err error
	if r.store, err = store.New(store.Options{Config: settings}); err != nil {
		return err
	}
	r.federate, err = federate.New(federate.Options{
		Select: r.store.Select, Config: federate.DefaultConfig(), Logger: r.node.log.With("component", "federate"),
	})
	if err != nil {
		return err
	}
	handlers["/federate"] = r.federate
	r.node.metrics.MustRegister(r.store.Metrics()...)
	r.node.metrics.MustRegister(r.federate.Metrics()...)
	return nil
}

// pipelineOptions reads the keys that the configuration names, too.
func (r *edgeRole) pipelineOptions(c *config.Config) (o pipeline.Options, err error) {
	match, err := pipeline.ParseMatch(c.Edge.Pipeline.Match)
	if err != nil {
		return o, fmt.Errorf("edge.match: %w", err)
	}
	anonymizer, err := c.Anonymizer()
	if err != nil {
		return o, err
	}
	return pipeline.Options{
		Catalog: r.node.catalog, Match: []pipeline.Selection{match}, Always: pipeline.AlwaysPass(selfJob),
		ExternalLabels: c.Global.ExternalLabels, Relabel: c.Edge.Pipeline.RelabelConfigs, RequiredLabels: c.Edge.Pipeline.RequiredLabels,
		Limits: c.Edge.Limits.Limits, Anonymize: anonymizer, Pseudonymized: r.clear.Add,
	}, nil
}

// sink takes the rows of all inputs.
func (r *edgeRole) sink(row *series.Row) error {
	return r.pipeline.Apply(row, time.Now().UnixMilli(), r.accept)
}

// commit takes rows for which a sender waits, until they are in the outbox.
func (r *edgeRole) commit(ctx context.Context, _ string, rows []*series.Row) error {
	var excess remotewrite.Excess
	err := r.edge.Commit(ctx, func(sink series.Sink) error {
		return r.pipeline.ApplyAll(rows, time.Now().UnixMilli(), func(row *series.Row) error {
			if err := sink(row); err != nil {
				return err
			}
			if err := r.show(row); err != nil { // which is no reason for the sender to come again
				r.repeats.Log(slog.LevelWarn, "show", "row that was sent is not on /federate", slog.Any("err", err))
			}
			return nil
		}, exceed(&excess))
	})
	if early, ok := errors.AsType[*pipeline.EarlyError](err); ok {
		return tooEarly(early.Wait, err)
	}
	if err == nil && len(excess.Samples) > 0 {
		return &excess
	}
	return err
}

// sample takes rows that nobody waits for.
func (r *edgeRole) sample(_ context.Context, _ string, rows []*series.Row) error {
	var errs []error
	for _, row := range rows {
		errs = append(errs, r.sink(row))
	}
	return errors.Join(errs...)
}

// accept takes the rows behind the pipeline.
func (r *edgeRole) accept(row *series.Row) error { return cmp.Or(r.edge.Sink(row), r.show(row)) }

// show keeps the last row of each source at an edge alone, which serves it.
func (r *edgeRole) show(row *series.Row) error {
	if r.store == nil {
		return nil
	}
	return r.store.Apply(r.node.options.Config.Site, store.Rank{}, row, time.Now().UnixMilli())
}

// apply puts a changed configuration in force.
func (r *edgeRole) apply(ctx context.Context, c *config.Config) error {
	options, err := r.pipelineOptions(c)
	if err != nil {
		return err
	}
	if err := r.scrape.ApplyConfig(ctx, c.Edge.Scrape.Jobs); err != nil {
		return err
	}
	r.pipeline.Reload(options)
	r.edge.Apply(c.Edge.Config)
	for _, s := range r.sampled {
		s.setInterval(c.Global.ScrapeInterval)
	}
	return nil
}

// tend does what is due now and then: it says what limits have refused since the last time, and saves what is behind
// pseudonyms.
func (r *edgeRole) tend(now time.Time) {
	if r.store != nil {
		r.store.Expire(now.UnixMilli())
	}
	usage := r.pipeline.Usage(worstShown)
	if over := usage.Since(r.reported); len(over) > 0 {
		r.reported = usage.Refused
		r.repeats.Log(slog.LevelWarn, "limits", "the limits of this edge are exceeded; the excess is refused", pipeline.Attrs(over, &usage)...)
	}
	if r.clear.Save() {
		r.reconsider()
	}
}

// reconsider has every series looked at anew, by the rules in force.
func (r *edgeRole) reconsider() {
	options, err := r.pipelineOptions(r.node.current())
	if err != nil {
		r.node.log.Error("apply the rules of this edge anew", "err", err)
		return
	}
	r.pipeline.Reload(options)
}
