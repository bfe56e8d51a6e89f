package events

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	taken      prometheus.Counter
	dropped    map[Reason]prometheus.Counter
	droppedVec *prometheus.CounterVec
	expired    prometheus.Counter
	rowErrors  prometheus.Counter
	requests   *prometheus.CounterVec
	redisUp    prometheus.Gauge
	redisFails prometheus.Counter
	claims     prometheus.Counter
	unburied   prometheus.Counter
	holds      prometheus.Gauge
	takeovers  prometheus.Counter
	// Of a stream.
	streamClaims prometheus.Counter
	streamLost   prometheus.Counter
}

// result of a request with events. The set is closed.
type result string

const (
	resultTaken       result = "taken"
	resultRefused     result = "refused"     // no event of it can be taken
	resultMalformed   result = "malformed"   // the body cannot be read
	resultTooLarge    result = "too_large"   // the body is beyond its limit
	resultUnavailable result = "unavailable" // it is not known to be durable
)

func results() []result {
	return []result{resultTaken, resultRefused, resultMalformed, resultTooLarge, resultUnavailable}
}

func newMetrics() *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "thalweg_events_" + name, Help: help})
	}
	m := &metrics{
		taken: counter("taken_total", "Events that were aggregated."),
		droppedVec: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "thalweg_events_dropped_total", Help: "Events, or payloads that are none, that were not aggregated, by reason.",
		}, []string{"reason"}),
		dropped:   map[Reason]prometheus.Counter{},
		expired:   counter("expired_series_total", "Series that ended because no event came for their TTL."),
		rowErrors: counter("row_errors_total", "Rows of the aggregate that were not accepted."),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "thalweg_events_requests_total", Help: "Requests with events, by result.",
		}, []string{"result"}),
		redisUp: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "thalweg_events_redis_up", Help: "Whether the Redis server answers from which events are taken.",
		}),
		redisFails: counter("redis_errors_total", "Connections to the Redis server that could not be made or broke."),
		claims:     counter("redis_claims_total", "Lists of events that were claimed in Redis."),
		unburied:   counter("dead_letters_lost_total", "Elements that could not be taken, and that dead_letter_key does not have."),
		holds: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "thalweg_events_redis_lease", Help: "Whether this gateway may take events from Redis. Of replicas, one may.",
		}),
		takeovers: counter("redis_leases_total", "How often this gateway began to take events from Redis."),

		streamClaims: counter("stream_claims_total", "Claims of messages of the NATS stream of events."),
		streamLost:   counter("stream_lost_messages_total", "Messages that the NATS stream of events dropped before a gateway had read them."),
	}
	for _, r := range Reasons() {
		m.dropped[r] = m.droppedVec.WithLabelValues(string(r))
	}
	for _, r := range results() {
		m.requests.WithLabelValues(string(r))
	}
	return m
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.taken, m.droppedVec, m.expired, m.rowErrors, m.requests, m.redisUp, m.redisFails, m.claims, m.unburied, m.holds, m.takeovers, m.streamClaims, m.streamLost}
}

var (
	seriesDesc     = prometheus.NewDesc("thalweg_events_series", "Series of the aggregate; a histogram or summary with all its parts is one.", nil, nil)
	familiesDesc   = prometheus.NewDesc("thalweg_events_metrics", "Metrics of the aggregate.", nil, nil)
	mismatchesDesc = prometheus.NewDesc("thalweg_events_layout_mismatches_total",
		"Observations that asked for other buckets or quantiles than the first one of their metric did, which count.", nil, nil)
)

// Describe implements prometheus.Collector.
func (g *Gateway) Describe(ch chan<- *prometheus.Desc) {
	ch <- seriesDesc
	ch <- familiesDesc
	ch <- mismatchesDesc
}

// Collect implements prometheus.Collector.
func (g *Gateway) Collect(ch chan<- prometheus.Metric) {
	g.mu.Lock()
	size, families, mismatches := g.state.size, len(g.state.families), g.state.mismatches
	g.mu.Unlock()
	ch <- prometheus.MustNewConstMetric(seriesDesc, prometheus.GaugeValue, float64(size))
	ch <- prometheus.MustNewConstMetric(familiesDesc, prometheus.GaugeValue, float64(families))
	ch <- prometheus.MustNewConstMetric(mismatchesDesc, prometheus.CounterValue, float64(mismatches))
}

// Metrics are the gateway's own.
func (g *Gateway) Metrics() []prometheus.Collector {
	return append(append(g.metrics.all(), g.checkpoints.metrics.all()...), g)
}
