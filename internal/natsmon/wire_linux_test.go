package natsmon

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

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

// A server that only this process reaches has no wire. That is known without reading all sockets of the host.
func TestWireOfServerWithoutPorts(t *testing.T) {
	s := runServer(t, &server.Options{DontListen: true})
	c := newTestCounter(t)
	startRun(t, c)
	c.list = func([]wireEnd) ([]tcpSocket, error) {
		t.Error("all sockets are read")
		return nil, nil
	}
	if w := c.of(&embeddedReader{server: s})(says(t, s)); w == nil || len(w.Received)+len(w.Sent) != 0 {
		t.Errorf("got %+v, want no kinds", w)
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
			if err := feed.conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
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
