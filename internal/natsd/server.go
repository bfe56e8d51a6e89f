package natsd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/exporter-toolkit/web"
	"github.com/prometheus/prometheus/tsdb/fileutil"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/identity"
)

const (
	// syncInterval bounds what a power loss can take of acknowledged messages.
	syncInterval = time.Second
	// storeLimit is no limit: streams have theirs. With a lower one the server would keep a stream from being made
	// smaller whose old limit is beyond it.
	storeLimit   = 1 << 50
	startTimeout = 30 * time.Second
)

// Options of a server.
type Options struct {
	Config Config
	// Name of the server where config_file gives it none, so that it keeps one over restarts. Default: a random one.
	Name string
	// StoreDir belongs to this server alone.
	StoreDir string
	// Root and Stream name the subjects that cross between the accounts; the stream's max_bytes reserves space.
	Root   bus.Root
	Stream bus.StreamConfig
	Logger *slog.Logger
	// IdentityDir holds what servers keep of the registry of sites apart from StoreDir, of which an older copy may be
	// restored, or which may be lost: revoked-keys, and a directory of records. Default: the one in which StoreDir is.
	IdentityDir string
	// Report, if set, is told while Run runs why JetStream cannot store messages, "" if it can.
	Report func(problem string)
}

// Server is a running NATS server.
type Server struct {
	nats     *server.Server
	auth     *authenticator
	lock     fileutil.Releaser
	unlock   sync.Once
	log      *slog.Logger
	logger   *logger
	clients  prometheus.GaugeFunc
	enrolled prometheus.GaugeFunc
	storage  *storage
	registry *registry
	used     chan confirmation
	// What sites are told.
	busConfig  bus.Config
	tls        web.TLSConfig
	listenHost string
	// Where config_file wants metrics to be served, or "".
	metricsAddress string
	storeDir       string
	done           chan struct{} // closed when the server has ended
}

// Start starts a server and returns when it accepts clients. A port that is taken, a store directory in use or not
// writable, and a configuration that would let strangers in are errors.
func Start(o Options) (*Server, error) {
	s, err := start(o, true)
	if err != nil && diskFull(err) {
		o.Logger.Error("NATS server starts without JetStream, which follows when there is space", "err", err)
		s, err = start(o, false)
	}
	if err != nil {
		return nil, fmt.Errorf("start NATS server: %w", err)
	}
	return s, nil
}

// start starts a server, and JetStream with it or not; Run starts it otherwise.
func start(o Options, jetStream bool) (*Server, error) {
	options, metrics, err := natsOptions(&o)
	if err != nil {
		return nil, err
	}
	kept := cmp.Or(o.IdentityDir, filepath.Dir(o.StoreDir))
	revoked, err := identity.OpenRevoked(filepath.Join(kept, "revoked-keys"), o.Logger)
	if err != nil {
		return nil, err
	}
	auth, err := newAuthenticator(&o.Config.Auth, identity.NewTable(revoked, identity.NewCopies(filepath.Join(kept, "sites"))), o.Logger)
	if err != nil {
		return nil, err
	}
	if err := admitAnonymous(auth, &o.Config, options); err != nil {
		return nil, err
	}
	auth.permissions = func(site string) *server.Permissions {
		return sitePermissions(o.Root, o.Stream.Name, options.JetStreamDomain, site)
	}
	if c := &o.Config.Auth; options.MQTT.Port != 0 && c.TokensFile == "" && c.OIDC.Issuer == "" && !c.MTLS {
		o.Logger.Warn("no MQTT client can log in: sites have tokens only with nats.embedded.auth.tokens_file or auth.oidc")
	}
	auth.mqttPermissions = func(site string) *server.Permissions { return mqttPermissions(o.Root, site) }
	auth.joinPermissions = func(site string) *server.Permissions { return joinPermissions(o.Root, site) }
	options.CustomClientAuthentication = auth
	options.AlwaysEnableNonce = true // for keys to sign
	lock, _, err := fileutil.Flock(filepath.Join(options.StoreDir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("lock store directory %q, which another server may be using: %w", options.StoreDir, err)
	}
	s := &Server{
		auth: auth, lock: lock, log: o.Logger, done: make(chan struct{}), used: make(chan confirmation, maxConfirmations),
		tls: o.Config.TLSServerConfig, listenHost: options.Host, metricsAddress: metrics, storeDir: options.StoreDir,
	}
	auth.confirm = func(site, key string) {
		select {
		case s.used <- confirmation{site, key}:
		default:
		}
	}
	s.logger = newLogger(o.Logger)
	if s.nats, err = server.NewServer(options); err != nil {
		return nil, errors.Join(err, lock.Release())
	}
	s.nats.SetLoggerV2(s.logger, false, false, false)
	s.storage = newStorage(s, &o, options)
	s.clients = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "thalweg_natsd_clients", Help: "Clients connected to the embedded server, those of this process included.",
	}, func() float64 { return float64(s.nats.NumClients()) })
	s.enrolled = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "thalweg_natsd_enrolled_sites", Help: "Sites with a key in the registry, as far as the embedded server has read it.",
	}, func() float64 { return float64(auth.table.Enrolled()) })
	if auth.sites, err = s.nats.LookupAccount(accountSites); err == nil {
		auth.core, err = s.nats.LookupAccount(accountCore)
	}
	if err == nil {
		auth.devices, err = s.nats.LookupAccount(accountMQTT)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up accounts: %w", err), lock.Release())
	}
	// Its options are asked whether JetStream is to be started, but the server must know that it has it: others of its
	// cluster count on it, and its health has to be watched.
	options.JetStream = jetStream
	s.nats.Start()
	options.JetStream = true
	go func() {
		defer close(s.done)
		s.nats.WaitForShutdown()
	}()
	if err := s.awaitReady(); err != nil {
		s.Close()
		if strings.Contains(err.Error(), "JetStream") {
			err = fmt.Errorf("%w (if the files are damaged, move %q away: the stream is made anew, and edges send what they still hold)",
				err, filepath.Join(options.StoreDir, server.JetStreamStoreDir))
		}
		return nil, err
	}
	if err := s.startRegistry(&o, options.JetStreamDomain); err != nil {
		s.Close()
		return nil, err
	}
	s.logger.started()
	s.storage.warnSmall(float64(o.Stream.MaxBytes))
	o.Logger.Info("NATS server is ready", "url", s.URL(), "store", options.StoreDir)
	return s, nil
}

// awaitReady returns the server's own words when it could not start.
func (s *Server) awaitReady() error {
	deadline := time.Now().Add(startTimeout)
	for time.Now().Before(deadline) {
		if s.nats.ReadyForConnections(100 * time.Millisecond) {
			return s.logger.fatal()
		}
		if err := s.logger.fatal(); err != nil {
			return err
		}
	}
	return fmt.Errorf("not ready after %s", startTimeout)
}

// natsOptions builds the server's options from the file, if there is one, and ours on top of it. Metrics is where the file
// wants them.
func natsOptions(o *Options) (options *server.Options, metrics string, err error) {
	options = &server.Options{}
	if file := o.Config.ConfigFile; file != "" {
		if options, metrics, err = readConfigFile(file); err != nil {
			return nil, "", err
		}
		warnOverridden(o.Logger, options)
	}
	if err := override(options, o); err != nil {
		return nil, "", err
	}
	return options, metrics, nil
}

// override puts what is decided here in place of what the file says.
func override(options *server.Options, o *Options) error {
	host, port, err := net.SplitHostPort(o.Config.Listen)
	if err != nil {
		return fmt.Errorf("listen %q: %w", o.Config.Listen, err)
	}
	if options.Port, err = strconv.Atoi(port); err != nil {
		return fmt.Errorf("listen %q: %w", o.Config.Listen, err)
	}
	if options.Port == 0 {
		options.Port = server.RANDOM_PORT
	}
	options.Host = host
	options.DontListen = false
	options.ServerName = cmp.Or(options.ServerName, o.Name)
	if t := o.Config.TLSServerConfig; t.IsEnabled() {
		if o.Config.Auth.MTLS {
			t.ClientAuth = cmp.Or(t.ClientAuth, "VerifyClientCertIfGiven") // sites may have keys instead
		}
		if options.TLSConfig, err = web.ConfigToTLSConfig(&t); err != nil {
			return fmt.Errorf("read tls_server_config: %w", err)
		}
		options.TLS = true
	}
	options.SystemAccount = accountSystem
	options.Users, options.Nkeys, options.NoAuthUser = nil, nil, ""
	options.Username, options.Password, options.Authorization = "", "", ""
	options.TrustedOperators, options.TrustedKeys, options.AccountResolver, options.AuthCallout = nil, nil, nil, nil
	options.NoSigs = true
	options.NoLog = false
	options.DisableJetStreamBanner = true
	options.JetStream = true
	if options.StoreDir == "" {
		options.StoreDir = o.StoreDir
	}
	if options.SyncInterval == 0 {
		options.SyncInterval = syncInterval
	}
	if options.JetStreamMaxStore <= 0 {
		options.JetStreamMaxStore = storeLimit
	}
	if options.Accounts, err = accounts(o.Root, o.Stream.Name, options.JetStreamDomain, options.JetStreamMaxStore, options.MQTT.Port != 0); err != nil {
		return err
	}
	if options.JetStreamLimits.DefaultMaxConsumers == 0 {
		options.JetStreamLimits.DefaultMaxConsumers = -1
	}
	return nil
}

// warnOverridden names what the file says in vain.
func warnOverridden(log *slog.Logger, o *server.Options) {
	for key, set := range map[string]bool{
		"accounts":      len(o.Accounts) > 0,
		"authorization": len(o.Users)+len(o.Nkeys) > 0 || o.Username != "" || o.Authorization != "" || o.AuthCallout != nil,
		"no_auth_user":  o.NoAuthUser != "",
		"operator":      len(o.TrustedOperators)+len(o.TrustedKeys) > 0,
		"log_file":      o.LogFile != "",
	} {
		if set {
			log.Warn("setting of config_file has no effect", "file", o.ConfigFile, "key", key)
		}
	}
}

// admitAnonymous decides whether clients need no credential, and refuses what would admit strangers unasked.
func admitAnonymous(a *authenticator, c *Config, o *server.Options) error {
	if c.Auth.enough() {
		return nil
	}
	exposed := ""
	for _, l := range []struct {
		what, host string
		port       int
	}{
		{"listen", o.Host, o.Port}, {"websocket", o.Websocket.Host, o.Websocket.Port}, {"mqtt", o.MQTT.Host, o.MQTT.Port},
	} {
		if l.port != 0 && !isLoopback(l.host) {
			exposed = fmt.Sprintf("%s address %q", l.what, net.JoinHostPort(l.host, strconv.Itoa(max(l.port, 0))))
		}
	}
	if exposed != "" && !c.AllowAnonymous {
		return fmt.Errorf("%s is not loopback and nobody would need a credential: "+setAuth, exposed)
	}
	a.anonymousSites = true
	a.anonymousHubs = exposed == ""
	return nil
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// Run looks after JetStream and blocks until ctx ends, then shuts the server down and returns nil; or until the server
// cannot go on, which is an error. In both cases the server is down afterwards.
func (s *Server) Run(ctx context.Context) error {
	defer s.Close()
	ctx, cancel := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer cancel()
	tasks.Go(func() { s.storage.run(ctx) })
	tasks.Go(func() { s.registry.run(ctx) })
	tasks.Go(func() { s.auth.bearer.run(ctx) })
	select {
	case <-ctx.Done():
		return nil
	case <-s.logger.died:
		return fmt.Errorf("run NATS server: %w", s.logger.fatal())
	case <-s.done:
		return errors.New("run NATS server: it was shut down")
	}
}

// Close shuts the server down and waits for it. It may be called more than once.
func (s *Server) Close() {
	s.logger.stopping()
	if s.registry != nil {
		s.registry.conn.Close()
	}
	s.nats.Shutdown()
	<-s.done
	s.unlock.Do(func() {
		if err := s.lock.Release(); err != nil {
			s.log.Warn("unlock store directory", "err", err)
		}
	})
}

// URL is how clients of this machine reach the server.
func (s *Server) URL() string { return s.nats.ClientURL() }

// Addr is the address the server listens on.
func (s *Server) Addr() net.Addr { return s.nats.Addr() }

// NATS is the server itself, for whoever reads what it says of itself.
func (s *Server) NATS() *server.Server { return s.nats }

// StoreDir is where its streams are.
func (s *Server) StoreDir() string { return s.storeDir }

// MetricsAddress is where config_file wants the metrics of the server to be served: HOST:PORT, "" if nowhere.
func (s *Server) MetricsAddress() string { return s.metricsAddress }

// Core is an in-process connection with the rights of a hub.
func (s *Server) Core() *bus.InProcess { return s.inProcess(hubName) }

// Site is an in-process connection with the rights of that site.
func (s *Server) Site(name string) *bus.InProcess { return s.inProcess(name) }

func (s *Server) inProcess(name string) *bus.InProcess {
	return &bus.InProcess{Dial: s.nats.InProcessConn, User: name, Password: s.auth.password(name)}
}

// Reload reads the tokens file again and closes connections whose token is no longer in it. After an error the old
// tokens hold.
func (s *Server) Reload() error {
	if err := s.auth.readTokens(); err != nil {
		return fmt.Errorf("reload NATS server: %w", err)
	}
	withdrawn := s.auth.withdrawn()
	closed, err := s.disconnect(func(c *server.ConnInfo) bool { return withdrawn(c.AuthorizedUser) })
	if err != nil {
		return fmt.Errorf("reload NATS server: %w", err)
	}
	s.log.Info("tokens read again", "audit", "tokens_read", "closed_connections", closed)
	return nil
}

// disconnect closes the connections of some clients.
func (s *Server) disconnect(which func(*server.ConnInfo) bool) (closed int, err error) {
	// One page, as pages shift while clients come and go. Who connects from now on is another matter.
	connections, err := s.nats.Connz(&server.ConnzOptions{Username: true, Limit: s.nats.NumClients() + 1024})
	if err != nil {
		return 0, fmt.Errorf("list connections: %w", err)
	}
	for _, c := range connections.Conns {
		if !which(c) {
			continue
		}
		closed++
		if err := s.nats.DisconnectClientByID(c.Cid); err != nil {
			s.log.Debug("close connection", "id", c.Cid, "err", err)
		}
	}
	return closed, nil
}

// Metrics to register.
func (s *Server) Metrics() []prometheus.Collector {
	return slices.Concat(s.storage.metrics(), s.registry.conn.Metrics(),
		[]prometheus.Collector{s.auth.refused, s.clients, s.enrolled, s.logger.dropped})
}

// LeadsCluster reports whether this server decides where in the cluster streams and consumers are.
func (s *Server) LeadsCluster() bool { return s.nats.JetStreamIsLeader() }

// LeadsStream reports whether this server decides about the stream at this moment; without a cluster it always does.
func (s *Server) LeadsStream(name string) bool {
	return s.nats.JetStreamIsStreamLeader(accountCore, name)
}
