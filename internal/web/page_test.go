package web

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestPage(t *testing.T) {
	o := options()
	o.Health.Condition("hub tail reader").NotReady("reads from 3 min ago")
	o.Health.Condition("nats edge").Degraded("no answer from the server")
	now := time.Now()
	o.Status = Status{
		Process: func() Process {
			return Process{Version: "1.2.3", Site: "core", Roles: []string{"hub core"}, Started: now, Notes: []string{"nats.urls needs a restart"}}
		},
		Sites: func() []Site {
			sites := []Site{
				{Name: "ams-1", State: SiteLive, LastRow: now.Add(-10 * time.Minute), Series: 4711, Samples: 200, Bytes: 150, Epoch: "00000000000000ab"},
				{Name: "fra-1", State: SiteLive, LastRow: now, Gaps: 2, MissingRows: 99},
				{Name: "lost-1", State: "missing", Expected: true},
				{Name: "alb-1", State: "silent", LastRow: now.Add(-time.Hour), SkewSeconds: -3700},
			}
			for i := range maxShown {
				sites = append(sites, Site{Name: fmt.Sprintf("more-%d", i), State: SiteLive, LastRow: now})
			}
			return sites
		},
		Pushed: func() []Pushed { return []Pushed{{Role: "hub", Groups: 12, Metrics: 345}} },
		Gaps:   func() []Gap { return []Gap{{Site: "fra-1", Rows: 99, Cause: "outbox full"}} },
		Account: func() Account {
			return Account{Since: now.Add(-time.Hour), MissingRows: map[string]uint64{"evicted": 90, "corrupt": 3, NotArrived: 6}}
		},
		Outputs: func() []Output {
			return []Output{
				{Name: "prom", Kind: "remote write 1.0", URL: "http://p/api/v1/write", State: "delivers", Notes: []string{"it takes nothing that is late: out of order"},
					Live: Feed{LagSeconds: 3, Samples: 1000}, Backfill: Feed{Samples: 50, Refused: 7}, Gaps: 1, MissingRows: 12},
				{Name: "pushgateway", Kind: "Push Gateway", State: "begins again", Problem: "connection refused"},
			}
		},
		OutputGaps: func(name string) ([]Gap, bool) { return []Gap{{Site: "fra-1", Output: name, Rows: 12}}, true },
		Targets: func() []Target {
			return []Target{
				{Job: "node", URL: "http://a:9100/metrics", Health: "up", LastScrape: now, Samples: 500},
				{Job: "node", URL: "http://b:9100/metrics", Health: "down", Error: `<script>alert("x")</script>`},
			}
		},
	}
	code, body := get(t, "http://"+start(t, o)+"/")
	if code != 200 {
		t.Fatalf("%d %s", code, body)
	}
	last := 0
	for _, want := range []string{
		"Thalweg · core", "✗ not ready", "hub core", "version 1.2.3", "The hub holds 12 pushed groups with 345 metrics.", "! nats.urls needs a restart",
		"hub tail reader", "reads from 3 min ago", "nats edge", "✓ ready</span>, but", "no answer from the server",
		"alb-1", "✗ silent", "clock 1h1m40s behind", "60 min ago", "lost-1", "✗ missing", "never", "fra-1", "✓ live", "2 (99 rows)",
		"ams-1", "10 min ago", "4711", "0.75", "and 4 more",
		"✗ 6 rows have not arrived yet", "✗ 93 rows are lost", "of all that the sites sent since " + clock(now.Add(-time.Hour)), "still being read",
		"outbox full",
		"prom", "remote write 1.0 http://p/api/v1/write", "✓ delivers", "takes nothing that is late: out of order", "3 s", "1000 + 50 late", "0 + 7 late",
		`1 (<a href="/api/v1/thalweg/gaps?output=prom">12 rows</a>)`, "Push Gateway", "✗ begins again: connection refused",
		"http://b:9100/metrics", "down: &lt;script&gt;", "http://a:9100/metrics", "✓ up",
	} {
		i := strings.Index(body[last:], want)
		if i < 0 {
			t.Fatalf("%q is not there, or not in its place, in\n%s", want, body)
		}
		last += i
	}
	for _, foreign := range []string{"<script", "src=", "http-equiv=\"Content", "url("} {
		if strings.Contains(body, foreign) {
			t.Errorf("page holds %q", foreign)
		}
	}
}

func TestPageOfAHubThatMissesNothing(t *testing.T) {
	o := options()
	o.Status.Sites = func() []Site { return nil }
	since := time.Now().Add(-time.Hour)
	o.Status.Account = func() Account { return Account{Since: since, Complete: true} }
	_, body := get(t, "http://"+start(t, o)+"/")
	if want := "✓ no row is missing</strong> of all that the sites sent since " + clock(since); !strings.Contains(body, want) || strings.Contains(body, "still being read") {
		t.Errorf("%q is not in\n%s", want, body)
	}
}

func TestPageOfAnEdgeAlone(t *testing.T) {
	o := options()
	o.Status.Targets = func() []Target { return nil }
	_, body := get(t, "http://"+start(t, o)+"/")
	if !strings.Contains(body, "No scrape targets.") || strings.Contains(body, "<h2>Sites") || !strings.Contains(body, "✓ ready") {
		t.Error(body)
	}
}

func TestPageOfAnOutbox(t *testing.T) {
	f := func(outbox Outbox, want ...string) {
		t.Helper()
		o := options()
		o.Status.Outbox = func() Outbox { return outbox }
		o.Status.Lanes = func() []Lane {
			return []Lane{
				{Role: "hub", Lane: "live", State: "in order"},
				{Role: "edge", Lane: "live", State: "no connection", LastError: "connection refused"},
				{Role: "edge", Lane: "backfill", State: "nothing published yet", Backlog: 4711},
			}
		}
		_, body := get(t, "http://"+start(t, o)+"/")
		for _, w := range append(want, "no connection", "connection refused", ">4711<") {
			if !strings.Contains(body, w) {
				t.Errorf("%q is not in\n%s", w, body)
			}
		}
		if strings.Contains(body, "in order") {
			t.Errorf("the lane of a hub is among those of the edge:\n%s", body)
		}
	}
	since := time.Now().Add(-time.Hour)
	f(Outbox{Limit: 1 << 30, Left: 168 * time.Hour}, "✓ nothing waits</strong>; it lasts for 168 h without a link.")
	f(Outbox{Limit: 1 << 30, Left: -1}, "✓ nothing waits</strong>\n")
	f(Outbox{Rows: 4711, Since: since, Bytes: 1_000_000, Limit: 1 << 30, Left: 90 * time.Minute, Dropped: 12},
		"✗ 4711 rows wait</strong>, the oldest since "+clock(since)+"; they take 977 KiB of 1 GiB.",
		"the first of them are dropped in <strong>90 min</strong>", "12 rows were dropped")
}

func TestSize(t *testing.T) {
	f := func(bytes int64, want string) {
		t.Helper()
		if got := size(bytes); got != want {
			t.Errorf("size(%d) = %q, want %q", bytes, got, want)
		}
	}
	f(0, "0 B")
	f(999, "999 B")
	f(1<<20, "1 MiB")
	f(192<<10, "192 KiB")
	f(1_500_000_000, "1.4 GiB")
	f(5<<50, "5.12e+03 TiB")
}

func TestAgo(t *testing.T) {
	now := time.Unix(1_000_000_000, 0)
	f := func(before time.Duration, want string) {
		t.Helper()
		if got := ago(now, now.Add(-before)); got != want {
			t.Errorf("%s ago is %q, want %q", before, got, want)
		}
	}
	f(0, "now")
	f(-time.Minute, "in the future")
	f(90*time.Second, "90 s ago")
	f(90*time.Minute, "90 min ago")
	f(30*time.Hour, "30 h ago")
	f(72*time.Hour, "3 days ago")
	if got := ago(now, time.Time{}); got != "never" {
		t.Error(got)
	}
}
