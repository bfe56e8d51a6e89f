package natsmon

import (
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
)

// byteProxy forwards connections, and counts what it reads of either side.
type byteProxy struct {
	address string
	in, out atomic.Int64 // to the server, from the server
	conns   atomic.Int64
}

func startProxy(t testing.TB, to string) *byteProxy {
	t.Helper()
	host, _, err := net.SplitHostPort(to)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	p := &byteProxy{address: l.Addr().String()}
	var running sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		running.Wait()
	})
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { p.forward(t, c, to) })
		}
	})
	return p
}

func (p *byteProxy) forward(t testing.TB, client net.Conn, to string) {
	defer client.Close()
	s, err := net.Dial("tcp", to)
	if err != nil {
		t.Logf("proxy: %v", err)
		return
	}
	defer s.Close()
	p.conns.Add(1)
	var both sync.WaitGroup
	pass := func(dst, src net.Conn, n *atomic.Int64) {
		io.Copy(io.MultiWriter(counterOf(n), dst), src)
		dst.(*net.TCPConn).CloseWrite()
	}
	both.Go(func() { pass(s, client, &p.in) })
	both.Go(func() { pass(client, s, &p.out) })
	both.Wait()
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func counterOf(n *atomic.Int64) io.Writer {
	return writerFunc(func(b []byte) (int, error) {
		n.Add(int64(len(b)))
		return len(b), nil
	})
}

// runServer runs a server at 127.0.0.1 and a free port, unless the options say otherwise.
func runServer(t testing.TB, o *server.Options) *server.Server {
	t.Helper()
	if o.Host == "" {
		o.Host = "127.0.0.1"
	}
	if o.Port == 0 {
		o.Port = server.RANDOM_PORT
	}
	o.NoLog, o.NoSigs = true, true
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server is not ready")
	}
	return s
}

// converse has n messages of a size go through a server, from one connection to another.
func converse(t testing.TB, url string, size, n int, options ...nats.Option) {
	t.Helper()
	from, to := dial(t, url, options...), dial(t, url, options...)
	defer from.Close()
	defer to.Close()
	sub, err := to.SubscribeSync("region.hall.rack7.meter")
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		t.Fatal(err)
	}
	if err := to.Flush(); err != nil {
		t.Fatal(err)
	}
	for body, i := make([]byte, size), 0; i < n; i++ {
		if err := from.Publish(sub.Subject, body); err != nil {
			t.Fatal(err)
		}
	}
	for range n {
		if _, err := sub.NextMsg(10 * time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if err := from.Flush(); err != nil {
		t.Fatal(err)
	}
}

func dial(t testing.TB, url string, options ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url, options...)
	if err != nil {
		t.Fatal(err)
	}
	return nc
}

// says is what a server says of itself, as far as it matters here.
func says(t testing.TB, s *server.Server) *Server {
	t.Helper()
	v, err := s.Varz(nil)
	if err != nil {
		t.Fatal(err)
	}
	said := &Server{ID: v.ID, Varz: v}
	if said.Leafs, err = s.Leafz(nil); err != nil {
		t.Fatal(err)
	}
	if said.Routes, err = s.Routez(nil); err != nil {
		t.Fatal(err)
	}
	return said
}

// comesTrue waits for what ok checks, which says what is missing.
func comesTrue(t testing.TB, ok func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		if err = ok(); err == nil {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
	t.Fatal(err)
}

// The bound of the estimate, as it is documented: by what the subject is longer or shorter than it is thought to be, 8 bytes
// more for each message, and what is said when a connection begins.
func TestEstimateOfWireBytes(t *testing.T) {
	for _, size := range []int{16, 1 << 10, 64 << 10} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			const n = 2000
			s := runServer(t, &server.Options{})
			p := startProxy(t, s.Addr().String())
			converse(t, "nats://"+p.address, size, n)
			v, err := s.Varz(nil)
			if err != nil {
				t.Fatal(err)
			}
			in, out := estimateWireBytes(v)
			const perMessage, perConnection = 1 + 8, 3 << 10
			for _, c := range []struct {
				what             string
				estimate, proxys float64
			}{{"received", in, float64(p.in.Load())}, {"sent", out, float64(p.out.Load())}} {
				if off := math.Abs(c.estimate - c.proxys); off > perMessage*n+2*perConnection {
					t.Errorf("%s: estimated %.0f, proxy saw %.0f", c.what, c.estimate, c.proxys)
				}
			}
		})
	}
}

var testTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

const testListener = "192.0.2.1:4222"

// ledgerOf is a ledger with one server, which accepts at testListener.
func ledgerOf() (*wireLedger, *wireServer) {
	l, s := newWireLedger(), newWireServer()
	l.listen(s, map[netip.AddrPort]Kind{netip.MustParseAddrPort(testListener): Client})
	return &l, s
}

func accepted(cookie, received, sent uint64) tcpSocket {
	return tcpSocket{
		cookie: cookie, inode: uint32(1000 + cookie), received: received, sent: sent,
		local: netip.MustParseAddrPort(testListener), remote: netip.MustParseAddrPort("192.0.2.9:50000"),
	}
}

// read takes in a reading, during which some sockets are destroyed.
func (l *wireLedger) read(open []tcpSocket, at time.Time, destroyed ...tcpSocket) {
	l.begin()
	for _, s := range destroyed {
		l.destroyed(&s, at)
	}
	l.observe(open, at)
	l.end()
}

func wantWire(t *testing.T, s *wireServer, kind Kind, received, sent uint64) {
	t.Helper()
	if w := s.wire(); w.Received[kind] != received || w.Sent[kind] != sent {
		t.Errorf("%s: received %d and sent %d, want %d and %d", kind, w.Received[kind], w.Sent[kind], received, sent)
	}
}

func TestWireLedger(t *testing.T) {
	t.Run("open, then destroyed", func(t *testing.T) {
		l, s := ledgerOf()
		l.read([]tcpSocket{accepted(1, 10, 20)}, testTime)
		l.read([]tcpSocket{accepted(1, 15, 20)}, testTime)
		wantWire(t, s, Client, 15, 20)
		l.read(nil, testTime, accepted(1, 16, 22))
		l.read(nil, testTime)
		wantWire(t, s, Client, 16, 22)
	})
	t.Run("never seen open", func(t *testing.T) {
		l, s := ledgerOf()
		l.read(nil, testTime, accepted(1, 10, 20), accepted(2, 1, 2))
		wantWire(t, s, Client, 11, 22)
	})
	t.Run("destroyed while read", func(t *testing.T) {
		l, s := ledgerOf()
		l.read([]tcpSocket{accepted(1, 10, 20)}, testTime, accepted(1, 11, 21))
		l.read(nil, testTime)
		wantWire(t, s, Client, 11, 21)
		if len(l.sockets) != 0 {
			t.Errorf("%d sockets are left", len(l.sockets))
		}
	})
	t.Run("twice in a reading", func(t *testing.T) {
		l, s := ledgerOf()
		l.read([]tcpSocket{accepted(1, 10, 20), accepted(1, 10, 21)}, testTime)
		wantWire(t, s, Client, 10, 21)
	})
	t.Run("reset, so that nothing is left", func(t *testing.T) {
		l, s := ledgerOf()
		l.read([]tcpSocket{accepted(1, 10, 20)}, testTime)
		l.read(nil, testTime, accepted(1, 0, 0))
		wantWire(t, s, Client, 10, 20)
	})
	t.Run("handed in late", func(t *testing.T) {
		l, s := ledgerOf()
		l.read([]tcpSocket{accepted(1, 10, 20)}, testTime)
		l.read(nil, testTime.Add(time.Hour))
		l.read(nil, testTime.Add(time.Hour+wireMissing), accepted(1, 12, 20))
		wantWire(t, s, Client, 12, 20)
	})
	t.Run("never handed in", func(t *testing.T) {
		l, s := ledgerOf()
		l.read([]tcpSocket{accepted(1, 10, 20), accepted(2, 1, 1)}, testTime)
		l.read([]tcpSocket{accepted(2, 2, 2)}, testTime.Add(time.Second))
		l.read([]tcpSocket{accepted(2, 3, 3)}, testTime.Add(2*time.Second+wireMissing))
		wantWire(t, s, Client, 13, 23)
		if len(l.sockets) != 1 {
			t.Errorf("%d sockets are remembered, want 1", len(l.sockets))
		}
	})
	t.Run("not of the server", func(t *testing.T) {
		l, s := ledgerOf()
		other := accepted(1, 10, 20)
		other.local, other.remote = other.remote, other.local // the end of a client on this host
		l.read([]tcpSocket{other}, testTime, other)
		wantWire(t, s, Client, 0, 0)
		if len(l.sockets) != 0 {
			t.Errorf("%d sockets are remembered", len(l.sockets))
		}
	})
	t.Run("there before", func(t *testing.T) {
		l, s := ledgerOf()
		s.baseline, s.settled = true, testTime.Add(wireSettling)
		l.read([]tcpSocket{accepted(1, 1000, 2000)}, testTime)
		s.baseline = false
		l.read([]tcpSocket{accepted(1, 1000, 2000)}, testTime, accepted(3, 100, 200))
		l.read([]tcpSocket{accepted(1, 1001, 2002), accepted(2, 3, 4)}, s.settled, accepted(4, 10, 20))
		wantWire(t, s, Client, 14, 26)
	})
	t.Run("another server in its place", func(t *testing.T) {
		l, before := ledgerOf()
		l.read([]tcpSocket{accepted(1, 10, 20), accepted(2, 100, 200)}, testTime)
		after := newWireServer()
		if !l.listen(after, map[netip.AddrPort]Kind{netip.MustParseAddrPort(testListener): Client}) {
			t.Error("it does not replace the other")
		}
		orphan := accepted(1, 11, 21)
		orphan.inode = 0
		l.read([]tcpSocket{orphan, accepted(2, 101, 201)}, testTime)
		wantWire(t, before, Client, 111, 221)
		wantWire(t, after, Client, 101, 201)
	})
	t.Run("at any address", func(t *testing.T) {
		l, s := newWireLedger(), newWireServer()
		l.listen(s, map[netip.AddrPort]Kind{netip.MustParseAddrPort("[::]:4222"): Client, netip.MustParseAddrPort("[::]:7422"): Leaf})
		leaf := accepted(2, 3, 4)
		leaf.local = netip.MustParseAddrPort("[2001:db8::1]:7422")
		l.read([]tcpSocket{accepted(1, 1, 2), leaf}, testTime)
		wantWire(t, s, Client, 1, 2)
		wantWire(t, s, Leaf, 3, 4)
	})
	t.Run("no room", func(t *testing.T) {
		l, s := ledgerOf()
		l.most = 1
		l.read([]tcpSocket{accepted(1, 10, 20), accepted(2, 100, 200)}, testTime)
		wantWire(t, s, Client, 10, 20)
		l.read([]tcpSocket{accepted(1, 11, 21)}, testTime, accepted(2, 101, 201))
		wantWire(t, s, Client, 112, 222)
	})
}

func TestWireLedgerOfOutgoingConnections(t *testing.T) {
	hub := netip.MustParseAddrPort("198.51.100.1:7422")
	out := func(cookie, received, sent uint64) tcpSocket {
		s := accepted(cookie, received, sent)
		s.local, s.remote = netip.MustParseAddrPort("192.0.2.1:39000"), hub
		return s
	}
	one := map[netip.AddrPort]wireOutgoing{hub: {Leaf, 1}}

	l, first := ledgerOf()
	second := newWireServer()
	open := []tcpSocket{out(1, 10, 20), out(2, 100, 200)}
	for _, s := range []*wireServer{first, second, first} {
		l.begin()
		l.observe(open, testTime)
		if err := l.claim(s, open, one, nil); err != nil {
			t.Fatal(err)
		}
		l.end()
	}
	wantWire(t, first, Leaf, 10, 20)
	wantWire(t, second, Leaf, 100, 200)

	// Of a server in this process it is known which are its own; a connection that is destroyed meanwhile is not claimed.
	l, own := ledgerOf()
	open = append(open, out(3, 1000, 2000))
	l.begin()
	l.destroyed(&open[1], testTime)
	l.observe(open, testTime)
	mine := func(inodes []uint32) (map[uint32]bool, error) { return map[uint32]bool{1002: true, 1003: true}, nil }
	if err := l.claim(own, open, map[netip.AddrPort]wireOutgoing{hub: {Leaf, 2}}, mine); err != nil {
		t.Fatal(err)
	}
	l.end()
	wantWire(t, own, Leaf, 1000, 2000)
	l.read(nil, testTime, out(3, 1001, 2002))
	wantWire(t, own, Leaf, 1001, 2002)
}

func TestListenersOf(t *testing.T) {
	listening := []netip.AddrPort{
		netip.MustParseAddrPort("192.0.2.1:4222"), netip.MustParseAddrPort("192.0.2.2:4222"), netip.MustParseAddrPort("0.0.0.0:6222"),
		netip.MustParseAddrPort("[::1]:8222"),
	}
	ports := wirePorts(&server.Varz{
		Host: "192.0.2.2", Port: 4222, HTTPPort: 8222,
		Cluster: server.ClusterOptsVarz{Host: "0.0.0.0", Port: 6222},
		MQTT:    server.MQTTOptsVarz{Port: 1883},
	}, nil)
	found, missing := listenersOf(listening, ports)
	want := map[netip.AddrPort]Kind{listening[1]: Client, netip.MustParseAddrPort("[::]:6222"): Route}
	if !missing || !maps.Equal(found, want) {
		t.Errorf("found %v, missing %v; want %v, and one to be missing", found, missing, want)
	}
	// The address is not said: any will do.
	if found, missing := listenersOf(listening, []wirePort{{Client, "nats.example.com", 4222}}); missing || len(found) != 2 {
		t.Errorf("found %v, missing %v", found, missing)
	}
}

func TestOutgoingOf(t *testing.T) {
	got := outgoingOf(&Server{
		Varz: &server.Varz{LeafNode: server.LeafNodeOptsVarz{Remotes: []server.RemoteLeafOptsVarz{{URLs: []string{"hub.example.com:443"}}}}},
		Leafs: &server.Leafz{Leafs: []*server.LeafInfo{
			{IP: "192.0.2.1", Port: 7422, IsSpoke: true},
			{IP: "192.0.2.1", Port: 7422, IsSpoke: true},
			{IP: "2001:db8::1", Port: 443},
			{IP: "192.0.2.9", Port: 50000}, // came in
		}},
		Routes: &server.Routez{Routes: []*server.RouteInfo{
			{IP: "192.0.2.2", Port: 6222, DidSolicit: true},
			{IP: "192.0.2.2", Port: 50001},
			{IP: "", Port: 6222, DidSolicit: true},
		}},
		Gateways: &server.Gatewayz{
			OutboundGateways: map[string]*server.RemoteGatewayz{
				"west": {Connection: &server.ConnInfo{IP: "::ffff:192.0.2.3", Port: 7222}}, "east": {},
			},
			InboundGateways: map[string][]*server.RemoteGatewayz{"west": {{Connection: &server.ConnInfo{IP: "192.0.2.3", Port: 50002}}}},
		},
	})
	want := map[netip.AddrPort]wireOutgoing{
		netip.MustParseAddrPort("192.0.2.1:7422"):    {Leaf, 2},
		netip.MustParseAddrPort("[2001:db8::1]:443"): {Leaf, 1},
		netip.MustParseAddrPort("192.0.2.2:6222"):    {Route, 1},
		netip.MustParseAddrPort("192.0.2.3:7222"):    {Gateway, 1},
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestWireMetricsAreThereWithoutCounter, also where the kernel does not count.
func TestWireMetricsAreThereWithoutCounter(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister((&Exporter{}).Metrics()...)
	families, err := registry.Gather()
	if err != nil || len(families) != 3 {
		t.Errorf("%d metrics, %v", len(families), err)
	}
}
