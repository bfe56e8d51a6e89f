package store_test

import (
	"fmt"
	"testing"

	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/store"
)

// fleet fills a store with sources of 500 series each.
func fleet(b *testing.B, sources int) (*store.Store, []*series.Row) {
	b.Helper()
	s, catalog := newStore(b, nil), series.NewCatalog()
	var texts []string
	for i := range 500 {
		texts = append(texts, fmt.Sprintf(`node_metric_%d{device="sda%d",mode="idle"}`, i/4, i%4))
	}
	schema := catalog.Extend(catalog.Empty(), columns(b, texts...))
	var rows []*series.Row
	for i := range sources {
		row := &series.Row{Source: source(fmt.Sprint(i), "instance", fmt.Sprintf("host-%d:9100", i), "job", "node"), Schema: schema, T: now, Values: make([]float64, 500)}
		for j := range row.Values {
			row.Values[j] = float64(i) + float64(j)*1.7
		}
		rows = append(rows, row)
		if err := s.Apply("ams-1", store.Rank{Epoch: 1, Frame: 1}, row, now); err != nil {
			b.Fatal(err)
		}
	}
	return s, rows
}

func BenchmarkApply(b *testing.B) {
	s, rows := fleet(b, 200)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := s.Apply("ams-1", store.Rank{Epoch: 1, Frame: 2}, rows[i%len(rows)], now); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSelect(b *testing.B) {
	s, _ := fleet(b, 200)
	for name, selector := range map[string]string{
		"all": `{__name__=~".+"}`, "name": "node_metric_7", "source": `{instance="host-7:9100"}`,
	} {
		b.Run(name, func(b *testing.B) {
			query := store.Query{Matchers: selectors(b, selector), Now: now}
			n := 0
			for b.Loop() {
				n = 0
				for family := range s.Select(query) {
					for range family.Series() {
						n++
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/series")
		})
	}
}
