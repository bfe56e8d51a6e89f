package scrape

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/thalweg/thalweg/internal/expo"
)

// reason why a scrape failed. The set is closed.
type reason string

const (
	timedOut    reason = "timeout"
	connect     reason = "connect"
	badRequest  reason = "request"
	status      reason = "http_status"
	transfer    reason = "transfer"
	bodySize    reason = "body_size_limit"
	contentType reason = "content_type"
	syntax      reason = "syntax"
	badName     reason = "name"
	limit       reason = "limit"
	targetLimit reason = "target_limit"
	other       reason = "other"
)

func reasons() []reason {
	return []reason{
		timedOut, connect, badRequest, status, transfer, bodySize, contentType, syntax, badName, limit, targetLimit, other,
	}
}

// reasonOf finds the reason in an error of a scrape.
func reasonOf(err error) reason {
	var (
		fetch *fetchError
		many  *targetLimitError
		name  *nameError
		exp   *expo.LimitError
		typ   *expo.ContentTypeError
		syn   *expo.SyntaxError
	)
	switch {
	case errors.As(err, &fetch):
		return fetch.reason
	case errors.As(err, &many):
		return targetLimit
	case errors.As(err, &name):
		return badName
	case errors.As(err, &exp):
		return limit
	case errors.As(err, &typ):
		return contentType
	case errors.As(err, &syn):
		return syntax
	}
	return other
}

type metrics struct {
	scrapes        prometheus.Counter
	failures       *prometheus.CounterVec
	samples        prometheus.Counter
	dropped        *prometheus.CounterVec
	bodyBytes      prometheus.Counter
	refusedRows    prometheus.Counter
	invalidTargets prometheus.Counter
	targets        prometheus.GaugeFunc
}

func newMetrics(targets func() int) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &metrics{
		scrapes: counter("thalweg_scrape_scrapes_total", "Scrapes, good and bad."),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "thalweg_scrape_failures_total",
			Help: "Scrapes that failed.",
		}, []string{"reason"}),
		samples: counter("thalweg_scrape_samples_total", "Samples in scraped bodies, before relabelling."),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "thalweg_scrape_dropped_samples_total",
			Help: "Samples dropped from good scrapes, other than by relabelling.",
		}, []string{"reason"}),
		bodyBytes:      counter("thalweg_scrape_body_bytes_total", "Uncompressed bytes of complete bodies."),
		refusedRows:    counter("thalweg_scrape_refused_rows_total", "Rows that were scraped and could not be kept."),
		invalidTargets: counter("thalweg_scrape_invalid_targets_total", "Discovered targets that cannot be scraped, at each update."),
		targets: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "thalweg_scrape_targets",
			Help: "Targets that are scraped.",
		}, func() float64 { return float64(targets()) }),
	}
	for _, r := range reasons() {
		m.failures.WithLabelValues(string(r))
	}
	m.drop(&expo.Stats{})
	return m
}

// drop counts the samples that a body lost.
func (m *metrics) drop(s *expo.Stats) {
	m.dropped.WithLabelValues("duplicate").Add(float64(s.Duplicates))
	m.dropped.WithLabelValues("out_of_order").Add(float64(s.OutOfOrder))
	m.dropped.WithLabelValues("future").Add(float64(s.Future))
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{
		m.scrapes, m.failures, m.samples, m.dropped, m.bodyBytes, m.refusedRows, m.invalidTargets, m.targets,
	}
}
