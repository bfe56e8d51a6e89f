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

// BenchmarkFederate serves 200 sources of 500 series.
func BenchmarkFederate(b *testing.B) {
	h := newHub(b, func(_ *federate.Options, c *store.Config) { c.SiteLabel = "site" })
	var columns []series.Column
	for i := range 500 {
		name := fmt.Sprintf("node_metric_%d", i/4)
		columns = append(columns, series.Column{
			Labels: labels.FromStrings("__name__", name, "device", fmt.Sprint("sda", i%4), "mode", "idle"),
			Family: series.Family{Name: name, Type: model.MetricTypeGauge, Help: "A metric."},
		})
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
	for _, encoding := range []string{"identity", "gzip"} {
		for name, query := range map[string]string{"all": "{job='node'}", "selective": "node_metric_7"} {
			b.Run(name+"/"+encoding, func(b *testing.B) {
				r := httptest.NewRequest(http.MethodGet, "/federate?match[]="+query, nil)
				r.Header.Set("Accept-Encoding", encoding)
				before := h.metric("thalweg_federate_series_total")
				for b.Loop() {
					h.handler.ServeHTTP(&discard{header: http.Header{}}, r)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/(h.metric("thalweg_federate_series_total")-before), "ns/series")
			})
		}
	}
}
