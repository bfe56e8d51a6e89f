package natsd_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
)

// A site that is refused for a while is cut off at once and comes back by itself; nobody else notices.
func TestRefuseForAWhile(t *testing.T) {
	server := bustest.NewServer(t)
	connect := func(site string) *nats.Conn {
		t.Helper()
		nc, err := nats.Connect(server.URL(), nats.UserInfo(site, ""), nats.NoReconnect())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	flooding, other := connect("flooding"), connect("other")
	edge := bustest.Connected(t, bus.Options{Site: "flooding", Config: bustest.Config(server.URL())})
	server.Refuse("flooding", 2*time.Second)
	bustest.WaitFor(t, "the connection to be closed", flooding.IsClosed)
	if nc, err := nats.Connect(server.URL(), nats.UserInfo("flooding", "")); err == nil {
		nc.Close()
		t.Error("the site is let in at once")
	}
	if refused := collect(t, server.Metrics(), "thalweg_natsd_refused_clients_total"); refused == 0 {
		t.Error("no refusal is counted")
	}
	flush(t, other)
	connect("other")
	bustest.WaitFor(t, "the site to be let in again", func() bool { return edge.State().Connected })
}
