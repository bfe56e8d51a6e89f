package hub

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/lane"
)

// OutputStatus is what a hub knows of an output.
type OutputStatus struct {
	Name, Kind string
	// Running: it delivers, or waits for its turn. Otherwise it ended with LastError and waits for its restart.
	Running bool
	// Holder: this hub delivers it. HeldBy names the hub that does; "" if nobody knows.
	Holder bool
	HeldBy string
	// LastError is what ended it last, or kept it from telling the other hubs or hearing of them, and LastErrorAt when that
	// was; zero if never.
	LastError   string
	LastErrorAt time.Time
	// Errors counts the times that it ended, Takeovers those that it began to deliver.
	Errors, Takeovers uint64
	// Live and Backfill are its two feeds. An output of the newest rows has no backfill.
	Live, Backfill FeedStatus
	// Missing are rows that it lacks, as far as this hub knows, and Ends what is known of the ends of series: all zero where
	// it does not deliver.
	Missing lane.Missing
	Ends    lane.EndsStats
}

// FeedStatus is what a hub knows of one of the feeds of an output. Counts are since the hub started.
type FeedStatus struct {
	// Lag is how long ago the server stored the oldest message that is not delivered; 0 if all are.
	Lag time.Duration
	// Behind is how many messages are still to be read, Waiting how many rows of those that were read are not delivered.
	Behind  uint64
	Waiting int
	// Newest is when the server stored the newest frame that was delivered; zero before the first.
	Newest time.Time
	// Rows and Samples that were delivered, Refused samples that the destination will never take.
	Rows, Samples, Refused uint64
	// Postponed counts the flushes that were not done, and are tried again.
	Postponed uint64
	// Problem is why the stream cannot be read; "" if it can.
	Problem string
}

// Outputs lists what is known of all outputs, by name.
func (h *Hub) Outputs() []OutputStatus {
	problem := ""
	if state := h.conn.State(); !state.Connected {
		problem = "not connected: " + state.Reason
	}
	records := h.outputs.all()
	list := make([]OutputStatus, len(records))
	for i, r := range records {
		list[i] = r.status(h.now(), problem)
	}
	return list
}

// OutputGaps lists at most limit gaps of the output with a name, by site; ok tells whether there is one.
func (h *Hub) OutputGaps(name string, limit int) (gaps []SiteGap, ok bool) {
	for _, r := range h.outputs.all() {
		if r.name == name {
			if o := r.opened(); o != nil {
				gaps = o.Gaps(limit)
			}
			return gaps, true
		}
	}
	return nil, false
}

// ForgetOutput drops what is known of an output that is closed and will not come back.
func (h *Hub) ForgetOutput(name string) { h.outputs.forget(name) }

// outputs knows the outputs of a hub, also those that ended and wait for their restart.
type outputs struct {
	seconds *prometheus.HistogramVec

	mu      sync.Mutex
	records map[string]*outputRecord
}

// outputRecord is what is known of an output over its restarts.
type outputRecord struct {
	name, kind     string
	live, backfill feedRecord

	mu        sync.Mutex
	output    *Output // nil: none is open
	running   bool
	holds     bool
	holder    string
	lastError string
	idly      bool // lastError came while it waited for its turn
	failed    time.Time
	errors    uint64
	takeovers uint64
}

func newOutputs() *outputs {
	return &outputs{
		records: map[string]*outputRecord{},
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "thalweg_output_flush_seconds", Help: "Time that the destination of an output took for a batch.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"output", "lane"}),
	}
}

func (x *outputs) collectors(h *Hub) []prometheus.Collector {
	return []prometheus.Collector{x.seconds, outputCollector{h}}
}

// open notes that an output was opened.
func (x *outputs) open(o *Output, kind string) *outputRecord {
	x.mu.Lock()
	defer x.mu.Unlock()
	r := x.records[o.name]
	if r == nil {
		r = &outputRecord{name: o.name}
		x.records[o.name] = r
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kind, r.output, r.holds, r.holder = kind, o, false, ""
	for _, f := range o.feeds {
		f.status = r.feed(f.lane)
		f.status.begin()
	}
	return r
}

func (x *outputs) close(o *Output) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if r := x.records[o.name]; r != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.output == o {
			r.output = nil
		}
	}
}

func (x *outputs) forget(name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.records, name)
	x.seconds.DeletePartialMatch(prometheus.Labels{"output": name})
}

// all returns the records by name.
func (x *outputs) all() []*outputRecord {
	x.mu.Lock()
	defer x.mu.Unlock()
	list := make([]*outputRecord, 0, len(x.records))
	for _, r := range x.records {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b *outputRecord) int { return cmp.Compare(a.name, b.name) })
	return list
}

func (r *outputRecord) feed(l bus.Lane) *feedRecord {
	if l == bus.Backfill {
		return &r.backfill
	}
	return &r.live
}

func (r *outputRecord) opened() *Output {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.output
}

// status is how the output is at a time; problem is what is wrong with all of them.
func (r *outputRecord) status(now time.Time, problem string) OutputStatus {
	r.mu.Lock()
	st := OutputStatus{
		Name: r.name, Kind: r.kind, Running: r.running, Holder: r.holds, HeldBy: r.holder,
		LastError: r.lastError, LastErrorAt: r.failed, Errors: r.errors, Takeovers: r.takeovers,
	}
	o := r.output
	r.mu.Unlock()
	if st.Live = r.live.status(now, st.Holder, problem); o == nil || len(o.feeds) > 1 {
		st.Backfill = r.backfill.status(now, st.Holder, problem)
	}
	if o != nil && st.Holder {
		st.Missing, st.Ends = o.missing(), o.endsStats()
	}
	return st
}

func (r *outputRecord) started() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running = true
}

// ended notes how an output ended; nil: it was to.
func (r *outputRecord) ended(err error, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running, r.holds = false, false
	if err != nil {
		r.lastError, r.failed, r.idly = err.Error(), now, false
		r.errors++
	}
}

// hold notes that the output begins to deliver. What kept it from that until now is over.
func (r *outputRecord) hold(hub string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.holds, r.holder = true, hub
	if r.idly {
		r.lastError, r.failed, r.idly = "", time.Time{}, false
	}
	r.takeovers++
}

// standby notes which hub delivers, or what keeps this one from it.
func (r *outputRecord) standby(holder string, trouble error, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.holder = holder
	if trouble != nil {
		r.lastError, r.failed, r.idly = trouble.Error(), now, !r.holds
	}
}

// feedRecord is what is known of a feed.
type feedRecord struct {
	mu     sync.Mutex
	totals FeedStatus // what it counts
	oldest time.Time  // when the server stored the oldest message that waits; zero if none does
	last   time.Time  // and the last message that was read
}

// begin forgets what was of an output that ended.
func (f *feedRecord) begin() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.totals.Behind, f.totals.Waiting, f.totals.Problem = 0, 0, ""
	f.oldest, f.last = time.Time{}, time.Time{}
}

// took notes a message that was read, and how many rows wait since then.
func (f *feedRecord) took(e *feedEvent, waits bool, rows int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last, f.totals.Behind, f.totals.Waiting = e.Time, e.Pending, rows
	if waits && f.oldest.IsZero() {
		f.oldest = e.Time
	}
}

// delivered notes that the frames of a batch, with so many rows, were, and which ones wait on.
func (f *feedRecord) delivered(frames, rest []delivered, rows int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.totals.Rows += uint64(rows)
	for i := range frames {
		f.totals.Samples += uint64(frames[i].samples)
	}
	if n := len(frames); n > 0 {
		f.totals.Newest = time.UnixMilli(frames[n-1].stored)
	}
	if f.oldest = (time.Time{}); len(rest) > 0 {
		f.oldest = time.UnixMilli(rest[0].stored)
	}
	f.totals.Waiting = max(f.totals.Waiting-rows, 0)
}

func (f *feedRecord) postponed() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.totals.Postponed++
}

func (f *feedRecord) refuse(samples int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.totals.Refused += uint64(samples)
}

func (f *feedRecord) trouble(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.totals.Problem = ""; err != nil {
		f.totals.Problem = err.Error()
	}
}

func (f *feedRecord) status(now time.Time, holder bool, problem string) FeedStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	st := f.totals
	st.Problem = cmp.Or(problem, st.Problem)
	switch {
	case !holder:
		st.Behind, st.Waiting = 0, 0
	case !f.oldest.IsZero():
		st.Lag = max(now.Sub(f.oldest), 0)
	case !f.last.IsZero() && (st.Behind > 0 || st.Problem != ""):
		st.Lag = max(now.Sub(f.last), 0)
	}
	return st
}

var (
	outputHolder = prometheus.NewDesc("thalweg_output_holder", "Whether this hub delivers the output. Of the hubs with the same parts one does.", []string{"output"}, nil)
	outputErrors = prometheus.NewDesc("thalweg_output_errors_total", "Times that the output ended with an error, after which it is started again.", []string{"output"}, nil)
	outputTakes  = prometheus.NewDesc("thalweg_output_takeovers_total", "Times that this hub began to deliver the output.", []string{"output"}, nil)
	outputMarks  = prometheus.NewDesc("thalweg_output_stale_markers_total", "Series that the destination was told to have ended, since this hub delivers the output.", []string{"output"}, nil)
	outputTracks = prometheus.NewDesc("thalweg_output_tracked_sources", "Sources whose series are followed, to tell when they end.", []string{"output"}, nil)
	outputUntold = prometheus.NewDesc("thalweg_output_untracked_rows_total", "Rows of sources beyond the limit of a site, the ends of whose series are not told, since this hub delivers the output.", []string{"output"}, nil)
	outputLacks  = prometheus.NewDesc("thalweg_output_missing_rows", "Rows that exist and the output did not deliver, by cause, within the last 7 days. Only where this hub delivers it.", []string{"output", "cause"}, nil)

	feedLag       = feedDesc("lag_seconds", "How long ago the server stored the oldest message that is not delivered; 0 if all are, or another hub delivers.")
	feedBehind    = feedDesc("behind_messages", "Messages that are still to be read.")
	feedWaiting   = feedDesc("waiting_rows", "Rows that were read and are not delivered yet.")
	feedNewest    = feedDesc("newest_timestamp_seconds", "When the server stored the newest frame that was delivered; 0 before the first.")
	feedRows      = feedDesc("rows_total", "Rows that were delivered.")
	feedSamples   = feedDesc("samples_total", "Samples that were delivered, those that the destination refused included.")
	feedRefused   = feedDesc("refused_samples_total", "Samples that the destination will never take.")
	feedPostponed = feedDesc("postponed_flushes_total", "Batches that could not be delivered for the time being; newer rows replace what waits.")
)

func feedDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("thalweg_output_"+name, help, []string{"output", "lane"}, nil)
}

// outputCollector gives what is known of each output as metrics.
type outputCollector struct{ hub *Hub }

// Describe implements prometheus.Collector.
func (outputCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		outputHolder, outputErrors, outputTakes, outputLacks, outputMarks, outputTracks, outputUntold,
		feedLag, feedBehind, feedWaiting, feedNewest, feedRows, feedSamples, feedRefused, feedPostponed,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c outputCollector) Collect(ch chan<- prometheus.Metric) {
	put := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	for _, s := range c.hub.Outputs() {
		holder := 0.0
		if s.Holder {
			holder = 1
		}
		put(outputHolder, prometheus.GaugeValue, holder, s.Name)
		put(outputErrors, prometheus.CounterValue, float64(s.Errors), s.Name)
		put(outputTakes, prometheus.CounterValue, float64(s.Takeovers), s.Name)
		put(outputMarks, prometheus.CounterValue, float64(s.Ends.Markers), s.Name)
		put(outputTracks, prometheus.GaugeValue, float64(s.Ends.Sources), s.Name)
		put(outputUntold, prometheus.CounterValue, float64(s.Ends.Untracked), s.Name)
		for cause, rows := range s.Missing.Rows {
			put(outputLacks, prometheus.GaugeValue, float64(rows), s.Name, lane.Cause(cause).String())
		}
		for _, l := range bus.Lanes() {
			f := s.Live
			if l == bus.Backfill {
				f = s.Backfill
			}
			newest := 0.0
			if !f.Newest.IsZero() {
				newest = float64(f.Newest.UnixMilli()) / 1000
			}
			put(feedLag, prometheus.GaugeValue, f.Lag.Seconds(), s.Name, string(l))
			put(feedBehind, prometheus.GaugeValue, float64(f.Behind), s.Name, string(l))
			put(feedWaiting, prometheus.GaugeValue, float64(f.Waiting), s.Name, string(l))
			put(feedNewest, prometheus.GaugeValue, newest, s.Name, string(l))
			put(feedRows, prometheus.CounterValue, float64(f.Rows), s.Name, string(l))
			put(feedSamples, prometheus.CounterValue, float64(f.Samples), s.Name, string(l))
			put(feedRefused, prometheus.CounterValue, float64(f.Refused), s.Name, string(l))
			put(feedPostponed, prometheus.CounterValue, float64(f.Postponed), s.Name, string(l))
		}
	}
}
