package remotewrite

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/store"
	"github.com/thalweg/thalweg/internal/telemetry"
	"github.com/thalweg/thalweg/internal/writeproto"
)

const (
	// fallbackFor is how long a receiver that did not understand 2.0 is sent 1.0, before it is tried again.
	fallbackFor = time.Hour
	// probeEvery is how often a receiver that refuses rows that are late is tried again.
	probeEvery = time.Minute
	// repeatEvery is how often a line that repeats is logged.
	repeatEvery = time.Minute
)

// WriterOptions of NewWriter.
type WriterOptions struct {
	Config Config
	// ExternalLabels are added to the series that do not have them, as at /federate.
	ExternalLabels labels.Labels
	// Store says how the site becomes a label.
	Store store.Config
	// Version of the program, for the User-Agent header.
	Version string
	Metrics *SendMetrics
	Logger  *slog.Logger
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

// Writer is one receiver, and what is known of it. Its methods are safe for concurrent use.
type Writer struct {
	name      string
	userAgent string
	now       func() time.Time
	log       *slog.Logger
	repeats   *telemetry.Repeats
	metrics   *SendMetrics

	settings atomic.Pointer[settings]

	mu       sync.Mutex
	fallback time.Time // 1.0 is sent until then; zero if 2.0 was never refused
	late     late
	failing  error // of the last attempt
}

// late is what is known of how a receiver takes rows that are late.
type late struct {
	refused bool
	newest  int64     // time of a row that was refused, in ms
	probed  time.Time // when it was tried last
	words   string    // of the receiver
}

// NewWriter returns a writer. It makes no connection.
func NewWriter(o WriterOptions) (*Writer, error) {
	w := &Writer{
		name: o.Config.OutputName(), userAgent: "Thalweg/" + o.Version, now: o.Now, metrics: o.Metrics,
		log: o.Logger.With("output", o.Config.OutputName()),
	}
	if w.now == nil {
		w.now = time.Now
	}
	w.repeats = telemetry.NewRepeats(w.log, repeatEvery)
	if err := w.Apply(o.Config, o.ExternalLabels, o.Store); err != nil {
		return nil, err
	}
	w.metrics.fallback.WithLabelValues(w.name).Set(0)
	w.metrics.refusesBackfill.WithLabelValues(w.name).Set(0)
	return w, nil
}

// Apply puts another configuration of the same name in force: for requests at once, those that wait to be sent again
// included; labels for what is taken after the next Flush. What is known of the receiver is forgotten if it may be
// another one. On an error nothing changes.
func (w *Writer) Apply(c Config, external labels.Labels, rules store.Config) error {
	next, err := newSettings(c, external, rules)
	if err != nil {
		return fmt.Errorf("remote write to %q: %w", w.name, err)
	}
	old := w.settings.Swap(next)
	if old == nil {
		return nil
	}
	close(old.replaced)
	old.client.CloseIdleConnections()
	w.mu.Lock()
	defer w.mu.Unlock()
	if old.url != next.url || old.config.ProtobufMessage != next.config.ProtobufMessage {
		w.fallback = time.Time{}
		w.metrics.fallback.WithLabelValues(w.name).Set(0)
	}
	if old.url != next.url {
		w.late = late{}
		w.metrics.refusesBackfill.WithLabelValues(w.name).Set(0)
	}
	return nil
}

// Close forgets the metrics of the writer. Its senders are not used any more.
func (w *Writer) Close() {
	w.settings.Load().client.CloseIdleConnections()
	w.metrics.forget(w.name)
}

// Status is what there is to show of a receiver.
type Status struct {
	URL     string // without credentials
	Message string // 1.0 or 2.0, which is sent at the moment
	// Fallback says that the receiver did not understand 2.0.
	Fallback bool
	// RefusesBackfill quotes the receiver if it does not take rows that are late; else it is empty.
	RefusesBackfill string
	// Error of the last attempt to send; nil if it was answered for good.
	Error error
}

// Status returns what there is to show.
func (w *Writer) Status() Status {
	s, message := w.current()
	w.mu.Lock()
	defer w.mu.Unlock()
	status := Status{URL: s.shownURL, Message: "1.0", Error: w.failing, Fallback: message != s.message}
	if message == writeproto.V2 {
		status.Message = "2.0"
	}
	if w.late.refused {
		status.RefusesBackfill = w.late.words
	}
	return status
}

// current returns what is in force, and the message that the receiver gets.
func (w *Writer) current() (*settings, writeproto.Message) {
	s := w.settings.Load()
	if s.message == writeproto.V1 {
		return s, s.message
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.now().Before(w.fallback) {
		return s, writeproto.V1
	}
	return s, s.message
}

// fallBack makes 1.0 what is sent for a while, since the receiver did not understand 2.0.
func (w *Writer) fallBack(words string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	if now.Before(w.fallback) {
		return // another request has found out
	}
	if w.fallback.IsZero() {
		w.log.Warn("receiver does not understand remote write 2.0; it gets 1.0 from now on", "answer", words, "tried_again_in", fallbackFor)
	}
	w.fallback = now.Add(fallbackFor)
	w.metrics.fallback.WithLabelValues(w.name).Set(1)
}

// understood notes that the receiver has taken a request of 2.0.
func (w *Writer) understood() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fallback.IsZero() || w.now().Before(w.fallback) {
		return // the answer to a request from before
	}
	w.fallback = time.Time{}
	w.metrics.fallback.WithLabelValues(w.name).Set(0)
	w.log.Info("receiver understands remote write 2.0 now")
}

// attempted notes how the last attempt ended.
func (w *Writer) attempted(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failing = err
}

// trial is what to do with a request of the backfill feed.
type trial uint8

const (
	trialSend  trial = iota
	trialProbe       // send it, to find out whether the receiver takes what is late again
	trialLeave       // it would be refused
)

// tryLate says what to do with a request of the backfill feed whose newest row has a time in ms: to send it, unless the
// receiver refuses what is late; then only now and then. Words are those with which it refused.
func (w *Writer) tryLate(newest int64) (t trial, words string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	switch {
	case !w.late.refused:
		return trialSend, ""
	case now.Sub(w.late.probed) >= probeEvery, newest >= w.late.newest+probeEvery.Milliseconds():
		// A receiver with a window takes what is new enough: after a long outage, the later part of a backlog.
		w.late.probed, w.late.newest = now, max(w.late.newest, newest)
		return trialProbe, ""
	}
	return trialLeave, w.late.words
}

// refusesLate notes that the receiver took nothing of a request of the backfill feed because it was late.
func (w *Writer) refusesLate(newest int64, words string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.late.refused {
		w.log.Warn("receiver refuses rows that are late; they are a gap there until it takes them, live rows are not affected",
			"answer", words, "tried_again_every", probeEvery)
	}
	w.late = late{refused: true, newest: max(w.late.newest, newest), probed: w.now(), words: words}
	w.metrics.refusesBackfill.WithLabelValues(w.name).Set(1)
}

// takesLate notes that the receiver took some of a request of the backfill feed.
func (w *Writer) takesLate() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.late.refused {
		return
	}
	w.late = late{}
	w.metrics.refusesBackfill.WithLabelValues(w.name).Set(0)
	w.log.Info("receiver takes rows that are late now")
}
