package node

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/thalweg/thalweg/internal/config"
	"github.com/thalweg/thalweg/internal/events"
	"github.com/thalweg/thalweg/internal/telemetry"
	"github.com/thalweg/thalweg/internal/web"
)

// gatewayRole aggregates events. Beside an edge its rows are those of one more source of the site.
type gatewayRole struct {
	gateway  *events.Gateway
	listener *web.Server  // nil: on the web listener alone
	reader   *eventReader // nil: no events are taken from NATS
	log      *telemetry.Log
}

// newGateway adds its handlers to those of the web listener, and opens a listener of its own if there is to be one. It is
// called after newEdge.
func (n *Node) newGateway(handlers map[string]http.Handler) (_ *gatewayRole, err error) {
	c := n.config.Gateway
	r := &gatewayRole{log: n.log}
	log := n.log.With("component", "gateway")
	options := events.Options{
		Config: *c, Dir: filepath.Join(n.config.DataDir, "events"), Site: n.config.Site, Condition: n.health.Condition("gateway"), Logger: log,
	}
	if n.edge != nil {
		options.Sink, options.Catalog, options.Interval = n.edge.sink, n.catalog, time.Duration(n.config.Global.ScrapeInterval)
	}
	if r.gateway, err = events.Open(options); err != nil {
		return nil, err
	}
	if c.NATS != nil {
		if r.reader, err = n.newEventReader(r.gateway); err != nil {
			return nil, errors.Join(err, r.gateway.Close())
		}
	}
	if c.ListenAddress != "" {
		r.listener, err = web.NewBare(web.BareOptions{
			ListenAddress: c.ListenAddress, TLS: c.TLSServerConfig, Logger: log, Handlers: r.gateway.OwnHandlers(),
		})
		if err != nil {
			return nil, errors.Join(err, r.gateway.Close())
		}
		log.Info("listening for events", "address", r.listener.Addr(), "tls", c.TLSServerConfig.IsEnabled())
	}
	if a, ok := n.listener.Addr().(*net.TCPAddr); ok && c.HTTP && c.ListenAddress == "" && !a.IP.IsLoopback() && n.anybody() {
		log.Warn("everybody who reaches the web listener can post events; give it users, or set gateway.http: false", "address", a)
	}
	own := r.gateway.Handlers()
	own["/gateway/metrics"] = n.unlimited(own["/gateway/metrics"])
	maps.Copy(handlers, own)
	n.metrics.MustRegister(r.gateway.Metrics()...)
	return r, nil
}

// anybody reports whether nobody has to log in at the web listener.
func (n *Node) anybody() bool {
	users, err := config.WebUsers(n.options.WebConfigFile)
	return err == nil && len(users) == 0
}

// unlimited refuses who may read only what a view of the hub selects: the page is not made series by series for each user.
func (n *Node) unlimited(h http.Handler) http.Handler {
	if n.hub == nil {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if sight, limited := n.hub.sight(r); limited && !sight.SeesAll() {
			http.Error(w, "your view is a part of what there is; see /federate", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// apply puts a changed configuration in force.
func (r *gatewayRole) apply(c *config.Config) {
	r.gateway.Reload(*c.Gateway, time.Duration(c.Global.ScrapeInterval))
}

// serve serves the listener until ctx ends; without one it waits.
func (r *gatewayRole) serve(ctx context.Context) error {
	if r.listener != nil {
		return r.listener.Run(ctx)
	}
	<-ctx.Done()
	return nil
}

// close lets go of the state, and closes what was never run.
func (r *gatewayRole) close() {
	if r.listener != nil {
		_ = r.listener.Close() // closed already after serve
	}
	if err := r.gateway.Close(); err != nil {
		r.log.Error("close event gateway", "err", err)
	}
}

// role in words, for people.
func (r *gatewayRole) role() string {
	if r.listener == nil {
		return "event gateway"
	}
	return "event gateway at " + r.listener.Addr().String()
}
