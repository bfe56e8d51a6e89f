package edge

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	rows, samples, refusedRows, unwrittenRows  prometheus.Counter
	frames, frameBytes, commits                prometheus.Counter
	ackedFrames, refusedPublishes              *prometheus.CounterVec
	serverLosses, keyframeRequests, readErrors prometheus.Counter
	skew, frameVersion                         prometheus.Gauge
}

func newMetrics() *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "thalweg_edge_" + name, Help: help})
	}
	byLane := func(name, help string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "thalweg_edge_" + name, Help: help}, []string{"lane"})
		v.WithLabelValues("live")
		v.WithLabelValues("backfill")
		return v
	}
	return &metrics{
		rows:             counter("rows_total", "Rows accepted."),
		samples:          counter("samples_total", "Samples in the rows accepted."),
		refusedRows:      counter("refused_rows_total", "Rows that could not be encoded."),
		unwrittenRows:    counter("unwritten_rows_total", "Rows lost because the outbox could not be written; hubs are told."),
		frames:           counter("frames_total", "Frames stored in the outbox."),
		frameBytes:       counter("frame_bytes_total", "Bytes of frames stored in the outbox."),
		commits:          counter("commits_total", "Flushes for senders that wait until what they sent is in the outbox; one for all that wait at a time."),
		ackedFrames:      byLane("acked_frames_total", "Frames that the server stored."),
		refusedPublishes: byLane("refused_publishes_total", "Publishes whose expected sequence was wrong: after a lost answer, or with two processes on one lane."),
		serverLosses:     counter("server_losses_total", "Times the server turned out to have lost stored frames, which were sent again."),
		readErrors:       counter("outbox_read_errors_total", "Attempts to read the outbox that failed and were repeated."),
		keyframeRequests: counter("keyframe_requests_total", "Keyframes that hubs asked for."),
		frameVersion: prometheus.NewGauge(prometheus.GaugeOpts{Name: "thalweg_edge_frame_version",
			Help: "Version of the frames that are written: the newest that all hubs read."}),
		skew: prometheus.NewGauge(prometheus.GaugeOpts{Name: "thalweg_edge_clock_skew_seconds",
			Help: "How far this clock is ahead of the hub's, at the last hello."}),
	}
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{
		m.rows, m.samples, m.refusedRows, m.unwrittenRows, m.frames, m.frameBytes, m.commits, m.ackedFrames, m.refusedPublishes,
		m.serverLosses, m.keyframeRequests, m.readErrors, m.skew, m.frameVersion,
	}
}
