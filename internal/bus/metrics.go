package bus

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The outcomes of a publish, a closed set.
const (
	outcomeStored    = "stored"
	outcomeSequence  = "wrong_sequence"
	outcomeDoubtful  = "doubtful"
	outcomeNotStored = "not_stored"
	outcomeRefused   = "refused"
)

type metrics struct {
	connected      prometheus.Gauge
	connects       prometheus.Counter
	denials        prometheus.Counter
	unsolicited    prometheus.Counter
	publishes      *prometheus.CounterVec
	publishSeconds prometheus.Histogram
	readerMessages prometheus.Counter
	readerBytes    prometheus.Counter
	readerResets   *prometheus.CounterVec
	readerResumes  prometheus.Counter
	readerStalls   prometheus.Counter
}

func newMetrics(connection string) *metrics {
	labels := prometheus.Labels{"connection": connection}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "thalweg_bus_" + name, Help: help, ConstLabels: labels})
	}
	vector := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "thalweg_bus_" + name, Help: help, ConstLabels: labels}, []string{label})
	}
	m := &metrics{
		connected: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "thalweg_bus_connected", Help: "1 while there is a connection to NATS.", ConstLabels: labels,
		}),
		connects:    counter("connects_total", "Connections made to NATS, the first one included."),
		denials:     counter("permission_denials_total", "Subjects that the server refused to this client."),
		unsolicited: counter("unsolicited_messages_total", "Messages on a served subject that are not requests."),
		publishes:   vector("publishes_total", "Messages published to the stream, by outcome.", "outcome"),
		publishSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "thalweg_bus_publish_duration_seconds", Help: "Time from publish to acknowledgement of stored messages.",
			ConstLabels: labels, Buckets: prometheus.ExponentialBuckets(0.0005, 4, 8),
		}),
		readerMessages: counter("reader_messages_total", "Messages read from the stream."),
		readerBytes:    counter("reader_bytes_total", "Bytes of payload read from the stream."),
		readerResets:   vector("reader_resets_total", "Positions in the stream that turned out void, by reason.", "reason"),
		readerResumes:  counter("reader_subscriptions_total", "Subscriptions of readers to the stream, the first ones included."),
		readerStalls:   counter("reader_stalls_total", "Subscriptions given up because messages that the stream held did not come."),
	}
	for _, outcome := range []string{outcomeStored, outcomeSequence, outcomeDoubtful, outcomeNotStored, outcomeRefused} {
		m.publishes.WithLabelValues(outcome)
	}
	for _, reason := range resetReasons() {
		m.readerResets.WithLabelValues(string(reason))
	}
	return m
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{
		m.connected, m.connects, m.denials, m.unsolicited, m.publishes, m.publishSeconds,
		m.readerMessages, m.readerBytes, m.readerResets, m.readerResumes, m.readerStalls,
	}
}

func (m *metrics) published(err error, took time.Duration) {
	var sequence *SequenceError
	outcome := outcomeRefused
	switch {
	case err == nil:
		outcome = outcomeStored
		m.publishSeconds.Observe(took.Seconds())
	case errors.As(err, &sequence):
		outcome = outcomeSequence
	case errors.Is(err, ErrDoubtful):
		outcome = outcomeDoubtful
	case errors.Is(err, ErrNotStored):
		outcome = outcomeNotStored
	}
	m.publishes.WithLabelValues(outcome).Inc()
}
