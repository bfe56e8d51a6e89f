package bench

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/alecthomas/units"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/hub"
	"github.com/thalweg/thalweg/internal/natsd"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/store"
)

// BenchmarkOutput reports how many samples a second an output brings from the stream to its destination when it catches
// up with 2,000 sites: 100 series each, one row a frame, and with the journal that hubs share. The destination counts.
func BenchmarkOutput(b *testing.B) {
	for _, ends := range []bool{false, true} {
		name := "rows"
		if ends {
			name = "ends"
		}
		b.Run(name, func(b *testing.B) { benchmarkOutput(b, ends) })
	}
}

func benchmarkOutput(b *testing.B, ends bool) {
	quiet := slog.New(slog.DiscardHandler)
	stream := bus.DefaultStreamConfig()
	stream.MaxBytes = 2 * units.GiB
	server := bustest.NewServer(b, func(o *natsd.Options) { o.Stream, o.Logger = stream, quiet })
	config := bus.DefaultConfig()
	config.Stream = stream
	conn := bustest.Connected(b, bus.Options{Config: config, InProcess: server.Core(), Logger: quiet})
	shared := bustest.Connected(b, bus.Options{Config: config, InProcess: server.Core(), Logger: quiet, Journals: "JOURNALS"})
	bustest.EnsureStream(b, conn)
	bustest.EnsureStream(b, shared)
	publishFleet(b, conn)
	const samples = startSites * startSeries * startFrames
	total, runs := 0.0, 0
	for b.Loop() {
		runs++ // each has an output of its own
		s, err := store.New(store.Options{Config: store.DefaultConfig()})
		if err != nil {
			b.Fatal(err)
		}
		h, err := hub.New(hub.Options{Config: hub.DefaultConfig(), Name: "hub", Conn: conn, Store: s, Catalog: series.NewCatalog(), Logger: quiet})
		if err != nil {
			b.Fatal(err)
		}
		counted := &counter{want: samples, done: make(chan struct{})}
		out, err := hub.NewOutput(hub.OutputOptions{
			Name: fmt.Sprintf("out-%d", runs), Dir: b.TempDir(), Hub: h, Live: counted, Backfill: &counter{}, Oldest: true, Ends: ends, Shared: shared,
		})
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(b.Context())
		ended := make(chan error, 1)
		go func() { ended <- out.Run(ctx) }()
		<-counted.done
		cancel()
		if err := <-ended; err != nil {
			b.Fatal(err)
		}
		if err := out.Close(); err != nil {
			b.Fatal(err)
		}
		total += samples
	}
	b.ReportMetric(total/b.Elapsed().Seconds(), "samples/s")
	b.ReportMetric(0, "ns/op")
}

// counter is a destination that counts samples, in batches like those of eight shards of remote write.
type counter struct {
	waiting int
	taken   atomic.Int64
	want    int64
	done    chan struct{}
}

func (c *counter) Row(_ string, row *series.Row) { c.waiting += row.Samples() }

func (c *counter) Full() bool { return c.waiting >= 16_000 }

func (c *counter) Flush(context.Context, func(int, int, string)) (bool, error) {
	n := c.taken.Add(int64(c.waiting))
	c.waiting = 0
	if c.done != nil && n >= c.want {
		close(c.done)
		c.done = nil
	}
	return true, nil
}
