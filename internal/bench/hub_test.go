package bench

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/store"
)

// BenchmarkHub reports what a sample costs a hub from the frame to the store, and how many times that is what decoding
// the same rows as remote write 2.0 needs (requests of 2,000 samples, snappy and Unmarshal into a reused struct, no
// labels).
func BenchmarkHub(b *testing.B) {
	each(b, func(b *testing.B, name string, targets int) {
		w := newWorkload(b, name, targets)
		enc := frame.NewEncoder(frame.EncoderConfig{Epoch: 1})
		var frames [rounds][][]byte
		var requests [rounds][][]byte
		var samples [rounds]float64
		for w.round = range rounds {
			compare := newRemoteWrite()
			for i := range w.targets {
				row := w.parse(b, i, w.targets[i].next())
				samples[w.round] += float64(row.Samples())
				before := compare.v2
				compare.add(row)
				if compare.v2 != before {
					requests[w.round] = append(requests[w.round], compare.last)
				}
				var err error
				if frames[w.round], err = enc.Append(frames[w.round], row, row.T); err != nil {
					b.Fatal(err)
				}
			}
			frames[w.round] = enc.Close(frames[w.round], w.time(targets))
			before := compare.v2
			if compare.flush(); compare.v2 != before {
				requests[w.round] = append(requests[w.round], compare.last)
			}
		}
		s, err := store.New(store.Options{Config: store.DefaultConfig()})
		if err != nil {
			b.Fatal(err)
		}
		dec := frame.NewDecoder(frame.DecoderConfig{Catalog: series.NewCatalog()})
		var ours, theirs, total float64
		var raw []byte
		var request writev2.Request
		round, rank := 0, uint64(0)
		for b.Loop() {
			total += samples[round]
			start := time.Now()
			for _, f := range frames[round] {
				rank++
				_, err := dec.Decode(f, frame.Handler{Row: func(row *series.Row) {
					if err := s.Apply("ams-1", store.Rank{Frame: rank}, row, row.T); err != nil {
						b.Fatal(err)
					}
				}})
				if err != nil {
					b.Fatal(err)
				}
			}
			ours += float64(time.Since(start))
			start = time.Now()
			for _, q := range requests[round] {
				if raw, err = snappy.Decode(raw[:cap(raw)], q); err != nil {
					b.Fatal(err)
				}
				request.Symbols, request.Timeseries = request.Symbols[:0], request.Timeseries[:0]
				if err := request.Unmarshal(raw); err != nil {
					b.Fatal(err)
				}
			}
			theirs += float64(time.Since(start))
			round = (round + 1) % rounds
		}
		b.ReportMetric(ours/total, "ns/sample")
		b.ReportMetric(theirs/total, "rw2-ns/sample")
		b.ReportMetric(theirs/ours, "x-rw2")
		b.ReportMetric(0, "ns/op")
	})
}

// BenchmarkStoreMemory reports the heap that an active series takes in a hub, names and index included.
func BenchmarkStoreMemory(b *testing.B) {
	for _, size := range []struct {
		name   string
		series int
	}{{"100k", 100_000}, {"1M", 1_000_000}} {
		b.Run(size.name, func(b *testing.B) {
			var perSeries float64
			for b.Loop() {
				perSeries = storeMemory(b, size.series)
			}
			b.ReportMetric(perSeries, "B/series")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// storeMemory fills a store with node_exporters until it has as many series, and returns the bytes that each takes.
func storeMemory(b *testing.B, n int) float64 {
	columns := nodeColumns(b)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	s, err := store.New(store.Options{Config: store.DefaultConfig()})
	if err != nil {
		b.Fatal(err)
	}
	catalog := series.NewCatalog()
	schema := catalog.Extend(catalog.Empty(), columns)
	values := make([]float64, schema.Len())
	held := 0
	for i := 0; held < n; i++ {
		instance := fmt.Sprintf("host-%05d.example.org:9100", i)
		row := &series.Row{
			Source: &series.Source{Key: "scrape/node/" + instance, Labels: labels.FromStrings("instance", instance, "job", "node")},
			Schema: schema, T: begin, Values: values,
		}
		if err := s.Apply("ams-1", store.Rank{}, row, begin); err != nil {
			b.Fatal(err)
		}
		held += schema.Len()
	}
	everything := [][]*labels.Matcher{{labels.MustNewMatcher(labels.MatchRegexp, model.MetricNameLabel, ".+")}}
	for range s.Select(store.Query{Matchers: everything, Now: begin}) { // so that the index is there
		break
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(s)
	return float64(after.HeapAlloc-before.HeapAlloc) / float64(held)
}

// nodeColumns are the series of a node_exporter.
func nodeColumns(b *testing.B) []series.Column {
	w := newWorkload(b, "node", single)
	row := w.parse(b, 0, w.targets[0].next())
	columns := slices.Clone(row.Schema.Columns())
	if len(columns) == 0 || columns[0].Family.Name == "" {
		b.Fatalf("%d columns", len(columns))
	}
	return columns
}
