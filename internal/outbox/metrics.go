package outbox

import (
	"math"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Stats is what the outbox holds.
type Stats struct {
	Bytes  int64
	Limit  int64 // of Bytes
	Free   int64 // bytes of the disk; negative if that cannot be told
	Files  int
	Frames uint64
	// Oldest is the send time of the oldest frame; zero if there is none.
	Oldest time.Time
	// What the server is not known to have stored.
	UnackedFrames, UnackedRows uint64
	UnackedBytes               int64
	OldestUnacked              time.Time
	// DroppedRows that the server did not have, for lack of room or for their age, since Open.
	DroppedRows uint64
	// Losses that have not been announced.
	Losses int
	// Left is how long it takes, at the rate of the last hour (of a younger process: since its start), until the oldest
	// frames that the server does not have are dropped, or the disk is full, if it gets none from now on. 0 while frames are
	// refused; negative in the first minute.
	Left time.Duration
}

// Stats reads headers as Unacked does.
func (o *Outbox) Stats() Stats {
	free, ok := o.fs.Free()
	if !ok {
		free = -1
	}
	o.mu.Lock()
	s := Stats{Bytes: o.bytes, Limit: int64(o.config.MaxBytes), Free: free, Left: -1, Files: len(o.groups), DroppedRows: o.dropped, Losses: len(o.losses)}
	for i, g := range o.groups {
		s.Frames += g.frames()
		if i == 0 {
			s.Oldest = time.UnixMilli(g.firstSent)
		}
	}
	now := o.now()
	rate, known := o.history.rate(now.Sub(o.opened))
	dropped := time.Duration(o.config.MaxAge)
	if i := slices.IndexFunc(o.groups, func(g *group) bool { return !g.done() }); i >= 0 {
		dropped -= now.Sub(o.groups[i].grown)
	}
	refused := o.refused
	o.mu.Unlock()
	for i, r := range o.Unacked() {
		s.UnackedFrames += r.To - r.From + 1
		s.UnackedRows += r.Rows
		s.UnackedBytes += r.Bytes
		if i == 0 {
			s.OldestUnacked = time.UnixMilli(r.FirstSent)
		}
	}
	room := s.Limit - s.UnackedBytes // what the server has goes first
	if ok {
		room = min(room, s.Bytes-s.UnackedBytes+free)
	}
	switch {
	case refused:
		s.Left = 0
	case known:
		s.Left = max(0, dropped)
		if full := float64(room) / rate; full < s.Left.Seconds() {
			s.Left = time.Duration(max(0, full) * float64(time.Second))
		}
	}
	return s
}

type metrics struct {
	appendedFrames  prometheus.Counter
	appendedBytes   prometheus.Counter
	appendErrors    prometheus.Counter
	stateErrors     prometheus.Counter
	sync            prometheus.Histogram
	evictedFrames   *prometheus.CounterVec
	lostFrames      *prometheus.CounterVec
	lostRows        *prometheus.CounterVec
	lossesForgotten prometheus.Counter
	corruptFiles    prometheus.Counter
	tornFiles       prometheus.Counter
}

func newMetrics() *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "thalweg_outbox_" + name, Help: help})
	}
	byCause := func(name, help string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "thalweg_outbox_" + name, Help: help}, []string{"cause"})
		for _, c := range causes {
			v.WithLabelValues(string(c))
		}
		return v
	}
	return &metrics{
		appendedFrames: counter("appended_frames_total", "Frames accepted."),
		appendedBytes:  counter("appended_bytes_total", "Bytes of frames accepted."),
		appendErrors:   counter("append_errors_total", "Appends that were refused, mostly for lack of disk."),
		stateErrors:    counter("state_errors_total", "Attempts to save the state file that failed."),
		sync: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "thalweg_outbox_sync_duration_seconds",
			Help:    "Time it took to force appended frames to disk.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 8),
		}),
		evictedFrames:   byCause("evicted_frames_total", "Frames deleted for lack of room or for their age, sent or not."),
		lostFrames:      byCause("lost_frames_total", "Accepted frames that are gone and were not stored by the server."),
		lostRows:        byCause("lost_rows_total", "Rows in accepted frames that are gone and were not stored by the server."),
		lossesForgotten: counter("forgotten_losses_total", "Losses forgotten before they were announced, because there were too many."),
		corruptFiles:    counter("corrupt_files_total", "Files found to hold something else than what was written."),
		tornFiles:       counter("torn_files_total", "Files that a crash had cut short."),
	}
}

var (
	bytesDesc         = prometheus.NewDesc("thalweg_outbox_bytes", "Bytes of frames in the outbox.", nil, nil)
	limitDesc         = prometheus.NewDesc("thalweg_outbox_limit_bytes", "Bytes of frames the outbox may hold.", nil, nil)
	filesDesc         = prometheus.NewDesc("thalweg_outbox_files", "Files in the outbox.", nil, nil)
	framesDesc        = prometheus.NewDesc("thalweg_outbox_frames", "Frames in the outbox.", nil, nil)
	oldestDesc        = prometheus.NewDesc("thalweg_outbox_oldest_timestamp_seconds", "Send time of the oldest frame; absent if there is none.", nil, nil)
	unackedFramesDesc = prometheus.NewDesc("thalweg_outbox_unacked_frames", "Frames that the server is not known to have stored.", nil, nil)
	unackedRowsDesc   = prometheus.NewDesc("thalweg_outbox_unacked_rows", "Rows that the server is not known to have stored.", nil, nil)
	unackedBytesDesc  = prometheus.NewDesc("thalweg_outbox_unacked_bytes", "Bytes that the server is not known to have stored.", nil, nil)
	oldestUnackedDesc = prometheus.NewDesc("thalweg_outbox_oldest_unacked_timestamp_seconds", "Send time of the oldest frame that the server is not known to have stored; absent if there is none.", nil, nil)
	leftDesc          = prometheus.NewDesc("thalweg_outbox_left_seconds", "Time until the oldest rows that the server does not have are dropped, or the disk is full, if it gets none from now on, at the rate of the last hour (of a younger process: since its start); 0 while frames are refused, NaN in the first minute.", nil, nil)
	lossesDesc        = prometheus.NewDesc("thalweg_outbox_unannounced_losses", "Losses that hubs have not been told of.", nil, nil)
)

// gauges collects what Stats says.
type gauges struct{ o *Outbox }

func (g gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		bytesDesc, limitDesc, filesDesc, framesDesc, oldestDesc,
		unackedFramesDesc, unackedRowsDesc, unackedBytesDesc, oldestUnackedDesc, leftDesc, lossesDesc,
	} {
		ch <- d
	}
}

func (g gauges) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64) { ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	s := g.o.Stats()
	gauge(bytesDesc, float64(s.Bytes))
	gauge(limitDesc, float64(s.Limit))
	gauge(filesDesc, float64(s.Files))
	gauge(framesDesc, float64(s.Frames))
	gauge(unackedFramesDesc, float64(s.UnackedFrames))
	gauge(unackedRowsDesc, float64(s.UnackedRows))
	gauge(unackedBytesDesc, float64(s.UnackedBytes))
	gauge(lossesDesc, float64(s.Losses))
	left := math.NaN()
	if s.Left >= 0 {
		left = s.Left.Seconds()
	}
	gauge(leftDesc, left)
	if !s.Oldest.IsZero() {
		gauge(oldestDesc, float64(s.Oldest.UnixMilli())/1000)
	}
	if !s.OldestUnacked.IsZero() {
		gauge(oldestUnackedDesc, float64(s.OldestUnacked.UnixMilli())/1000)
	}
}

// Metrics returns the collectors of the outbox, to be registered once.
func (o *Outbox) Metrics() []prometheus.Collector {
	m := o.m
	return []prometheus.Collector{
		gauges{o}, m.appendedFrames, m.appendedBytes, m.appendErrors, m.stateErrors, m.sync, m.evictedFrames,
		m.lostFrames, m.lostRows, m.lossesForgotten, m.corruptFiles, m.tornFiles,
	}
}
