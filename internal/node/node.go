package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/config"
	"github.com/thalweg/thalweg/internal/identity"
	"github.com/thalweg/thalweg/internal/natsd"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/telemetry"
	"github.com/thalweg/thalweg/internal/web"
)

// Options of New. Config and Log are required.
type Options struct {
	Config *config.Config
	// Load reads the configuration anew; nil where there is no file.
	Load    func() (*config.Config, error)
	Log     *telemetry.Log
	Version string
	// ListenAddress of the web listener, and its web configuration file or "". A process whose one role is the NATS exporter
	// with a listener of its own can do without a web listener: "".
	ListenAddress, WebConfigFile string
	// ExternalURL is where Prometheus and other hubs reach the web listener; "" is worked out from the listener.
	ExternalURL string
	// Immediate makes the first scrape of each target at once instead of on the grid.
	Immediate bool
}

// Node is one process, or a part of one: all roles of a configuration.
type Node struct {
	options Options
	started time.Time
	log     *telemetry.Log
	metrics *telemetry.Metrics
	health  *telemetry.Health
	// siteMetrics has what a hub says about each site; nil where there is no hub.
	siteMetrics *prometheus.Registry
	catalog     *series.Catalog

	server *natsd.Server // nil if none is embedded
	keeper *bus.Conn     // keeps the stream of an embedded server in a process that is no hub
	edge   *edgeRole     // nil where the role is off
	hub    *hubRole
	// telemeter is nil where the hub takes no pushes.
	telemeter *telemeterRole
	gateway   *gatewayRole // nil where the role is off
	natsmon   *natsmonRole // nil where nothing asks for metrics of NATS
	web       *web.Server  // nil where there is none
	listener  net.Listener // of web
	scheme    string       // of it
	// outside is the web listener's URL for other machines.
	outside string

	reloading sync.Mutex // held by Reload

	mu     sync.Mutex
	conns  []*bus.Conn
	config *config.Config // in force; what cannot be reloaded is read from options.Config
	notes  []string       // keys of the file that need a restart
}

// New binds the web listener, starts the embedded server, if there is one, and opens what is on disk. Connections are
// made in the background. After an error nothing is left behind.
func New(o Options) (_ *Node, err error) {
	n := &Node{
		options: o, started: time.Now(), log: o.Log, config: o.Config, catalog: series.NewCatalog(),
		metrics: telemetry.NewMetrics(telemetry.ReadBuild(o.Version)), health: telemetry.NewHealth(),
	}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	n.metrics.Loaded(n.started, nil)
	n.metrics.MustRegister(n.health)
	defer func() {
		if n.listener != nil && n.web == nil {
			_ = n.listener.Close() // nobody knows of it
		}
	}()
	if err := n.listen(); err != nil {
		return nil, err
	}
	if err := n.startServer(); err != nil {
		return nil, err
	}
	handlers := map[string]http.Handler{}
	if o.Config.Hub != nil {
		if n.hub, err = n.newHub(handlers); err != nil {
			return nil, fmt.Errorf("start hub: %w", err)
		}
	}
	if o.Config.Hub != nil && o.Config.Hub.Telemeter != nil {
		if n.telemeter, err = n.newTelemeter(handlers); err != nil {
			return nil, fmt.Errorf("start hub.telemeter: %w", err)
		}
	}
	if o.Config.Edge != nil {
		if n.edge, err = n.newEdge(handlers); err != nil {
			return nil, fmt.Errorf("start edge: %w", err)
		}
	}
	if o.Config.Gateway != nil {
		if n.gateway, err = n.newGateway(handlers); err != nil {
			return nil, fmt.Errorf("start gateway: %w", err)
		}
	}
	if n.natsmon, err = n.newNatsmon(handlers); err != nil {
		return nil, fmt.Errorf("start NATS exporter: %w", err)
	}
	if n.server != nil && n.hub == nil {
		if n.keeper, err = n.connect(o.Config.NATS.Client, "stream", ""); err != nil {
			return nil, err
		}
	}
	if n.listener == nil {
		return n, nil
	}
	options := web.Options{
		Listener: n.listener, ConfigFile: o.WebConfigFile, Logger: n.log.Logger, Gatherer: n.metrics, Health: n.health,
		Reload: n.reloader(), Handlers: handlers, Status: n.webStatus(), Narrow: n.narrow, Credentials: n.webCredentials(),
	}
	if n.gateway != nil {
		options.Outer = n.gateway.gateway.AllowOrigins
	}
	n.web, err = web.New(options)
	if err != nil {
		return nil, err
	}
	n.metrics.MustRegister(n.web.Metrics()...)
	return n, nil
}

// listen binds the web listener, if there is to be one, so that a port that is taken is known early.
func (n *Node) listen() (err error) {
	o, c := &n.options, n.options.Config
	if o.ListenAddress == "" {
		if c.Hub != nil || c.Edge != nil || c.Gateway != nil || c.NATSExporter == nil || c.NATSExporter.ListenAddress == "" {
			return errors.New("the web listener has no address; only a NATS exporter with a listen_address of its own can do without")
		}
		return nil
	}
	if n.listener, err = web.Listen(o.ListenAddress, o.WebConfigFile); err != nil {
		return err
	}
	secure, err := config.WebTLS(o.WebConfigFile)
	if err != nil {
		return err
	}
	if n.scheme = "http://"; secure {
		n.scheme = "https://"
	}
	if n.outside = o.ExternalURL; n.outside == "" {
		n.outside = outsideURL(n.scheme, n.listener.Addr())
	}
	return nil
}

// startServer starts the embedded server if the configuration has one.
func (n *Node) startServer() error {
	c := n.options.Config
	embedded := c.Embedded()
	if embedded == nil {
		return nil
	}
	condition := n.health.Condition("nats")
	server, err := natsd.Start(natsd.Options{
		Config: *embedded, Name: c.Site, StoreDir: filepath.Join(c.DataDir, "nats"), Root: bus.Root(c.NATS.Client.SubjectRoot),
		Stream: c.NATS.Client.Stream, Logger: n.log.With("component", "nats"),
		Report: func(problem string) {
			if problem == "" {
				condition.Ready()
			} else {
				condition.NotReady(problem)
			}
		},
	})
	if err != nil {
		return err
	}
	n.server = server
	n.metrics.MustRegister(server.Metrics()...)
	return nil
}

// connect makes a connection of a role. A site's name makes it an edge's, otherwise it is a hub's.
func (n *Node) connect(c bus.Config, name, site string) (*bus.Conn, error) {
	return n.dial(bus.Options{Config: c, Site: site, Name: name})
}

// dial is connect with further options.
func (n *Node) dial(o bus.Options) (*bus.Conn, error) {
	c, site := &o.Config, o.Site
	o.Logger = n.log.With("connection", o.Name)
	if c.CredentialFile != "" {
		o.Login, o.LoginSource = identity.Login(c.CredentialFile, site), "credential "+c.CredentialFile
	}
	if len(c.URLs) == 0 {
		switch {
		case n.server == nil:
			return nil, errors.New("nats has no urls, and no server is embedded")
		case site == "":
			o.InProcess = n.server.Core()
		default:
			o.InProcess = n.server.Site(site)
		}
	}
	conn, err := bus.Connect(o)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.conns = append(n.conns, conn)
	n.mu.Unlock()
	n.metrics.MustRegister(conn.Metrics()...)
	return conn, nil
}

// Run works until ctx ends, and then drains. It is called once.
func (n *Node) Run(ctx context.Context) error {
	defer n.close()
	failed := make(chan error, 1) // the first one counts
	fail := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	stage := func(name string, run func(context.Context) error) (stop func()) {
		ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := run(ctx); err != nil && ctx.Err() == nil {
				fail(fmt.Errorf("%s: %w", name, err))
			} else if ctx.Err() == nil {
				fail(fmt.Errorf("%s: ended by itself", name))
			}
		}()
		return func() {
			cancel()
			<-done
		}
	}
	var stops []func() // in the order of stopping
	before := func(stop func()) { stops = append([]func(){stop}, stops...) }
	if n.server != nil {
		before(stage("NATS server", n.server.Run))
	}
	before(n.disconnect)
	if n.server != nil && n.hub == nil {
		before(stage("stream keeper", n.keepStream))
	}
	if n.web != nil {
		before(stage("web", n.web.Run))
	}
	if n.telemeter != nil {
		before(stage("telemeter", n.telemeter.run))
	}
	before(stage("conditions", n.keepConditions))
	if n.hub != nil {
		before(stage("hub", n.hub.hub.Run))
		before(stage("outputs", n.hub.outputs.run))
	}
	if n.edge != nil {
		before(stage("edge", n.edge.edge.Run))
	}
	for _, r := range n.receivers() {
		before(stage("receiver of the "+string(r.role), r.serve))
		before(stage("pushed groups of the "+string(r.role), r.keepGroups))
	}
	if n.gateway != nil {
		before(stage("event gateway", n.gateway.gateway.Run))
		before(stage("listener of the event gateway", n.gateway.serve))
		if n.gateway.reader != nil {
			before(stage("events from NATS", n.gateway.reader.run))
		}
	}
	if n.edge != nil {
		before(stage("scrape", n.edge.scrape.Run))
		for _, s := range n.edge.sampled {
			before(stage("rows of job "+s.job, s.run))
		}
	}
	if n.natsmon != nil {
		before(stage("NATS exporter", n.natsmon.exporter.Run))
		for _, l := range n.natsmon.listeners() {
			before(stage("listener of the NATS exporter", l.Run))
		}
	}
	log := n.log.With("site", n.options.Config.Site, "roles", strings.Join(n.roles(), ", "))
	if url := n.URL(); url != "" {
		log = log.With("url", url)
	}
	log.Info("running")
	var err error
	select {
	case <-ctx.Done():
		n.log.Info("stopping")
	case err = <-failed:
		n.log.Error("stopping because a part ended", "err", err)
	}
	for _, stop := range stops {
		stop()
	}
	n.log.Info("stopped")
	return err
}

// receivers lists those of both roles that are on.
func (n *Node) receivers() (list []*receiver) {
	if n.hub != nil && n.hub.receiver != nil {
		list = append(list, n.hub.receiver)
	}
	if n.edge != nil && n.edge.receiver != nil {
		list = append(list, n.edge.receiver)
	}
	return list
}

// keepStream sees to the stream of an embedded server in a process that is no hub.
func (n *Node) keepStream(ctx context.Context) error {
	n.keeper.KeepStream(ctx, func(string) {})
	return nil
}

// disconnect closes all connections.
func (n *Node) disconnect() {
	n.mu.Lock()
	conns := n.conns
	n.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
}

// close lets go of everything. It may be called at any stage.
func (n *Node) close() {
	n.disconnect()
	if n.server != nil {
		n.server.Close()
	}
	for _, r := range n.receivers() {
		r.close()
	}
	if n.gateway != nil {
		n.gateway.close()
	}
	if n.natsmon != nil {
		n.natsmon.close()
	}
	if n.edge != nil {
		n.edge.clear.Save()
		if err := n.edge.edge.Close(); err != nil {
			n.log.Error("close outbox", "err", err)
		}
	}
	if n.telemeter != nil {
		n.telemeter.close()
	}
	if n.web != nil {
		_ = n.web.Close() // closed already after Run
	}
}

// URL of the web listener; "" if there is none.
func (n *Node) URL() string {
	if n.web == nil {
		return ""
	}
	host, port, _ := net.SplitHostPort(n.web.Addr().String())
	if ip := net.ParseIP(host); ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return n.scheme + net.JoinHostPort(host, port)
}

// NATSURL is where the embedded server listens; "" if there is none.
func (n *Node) NATSURL() string {
	if n.server == nil {
		return ""
	}
	return n.server.URL()
}

// roles in words, for people.
func (n *Node) roles() []string {
	var roles []string
	where := func(c bus.Config) string {
		if len(c.URLs) == 0 {
			return "the embedded server"
		}
		return c.URLs[0]
	}
	if n.hub != nil {
		roles = append(roles, "hub of "+where(n.options.Config.HubClient()))
	}
	if n.edge != nil {
		roles = append(roles, "edge of "+where(n.options.Config.EdgeClient()))
	}
	if n.gateway != nil {
		roles = append(roles, n.gateway.role())
	}
	if n.natsmon != nil {
		roles = append(roles, n.natsmon.roles()...)
	}
	if n.server != nil {
		roles = append(roles, "NATS server at "+n.server.URL())
	}
	return roles
}
