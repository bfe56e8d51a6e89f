package bus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
)

// TestPublish runs every way in which a publish can end against one server and a cluster of three.
func TestPublish(t *testing.T) {
	t.Parallel()
	t.Run("one server", func(t *testing.T) {
		testPublish(t, []*bustest.Server{bustest.NewServer(t)})
	})
	t.Run("cluster", func(t *testing.T) {
		testPublish(t, bustest.NewCluster(t))
	})
}

func testPublish(t *testing.T, servers []*bustest.Server) {
	config := bustest.Config(servers[0].URL())
	config.Stream.Replicas = len(servers)
	hub := bustest.Connected(t, bus.Options{Config: config})
	bustest.EnsureStream(t, hub)
	proxy := bustest.NewProxy(t, servers[0].Addr())
	for _, test := range []struct {
		name string
		run  func(t *testing.T, e *edge)
	}{
		{"expectations", testExpectations},
		{"after purge", testAfterPurge},
		{"lost answer", testLostAnswer},
		{"lost request", testLostRequest},
		{"too large", testTooLarge},
	} {
		t.Run(test.name, func(t *testing.T) {
			site := strings.ReplaceAll(test.name, " ", "-")
			conn := bustest.Connected(t, bus.Options{Config: bustest.Config(proxy.URL()), Site: site})
			test.run(t, &edge{Conn: conn, hub: hub, proxy: proxy, lane: conn.Root().Lane(site, bus.Live), servers: servers})
		})
	}
	if len(servers) > 1 {
		t.Run("leader restart", func(t *testing.T) { testLeaderRestart(t, servers) })
	}
}

type edge struct {
	*bus.Conn
	hub     *bus.Conn
	proxy   *bustest.Proxy
	lane    string
	servers []*bustest.Server
}

// must publishes what has to succeed.
func (e *edge) must(t *testing.T, payload string, expect uint64) uint64 {
	t.Helper()
	sequence, err := e.Publish(t.Context(), e.lane, []byte(payload), expect)
	if err != nil {
		t.Fatalf("publish %q: %v", payload, err)
	}
	return sequence
}

// refused publishes what has to meet another last sequence.
func (e *edge) refused(t *testing.T, payload string, expect, last uint64) {
	t.Helper()
	_, err := e.Publish(t.Context(), e.lane, []byte(payload), expect)
	var conflict *bus.SequenceError
	if !errors.As(err, &conflict) || conflict.Last != last || conflict.Subject != e.lane {
		t.Errorf("publish with expectation %d: %v, want last sequence %d", expect, err, last)
	}
	if errors.Is(err, bus.ErrDoubtful) || errors.Is(err, bus.ErrNotStored) {
		t.Errorf("%v is more than one kind of error", err)
	}
}

// holds waits until the lane ends with this, as a replica that answers may lag.
func (e *edge) holds(t *testing.T, payload string, sequence uint64) {
	t.Helper()
	bustest.WaitFor(t, fmt.Sprintf("%q at %d", payload, sequence), func() bool {
		m, err := e.Last(t.Context(), e.lane)
		return err == nil && m.Sequence == sequence && string(m.Payload) == payload && m.Subject == e.lane && time.Since(m.Time) < time.Hour
	})
}

func testExpectations(t *testing.T, e *edge) {
	if m, err := e.Last(t.Context(), e.lane); !errors.Is(err, bus.ErrNoMessage) {
		t.Errorf("last message of an empty lane: %+v, %v", m, err)
	}
	e.refused(t, "no", 7, 0)
	first := e.must(t, "one", 0)
	e.holds(t, "one", first)
	e.refused(t, "no", 0, first)
	second := e.must(t, "two", first)
	e.refused(t, "no", first, second)
	e.refused(t, "no", second+1, second)
	e.must(t, "", second) // an empty payload is a payload
}

func testAfterPurge(t *testing.T, e *edge) {
	last := e.must(t, "one", 0)
	nc := rawHub(t, e.servers[0])
	if _, err := nc.Request("$JS.API.STREAM.PURGE.THALWEG", fmt.Appendf(nil, `{"filter":%q}`, e.lane), 5*time.Second); err != nil {
		t.Fatal(err)
	}
	e.refused(t, "two", last, 0)
	e.must(t, "two", 0)
}

// testLostAnswer is the case that compare-and-set exists for: stored, and nobody told the publisher.
func testLostAnswer(t *testing.T, e *edge) {
	last := e.must(t, "one", 0)
	for i := range 3 {
		payload := fmt.Sprintf("doubtful %d", i)
		e.proxy.LoseAnswers(true)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := e.Publish(ctx, e.lane, []byte(payload), last)
			done <- err
		}()
		bustest.WaitFor(t, "message to be stored", func() bool {
			m, err := e.hub.Last(t.Context(), e.lane)
			return err == nil && string(m.Payload) == payload
		})
		if i == 0 {
			cancel() // the caller gives up
		} else {
			e.proxy.Cut() // the link goes
		}
		if err := <-done; !errors.Is(err, bus.ErrDoubtful) {
			t.Errorf("publish whose answer was lost: %v", err)
		}
		cancel()
		e.proxy.LoseAnswers(false)
		bustest.WaitFor(t, "connection", func() bool { _, err := e.Last(t.Context(), e.lane); return err == nil })
		_, err := e.Publish(t.Context(), e.lane, []byte(payload), last)
		var conflict *bus.SequenceError
		if !errors.As(err, &conflict) || conflict.Last <= last {
			t.Fatalf("second publish: %v, want a sequence above %d", err, last)
		}
		last = conflict.Last
		e.holds(t, payload, last)
	}
}

func testLostRequest(t *testing.T, e *edge) {
	last := e.must(t, "one", 0)
	e.proxy.Refuse(true)
	e.proxy.Cut()
	bustest.WaitFor(t, "loss to be noticed", func() bool { return !e.State().Connected })
	_, err := e.Publish(t.Context(), e.lane, []byte("two"), last)
	if !errors.Is(err, bus.ErrNotStored) || !errors.Is(err, bus.ErrNotConnected) || errors.Is(err, bus.ErrDoubtful) {
		t.Errorf("publish without a connection: %v", err)
	}
	if _, err := e.Last(t.Context(), e.lane); !errors.Is(err, bus.ErrNotConnected) {
		t.Errorf("direct get without a connection: %v", err)
	}
	e.proxy.Refuse(false)
	bustest.WaitFor(t, "connection", func() bool { return e.State().Connected })
	e.holds(t, "one", last) // nothing was kept to be sent later
	last = e.must(t, "two", last)
	e.holds(t, "two", last)
}

func testTooLarge(t *testing.T, e *edge) {
	payload := make([]byte, e.MaxPayload())
	_, err := e.Publish(t.Context(), e.lane, payload, 0)
	if !errors.Is(err, bus.ErrNotStored) || !errors.Is(err, bus.ErrTooLarge) {
		t.Errorf("publish of %d bytes: %v", len(payload), err)
	}
	if _, err := e.Publish(t.Context(), e.lane, payload[128:], 0); err != nil {
		t.Errorf("publish of 128 bytes less: %v", err)
	}
}

// testLeaderRestart takes the stream's leader away in the middle of a sequence of publishes, twice. Each message is stored
// and read once, by a reader that was there and by one that comes later.
func testLeaderRestart(t *testing.T, servers []*bustest.Server) {
	var urls []string
	for _, s := range servers {
		urls = append(urls, s.URL())
	}
	site := bustest.Connected(t, bus.Options{Config: bustest.Config(urls...), Site: "restarts"})
	p := newPublisher(t, site, "restarts", bus.Live)
	hub := bustest.Connected(t, bus.Options{Config: bustest.Config(urls...)})
	there := read(t, hub, bus.ReaderOptions{Subjects: []string{p.subject}})
	var want []string
	send := func(payload string) {
		t.Helper()
		p.send(payload)
		want = append(want, payload)
	}
	for i := range 2 {
		send(fmt.Sprintf("%d before", i))
		leader := streamLeader(t, servers)
		leader.Stop()
		send(fmt.Sprintf("%d without leader", i))
		leader.Start()
		send(fmt.Sprintf("%d after", i))
	}
	after := read(t, hub, bus.ReaderOptions{Subjects: []string{p.subject}})
	for name, r := range map[string]*tape{"reader through the restarts": there, "reader after the restarts": after} {
		bustest.WaitFor(t, name, func() bool { return len(r.payloadsOnly()) >= len(want) })
		if got := r.payloadsOnly(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s said %q, want %q", name, got, want)
		}
		if slices.ContainsFunc(r.seen(), func(s string) bool { return strings.HasPrefix(s, "reset") }) {
			t.Errorf("%s said %q, want no reset", name, r.seen())
		}
	}
}

// streamLeader is the server that leads the stream.
func streamLeader(t *testing.T, servers []*bustest.Server) *bustest.Server {
	t.Helper()
	var leader *bustest.Server
	bustest.WaitFor(t, "stream leader", func() bool {
		for _, s := range servers {
			if s.LeadsStream(s.Options.Stream.Name) {
				leader = s
			}
		}
		return leader != nil
	})
	return leader
}

// TestUnansweredPublishes: a link that looks alive and brings no answers is given up.
func TestUnansweredRequests(t *testing.T) {
	t.Parallel()
	server := bustest.NewServer(t)
	bustest.Hub(t, server)
	proxy := bustest.NewProxy(t, server.Addr())
	c := bustest.Connected(t, bus.Options{Config: bustest.Config(proxy.URL()), Site: "a"})
	proxy.LoseAnswers(true)
	lane := c.Root().Lane("a", bus.Live)
	if _, err := c.Publish(t.Context(), lane, []byte("x"), 0); !errors.Is(err, bus.ErrDoubtful) {
		t.Errorf("publish without an answer: %v", err)
	}
	if m, err := c.Last(t.Context(), lane); err == nil {
		t.Errorf("direct get without an answer: %v", m)
	}
	bustest.WaitFor(t, "second connection", func() bool { return proxy.Accepted() >= 2 })
	proxy.LoseAnswers(false)
	// The state may still be that of the first one.
	bustest.WaitFor(t, "direct get after the reconnect", func() bool {
		_, err := c.Last(t.Context(), lane)
		return err == nil
	})
	expected := `
		# HELP thalweg_bus_publishes_total Messages published to the stream, by outcome.
		# TYPE thalweg_bus_publishes_total counter
		thalweg_bus_publishes_total{connection="test",outcome="doubtful"} 1
		thalweg_bus_publishes_total{connection="test",outcome="not_stored"} 0
		thalweg_bus_publishes_total{connection="test",outcome="refused"} 0
		thalweg_bus_publishes_total{connection="test",outcome="stored"} 0
		thalweg_bus_publishes_total{connection="test",outcome="wrong_sequence"} 0
	`
	for _, collector := range c.Metrics() {
		if testutil.CollectAndCount(collector, "thalweg_bus_publishes_total") > 0 {
			if err := testutil.CollectAndCompare(collector, strings.NewReader(expected)); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestPublishDenied(t *testing.T) {
	server := bustest.NewServer(t)
	hub := bustest.Hub(t, server)
	c := bustest.Connected(t, bus.Options{Config: bustest.Config(server.URL()), Site: "a"})
	started := time.Now()
	_, err := c.Publish(t.Context(), c.Root().Lane("b", bus.Live), []byte("x"), 0)
	if !errors.Is(err, bus.ErrDenied) || !errors.Is(err, bus.ErrNotStored) {
		t.Errorf("publish on another's lane after %s: %v", time.Since(started), err)
	}
	if s := c.State(); !s.Connected || !strings.Contains(s.Reason, "permissions violation") {
		t.Errorf("state is %+v", s)
	}
	if _, err := c.Last(t.Context(), c.Root().Lane("b", bus.Live)); !errors.Is(err, bus.ErrDenied) {
		t.Errorf("direct get of another's lane: %v", err)
	}
	if _, err := hub.Last(t.Context(), c.Root().Lane("b", bus.Live)); !errors.Is(err, bus.ErrNoMessage) {
		t.Errorf("lane after a denied publish: %v", err)
	}
}
