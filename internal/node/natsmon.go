package node

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	dto "github.com/prometheus/client_model/go"
	toolkit "github.com/prometheus/exporter-toolkit/web"

	"github.com/thalweg/thalweg/internal/natsmon"
	"github.com/thalweg/thalweg/internal/web"
)

// natsmonRole serves metrics of NATS servers. Beside an edge they are those of one more source of the site.
type natsmonRole struct {
	exporter *natsmon.Exporter
	section  bool        // false: there is only the block metrics of nats.embedded.config_file
	own      *web.Server // of listen_address; nil: only the web listener has the metrics
	block    *web.Server // of that block; nil where there is none
}

// newNatsmon adds its handler to those of the web listener, and opens listeners of its own if there are to be any. It
// returns nil where nothing asks for metrics of NATS. It is called after newEdge.
func (n *Node) newNatsmon(handlers map[string]http.Handler) (_ *natsmonRole, err error) {
	c := n.config.NATSExporter
	options := natsmon.Options{Config: natsmon.DefaultConfig(), Logger: n.log.With("component", "nats exporter")}
	block := ""
	if n.server != nil {
		options.Embedded, options.StoreDir, block = n.server.NATS(), n.server.StoreDir(), n.server.MetricsAddress()
	}
	if c == nil && block == "" {
		return nil, nil
	}
	if c != nil {
		options.Config = *c
	}
	r := &natsmonRole{section: c != nil}
	if r.exporter, err = natsmon.New(options); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	n.metrics.MustRegister(r.exporter.Metrics()...)
	if block != "" {
		if r.block, err = n.listenNatsmon(block, toolkit.TLSConfig{}, r.exporter.EmbeddedHandler()); err != nil {
			return nil, fmt.Errorf("block metrics of nats.embedded.config_file: %w", err)
		}
	}
	if c == nil {
		return r, nil
	}
	if c.ListenAddress != "" {
		if r.own, err = n.listenNatsmon(c.ListenAddress, c.TLSServerConfig, r.exporter.Handler()); err != nil {
			return nil, err
		}
	}
	var urls []string
	for _, s := range c.Servers {
		urls = append(urls, s.URL)
	}
	for _, s := range c.System {
		urls = append(urls, s.URLs...)
	}
	options.Logger.Info("reading NATS servers when asked", "embedded", c.Embedded, "urls", urls)
	handlers["/nats/metrics"] = n.unlimited(r.exporter.Handler())
	if n.edge != nil {
		n.edge.addSampled("nats/"+n.config.Site, "nats", func(ctx context.Context) ([]*dto.MetricFamily, error) {
			return r.exporter.Gather(ctx, time.Duration(n.current().Global.ScrapeTimeout))
		})
	}
	return r, nil
}

// listenNatsmon opens a listener that has nothing but metrics of NATS, and whether the process works.
func (n *Node) listenNatsmon(address string, tls toolkit.TLSConfig, metrics http.Handler) (*web.Server, error) {
	page, err := toolkit.NewLandingPage(toolkit.LandingConfig{
		Name: "Thalweg", Description: "Metrics of NATS servers", Version: n.options.Version, Profiling: "false",
		Links: []toolkit.LandingLinks{
			{Address: "/metrics", Text: "Metrics"},
			{Address: "/-/healthy", Text: "Healthy", Description: "whether this process runs"},
			{Address: "/-/ready", Text: "Ready", Description: "whether it has what it needs"},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("make landing page: %w", err)
	}
	log := n.log.With("component", "nats exporter")
	l, err := web.NewBare(web.BareOptions{
		ListenAddress: address, TLS: tls, Logger: log, Handlers: map[string]http.Handler{
			"/metrics": metrics, "/{$}": page, "/-/healthy": http.HandlerFunc(web.Healthy), "/-/ready": n.health,
		},
	})
	if err != nil {
		return nil, err
	}
	log.Info("listening for scrapes", "address", l.Addr(), "tls", tls.IsEnabled())
	return l, nil
}

// listeners are those that there are.
func (r *natsmonRole) listeners() []*web.Server {
	return slices.DeleteFunc([]*web.Server{r.own, r.block}, func(l *web.Server) bool { return l == nil })
}

// close closes what was never run.
func (r *natsmonRole) close() {
	for _, l := range r.listeners() {
		_ = l.Close() // closed already after Run
	}
}

// roles in words, for people.
func (r *natsmonRole) roles() (roles []string) {
	switch {
	case r.own != nil:
		roles = append(roles, "NATS exporter at "+r.own.Addr().String())
	case r.section:
		roles = append(roles, "NATS exporter")
	}
	if r.block != nil {
		roles = append(roles, "NATS metrics at "+r.block.Addr().String())
	}
	return roles
}
