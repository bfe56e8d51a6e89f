package natsmon

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

var update = flag.Bool("update", false, "write the golden files and docs/nats-metrics.md anew")

// recorded returns the servers of a situation as they were when they were recorded.
func recorded(t *testing.T, name string) []*Server {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var servers []*Server
	if err := json.Unmarshal(text, &servers); err != nil {
		t.Fatal(err)
	}
	return servers
}

// build makes metrics of servers.
func build(t *testing.T, servers []*Server) []*dto.MetricFamily {
	t.Helper()
	return buildWith(t, newBuilder(true, newHistory(), "", ""), servers)
}

func buildWith(t *testing.T, b *builder, servers []*Server) []*dto.MetricFamily {
	t.Helper()
	for _, s := range servers {
		if !b.add(s) {
			t.Errorf("%s is there twice", s.Name)
		}
	}
	return b.families()
}

// textOf is the families as the page has them.
func textOf(t *testing.T, families []*dto.MetricFamily) string {
	t.Helper()
	var b bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// compare compares with a golden file, or writes it.
func compare(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got == string(want) {
		return
	}
	for line := range strings.Lines(got) {
		if !strings.Contains(string(want), line) {
			t.Errorf("%s lacks %s", file, line)
		}
	}
	for line := range strings.Lines(string(want)) {
		if !strings.Contains(got, line) {
			t.Errorf("%s has also %s", file, line)
		}
	}
	t.Error("run with -update, and read the difference")
}

func TestMetricsOfRecordedServers(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(situations)) {
		t.Run(name, func(t *testing.T) {
			compare(t, filepath.Join("testdata", name+".prom"), textOf(t, build(t, recorded(t, name))))
		})
	}
}

// TestOneServerHasTheBasicMetricsWithoutLabels checks what is there if a single server is read.
func TestOneServerHasTheBasicMetricsWithoutLabels(t *testing.T) {
	servers := recorded(t, "single")
	for _, f := range buildWith(t, newBuilder(false, newHistory(), "", ""), servers) {
		basic := slices.Contains(basicNames, f.GetName())
		for _, m := range f.Metric {
			named := slices.ContainsFunc(m.Label, func(l *dto.LabelPair) bool { return l.GetName() == "server" })
			if named == basic {
				t.Errorf("%s %v", f.GetName(), m)
			}
		}
	}
}

// basicNames are the names that were there before this program was.
var basicNames = []string{
	"nats_server_version", "nats_server_uptime_seconds", "nats_server_clients", "nats_server_total_connections",
	"nats_server_total_bytes_sent", "nats_server_total_bytes_received", "nats_server_total_messages_sent",
	"nats_server_total_messages_received", "nats_server_total_payload_bytes_sent", "nats_server_total_payload_bytes_received",
	"nats_server_slow_consumers", "nats_server_memory_bytes", "nats_server_cpu_cores",
}

// TestPromtoolFindsFaultWithBasicNamesOnly has the linter of Prometheus look at all metrics.
func TestPromtoolFindsFaultWithBasicNamesOnly(t *testing.T) {
	promtool := tool(t, "promtool")
	for _, name := range slices.Sorted(maps.Keys(situations)) {
		t.Run(name, func(t *testing.T) {
			check := exec.Command(promtool, "check", "metrics")
			check.Stdin = strings.NewReader(textOf(t, build(t, recorded(t, name))))
			faults, err := check.CombinedOutput()
			if len(faults) == 0 {
				t.Fatalf("no fault even with the counters that do not end in _total: %v", err)
			}
			for fault := range strings.Lines(string(faults)) {
				if metric, _, _ := strings.Cut(fault, " "); !slices.Contains(basicNames, metric) {
					t.Error(fault)
				}
			}
		})
	}
}

// tool is the path of a program that scripts/tools.sh installs.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v; scripts/tools.sh installs it into .cache/tools/bin", err)
	}
	return path
}

// everything is all metrics without compat: of the recorded servers, and of one that has what these have no reason to have.
func everything(t *testing.T) []*dto.MetricFamily {
	t.Helper()
	b := newBuilder(true, newHistory(), "", "")
	for _, name := range slices.Sorted(maps.Keys(situations)) {
		for _, s := range recorded(t, name) {
			b.add(s)
		}
	}
	for _, cluster := range []string{"", "north"} {
		s := rareServer(t, cluster)
		b.add(s)
		b.addUp(s)
	}
	failed := map[Endpoint]uint64{}
	for _, e := range endpoints(true) {
		failed[e] = 0
	}
	b.addReading("embedded", reading{errors: failed}, 0)
	b.addExpected("embedded", 1)
	return b.families()
}

// rareServer has what the recorded servers have no reason to have.
func rareServer(t *testing.T, cluster string) *Server {
	t.Helper()
	s := recorded(t, "single")[0]
	s.Cluster, s.Name = cluster, cluster+"-rare"
	s.ID = s.Name
	expiry := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	s.Varz.TLSCertNotAfter, s.Varz.Cluster.TLSCertNotAfter, s.Varz.Gateway.TLSCertNotAfter = expiry, expiry, expiry
	s.Varz.LeafNode.TLSCertNotAfter, s.Varz.MQTT.TLSCertNotAfter, s.Varz.Websocket.TLSCertNotAfter = expiry, expiry, expiry
	s.Varz.MemLimit = 1 << 30
	s.Domain, s.Varz.GitCommit = "main", "0123456"
	s.Wire = &Wire{Received: map[Kind]uint64{}, Sent: map[Kind]uint64{}}
	for _, kind := range []Kind{Client, Leaf, Route, Gateway, WebSocket, MQTT} {
		s.Wire.Received[kind], s.Wire.Sent[kind] = 1, 2
	}
	s.Disk = &Disk{Free: 1 << 30, Size: 1 << 32}
	s.JetStream.Limits.MaxHAAssets = 100
	s.JetStream.Meta = &server.MetaClusterInfo{Snapshot: &server.MetaSnapshotStats{LastTime: expiry, LastDuration: time.Second}}
	for _, a := range s.JetStream.AccountDetails {
		a.ReservedMemory, a.ReservedStore = 1<<30, 1<<30
		for i := range a.Streams {
			a.Streams[i].Cluster = nil // it leads them all
			a.Streams[i].Config.MaxConsumers = 10
			for _, source := range a.Streams[i].Sources {
				source.External = &server.ExternalStream{ApiPrefix: "$JS.edge.API"}
			}
		}
	}
	s.Varz.HTTPReqStats = map[string]uint64{"/varz": 1}
	for _, kind := range []Kind{Client, Gateway, InProcess, Leaf, MQTT, Route, WebSocket} {
		s.Connections.ByKind[kind] = 1
	}
	s.Leafs = &server.Leafz{Leafs: []*server.LeafInfo{{Name: "edge", Account: "APP", RTT: "1ms"}}}
	s.Gateways = &server.Gatewayz{Name: "west", OutboundGateways: map[string]*server.RemoteGatewayz{
		"south": {Connection: &server.ConnInfo{RTT: "1ms"}},
	}, InboundGateways: map[string][]*server.RemoteGatewayz{
		"south": {{Connection: &server.ConnInfo{RTT: "1ms"}}},
	}}
	return s
}
