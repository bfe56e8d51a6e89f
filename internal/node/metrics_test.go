package node

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/thalweg/thalweg/internal/config"
	"github.com/thalweg/thalweg/internal/telemetry"
)

var update = flag.Bool("update", false, "write docs/metrics.md anew")

const metricsHead = `# Metrics

What a process says about itself at ` + "`/metrics`" + `, and what every edge sends to its hubs as job ` + "`thalweg`" + ` with its site
as instance. A hub serves what begins with ` + "`thalweg_site_`" + ` apart, at ` + "`/metrics/sites`" + `, and does not send it. Labels have few values: lanes, reasons, causes and outcomes are closed sets, all of which are listed here;
` + "`site`" + `, ` + "`connection`" + ` and ` + "`output`" + ` are as many as there are. A process has those of its roles only.

This page is made from the program: ` + "`go test ./internal/node -run TestMetricsDocument -update`" + `.

`

// TestMetricsDocument compares docs/metrics.md with the metrics of a process that has all roles.
func TestMetricsDocument(t *testing.T) {
	dir := t.TempDir()
	found := map[string]*dto.MetricFamily{}
	collect := func(yaml string, complete func(map[string]*dto.MetricFamily) bool) {
		n := start(t, yaml)
		for _, path := range []string{"/metrics", "/"} { // so that requests are counted
			r, err := http.Get(n.URL() + path)
			if err != nil {
				t.Fatal(err)
			}
			r.Body.Close()
		}
		await(t, "all metrics", func() bool {
			gatherers := prometheus.Gatherers{n.metrics}
			if n.siteMetrics != nil {
				gatherers = append(gatherers, n.siteMetrics)
			}
			families, err := gatherers.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range families {
				if strings.HasPrefix(f.GetName(), "thalweg_") {
					if known := found[f.GetName()]; known != nil {
						f.Metric = append(f.Metric, known.Metric...)
					}
					found[f.GetName()] = f
				}
			}
			return complete(found)
		})
	}
	tokens := filepath.Join(dir, "tokens")
	if err := os.WriteFile(tokens, []byte("a secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	collect(fmt.Sprintf(`site: all
data_dir: %q
nats: {embedded: {listen: '127.0.0.1:0'}}
hub:
  telemeter: {authorize_url: 'http://127.0.0.1:1'}
  receive: {remote_write: true, pushgateway: true, tokens_file: %q}
  remote_write: [{name: prometheus, url: 'http://127.0.0.1:1'}]
  pushgateway: {url: 'http://127.0.0.1:1'}
edge:
  receive: {remote_write: true, pushgateway: true, listen_address: '127.0.0.1:0'}
gateway: {listen_address: '127.0.0.1:0', redis: {address: '127.0.0.1:1'}}
nats_exporter: {listen_address: '127.0.0.1:0'}
`, filepath.Join(dir, "a"), tokens),
		func(f map[string]*dto.MetricFamily) bool {
			return f["thalweg_site_clock_skew_seconds"] != nil && f["thalweg_store_series"] != nil && f["thalweg_output_missing_rows"] != nil &&
				f["thalweg_remote_write_pending_samples"] != nil && f["thalweg_pushgateway_groups"] != nil &&
				f["thalweg_output_flush_seconds"] != nil
		})
	collect(fmt.Sprintf("site: alone\ndata_dir: %q\nnats: {embedded: {listen: '127.0.0.1:0'}}\nedge: {}\n", filepath.Join(dir, "b")),
		func(map[string]*dto.MetricFamily) bool { return true })
	// Without a server there are frames that are not stored.
	collect(fmt.Sprintf("site: apart\ndata_dir: %q\nnats: {urls: ['nats://127.0.0.1:1']}\nedge: {}\n", filepath.Join(dir, "c")),
		func(f map[string]*dto.MetricFamily) bool {
			return f["thalweg_outbox_oldest_unacked_timestamp_seconds"] != nil
		})

	var b strings.Builder
	b.WriteString(metricsHead + "| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(found)) {
		f := found[name]
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", name, strings.ToLower(f.GetType().String()), labelsOf(f), f.GetHelp())
	}
	file := filepath.Join("..", "..", "docs", "metrics.md")
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != b.String() {
		for line := range strings.Lines(b.String()) {
			if !strings.Contains(string(got), line) {
				t.Errorf("%s lacks the line\n%s", file, line)
			}
		}
		for line := range strings.Lines(string(got)) {
			if !strings.Contains(b.String(), line) {
				t.Errorf("%s has a line too many\n%s", file, line)
			}
		}
		t.Error("run with -update")
	}
}

// labelsOf lists the labels of a family, with the values of those that are closed sets.
func labelsOf(f *dto.MetricFamily) string {
	open := map[string]bool{"site": true, "connection": true, "output": true, "version": true, "revision": true, "goversion": true, "goos": true, "goarch": true}
	values := map[string]map[string]bool{}
	for _, m := range f.Metric {
		for _, l := range m.Label {
			if values[l.GetName()] == nil {
				values[l.GetName()] = map[string]bool{}
			}
			values[l.GetName()][l.GetValue()] = true
		}
	}
	// Requests and clients depend on what happened in this test.
	open["handler"], open["code"], open["message"] = true, true, true
	var list []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if open[name] {
			list = append(list, "`"+name+"`")
			continue
		}
		list = append(list, "`"+name+"`: "+strings.Join(slices.Sorted(maps.Keys(values[name])), ", "))
	}
	return strings.Join(list, "; ")
}

// start runs a node until the test ends.
func start(t *testing.T, yaml string) *Node {
	t.Helper()
	return startWith(t, yaml, "")
}

// startWith gives the node a web configuration file.
func startWith(t *testing.T, yaml, webConfig string) *Node {
	t.Helper()
	return startNode(t, yaml, "127.0.0.1:0", webConfig)
}

// startNode gives the node an address for its web listener, or none.
func startNode(t *testing.T, yaml, address, webConfig string) *Node {
	t.Helper()
	cfg, err := config.Parse([]byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	log, err := telemetry.OpenLog(telemetry.LogOptions{Level: "debug", Output: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	n, err := New(Options{Config: cfg, Log: log, Version: "test", ListenAddress: address, WebConfigFile: webConfig, Immediate: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return n
}

// await waits until a condition holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting for %s", what)
		}
		time.Sleep(20 * time.Millisecond) // between two looks
	}
}
