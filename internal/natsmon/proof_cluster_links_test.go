package natsmon

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/thalweg/thalweg/internal/bus/bustest"
)

// Two clusters that gateways join are seen through one connection to one server of one of them.
func TestSuperclusterThroughOneConnection(t *testing.T) {
	routes, gateways := freeAddrs(t, 2), freeAddrs(t, 3)
	text := func(cluster, listen string, routed ...string) string {
		text := fmt.Sprintf(`gateway {name: %s, listen: %q, gateways: [
			{name: east, urls: ["nats://%s", "nats://%s"]}, {name: west, urls: ["nats://%s"]}
		]}
		`, cluster, listen, gateways[0], gateways[1], gateways[2])
		for _, r := range routed {
			text += fmt.Sprintf("cluster {name: %s, listen: %q, routes: [\"nats://%s\"]}\n", cluster, r, routes[0])
		}
		return text
	}
	east := startPlain(t, "east-0", text("east", gateways[0], routes[0]))
	startPlain(t, "east-1", text("east", gateways[1], routes[1]))
	west := startPlain(t, "west-0", text("west", gateways[2]))

	r, h := readSystem(t, 0, east), newHistory()
	awaitSeries(t, r, h, map[string]float64{
		`nats_route_up{cluster="east",peer="east-1",server="east-0"}`:                           1,
		`nats_route_up{cluster="east",peer="east-0",server="east-1"}`:                           1,
		`nats_gateway_up{cluster="east",kind="outbound",remote="west",server="east-0"}`:         1,
		`nats_gateway_up{cluster="east",kind="outbound",remote="west",server="east-1"}`:         1,
		`nats_gateway_up{cluster="west",kind="outbound",remote="east",server="west-0"}`:         1,
		`nats_gateway_connections{cluster="west",kind="inbound",remote="east",server="west-0"}`: 2,
		`nats_server_clients{cluster="west",server="west-0"}`:                                   0,
	})
	readAll(t, r, "east-0", "east-1", "west-0")

	west.stop()
	awaitSeries(t, r, h, map[string]float64{
		`nats_route_up{cluster="east",peer="east-1",server="east-0"}`:                   1,
		`nats_gateway_up{cluster="east",kind="outbound",remote="west",server="east-0"}`: 0,
		`nats_gateway_up{cluster="east",kind="outbound",remote="west",server="east-1"}`: 0,
	})
	west.start(t)
	awaitSeries(t, r, h, map[string]float64{
		`nats_gateway_up{cluster="east",kind="outbound",remote="west",server="east-0"}`: 1,
		`nats_gateway_up{cluster="west",kind="outbound",remote="east",server="west-0"}`: 1,
	})
}

// A leaf that is dropped is 0 at the hub, not absent, and 1 when it is back.
func TestLeafConnectsAndDrops(t *testing.T) {
	listen := freeAddrs(t, 1)[0]
	hub := startPlain(t, "hub", fmt.Sprintf(`leafnodes {listen: %q, authorization {user: leaf, password: secret, account: APP}}`, listen))
	proxy := bustest.NewProxy(t, listen)
	r, h := readSystem(t, 0, hub), newHistory()
	if got := awaitNames(t, r, h, `nats_server_connections{kind="leaf",server="hub"}`); got[0] != 0 {
		t.Errorf("there are %v leafs before one connects", got[0])
	}
	startPlain(t, "ship", fmt.Sprintf(`leafnodes {reconnect: 1s, remotes: [{url: "nats://leaf:secret@%s", account: APP}]}`, proxy.Addr()))
	const up = `nats_leaf_up{account="APP",name="ship",server="hub"}`
	awaitSeries(t, r, h, map[string]float64{up: 1, `nats_server_connections{kind="leaf",server="hub"}`: 1})
	proxy.Refuse(true)
	proxy.Cut()
	awaitSeries(t, r, h, map[string]float64{up: 0, `nats_server_connections{kind="leaf",server="hub"}`: 0})
	proxy.Refuse(false)
	awaitSeries(t, r, h, map[string]float64{up: 1, `nats_server_connections{kind="leaf",server="hub"}`: 1})
}

// awaitNames reads until all series are there, and returns their values.
func awaitNames(t *testing.T, r Reader, h *history, names ...string) []float64 {
	t.Helper()
	values := make([]float64, len(names))
	bustest.WaitFor(t, fmt.Sprint(names), func() bool {
		got := readSeries(t, r, h)
		for i, name := range names {
			v, there := got[name]
			if !there {
				return false
			}
			values[i] = v
		}
		return true
	})
	return values
}

// A hub's mirror of a stream at a site, and a stream that has it as source, lag while the link is slow, and say how long they
// have heard nothing while it is out.
func TestSourceAndMirrorLag(t *testing.T) {
	listen := freeAddrs(t, 1)[0]
	hub := startPlain(t, "hub", fmt.Sprintf(`jetstream {domain: hub, store_dir: %q}
		leafnodes {listen: %q, compression: disabled, authorization {user: leaf, password: secret, account: APP}}`, t.TempDir(), listen))
	proxy := bustest.NewProxy(t, listen)
	proxy.SetRate(1 << 20) // which the messages fill as long as nothing compresses them
	ship := startPlain(t, "ship", fmt.Sprintf(`jetstream {domain: ship, store_dir: %q}
		leafnodes {reconnect: 1s, remotes: [{url: "nats://leaf:secret@%s", account: APP}]}`, t.TempDir(), proxy.Addr()))

	there, here := ship.jetStream(t), hub.jetStream(t)
	if _, err := there.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}}); err != nil {
		t.Fatal(err)
	}
	const backlog = 600
	publish(t, there, "orders.new", backlog)
	// A stream that cannot reach its source at once tries again after ten seconds or more.
	across, err := jetstream.NewWithDomain(here.Conn(), "ship")
	if err != nil {
		t.Fatal(err)
	}
	bustest.WaitFor(t, "the way to the site", func() bool {
		_, err := across.Stream(t.Context(), "ORDERS")
		return err == nil
	})
	r, h := readSystem(t, 0, hub), newHistory()
	series := func(name, stream string) string {
		return fmt.Sprintf(`nats_stream_%s{account="APP",external="$JS.ship.API",server="hub",source="ORDERS",stream=%q}`, name, stream)
	}
	messages := func(stream string) string {
		return fmt.Sprintf(`nats_stream_messages{account="APP",server="hub",stream=%q}`, stream)
	}
	source := &jetstream.StreamSource{Name: "ORDERS", External: &jetstream.ExternalStream{APIPrefix: "$JS.ship.API"}}
	caughtUp := map[string]float64{}
	for kind, c := range map[string]jetstream.StreamConfig{
		"mirror": {Name: "COPY", Mirror: source},
		"source": {Name: "ALL", Sources: []*jetstream.StreamSource{source}},
	} {
		if _, err := here.CreateStream(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		lag := series(kind+"_lag_messages", c.Name)
		bustest.WaitFor(t, kind+" lag", func() bool {
			got := readSeries(t, r, h)
			return got[lag] > 0 && got[messages(c.Name)] < backlog
		})
		caughtUp[lag], caughtUp[messages(c.Name)], caughtUp[series(kind+"_error", c.Name)] = 0, backlog, 0
		awaitSeries(t, r, h, caughtUp)
	}

	// What is out has no lag that anybody knew of: only the time since it was heard of tells.
	proxy.Stall(true)
	publish(t, there, "orders.new", 20)
	bustest.WaitFor(t, "silence", func() bool {
		got := readSeries(t, r, h)
		return got[series("mirror_last_seen_seconds", "COPY")] > 2 && got[series("source_last_seen_seconds", "ALL")] > 2 &&
			got[series("mirror_lag_messages", "COPY")] == 0
	})
	proxy.Stall(false)
	caughtUp[messages("COPY")], caughtUp[messages("ALL")] = backlog+20, backlog+20
	awaitSeries(t, r, h, caughtUp)
}

// A scrape answers in time, with what the other servers say, and says which server is silent.
func TestSilentServerCostsOnlyItsOwnMetrics(t *testing.T) {
	listen := freeAddrs(t, 1)[0]
	near := startPlain(t, "near", fmt.Sprintf("cluster {name: east, listen: %q}", listen))
	proxy := bustest.NewProxy(t, listen)
	startPlain(t, "far", fmt.Sprintf(`cluster {name: east, listen: "127.0.0.1:-1", no_advertise: true, routes: ["nats://%s"]}`, proxy.Addr()))
	c := DefaultConfig()
	c.System = []SystemConfig{{URLs: []string{near.ClientURL()}, Username: "system", PasswordFile: passwordFile(t), Expect: 2}}
	exporter, err := New(Options{Config: c, Logger: bustest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	runExporter(t, exporter)

	// scrape returns the values of families with a label server, by name and server, and those of varz errors.
	scrape := func() map[string]float64 {
		request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil)
		request.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", "5")
		answer := httptest.NewRecorder()
		exporter.Handler().ServeHTTP(answer, request)
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err := parser.TextToMetricFamilies(answer.Body)
		if err != nil || answer.Code != http.StatusOK {
			t.Fatalf("status %d: %v", answer.Code, err)
		}
		return valuesOf(slices.Collect(maps.Values(families)))
	}
	await := func(want map[string]float64) {
		t.Helper()
		bustest.WaitFor(t, fmt.Sprint(want), func() bool {
			got := scrape()
			for name, v := range want {
				if now, there := got[name]; !there || now != v {
					return false
				}
			}
			return true
		})
	}
	target := near.ClientURL()
	of := `{target="` + target + `"}`
	await(map[string]float64{
		"nats_up" + of: 1, "nats_target_servers" + of: 2, "nats_target_expected_servers" + of: 2,
		`nats_server_up{cluster="east",server="near"}`:     1,
		`nats_server_up{cluster="east",server="far"}`:      1,
		`nats_server_clients{cluster="east",server="far"}`: 0,
	})
	before := scrape()[`nats_scrape_errors_total{endpoint="varz",target="`+target+`"}`]
	proxy.Stall(true)
	await(map[string]float64{
		"nats_up" + of: 1, "nats_target_servers" + of: 1, "nats_target_expected_servers" + of: 2,
		`nats_server_up{cluster="east",server="near"}`:      1,
		`nats_server_up{cluster="east",server="far"}`:       0,
		`nats_server_clients{cluster="east",server="near"}`: 1,
	})
	got := scrape()
	if after := got[`nats_scrape_errors_total{endpoint="varz",target="`+target+`"}`]; after <= before {
		t.Errorf("there were %v errors before, and are %v", before, after)
	}
	if v, there := got[`nats_server_clients{cluster="east",server="far"}`]; there {
		t.Errorf("the silent server has %v clients", v)
	}
	proxy.Stall(false)
	await(map[string]float64{`nats_server_up{cluster="east",server="far"}`: 1})
}

func runExporter(t *testing.T, e *Exporter) {
	t.Helper()
	done := make(chan error, 1)
	ctx := t.Context() // ends before the functions of Cleanup
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Clusters that know nothing of each other are read in one process, and told apart by their labels.
func TestClustersInOneProcess(t *testing.T) {
	c := DefaultConfig()
	for _, cluster := range []string{"east", "west"} {
		p := startPlain(t, "nats-0", fmt.Sprintf(`cluster {name: %s, listen: "127.0.0.1:-1"}`, cluster))
		p.jetStream(t) // a client
		c.System = append(c.System, SystemConfig{URLs: []string{p.ClientURL()}, Username: "system", PasswordFile: passwordFile(t)})
	}
	exporter, err := New(Options{Config: c, Logger: bustest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	runExporter(t, exporter)
	bustest.WaitFor(t, "both", func() bool {
		families, err := exporter.Gather(t.Context(), defaultTimeout)
		if err != nil {
			t.Fatal(err)
		}
		got := valuesOf(families)
		return got[`nats_server_clients{cluster="east",server="nats-0"}`] == 2 &&
			got[`nats_server_clients{cluster="west",server="nats-0"}`] == 2
	})
}
