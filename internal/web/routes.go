package web

import (
	"context"
	"fmt"
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// routes assembles the mux.
func routes(o *Options, m *metrics) http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern, name string, h http.Handler) { mux.Handle(pattern, m.instrument(name, h)) }

	handle("GET /{$}", "/", page(o))
	handle("GET /metrics", "/metrics", promhttp.HandlerFor(o.Gatherer, promhttp.HandlerOpts{
		EnableOpenMetrics: true,
		ErrorHandling:     promhttp.ContinueOnError, // a broken collector must not hide the others
	}))
	handle("GET /-/healthy", "/-/healthy", http.HandlerFunc(Healthy))
	handle("GET /-/ready", "/-/ready", o.Health)
	// A web page that somebody has open elsewhere must not be able to reload us.
	handle("POST /-/reload", "/-/reload", http.NewCrossOriginProtection().Handler(reload(o)))
	api(o, handle)
	if o.Credentials != nil {
		credentialRoutes(o.Credentials, handle)
	}
	handle("GET /debug/lanes", "/debug/lanes", debugLanes(o))
	for pattern, h := range o.Handlers {
		handle(pattern, pattern, h)
	}

	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

// Healthy answers that the process runs.
func Healthy(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "Thalweg is healthy.") }

func reload(o *Options) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if o.Reload == nil {
			http.Error(w, "this process runs without a configuration file", http.StatusNotFound)
			return
		}
		// A client that goes away must not leave a configuration half applied.
		if err := o.Reload(context.WithoutCancel(r.Context())); err != nil {
			http.Error(w, "configuration not changed:\n"+err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintln(w, "Configuration reloaded.")
	})
}

type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

func newMetrics() *metrics {
	return &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "thalweg_http_requests_total",
			Help: "HTTP requests answered, by handler and status code.",
		}, []string{"handler", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "thalweg_http_request_duration_seconds",
			Help:    "Time from the header of a request to the end of the answer.",
			Buckets: []float64{.001, .01, .1, 1, 10, 60},
		}, []string{"handler"}),
	}
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.requests, m.seconds}
}

func (m *metrics) instrument(name string, h http.Handler) http.Handler {
	label := prometheus.Labels{"handler": name}
	return promhttp.InstrumentHandlerDuration(m.seconds.MustCurryWith(label),
		promhttp.InstrumentHandlerCounter(m.requests.MustCurryWith(label), h))
}
