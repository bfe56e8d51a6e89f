//go:build linux

package chaos

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/edge"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/hub"
	"github.com/thalweg/thalweg/internal/natsd"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/store"
)

// speed is how much faster an edge's clock runs, so that minutes of its policies pass in seconds.
const speed = 30

// What processes say, a line each.
const (
	saidEpoch    = "epoch"    // edge: EPOCH of the rows from now on
	saidRow      = "row"      // edge: FRAME KEY, before the row is accepted; FRAME is the first that it may be in. hub: LANE/BATCH SITE KEY
	saidAccepted = "accepted" // edge: FRAME; the rows said so far are, and FRAME is the last that they may be in
	saidRefused  = "refused"  // edge: the rows said so far, and not accepted by then, may not be
	saidGap      = "gap"      // hub: SITE EPOCH FROM TO ROWS CAUSE
	saidGaps     = "gaps"     // hub: the gaps said since the last such line are all
	saidEnd      = "end"      // hub: an orderly end
)

// storeDir is where the files of a process are, below its directory.
func (t *task) storeDir() string { return filepath.Join(t.Dir, "store") }

func streamConfig(replicas int) bus.StreamConfig {
	c := bus.DefaultStreamConfig()
	c.MaxBytes = 512 * units.MiB
	c.Replicas = replicas
	return c
}

func busConfig(urls []string, replicas int) bus.Config {
	c := bus.DefaultConfig()
	c.URLs, c.Stream = urls, streamConfig(replicas)
	return c
}

func runServer(ctx context.Context, t task, _ <-chan command, logger *slog.Logger) error {
	cfg := natsd.DefaultConfig()
	cfg.Listen, cfg.ConfigFile = t.Listen, t.Config
	s, err := natsd.Start(natsd.Options{Config: cfg, StoreDir: t.storeDir(), Root: bus.DefaultRoot, Stream: streamConfig(t.Replicas), Logger: logger})
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

// runEdge makes rows and says which are accepted.
func runEdge(ctx context.Context, t task, commands <-chan command, logger *slog.Logger) error {
	conn, err := bus.Connect(bus.Options{Config: busConfig(t.URLs, t.Replicas), Site: t.Site, Name: "edge", Logger: logger})
	if err != nil {
		return err
	}
	defer conn.Close()
	cfg := edge.DefaultConfig()
	cfg.FlushInterval = model.Duration(100 * time.Millisecond)
	cfg.Outbox.ResendWindow = model.Duration(24 * time.Hour) // whatever the server loses can be sent again
	cfg.KeyframeInterval = model.Duration(45 * time.Second)  // of the fast clock
	clock := &fastClock{start: t.Start}
	clock.skew.Store(int64(t.Skew))
	e, err := edge.New(edge.Options{
		Site: t.Site, Config: cfg, Dir: t.storeDir(), Conn: conn, Logger: logger, Version: "chaos", Lookback: 5 * time.Minute,
		Now: clock.now,
	})
	if err != nil {
		return err
	}
	var parts sync.WaitGroup
	runCtx, stop := context.WithCancel(context.Background())
	parts.Go(func() { _ = e.Run(runCtx) })
	m := &maker{edge: e, metrics: prometheus.NewRegistry(), clock: clock, calm: t.Calm, last: map[string]int64{}}
	m.metrics.MustRegister(e.Metrics()...)
	err = m.run(ctx, commands)
	stop()
	parts.Wait()
	return errors.Join(err, e.Close())
}

// fastClock is the clock of an edge.
type fastClock struct {
	start time.Time
	skew  atomic.Int64
}

func (c *fastClock) now() time.Time {
	return c.start.Add(time.Since(c.start) * speed).Add(time.Duration(c.skew.Load()))
}

// maker makes rows of a few sources, whose schemas grow, and flushes now and then.
type maker struct {
	edge    *edge.Edge
	metrics *prometheus.Registry
	clock   *fastClock
	calm    bool
	epoch   frame.Epoch
	last    map[string]int64 // times of the rows of a source
	lost    float64          // rows that the outbox did not take, as far as said
}

const (
	sources    = 4
	fewColumns = 3
	mostGrowth = 6
)

func columnName(i int) string { return "metric_" + strconv.Itoa(i) }

func (m *maker) run(ctx context.Context, commands <-chan command) error {
	catalog := series.NewCatalog()
	schemas := []*series.Schema{catalog.Empty()}
	for i := range fewColumns + mostGrowth {
		s := catalog.Extend(schemas[i], []series.Column{series.Synthetic(columnName(i), "A metric.")})
		schemas = append(schemas, s)
	}
	var all []*series.Source
	size := make([]int, sources)
	for i := range sources {
		all = append(all, &series.Source{
			Key: fmt.Sprintf("static/%d", i), Labels: labels.FromStrings("instance", strconv.Itoa(i), "job", "chaos"), Interval: time.Second,
		})
		size[i] = fewColumns
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-tick.C:
		case c := <-commands:
			switch c.Do {
			case calmCommand:
				m.calm = true
			case skewCommand:
				m.clock.skew.Store(c.Value)
			}
		case <-ctx.Done():
			return nil
		}
		if m.calm && n%25 != 0 {
			continue
		}
		i := rand.IntN(sources)
		if rand.IntN(300) == 0 {
			size[i] = min(size[i]+1, len(schemas)-1)
		}
		if err := m.row(all[i], schemas[size[i]], m.calm || rand.IntN(8) == 0); err != nil {
			return err
		}
	}
}

// row makes a row and accepts it. An edge that cannot store it goes on.
func (m *maker) row(source *series.Source, schema *series.Schema, flush bool) error {
	t := m.clock.now().UnixMilli()
	if t == m.last[source.Key] {
		t++
	}
	m.last[source.Key] = t
	row := series.Row{Source: source, Schema: schema, T: t}
	for range schema.Len() {
		row.Values = append(row.Values, math.Float64frombits(rand.Uint64()>>rand.IntN(64)))
	}
	if epoch := m.edge.Epoch(); epoch != m.epoch {
		m.epoch = epoch
		if err := say("%s %s", saidEpoch, epoch); err != nil {
			return err
		}
	}
	if err := say("%s %d %s", saidRow, m.newest()+1, rowKey(&row)); err != nil {
		return err
	}
	err := m.edge.Sink(&row)
	if err == nil && flush {
		err = m.edge.Flush()
	}
	if err == nil && !flush {
		return nil
	}
	lost, gatherErr := m.unwritten()
	if gatherErr != nil {
		return gatherErr
	}
	if err != nil || lost > m.lost { // the edge flushes by itself too
		m.lost = lost
		return say("%s", saidRefused)
	}
	return say("%s %d", saidAccepted, m.newest())
}

// unwritten counts the rows that the outbox did not take.
func (m *maker) unwritten() (float64, error) {
	families, err := m.metrics.Gather()
	for _, f := range families {
		if f.GetName() == "thalweg_edge_unwritten_rows_total" {
			return f.GetMetric()[0].GetCounter().GetValue(), err
		}
	}
	return 0, errors.Join(err, errors.New("there is no such metric"))
}

// newest frame of this epoch in the outbox; 0 before the first.
func (m *maker) newest() uint64 {
	if id := m.edge.Status().Newest; id.Epoch == m.edge.Epoch() {
		return id.Number
	}
	return 0
}

// rowKey tells a row from all others and says what it holds: source, time, values bit for bit. Columns that are not in
// their place are named.
func rowKey(r *series.Row) string {
	var key strings.Builder
	fmt.Fprintf(&key, "%s %d ", r.Source.Key, r.T)
	for i, v := range r.Values {
		if i > 0 {
			key.WriteByte(',')
		}
		if name := r.Schema.Column(i).Labels.Get(model.MetricNameLabel); name != columnName(i) {
			key.WriteString(name + "=")
		}
		key.WriteString(strconv.FormatUint(math.Float64bits(v), 16))
	}
	return key.String()
}

// recorder is a destination that says what it is given.
type recorder struct {
	lane  bus.Lane
	batch int
	lines strings.Builder
}

func (r *recorder) Row(site string, row *series.Row) {
	fmt.Fprintf(&r.lines, "%s %s/%d %s %s\n", saidRow, r.lane, r.batch, site, rowKey(row))
}

func (r *recorder) Full() bool { return r.lines.Len() > 64<<10 }

func (r *recorder) Flush(context.Context, func(int, int, string)) (bool, error) {
	_, err := os.Stdout.WriteString(r.lines.String())
	r.lines.Reset()
	r.batch++
	return true, err
}

func runHub(ctx context.Context, t task, commands <-chan command, logger *slog.Logger) error {
	conn, err := bus.Connect(bus.Options{Config: busConfig(t.URLs, t.Replicas), Name: "hub", Logger: logger})
	if err != nil {
		return err
	}
	defer conn.Close()
	cfg := hub.DefaultConfig()
	st, err := store.New(store.Options{Config: cfg.Store})
	if err != nil {
		return err
	}
	h, err := hub.New(hub.Options{Config: cfg, Name: "hub", Conn: conn, Store: st, Catalog: series.NewCatalog(), Logger: logger})
	if err != nil {
		return err
	}
	out, err := hub.NewOutput(hub.OutputOptions{
		Name: "recorder", Dir: t.storeDir(), Hub: h, Oldest: true, Live: &recorder{lane: bus.Live}, Backfill: &recorder{lane: bus.Backfill},
	})
	if err != nil {
		return err
	}
	go func() {
		for range commands {
			if err := sayGaps(out); err != nil {
				logger.Error("say gaps", "err", err)
			}
		}
	}()
	ctx, stop := context.WithCancel(ctx)
	var parts sync.WaitGroup
	errs := make(chan error, 2)
	parts.Go(func() { errs <- h.Run(ctx) })
	parts.Go(func() { errs <- out.Run(ctx) })
	err = <-errs
	if ctx.Err() == nil {
		err = fmt.Errorf("a part of the hub ended by itself: %w", err)
	}
	stop()
	parts.Wait()
	if err := errors.Join(err, <-errs, out.Close()); err != nil {
		return err
	}
	return errors.Join(sayGaps(out), say("%s", saidEnd))
}

// sayGaps says all gaps in one piece.
func sayGaps(out *hub.Output) error {
	var lines strings.Builder
	for _, g := range out.Gaps(1 << 20) {
		fmt.Fprintf(&lines, "%s %s %s %d %d %d %s\n", saidGap, g.Site, g.Epoch, g.From, g.To, g.Rows, g.Cause)
	}
	fmt.Fprintln(&lines, saidGaps)
	_, err := os.Stdout.WriteString(lines.String())
	return err
}
