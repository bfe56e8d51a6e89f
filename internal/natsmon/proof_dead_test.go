package natsmon

import (
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// TestSlowAndDeadServers stand beside one that is well: a port where nobody listens, one that takes connections and says
// nothing, and a server whose answer about JetStream never comes.
func TestSlowAndDeadServers(t *testing.T) {
	s := startServer(t, storeOf(t))
	connect(t, s, 2)

	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })

	other := startServer(t, `server_name: other`)
	mux := http.NewServeMux()
	mux.HandleFunc("/jsz", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.Handle("/", other.HTTPHandler())
	slow := httptest.NewServer(mux)
	t.Cleanup(slow.Close)

	good, dead, hung := monitorURL(s), "http://127.0.0.1:1", "http://"+silent.Addr().String()
	h := exporterFor(t, nil, Config{Servers: []ServerConfig{{URL: dead}, {URL: hung}, {URL: slow.URL}, {URL: good}}}).Handler()
	answered := make(chan map[string]string, 1)
	go func() { answered <- scrape(t, h, "X-Prometheus-Scrape-Timeout-Seconds", "1") }()
	select {
	case got := <-answered:
		expectLines(t, got,
			`nats_up{target="`+good+`"} 1`, `nats_up{target="`+slow.URL+`"} 1`,
			`nats_up{target="`+dead+`"} 0`, `nats_up{target="`+hung+`"} 0`,
			`nats_server_clients{server="test"} 2`, `nats_server_clients{server="other"} 0`,
			`nats_jetstream_enabled{server="test"} 1`,
			`nats_scrape_errors_total{endpoint="jsz",target="`+slow.URL+`"} 1`,
			`nats_scrape_errors_total{endpoint="varz",target="`+slow.URL+`"} 0`,
			`nats_scrape_errors_total{endpoint="varz",target="`+dead+`"} 1`,
			`nats_scrape_errors_total{endpoint="varz",target="`+hung+`"} 1`,
			`nats_scrape_errors_total{endpoint="varz",target="`+good+`"} 0`)
		if v, ok := got[`nats_jetstream_streams{server="other"}`]; ok {
			t.Errorf("%s streams, although the server did not say", v)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("no answer, long after the scraper has given up")
	}
}
