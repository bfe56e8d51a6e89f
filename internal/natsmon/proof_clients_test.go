package natsmon

import (
	"net/http"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/thalweg/thalweg/internal/bus/bustest"
)

// bothWays serves the metrics of a server, read in its process and through its monitoring port.
func bothWays(t *testing.T, s *server.Server) map[string]http.Handler {
	t.Helper()
	return map[string]http.Handler{
		"embedded": exporterFor(t, s, Config{Embedded: true}).Handler(),
		"http":     exporterFor(t, nil, Config{Servers: []ServerConfig{{URL: monitorURL(s)}}}).Handler(),
	}
}

// TestClientsComeAndGo connects 15 clients, of which 5 close.
func TestClientsComeAndGo(t *testing.T) {
	s := startServer(t, "")
	ways := bothWays(t, s)
	clients := connect(t, s, 15)
	for way, h := range ways {
		t.Log(way)
		expectLines(t, scrape(t, h),
			`nats_server_clients 15`, `nats_server_total_connections 15`,
			`nats_server_connections{kind="client",server="test"} 15`)
	}
	for _, nc := range clients[:5] {
		nc.Close()
	}
	bustest.WaitFor(t, "the server has noticed", func() bool { return s.NumClients() == 10 })
	for way, h := range ways {
		t.Log(way)
		expectLines(t, scrape(t, h),
			`nats_server_clients 10`, `nats_server_total_connections 15`,
			`nats_server_connections{kind="client",server="test"} 10`)
	}
}

// TestTwoThousandConnections are more than a page of the server's own size holds.
func TestTwoThousandConnections(t *testing.T) {
	s := startServer(t, "")
	connect(t, s, 2000)
	r := httpOf(t, ServerConfig{URL: monitorURL(s)})
	r.connectionsPerPage = server.DefaultConnListSize
	for _, reader := range []Reader{embeddedOf(s), r} {
		c := readOne(t, reader).Connections
		if c.Total != 2000 || c.ByKind[Client] != 2000 {
			t.Errorf("%s: %d of %d connections", reader.Name(), c.ByKind[Client], c.Total)
		}
	}
}
