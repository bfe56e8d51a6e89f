package telemeter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/thalweg/thalweg/internal/pipeline"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/telemetry"
)

// Lanes is where rows go. It is safe for concurrent use.
type Lanes interface {
	// Ready returns nil if a row of a site would be taken now, with a spacing between two rows; 0 is none. Otherwise the
	// error says why not, as that of Store.
	Ready(ctx context.Context, site string, spacing time.Duration) error
	// Store returns nil when a row is stored for good, so that every hub will have it, once. The error is a *EarlyError,
	// or has ErrTaken, ErrNotAdmitted or ErrTooLarge in its chain; after any other one the row may be stored or not.
	Store(ctx context.Context, site string, spacing time.Duration, row *series.Row) error
}

// EarlyError says that the spacing since the last row is not over.
type EarlyError struct{ Wait time.Duration }

func (e *EarlyError) Error() string { return fmt.Sprintf("the next one is taken in %s", e.Wait) }

// Why Lanes does not take a row.
var (
	ErrTaken       = errors.New("the site has an edge")
	ErrNotAdmitted = errors.New("the site is not admitted")
	ErrTooLarge    = errors.New("larger than a message may be")
)

// Options of New. All are required but Now.
type Options struct {
	Config Config
	Hub    HubConfig
	Lanes  Lanes
	// Key signs tokens; nil as long as there is none. It may change.
	Key     func() *Key
	Catalog *series.Catalog
	Logger  *slog.Logger
	Now     func() time.Time
}

// HubConfig is what the hub asks of all series, clients' or not.
type HubConfig struct {
	SiteLabel      string
	RequiredLabels pipeline.RequiredLabels
	Limits         pipeline.Limits // those of the labels of one series
}

// maxDecoding bounds the pushes that are decoded at a time; others wait.
const maxDecoding = 8

// repeatEvery bounds how often the same trouble is logged.
const repeatEvery = time.Minute

// Server answers telemeter clients. It is safe for concurrent use.
type Server struct {
	lanes    Lanes
	key      func() *Key
	catalog  *series.Catalog
	log      *slog.Logger
	repeats  *telemetry.Repeats
	now      func() time.Time
	metrics  *metrics
	decoding chan struct{} // has a token for each push that is decoded
	settings atomic.Pointer[settings]

	mu     sync.Mutex
	pushes map[string]bool // ids of the pushes under way
}

// settings are what a reload changes.
type settings struct {
	config    Config
	hub       HubConfig
	authority authority
	rules     *pipeline.Pipeline
}

// New returns a server. It reads the file of tokens.
func New(o Options) (*Server, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Server{
		lanes: o.Lanes, key: o.Key, catalog: o.Catalog, log: o.Logger, now: o.Now, metrics: newMetrics(),
		repeats: telemetry.NewRepeats(o.Logger, repeatEvery), decoding: make(chan struct{}, maxDecoding), pushes: map[string]bool{},
	}
	use, err := s.Prepare(o.Config, o.Hub)
	if err != nil {
		return nil, err
	}
	use()
	return s, nil
}

// Prepare reads what another configuration needs, and returns a function that puts it in force. Neither the path nor the
// listener changes.
func (s *Server) Prepare(c Config, hub HubConfig) (use func(), err error) {
	next := &settings{config: c, hub: hub}
	if before := s.settings.Load(); c.TokensFile != "" {
		if next.authority, err = readTokens(c.TokensFile); err != nil {
			return nil, err
		}
	} else if before != nil && before.config.AuthorizeURL == c.AuthorizeURL {
		next.authority = before.authority
	} else {
		next.authority = newUpstream(c.AuthorizeURL)
	}
	match, err := pipeline.ParseMatch(c.Match)
	if err != nil {
		return nil, err
	}
	limits := pipeline.Limits{Labels: hub.Limits.Labels, LabelNameLength: hub.Limits.LabelNameLength, LabelValueLength: hub.Limits.LabelValueLength}
	next.rules, err = pipeline.New(pipeline.Options{
		Catalog: s.catalog, Match: []pipeline.Selection{match}, RequiredLabels: hub.RequiredLabels, Limits: limits,
		OnDrop: func(pipeline.Reason) {},
	})
	if err != nil {
		return nil, err
	}
	return func() { s.settings.Store(next) }, nil
}

// Handlers are the endpoints by pattern of http.ServeMux.
func (s *Server) Handlers() map[string]http.Handler {
	prefix := s.settings.Load().config.PathPrefix
	return map[string]http.Handler{
		"POST " + prefix + "/authorize": http.HandlerFunc(s.authorize),
		"POST " + prefix + "/upload":    http.HandlerFunc(s.upload),
	}
}

// Metrics returns the collectors of this package.
func (s *Server) Metrics() []prometheus.Collector { return s.metrics.all() }

// begin notes that a client pushes, unless it does already.
func (s *Server) begin(id string) (ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pushes[id] {
		return false
	}
	s.pushes[id] = true
	return true
}

func (s *Server) end(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pushes, id)
}

// audit logs what was refused for want of a right, of each kind once a minute.
func (s *Server) audit(kind, message, id string, r *http.Request, err error) {
	s.repeats.Log(slog.LevelWarn, kind, message, slog.String("audit", kind), slog.String("id", shortened(id)),
		slog.String("remote", r.RemoteAddr), slog.Any("err", err))
}
