package natsmon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/thalweg/thalweg/internal/telemetry"
)

// wireCounter counts the bytes that servers in this network namespace carry on TCP, which no server counts itself. The kernel
// does for each socket as long as it is there; so the counter reads the sockets that are open, and has the kernel hand in
// each one once more when it is destroyed. All targets share one counter. It is safe for concurrent use; a nil one counts
// nothing.
type wireCounter struct {
	repeats *telemetry.Repeats
	now     func() time.Time
	list    func(ports []wireEnd) ([]tcpSocket, error)
	retry   time.Duration // between attempts to follow destroyed sockets again

	reading sync.Mutex // held while open sockets are read

	mu      sync.Mutex
	ledger  wireLedger
	servers map[string]*wireServer // by id
	feed    *destroyedSockets      // closed and replaced by run

	overflows, failures prometheus.Counter
	tracked             prometheus.GaugeFunc
}

const (
	// wireServerAge is how long a server that nobody reads any more is remembered.
	wireServerAge = 24 * time.Hour
	// wireFeedBytes is room for the sockets that are destroyed while none is taken in: with about 1 KiB each, thousands.
	wireFeedBytes = 8 << 20
	wireRetry     = 5 * time.Second
	// wireLogInterval is the least time between two lines about the same trouble.
	wireLogInterval = 10 * time.Minute
)

// errOverflow: sockets were destroyed faster than they could be taken in.
var errOverflow = errors.New("too many sockets were destroyed at a time")

// newWireCounter returns a counter, or why the kernel does not count here. From now on destroyed sockets wait for run, which
// has to be called.
func newWireCounter(log *slog.Logger) (*wireCounter, error) {
	if err := probeWire(); err != nil {
		return nil, err
	}
	c := &wireCounter{
		repeats: telemetry.NewRepeats(log, wireLogInterval),
		now:     time.Now,
		list:    connectedSockets,
		retry:   wireRetry,
		ledger:  newWireLedger(),
		servers: map[string]*wireServer{},
	}
	c.makeMetrics()
	if err := c.connect(wireFeedBytes); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *wireCounter) makeMetrics() {
	c.overflows = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "thalweg_natsmon_wire_overflows_total",
		Help: "Times that closed connections were lost, because the kernel keeps no more of them; their last bytes are missing in bytes on the wire.",
	})
	c.failures = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "thalweg_natsmon_wire_failures_total",
		Help: "Readings of the kernel's table of connections that failed; bytes on the wire stay what they were.",
	})
	c.tracked = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "thalweg_natsmon_wire_sockets",
		Help: fmt.Sprintf("Connections whose bytes are being counted; beyond %d they are counted when they close.", maxWireSockets),
	}, func() float64 {
		c.mu.Lock()
		defer c.mu.Unlock()
		return float64(len(c.ledger.sockets))
	})
}

// connect begins to have destroyed sockets kept.
func (c *wireCounter) connect(buffer int) error {
	feed, err := followDestroyed(buffer)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := feed.only(c.ledger.ends); err != nil {
		return errors.Join(err, feed.Close())
	}
	c.feed = feed
	return nil
}

// metrics of the counter itself. They are there, and stay 0, where the kernel does not count.
func (c *wireCounter) metrics() []prometheus.Collector {
	if c == nil {
		c = &wireCounter{}
		c.makeMetrics()
	}
	return []prometheus.Collector{c.overflows, c.failures, c.tracked}
}

// probeWire reports whether the kernel shows a connection that is known to be there: some sandboxes answer, with nothing.
func probeWire() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		if l, err = net.Listen("tcp", "[::1]:0"); err != nil {
			return fmt.Errorf("probe the kernel's sockets: %w", err)
		}
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return fmt.Errorf("probe the kernel's sockets: %w", err)
	}
	defer c.Close()
	here := l.Addr().(*net.TCPAddr).AddrPort()
	listening, err := listeningSockets()
	if err != nil {
		return err
	}
	connected, err := connectedSockets([]wireEnd{{port: here.Port()}})
	if err != nil {
		return err
	}
	if !slices.Contains(listening, here) || !slices.ContainsFunc(connected, func(s tcpSocket) bool { return s.local == here }) {
		return errors.New("the kernel does not show all sockets")
	}
	return nil
}

// run takes in destroyed sockets until ctx ends.
func (c *wireCounter) run(ctx context.Context) {
	if c == nil {
		return
	}
	for {
		err := c.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		c.overflows.Inc()
		for err != nil {
			c.repeats.Log(slog.LevelWarn, "follow", "closed connections are not counted until the kernel hands them in again", slog.Any("err", err))
			select {
			case <-ctx.Done():
				return
			case <-time.After(c.retry):
			}
			err = c.connect(wireFeedBytes)
		}
	}
}

// follow takes in what comes, and closes the feed at the end, with an error.
func (c *wireCounter) follow(ctx context.Context) error {
	c.mu.Lock()
	feed := c.feed
	c.mu.Unlock()
	defer feed.Close()
	defer context.AfterFunc(ctx, func() { feed.Close() })()
	for {
		err := feed.next(c.destroyed)
		switch {
		case err == nil:
		case errors.Is(err, errOverflow):
			c.overflows.Inc()
			c.repeats.Log(slog.LevelWarn, "overflow", "closed connections were lost, bytes on the wire are too few")
		default:
			return err
		}
	}
}

func (c *wireCounter) destroyed(s *tcpSocket) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ledger.destroyed(s, c.now())
}

// of returns what fills in Server.Wire for a target. It is to be called for one server at a time, and gives nil for those
// whose bytes have to be estimated because they are, or may be, in another network namespace.
//
// Connections of a server in this process count from their beginning, and from now on those that are closed. Those that
// another server has when it is first read count from then on, so that its totals begin near 0, unless it took the place
// of one that was read before.
func (c *wireCounter) of(r Reader) func(*Server) *Wire {
	if c == nil {
		return func(*Server) *Wire { return nil }
	}
	t := &wireTarget{counter: c, methods: map[string]wireMethod{}}
	switch r := r.(type) {
	case *embeddedReader:
		t.embedded = r.server
		if v, err := r.server.Varz(nil); err == nil {
			t.read(&Server{ID: v.ID, Varz: v}) // so that what closes before the first scrape is counted
		}
	case *httpReader:
		t.address = func(*Server) string { return hostPort(r.base) }
	case *systemReader:
		t.address = func(s *Server) string { return r.addressOf(s.ID) }
	}
	return t.read
}

// wireTarget decides of each server of a target whether its bytes are counted, when it is first read. That holds as long as
// the server lives: totals that are counted once and estimated once would jump. If the kernel stops answering they stay
// at what they are.
type wireTarget struct {
	counter  *wireCounter
	embedded *server.Server        // the server, if it is in this process
	address  func(*Server) string  // else HOST:PORT where it was reached, or ""
	methods  map[string]wireMethod // by id
}

type wireMethod struct {
	counted bool // estimated otherwise
	readAt  time.Time
}

func (t *wireTarget) read(s *Server) *Wire {
	c, now := t.counter, t.counter.now()
	maps.DeleteFunc(t.methods, func(_ string, m wireMethod) bool { return now.Sub(m.readAt) > wireServerAge })
	method, decided := t.methods[s.ID]
	method.readAt = now
	defer func() { t.methods[s.ID] = method }()
	if decided && !method.counted {
		return nil
	}
	place := wirePlace{own: t.embedded != nil}
	switch {
	case place.own:
		place.client, _ = t.embedded.Addr().(*net.TCPAddr) // Varz has what is advertised
	case !decided:
		place.reached = localAddresses(t.address(s))
	}

	c.reading.Lock()
	defer c.reading.Unlock()
	r, err := c.look(wirePorts(s.Varz, place.client), outgoingOf(s))
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.ledger.end()
	if err != nil {
		c.failed(err)
		if !decided {
			return nil
		}
		return c.total(s.ID)
	}
	if !decided {
		method.counted = place.own || place.has(s, r)
	}
	if !method.counted {
		return nil
	}
	c.count(s.ID, place.own, r)
	return c.total(s.ID)
}

// wireReading is what the kernel says of a server.
type wireReading struct {
	ports     []wirePort
	listening []netip.AddrPort        // all that there are
	accepts   map[netip.AddrPort]Kind // those of the ports
	missing   bool                    // a port is not among them
	outgoing  map[netip.AddrPort]wireOutgoing
	open      []tcpSocket // with these ports or addresses, and of all servers
}

// look reads the sockets. After it the ledger has to be told that the reading ended.
func (c *wireCounter) look(ports []wirePort, outgoing map[netip.AddrPort]wireOutgoing) (wireReading, error) {
	r := wireReading{ports: ports, outgoing: outgoing}
	var err error
	if r.listening, err = listeningSockets(); err != nil {
		return r, err
	}
	r.accepts, r.missing = listenersOf(r.listening, ports)
	c.mu.Lock()
	c.ledger.begin()
	ends := slices.Clone(c.ledger.ends)
	c.mu.Unlock()
	for local := range r.accepts {
		ends = appendEnd(ends, wireEnd{port: local.Port()})
	}
	for remote := range outgoing {
		ends = appendEnd(ends, wireEnd{port: remote.Port(), remote: true})
	}
	if len(ends) > 0 { // without any it would be all sockets
		r.open, err = c.list(ends)
	}
	return r, err
}

// count takes in a reading for a server.
func (c *wireCounter) count(id string, own bool, r wireReading) {
	c.forget()
	server, known := c.servers[id]
	if !known {
		server = newWireServer()
		c.servers[id] = server
	}
	server.readAt = c.now()
	ends := len(c.ledger.ends)
	replaced := c.ledger.listen(server, r.accepts)
	if server.baseline = !known && !own && !replaced; server.baseline {
		server.settled = c.now().Add(wireSettling)
	}
	c.ledger.observe(r.open, c.now())
	var mine func([]uint32) (map[uint32]bool, error)
	if own {
		mine = ownSockets
	}
	if err := c.ledger.claim(server, r.open, r.outgoing, mine); err != nil {
		c.failed(err)
	}
	server.baseline = false
	if len(c.ledger.ends) > ends {
		if err := c.feed.only(c.ledger.ends); err != nil {
			c.failed(err)
		}
	}
}

// total returns what has been counted of a server, nil if nothing was.
func (c *wireCounter) total(id string) *Wire {
	if s := c.servers[id]; s != nil {
		return s.wire()
	}
	return nil
}

func (c *wireCounter) failed(err error) {
	c.failures.Inc()
	c.repeats.Log(slog.LevelWarn, "read", "bytes on the wire stay what they were", slog.Any("err", err))
}

// forget drops servers that are not read any more.
func (c *wireCounter) forget() {
	for id, s := range c.servers {
		if c.now().Sub(s.readAt) > wireServerAge {
			c.ledger.leave(s)
			delete(c.servers, id)
		}
	}
}
