package scrape

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestReload(t *testing.T) {
	serveNumber := func(s string) string {
		return serve(t, func(w http.ResponseWriter, r *http.Request) { text(w, s) })
	}
	one, two, three := serveNumber("one 1\n"), serveNumber("two 2\n"), serveNumber("three 3\n")
	m, rec, _ := run(t, jobYAML("same", one)+jobYAML("changed", two)+jobYAML("gone", three))
	of := func(job string) func(*got) bool {
		return func(g *got) bool { return strings.HasPrefix(g.key, "scrape/"+job+"/") }
	}
	same, _ := rec.wait(t, 0, "same", of("same"))
	changed, _ := rec.wait(t, 0, "changed", of("changed"))
	rec.wait(t, 0, "gone", of("gone"))

	bad := configs(t, jobYAML("same", one)+jobYAML("new", two, "  tls_config: {ca_file: /does/not/exist}"))
	if err := m.ApplyConfig(t.Context(), bad); err == nil || !strings.Contains(err.Error(), "/does/not/exist") {
		t.Fatalf("bad config: %v", err)
	}
	if n := len(m.Targets()); n != 3 {
		t.Fatalf("%d targets after a refused config, want 3", n)
	}
	rules := "  metric_relabel_configs: [{target_label: new, replacement: x}]"
	if err := m.ApplyConfig(t.Context(), configs(t, jobYAML("same", one)+jobYAML("changed", two, rules))); err != nil {
		t.Fatal(err)
	}
	n := rec.count()
	relabelled, _ := rec.wait(t, n, "changed labels", func(g *got) bool {
		return of("changed")(g) && strings.Contains(fmt.Sprint(g.values), `new="x"`)
	})
	if relabelled.key != changed.key {
		t.Errorf("changed job: source %s became %s", changed.key, relabelled.key)
	}
	end, _ := rec.wait(t, n, "end of gone", func(g *got) bool { return of("gone")(g) && g.end })
	again, _ := rec.wait(t, n, "same", of("same"))
	if again.source != same.source || again.schema != same.schema {
		t.Error("an unchanged target was restarted")
	}
	eventually(t, "two targets", func() bool { return len(m.Targets()) == 2 })

	// The end lies at the first missed scrape, and there is nothing after it.
	rec.mu.Lock()
	defer rec.mu.Unlock()
	var last int64
	ended := map[string]bool{}
	for _, g := range rec.rows {
		if ended[g.key] {
			t.Errorf("row of %s after its end", g.key)
		}
		if of("gone")(&g) && !g.end {
			last = g.t
		}
		ended[g.key] = g.end
	}
	if !ended[end.key] || len(ended) != 3 || end.t <= last {
		t.Errorf("end at %d, last row at %d, ended %v", end.t, last, ended)
	}
}

func TestJobComesBack(t *testing.T) {
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) { text(w, "a 1\n") })
	yaml := strings.ReplaceAll(jobYAML("node", addr), "50ms", "300ms")
	m, rec, _ := run(t, yaml)
	before, n := rec.wait(t, 0, "up 1", func(g *got) bool { return g.up() == 1 })
	if err := m.ApplyConfig(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := m.ApplyConfig(t.Context(), configs(t, yaml)); err != nil {
		t.Fatal(err)
	}
	after, _ := rec.wait(t, n, "another row", func(g *got) bool { return g.up() == 1 && g.t > before.t+600 })
	if after.key != before.key {
		t.Errorf("source %s became %s", before.key, after.key)
	}
	// Whether or not it ended in between: rows after an end come from a loop that began after it.
	rec.mu.Lock()
	defer rec.mu.Unlock()
	for i := 1; i < len(rec.rows); i++ {
		if rec.rows[i].t < rec.rows[i-1].t {
			t.Errorf("row %d lies before the one before it", i)
		}
	}
}

func TestChangedInterval(t *testing.T) {
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) { text(w, "a 1\n") })
	yaml := strings.ReplaceAll(jobYAML("node", addr), "50ms", "1h")
	m, rec, _ := run(t, yaml)
	slow, n := rec.wait(t, 0, "up 1", func(g *got) bool { return g.up() == 1 })
	if err := m.ApplyConfig(t.Context(), configs(t, jobYAML("node", addr))); err != nil {
		t.Fatal(err)
	}
	fast, n := rec.wait(t, n, "up 1", func(g *got) bool { return g.up() == 1 })
	if !fast.has("scrape_series_added", 0) {
		t.Error("series count as new because of another interval")
	}
	rec.wait(t, n, "one more row", func(g *got) bool { return g.t > fast.t })
	if fast.key != slow.key || fast.source.Interval != 50*time.Millisecond || fast.schema != slow.schema {
		t.Errorf("source %+v became %+v", slow.source, fast.source)
	}
}

// Two jobs that make the same series of the same target: the first one scrapes it, the other is told.
func TestSameTargetTwice(t *testing.T) {
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) { text(w, "a 1\n") })
	same := "  relabel_configs: [{target_label: job, replacement: x}]"
	m, rec, logs := run(t, jobYAML("one", addr+", "+addr, same)+jobYAML("two", addr, same))
	rec.wait(t, 0, "up 1", func(g *got) bool { return g.up() == 1 })
	eventually(t, "a complaint", func() bool { return strings.Contains(logs.String(), "has the same target with the same labels") })
	if targets := m.Targets(); len(targets) != 1 {
		t.Errorf("%d targets, want 1", len(targets))
	}
	if n := testutil.ToFloat64(m.shared.metrics.invalidTargets); n == 0 {
		t.Error("the other target is not counted")
	}
}

func TestFileDiscovery(t *testing.T) {
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) { text(w, "a 1\n") })
	file := filepath.Join(t.TempDir(), "targets.json")
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(fmt.Sprintf(`[{"targets": [%q]}]`, addr))
	yaml := fmt.Sprintf("- job_name: files\n  scrape_interval: 50ms\n  file_sd_configs: [{files: [%q]}]\n", file)
	m, rec, logs := run(t, yaml)
	first, n := rec.wait(t, 0, "up 1", func(g *got) bool { return g.up() == 1 })
	write(`[{"targets": ["` + addr) // half-written
	eventually(t, "complaint about the file", func() bool { return strings.Contains(logs.String(), "targets.json") })
	if targets := m.Targets(); len(targets) != 1 || targets[0].Source != first.key {
		t.Errorf("targets after a broken file: %v", targets)
	}
	write(fmt.Sprintf(`[{"targets": [%q], "labels": {"dc": "ams"}}]`, addr))
	relabelled, _ := rec.wait(t, n, "new label", func(g *got) bool { return g.source.Labels.Get("dc") == "ams" })
	end, _ := rec.wait(t, n, "end of the old labels", func(g *got) bool { return g.end })
	if end.key != first.key || relabelled.key == first.key {
		t.Errorf("ended %s, first %s, then %s", end.key, first.key, relabelled.key)
	}
}

// A job whose targets stand in the config may get them from discovery later, and the other way round.
func TestReloadBetweenStaticAndDiscovered(t *testing.T) {
	one := serve(t, func(w http.ResponseWriter, r *http.Request) { text(w, "one 1\n") })
	two := serve(t, func(w http.ResponseWriter, r *http.Request) { text(w, "two 2\n") })
	file := filepath.Join(t.TempDir(), "targets.json")
	if err := os.WriteFile(file, fmt.Appendf(nil, `[{"targets": [%q, %q]}]`, one, two), 0o600); err != nil {
		t.Fatal(err)
	}
	discovered := fmt.Sprintf("- job_name: a\n  scrape_interval: 50ms\n  scrape_timeout: 50ms\n  file_sd_configs: [{files: [%q]}]\n", file)
	m, rec, _ := run(t, jobYAML("a", one))
	instance := func(address string) func(*got) bool {
		return func(g *got) bool { return strings.HasPrefix(g.key, "scrape/a/"+address+"/") }
	}
	_, n := rec.wait(t, 0, "the listed target", instance(one))
	if err := m.ApplyConfig(t.Context(), configs(t, discovered)); err != nil {
		t.Fatal(err)
	}
	_, n = rec.wait(t, n, "the discovered target", instance(two))
	if err := m.ApplyConfig(t.Context(), configs(t, jobYAML("a", two))); err != nil {
		t.Fatal(err)
	}
	_, n = rec.wait(t, n, "end of the target that is not listed", func(g *got) bool { return instance(one)(g) && g.end })
	rec.wait(t, n, "the target that still is", func(g *got) bool { return instance(two)(g) && !g.end })
	if n := len(m.Targets()); n != 1 {
		t.Errorf("%d targets, want 1", n)
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	for _, g := range rec.rows {
		if instance(two)(&g) && g.end {
			t.Error("the target that stayed has ended")
		}
	}
}
