package natsmon

import (
	"fmt"
	"testing"
)

// TestServerRestarts behind the exporter: its counters begin again with it, and nothing of its former life is left.
func TestServerRestarts(t *testing.T) {
	addr := freeAddrs(t, 1)[0]
	text, url := fmt.Sprintf("http: %q\n", addr), "http://"+addr
	h := exporterFor(t, nil, Config{Servers: []ServerConfig{{URL: url}}}).Handler()
	expectLines(t, scrape(t, h), `nats_up{target="`+url+`"} 0`) // it is not there yet

	s := startServer(t, text)
	connect(t, s, 3)
	first := scrape(t, h)
	expectLines(t, first, `nats_up{target="`+url+`"} 1`, `nats_server_clients 3`, `nats_server_total_connections 3`)

	s.Shutdown()
	s.WaitForShutdown()
	down := scrape(t, h)
	expectLines(t, down, `nats_up{target="`+url+`"} 0`, `nats_scrape_errors_total{endpoint="varz",target="`+url+`"} 2`)
	if _, ok := down["nats_server_clients"]; ok {
		t.Error("a server that is gone has clients")
	}

	s = startServer(t, text)
	connect(t, s, 1)
	expectLines(t, scrape(t, h), `nats_up{target="`+url+`"} 1`, `nats_server_clients 1`, `nats_server_total_connections 1`,
		`nats_scrape_errors_total{endpoint="varz",target="`+url+`"} 2`)
}
