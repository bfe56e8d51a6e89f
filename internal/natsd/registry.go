package natsd

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/prometheus/exporter-toolkit/web"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/identity"
	"github.com/thalweg/thalweg/internal/telemetry"
)

// maxConfirmations bounds the new keys of which nobody has noted yet that they were used. One that finds no room is noted
// when its site connects the next time.
const maxConfirmations = 256

// registry is the registry of sites in the account of hubs. It makes it if it is not there, follows it, closes the
// connections of those who are no longer in it, and answers requests for keys; of several servers one does.
type registry struct {
	*identity.Registry
	conn    *bus.Conn
	kv      *identity.KV
	table   *identity.Table
	sweep   func()
	used    chan confirmation
	log     *slog.Logger
	repeats *telemetry.Repeats
}

type confirmation struct{ site, key string }

// startRegistry connects; run does the rest.
func (s *Server) startRegistry(o *Options, domain string) error {
	config := bus.DefaultConfig()
	config.Domain, config.SubjectRoot, config.Stream = domain, string(o.Root), o.Stream
	config.Stream.Manage = true
	conn, err := bus.Connect(bus.Options{
		Config: config, InProcess: s.Core(), Name: "sites", Bucket: identity.Bucket(o.Stream.Name), Logger: o.Logger,
	})
	if err != nil {
		return err
	}
	kv := identity.NewKV(conn)
	s.busConfig = config
	s.registry = &registry{
		Registry: identity.NewRegistry(kv, o.Logger), conn: conn, kv: kv, table: s.auth.table,
		sweep: s.closeWithdrawn, used: s.used, log: o.Logger, repeats: telemetry.NewRepeats(o.Logger, repeatsInterval),
	}
	return nil
}

// run works until ctx ends.
func (r *registry) run(ctx context.Context) {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	there, once := make(chan struct{}), sync.Once{}
	tasks.Go(func() {
		r.conn.KeepStream(ctx, func(problem string) {
			if problem == "" {
				once.Do(func() { close(there) })
			}
		})
	})
	stop, err := r.conn.ServeShared(r.conn.Root().Enrols(), r.enrol)
	if err != nil {
		r.log.Error("listen for requests for keys", "err", err)
	} else {
		defer stop()
	}
	tasks.Go(func() { r.confirm(ctx) })
	select {
	case <-there:
		r.table.Follow(ctx, r.kv, identity.Changes{
			Changed: r.sweep,
			Behind:  func(records []*identity.Record) { tasks.Go(func() { r.restore(ctx, records) }) },
			Damaged: func(err error) {
				r.repeats.Log(slog.LevelError, err.Error(), "registry of sites", slog.Any("err", err))
			},
		})
	case <-ctx.Done():
	}
}

// enrol answers a request for a key. The subject is what the server let the client use.
func (r *registry) enrol(subject string, data []byte) []byte {
	site, err := r.conn.Root().ParseEnrol(subject)
	if err != nil {
		return nil
	}
	return r.Answer(site, data)
}

// restore puts back what the registry has lost.
func (r *registry) restore(ctx context.Context, records []*identity.Record) {
	for _, record := range records {
		if err := r.Restore(ctx, record); err != nil && ctx.Err() == nil {
			r.repeats.Log(slog.LevelWarn, "restore", "record of a site was not restored", slog.String("site", record.Site), slog.Any("err", err))
		}
	}
}

// confirm notes that new keys have been used.
func (r *registry) confirm(ctx context.Context) {
	for {
		select {
		case c := <-r.used:
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			if err := r.Confirm(ctx, c.site, c.key); err != nil {
				r.repeats.Log(slog.LevelWarn, "confirm", "the key that was replaced stays valid for now", slog.String("site", c.site), slog.Any("err", err))
			}
			cancel()
		case <-ctx.Done():
			return
		}
	}
}

// closeWithdrawn closes the connections of clients who would not be let in any more.
func (s *Server) closeWithdrawn() {
	withdrawn := s.auth.withdrawn()
	closed, err := s.disconnect(func(c *server.ConnInfo) bool { return withdrawn(c.AuthorizedUser) })
	if err != nil {
		s.log.Error("close connections of those who are no longer admitted", "err", err)
	}
	if closed > 0 {
		s.log.Info("connections closed", "audit", "connections_closed", "connections", closed)
	}
}

// Registry is the registry of sites, of which this server keeps a copy or, in a cluster, its part.
func (s *Server) Registry() *identity.Registry { return s.registry.Registry }

// Invite makes a token with which a site can join, under the addresses of servers (HOST:PORT, or with a scheme before it)
// or, if there are none, that of this one. by says who wants it.
func (s *Server) Invite(ctx context.Context, site string, addresses []string, lasts time.Duration, by string) (*identity.Token, time.Time, error) {
	if err := bus.ValidSite(site); err != nil {
		return nil, time.Time{}, err
	}
	t := &identity.Token{Site: site}
	if len(addresses) == 0 {
		addresses = []string{s.ownAddress()}
	}
	encrypted := false
	for _, a := range addresses {
		if !strings.Contains(a, "://") {
			a = s.scheme() + a
		}
		encrypted = encrypted || identity.Encrypted(a)
		t.URLs = append(t.URLs, a)
	}
	config := s.busConfig
	config.URLs = t.URLs
	if err := config.Validate(); err != nil {
		return nil, time.Time{}, err
	}
	t.SetBusConfig(config)
	if encrypted && s.tls.IsEnabled() {
		chain, err := certificates(&s.tls)
		if err != nil {
			return nil, time.Time{}, err
		}
		if t.Pin, err = identity.Pin(chain); err != nil {
			return nil, time.Time{}, err
		}
	}
	var expires time.Time
	var err error
	t.Secret, expires, err = s.registry.Invite(ctx, site, lasts, by)
	return t, expires, err
}

func (s *Server) scheme() string {
	if s.tls.IsEnabled() {
		return "tls://"
	}
	return "nats://"
}

// ownAddress is where this server listens, with the name of the machine if that is everywhere.
func (s *Server) ownAddress() string {
	host, port, _ := net.SplitHostPort(s.nats.Addr().String())
	if ip := net.ParseIP(s.listenHost); ip == nil && s.listenHost != "" {
		host = s.listenHost
	} else if net.ParseIP(host).IsUnspecified() {
		if name, err := os.Hostname(); err == nil {
			host = name
		}
	}
	return net.JoinHostPort(host, port)
}

// certificates are those that the server shows.
func certificates(c *web.TLSConfig) (chain []*x509.Certificate, err error) {
	text := []byte(c.TLSCert)
	if c.TLSCertPath != "" {
		if text, err = os.ReadFile(c.TLSCertPath); err != nil {
			return nil, fmt.Errorf("read cert_file: %w", err)
		}
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse cert_file %q: %w", c.TLSCertPath, err)
		}
		chain = append(chain, certificate)
	}
	return chain, nil
}
