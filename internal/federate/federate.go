package federate

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/store"
)

// maxMatchers bounds the work of one request on each series. The longest lists in use have some hundreds.
const maxMatchers = 4096

// Options of a Handler.
type Options struct {
	// Select reads the store.
	Select func(store.Query) iter.Seq[*store.Family]
	Config Config
	// ExternalLabels are appended to the series that do not have them. Selectors do not see them.
	ExternalLabels labels.Labels
	// View says what the sender of a request may read: what one of the sets of matchers selects. No sets mean nothing.
	// Where it is not limited, or View is nil, he may read everything.
	View func(*http.Request) (sets [][]*labels.Matcher, limited bool)
	// Ready says whether the store has been filled; until then the answer is 503. Nil means always.
	Ready func() bool
	// Now is the clock; nil means time.Now.
	Now    func() time.Time
	Logger *slog.Logger // nil means none
}

// Handler serves /federate. It is safe for concurrent use.
type Handler struct {
	query    func(store.Query) iter.Seq[*store.Family]
	view     func(*http.Request) ([][]*labels.Matcher, bool)
	ready    func() bool
	now      func() time.Time
	logger   *slog.Logger
	parser   parser.Parser
	settings atomic.Pointer[settings]
	metrics  *metrics
	answers  sync.Pool // of *answer
}

// settings are what a reload changes.
type settings struct {
	untyped bool
	extra   []labels.Label // sorted; appended where absent
}

// New returns a handler.
func New(o Options) (*Handler, error) {
	if o.Select == nil {
		return nil, errors.New("create federation handler: nothing to select from")
	}
	h := &Handler{
		query:   o.Select,
		view:    o.View,
		ready:   o.Ready,
		now:     o.Now,
		logger:  o.Logger,
		parser:  parser.NewParser(parser.Options{}),
		metrics: newMetrics(),
	}
	h.answers.New = func() any { return newAnswer() }
	if h.view == nil {
		h.view = func(*http.Request) ([][]*labels.Matcher, bool) { return nil, false }
	}
	if h.ready == nil {
		h.ready = func() bool { return true }
	}
	if h.now == nil {
		h.now = time.Now
	}
	if h.logger == nil {
		h.logger = slog.New(slog.DiscardHandler)
	}
	if err := h.Reload(o.Config, o.ExternalLabels); err != nil {
		return nil, fmt.Errorf("create federation handler: %w", err)
	}
	return h, nil
}

// Reload puts another configuration in force for the requests to come. On an error nothing changes.
func (h *Handler) Reload(c Config, external labels.Labels) error {
	if err := c.Validate(); err != nil {
		return err
	}
	s := &settings{untyped: c.Types == Untyped}
	external.Range(func(l labels.Label) { s.extra = append(s.extra, l) })
	if !external.Has(model.InstanceLabel) {
		// Keeps the reader from adding its own instance, which is this process, to series without one.
		s.extra = append(s.extra, labels.Label{Name: model.InstanceLabel})
	}
	slices.SortFunc(s.extra, func(a, b labels.Label) int { return cmp.Compare(a.Name, b.Name) })
	h.settings.Store(s)
	return nil
}

// ServeHTTP answers GET and HEAD.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	code := h.serve(w, r)
	h.metrics.requests.WithLabelValues(strconv.Itoa(code)).Inc()
	h.metrics.seconds.Observe(time.Since(start).Seconds())
}

// serve checks the request in the order in which Prometheus does, and returns the status.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request) int {
	fail := func(code int, text string) int {
		http.Error(w, text, code)
		return code
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return fail(http.StatusMethodNotAllowed, http.StatusText(http.StatusMethodNotAllowed))
	}
	if !h.ready() {
		return fail(http.StatusServiceUnavailable, http.StatusText(http.StatusServiceUnavailable))
	}
	view, limited := h.view(r)
	if limited && len(view) == 0 {
		return fail(http.StatusForbidden, "there is no view for this user, see hub.views")
	}
	w.Header()["Vary"] = []string{"Accept-Encoding", "Accept"}
	if err := r.ParseForm(); err != nil {
		return fail(http.StatusBadRequest, fmt.Sprintf("error parsing form values: %v", err))
	}
	sets, err := h.parser.ParseMetricSelectors(r.Form["match[]"])
	if err != nil {
		return fail(http.StatusBadRequest, err.Error())
	}
	if limited {
		sets = within(sets, view)
	}
	if n := count(sets); n > maxMatchers {
		return fail(http.StatusBadRequest, fmt.Sprintf("%d matchers in all match[] parameters (times those of the view, if there is one), at most %d are allowed", n, maxMatchers))
	}
	settings := h.settings.Load()
	format := negotiate(r.Header, settings.untyped)
	w.Header().Set("Content-Type", string(format))
	coding := negotiateCoding(r.Header.Values("Accept-Encoding"))
	if coding != codingIdentity {
		w.Header().Set("Content-Encoding", coding)
	}
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return http.StatusOK
	}
	a := h.answers.Get().(*answer)
	a.reset(w, coding)
	err = h.write(r, a, sets, format, settings)
	if err == nil {
		err = a.close()
	}
	h.metrics.series.Add(float64(a.series))
	h.metrics.bytes.Add(float64(a.written))
	a.release()
	h.answers.Put(a)
	if err != nil {
		h.metrics.aborted.Inc()
		h.logger.Debug("federation answer not delivered", "remote", r.RemoteAddr, "err", err)
	}
	return http.StatusOK
}

// within returns sets that select what both one of sets and one of the view select. Empty sets select nothing.
func within(sets, view [][]*labels.Matcher) [][]*labels.Matcher {
	var both [][]*labels.Matcher
	for _, a := range sets {
		for _, b := range view {
			if len(a) > 0 && len(b) > 0 {
				both = append(both, slices.Concat(a, b))
			}
		}
	}
	return both
}

func count(sets [][]*labels.Matcher) (n int) {
	for _, set := range sets {
		n += len(set)
	}
	return n
}

// write makes the answer, family by family. An error means that the reader has gone.
func (h *Handler) write(r *http.Request, a *answer, sets [][]*labels.Matcher, format expfmt.Format, settings *settings) error {
	query := store.Query{
		Matchers: sets, Now: h.now().UnixMilli(), Grouping: store.ByFamily, Native: isProto(format.FormatType()),
	}
	if settings.untyped {
		query.Grouping = store.ByName
	}
	w := newWriter(a, format, settings)
	for family := range h.query(query) {
		if err := r.Context().Err(); err != nil {
			return err
		}
		if family.Conflict {
			h.metrics.conflicts.Inc()
		}
		head := series.Family{Name: family.Name, Type: family.Type, Help: family.Help, Unit: family.Unit}
		if settings.untyped {
			head = series.Family{Name: family.Name, Type: untypedKind(family.Kind)}
		}
		if err := w.family(family, &head); err != nil {
			return err
		}
	}
	w.end()
	return nil
}

type metrics struct {
	requests                          *prometheus.CounterVec
	seconds                           prometheus.Histogram
	bytes, series, conflicts, aborted prometheus.Counter
}

func newMetrics() *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "thalweg_federate_requests_total",
			Help: "Requests to /federate, by status code.",
		}, []string{"code"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "thalweg_federate_request_duration_seconds",
			Help:    "Time from a request to the end of its answer.",
			Buckets: []float64{.001, .005, .025, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}),
		bytes:     counter("thalweg_federate_response_bytes_total", "Bytes of answers sent, as they went over the wire."),
		series:    counter("thalweg_federate_series_total", "Series written to answers."),
		conflicts: counter("thalweg_federate_type_conflicts_total", "Families in answers whose series disagreed on the type."),
		aborted:   counter("thalweg_federate_aborted_total", "Answers that were not delivered because the reader had gone or did not read."),
	}
	for _, code := range []int{http.StatusOK, http.StatusBadRequest, http.StatusForbidden, http.StatusMethodNotAllowed, http.StatusServiceUnavailable} {
		m.requests.WithLabelValues(strconv.Itoa(code))
	}
	return m
}

// Metrics returns the handler's collectors.
func (h *Handler) Metrics() []prometheus.Collector {
	m := h.metrics
	return []prometheus.Collector{m.requests, m.seconds, m.bytes, m.series, m.conflicts, m.aborted}
}
