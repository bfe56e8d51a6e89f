package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/config"
	"github.com/thalweg/thalweg/internal/telemeter"
	"github.com/thalweg/thalweg/internal/telemetry"
	"github.com/thalweg/thalweg/internal/web"
)

const (
	// hubsBucket is appended to the name of the stream: the bucket with what hubs share. Sites do not reach it.
	hubsBucket = "_HUBS"
	// signingKey is the key there of the key that signs the tokens of telemeter clients.
	signingKey = "telemeter-signing-key"
	// keyEvery is how often it is looked whether the key is still the same, keyRetry how often while there is none.
	keyEvery = time.Minute
	keyRetry = 250 * time.Millisecond
)

// telemeterRole takes what telemeter clients push to a hub.
type telemeterRole struct {
	server   *telemeter.Server
	listener *web.Server // nil: on the web listener
	log      *slog.Logger

	// What hubs without a file for the key need; nil where there is one.
	bucket    *bus.Conn
	condition *telemetry.Condition

	key atomic.Pointer[telemeter.Key] // nil: there is none yet
}

// newTelemeter adds its handlers to those of the web listener, unless it has a listener of its own.
func (n *Node) newTelemeter(handlers map[string]http.Handler) (_ *telemeterRole, err error) {
	c := n.config.Hub.Telemeter
	r := &telemeterRole{log: n.log.With("component", "telemeter")}
	if c.SigningKeyFile == "" {
		client := n.config.HubClient()
		client.Stream.Manage = true // whoever made the stream of frames
		if r.bucket, err = n.dial(bus.Options{Config: client, Name: "hubs", Bucket: client.Stream.Name + hubsBucket}); err != nil {
			return nil, err
		}
		r.condition = n.health.Condition("telemeter")
	} else {
		key, err := telemeter.ReadKey(c.SigningKeyFile)
		if err != nil {
			return nil, err
		}
		r.key.Store(key)
	}
	r.server, err = telemeter.New(telemeter.Options{
		Config: *c, Hub: hubConfig(n.config), Lanes: n.hub.hub.Deposits(), Key: r.key.Load, Catalog: n.catalog, Logger: r.log,
	})
	if err != nil {
		return nil, err
	}
	if c.ListenAddress == "" {
		users, err := config.WebUsers(n.options.WebConfigFile)
		if err != nil {
			return nil, err
		}
		if len(users) > 0 {
			return nil, errors.New("listen_address: is empty, and clients cannot log in as --web.config.file asks them to")
		}
		maps.Copy(handlers, r.server.Handlers())
	} else {
		r.listener, err = web.NewBare(web.BareOptions{
			ListenAddress: c.ListenAddress, TLS: c.TLSServerConfig, Logger: r.log, Handlers: r.server.Handlers(),
		})
		if err != nil {
			return nil, err
		}
		r.log.Info("listening for telemeter clients", "address", r.listener.Addr(), "tls", c.TLSServerConfig.IsEnabled())
		if a, ok := r.listener.Addr().(*net.TCPAddr); ok && !a.IP.IsLoopback() && !c.TLSServerConfig.IsEnabled() {
			r.log.Warn("tokens of telemeter clients are in clear text on this listener; whatever stands before it has to encrypt them")
		}
	}
	n.metrics.MustRegister(r.server.Metrics()...)
	return r, nil
}

// hubConfig is what a hub asks of all series.
func hubConfig(c *config.Config) telemeter.HubConfig {
	return telemeter.HubConfig{SiteLabel: c.Hub.Store.SiteLabel, RequiredLabels: c.Hub.RequiredLabels, Limits: c.Hub.Limits.Limits}
}

// prepare reads what a changed configuration needs, and returns what puts it in force.
func (r *telemeterRole) prepare(c *config.Config) (use func(), err error) {
	useServer, err := r.server.Prepare(*c.Hub.Telemeter, hubConfig(c))
	if err != nil {
		return nil, err
	}
	key := r.key.Load()
	if file := c.Hub.Telemeter.SigningKeyFile; file != "" && r.bucket == nil {
		if key, err = telemeter.ReadKey(file); err != nil {
			return nil, err
		}
	}
	return func() {
		useServer()
		if r.bucket == nil {
			r.key.Store(key)
		}
	}, nil
}

// run serves the listener and keeps the key until ctx ends.
func (r *telemeterRole) run(ctx context.Context) error {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	if r.bucket != nil {
		tasks.Go(func() { r.bucket.KeepStream(ctx, func(string) {}) })
		tasks.Go(func() { r.keepKey(ctx) })
	}
	if r.listener != nil {
		return r.listener.Run(ctx)
	}
	<-ctx.Done()
	return nil
}

// close closes what was never run.
func (r *telemeterRole) close() {
	if r.listener != nil {
		_ = r.listener.Close() // closed already after run
	}
}

// keepKey sees to it that this hub has the key that all of them share.
func (r *telemeterRole) keepKey(ctx context.Context) {
	for {
		wait := keyEvery
		if err := r.shareKey(ctx); err == nil {
			r.condition.Ready()
		} else if r.key.Load() == nil {
			r.condition.NotReady("no key to sign the tokens of clients: " + err.Error())
			wait = keyRetry
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

// shareKey reads the key that hubs share. If there is none it puts one there: what it has, or a new one.
func (r *telemeterRole) shareKey(ctx context.Context) error {
	subject := r.bucket.KeySubject(signingKey)
	m, err := r.bucket.Last(ctx, subject)
	if errors.Is(err, bus.ErrNoMessage) {
		if err := r.putKey(ctx, subject); err != nil {
			return err
		}
		m, err = r.bucket.Last(ctx, subject) // another hub may have been faster
	}
	if err != nil {
		return err
	}
	key, err := telemeter.ParseKey(m.Payload)
	if err != nil {
		return fmt.Errorf("parse %q: %w", subject, err)
	}
	before := r.key.Load()
	if before != nil && before.Equal(key) {
		return nil
	}
	r.key.Store(key)
	if before != nil {
		r.log.Warn("the hubs share another signing key now; telemeter clients authorise anew", "audit", "telemeter_key_changed")
	}
	return nil
}

func (r *telemeterRole) putKey(ctx context.Context, subject string) (err error) {
	key := r.key.Load()
	if key == nil {
		if key, err = telemeter.NewKey(); err != nil {
			return err
		}
	}
	encoded, err := key.Encode()
	if err != nil {
		return err
	}
	_, err = r.bucket.Publish(ctx, subject, encoded, 0)
	if _, taken := errors.AsType[*bus.SequenceError](err); taken {
		return nil
	}
	if err == nil {
		r.log.Info("signing key made, which all hubs share", "audit", "telemeter_key_made")
	}
	return err
}
