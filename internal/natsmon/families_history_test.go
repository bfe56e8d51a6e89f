package natsmon

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	dto "github.com/prometheus/client_model/go"
)

// scrapes builds what one server says, again and again.
type scrapes struct {
	t       *testing.T
	history *history
	at      time.Time
	id      string
}

func newScrapes(t *testing.T) *scrapes {
	return &scrapes{t, newHistory(), time.Unix(1_700_000_000, 0), "A1"}
}

// routes returns what there is of the route to a peer after the server has said that these are its routes.
func (s *scrapes) routes(r ...*server.RouteInfo) map[string]float64 {
	return s.read(&Server{Routes: &server.Routez{Routes: r}})
}

func (s *scrapes) leafs(l ...*server.LeafInfo) map[string]float64 {
	return s.read(&Server{Leafs: &server.Leafz{Leafs: l}})
}

// read returns all values by name, with the direction in it.
func (s *scrapes) read(of *Server) map[string]float64 {
	s.t.Helper()
	s.at = s.at.Add(15 * time.Second)
	of.Name, of.ID, of.At = "a", s.id, s.at
	return values(buildWith(s.t, newBuilder(true, s.history, "", ""), []*Server{of}))
}

// values are all values by name and, apart from that of the server, labels.
func values(families []*dto.MetricFamily) map[string]float64 {
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				if l.GetName() != "server" {
					name += " " + l.GetValue()
				}
			}
			all[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return all
}

func want(t *testing.T, got map[string]float64, name string, want float64) {
	t.Helper()
	if v, there := got[name]; !there || v != want {
		t.Errorf("%s is %v (%v), want %v", name, v, there, want)
	}
}

func route(number uint64, in int64) *server.RouteInfo {
	return &server.RouteInfo{Rid: number, RemoteName: "b", RTT: "2ms", InMsgs: in, OutMsgs: 2 * in, InBytes: 10 * in, OutBytes: 20 * in}
}

func TestCountersOfRoutesGoOnWhenOneIsMadeAnew(t *testing.T) {
	s := newScrapes(t)
	got := s.routes(route(1, 100), route(2, 50))
	want(t, got, "nats_route_messages_total received b", 150)
	want(t, got, "nats_route_messages_total sent b", 300)
	want(t, got, "nats_route_payload_bytes_total received b", 1500)
	want(t, got, "nats_route_payload_bytes_total sent b", 3000)
	want(t, got, "nats_route_connections b", 2)
	want(t, got, "nats_route_rtt_seconds b", 0.002)

	got = s.routes(route(2, 60), route(3, 1)) // 1 was closed, and 3 made instead
	want(t, got, "nats_route_messages_total received b", 161)
	want(t, got, "nats_route_connections b", 2)

	got = s.routes()
	want(t, got, "nats_route_up b", 0)
	want(t, got, "nats_route_connections b", 0)
	want(t, got, "nats_route_messages_total received b", 161)
	if _, there := got["nats_route_rtt_seconds b"]; there {
		t.Error("a route that is not there has a round trip")
	}

	s.id = "A2" // restarted: it counts from 0
	want(t, s.routes(route(1, 5)), "nats_route_messages_total received b", 5)
}

func TestLeafThatIsGoneIsDownForADay(t *testing.T) {
	s := newScrapes(t)
	leaf := &server.LeafInfo{ID: 1, Name: "edge", Account: "APP"}
	want(t, s.leafs(leaf), "nats_leaf_up APP edge", 1)
	want(t, s.leafs(), "nats_leaf_up APP edge", 0)
	s.at = s.at.Add(rememberPeer - time.Minute)
	want(t, s.leafs(), "nats_leaf_up APP edge", 0)
	s.at = s.at.Add(time.Minute)
	if _, there := s.leafs()["nats_leaf_up APP edge"]; there {
		t.Error("the leaf is remembered for more than a day")
	}
	leaf.ID = 2
	want(t, s.leafs(leaf), "nats_leaf_up APP edge", 1)
}

// TestLeafsThatAreNotAnsweredAreNotDown checks that a server that says nothing of leafs says nothing of them.
func TestLeafsThatAreNotAnsweredAreNotDown(t *testing.T) {
	s := newScrapes(t)
	s.leafs(&server.LeafInfo{ID: 1, Name: "edge", Account: "APP"})
	for name := range s.read(&Server{Varz: &server.Varz{}}) {
		if strings.HasPrefix(name, "nats_leaf_") {
			t.Error(name)
		}
	}
	want(t, s.leafs(&server.LeafInfo{ID: 1, Name: "edge", Account: "APP"}), "nats_leaf_up APP edge", 1)
}

func TestReadingsOutOfOrderDoNotCountTwice(t *testing.T) {
	h := newHistory()
	key := peerKey{kind: Route, name: "b"}
	total := func(at int64, open map[uint64]traffic) int64 {
		return h.update("A1", Route, time.Unix(at, 0), map[peerKey]map[uint64]traffic{key: open})[0].total.receivedMessages
	}
	if n := total(20, map[uint64]traffic{1: {receivedMessages: 10}, 2: {receivedMessages: 20}}); n != 30 {
		t.Error(n)
	}
	if n := total(10, map[uint64]traffic{1: {receivedMessages: 5}}); n != 30 { // before 2 was made
		t.Error(n)
	}
	if n := total(30, map[uint64]traffic{1: {receivedMessages: 11}, 2: {receivedMessages: 20}}); n != 31 {
		t.Error(n)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	h := newHistory()
	at := time.Unix(1_700_000_000, 0)
	for round := range 6 { // leafs that come once each
		at = at.Add(time.Minute)
		open := map[peerKey]map[uint64]traffic{}
		for i := range maxPeers / 2 {
			open[peerKey{kind: Leaf, name: fmt.Sprint(round, i)}] = map[uint64]traffic{1: {}}
		}
		h.update("A1", Leaf, at, open)
		if n := len(h.servers["A1"].peers); n > maxPeers {
			t.Errorf("%d peers are remembered", n)
		}
	}
	for i := range 100 { // a server that restarts again and again
		at = at.Add(rememberServer / 10)
		h.update(fmt.Sprint("B", i), Leaf, at, nil)
	}
	if n := len(h.servers); n > 12 {
		t.Errorf("%d servers are remembered", n)
	}
}
