package remotewrite

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Loss is why samples did not get to a receiver.
type Loss string

const (
	LossRefused          Loss = "refused"           // the receiver does not take them
	LossLate             Loss = "late"              // the receiver does not take what is late
	LossDropped          Loss = "dropped_by_config" // out_of_order is drop
	LossTooOld           Loss = "too_old"           // older than sample_age_limit
	LossSiteLabel        Loss = "site_label"        // the row has the site label already, and on_conflict is reject
	LossNativeHistograms Loss = "native_histograms" // of 1.0 without send_native_histograms
	LossCustomBuckets    Loss = "custom_buckets"    // histograms with custom buckets, which 1.0 does not have
)

// Losses are all of them.
func Losses() []Loss {
	return []Loss{LossRefused, LossLate, LossDropped, LossTooOld, LossSiteLabel, LossNativeHistograms, LossCustomBuckets}
}

// SendMetrics are those of all writers of a process.
type SendMetrics struct {
	samples, histograms, exemplars *prometheus.CounterVec
	metadata                       *prometheus.CounterVec
	failed, repeated               *prometheus.CounterVec
	retries, bytes                 *prometheus.CounterVec
	seconds                        *prometheus.HistogramVec
	pending, newest, cached        *prometheus.GaugeVec
	shards                         *prometheus.GaugeVec
	fallback, refusesBackfill      *prometheus.GaugeVec
}

// NewSendMetrics returns the metrics of writers that are going to be made.
func NewSendMetrics() *SendMetrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "thalweg_remote_write_" + name, Help: help}, append([]string{"output"}, labels...))
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "thalweg_remote_write_" + name, Help: help}, append([]string{"output"}, labels...))
	}
	return &SendMetrics{
		samples:    counter("samples_total", "Float samples that the receiver took, stale markers included.", "lane"),
		histograms: counter("histograms_total", "Native histograms that the receiver took.", "lane"),
		exemplars:  counter("exemplars_total", "Exemplars that the receiver took.", "lane"),
		metadata:   counter("metadata_total", "Families whose type, help and unit the receiver took, of 1.0; 2.0 says it with every series."),
		failed:     counter("failed_samples_total", "Samples, histograms included, that did not get to the receiver for good, by reason.", "lane", "reason"),
		repeated:   counter("repeated_samples_total", "Samples, histograms included, that were refused as out of order or duplicates and may have arrived before the output ended last.", "lane"),
		retries:    counter("retries_total", "Requests that were sent again because no answer came, or one that says so.", "lane"),
		bytes:      counter("bytes_total", "Bytes of bodies of requests, compressed, those sent again included.", "lane"),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "thalweg_remote_write_request_seconds", Help: "Time from sending a request to its answer, or until it was given up.",
			Buckets:                     []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
		}, []string{"output", "lane"}),
		pending:         gauge("pending_samples", "Samples, histograms included, that are waiting for the answer of the receiver.", "lane"),
		newest:          gauge("highest_timestamp_seconds", "Time of the newest sample that the receiver took.", "lane"),
		cached:          gauge("cached_bytes", "Memory for the labels of series that are sent.", "lane"),
		shards:          gauge("shards", "Requests that may be under way at a time, for each lane."),
		fallback:        gauge("fallback", "Whether the receiver is sent 1.0 because it does not understand 2.0."),
		refusesBackfill: gauge("refuses_backfill", "Whether the receiver takes no rows that are late."),
	}
}

// Metrics returns what is to be registered.
func (m *SendMetrics) Metrics() []prometheus.Collector {
	return []prometheus.Collector{
		m.samples, m.histograms, m.exemplars, m.metadata, m.failed, m.repeated, m.retries, m.bytes, m.seconds, m.pending, m.newest, m.cached,
		m.shards, m.fallback, m.refusesBackfill,
	}
}

// forget drops what there is of an output.
func (m *SendMetrics) forget(output string) {
	of := prometheus.Labels{"output": output}
	for _, v := range []interface{ DeletePartialMatch(prometheus.Labels) int }{
		m.samples, m.histograms, m.exemplars, m.metadata, m.failed, m.repeated, m.retries, m.bytes, m.seconds, m.pending, m.newest, m.cached,
		m.shards, m.fallback, m.refusesBackfill,
	} {
		v.DeletePartialMatch(of)
	}
}

// senderMetrics are those of one lane of an output.
type senderMetrics struct {
	samples, histograms, exemplars, metadata prometheus.Counter
	failed                                   map[Loss]prometheus.Counter
	repeated, retries, bytes                 prometheus.Counter
	seconds                                  prometheus.Observer
	pending, newest, cached, shards          prometheus.Gauge
}

func (m *SendMetrics) of(output, lane string) *senderMetrics {
	s := &senderMetrics{
		samples: m.samples.WithLabelValues(output, lane), histograms: m.histograms.WithLabelValues(output, lane),
		exemplars: m.exemplars.WithLabelValues(output, lane), metadata: m.metadata.WithLabelValues(output),
		failed: map[Loss]prometheus.Counter{}, repeated: m.repeated.WithLabelValues(output, lane),
		retries: m.retries.WithLabelValues(output, lane), bytes: m.bytes.WithLabelValues(output, lane),
		seconds: m.seconds.WithLabelValues(output, lane), pending: m.pending.WithLabelValues(output, lane),
		newest: m.newest.WithLabelValues(output, lane), cached: m.cached.WithLabelValues(output, lane),
		shards: m.shards.WithLabelValues(output),
	}
	for _, r := range Losses() {
		s.failed[r] = m.failed.WithLabelValues(output, lane, string(r))
	}
	s.pending.Set(0)
	return s
}
