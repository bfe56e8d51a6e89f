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
	"github.com/thalweg/thalweg/internal/pipeline"
	"github.com/thalweg/thalweg/internal/push"
	"github.com/thalweg/thalweg/internal/receive"
	"github.com/thalweg/thalweg/internal/remotewrite"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/telemeter"
	"github.com/thalweg/thalweg/internal/telemetry"
	"github.com/thalweg/thalweg/internal/web"
)

// commit takes rows of a site and returns when they are durable. An error may be a *refusal, or a *remotewrite.Excess if some
// samples were refused and all others are durable.
type commit func(ctx context.Context, site string, rows []*series.Row) error

// refusal is an error of commit that has an answer.
type refusal struct {
	status int
	wait   time.Duration // before it is worth while to come again; 0: it never is
	error
}

func (r *refusal) Unwrap() error { return r.error }

const (
	// overLimitWait is when it is worth while to push again what was beyond limits.
	overLimitWait = 15 * time.Second
	// longestWait bounds what senders are told to wait: limits may be raised meanwhile.
	longestWait = time.Minute
)

// tooEarly refuses what came faster than it may, until there is room.
func tooEarly(wait time.Duration, err error) error {
	return &refusal{http.StatusTooManyRequests, min(max(wait, time.Second), longestWait), err}
}

// exceed notes samples that a pipeline refuses.
func exceed(e *remotewrite.Excess) pipeline.Refused {
	return func(row *series.Row, column uint32, why pipeline.Reason) {
		e.Samples = append(e.Samples, remotewrite.ExcessSample{Row: row, Column: column, Limit: string(why)})
	}
}

// receiver is what others write to an edge or a hub of this process.
type receiver struct {
	role     receive.Role
	log      *telemetry.Log
	guard    *receive.Guard
	gateway  *push.Gateway // nil: nothing is pushed here
	sites    bool          // each sender is one
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
	r := &receiver{role: o.role, log: n.log, sites: o.site == ""}
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
			Settings: r.pushSettings(n.config, c), Own: c.ListenAddress != "", Version: n.options.Version, Logger: log,
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

func (r *receiver) pushSettings(c *config.Config, wanted *receive.Config) push.Settings {
	s := push.Settings{Interval: time.Duration(c.Global.ScrapeInterval), TTL: time.Duration(wanted.Gateway.TTL), Admin: wanted.Gateway.Admin}
	if r.sites {
		s.Keeps = r.guard.Knows
	}
	return s
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
			r.gateway.Reload(r.pushSettings(c, wanted))
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

// writeCommit is commit with the errors that remotewrite wants. Senders come again after 503, and for want of a setting
// (retry_on_http_429) not after 429.
func writeCommit(f commit) remotewrite.Commit {
	return func(ctx context.Context, site string, rows []*series.Row) error {
		err := f(ctx, site, rows)
		if r, ok := errors.AsType[*refusal](err); ok {
			status := r.status
			if status == http.StatusTooManyRequests {
				status = http.StatusServiceUnavailable
			}
			return &remotewrite.Refusal{Status: status, RetryAfter: r.wait, Err: r.error}
		}
		return err
	}
}

// pushCommit is commit with the errors that push wants. A push is good if anything of it was taken: the rest stays in the
// group, and travels when there is room.
func pushCommit(f commit) push.Commit {
	return func(ctx context.Context, site string, rows []*series.Row) error {
		err := f(ctx, site, rows)
		if e, ok := errors.AsType[*remotewrite.Excess](err); ok {
			left := -len(e.Samples)
			for _, row := range rows {
				left += row.Samples()
			}
			if left > 0 {
				return nil
			}
			return &push.Refusal{Status: http.StatusTooManyRequests, RetryAfter: overLimitWait, Err: err}
		}
		if r, ok := errors.AsType[*refusal](err); ok {
			return &push.Refusal{Status: r.status, RetryAfter: r.wait, Err: r.error}
		}
		return err
	}
}

// commit stores rows of a site without an edge in the stream.
func (r *hubRole) commit(ctx context.Context, site string, rows []*series.Row) error {
	var excess remotewrite.Excess
	left, err := r.hub.Deposits().Filter(site, rows, exceed(&excess))
	if err == nil {
		err = r.hub.Deposits().Commit(ctx, site, left)
	}
	tooMany, areTooMany := errors.AsType[*pipeline.EarlyError](err)
	early, isEarly := errors.AsType[*telemeter.EarlyError](err)
	switch {
	case err == nil && len(excess.Samples) > 0:
		return &excess
	case areTooMany:
		return tooEarly(tooMany.Wait, err)
	case isEarly:
		return tooEarly(early.Wait, err)
	case errors.Is(err, telemeter.ErrTaken):
		return &refusal{http.StatusConflict, 0, err}
	case errors.Is(err, telemeter.ErrNotAdmitted):
		return &refusal{http.StatusForbidden, 0, err}
	case errors.Is(err, telemeter.ErrTooLarge):
		return &refusal{http.StatusRequestEntityTooLarge, 0, err}
	}
	return err
}
