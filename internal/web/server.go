package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	toolkit "github.com/prometheus/exporter-toolkit/web"
	"golang.org/x/net/netutil"

	"github.com/thalweg/thalweg/internal/telemetry"
)

const (
	maxConnections = 512 // as in Prometheus
	maxHeaderBytes = 64 << 10
	readTimeout    = time.Minute // of a whole request with its body
	idleTimeout    = 2 * time.Minute
	drainTimeout   = 5 * time.Second // for the requests in flight when Run ends
)

// Options of a Server. Logger, Gatherer and Health are required.
type Options struct {
	// ListenAddress is HOST:PORT. Port 0 takes a free one; see Server.Addr.
	ListenAddress string
	// Listener in place of ListenAddress, from Listen: for a program that wants to know early that its port is free.
	Listener net.Listener
	// ConfigFile is a web configuration of exporter-toolkit (TLS, basic authentication); "" is none. Certificates and
	// users in it are read again when they change.
	ConfigFile string
	Logger     *slog.Logger
	Gatherer   prometheus.Gatherer // what /metrics shows
	Health     *telemetry.Health   // what /-/ready says
	// Reload loads the configuration anew and returns when it is in use, or an error if the old one stays.
	Reload func(context.Context) error
	// Handlers of further paths by pattern of http.ServeMux, such as "/federate".
	Handlers map[string]http.Handler
	// Outer wraps everything, also the question who sends a request: what it answers by itself, it answers to everybody. Nil:
	// there is nothing of the kind.
	Outer  func(http.Handler) http.Handler
	Status Status
	// Credentials serve the API about who may connect; nil: there is none.
	Credentials *Credentials
	// Narrow leaves in a status what the sender of a request may see; nil if that is everything for everybody.
	Narrow func(*http.Request, Status) Status
}

// status is what the sender of a request may see.
func (o *Options) status(r *http.Request) Status {
	if o.Narrow == nil {
		return o.Status
	}
	return o.Narrow(r, o.Status)
}

// Server serves HTTP on one listener.
type Server struct {
	listener   net.Listener
	configFile string
	log        *slog.Logger
	http       *http.Server
	metrics    *metrics
}

// Listen checks a web configuration file, "" for none, and binds a listener.
func Listen(address, configFile string) (net.Listener, error) {
	if err := toolkit.Validate(configFile); err != nil {
		return nil, fmt.Errorf("check web configuration %q: %w", configFile, err)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("bind web listener: %w", err)
	}
	return l, nil
}

// New binds the listener and checks the web configuration. Nothing is served before Run.
func New(o Options) (*Server, error) {
	l := o.Listener
	if l == nil {
		var err error
		if l, err = Listen(o.ListenAddress, o.ConfigFile); err != nil {
			return nil, err
		}
	}
	m := newMetrics()
	s := &Server{
		listener:   l,
		configFile: o.ConfigFile,
		log:        o.Logger,
		metrics:    m,
		http:       newHTTP(routes(&o, m), o.Logger),
	}
	if o.Outer != nil {
		// exporter-toolkit puts its handler, which asks for users, around ours just before it serves: this is called then.
		s.http.BaseContext = func(net.Listener) context.Context {
			s.http.Handler = o.Outer(s.http.Handler)
			return context.Background()
		}
	}
	return s, nil
}

func newHTTP(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       readTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		// There is no WriteTimeout: answers of /federate and profiles take as long as they take.
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// Addr is the address of the listener.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Metrics returns the collectors of this package.
func (s *Server) Metrics() []prometheus.Collector { return s.metrics.collectors() }

// Run serves until ctx ends, then waits a moment for the requests in flight. It returns an error only if serving fails
// before. The listener is closed afterwards.
func (s *Server) Run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() {
		l := netutil.LimitListener(s.listener, maxConnections)
		served <- toolkit.Serve(l, s.http, &toolkit.FlagConfig{WebConfigFile: &s.configFile}, slog.New(warnings{s.log.Handler()}))
	}()
	select {
	case err := <-served:
		return fmt.Errorf("serve HTTP on %s: %w", s.Addr(), err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if err := s.http.Shutdown(drain); err != nil {
		s.log.Warn("http requests cut off at shutdown", "err", err)
		_ = s.http.Close() // nothing is left to be done about its error
	}
	// A server that was shut down before it began to serve leaves the listener open.
	_ = s.listener.Close()
	if err := <-served; !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("serve HTTP on %s: %w", s.Addr(), err)
	}
	return nil
}

// Close closes the listener of a server that was never run.
func (s *Server) Close() error {
	if err := s.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close web listener: %w", err)
	}
	return nil
}

// warnings leaves out what exporter-toolkit says about an ordinary start.
type warnings struct{ slog.Handler }

func (h warnings) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && h.Handler.Enabled(ctx, level)
}
