package remotewrite

import (
	"fmt"
	"iter"
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
	// maxLateSites bounds the sites of which is known that their late rows are refused.
	maxLateSites = 10_000
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
	fallback time.Time        // 1.0 is sent until then; zero if 2.0 was never refused
	late     map[string]*late // by site
	refusing bool             // for one of them at least
	failing  error            // of the last attempt
}

// NewWriter returns a writer. It makes no connection.
func NewWriter(o WriterOptions) (*Writer, error) {
	w := &Writer{
		name: o.Config.OutputName(), userAgent: "Thalweg/" + o.Version, now: o.Now, metrics: o.Metrics, late: map[string]*late{},
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
		clear(w.late)
		w.setRefusing()
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
	// RefusesBackfill quotes the receiver if there are sites of which it takes no rows that are late; else it is empty.
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
	for _, l := range w.late {
		if !l.takes {
			status.RefusesBackfill = l.words
			break
		}
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

// late is what is known of how a receiver takes rows of a site that are late.
type late struct {
	newest int64     // time of a row that was refused, in ms: what is older, or hardly newer, is refused as well
	probed time.Time // when that was tried last
	words  string    // of the receiver
	source uint64    // one that was refused
	takes  bool      // newer rows of that, since
}

// tooLate reports whether a row of the backfill feed would be refused because it is late, and with which words. Now and
// then such a row has to be tried. A receiver with a window takes what is new enough: of a backlog, the later part.
func (w *Writer) tooLate(o *sentRow) (words string, late bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.late[o.site]
	if l == nil || o.t >= l.newest+lateSpan.Milliseconds() || w.now().Sub(l.probed) >= probeEvery {
		return "", false
	}
	return l.words, true
}

// isLate reports whether rows of a site were refused because they were late.
func (w *Writer) isLate(site string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.late[site] != nil
}

// refusesLate notes that the receiver took none of the rows of a site up to a time because they were late. One of them
// stands for all.
func (w *Writer) refusesLate(row *sentRow, words string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	newest := row.t
	if old := w.late[row.site]; old != nil {
		newest = max(newest, old.newest)
	} else if len(w.late) >= maxLateSites {
		clear(w.late) // they are found out again
	}
	w.late[row.site] = &late{newest: newest, probed: w.now(), words: words, source: row.source}
	if !w.refusing {
		w.log.Warn("receiver refuses rows that are late; they are a gap there until it takes them, live rows are not affected",
			"site", row.site, "answer", words, "tried_again_every", probeEvery)
	}
	w.setRefusing()
}

// takesLate notes that the receiver took rows of the backfill feed.
func (w *Writer) takesLate(rows iter.Seq[*sentRow]) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.late) == 0 {
		return
	}
	for o := range rows {
		switch l := w.late[o.site]; {
		case l == nil:
		case o.t <= l.newest:
			delete(w.late, o.site)
		case o.source == l.source: // others may have nothing newer there, so that nothing of them is late
			l.takes = true
		}
	}
	if was := w.refusing; w.setRefusing() != was {
		w.log.Info("receiver takes rows that are late now")
	}
}

// setRefusing notes whether there is a site of which no late rows are taken. The caller holds mu.
func (w *Writer) setRefusing() bool {
	w.refusing = false
	for _, l := range w.late {
		w.refusing = w.refusing || !l.takes
	}
	gauge := w.metrics.refusesBackfill.WithLabelValues(w.name)
	gauge.Set(0)
	if w.refusing {
		gauge.Set(1)
	}
	return w.refusing
}
