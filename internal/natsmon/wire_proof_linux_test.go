package natsmon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
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

// A connection between two servers that are both here is counted of each, at its own end: one has accepted it, the other has
// made it.
func TestWireBytesBetweenServers(t *testing.T) {
	leafs := func(hub bool) func(*url.URL, *server.Options) {
		return func(u *url.URL, o *server.Options) {
			o.LeafNode.Remotes = []*server.RemoteLeafOpts{{URLs: []*url.URL{u}, Hub: hub}}
		}
	}
	accepts := server.Options{LeafNode: server.LeafNodeOpts{Host: "127.0.0.1", Port: server.RANDOM_PORT}}
	// One route, and no second one past the proxy.
	cluster := server.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: server.RANDOM_PORT, PoolSize: -1, NoAdvertise: true}
	for name, c := range map[string]struct {
		kind    Kind
		accepts server.Options
		port    func(*server.Varz) int
		connect func(*url.URL, *server.Options)
	}{
		"leaf":        {Leaf, accepts, func(v *server.Varz) int { return v.LeafNode.Port }, leafs(false)},
		"leaf as hub": {Leaf, accepts, func(v *server.Varz) int { return v.LeafNode.Port }, leafs(true)},
		"route": {Route, server.Options{Cluster: cluster}, func(v *server.Varz) int { return v.Cluster.Port },
			func(u *url.URL, o *server.Options) { o.Cluster, o.Routes = cluster, []*url.URL{u} }},
	} {
		t.Run(name, func(t *testing.T) {
			o := c.accepts
			o.ServerName = "accepts"
			accepting := runServer(t, &o)
			p := startProxy(t, fmt.Sprintf("127.0.0.1:%d", c.port(says(t, accepting).Varz)))
			other := server.Options{ServerName: "connects"}
			c.connect(&url.URL{Scheme: "nats", Host: p.address}, &other)
			connecting := runServer(t, &other)

			counter, _ := startCounter(t)
			readAccepting := counter.of(&embeddedReader{server: accepting})
			readConnecting := counter.of(&embeddedReader{server: connecting})
			agree := func() {
				t.Helper()
				comesTrue(t, func() error {
					in, out := uint64(p.in.Load()), uint64(p.out.Load())
					if in == 0 || out == 0 || p.conns.Load() != 1 {
						return fmt.Errorf("proxy saw %d and %d bytes on %d connections", in, out, p.conns.Load())
					}
					for name, side := range map[string]struct {
						w              *Wire
						received, sent uint64
					}{
						"accepting":  {readAccepting(says(t, accepting)), in, out},
						"connecting": {readConnecting(says(t, connecting)), out, in},
					} {
						w := side.w
						if w == nil {
							return fmt.Errorf("%s: nothing is counted", name)
						}
						if w.Received[c.kind] != side.received || w.Sent[c.kind] != side.sent {
							return fmt.Errorf("%s: received %d and sent %d, proxy saw %d and %d",
								name, w.Received[c.kind], w.Sent[c.kind], side.received, side.sent)
						}
					}
					return nil
				})
			}
			agree()
			const n = 500
			received := make(chan *nats.Msg, n)
			to, from := dial(t, accepting.ClientURL()), dial(t, connecting.ClientURL())
			defer to.Close()
			defer from.Close()
			if _, err := to.ChanSubscribe("region.>", received); err != nil {
				t.Fatal(err)
			}
			comesTrue(t, func() error {
				if !connecting.GlobalAccount().SubscriptionInterest("region.hall") {
					return fmt.Errorf("the subscription is not known on the other side")
				}
				return nil
			})
			body := make([]byte, 1<<10)
			rand.NewChaCha8([32]byte{}).Read(body) // when answers are slow, leafs compress
			for range n {
				if err := from.Publish("region.hall", body); err != nil {
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
			if p.in.Load() < n<<10 {
				t.Fatalf("%d bytes went through the proxy", p.in.Load())
			}
			agree()
		})
	}
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

// Behind a system account is many a server. The one that the connection goes to is known to be here, the others are not; and
// what was decided holds when the connection goes to another one.
func TestWireBytesBehindASystemAccount(t *testing.T) {
	first, second := runServer(t, &server.Options{}), runServer(t, &server.Options{})
	r := &systemReader{nc: dial(t, first.ClientURL())}
	defer func() { r.nc.Close() }()
	c, _ := startCounter(t)
	read := c.of(r)
	for range 2 {
		before, other := read(says(t, first)), read(says(t, second))
		if before == nil || other != nil {
			t.Fatalf("of the one connected to %+v, of the other one %+v", before, other)
		}
		nc := dial(t, first.ClientURL())
		defer nc.Close()
		if err := nc.Publish("region.hall", make([]byte, 10000)); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		if got := read(says(t, first)).Received[Client] - before.Received[Client]; got < 10000 || got > 11000 {
			t.Errorf("received %d", got)
		}
		r.nc.Close()
		r.nc = dial(t, second.ClientURL())
	}
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

// TestWireBytesOfMultipathTCP counts what such a client carries as long as it is connected. The kernel does not say what it
// was in the end; what was counted stays.
func TestWireBytesOfMultipathTCP(t *testing.T) {
	s := runServer(t, &server.Options{})
	read := startReading(t, s, &embeddedReader{server: s})
	var dialer net.Dialer
	dialer.SetMultipathTCP(true)
	nc, err := nats.Connect(s.ClientURL(), nats.SetCustomDialer(&dialer))
	if err != nil {
		t.Fatal(err)
	}
	const bytes = 100 << 10
	if err := errors.Join(nc.Publish("a", make([]byte, bytes)), nc.Flush()); err != nil {
		t.Fatal(err)
	}
	open := read(says(t, s)).Received[Client]
	if open < bytes || open > bytes+1000 {
		t.Errorf("%d bytes of a client that has sent %d", open, bytes)
	}
	nc.Close()
	comesTrue(t, func() error {
		if n := s.NumClients(); n != 0 {
			return fmt.Errorf("%d clients", n)
		}
		return nil
	})
	if closed := read(says(t, s)).Received[Client]; closed < open || closed > bytes+1000 {
		t.Errorf("%d bytes when it is closed, %d before", closed, open)
	}
}
