package natsmon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// startCounter runs a counter until the test ends. Its clock goes ahead by what is returned.
func startCounter(t testing.TB) (*wireCounter, *atomic.Int64) {
	t.Helper()
	c := newTestCounter(t)
	ahead := &atomic.Int64{}
	c.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	startRun(t, c)
	return c, ahead
}

// startReading begins to count a server, and returns what reads on.
func startReading(t testing.TB, s *server.Server, r Reader) func(*Server) *Wire {
	t.Helper()
	c, ahead := startCounter(t)
	read := c.of(r)
	if read(says(t, s)) == nil {
		t.Fatal("nothing is counted")
	}
	ahead.Add(int64(wireSettling))
	return read
}

func newTestCounter(t testing.TB) *wireCounter {
	t.Helper()
	c, err := newWireCounter(slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func startRun(t testing.TB, c *wireCounter) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { c.run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

// wireWays are those in which a server that is here is reached.
var wireWays = []string{"own", "at URL"}

func wireReader(t testing.TB, s *server.Server, way string) Reader {
	t.Helper()
	if way == "own" {
		return &embeddedReader{server: s}
	}
	base, err := url.Parse("http://" + s.MonitorAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	return &httpReader{base: base}
}

// agrees waits until totals are those of the proxy: what is sent exactly, what is received but for the end of each connection,
// which the kernel counts as a byte.
func agrees(t testing.TB, read func(*Server) *Wire, s *server.Server, kind Kind, p *byteProxy) {
	t.Helper()
	comesTrue(t, func() error {
		w := read(says(t, s))
		if w == nil {
			return fmt.Errorf("nothing is counted")
		}
		in, out := uint64(p.in.Load()), uint64(p.out.Load())
		if got := w.Received[kind]; got < in || got > in+uint64(p.conns.Load()) {
			return fmt.Errorf("received %d, proxy saw %d on %d connections", got, in, p.conns.Load())
		}
		if got := w.Sent[kind]; got != out {
			return fmt.Errorf("sent %d, proxy saw %d", got, out)
		}
		for _, k := range []Kind{Client, WebSocket, MQTT, Leaf, Route, Gateway} {
			if k != kind && w.Received[k]+w.Sent[k] != 0 {
				return fmt.Errorf("%s: received %d and sent %d", k, w.Received[k], w.Sent[k])
			}
		}
		return nil
	})
}

// testTLS is the configuration of a server, and the option of a client that trusts it.
func testTLS(t testing.TB) (*tls.Config, nats.Option) {
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return &tls.Config{Certificates: s.TLS.Certificates}, nats.Secure(&tls.Config{RootCAs: pool})
}

func TestWireBytesAreThoseOfAProxy(t *testing.T) {
	tlsConfig, trust := testTLS(t)
	for name, c := range map[string]struct {
		options   server.Options
		scheme    string
		kind      Kind
		connected []nats.Option
	}{
		"plain":     {server.Options{}, "nats", Client, nil},
		"IPv6":      {server.Options{Host: "::1", HTTPHost: "::1"}, "nats", Client, nil},
		"any":       {server.Options{Host: "::"}, "nats", Client, nil},
		"advertise": {server.Options{ClientAdvertise: "nats.example.com:4222"}, "nats", Client, nil},
		"TLS":       {server.Options{TLS: true, TLSConfig: tlsConfig, TLSTimeout: 10}, "nats", Client, []nats.Option{trust}},
		"WebSocket": {server.Options{Websocket: server.WebsocketOpts{Host: "127.0.0.1", Port: -1, NoTLS: true}}, "ws", WebSocket, nil},
	} {
		t.Run(name, func(t *testing.T) {
			o := c.options
			o.HTTPPort = server.RANDOM_PORT
			if o.HTTPHost == "" {
				o.HTTPHost = "127.0.0.1"
			}
			for _, way := range wireWays {
				t.Run(way, func(t *testing.T) {
					o := o
					s := runServer(t, &o)
					reader := wireReader(t, s, way)
					if name == "advertise" && way != "own" {
						c, _ := startCounter(t)
						if c.of(reader)(says(t, s)) != nil {
							t.Error("a server whose port is not known is counted")
						}
						return
					}
					read := startReading(t, s, reader)
					address := s.Addr().String()
					switch {
					case c.scheme == "ws":
						address = strings.TrimPrefix(s.WebsocketURL(), "ws://")
					case name == "any":
						address = fmt.Sprintf("127.0.0.1:%d", s.Addr().(*net.TCPAddr).Port)
					}
					p := startProxy(t, address)
					for size, n := range map[int]int{16: 5000, 1 << 10: 1000, 64 << 10: 100} {
						converse(t, c.scheme+"://"+p.address, size, n, c.connected...)
						agrees(t, read, s, c.kind, p)
					}
				})
			}
		})
	}
}

// Connections that begin and end between two readings are in no reading.
func TestWireBytesOfShortLivedConnections(t *testing.T) {
	for _, way := range wireWays {
		t.Run(way, func(t *testing.T) {
			s := runServer(t, &server.Options{HTTPHost: "127.0.0.1", HTTPPort: server.RANDOM_PORT})
			read := startReading(t, s, wireReader(t, s, way))
			p := startProxy(t, s.Addr().String())
			var clients sync.WaitGroup
			for range 4 {
				clients.Go(func() {
					for range 75 {
						nc, err := nats.Connect("nats://" + p.address)
						if err != nil {
							t.Error(err)
							return
						}
						if err := nc.Publish("region.hall.rack7.meter", make([]byte, 16)); err != nil {
							t.Error(err)
						}
						if err := nc.Flush(); err != nil {
							t.Error(err)
						}
						nc.Close()
					}
				})
			}
			clients.Wait()
			if p.conns.Load() < 300 {
				t.Fatalf("%d connections", p.conns.Load())
			}
			agrees(t, read, s, Client, p)
		})
	}
}

// What is served says the same, and how it is known.
func TestWireBytesInMetrics(t *testing.T) {
	for _, way := range wireWays {
		t.Run(way, func(t *testing.T) {
			s := runServer(t, &server.Options{HTTPHost: "127.0.0.1", HTTPPort: server.RANDOM_PORT})
			var e *Exporter
			if way == "own" {
				e = exporterFor(t, s, Config{Embedded: true})
			} else {
				e = exporterFor(t, nil, Config{Servers: []ServerConfig{{URL: monitorURL(s)}}})
			}
			scrape(t, e.Handler())
			p := startProxy(t, s.Addr().String())
			nc := dial(t, "nats://"+p.address)
			defer nc.Close()
			if err := nc.Publish("region.hall", make([]byte, 10000)); err != nil {
				t.Fatal(err)
			}
			if err := nc.Flush(); err != nil {
				t.Fatal(err)
			}
			comesTrue(t, func() error {
				lines := scrape(t, e.Handler())
				for name, want := range map[string]int64{
					"nats_server_total_bytes_received": p.in.Load(),
					"nats_server_total_bytes_sent":     p.out.Load(),
				} {
					if got := lines[name]; got != fmt.Sprint(want) {
						return fmt.Errorf("%s %s, proxy saw %d", name, got, want)
					}
				}
				for line := range lines {
					if strings.HasPrefix(line, "nats_server_wire_bytes_info{") && strings.Contains(line, `method="tcp_info"`) {
						return nil
					}
				}
				return fmt.Errorf("the method is not said: %v", lines)
			})
		})
	}
}

// Of a server in this process nothing is missing that was before the first scrape.
func TestWireBytesBeforeTheFirstReading(t *testing.T) {
	s := runServer(t, &server.Options{})
	c, _ := startCounter(t)
	read := c.of(&embeddedReader{server: s})
	p := startProxy(t, s.Addr().String())
	converse(t, "nats://"+p.address, 16, 1000)
	comesTrue(t, func() error {
		if n := s.NumClients(); n != 0 {
			return fmt.Errorf("%d clients", n)
		}
		return nil
	})
	agrees(t, read, s, Client, p)
}

// A leaf is at both ends of a connection here: of the hub it came in, and the edge has made it.
func TestWireBytesOfLeafs(t *testing.T) {
	t.Run("spoke", func(t *testing.T) { testWireBytesOfLeaf(t, false) })
	t.Run("hub", func(t *testing.T) { testWireBytesOfLeaf(t, true) })
}

// testWireBytesOfLeaf has an edge connect to a hub, be it the hub of the two itself.
func testWireBytesOfLeaf(t *testing.T, asHub bool) {
	hub := runServer(t, &server.Options{
		ServerName: "hub", HTTPHost: "127.0.0.1", HTTPPort: server.RANDOM_PORT,
		LeafNode: server.LeafNodeOpts{Host: "127.0.0.1", Port: server.RANDOM_PORT},
	})
	port := says(t, hub).Varz.LeafNode.Port
	p := startProxy(t, fmt.Sprintf("127.0.0.1:%d", port))
	u := &url.URL{Scheme: "nats", Host: p.address}
	edge := runServer(t, &server.Options{
		ServerName: "edge", HTTPHost: "127.0.0.1", HTTPPort: server.RANDOM_PORT,
		LeafNode: server.LeafNodeOpts{Remotes: []*server.RemoteLeafOpts{{URLs: []*url.URL{u}, Hub: asHub}}},
	})
	comesTrue(t, func() error {
		if hub.NumLeafNodes() != 1 || edge.NumLeafNodes() != 1 {
			return fmt.Errorf("the leaf is not connected")
		}
		return nil
	})
	// Of the hub what is counted is counted from the beginning, as of a server in this process; what the proxy saw is
	// seen from the hub, so that of the edge the directions are the other ones.
	c, _ := startCounter(t)
	readHub, readEdge := c.of(&embeddedReader{server: hub}), c.of(&embeddedReader{server: edge})
	compare := func() {
		t.Helper()
		agrees(t, readHub, hub, Leaf, p)
		comesTrue(t, func() error {
			w := readEdge(says(t, edge))
			if w == nil {
				return fmt.Errorf("nothing is counted")
			}
			in, out := uint64(p.out.Load()), uint64(p.in.Load())
			if got := w.Received[Leaf]; got < in || got > in+1 || w.Sent[Leaf] != out {
				return fmt.Errorf("edge received %d and sent %d, proxy saw %d and %d", got, w.Sent[Leaf], in, out)
			}
			return nil
		})
	}
	compare()
	to, from := dial(t, hub.ClientURL()), dial(t, edge.ClientURL())
	defer to.Close()
	defer from.Close()
	const n = 1000
	received := make(chan *nats.Msg, n)
	if _, err := to.ChanSubscribe("region.>", received); err != nil {
		t.Fatal(err)
	}
	comesTrue(t, func() error {
		if edge.NumSubscriptions() <= hub.NumSubscriptions()/2 || !edge.GlobalAccount().SubscriptionInterest("region.hall") {
			return fmt.Errorf("the edge does not know of the subscription")
		}
		return nil
	})
	for range n {
		if err := from.Publish("region.hall", make([]byte, 1<<10)); err != nil {
			t.Fatal(err)
		}
	}
	for range n {
		select {
		case <-received:
		case <-time.After(10 * time.Second):
			t.Fatal("messages do not arrive")
		}
	}
	if got := p.in.Load(); got < n<<10 {
		t.Fatalf("%d bytes went to the hub", got)
	}
	comesTrue(t, func() error {
		w := readEdge(says(t, edge))
		if in, out := uint64(p.out.Load()), uint64(p.in.Load()); w.Sent[Leaf] != out || w.Received[Leaf] < in {
			return fmt.Errorf("edge sent %d, proxy saw %d", w.Sent[Leaf], out)
		}
		return nil
	})
}

// What a connection had carried before is not counted of a server that ran before, and a restart begins anew.
func TestWireBytesFromTheFirstReadingOn(t *testing.T) {
	o := server.Options{Host: "127.77.0.1", HTTPHost: "127.77.0.1", HTTPPort: server.RANDOM_PORT}
	first := o
	s := runServer(t, &first)
	nc := dial(t, s.ClientURL())
	publish := func(n int) {
		t.Helper()
		if err := nc.Publish("region.hall", make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		if err := nc.FlushTimeout(10 * time.Second); err != nil {
			t.Fatal(err)
		}
	}
	publish(1 << 20)
	c, _ := startCounter(t)
	read := c.of(wireReader(t, s, "at URL"))
	if w := read(says(t, s)); w == nil || w.Received[Client] != 0 {
		t.Fatalf("at first %+v, want 0", w)
	}
	publish(1 << 10)
	within := func(w *Wire, low, high uint64) {
		t.Helper()
		if got := w.Received[Client]; got < low || got > high {
			t.Errorf("received %d, want %d to %d", got, low, high)
		}
	}
	within(read(says(t, s)), 1<<10, 1<<10+100)

	o.Port, o.HTTPPort = s.Addr().(*net.TCPAddr).Port, s.MonitorAddr().Port
	nc.Close()
	s.Shutdown()
	s.WaitForShutdown()
	s = runServer(t, &o)
	nc = dial(t, s.ClientURL())
	defer nc.Close()
	publish(100 << 10)
	within(read(says(t, s)), 100<<10, 101<<10)
}

// A server elsewhere may have the same ports as one that is here.
func TestWireBytesOfServersElsewhereAreEstimated(t *testing.T) {
	s := runServer(t, &server.Options{HTTPHost: "127.0.0.1", HTTPPort: server.RANDOM_PORT})
	c, _ := startCounter(t)
	for name, change := range map[string]func(*Server, *url.URL){
		"another host":       func(_ *Server, u *url.URL) { u.Host = "192.0.2.1:" + u.Port() },
		"another port":       func(s *Server, u *url.URL) { s.Varz.HTTPPort = 8222 },
		"a port is not here": func(s *Server, _ *url.URL) { s.Varz.Cluster.Port = 1 },
		"clients are not here": func(s *Server, _ *url.URL) {
			s.Connections = &Connections{ByKind: map[Kind]int{Client: 3}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			said := says(t, s)
			said.ID = name
			r := wireReader(t, s, "at URL").(*httpReader)
			said.Varz.HTTPPort = s.MonitorAddr().Port
			change(said, r.base)
			read := c.of(r)
			if w := read(said); w != nil {
				t.Errorf("counted: %+v", w)
			}
			// Once estimated, always estimated.
			said = says(t, s)
			said.ID = name
			r.base.Host = s.MonitorAddr().String()
			if w := read(said); w != nil {
				t.Errorf("counted later: %+v", w)
			}
		})
	}
}

// When more connections are closed than can be kept, it is noticed, and those that are open go on being counted.
func TestWireOverflow(t *testing.T) {
	s := runServer(t, &server.Options{})
	c := newTestCounter(t)
	c.feed.Close()
	if err := c.connect(1); err != nil { // as little as there is
		t.Fatal(err)
	}
	now := testTime
	c.now = func() time.Time { return now }
	read := c.of(&embeddedReader{server: s})
	stays := dial(t, s.ClientURL())
	defer stays.Close()
	var closing []*nats.Conn
	for range 50 {
		closing = append(closing, dial(t, s.ClientURL()))
	}
	before := read(says(t, s))
	for _, nc := range closing {
		nc.Close()
	}
	comesTrue(t, func() error {
		if n := s.NumClients(); n != 1 {
			return fmt.Errorf("%d clients", n)
		}
		return nil
	})
	startRun(t, c)
	comesTrue(t, func() error {
		if c.counted(t, c.overflows) == 0 {
			return fmt.Errorf("no overflow was noticed")
		}
		return nil
	})
	if err := stays.Publish("region.hall", make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if err := stays.Flush(); err != nil {
		t.Fatal(err)
	}
	after := read(says(t, s))
	if got := after.Received[Client] - before.Received[Client]; got < 1000 || got > 1100+50 {
		t.Errorf("received %d more, want a little more than 1000", got)
	}
	now = now.Add(2 * wireMissing)
	last := read(says(t, s))
	if last.Received[Client] != after.Received[Client] {
		t.Errorf("received %d, then %d", after.Received[Client], last.Received[Client])
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.ledger.sockets) != 1 {
		t.Errorf("%d sockets are remembered, want 1", len(c.ledger.sockets))
	}
}

func (c *wireCounter) counted(t testing.TB, m prometheus.Metric) float64 {
	t.Helper()
	v := &dto.Metric{}
	if err := m.Write(v); err != nil {
		t.Fatal(err)
	}
	return v.GetCounter().GetValue()
}

// When the kernel no longer hands in what is closed, it is asked to do so again.
func TestWireFollowsAgain(t *testing.T) {
	s := runServer(t, &server.Options{})
	c := newTestCounter(t)
	c.retry = time.Millisecond
	read := c.of(&embeddedReader{server: s})
	read(says(t, s))
	broken := c.feed
	broken.Close()
	startRun(t, c)
	comesTrue(t, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.feed == broken {
			return fmt.Errorf("nothing is handed in")
		}
		return nil
	})
	if c.counted(t, c.overflows) == 0 {
		t.Error("it is not said that connections were lost")
	}
	p := startProxy(t, s.Addr().String())
	converse(t, "nats://"+p.address, 16, 100)
	agrees(t, read, s, Client, p)
}

// When the sockets cannot be read, totals stay; if that is so at first, they are estimated for good.
func TestWireFailures(t *testing.T) {
	s := runServer(t, &server.Options{})
	c := newTestCounter(t)
	startRun(t, c)
	read := c.of(&embeddedReader{server: s})
	nc := dial(t, s.ClientURL())
	defer nc.Close()
	before := read(says(t, s))
	if before == nil || before.Sent[Client] == 0 {
		t.Fatalf("at first %+v", before)
	}
	list := c.list
	c.list = func([]wireEnd) ([]tcpSocket, error) { return nil, syscall.EPERM }
	if w := read(says(t, s)); w == nil || w.Sent[Client] != before.Sent[Client] {
		t.Errorf("after a failure %+v, before %+v", w, before)
	}
	late := c.of(&embeddedReader{server: s})
	if w := late(says(t, s)); w != nil {
		t.Errorf("after a failure at first: %+v", w)
	}
	if n := c.counted(t, c.failures); n != 2 {
		t.Errorf("%v failures, want 2", n)
	}
	c.list = list
	if w := read(says(t, s)); w == nil || w.Sent[Client] < before.Sent[Client] {
		t.Errorf("later %+v, before %+v", w, before)
	}
	if w := late(says(t, s)); w != nil {
		t.Errorf("later, after a failure at first: %+v", w)
	}
}

// Connected sockets that nobody asked for are not read.
func TestConnectedSocketsOfPorts(t *testing.T) {
	asked, other := runServer(t, &server.Options{}), runServer(t, &server.Options{})
	for _, s := range []*server.Server{asked, other} {
		nc := dial(t, s.ClientURL())
		defer nc.Close()
	}
	at := func(s *server.Server) netip.AddrPort { return s.Addr().(*net.TCPAddr).AddrPort() }
	port := at(asked).Port()
	many := make([]wireEnd, maxWireEnds+1)
	for name, c := range map[string]struct {
		ends                  []wireEnd
		local, remote, others bool
	}{
		"local":  {[]wireEnd{{port: 1}, {port: port}, {port: 2}}, true, false, false},
		"remote": {[]wireEnd{{port: port, remote: true}, {port: 1}}, false, true, false},
		"both":   {[]wireEnd{{port: port, remote: true}, {port: port}}, true, true, false},
		"full":   {slices.Concat(many[:maxWireEnds-1], []wireEnd{{port: port}}), true, false, false},
		"all":    {many, true, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			open, err := connectedSockets(c.ends)
			if err != nil {
				t.Fatal(err)
			}
			has := func(f func(*tcpSocket) bool) bool {
				return slices.ContainsFunc(open, func(s tcpSocket) bool { return f(&s) })
			}
			if got := has(func(s *tcpSocket) bool { return s.local == at(asked) }); got != c.local {
				t.Errorf("by local port: %v", got)
			}
			if got := has(func(s *tcpSocket) bool { return s.remote == at(asked) }); got != c.remote {
				t.Errorf("by remote port: %v", got)
			}
			if got := has(func(s *tcpSocket) bool { return s.local == at(other) }); got != c.others {
				t.Errorf("others: %v", got)
			}
		})
	}
}

// Destroyed sockets that nobody asked for are not handed in.
func TestDestroyedSocketsOfPorts(t *testing.T) {
	asked, other := runServer(t, &server.Options{}), runServer(t, &server.Options{})
	port := func(s *server.Server) uint16 { return uint16(s.Addr().(*net.TCPAddr).Port) }
	many := make([]wireEnd, maxWireEnds+1)
	for name, c := range map[string]struct {
		ends []wireEnd
		want func(*tcpSocket) bool // of the first of those that are handed in
	}{
		"local":  {[]wireEnd{{port: 1}, {port: port(asked)}}, func(s *tcpSocket) bool { return s.local.Port() == port(asked) }},
		"remote": {[]wireEnd{{port: port(asked), remote: true}, {port: 1}}, func(s *tcpSocket) bool { return s.remote.Port() == port(asked) }},
		"full": {slices.Concat(many[:maxWireEnds-1], []wireEnd{{port: port(asked)}}), func(s *tcpSocket) bool {
			return s.local.Port() == port(asked)
		}},
		"all": {many, func(s *tcpSocket) bool { return s.local.Port() != port(asked) && s.remote.Port() != port(asked) }},
	} {
		t.Run(name, func(t *testing.T) {
			feed, err := followDestroyed(wireFeedBytes)
			if err != nil {
				t.Fatal(err)
			}
			defer feed.Close()
			if err := feed.only(c.ends); err != nil {
				t.Fatal(err)
			}
			for _, s := range []*server.Server{other, asked} {
				nc := dial(t, s.ClientURL())
				nc.Close()
				comesTrue(t, func() error {
					if n := s.NumClients(); n != 0 {
						return fmt.Errorf("%d clients", n)
					}
					return nil
				})
			}
			var first *tcpSocket
			for first == nil {
				if err := feed.next(func(s *tcpSocket) { first = s }); err != nil {
					t.Fatal(err)
				}
			}
			if !c.want(first) {
				t.Errorf("%v to %v was handed in", first.local, first.remote)
			}
		})
	}
}

// Nobody needs a privilege. As root, the test of short-lived connections runs once more as another user.
func TestWireBytesWithoutPrivileges(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestWireBytesOfShortLivedConnections$", "-test.v")
	cmd.Dir = "/"
	cmd.Env = []string{"TMPDIR=/tmp"}
	if os.Getuid() == 0 {
		const nobody = 65534
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestWireBytesOfShortLivedConnections/own") {
		t.Fatalf("%v\n%s", err, out)
	}
}

// One reading of a server with 2,000 connections.
func BenchmarkWireReading(b *testing.B) {
	s := runServer(b, &server.Options{})
	c, _ := startCounter(b)
	read := c.of(&embeddedReader{server: s})
	for range 2000 {
		conn, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
	}
	said := says(b, s)
	comesTrue(b, func() error {
		if read(said); len(c.ledger.sockets) < 2000 {
			return fmt.Errorf("%d connections", len(c.ledger.sockets))
		}
		return nil
	})
	b.ReportAllocs()
	for b.Loop() {
		read(said)
	}
}
