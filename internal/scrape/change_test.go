package scrape

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// alive lists the series that have not ended, without those about scrapes but up.
func (o *observer) alive() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var all []string
	for _, outcomes := range o.jobs {
		for l := range outcomes[len(outcomes)-1].alive {
			if !strings.Contains(l, `"scrape_`) {
				all = append(all, l)
			}
		}
	}
	slices.Sort(all)
	return all
}

func (o *observer) ended() map[string]int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.ends)
}

// TestChangesLikePrometheus changes the configuration and the targets under Prometheus' manager and under ours: the same
// series go on, and the same ones end, each once.
func TestChangesLikePrometheus(t *testing.T) {
	t.Parallel() // it spends its time waiting
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body := "a 1\nb 2\n"
		if strings.HasPrefix(r.URL.Path, "/stamped") {
			body = fmt.Sprintf("a 1 %[1]d\nb{job=\"other\",instance=\"\"} 2 %[1]d\n", time.Now().UnixMilli())
		}
		text(w, body)
	})
	// A scrape that takes longer than its interval fails, which a busy machine must not make it do.
	job := func(name, targets string, more ...string) string {
		return fmt.Sprintf("- job_name: %s\n  metrics_path: /%s\n  scrape_interval: 4s\n  static_configs: [%s]\n%s", name, name, targets,
			strings.Join(append(more, ""), "\n"))
	}
	target := fmt.Sprintf("{targets: [%q]}", addr)
	labelled := fmt.Sprintf("{targets: [%q], labels: {dc: ams}}", addr)
	tracked := "  track_timestamps_staleness: true\n  honor_labels: true"
	// Its interval is long enough for the target to come back in time.
	recreated := func(targets string) string { return strings.Replace(job("recreated", targets), "4s", "12s", 1) }
	always := job("stays", target) + job("stamped-stays", target, tracked)
	before := always + job("removed", target) + recreated(target) + job("target-removed", target) +
		job("relabelled", target) + job("slower", target) + job("labelled", target) + job("limited", target) +
		job("stamped-removed", target, tracked) + job("stamped-slower", target, tracked)
	between := always + job("target-removed", "") + job("stamped-removed", "", tracked) + recreated("") +
		job("relabelled", target, "  metric_relabel_configs: [{source_labels: [__name__], regex: b, action: drop}]") +
		strings.Replace(job("slower", target), "4s", "6s", 1) + job("labelled", labelled) +
		job("limited", target, "  sample_limit: 1") + strings.Replace(job("stamped-slower", target, tracked), "4s", "6s", 1)
	after := strings.Replace(between, recreated(""), recreated(target), 1)

	theirs, ours := newObserver(), newObserver()
	peer := runPrometheus(t, before, theirs, false)
	m := runOurs(t, before, ours)
	for _, name := range []string{"stays", "stamped-stays", "removed", "recreated", "target-removed", "relabelled", "slower", "labelled",
		"limited", "stamped-removed", "stamped-slower"} {
		n := 2
		if name == "recreated" {
			n = 1
		}
		eventually(t, "scrapes of "+name, func() bool { return len(theirs.scrapes(name)) >= n && len(ours.scrapes(name)) >= n })
	}
	change := func(yaml string, jobs int) {
		t.Helper()
		peer.apply(yaml)
		if err := m.ApplyConfig(t.Context(), configs(t, yaml)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the change", func() bool {
			n := 0
			for _, targets := range peer.manager.TargetsActive() {
				n += len(targets)
			}
			return n == jobs && len(m.Targets()) == jobs
		})
	}
	change(between, 7)
	change(after, 8)
	again := [2]int{len(theirs.scrapes("recreated")), len(ours.scrapes("recreated"))}
	eventually(t, "scrapes of the target that came back", func() bool { // by then an end would have been told
		return len(theirs.scrapes("recreated")) >= again[0]+3 && len(ours.scrapes("recreated")) >= again[1]+3
	})

	id := fmt.Sprintf("instance=%q", addr)
	var want []string
	for _, name := range []string{"stays", "recreated", "relabelled", "slower", "limited", "labelled", "stamped-stays", "stamped-slower"} {
		dc := map[bool]string{true: `dc="ams", `}[name == "labelled"]
		want = append(want, fmt.Sprintf(`{__name__="up", %s%s, job=%q}`, dc, id, name))
		if name != "limited" {
			want = append(want, fmt.Sprintf(`{__name__="a", %s%s, job=%q}`, dc, id, name))
		}
		if name != "limited" && name != "relabelled" && !strings.HasPrefix(name, "stamped-") {
			want = append(want, fmt.Sprintf(`{__name__="b", %s%s, job=%q}`, dc, id, name))
		}
	}
	// Both stamped jobs that are left have this one.
	want = append(want, `{__name__="b", job="other"}`, `{__name__="b", job="other"}`)
	slices.Sort(want)
	eventually(t, "all that is gone has ended", func() bool { return slices.Equal(ours.alive(), want) })
	// Two differences are meant: when a job goes as a whole, and when a body fails in the middle, Prometheus leaves series
	// without an end until the lookback is over.
	open := []string{
		fmt.Sprintf(`{__name__="a", %s, job="limited"}`, id), fmt.Sprintf(`{__name__="a", %s, job="removed"}`, id),
		fmt.Sprintf(`{__name__="b", %s, job="removed"}`, id), fmt.Sprintf(`{__name__="up", %s, job="removed"}`, id),
	}
	want = slices.Sorted(slices.Values(append(want, open...)))
	eventually(t, "all has ended that ends in Prometheus", func() bool { return slices.Equal(theirs.alive(), want) })
	their, our := theirs.ended(), ours.ended()
	maps.DeleteFunc(our, func(l string, _ int) bool {
		return slices.Contains(open, l) || strings.Contains(l, `job="removed"`)
	})
	if !maps.Equal(their, our) {
		t.Errorf("ended:\n theirs %v\n   ours %v", diff(their, our), diff(our, their))
	}
	for l, n := range our {
		if n != 1 && !strings.Contains(l, `job="other"`) || slices.Contains(want, l) && !strings.Contains(l, `job="other"`) {
			t.Errorf("%s ended %d times", l, n)
		}
	}
}

// A target that an http_sd server stops telling of ends; while the server fails, nothing changes.
func TestHTTPDiscovery(t *testing.T) {
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) { text(w, "a 1\n") })
	var answer atomic.Value
	answer.Store(fmt.Sprintf(`[{"targets": [%q]}]`, addr))
	asked := make(chan struct{})
	sd := serve(t, func(w http.ResponseWriter, r *http.Request) {
		s := answer.Load().(string)
		if s == "" {
			select {
			case asked <- struct{}{}:
			case <-r.Context().Done():
			}
			http.Error(w, "", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, s)
	})
	m, rec, logs := run(t, "- job_name: http\n  scrape_interval: 50ms\n  http_sd_configs: [{url: 'http://"+sd+"', refresh_interval: 20ms}]\n")
	first, _ := rec.wait(t, 0, "up 1", func(g *got) bool { return g.up() == 1 })
	for _, bad := range []string{"", `[{"targets": ["` + addr} {
		answer.Store(bad)
		if bad == "" {
			<-asked
			<-asked
		}
		eventually(t, "a complaint", func() bool { return strings.Contains(logs.String(), "Unable to refresh target groups") })
		if targets := m.Targets(); len(targets) != 1 {
			t.Errorf("targets while discovery fails: %v", targets)
		}
		row, _ := rec.wait(t, rec.count(), "another row", func(g *got) bool { return true })
		if row.key != first.key || row.source != first.source || row.end {
			t.Errorf("row while discovery fails: %+v", row)
		}
	}
	answer.Store("[]")
	end, _ := rec.wait(t, 0, "the end", func(g *got) bool { return g.end })
	if end.key != first.key {
		t.Errorf("end of %s, want %s", end.key, first.key)
	}
}
