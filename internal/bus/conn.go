package bus

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
)

// How a connection behaves (DESIGN section 8, links).
const (
	pingInterval      = 5 * time.Second
	pingsOutstanding  = 2
	connectTimeout    = 3 * time.Second
	reconnectMin      = 250 * time.Millisecond
	reconnectQuick    = 750 * time.Millisecond // at most, as long as nothing answers; an attempt is a packet then
	reconnectMax      = 5 * time.Second        // at most, when a server answers and there is no connection all the same
	dialEvery         = time.Second
	publishTimeout    = 5 * time.Second // and what the message needs at slowestLink
	slowestLink       = 8 << 10         // bytes per second: 256 kbit/s, of which a long way and lost packets leave a quarter
	largestFrame      = 512 << 10       // that edges send
	unansweredMax     = 2               // requests in a row, after which the connection is given up
	apiTimeout        = 5 * time.Second
	repeatedErrorsGap = time.Minute
)

// coreUser is the user name of a hub without a credential.
const coreUser = "@hub"

// Options of a connection.
type Options struct {
	Config Config
	// InProcess, if set, is the server to use instead of Config.URLs, with a credential of its own.
	InProcess *InProcess
	// Site is the identity of an edge. Empty: a hub, which has JetStream API rights and no site.
	Site string
	// Login, if set, is called at each connect and tells with what this client proves who it is, in place of what Config
	// says. With an error there is no connection, and State says so.
	Login func() (Login, error)
	// LoginSource says where Login has it from, for messages, such as "join token".
	LoginSource string
	// TLS, if set, is used in place of Config.TLSConfig.
	TLS *tls.Config
	// Inbox is where answers arrive, if not below InboxPrefix of the site.
	Inbox string
	// Bucket makes the stream of this connection a key-value bucket of that name, instead of what Config says.
	Bucket string
	// Journals makes the stream of this connection one of journals of that name, instead of what Config says.
	Journals string
	// Events makes the stream of this connection one of events of that name, instead of what Config says.
	Events string
	// Name is how the server's monitoring calls this client, and the value of label connection of Metrics.
	Name   string
	Logger *slog.Logger
}

// Login proves who a client is: by a token, or by a key that signs what the server asks to be signed.
type Login struct {
	Token string
	// Key is the public key or, for servers that know no keys of sites, a user JWT.
	Key  string
	Sign func(nonce []byte) ([]byte, error)
}

// InProcess reaches a server in this process without a socket (package natsd makes these).
type InProcess struct {
	Dial     func() (net.Conn, error)
	User     string
	Password string
}

// State of a connection.
type State struct {
	Connected bool
	Since     time.Time // of the last change of Connected
	Server    string    // the URL in use, without secrets, or "in-process"; the last one while not connected
	// Reason says in one line why there is no connection or, while there is one, what the server last refused.
	Reason string
	// Refused means that the server did not accept the credential at the last attempt.
	Refused bool
}

// Conn is a connection that is kept up for ever. All methods are safe for concurrent use.
type Conn struct {
	options Options
	root    Root
	nc      *nats.Conn
	log     *slog.Logger
	metrics *metrics
	closed  chan struct{}
	missing chan struct{} // a token says that a reader did not find the stream
	// unanswered counts requests to the server in a row that got no answer.
	unanswered atomic.Int32

	// mu may be taken while the library holds its own lock (see dialer), never the other way round: no method of nc is
	// called under it.
	mu      sync.Mutex
	state   State
	changed chan struct{} // closed and replaced when state changes
	link    context.Context
	cut     context.CancelFunc // ends link, the life of one connection
	secret  error              // why a secret could not be read at the last attempt
	logged  map[string]time.Time
	waiting map[*waiter]struct{}
	// dialable is false while nats.Connect runs, which must not block; dialed is true from the first attempt on.
	dialable, dialed bool
	reached          bool // something answered the last attempt to dial
}

// Connect returns at once; connections are made and made again in the background until Close. A server that is down
// is no error, a configuration that can never work is.
func Connect(o Options) (*Conn, error) {
	c := &Conn{
		options: o,
		root:    Root(o.Config.SubjectRoot),
		log:     o.Logger,
		metrics: newMetrics(o.Name),
		closed:  make(chan struct{}),
		missing: make(chan struct{}, 1),
		state:   State{Since: time.Now(), Reason: "connecting"},
		changed: make(chan struct{}),
		logged:  map[string]time.Time{},
		waiting: map[*waiter]struct{}{},
	}
	c.link, c.cut = context.WithCancel(context.Background())
	c.cut()
	if o.Bucket != "" {
		c.options.Config.Stream.Name = bucketPrefix + o.Bucket
	}
	if o.Journals != "" {
		c.options.Config.Stream.Name = o.Journals
	}
	if o.Events != "" {
		c.options.Config.Stream.Name = o.Events
	}
	options, err := c.natsOptions()
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	if c.nc, err = options.Connect(); err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	c.mu.Lock()
	c.dialable = true
	c.mu.Unlock()
	return c, nil
}

// Close ends the connection and what waits for it. It returns when all callbacks have.
func (c *Conn) Close() {
	c.nc.Close()
	<-c.closed
}

// Root is the grammar of this connection's subjects.
func (c *Conn) Root() Root { return c.root }

// State tells whether there is a connection. A Conn starts without one.
func (c *Conn) State() State {
	s, _ := c.Watch()
	return s
}

// Watch returns the state and a channel that is closed when it is no longer that.
func (c *Conn) Watch() (State, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state, c.changed
}

// MaxPayload is the greatest payload in bytes that the server takes, 0 as long as there was no connection. Headers of
// a publish count; they need less than 128 bytes.
func (c *Conn) MaxPayload() int64 { return c.nc.MaxPayload() }

// Metrics to register. Two connections of a process differ in label connection.
func (c *Conn) Metrics() []prometheus.Collector { return c.metrics.all() }

// onConnect runs after each successful connect.
func (c *Conn) onConnect(nc *nats.Conn) {
	server := "in-process"
	if c.options.InProcess == nil {
		server = nc.ConnectedUrlRedacted()
	}
	c.metrics.connects.Inc()
	c.metrics.connected.Set(1)
	c.mu.Lock()
	c.link, c.cut = context.WithCancel(context.Background())
	c.unanswered.Store(0)
	c.setState(State{Connected: true, Since: time.Now(), Server: server})
	c.mu.Unlock()
	c.log.Info("connected to NATS", "server", server, "id", nc.ConnectedServerName())
}

// onDisconnect runs after each loss of a connection, and for a Close.
func (c *Conn) onDisconnect(nc *nats.Conn, err error) {
	c.metrics.connected.Set(0)
	closed := nc.IsClosed()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut()
	if !c.state.Connected {
		return
	}
	s := State{Since: time.Now(), Server: c.state.Server}
	switch {
	case closed:
		s.Reason = "closed"
		c.log.Info("connection to NATS closed", "server", s.Server)
	default:
		if err == nil {
			err = errGivenUp
		}
		err = c.explain(err)
		s.Reason = "connection lost: " + err.Error()
		c.log.Warn("connection to NATS lost", "server", s.Server, "err", err)
	}
	c.setState(s)
}

// explain puts an error of the library into the words of an operator, where it has others.
func (c *Conn) explain(err error) error {
	if refusal := c.refusal(err); refusal != nil {
		return refusal
	}
	if errors.Is(err, io.EOF) {
		return errClosedThere
	}
	return err
}

// onClose runs last, for a Close.
func (c *Conn) onClose(*nats.Conn) {
	c.mu.Lock()
	c.setState(State{Since: time.Now(), Server: c.state.Server, Reason: "closed"})
	c.mu.Unlock()
	close(c.closed)
}

// onAttempt runs after each failed attempt to connect.
func (c *Conn) onAttempt(nc *nats.Conn, err error) {
	if errors.Is(err, errNotYet) {
		return
	}
	refused := c.refusal(err) != nil
	c.mu.Lock()
	err = c.explain(err)
	if c.secret != nil {
		err = c.secret
	}
	s := c.state
	if !s.Connected {
		s.Reason, s.Refused = err.Error(), refused
		c.setState(s)
	}
	c.mu.Unlock()
	c.logRarely("connect to NATS", err.Error(), "servers", c.servers(nc), "err", err)
}

// onError runs for what the server says outside of any answer: permissions, slow subscribers of ours, and refused
// logins, which are failed attempts.
func (c *Conn) onError(nc *nats.Conn, sub *nats.Subscription, err error) {
	if c.refusal(err) != nil {
		c.onAttempt(nc, err)
		return
	}
	c.mu.Lock()
	if errors.Is(err, nats.ErrPermissionViolation) {
		for w := range c.waiting {
			w.denied(err)
		}
		c.metrics.denials.Inc()
	}
	s := c.state
	s.Reason = err.Error()
	c.setState(s)
	c.mu.Unlock()
	subject := ""
	if sub != nil {
		subject = sub.Subject
	}
	c.logRarely("NATS reports an error", s.Reason, "server", s.Server, "subject", subject, "err", err)
}

// setState needs the lock.
func (c *Conn) setState(s State) {
	if s == c.state {
		return
	}
	c.state = s
	close(c.changed)
	c.changed = make(chan struct{})
}

// logRarely warns, once a minute for each key.
func (c *Conn) logRarely(message, key string, attributes ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if now.Sub(c.logged[key]) < repeatedErrorsGap {
		return
	}
	if len(c.logged) >= 64 {
		clear(c.logged)
	}
	c.logged[key] = now
	c.log.Warn(message, attributes...)
}

func (c *Conn) servers(nc *nats.Conn) []string {
	if c.options.InProcess != nil {
		return []string{"in-process"}
	}
	return nc.Servers()
}

// roundTrip sends a request and waits for the answer, within the timeout, ctx and the life of the connection. Errors
// have ErrNotConnected, ErrNoListener, ErrTooLarge or ErrDenied in their chain if the request had no effect.
func (c *Conn) roundTrip(ctx context.Context, timeout time.Duration, m *nats.Msg) (*nats.Msg, error) {
	c.mu.Lock()
	if !c.state.Connected {
		defer c.mu.Unlock()
		return nil, fmt.Errorf("%w: %s", ErrNotConnected, c.state.Reason)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(c.link, func() { cancel(errConnectionLost) })()
	w := &waiter{subject: m.Subject, cancel: cancel}
	c.waiting[w] = struct{}{}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, w)
		c.mu.Unlock()
	}()
	ctx, stop := context.WithTimeoutCause(ctx, timeout, errNoAnswer)
	defer stop()
	answer, err := c.nc.RequestMsgWithContext(ctx, m)
	switch {
	case err == nil:
		return answer, nil
	case errors.Is(err, nats.ErrNoResponders):
		return nil, ErrNoListener
	case errors.Is(err, nats.ErrMaxPayload):
		return nil, fmt.Errorf("%w: %d bytes of payload, %d with headers are accepted", ErrTooLarge, len(m.Data), c.MaxPayload())
	case errors.Is(err, nats.ErrReconnectBufExceeded):
		return nil, ErrNotConnected
	case errors.Is(err, nats.ErrConnectionClosed):
		return nil, errConnectionLost
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	return nil, err
}

// linked returns a context that ends with ctx and with the connection there is now.
func (c *Conn) linked(ctx context.Context) (context.Context, context.CancelFunc, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.state.Connected {
		return nil, nil, fmt.Errorf("%w: %s", ErrNotConnected, c.state.Reason)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.link, func() { cancel(errConnectionLost) })
	return ctx, func() { stop(); cancel(nil) }, nil
}

// waiter is a request that has no answer yet.
type waiter struct {
	subject string
	cancel  context.CancelCauseFunc
}

// denied ends the wait if the violation is of the waiter's subject: the server sends no other answer.
func (w *waiter) denied(violation error) {
	if strings.Contains(violation.Error(), strconv.Quote(w.subject)) {
		w.cancel(fmt.Errorf("%w: %w", ErrDenied, violation))
	}
}

var (
	errConnectionLost = errors.New("connection lost")
	errGivenUp        = errors.New("given up by this side")
	errClosedThere    = errors.New("the other side closed the connection")
	errNoAnswer       = errors.New("no answer in time")
)
