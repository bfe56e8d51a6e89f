package node

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/thalweg/thalweg/internal/config"
	"github.com/thalweg/thalweg/internal/web"
)

// taker takes what is written and pushed to it, and counts requests.
type taker struct {
	*httptest.Server
	status   atomic.Int32
	requests atomic.Int64
}

func newTaker(t *testing.T) *taker {
	k := &taker{}
	k.status.Store(http.StatusNoContent)
	k.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		k.requests.Add(1)
		w.WriteHeader(int(k.status.Load()))
	}))
	t.Cleanup(k.Close)
	return k
}

func (k *taker) more(t *testing.T) {
	t.Helper()
	before := k.requests.Load()
	await(t, "more requests", func() bool { return k.requests.Load() > before+1 })
}

func outputList(t *testing.T, n *Node) (names string, list []web.Output) {
	t.Helper()
	r, err := http.Get(n.URL() + "/api/v1/thalweg/outputs")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	var answer struct{ Data []web.Output }
	if err := json.NewDecoder(r.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	for _, o := range answer.Data {
		names += o.Name + " "
	}
	return names, answer.Data
}

// A reload begins, changes and ends outputs, and a mistake in one leaves all as they are. What is wrong with one is said
// where people look, and the hub is ready nevertheless.
func TestOutputsReload(t *testing.T) {
	one, two, gateway := newTaker(t), newTaker(t), newTaker(t)
	gateway.status.Store(http.StatusAccepted)
	dir := t.TempDir()
	file := func(hub string) string {
		return fmt.Sprintf("site: ams-1\ndata_dir: %q\nglobal: {scrape_interval: 1s, scrape_timeout: 1s}\nnats: {embedded: {listen: '127.0.0.1:0'}}\nedge: {}\nhub: {%s}\n",
			filepath.Join(dir, "data"), hub)
	}
	n := start(t, file(""))
	reload := func(hub string) error {
		n.options.Load = func() (*config.Config, error) { return config.Parse([]byte(file(hub))) }
		return n.Reload(t.Context())
	}
	must := func(hub string) {
		t.Helper()
		if err := reload(hub); err != nil {
			t.Fatal(err)
		}
	}
	if names, _ := outputList(t, n); names != "" {
		t.Errorf("outputs %s", names)
	}
	to := func(k *taker) string { return fmt.Sprintf("remote_write: [{name: a, url: %q}]", k.URL) }
	must(to(one))
	one.more(t)
	if err := reload(to(two) + ", pushgateway: {url: 'http://x', tls_config: {ca_file: /nowhere}}"); err == nil {
		t.Error("a file that is not there was taken")
	}
	one.more(t)
	if two.requests.Load() > 0 {
		t.Error("a mistake in one output left another one changed")
	}
	// Nor does one that is found later leave anything of what was to begin.
	n.options.Load = func() (*config.Config, error) {
		return config.Parse([]byte(strings.Replace(file(fmt.Sprintf("remote_write: [{name: never, url: %q}]", two.URL)), "edge: {}", "edge: {anonymize: {labels: [host], key_file: /nowhere}}", 1)))
	}
	if err := n.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "apply to edge") {
		t.Errorf("a key that is not there: %v", err)
	}
	if found := gathered(t, n, "never"); found != "" {
		t.Errorf("%s is of an output that never began", found)
	}
	must(to(two) + fmt.Sprintf(", pushgateway: {url: %q}", gateway.URL))
	two.more(t)
	gateway.more(t)
	names, list := outputList(t, n)
	if names != "a pushgateway " || list[0].Kind != "remote write 1.0" || list[0].URL != two.URL || list[0].State != "delivers" || list[0].Live.Samples == 0 || list[1].Kind != "Push Gateway" {
		t.Errorf("%s: %+v", names, list)
	}

	gateway.status.Store(http.StatusServiceUnavailable)
	await(t, "the trouble", func() bool {
		r, err := http.Get(n.URL() + "/-/ready")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		text, _ := io.ReadAll(r.Body)
		return r.StatusCode == http.StatusOK && strings.Contains(string(text), "outputs: pushgateway: ")
	})
	two.more(t)

	if gathered(t, n, "pushgateway") == "" {
		t.Error("there are no metrics of the Push Gateway")
	}
	must("")
	await(t, "no outputs", func() bool { names, _ := outputList(t, n); return names == "" })
	await(t, "no trouble", func() bool { return healthOf(n, "outputs") == "" })
	await(t, "no metrics", func() bool { return gathered(t, n, "pushgateway") == "" })
	// One that comes back goes on where it was.
	must(to(one))
	one.more(t)
}

// gathered names a metric of a destination of an output; "" if there is none.
func gathered(t *testing.T, n *Node, output string) string {
	t.Helper()
	families, err := n.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			for _, l := range m.Label {
				if l.GetName() == "output" && l.GetValue() == output && !strings.HasPrefix(f.GetName(), "thalweg_output_") {
					return f.GetName()
				}
			}
		}
	}
	return ""
}

func healthOf(n *Node, condition string) string {
	for _, c := range n.health.Conditions() {
		if c.Name == condition {
			return c.Reason
		}
	}
	return ""
}
