package natsmon

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/thalweg/thalweg/internal/bus/bustest"
)

// Servers to which nobody gave a name have another one, their ID, with each start. Their series stay the same, and so do
// those of leafs.
func TestNamelessServersStartAnew(t *testing.T) {
	addrs := freeAddrs(t, 2)
	hub := startPlain(t, `""`, storeOf(t)+fmt.Sprintf("http: %q\nleafnodes {listen: %q}", addrs[0], addrs[1]))
	leaf := startPlain(t, `""`, fmt.Sprintf("leafnodes {reconnect: 1s, remotes: [{url: %q, account: APP}]}", "nats://app:secret@"+addrs[1]))
	r, h := httpOf(t, ServerConfig{URL: "http://" + addrs[0]}), newHistory()

	up := fmt.Sprintf(`nats_leaf_up{account="APP",name="127.0.0.1",server=%q}`, addrs[0])
	awaitSeries(t, r, h, map[string]float64{up: 1})
	first := readSeries(t, r, h)
	ids := []string{hub.ID(), leaf.ID()}
	for _, p := range []*plain{leaf, hub} {
		p.stop()
	}
	hub.start(t)
	awaitSeries(t, r, newHistory(), map[string]float64{`nats_jetstream_enabled{server="` + addrs[0] + `"}`: 1})
	leaf.start(t)
	awaitSeries(t, r, h, map[string]float64{up: 1})

	second := readSeries(t, r, h)
	for _, name := range slices.Sorted(maps.Keys(second)) {
		if strings.HasPrefix(name, "nats_leaf_up") && name != up {
			t.Errorf("%s %v", name, second[name])
		}
		if _, there := first[name]; !there && !strings.HasPrefix(name, "nats_server_info{") && !strings.Contains(name, "_rtt_") {
			t.Errorf("%s is new", name)
		}
	}
	for name := range first {
		if strings.Contains(name, ids[0]) && !strings.HasPrefix(name, "nats_server_info{") || strings.Contains(name, ids[1]) {
			t.Errorf("%s has an ID", name)
		}
	}
}

// A server without a name that does not answer any more is not told from one that was started anew.
func TestNamelessServerBehindSystemAccount(t *testing.T) {
	routes := freeAddrs(t, 2)
	text := func(listen string) string {
		return fmt.Sprintf("cluster {name: east, listen: %q, routes: [\"nats://%s\"]}", listen, routes[0])
	}
	named := startPlain(t, "a", text(routes[0]))
	nameless := startPlain(t, `""`, text(routes[1]))
	r := readSystem(t, 0, named)
	readAll(t, r, "a", nameless.ID())
	nameless.stop()
	bustest.WaitFor(t, "one server", func() bool {
		servers, err := r.Read(t.Context())
		return err == nil && len(servers) == 1 && servers[0].Name == "a" && servers[0].Varz != nil
	})
}
