package pipeline

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	dropped   *prometheus.CounterVec
	forgotten *prometheus.CounterVec
	sources   prometheus.GaugeFunc
}

func newMetrics(sources func() int) *metrics {
	m := &metrics{
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "thalweg_pipeline_dropped_series_total",
			Help: "Series that were dropped when they appeared.",
		}, []string{"reason"}),
		forgotten: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "thalweg_pipeline_forgotten_sources_total",
			Help: "Sources whose mapping was thrown away: they ended, were silent, or there were too many (full).",
		}, []string{"reason"}),
		sources: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "thalweg_pipeline_sources",
			Help: "Sources whose mapping is kept.",
		}, func() float64 { return float64(sources()) }),
	}
	for _, r := range Reasons() {
		m.dropped.WithLabelValues(string(r))
	}
	for _, r := range []string{"ended", "silent", "full"} {
		m.forgotten.WithLabelValues(r)
	}
	return m
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.dropped, m.forgotten, m.sources}
}
