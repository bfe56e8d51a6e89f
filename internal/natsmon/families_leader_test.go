package natsmon

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"
)

// replica is what a server of a cluster says of the stream S with the consumer C.
type replica struct {
	name             string
	leader           string
	since            time.Time
	messages         uint64
	consumerLeader   string
	consumerPending  uint64
	ephemeralPending uint64
}

func (r replica) server() *Server {
	cluster := func(leader string) *server.ClusterInfo {
		c := &server.ClusterInfo{Name: "east", Leader: leader, Replicas: []*server.PeerInfo{{Name: "other", Current: true, Lag: 7}}}
		if leader == r.name && !r.since.IsZero() {
			c.LeaderSince = &r.since
		}
		return c
	}
	return &Server{Cluster: "east", Name: r.name, ID: r.name, JetStream: &server.JSInfo{
		AccountDetails: []*server.AccountDetail{{Name: "A", Id: "A", Streams: []server.StreamDetail{{
			Name: "S", Cluster: cluster(r.leader), State: server.StreamState{Msgs: r.messages},
			Consumer: []*server.ConsumerInfo{
				{Name: "C", Stream: "S", Cluster: cluster(r.consumerLeader), NumPending: r.consumerPending, Config: &server.ConsumerConfig{Durable: "C"}},
				{Name: "e" + r.name, Stream: "S", Cluster: cluster(r.name), NumPending: r.ephemeralPending, Config: &server.ConsumerConfig{}},
			},
		}}}},
	}}
}

func ofReplicas(t *testing.T, replicas ...replica) map[string]float64 {
	t.Helper()
	var servers []*Server
	for _, r := range replicas {
		servers = append(servers, r.server())
	}
	return values(build(t, servers))
}

func TestStreamsAndConsumersAreOfTheirLeaders(t *testing.T) {
	got := ofReplicas(t,
		replica{name: "a", leader: "b", messages: 1, consumerLeader: "a", consumerPending: 11, ephemeralPending: 100},
		replica{name: "b", leader: "b", messages: 2, consumerLeader: "a", consumerPending: 12, ephemeralPending: 200},
		replica{name: "c", leader: "b", messages: 3, consumerLeader: "a", consumerPending: 13, ephemeralPending: 400})
	want(t, got, "nats_stream_messages A east S", 2)
	want(t, got, "nats_stream_replica_lag A east other S", 7)
	want(t, got, "nats_consumer_pending A east C S", 11)
	want(t, got, "nats_stream_consumers A east S", 4)
	want(t, got, "nats_stream_ephemeral_consumers A east S", 3)
	want(t, got, "nats_stream_ephemeral_pending A east S", 700)
}

// While a consumer has no leader there is no count of all. That of one server goes without those that servers lead which are
// not read.
func TestConsumersAreCountedIfAllHaveLeaders(t *testing.T) {
	for _, leader := range []string{"", "a"} {
		got := ofReplicas(t, replica{name: "a", leader: "b", consumerLeader: "b"}, replica{name: "b", leader: "b", consumerLeader: leader})
		for name := range got {
			if strings.HasPrefix(name, "nats_stream_consumers ") || strings.HasPrefix(name, "nats_stream_ephemeral_") {
				t.Errorf("leader %q: %s", leader, name)
			}
		}
		want(t, got, "nats_stream_messages A east S", 0)
	}
	got := ofReplicas(t, replica{name: "b", leader: "b", consumerLeader: "z"})
	want(t, got, "nats_stream_consumers A east S", 1)
}

// A new leader of a consumer does not know at once what is pending.
func TestNewLeadersOfConsumersSettle(t *testing.T) {
	elected := time.Unix(100, 0)
	s := replica{name: "a", leader: "a", consumerLeader: "a", since: elected, consumerPending: 1}.server()
	consumer := s.JetStream.AccountDetails[0].Streams[0].Consumer[0]
	for after, there := range map[time.Duration]bool{0: false, settling - 1: false, settling: true} {
		consumer.TimeStamp = elected.Add(after)
		got := values(build(t, []*Server{s}))
		_, pending := got["nats_consumer_pending A east C S"]
		_, count := got["nats_stream_consumers A east S"]
		if pending != there || count != there {
			t.Errorf("%v after the election: pending %v, count %v", after, pending, count)
		}
	}
}

// Who was elected and has not begun to lead is no leader yet.
func TestWhoIsElectedDoesNotLeadYet(t *testing.T) {
	s := replica{name: "a", leader: "a", consumerLeader: "a"}.server()
	stream := &s.JetStream.AccountDetails[0].Streams[0]
	stream.Cluster.TrafficAcc, stream.Consumer[0].Cluster.TrafficAcc = "A", "A"
	stream.Cluster.LeaderSince, stream.Consumer[0].Cluster.LeaderSince = nil, nil
	for name := range values(build(t, []*Server{s})) {
		if strings.HasPrefix(name, "nats_stream_") && !strings.HasPrefix(name, "nats_stream_write_error") || strings.HasPrefix(name, "nats_consumer_") {
			t.Error(name)
		}
	}
}

func TestOfTwoLeadersTheNewerOneIsRight(t *testing.T) {
	before, after := time.Unix(100, 0), time.Unix(200, 0)
	old := replica{name: "a", leader: "a", since: before, messages: 1, consumerLeader: "a", consumerPending: 1}
	now := replica{name: "b", leader: "b", since: after, messages: 2, consumerLeader: "b", consumerPending: 2}
	for _, replicas := range [][]replica{{old, now}, {now, old}} {
		got := ofReplicas(t, replicas...)
		want(t, got, "nats_stream_messages A east S", 2)
		want(t, got, "nats_consumer_pending A east C S", 2)
	}
}

func TestWithoutALeaderThereIsNothing(t *testing.T) {
	got := ofReplicas(t, replica{name: "a", messages: 1}, replica{name: "b", messages: 2})
	for _, name := range []string{"nats_stream_messages A east S", "nats_consumer_pending A east C S"} {
		if v, there := got[name]; there {
			t.Errorf("%s is %v", name, v)
		}
	}
}

// TestStreamsOfServersAlone checks servers that are no cluster, and may have streams of one name.
func TestStreamsOfServersAlone(t *testing.T) {
	var servers []*Server
	for _, name := range []string{"a", "b"} {
		servers = append(servers, &Server{Name: name, ID: name, JetStream: &server.JSInfo{AccountDetails: []*server.AccountDetail{{
			Name: "A", Id: "A", Streams: []server.StreamDetail{{Name: "S", State: server.StreamState{Msgs: 1}}},
		}}}})
	}
	n := 0
	for _, f := range build(t, servers) {
		if f.GetName() == "nats_stream_messages" {
			for _, m := range f.Metric {
				n++
				if l := m.Label; len(l) != 3 || l[1].GetName() != "server" || l[1].GetValue() != servers[n-1].Name {
					t.Error(l)
				}
			}
		}
	}
	if n != 2 {
		t.Errorf("%d streams", n)
	}
}

func TestWriteErrorsAreOfTheServerThatHasThem(t *testing.T) {
	s := replica{name: "a", leader: "b"}.server()
	s.Health = map[string]*server.HealthStatus{healthOfAll: {Status: "error", Errors: []server.HealthzError{
		{Type: server.HealthzErrorStream, Account: "A", Stream: "S", Error: "JetStream stream 'A > S' write error: no space left on device"},
	}}}
	got := values(build(t, []*Server{s, replica{name: "b", leader: "b"}.server()}))
	want(t, got, "nats_stream_write_error A east S", 1)
	want(t, got, "nats_server_healthy all east", 0)
	want(t, got, "nats_server_unhealthy_streams east", 1)

	s.Health[healthOfAll] = &server.HealthStatus{Status: "unavailable", Error: "no answer with details"}
	got = values(build(t, []*Server{s}))
	want(t, got, "nats_server_healthy all east", 0)
	for _, name := range []string{"nats_stream_write_error A east S", "nats_server_unhealthy_streams east"} {
		if v, there := got[name]; there {
			t.Errorf("%s is %v", name, v)
		}
	}
}

func TestNoLimitIsNotANumber(t *testing.T) {
	s := replica{name: "a", leader: "a"}.server()
	a := s.JetStream.AccountDetails[0]
	a.ReservedStore, a.ReservedMemory = math.MaxUint64, math.MaxUint64
	s.JetStream.ReservedStore = math.MaxUint64
	a.Streams[0].Config = &server.StreamConfig{MaxBytes: -1, MaxMsgs: -1, MaxConsumers: -1}
	for _, compat := range []string{"", compatPNE} {
		for _, f := range buildWith(t, newBuilder(true, newHistory(), compat, "gnatsd"), []*Server{s}) {
			for _, m := range f.Metric {
				if v := m.GetGauge().GetValue() + m.GetCounter().GetValue(); v > 1e18 || math.IsInf(v, 0) || v < 0 && compat == "" {
					t.Errorf("%s is %v", f.GetName(), v)
				}
			}
		}
	}
}

func TestServersOfOneNameAreAddedOnce(t *testing.T) {
	b := newBuilder(true, newHistory(), "", "")
	first := &Server{Cluster: "east", Name: "a", ID: "1", Varz: &server.Varz{}}
	if !b.add(first) || b.add(first) || b.add(&Server{Cluster: "east", Name: "a", ID: "2", Varz: &server.Varz{}}) {
		t.Error("a server was added twice")
	}
	if !b.add(&Server{Cluster: "west", Name: "a", ID: "3", Varz: &server.Varz{}}) {
		t.Error("a server of another cluster was not added")
	}
	if n := len(b.byName["nats_server_clients"].Metric); n != 2 {
		t.Errorf("%d servers", n)
	}
}

func TestAccountsOfOneNameAreToldApart(t *testing.T) {
	s := &Server{Name: "a", ID: "1", Accounts: &server.AccountStatz{Accounts: []*server.AccountStat{
		{Account: "AAA", Name: "shop", Conns: 1}, {Account: "AAB", Name: "shop", Conns: 2}, {Account: "AAC", Conns: 3},
	}}}
	got := values(build(t, []*Server{s}))
	want(t, got, "nats_account_connections shop", 1)
	want(t, got, "nats_account_connections AAB", 2)
	want(t, got, "nats_account_connections AAC", 3)
}

// TestLabelsAreAlwaysText checks names that are no UTF-8, which only a server in this process can have.
func TestLabelsAreAlwaysText(t *testing.T) {
	l := labels{}.with("server", "a\xff").with("account", "").with("cluster", "c")
	if got, want := l.String(), `cluster="c",server="a`+"\uFFFD"+`",`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if l[0].GetName() != "cluster" {
		t.Error("labels are not sorted")
	}
	shared := l.with("b", "1")
	if l.with("a", "2"); shared[0].GetName() != "b" || len(l) != 2 {
		t.Error("labels that are shared were changed")
	}
}

func TestBytesOnTheWire(t *testing.T) {
	s := &Server{Name: "a", Varz: &server.Varz{InMsgs: 10, InBytes: 1000, OutMsgs: 20, OutBytes: 2000}}
	got := values(buildWith(t, newBuilder(false, newHistory(), "", ""), []*Server{s}))
	want(t, got, "nats_server_total_bytes_received", 1000+10*protocolBytes)
	want(t, got, "nats_server_total_bytes_sent", 2000+20*protocolBytes)
	want(t, got, "nats_server_wire_bytes_info estimate", 1)

	s.Wire = &Wire{Received: map[Kind]uint64{Client: 5, Leaf: 6}, Sent: map[Kind]uint64{Client: 7, Leaf: 8}}
	got = values(buildWith(t, newBuilder(false, newHistory(), "", ""), []*Server{s}))
	want(t, got, "nats_server_total_bytes_received", 11)
	want(t, got, "nats_server_total_bytes_sent", 15)
	want(t, got, "nats_server_wire_bytes_total sent leaf", 8)
	want(t, got, "nats_server_wire_bytes_info tcp_info", 1)
}

// TestFamiliesHaveEachSeriesOnce checks all recorded servers, with compat.
func TestFamiliesHaveEachSeriesOnce(t *testing.T) {
	for _, families := range [][]*dto.MetricFamily{everything(t), compatible(t, "nats")} {
		last := ""
		for _, f := range families {
			if f.GetName() <= last {
				t.Errorf("%s comes after %s", f.GetName(), last)
			}
			last = f.GetName()
			seen := map[string]bool{}
			for _, m := range f.Metric {
				series := labels(m.Label).String()
				if seen[series] {
					t.Errorf("%s{%s} is there twice", f.GetName(), series)
				}
				seen[series] = true
			}
			if f.GetHelp() == "" || f.Type == nil {
				t.Errorf("%s has no help or type", f.GetName())
			}
		}
	}
}

func TestMonitoringPathsAreBounded(t *testing.T) {
	s := &Server{Name: "a", Varz: &server.Varz{HTTPReqStats: map[string]uint64{"/varz": 1, "/": 2, "/bad name\n": 3}}}
	for i := range 1000 {
		s.Varz.HTTPReqStats[fmt.Sprint("/x", i)] = 1
	}
	for _, f := range buildWith(t, newBuilder(true, newHistory(), compatPNE, "gnatsd"), []*Server{s}) {
		if !model.LegacyValidation.IsValidMetricName(f.GetName()) {
			t.Errorf("%q is not a name", f.GetName())
		}
		if len(f.Metric) > maxMonitoringPaths {
			t.Errorf("%d series of %s", len(f.Metric), f.GetName())
		}
	}
}

// TestClientCountersOfOldServersAreAbsent checks servers that count messages, but not apart for clients.
func TestClientCountersOfOldServersAreAbsent(t *testing.T) {
	const name = "nats_server_client_messages_total received"
	s := &Server{Name: "a", Varz: &server.Varz{InMsgs: 5}}
	if v, there := values(build(t, []*Server{s}))[name]; there {
		t.Errorf("%s is %v", name, v)
	}
	s.Varz.Version = "2.12.8"
	if v, there := values(build(t, []*Server{s}))[name]; there {
		t.Errorf("%s of %s is %v", name, s.Varz.Version, v)
	}
	for _, version := range []string{"2.12.9", "2.15.2-dev"} { // which knows that all there was came from other servers
		s.Varz.Version = version
		want(t, values(build(t, []*Server{s})), name, 0)
	}
	s.Varz.Version = ""
	s.Varz.OutClientMsgs = 1
	want(t, values(build(t, []*Server{s})), name, 0)
	s.Varz = &server.Varz{} // has not counted anything yet
	want(t, values(build(t, []*Server{s})), name, 0)
}

// TestAnswersInPart checks answers that lack what older servers do not say, or say nothing at all.
func TestAnswersInPart(t *testing.T) {
	s := &Server{
		Name: "a", ID: "1", Varz: &server.Varz{}, Health: map[string]*server.HealthStatus{healthOfAll: nil},
		Connections: &Connections{}, Routes: &server.Routez{Routes: []*server.RouteInfo{{}}},
		Gateways: &server.Gatewayz{
			Name:             "g",
			OutboundGateways: map[string]*server.RemoteGatewayz{"o": {}},
			InboundGateways:  map[string][]*server.RemoteGatewayz{"i": {{}}},
		},
		Leafs: &server.Leafz{Leafs: []*server.LeafInfo{{}}}, Subscriptions: &server.Subsz{},
		Accounts:      &server.AccountStatz{Accounts: []*server.AccountStat{{}}},
		AccountLimits: map[string]*server.AccountInfo{"A": nil, "B": {}},
		JetStream: &server.JSInfo{Meta: &server.MetaClusterInfo{}, AccountDetails: []*server.AccountDetail{{
			Streams: []server.StreamDetail{{
				Consumer: []*server.ConsumerInfo{{}}, DirectConsumer: []*server.ConsumerInfo{nil},
				Mirror: &server.StreamSourceInfo{}, Sources: []*server.StreamSourceInfo{{}, {}},
			}},
		}}},
	}
	for _, s := range []*Server{s, {Name: "b", ID: "2"}} {
		for _, f := range buildWith(t, newBuilder(true, newHistory(), compatPNE, "nats"), []*Server{s}) {
			for _, m := range f.Metric {
				if v := m.GetGauge().GetValue() + m.GetCounter().GetValue(); math.IsNaN(v) || math.IsInf(v, 0) || v < -1 {
					t.Errorf("%s is %v", f.GetName(), v)
				}
			}
		}
	}
}
