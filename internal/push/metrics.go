package push

import "github.com/prometheus/client_golang/prometheus"

// result of a request that changes groups. The set is closed.
type result string

const (
	resultPushed       result = "pushed"
	resultDeleted      result = "deleted"
	resultWiped        result = "wiped"
	resultMalformed    result = "malformed"    // the path, a header or the body cannot be read
	resultInconsistent result = "inconsistent" // the metrics contradict themselves or those of other groups
	resultTooLarge     result = "too_large"    // the body is beyond its limit, or the row beyond what can be sent
	resultLimited      result = "limited"      // groups, series or bytes are beyond their limit, or the row beyond those of the edge
	resultRefused      result = "refused"      // nothing is taken of the site
	resultUnavailable  result = "unavailable"  // could not be stored now
)

func results() []result {
	return []result{
		resultPushed, resultDeleted, resultWiped, resultMalformed, resultInconsistent, resultTooLarge, resultLimited,
		resultRefused, resultUnavailable,
	}
}

type gatewayMetrics struct {
	requests     *prometheus.CounterVec
	seconds      prometheus.Histogram
	bodyBytes    prometheus.Histogram
	expired      prometheus.Counter
	sampled      prometheus.Counter
	late         prometheus.Counter
	sampleErrors prometheus.Counter
}

func newGatewayMetrics() *gatewayMetrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "thalweg_push_" + name, Help: help})
	}
	m := &gatewayMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "thalweg_push_requests_total",
			Help: "Requests to change pushed groups, by result.",
		}, []string{"result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "thalweg_push_duration_seconds",
			Help:    "Time from the header of a push to the end of its answer, of those that were taken.",
			Buckets: []float64{.001, .005, .025, .1, .5, 2, 10, 30},
		}),
		bodyBytes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "thalweg_push_body_bytes",
			Help:    "Size of the bodies of pushes, decompressed.",
			Buckets: prometheus.ExponentialBuckets(256, 8, 7),
		}),
		expired:      counter("expired_groups_total", "Groups that ended because nothing was pushed for their TTL."),
		sampled:      counter("sampled_rows_total", "Rows made of groups because it was time, not because of a push."),
		late:         counter("late_samples_total", "Samples of groups that were not made in their interval, because making those of all groups took longer."),
		sampleErrors: counter("sample_errors_total", "Rows of groups, made because it was time, that were not taken."),
	}
	for _, r := range results() {
		m.requests.WithLabelValues(string(r))
	}
	return m
}

var (
	groupsDesc = prometheus.NewDesc("thalweg_push_groups", "Pushed groups that are kept.", nil, nil)
	seriesDesc = prometheus.NewDesc("thalweg_push_series", "Metrics in pushed groups; a histogram or summary counts as one.", nil, nil)
	bytesDesc  = prometheus.NewDesc("thalweg_push_group_bytes", "Bytes of pushed groups, as they are kept.", nil, nil)
	limitDesc  = prometheus.NewDesc("thalweg_push_limit", "What a site may have of groups, series and bytes.", []string{"kind"}, nil)
)

// gauges collects what Stats says.
type gauges struct{ g *Gateway }

func (c gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{groupsDesc, seriesDesc, bytesDesc, limitDesc} {
		ch <- d
	}
}

func (c gauges) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	s, l := c.g.Stats(), c.g.options.Limits
	gauge(groupsDesc, s.Groups)
	gauge(seriesDesc, s.Series)
	gauge(bytesDesc, s.Bytes)
	gauge(limitDesc, l.Groups, "groups")
	gauge(limitDesc, l.Series, "series")
	gauge(limitDesc, l.Bytes, "bytes")
}

// Metrics returns the collectors of the gateway, to be registered once.
func (g *Gateway) Metrics() []prometheus.Collector {
	m, j := g.metrics, g.journal.metrics
	return []prometheus.Collector{
		gauges{g}, m.requests, m.seconds, m.bodyBytes, m.expired, m.sampled, m.late, m.sampleErrors,
		j.bytes, j.sync, j.errors, j.rewrites, j.torn, j.damaged,
	}
}
