package bench

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/hub"
	"github.com/thalweg/thalweg/internal/natsd"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/store"
)

// A fleet at which a hub starts: the stream has one keyframe of every site and 40 deltas.
const (
	startSites  = 2000
	startSeries = 100
	startFrames = 41
)

// BenchmarkHubStart reports how long a hub needs, from nothing to what the head of the stream says, for 2,000 sites: 100
// series each, one row a frame. The NATS server is embedded, the connection in process.
func BenchmarkHubStart(b *testing.B) {
	quiet := slog.New(slog.DiscardHandler)
	stream := bus.DefaultStreamConfig()
	stream.MaxBytes = 2 * units.GiB
	server := bustest.NewServer(b, func(o *natsd.Options) { o.Stream, o.Logger = stream, quiet })
	config := bus.DefaultConfig()
	config.Stream = stream
	conn := bustest.Connected(b, bus.Options{Config: config, InProcess: server.Core(), Logger: quiet})
	bustest.EnsureStream(b, conn)
	publishFleet(b, conn)
	var took time.Duration
	starts := 0
	for b.Loop() {
		took += startHub(b, conn, quiet)
		starts++
	}
	b.ReportMetric(float64(took.Milliseconds())/float64(starts), "ms")
	b.ReportMetric(startSites*startSeries*startFrames*float64(starts)/took.Seconds(), "samples/s")
	b.ReportMetric(0, "ns/op")
}

// startHub returns how long a new hub takes to catch up.
func startHub(b *testing.B, conn *bus.Conn, log *slog.Logger) time.Duration {
	start := time.Now()
	s, err := store.New(store.Options{Config: store.DefaultConfig()})
	if err != nil {
		b.Fatal(err)
	}
	h, err := hub.New(hub.Options{Config: hub.DefaultConfig(), Name: "hub", Conn: conn, Store: s, Catalog: series.NewCatalog(), Logger: log})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	<-h.CaughtUp()
	took := time.Since(start)
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	if n := len(s.Sites()); n != startSites {
		b.Fatalf("the store has %d sites, want %d", n, startSites)
	}
	return took
}

// publishFleet puts the frames of all sites into the stream, interleaved as they would come.
func publishFleet(b *testing.B, conn *bus.Conn) {
	type site struct {
		name    string
		encoder *frame.Encoder
		row     series.Row
		last    uint64
	}
	catalog := series.NewCatalog()
	var columns []series.Column
	for i := range startSeries {
		columns = append(columns, series.Synthetic(fmt.Sprintf("metric_%d_total", i), "A metric."))
	}
	schema := catalog.Extend(catalog.Empty(), columns)
	sites := make([]site, startSites)
	for i := range sites {
		name := fmt.Sprintf("site-%04d", i)
		sites[i] = site{name: name, encoder: frame.NewEncoder(frame.EncoderConfig{Epoch: frame.Epoch(i + 1)}), row: series.Row{
			Source: &series.Source{Key: "scrape/app/" + name, Labels: labels.FromStrings("instance", name, "job", "app"), Interval: interval},
			Schema: schema, Values: make([]float64, startSeries),
		}}
	}
	now := time.Now().UnixMilli()
	for n := range startFrames {
		for i := range sites {
			s := &sites[i]
			s.row.T = now + int64(n)
			for c := 0; c < startSeries; c += 3 {
				s.row.Values[c] += float64((n*c + i) % 1000)
			}
			frames, err := s.encoder.Append(nil, &s.row, s.row.T)
			if err != nil {
				b.Fatal(err)
			}
			for _, f := range s.encoder.Close(frames, s.row.T) {
				if s.last, err = conn.Publish(b.Context(), conn.Root().Lane(s.name, bus.Live), f, s.last); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
}
