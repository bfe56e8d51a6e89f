package natsmon

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/prometheus/client_golang/prometheus"
)

// Options of New. Config and Logger are required.
type Options struct {
	// Config is valid: its Validate has been called.
	Config Config
	// Embedded is the server in this process; nil if there is none.
	Embedded *server.Server
	// StoreDir is where the embedded server has its store.
	StoreDir string
	Logger   *slog.Logger
	Now      func() time.Time // nil: time.Now
}

// Exporter serves metrics of NATS servers. It is safe for concurrent use.
type Exporter struct {
	options Options
}

// New returns an Exporter. It connects when it is run or scraped; servers need not be there.
func New(o Options) (*Exporter, error) { return &Exporter{options: o}, nil }

// Run counts bytes on the wire and keeps connections to system accounts, until ctx ends.
func (e *Exporter) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Gatherer reads all targets when it is asked. With an error there is what could be read.
func (e *Exporter) Gatherer() prometheus.Gatherer { return prometheus.Gatherers{} }

// EmbeddedGatherer is Gatherer for the embedded server alone.
func (e *Exporter) EmbeddedGatherer() prometheus.Gatherer { return prometheus.Gatherers{} }

// Handler serves Gatherer, within the scrape timeout that the request names.
func (e *Exporter) Handler() http.Handler { return http.NotFoundHandler() }

// EmbeddedHandler serves EmbeddedGatherer.
func (e *Exporter) EmbeddedHandler() http.Handler { return http.NotFoundHandler() }

// Metrics of the exporter itself.
func (e *Exporter) Metrics() []prometheus.Collector { return nil }
