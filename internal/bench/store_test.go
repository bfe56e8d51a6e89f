package bench

import (
	"fmt"
	"runtime"
	"slices"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/store"
)

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
