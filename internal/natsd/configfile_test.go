package natsd_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/natsd"
)

// TestMetricsBlock: of everything that nats-server does not know, only the block metrics at the top is taken.
func TestMetricsBlock(t *testing.T) {
	t.Setenv("METRICS_PORT", "9123")
	dir := t.TempDir()
	file := filepath.Join(dir, "nats.conf")
	write(t, filepath.Join(dir, "metrics.conf"), "# ours\nmetrics { port: 9105 }\n")
	write(t, filepath.Join(dir, "bad.conf"), "\nmetrics { prot: 9105 }\n")
	write(t, filepath.Join(dir, "limits.conf"), "max_payload: 2MB\n")
	f := func(text, address string, mistakes ...string) {
		t.Helper()
		write(t, file, text)
		got, err := natsd.CheckConfigFile(file)
		if err == nil && len(mistakes) == 0 {
			if got != address {
				t.Errorf("%s\nmetrics at %q, want %q", text, got, address)
			}
			return
		}
		if len(mistakes) == 0 {
			t.Errorf("%s\n%v", text, err)
			return
		}
		want := "read config_file \"" + file + "\": " + strings.Join(mistakes, "\n")
		if want = strings.ReplaceAll(want, "DIR", dir); err == nil || err.Error() != want {
			t.Errorf("%s\nerror is\n%v\nwant\n%s", text, err, want)
		}
	}

	// Every form of the syntax.
	f("server_name: a", "")
	f("", "")
	f("metrics { port: 9100 }", ":9100")
	f("metrics {\n  port = 9100 # comment\n  host: \"127.0.0.1\";\n}\nserver_name: a", "127.0.0.1:9100")
	f("metrics: { port: 9100, host: '::1' }", "[::1]:9100")
	f("metrics = { port 9100 }", ":9100")
	f("METRICS { Port: 9100 }", ":9100")
	f(`"metrics": { "port": 9100 }`, ":9100")
	f(`{"server_name": "a", "metrics": {"port": 9100}, "jetstream": {"domain": "d"}}`, ":9100")
	f("metrics { port: -1 }", ":0")
	f("metrics { port: $METRICS_PORT }", ":9123")
	f("P: 9100\nmetrics { port: $P }", ":9100")
	f("include limits.conf\ninclude ./metrics.conf\nserver_name: a", ":9105")
	f("metrics { include port.conf }", "", "error parsing include file 'port.conf', open DIR/port.conf: no such file or directory")

	// What only looks like the block.
	f("# metrics { port: 9100 }\n// metrics { port: 9100 }\nserver_name: a", "")
	f(`server_name: "metrics{port:9100}"`, "")
	f("jetstream { metrics { port: 9100 } }", "", `DIR/nats.conf:1:12: unknown field "metrics"`)
	f("metrics { port: 9100 }\nmetric { port: 9100 }", "", `DIR/nats.conf:2:1: unknown field "metric"`)

	// Mistakes of ours, and everything that nats-server refuses.
	f("server_name: a\nmetrics {\n  port: 9100\n  path: /m\n}", "", `DIR/nats.conf:4:3: unknown field "path" of metrics, which has port and host`)
	f("include bad.conf", "", `DIR/bad.conf:2:11: unknown field "prot" of metrics, which has port and host`)
	f("metrics: 9100", "", "DIR/nats.conf:1:0: metrics is no block; write metrics { port: 9100 }")
	f("metrics {}", "", "DIR/nats.conf:1:0: metrics has no port")
	f("metrics { port: 70000, host: 5 }", "", "DIR/nats.conf:1:23: metrics.host: 5 is not a host\nDIR/nats.conf:1:10: metrics.port: 70000 is not a port")
	f("metrics { port: \"9100\" }", "", "DIR/nats.conf:1:10: metrics.port: \"9100\" is not a port")
	f("metrics { port: 0 }", "", "DIR/nats.conf:1:10: metrics.port: 0 is not a port")
	f("metrics { port: 1 }\nMetrics { port: 2 }", "", "DIR/nats.conf:1:0: metrics is there twice")
	f("metrics { port: 9100 }\nmax_conections: 5", "", `DIR/nats.conf:2:1: unknown field "max_conections"`)

	// A wrapper around everything, as others have it.
	f("server {\n  port: 4222\n  jetstream {store_dir: x}\n}\nmetrics { port: 9100 }", "",
		"DIR/nats.conf:1:0: nats-server has no block server: write its keys (jetstream, port) at the top of the file")
	f("server: a", "", `DIR/nats.conf:1:0: unknown field "server"`)
}

// The rest of a file with the block holds.
func TestFileWithMetricsBlock(t *testing.T) {
	file := filepath.Join(t.TempDir(), "nats.conf")
	write(t, file, "metrics { port: 9100, host: localhost }\nmax_payload: 2MB\njetstream { domain: sea }\n")
	server := bustest.NewServer(t, func(o *natsd.Options) { o.Config.ConfigFile, o.Name = file, "ship" })
	if got := server.MetricsAddress(); got != "localhost:9100" {
		t.Errorf("metrics at %q", got)
	}
	varz, err := server.NATS().Varz(nil)
	if err != nil || varz.Name != "ship" || varz.MaxPayload != 2<<20 || varz.JetStream.Config.Domain != "sea" {
		t.Errorf("%+v, %v", varz, err)
	}
	if got := server.StoreDir(); got != server.Options.StoreDir {
		t.Errorf("store in %q", got)
	}
}
