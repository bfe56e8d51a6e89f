package bench

import (
	"context"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/edge"
	"github.com/thalweg/thalweg/internal/hub"
	"github.com/thalweg/thalweg/internal/natsd"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/store"
)

const (
	outage      = 4 * time.Hour
	outageEvery = 15 * time.Second // a scrape of each target
	// A link of 1 Mbit/s.
	linkRate    = 1_000_000 / 8
	linkLatency = 40 * time.Millisecond
)

// system is an edge and a hub with the default settings, a real server between them, and the link of the edge.
type system struct {
	b     *testing.B
	link  *bustest.Proxy
	edge  *edge.Edge
	store *store.Store
	ahead atomic.Int64 // of the edge's clock before the real one, in nanoseconds
	rows  [][]*series.Row
	round int
}

func newSystem(b *testing.B) *system {
	server := bustest.NewServer(b, func(o *natsd.Options) { o.Logger = slog.New(slog.DiscardHandler) })
	s := &system{b: b, link: bustest.NewProxy(b, server.Addr()), rows: fleetRows(b)}
	logger := slog.New(slog.DiscardHandler)
	var err error
	cfg := hub.DefaultConfig()
	if s.store, err = store.New(store.Options{Config: cfg.Store}); err != nil {
		b.Fatal(err)
	}
	conn := bustest.Connect(b, bus.Options{Config: bustest.Config(server.URL()), Logger: logger})
	h, err := hub.New(hub.Options{Config: cfg, Name: "hub", Conn: conn, Store: s.store, Catalog: series.NewCatalog(), Logger: logger})
	if err != nil {
		b.Fatal(err)
	}
	conn = bustest.Connect(b, bus.Options{Config: bustest.Config(s.link.URL()), Site: "ams-1", Logger: logger})
	s.edge, err = edge.New(edge.Options{
		Site: "ams-1", Config: edge.DefaultConfig(), Dir: filepath.Join(b.TempDir(), "outbox"), Conn: conn, Logger: logger, Version: "bench",
		Lookback: time.Duration(cfg.Store.Lookback), Now: s.now,
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(b.Context())
	var parts sync.WaitGroup
	for _, run := range []func(context.Context) error{h.Run, s.edge.Run} {
		parts.Go(func() {
			if err := run(ctx); err != nil {
				b.Error(err)
			}
		})
	}
	b.Cleanup(func() {
		stop()
		s.link.Cut() // else the edge drains its backlog
		parts.Wait()
		if err := s.edge.Close(); err != nil {
			b.Error(err)
		}
	})
	return s
}

// fleetRows are some rounds of scrapes, to be repeated.
func fleetRows(b *testing.B) (kept [][]*series.Row) {
	w := newWorkload(b, "node", fleet)
	for range rounds {
		var rows []*series.Row
		for i, t := range w.targets {
			row := *w.parse(b, i, t.next())
			row.Values, row.Present = slices.Clone(row.Values), slices.Clone(row.Present)
			rows = append(rows, &row)
		}
		kept = append(kept, rows)
		w.round++
	}
	return kept
}

func (s *system) now() time.Time { return time.Now().Add(time.Duration(s.ahead.Load())) }

// moment is when something of each target happened, by the key of its source.
type moment map[string]time.Time

// scrape ends a scrape of a target.
func (s *system) scrape(i int) (key string, t time.Time) {
	row := *s.rows[s.round%len(s.rows)][i]
	t = s.now().Truncate(time.Millisecond)
	row.T = t.UnixMilli()
	if err := s.edge.Sink(&row); err != nil {
		s.b.Fatal(err)
	}
	return row.Source.Key, t
}

// look notes which of the rows, or newer ones, the hub shows.
func (s *system) look(rows, seen moment) {
	for _, x := range s.store.Sources("ams-1") {
		if t, ok := rows[x.Key]; ok && seen[x.Key].IsZero() && x.LastRow >= t.UnixMilli() {
			seen[x.Key] = time.Now()
		}
	}
}

// await looks until all rows are seen.
func (s *system) await(rows, seen moment) {
	for deadline := time.Now().Add(time.Minute); len(seen) < len(rows); time.Sleep(time.Millisecond) {
		s.look(rows, seen)
		if time.Now().After(deadline) {
			s.b.Fatalf("%d of %d targets are visible after a minute", len(seen), len(rows))
		}
	}
}

// BenchmarkFreshness is how long a row takes from the end of its scrape until the hub shows it. Scrapes end at any time
// between two flushes.
func BenchmarkFreshness(b *testing.B) {
	s := newSystem(b)
	flush := time.Duration(edge.DefaultConfig().FlushInterval)
	var delays []time.Duration
	for b.Loop() {
		rows, seen := moment{}, moment{}
		for i := range fleet {
			for next := time.Now().Add(flush / fleet); time.Now().Before(next); time.Sleep(time.Millisecond) {
				s.look(rows, seen)
			}
			key, t := s.scrape(i)
			rows[key] = t
		}
		s.round++
		s.await(rows, seen)
		for key, t := range seen {
			delays = append(delays, t.Sub(rows[key]))
		}
	}
	slices.Sort(delays)
	b.ReportMetric(float64(delays[len(delays)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(delays[len(delays)/2].Microseconds())/1000, "p50-ms")
}

// BenchmarkRecovery is how long it takes, once a slow link is there again after hours, until the hub shows the newest
// row of every target. All were scraped just before, and are scraped again when it is their time.
func BenchmarkRecovery(b *testing.B) {
	s := newSystem(b)
	s.link.SetRate(linkRate)
	s.link.SetLatency(linkLatency)
	var took []time.Duration
	var backlog int64
	for b.Loop() {
		b.StopTimer()
		s.link.Refuse(true)
		s.link.Cut()
		rows := s.endure()
		backlog = s.edge.Status().Outbox.UnackedBytes
		b.StartTimer()
		returned, scraped := time.Now(), time.Now()
		s.link.Refuse(false)
		for seen := (moment{}); len(seen) < len(rows); time.Sleep(time.Millisecond) {
			if s.look(rows, seen); time.Since(scraped) > outageEvery {
				s.scrapeAll()
				scraped = time.Now()
			}
		}
		took = append(took, time.Since(returned))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "ms/visible")
	b.ReportMetric(float64(took[len(took)-1].Milliseconds()), "worst-ms")
	b.ReportMetric(float64(backlog)/1e6, "backlog-MB")
}

// endure scrapes through an outage and returns the newest rows.
func (s *system) endure() (rows moment) {
	for before := outage; before >= 0; before -= outageEvery {
		s.ahead.Store(-int64(before))
		rows = s.scrapeAll()
		if err := s.edge.Flush(); err != nil {
			s.b.Fatal(err)
		}
	}
	return rows
}

// scrapeAll ends a scrape of every target.
func (s *system) scrapeAll() moment {
	rows := moment{}
	for i := range fleet {
		key, t := s.scrape(i)
		rows[key] = t
	}
	s.round++
	return rows
}
