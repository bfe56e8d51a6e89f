package hub

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/pipeline"
)

type metrics struct {
	messages, bytes, frames, problems, keyframeRequests, refused *prometheus.CounterVec
	rows, samples                                                prometheus.Counter
	delay                                                        prometheus.Histogram
	sites                                                        prometheus.GaugeFunc
}

func newMetrics(sites func() float64) *metrics {
	vector := func(name, help, label string, values ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "thalweg_hub_" + name, Help: help}, []string{label})
		for _, value := range values {
			v.WithLabelValues(value)
		}
		return v
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "thalweg_hub_" + name, Help: help})
	}
	reasons := []string{"subject", "hello"}
	for _, r := range lane.Reasons() {
		reasons = append(reasons, string(r))
	}
	var refusals []string
	for _, r := range pipeline.Reasons() {
		refusals = append(refusals, string(r))
	}
	lanes := []string{string(bus.Live), string(bus.Backfill)}
	return &metrics{
		messages:         vector("messages_total", "Messages read by the tail reader.", "lane", lanes...),
		bytes:            vector("bytes_total", "Bytes of messages read by the tail reader.", "lane", lanes...),
		frames:           vector("frames_total", "Frames that came for the first time.", "lane", lanes...),
		problems:         vector("problems_total", "Frames, messages and hellos that were not taken.", "reason", reasons...),
		keyframeRequests: vector("keyframe_requests_total", "Requests for keyframes.", "outcome", "granted", "declined", "unanswered", "queue_full"),
		refused:          vector("refused_series_total", "Series that match kept out, counted when they appeared.", "reason", refusals...),
		rows:             counter("rows_total", "Rows that came for the first time."),
		samples:          counter("samples_total", "Samples that came for the first time."),
		delay: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "thalweg_hub_live_delay_seconds", Help: "From closing a frame at the edge, by its clock, to decoding it here.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 15, 60, 300},
		}),
		sites: prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "thalweg_hub_sites", Help: "Sites that are remembered."}, sites),
	}
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.messages, m.bytes, m.frames, m.problems, m.keyframeRequests, m.refused, m.rows, m.samples, m.delay, m.sites}
}

func (m *metrics) refuse(r pipeline.Reason) { m.refused.WithLabelValues(string(r)).Inc() }
