package bench

import (
	"context"
	"crypto/rand"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/alecthomas/units"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/hub"
	"github.com/thalweg/thalweg/internal/natsd"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/store"
)

// BenchmarkHostileSite reports how long it takes from the publishing of a frame of a site, with a row of a node_exporter,
// until a hub has stored it: alone, and while another site sends as much as the server takes, in messages of 256 KiB, or
// frames whose series are beyond its limits. Nothing is cut off, which the embedded server does with a site that floods.
func BenchmarkHostileSite(b *testing.B) {
	b.Run("quiet", func(b *testing.B) { benchmarkHostile(b, nil) })
	b.Run("flood", func(b *testing.B) {
		benchmarkHostile(b, func(s *hostileSite) {
			garbage := make([]byte, 256<<10)
			_, _ = rand.Read(garbage)
			s.publish(garbage)
		})
	})
	b.Run("series", func(b *testing.B) { // as many new ones as fit below bytes_per_second
		benchmarkHostile(b, func(s *hostileSite) {
			for _, f := range s.keyframe() {
				s.publish(f)
			}
		})
	})
}

// hostileSite sends what it likes on its own lane.
type hostileSite struct {
	b        *testing.B
	ctx      context.Context
	conn     *bus.Conn
	sequence uint64
	workload *workload
	encoder  *frame.Encoder
}

func (s *hostileSite) publish(payload []byte) {
	sequence, err := s.conn.Publish(s.ctx, s.conn.Root().Lane("evil", bus.Live), payload, s.sequence)
	if err == nil {
		s.sequence = sequence
	} else if s.ctx.Err() == nil {
		s.b.Errorf("publish as the hostile site: %v", err)
	}
}

// keyframe returns the frames of a keyframe of twenty targets.
func (s *hostileSite) keyframe() (frames [][]byte) {
	s.encoder.RequestKeyframe()
	for i, t := range s.workload.targets {
		row := s.workload.parse(s.b, i, t.next())
		var err error
		if frames, err = s.encoder.Append(frames, row, row.T); err != nil {
			s.b.Error(err)
		}
	}
	s.workload.round++
	return s.encoder.Close(frames, s.workload.time(len(s.workload.targets)))
}

func benchmarkHostile(b *testing.B, attack func(*hostileSite)) {
	server := bustest.NewServer(b, func(o *natsd.Options) { o.Logger = slog.New(slog.DiscardHandler) })
	conn := bustest.Hub(b, server)
	config := hub.DefaultConfig()
	config.Limits.Series = 2000
	config.Limits.BytesPerSecond = 2 * units.MiB
	st, err := store.New(store.Options{Config: config.Store})
	if err != nil {
		b.Fatal(err)
	}
	h, err := hub.New(hub.Options{
		Config: config, Name: "hub", Conn: conn, Store: st, Catalog: series.NewCatalog(), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(b.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := h.Run(ctx); err != nil {
			b.Error(err)
		}
	})
	<-h.CaughtUp()
	connect := func(site string) *bus.Conn {
		return bustest.Connected(b, bus.Options{Config: bustest.Config(server.URL()), Site: site})
	}
	if attack != nil {
		evil := &hostileSite{b: b, ctx: ctx, conn: connect("evil"), workload: newWorkload(b, "node", fleet), encoder: frame.NewEncoder(frame.EncoderConfig{Epoch: 7})}
		running.Go(func() {
			for ctx.Err() == nil {
				attack(evil)
			}
		})
	}
	good, w := connect("good"), newWorkload(b, "node", single)
	encoder := frame.NewEncoder(frame.EncoderConfig{Epoch: 1})
	var took []time.Duration
	var sequence uint64
	arrived := func() uint64 {
		for _, s := range h.Sites() {
			if s.Name == "good" {
				return s.Rows
			}
		}
		return 0
	}
	for b.Loop() {
		row := w.parse(b, 0, w.targets[0].next())
		w.round++
		frames, err := encoder.Append(nil, row, row.T)
		if err != nil {
			b.Fatal(err)
		}
		frames = encoder.Close(frames, row.T)
		before, start := arrived(), time.Now()
		for _, f := range frames {
			if sequence, err = good.Publish(ctx, good.Root().Lane("good", bus.Live), f, sequence); err != nil {
				b.Fatal(err)
			}
		}
		for arrived() == before {
			time.Sleep(200 * time.Microsecond)
		}
		took = append(took, time.Since(start))
	}
	stop()
	running.Wait()
	slices.Sort(took)
	b.ReportMetric(took[len(took)/2].Seconds()*1000, "ms-p50")
	b.ReportMetric(took[len(took)*95/100].Seconds()*1000, "ms-p95")
	b.ReportMetric(0, "ns/op")
}
