package push

import "github.com/prometheus/client_golang/prometheus"

// pushResult is what became of a request to a Push Gateway. The set is closed.
type pushResult string

const (
	pushDone    pushResult = "done"
	pushRefused pushResult = "refused" // what waited is given up
	pushFailed  pushResult = "failed"  // and is tried again
	pushAged    pushResult = "aged"    // no request: what waited became older than max_age
	pushUntried pushResult = "untried" // no request: others failed
)

// ClientMetrics are those of an output, over all its clients.
type ClientMetrics struct {
	requests    *prometheus.CounterVec
	seconds     prometheus.Histogram
	aged        prometheus.Counter
	dropped     prometheus.Counter
	overwritten prometheus.Counter
	groups      prometheus.Gauge
	waiting     prometheus.Gauge
	last        prometheus.Gauge
}

// NewClientMetrics returns the metrics of clients that are going to be made.
func NewClientMetrics(output string) *ClientMetrics {
	labels := prometheus.Labels{"output": output}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "thalweg_pushgateway_" + name, Help: help, ConstLabels: labels})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "thalweg_pushgateway_" + name, Help: help, ConstLabels: labels})
	}
	m := &ClientMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name:        "thalweg_pushgateway_requests_total",
			Help:        "Requests to the Push Gateway, by result: done, refused for good, or failed and tried again.",
			ConstLabels: labels,
		}, []string{"result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:        "thalweg_pushgateway_request_duration_seconds",
			Help:        "Time of a request to the Push Gateway that was answered.",
			ConstLabels: labels,
			Buckets:     []float64{.001, .005, .025, .1, .5, 2, 10, 30},
		}),
		aged:        counter("aged_rows_total", "Rows that were not pushed because they were older than max_age."),
		dropped:     counter("dropped_series_total", "Series that were left out of pushes because the Push Gateway has another type for their name."),
		overwritten: counter("overwritten_groups_total", "Pushes into a group that another site had pushed into, which publisher_label would tell apart."),
		groups:      gauge("groups", "Groups whose last row is known."),
		waiting:     gauge("waiting_groups", "Groups whose last row waits to be pushed."),
		last:        gauge("last_success_timestamp_seconds", "When a push was last taken; 0 before the first one."),
	}
	for _, r := range []pushResult{pushDone, pushRefused, pushFailed} {
		m.requests.WithLabelValues(string(r))
	}
	return m
}

// Metrics returns what is to be registered.
func (m *ClientMetrics) Metrics() []prometheus.Collector {
	return []prometheus.Collector{m.requests, m.seconds, m.aged, m.dropped, m.overwritten, m.groups, m.waiting, m.last}
}
