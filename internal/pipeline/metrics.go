package pipeline

import "github.com/prometheus/client_golang/prometheus"

// metrics of a pipeline. A nil one counts nothing.
type metrics struct {
	dropped, refusedRows, forgotten *prometheus.CounterVec
	sources, series, held           prometheus.GaugeFunc
}

func newMetrics(p *Pipeline) *metrics {
	gauge := func(name, help string, of func(Usage) int) prometheus.GaugeFunc {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "thalweg_pipeline_" + name, Help: help}, func() float64 {
			return float64(of(p.Usage(0)))
		})
	}
	counter := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "thalweg_pipeline_" + name, Help: help}, []string{"reason"})
	}
	m := &metrics{
		dropped:     counter("dropped_series_total", "Series that were refused, counted when they appeared."),
		refusedRows: counter("refused_rows_total", "Rows that limits refused as a whole."),
		forgotten:   counter("forgotten_sources_total", "Sources that are no longer counted: they ended, or were silent."),
		sources:     gauge("sources", "Sources that are counted.", func(u Usage) int { return u.Sources }),
		series:      gauge("active_series", "Series alive that limits let in; 0 if no limit needs the count.", func(u Usage) int { return u.Series }),
		held:        gauge("refused_series", "Series that are there and that limits refuse at the moment.", func(u Usage) int { return u.Held }),
	}
	for _, r := range Reasons() {
		m.dropped.WithLabelValues(string(r))
	}
	for _, r := range RowReasons() {
		m.refusedRows.WithLabelValues(string(r))
	}
	for _, r := range []string{"ended", "silent"} {
		m.forgotten.WithLabelValues(r)
	}
	return m
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.dropped, m.refusedRows, m.forgotten, m.sources, m.series, m.held}
}

func (m *metrics) forget(reason string) {
	if m != nil {
		m.forgotten.WithLabelValues(reason).Inc()
	}
}

func (m *metrics) refuseRow(r Reason) {
	if m != nil {
		m.refusedRows.WithLabelValues(string(r)).Inc()
	}
}
