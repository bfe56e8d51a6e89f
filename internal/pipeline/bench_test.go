package pipeline

import (
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// BenchmarkRow reports what a row of 1,000 series costs in the steady state: as a hub has it by default, at an edge with
// everything on, and at a limit that refuses a tenth.
func BenchmarkRow(b *testing.B) {
	anonymizer := newAnonymizer(b, nil, "instance", "user")
	hub := Options{Always: AlwaysPass("thalweg"), Limits: Limits{Series: 1_000_000}, MaxSources: 10_000}
	edge := Options{
		Always: AlwaysPass("thalweg"), ExternalLabels: labels.FromStrings("region", "eu"), RequiredLabels: map[string]string{"region": "eu"},
		Anonymize: anonymizer, Limits: Limits{
			Series: 10_000, SeriesPerSource: 5000, NewSeriesPerHour: 1000, SamplesPerSecond: 100_000, Labels: 30, LabelNameLength: 100, LabelValueLength: 500,
		},
	}
	full := hub
	full.Limits.Series = 900
	for name, o := range map[string]Options{"hub": hub, "edge": edge, "refusing": full} {
		b.Run(name, func(b *testing.B) {
			c := series.NewCatalog()
			o.Catalog = c
			p := newPipeline(b, o)
			columns := make([]series.Column, 1000)
			for i := range columns {
				columns[i] = column("__name__", fmt.Sprintf("metric_%d_total", i), "user", strings.Repeat("u", i%20))
			}
			r := &series.Row{
				Source: &series.Source{Key: "s", Labels: labels.FromStrings("instance", "host:9100", "job", "node")},
				Schema: c.Extend(c.Empty(), columns), Values: make([]float64, len(columns)),
			}
			next := func(*series.Row) error { return nil }
			if err := p.Apply(r, r.T, next); err != nil { // takes the series up
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				r.T += 15_000
				if err := p.Apply(r, r.T, next); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
