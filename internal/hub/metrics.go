package hub

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/pipeline"
)

type metrics struct {
	messages, bytes, frames, problems, keyframeRequests, refused, refusedRows, lost *prometheus.CounterVec
	rows, samples, saveErrors, floods, purged                                       prometheus.Counter
	delay                                                                           prometheus.Histogram
	state                                                                           stateCollector
}

func newMetrics(h *Hub) *metrics {
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
	var rowRefusals []string
	for _, r := range pipeline.RowReasons() {
		rowRefusals = append(rowRefusals, string(r))
	}
	var causes []string
	for _, c := range lane.Causes() {
		if c != lane.NotArrived && c != lane.RefusedByOutput {
			causes = append(causes, c.String())
		}
	}
	lanes := []string{string(bus.Live), string(bus.Backfill)}
	return &metrics{
		messages:         vector("messages_total", "Messages read by the tail reader.", "lane", lanes...),
		bytes:            vector("bytes_total", "Bytes of messages read by the tail reader.", "lane", lanes...),
		frames:           vector("frames_total", "Frames that came for the first time.", "lane", lanes...),
		problems:         vector("problems_total", "Frames, messages and hellos that were not taken.", "reason", reasons...),
		keyframeRequests: vector("keyframe_requests_total", "Requests for keyframes.", "outcome", "granted", "declined", "unanswered", "queue_full"),
		refused:          vector("refused_series_total", "Series that rules and limits kept out, counted when they appeared.", "reason", refusals...),
		refusedRows:      vector("refused_rows_total", "Rows that limits kept out as a whole.", "reason", rowRefusals...),
		lost:             vector("lost_rows_total", "Rows that were found to be lost for good, by cause. A gap that a restart of the hub finds again is not counted again.", "cause", causes...),
		saveErrors:       counter("ledger_save_errors_total", "Attempts to save what is known of missing rows that failed."),
		floods:           counter("floods_total", "Times a site sent far more than bytes_per_second and was refused for a while."),
		purged:           counter("purged_messages_total", "Messages that were deleted because their site held more than its share of the stream."),
		rows:             counter("rows_total", "Rows that came for the first time."),
		samples:          counter("samples_total", "Samples that came for the first time."),
		delay: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "thalweg_hub_live_delay_seconds", Help: "From closing a frame at the edge, by its clock, to decoding it here.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 15, 60, 300},
		}),
		state: stateCollector{h},
	}
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{
		m.messages, m.bytes, m.frames, m.problems, m.keyframeRequests, m.refused, m.refusedRows, m.lost, m.floods, m.purged, m.rows, m.samples, m.saveErrors, m.delay, m.state,
	}
}

func (m *metrics) refuse(r pipeline.Reason) { m.refused.WithLabelValues(string(r)).Inc() }

// stateCollector gives how the hub and its sites are at the moment.
type stateCollector struct{ hub *Hub }

var (
	hubSites    = prometheus.NewDesc("thalweg_hub_sites", "Sites that are remembered, and expected ones that never came, by state.", []string{"state"}, nil)
	hubMissing  = prometheus.NewDesc("thalweg_hub_missing_rows", "Rows that exist and this hub does not have, by cause, within the last 7 days.", []string{"cause"}, nil)
	hubGaps     = prometheus.NewDesc("thalweg_hub_gaps", "Gaps that these rows are in.", nil, nil)
	hubSince    = prometheus.NewDesc("thalweg_hub_account_start_timestamp_seconds", "From when on every row is accounted for; 0 before anything was read.", nil, nil)
	hubComplete = prometheus.NewDesc("thalweg_hub_account_complete", "Whether all that the stream holds since then was read.", nil, nil)
	hubUnread   = prometheus.NewDesc("thalweg_hub_history_pending_messages", "Messages that are still to be read until it is.", nil, nil)
	hubLag      = prometheus.NewDesc("thalweg_hub_tail_lag_seconds", "Age of the last message that was read while more are waiting, or the stream cannot be read; otherwise 0.", nil, nil)
	hubPending  = prometheus.NewDesc("thalweg_hub_tail_pending_messages", "Messages that waited behind the last one that was read.", nil, nil)
)

// Describe implements prometheus.Collector.
func (stateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{hubSites, hubMissing, hubGaps, hubSince, hubComplete, hubUnread, hubLag, hubPending} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c stateCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	sites := map[SiteState]int{}
	for _, s := range c.hub.Sites() {
		sites[s.State]++
	}
	for _, state := range SiteStates() {
		gauge(hubSites, float64(sites[state]), string(state))
	}
	a := c.hub.Account(nil)
	for _, cause := range lane.Causes() {
		if cause != lane.RefusedByOutput { // a hub refuses by its own rules
			gauge(hubMissing, float64(a.Missing.Rows[cause]), cause.String())
		}
	}
	gauge(hubGaps, float64(a.Missing.Gaps))
	since, complete := 0.0, 0.0
	if !a.Since.IsZero() {
		since = float64(a.Since.UnixMilli()) / 1000
	}
	if a.Complete {
		complete = 1
	}
	gauge(hubSince, since)
	gauge(hubComplete, complete)
	gauge(hubUnread, c.hub.history.pending())
	lag, pending := c.hub.lag()
	gauge(hubLag, lag.Seconds())
	gauge(hubPending, float64(pending))
}

// lag is how far the tail reader is behind the head of the stream.
func (h *Hub) lag() (age time.Duration, pending uint64) {
	stuck := h.Problem() != ""
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.tail.at.IsZero() && (stuck || h.tail.pending > 0) {
		age = max(h.now().Sub(h.tail.at), 0)
	}
	return age, h.tail.pending
}
