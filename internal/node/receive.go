package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/thalweg/thalweg/internal/config"
	"github.com/thalweg/thalweg/internal/push"
	"github.com/thalweg/thalweg/internal/receive"
	"github.com/thalweg/thalweg/internal/remotewrite"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/telemeter"
	"github.com/thalweg/thalweg/internal/telemetry"
	"github.com/thalweg/thalweg/internal/web"
)

// commit takes rows of a site and returns when they are durable. An error may be a *refusal.
type commit func(ctx context.Context, site string, rows []*series.Row) error

// refusal is an error of commit that has an answer.
type refusal struct {
	status int
	wait   time.Duration // before it is worth while to come again; 0: it never is
	error
}

func (r *refusal) Unwrap() error { return r.error }

// receiver is what others write to an edge or a hub of this process.
type receiver struct {
	role     receive.Role
	log      *telemetry.Log
	guard    *receive.Guard
	gateway  *push.Gateway // nil: nothing is pushed here
	listener *web.Server   // nil: on the web listener
}

// receiverOptions say where rows go.
type receiverOptions struct {
	role   receive.Role
	config *receive.Config
	commit commit
	sample commit // of pushed groups, when nobody waits
	site   string // of everything that comes; "": each sender is one
	dir    string // for the groups
}

// newReceiver adds its handlers to those of the web listener, unless it has a listener of its own. It returns nil if
// nothing is received.
func (n *Node) newReceiver(o receiverOptions, handlers map[string]http.Handler) (_ *receiver, err error) {
	c := o.config
	if !c.On() {
		return nil, nil
	}
	r := &receiver{role: o.role, log: n.log}
	log := n.log.With("component", "receive", "role", o.role)
	if r.guard, err = receive.NewGuard(receive.GuardOptions{Config: *c, Logger: log}); err != nil {
		return nil, err
	}
	metrics := prometheus.WrapRegistererWith(prometheus.Labels{"role": string(o.role)}, n.metrics)
	metrics.MustRegister(r.guard.Metrics()...)
	own := map[string]http.Handler{}
	site := receive.Sender
	if o.site != "" {
		site = func(*http.Request) string { return o.site }
	}
	if c.RemoteWrite {
		h := remotewrite.NewReceiver(remotewrite.ReceiverOptions{Catalog: n.catalog, Site: site, Commit: writeCommit(o.commit), Logger: log})
		metrics.MustRegister(h.Metrics()...)
		own["/api/v1/write"] = h
	}
	if c.Pushgateway {
		options := push.Options{
			Dir: o.dir, SiteName: o.site, Commit: pushCommit(o.commit), Sample: pushCommit(o.sample), Catalog: n.catalog,
			Settings: pushSettings(n.config, c), Own: c.ListenAddress != "", Version: n.options.Version, Logger: log,
		}
		if o.site == "" {
			options.Site = site
		}
		if r.gateway, err = push.Open(options); err != nil {
			return nil, err
		}
		metrics.MustRegister(r.gateway.Metrics()...)
		maps.Copy(own, r.gateway.Handlers())
	}
	if c.ListenAddress == "" {
		err = n.mayReceive(c)
	} else {
		err = r.listen(c, own)
	}
	if err != nil {
		r.close()
		return nil, err
	}
	if r.listener == nil {
		for pattern, h := range own {
			handlers[pattern] = r.guard.Handler(h)
		}
	}
	return r, nil
}

func pushSettings(c *config.Config, r *receive.Config) push.Settings {
	return push.Settings{Interval: time.Duration(c.Global.ScrapeInterval), TTL: time.Duration(r.Gateway.TTL), Admin: r.Gateway.Admin}
}

// mayReceive says why senders should not, or cannot, write to the web listener.
func (n *Node) mayReceive(c *receive.Config) error {
	users, err := config.WebUsers(n.options.WebConfigFile)
	if err != nil {
		return err
	}
	loopback := false
	if a, ok := n.listener.Addr().(*net.TCPAddr); ok {
		loopback = a.IP.IsLoopback()
	}
	switch {
	case len(users) > 0 && c.TokensFile != "":
		return errors.New("receive.listen_address: is empty, and senders with a token cannot log in as --web.config.file asks them to")
	case len(users) == 0 && !loopback && !c.Asks():
		return fmt.Errorf("receive.tokens_file: is empty, and everybody could write who reaches %s; set it, or receive.allow_anonymous: true", n.listener.Addr())
	}
	return nil
}

// listen binds a listener for senders alone.
func (r *receiver) listen(c *receive.Config, handlers map[string]http.Handler) (err error) {
	if r.gateway != nil {
		handlers["GET /metrics"] = http.HandlerFunc(r.gateway.ServeMetrics)
	}
	handlers["GET /{$}"] = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "Thalweg takes samples here.")
		for _, line := range []struct {
			on   bool
			text string
		}{
			{c.RemoteWrite, "Remote write: /api/v1/write"},
			{c.Pushgateway, "Pushgateway: /metrics/job/JOB, and what was pushed at /metrics and /api/v1/metrics"},
		} {
			if line.on {
				fmt.Fprintln(w, line.text)
			}
		}
	})
	for pattern, h := range handlers {
		handlers[pattern] = r.guard.Handler(h)
	}
	r.listener, err = web.NewBare(web.BareOptions{
		ListenAddress: c.ListenAddress, TLS: c.TLSServerConfig, Logger: r.log.With("component", "receive", "role", r.role), Handlers: handlers,
	})
	if err != nil {
		return err
	}
	log := r.log.With("role", r.role, "address", r.listener.Addr())
	log.Info("listening for senders", "tls", c.TLSServerConfig.IsEnabled())
	if a, ok := r.listener.Addr().(*net.TCPAddr); ok && !a.IP.IsLoopback() && !c.TLSServerConfig.IsEnabled() && c.TokensFile != "" {
		log.Warn("tokens of senders are in clear text on this listener; whatever stands before it has to encrypt them")
	}
	return nil
}

// prepare reads what a changed configuration needs, and returns what puts it in force.
func (r *receiver) prepare(c *config.Config, wanted *receive.Config) (use func(), err error) {
	useGuard, err := r.guard.Prepare(*wanted)
	if err != nil {
		return nil, err
	}
	return func() {
		useGuard()
		if r.gateway != nil {
			r.gateway.Reload(pushSettings(c, wanted))
		}
	}, nil
}

// serve serves the listener until ctx ends; without one it waits.
func (r *receiver) serve(ctx context.Context) error {
	if r.listener != nil {
		return r.listener.Run(ctx)
	}
	<-ctx.Done()
	return nil
}

// keepGroups samples pushed groups until ctx ends.
func (r *receiver) keepGroups(ctx context.Context) error {
	if r.gateway != nil {
		return r.gateway.Run(ctx)
	}
	<-ctx.Done()
	return nil
}

// close lets go of the groups. It may be called at any stage.
func (r *receiver) close() {
	if r.listener != nil {
		_ = r.listener.Close() // closed already after Run
	}
	if r.gateway != nil {
		if err := r.gateway.Close(); err != nil {
			r.log.Error("close pushed groups", "role", r.role, "err", err)
		}
	}
}

// groupsDir is where pushed groups are kept.
func groupsDir(c *config.Config, role receive.Role) string {
	return filepath.Join(c.DataDir, "pushed-"+string(role))
}

// writeCommit is commit with the errors that remotewrite wants.
func writeCommit(f commit) remotewrite.Commit {
	return func(ctx context.Context, site string, rows []*series.Row) error {
		err := f(ctx, site, rows)
		if r, ok := errors.AsType[*refusal](err); ok {
			return &remotewrite.Refusal{Status: r.status, RetryAfter: r.wait, Err: r.error}
		}
		return err
	}
}

// pushCommit is commit with the errors that push wants.
func pushCommit(f commit) push.Commit {
	return func(ctx context.Context, site string, rows []*series.Row) error {
		err := f(ctx, site, rows)
		if r, ok := errors.AsType[*refusal](err); ok {
			return &push.Refusal{Status: r.status, RetryAfter: r.wait, Err: r.error}
		}
		return err
	}
}

// commit stores rows of a site without an edge in the stream.
func (r *hubRole) commit(ctx context.Context, site string, rows []*series.Row) error {
	err := r.hub.Deposits().Commit(ctx, site, rows)
	early, isEarly := errors.AsType[*telemeter.EarlyError](err)
	switch {
	case isEarly:
		return &refusal{http.StatusTooManyRequests, max(early.Wait, time.Second), err}
	case errors.Is(err, telemeter.ErrTaken):
		return &refusal{http.StatusConflict, 0, err}
	case errors.Is(err, telemeter.ErrNotAdmitted):
		return &refusal{http.StatusForbidden, 0, err}
	case errors.Is(err, telemeter.ErrTooLarge):
		return &refusal{http.StatusRequestEntityTooLarge, 0, err}
	}
	return err
}
