package telemetry

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"math"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"

	"github.com/thalweg/thalweg/internal/series"
)

// scraped is what Prometheus would have of a scrape of /metrics: what it sees there, and up.
func scraped(t *testing.T, g prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			t.Fatal(err)
		}
	}
	p := textparse.NewPromParser(b.Bytes(), labels.NewSymbolTable(), false)
	samples := map[string]float64{`{__name__="up"}`: 1}
	for {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			return samples
		}
		if err != nil {
			t.Fatal(err)
		}
		if entry == textparse.EntrySeries {
			var l labels.Labels
			p.Labels(&l)
			_, _, value := p.Series()
			samples[l.String()] = value
		}
	}
}

func samplesOf(row *series.Row) map[string]float64 {
	samples := map[string]float64{}
	for i, c := range row.Schema.Columns() {
		if row.Has(i) {
			samples[c.Labels.String()] = row.Values[i]
		}
	}
	return samples
}

// sampler is one of a site's own metrics.
func sampler(g prometheus.Gatherer) *Sampler {
	return NewSampler(g, series.NewCatalog(), &series.Source{Key: "self/thalweg/ams-1"})
}

func TestRowIsWhatPrometheusWouldScrape(t *testing.T) {
	r := prometheus.NewRegistry()
	counter := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "a_total", Help: "A."}, []string{"lane", "site"})
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "g_seconds"})
	histogram := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "h_seconds", Buckets: []float64{0.5, 1, 10}}, []string{"code"})
	summary := prometheus.NewSummary(prometheus.SummaryOpts{Name: "s", Objectives: map[float64]float64{0.5: 0.1, 1: 0}})
	untyped := prometheus.NewUntypedFunc(prometheus.UntypedOpts{Name: "u"}, func() float64 { return -1 })
	r.MustRegister(counter, gauge, histogram, summary, untyped)
	sampled := sampler(r)

	var schema *series.Schema
	check := func(wantGrowth bool) {
		t.Helper()
		at := time.UnixMilli(1000)
		row, err := sampled.Row(at)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := samplesOf(row), scraped(t, r); !maps.Equal(got, want) {
			t.Errorf("row is\n%v, want\n%v", got, want)
		}
		if row.T != 1000 || !row.Whole() || row.Source.Key != "self/thalweg/ams-1" {
			t.Errorf("row of %s at %d", row.Source.Key, row.T)
		}
		if schema != nil && (!row.Schema.Extends(schema) || (row.Schema != schema) != wantGrowth) {
			t.Errorf("schema of %d columns after one of %d", row.Schema.Len(), schema.Len())
		}
		schema = row.Schema
	}
	counter.WithLabelValues("live", "x").Inc()
	summary.Observe(3)
	check(true)
	check(false)
	gauge.Set(math.Inf(-1))
	counter.WithLabelValues("backfill", "").Add(7) // sorts before the first, is a new column all the same
	histogram.WithLabelValues("200").Observe(0.7)
	histogram.WithLabelValues("500").Observe(70)
	check(true)
	counter.DeleteLabelValues("live", "x")
	check(false)
	counter.WithLabelValues("live", "x").Add(3)
	check(false)

	family := schema.Column(1).Family
	if family.Name != "a_total" || family.Type != "counter" || family.Help != "A." {
		t.Errorf("family is %+v", family)
	}
}

func TestSamplerForgetsWhatIsGone(t *testing.T) {
	r := prometheus.NewRegistry()
	gauge := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "g"}, []string{"site"})
	r.MustRegister(gauge)
	sampled := sampler(r)
	for _, site := range []string{"a", "b"} {
		gauge.WithLabelValues(site).Set(1)
	}
	length := func() int {
		t.Helper()
		row, err := sampled.Row(time.UnixMilli(0))
		if err != nil {
			t.Fatal(err)
		}
		return row.Schema.Len()
	}
	if n := length(); n != 3 {
		t.Fatalf("%d columns", n)
	}
	gauge.DeleteLabelValues("a")
	for range compactAfter {
		if n := length(); n != 3 {
			t.Fatalf("%d columns", n)
		}
	}
	if n := length(); n != 2 {
		t.Errorf("%d columns at last", n)
	}
}

func TestMetrics(t *testing.T) {
	m := NewMetrics(ReadBuild("1.2.3"))
	m.Loaded(time.UnixMilli(1500), nil)
	m.Loaded(time.UnixMilli(2500), errors.New("bad file"))
	got := scraped(t, m)
	for name, want := range map[string]float64{
		`{__name__="thalweg_config_last_reload_successful"}`:                0,
		`{__name__="thalweg_config_last_reload_success_timestamp_seconds"}`: 1.5,
	} {
		if value, ok := got[name]; !ok || value != want {
			t.Errorf("%s is %v, %v", name, value, ok)
		}
	}
	if _, ok := got[`{__name__="go_goroutines"}`]; !ok {
		t.Error("no metrics of the runtime")
	}
}
