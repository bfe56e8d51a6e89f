package node

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/thalweg/thalweg/internal/config"
	"github.com/thalweg/thalweg/internal/telemetry"
)

// startError is why a node cannot start.
func startError(t *testing.T, yaml, address string) string {
	t.Helper()
	cfg, err := config.Parse([]byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	log, err := telemetry.OpenLog(telemetry.LogOptions{Output: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	n, err := New(Options{Config: cfg, Log: log, ListenAddress: address})
	if err == nil {
		n.close()
		t.Fatal("started")
	}
	return err.Error()
}

// The server in this process is on the page, on a listener of its own, and at the hub without a scrape.
func TestNATSExporterBesideAnEdge(t *testing.T) {
	n := start(t, "{site: ams-1, data_dir: '"+t.TempDir()+`', global: {scrape_interval: 1s, scrape_timeout: 1s},
nats: {embedded: {listen: '127.0.0.1:0'}}, hub: {}, edge: {flush_interval: 100ms}, nats_exporter: {listen_address: '127.0.0.1:0'}}`)
	own := "http://" + n.natsmon.own.Addr().String()
	for _, page := range []string{n.URL() + "/nats/metrics", own + "/metrics"} {
		await(t, page, func() bool {
			code, answer := request(t, http.MethodGet, page, "", "")
			return code == http.StatusOK && strings.Contains(answer, "\n# TYPE nats_server_clients gauge\nnats_server_clients 0\n")
		})
	}
	if _, answer := request(t, http.MethodGet, own+"/metrics", "", ""); strings.Contains(answer, "nats_jetstream_storage_limit_bytes") ||
		strings.Contains(answer, `nats_account_jetstream_storage_limit_bytes{account="CORE"`) || !strings.Contains(answer, "nats_jetstream_storage_used_bytes") {
		t.Errorf("storage has a limit that nobody has set: %s", answer)
	}
	for path, want := range map[string]string{"/": `href="/metrics"`, "/-/healthy": "healthy", "/-/ready": "ready"} {
		await(t, path, func() bool {
			code, answer := request(t, http.MethodGet, own+path, "", "")
			return code == http.StatusOK && strings.Contains(answer, want)
		})
	}
	await(t, "rows at the hub", func() bool {
		_, answer := request(t, http.MethodGet, n.URL()+"/federate?match[]={job=%22nats%22}", "", "")
		return strings.Contains(answer, "# TYPE nats_server_total_connections counter\n") &&
			strings.Contains(answer, "\nup{instance=\"ams-1\",job=\"nats\",site=\"ams-1\"} 1 ")
	})
	if code, answer := request(t, http.MethodGet, n.URL()+"/", "", ""); code != http.StatusOK || !strings.Contains(answer, "NATS exporter at "+n.natsmon.own.Addr().String()) ||
		!strings.Contains(answer, `href="/nats/metrics"`) {
		t.Errorf("page: %d %s", code, answer)
	}
}

// A server that nobody asks to be read is not; the block metrics in its file asks for it.
func TestMetricsBlockOfNATSFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(file, []byte("metrics { port: -1, host: 127.0.0.1 }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := start(t, "{site: a, data_dir: '"+t.TempDir()+"', nats: {embedded: {listen: '127.0.0.1:0', config_file: '"+file+"'}}, hub: {}}")
	page := "http://" + n.natsmon.block.Addr().String() + "/metrics"
	await(t, page, func() bool {
		code, answer := request(t, http.MethodGet, page, "", "")
		return code == http.StatusOK && strings.Contains(answer, "\nnats_server_clients 0\n")
	})
	if code, _ := request(t, http.MethodGet, n.URL()+"/nats/metrics", "", ""); code != http.StatusNotFound {
		t.Errorf("the web listener has it, too: %d", code)
	}
}

// A server that does not answer holds up neither the end of the process nor, for longer than the scrape timeout, the rows
// of the others.
func TestNATSServerThatHangs(t *testing.T) {
	hanging, err := net.Listen("tcp", "127.0.0.1:0") // connections are made, and nobody reads them
	if err != nil {
		t.Fatal(err)
	}
	defer hanging.Close()
	config := func(timing string) string {
		return "{site: a, data_dir: '" + t.TempDir() + "', global: " + timing + `, nats: {embedded: {listen: '127.0.0.1:0'}}, hub: {},
edge: {flush_interval: 100ms}, nats_exporter: {servers: [{url: 'http://` + hanging.Addr().String() + "'}]}}"
	}
	n := start(t, config("{scrape_interval: 1s, scrape_timeout: 1s}"))
	await(t, "rows of the embedded server", func() bool {
		_, answer := request(t, http.MethodGet, n.URL()+"/federate?match[]={job=%22nats%22}", "", "")
		return strings.Contains(answer, `nats_up{instance="a",job="nats",site="a",target="embedded"} 1 `) &&
			strings.Contains(answer, `target="http://`+hanging.Addr().String()+`"} 0 `)
	})

	n = start(t, config("{scrape_interval: 1h, scrape_timeout: 1h}")) // and ended with a read under way, which is not waited for
	await(t, "own metrics, which come at the same time", func() bool {
		_, answer := request(t, http.MethodGet, n.URL()+"/federate?match[]=up", "", "")
		return strings.Contains(answer, `job="thalweg"`)
	})
}

// Alone it needs neither NATS nor a web listener, and says of a server that is not there that it is not.
func TestNATSExporterAlone(t *testing.T) {
	const alone = "{site: a, nats_exporter: {listen_address: '127.0.0.1:0', servers: [{url: 'http://127.0.0.1:1'}]}}"
	n := startNode(t, alone, "", "")
	if n.server != nil || n.web != nil || n.URL() != "" {
		t.Error("there is more than the exporter")
	}
	own := "http://" + n.natsmon.own.Addr().String()
	if code, answer := request(t, http.MethodGet, own+"/metrics", "", ""); code != http.StatusOK || !strings.Contains(answer, "nats_up") {
		t.Errorf("%d %s", code, answer)
	}
	if code, answer := request(t, http.MethodGet, own+"/-/ready", "", ""); code != http.StatusOK {
		t.Errorf("%d %s", code, answer)
	}

	for yaml, want := range map[string]string{
		"{site: a, nats_exporter: {servers: [{url: 'http://127.0.0.1:1'}]}}":                                   "the web listener has no address",
		"{site: a, hub: {}, nats_exporter: {listen_address: ':0'}, nats: {embedded: {listen: '127.0.0.1:0'}}}": "the web listener has no address",
	} {
		if got := startError(t, yaml, ""); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s", yaml, got)
		}
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	got := startError(t, strings.Replace(alone, "127.0.0.1:0", taken.Addr().String(), 1), "127.0.0.1:0")
	if !strings.HasPrefix(got, "start NATS exporter: bind listener: ") || !strings.Contains(got, "address already in use") {
		t.Error(got)
	}
}
