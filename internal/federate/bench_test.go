package federate_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/federate"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/store"
)

// discard is a reader of any speed.
type discard struct {
	header http.Header
	bytes  int
}

func (d *discard) Header() http.Header { return d.header }
func (d *discard) WriteHeader(int)     {}
func (d *discard) Write(p []byte) (int, error) {
	d.bytes += len(p)
	return len(p), nil
}

// BenchmarkAnswer serves 200 sources of 500 series, a tenth of them in histograms. What it allocates is what an answer
// needs (internal/bench compares the time with Prometheus).
func BenchmarkAnswer(b *testing.B) {
	h := newHub(b, func(_ *federate.Options, c *store.Config) { c.SiteLabel = "site" })
	var columns []series.Column
	for i := range 500 {
		name := fmt.Sprintf("node_metric_%d", i/4)
		columns = append(columns, series.Column{
			Labels: labels.FromStrings("__name__", name, "device", fmt.Sprint("sda", i%4), "mode", "idle"),
			Family: series.Family{Name: name, Type: model.MetricTypeGauge, Help: "A metric."},
		})
	}
	hist := series.Family{Name: "node_seconds", Type: model.MetricTypeHistogram}
	for i := range columns[:50] {
		name, ls := "node_seconds_bucket", []string{"le", labels.FormatOpenMetricsFloat(float64(i%10) / 10)}
		switch i % 10 {
		case 9:
			name, ls = "node_seconds_sum", nil
		case 8:
			name, ls = "node_seconds_count", nil
		case 7:
			ls[1] = "+Inf"
		}
		columns[i] = series.Column{Labels: labels.FromStrings(append(ls, "__name__", name, "device", fmt.Sprint("sda", i/10))...), Family: hist}
	}
	schema := h.catalog.Extend(h.catalog.Empty(), columns)
	for i := range 200 {
		row := &series.Row{
			Source: &series.Source{Key: fmt.Sprint(i), Labels: labels.FromStrings("instance", fmt.Sprintf("host-%d:9100", i), "job", "node")},
			Schema: schema, T: now.UnixMilli(), Values: make([]float64, 500),
		}
		for j := range row.Values {
			row.Values[j] = float64(i) + float64(j)*1.7
		}
		h.apply(row)
	}
	accepts := []struct{ name, accept, coding string }{
		{"text", acceptText, ""}, {"gzip", acceptText, "gzip"}, {"zstd", acceptText, "zstd"},
		{"openmetrics", acceptOpenMetrics, ""}, {"protobuf", acceptProto, ""},
	}
	for name, query := range map[string]string{"all": "{job='node'}", "selective": "node_metric_37"} {
		for _, c := range accepts {
			b.Run(name+"/"+c.name, func(b *testing.B) {
				r := httptest.NewRequest(http.MethodGet, "/federate?match[]="+query, nil)
				r.Header.Set("Accept", c.accept)
				r.Header.Set("Accept-Encoding", c.coding)
				before := h.metric("thalweg_federate_series_total")
				b.ReportAllocs()
				for b.Loop() {
					h.handler.ServeHTTP(&discard{header: http.Header{}}, r)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/(h.metric("thalweg_federate_series_total")-before), "ns/series")
			})
		}
	}
}
