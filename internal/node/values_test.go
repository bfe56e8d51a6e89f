package node

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/edge"
	"github.com/thalweg/thalweg/internal/hub"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/series/seriestest"
	"github.com/thalweg/thalweg/internal/store"
)

// recorder is a destination that keeps what every row says.
type recorder struct {
	mu   sync.Mutex
	rows []string
}

func (r *recorder) Row(_ string, row *series.Row) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows = append(r.rows, seriestest.Show(row))
}

func (r *recorder) Full() bool { return false }

func (r *recorder) Flush(context.Context, func(int, int, string)) (bool, error) { return true, nil }

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.rows)
}

// TestEveryKindOfValue sends generated rows of all kinds (floats with NaN payloads, stale markers, native histograms of
// every sort, exemplars, start timestamps, metadata, UTF-8 names) from an edge through a real stream to an output, and
// compares bit for bit.
func TestEveryKindOfValue(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			server := bustest.NewServer(t)
			core := bustest.Hub(t, server)
			bustest.EnsureStream(t, core)

			w := seriestest.New(seed)
			got := &recorder{}
			st, err := store.New(store.Options{Config: store.DefaultConfig()})
			if err != nil {
				t.Fatal(err)
			}
			h, err := hub.New(hub.Options{
				Config: hub.DefaultConfig(), Name: "hub", Conn: core, Store: st, Catalog: series.NewCatalog(), Logger: bustest.Logger(t),
			})
			if err != nil {
				t.Fatal(err)
			}
			out, err := hub.NewOutput(hub.OutputOptions{Name: "recorder", Dir: t.TempDir(), Hub: h, Live: got, Oldest: true})
			if err != nil {
				t.Fatal(err)
			}
			cfg := edge.DefaultConfig()
			cfg.FlushInterval = model.Duration(20 * time.Millisecond)
			conn := bustest.Connect(t, bus.Options{Config: bustest.Config(server.URL()), InProcess: server.Server.Site("ams-1"), Site: "ams-1", Name: "edge"})
			e, err := edge.New(edge.Options{
				Site: "ams-1", Config: cfg, Dir: t.TempDir(), Conn: conn, Logger: bustest.Logger(t), Version: "test", Lookback: 5 * time.Minute,
			})
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			var running sync.WaitGroup
			for _, run := range []func(context.Context) error{e.Run, out.Run} {
				running.Go(func() {
					if err := run(ctx); err != nil {
						t.Error(err)
					}
				})
			}
			defer func() {
				stop()
				running.Wait()
				if err := e.Close(); err != nil {
					t.Error(err)
				}
				if err := out.Close(); err != nil {
					t.Error(err)
				}
			}()

			var want []string
			for i := range 400 {
				row := w.Row()
				want = append(want, seriestest.Show(row))
				if err := e.Sink(row); err != nil {
					t.Fatal(err)
				}
				if i%40 == 0 {
					await(t, "what was sent so far", func() bool { return got.count() >= i })
				}
			}
			await(t, "all rows", func() bool { return got.count() >= len(want) })
			for i, row := range got.rows {
				if i >= len(want) || row != want[i] {
					t.Fatalf("row %d is\n%s\nwant\n%s", i, row, want[min(i, len(want)-1)])
				}
			}
		})
	}
}
