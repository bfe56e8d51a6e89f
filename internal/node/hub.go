package node

import (
	"cmp"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/config"
	"github.com/thalweg/thalweg/internal/federate"
	"github.com/thalweg/thalweg/internal/hub"
	"github.com/thalweg/thalweg/internal/receive"
	"github.com/thalweg/thalweg/internal/store"
)

// hubRole is a hub and what serves its store.
type hubRole struct {
	node     *Node
	conn     *bus.Conn
	hub      *hub.Hub
	store    *store.Store
	federate *federate.Handler
	views    atomic.Pointer[hub.Views]
	outputs  *outputs
	receiver *receiver // nil where nothing is received
}

func (n *Node) newHub(handlers map[string]http.Handler) (*hubRole, error) {
	c := n.config
	r := &hubRole{node: n}
	var err error
	if r.conn, err = n.connect(c.HubClient(), "hub", ""); err != nil {
		return nil, err
	}
	if r.store, err = store.New(store.Options{Config: c.Hub.Store, Limits: r.limits}); err != nil {
		return nil, err
	}
	var refuse func(site string, d time.Duration)
	if n.server != nil && c.Hub.NATS == nil { // who runs an external server has to cut a site off there
		refuse = n.server.Refuse
	}
	var streamBytes int64
	if stream := c.HubClient().Stream; stream.Manage {
		streamBytes = int64(stream.MaxBytes)
	}
	r.hub, err = hub.New(hub.Options{
		Config: c.Hub.Config, Name: cmp.Or(c.Hub.Name, c.Site), Conn: r.conn, Store: r.store, Catalog: n.catalog,
		Logger: n.log.With("component", "hub"), Dir: filepath.Join(c.DataDir, "hub"), URL: n.outside,
		Retention: time.Duration(c.HubClient().Stream.MaxAge), Refuse: refuse, StreamBytes: streamBytes,
	})
	if err != nil {
		return nil, err
	}
	views, err := r.newViews(c)
	if err != nil {
		return nil, err
	}
	r.views.Store(views)
	r.federate, err = federate.New(federate.Options{
		Select: r.store.Select, View: r.federateView, Config: c.Hub.Federate, ExternalLabels: c.Global.ExternalLabels, Ready: r.caughtUp,
		Logger: n.log.With("component", "federate"),
	})
	if err != nil {
		return nil, err
	}
	handlers["/federate"] = r.federate
	handlers["GET /sd/hubs"] = http.HandlerFunc(r.discoverHubs)
	handlers["GET /sd/sites"] = http.HandlerFunc(n.discoverSites)
	sites := prometheus.NewRegistry()
	sites.MustRegister(r.hub.SiteMetrics()...)
	handlers["GET /metrics/sites"] = promhttp.HandlerFor(sites, promhttp.HandlerOpts{EnableOpenMetrics: true})
	n.siteMetrics = sites
	n.metrics.MustRegister(r.hub.Metrics()...)
	n.metrics.MustRegister(r.store.Metrics()...)
	n.metrics.MustRegister(r.federate.Metrics()...)
	if r.outputs, err = n.newOutputs(r.hub, c); err != nil {
		return nil, err
	}
	r.receiver, err = n.newReceiver(receiverOptions{
		role: receive.Hub, config: &c.Hub.Receive, commit: r.commit, sample: r.commit, dir: groupsDir(c, receive.Hub),
	}, handlers)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// limits of a site in the store. The store asks whenever a site is about to grow.
func (r *hubRole) limits(site string) store.Limits {
	return r.node.current().Hub.StoreLimits(site)
}

func (r *hubRole) caughtUp() bool {
	select {
	case <-r.hub.CaughtUp():
		return true
	default:
		return false
	}
}

// apply puts a changed configuration in force, and its views, which newViews made.
func (r *hubRole) apply(c *config.Config, views *hub.Views) error {
	r.views.Store(views)
	if err := r.federate.Reload(c.Hub.Federate, c.Global.ExternalLabels); err != nil {
		return err
	}
	return r.hub.Apply(c.Hub.Config)
}
