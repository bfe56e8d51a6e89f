package scrape

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/expo"
	"github.com/thalweg/thalweg/internal/series"
)

// got is a row as a reader of the series sees it.
type got struct {
	key    string
	source *series.Source
	schema *series.Schema
	t      int64
	whole  bool
	end    bool
	values map[string]float64 // by all labels
	hists  map[string]string
}

// up is the value of up, NaN if there is none.
func (g *got) up() float64 {
	for l, v := range g.values {
		if strings.Contains(l, `__name__="up"`) {
			return v
		}
	}
	return math.NaN()
}

// has reports whether the row has a series with that name and value.
func (g *got) has(name string, v float64) bool {
	for l, got := range g.values {
		if strings.Contains(l, fmt.Sprintf("__name__=%q", name)) && got == v {
			return true
		}
	}
	return false
}

// recorder is a sink that tests can wait on.
type recorder struct {
	mu   sync.Mutex
	rows []got
	more chan struct{} // closed and replaced with each row
}

func newRecorder() *recorder { return &recorder{more: make(chan struct{})} }

func (r *recorder) sink(row *series.Row) error {
	g := got{
		key: row.Source.Key, source: row.Source, schema: row.Schema, t: row.T, whole: row.Whole(), end: row.End,
		values: map[string]float64{}, hists: map[string]string{},
	}
	b := labels.NewBuilder(labels.EmptyLabels())
	name := func(column int) string { return row.Source.SeriesLabels(b, row.Schema.Column(column)).String() }
	for i, v := range row.Values {
		if !row.Whole() {
			g.values[name(int(row.Columns[i]))] = v
		} else if row.Has(i) {
			g.values[name(i)] = v
		}
	}
	for _, h := range row.Histograms {
		g.hists[name(int(h.Column))] = fmt.Sprint(h.H)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows = append(r.rows, g)
	close(r.more)
	r.more = make(chan struct{})
	return nil
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.rows)
}

// wait returns the first row from index from on that fits, and the index after it.
func (r *recorder) wait(t *testing.T, from int, what string, fits func(*got) bool) (got, int) {
	t.Helper()
	deadline := time.After(5 * time.Minute)
	for {
		r.mu.Lock()
		rows, more := r.rows, r.more
		r.mu.Unlock()
		for ; from < len(rows); from++ {
			if fits(&rows[from]) {
				return rows[from], from + 1
			}
		}
		select {
		case <-more:
		case <-deadline:
			t.Fatalf("no row with %s among %d", what, len(rows))
		}
	}
}

// eventually waits for a condition that no row announces.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not reached: %s", what)
		}
	}
}

type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// run starts a manager for the test.
func run(t *testing.T, yaml string) (*Manager, *recorder, *logBuffer) {
	t.Helper()
	rec, logs := newRecorder(), &logBuffer{}
	m, err := New(Options{
		Site:      "ams-1",
		Version:   "1.2.3",
		Align:     true,
		Immediate: true,
		Catalog:   series.NewCatalog(),
		Sink:      rec.sink,
		Logger:    slog.New(slog.NewTextHandler(logs, nil)),
	}, configs(t, yaml))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return m, rec, logs
}

func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func text(w http.ResponseWriter, body string) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	io.WriteString(w, body)
}

func jobYAML(name, addresses string, more ...string) string {
	return fmt.Sprintf("- job_name: %s\n  scrape_interval: 50ms\n  static_configs: [{targets: [%s]}]\n%s", name, addresses,
		strings.Join(append(more, ""), "\n"))
}

func TestScrape(t *testing.T) {
	headers := make(chan http.Header, 1)
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case headers <- r.Header:
		default:
		}
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		z := gzip.NewWriter(w)
		fmt.Fprintf(z, "# TYPE a gauge\na{path=%q} 1\nb 2\nb 3\n", r.URL.Path)
		z.Close()
	})
	m, rec, _ := run(t, jobYAML("node", addr, "  extra_scrape_metrics: true", "  sample_limit: 100"))
	row, _ := rec.wait(t, 0, "up 1", func(g *got) bool { return g.up() == 1 })

	id := fmt.Sprintf(`instance=%q, job="node"`, addr)
	want := map[string]float64{
		`{__name__="a", ` + id + `, path="/metrics"}`:                    1,
		`{__name__="b", ` + id + `}`:                                     2,
		`{__name__="up", ` + id + `}`:                                    1,
		`{__name__="scrape_samples_scraped", ` + id + `}`:                3,
		`{__name__="scrape_samples_post_metric_relabeling", ` + id + `}`: 3,
		`{__name__="scrape_series_added", ` + id + `}`:                   2,
		`{__name__="scrape_timeout_seconds", ` + id + `}`:                0.05,
		`{__name__="scrape_sample_limit", ` + id + `}`:                   100,
		`{__name__="scrape_body_size_bytes", ` + id + `}`:                float64(len("# TYPE a gauge\na{path=\"/metrics\"} 1\nb 2\nb 3\n")),
	}
	duration := `{__name__="scrape_duration_seconds", ` + id + `}`
	if d := row.values[duration]; d <= 0 || d > 60 {
		t.Errorf("scrape_duration_seconds is %v", d)
	}
	delete(row.values, duration)
	if !maps.Equal(row.values, want) {
		t.Errorf("row\n%v\nwant\n%v", row.values, want)
	}
	if age := time.Since(time.UnixMilli(row.t)); age < 0 || age > time.Minute || row.source.Interval != 50*time.Millisecond {
		t.Errorf("row is %s old, interval %s", age, row.source.Interval)
	}

	h := <-headers
	for name, want := range map[string]string{
		"Accept": "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.7," +
			"application/openmetrics-text;version=0.0.1;q=0.6,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.5," +
			"text/plain;version=0.0.4;q=0.4,*/*;q=0.3",
		"Accept-Encoding":                     "identity",
		"User-Agent":                          "Thalweg/1.2.3",
		"X-Prometheus-Scrape-Timeout-Seconds": "0.05",
	} {
		if got := h.Get(name); got != want {
			t.Errorf("header %s is %s, want %s", name, got, want)
		}
	}
	eventually(t, "status of the target", func() bool {
		targets := m.Targets()
		return len(targets) == 1 && targets[0].Health == Up && targets[0].Samples == 3 && targets[0].Job == "node" &&
			targets[0].URL == "http://"+addr+"/metrics" && !targets[0].LastScrape.IsZero()
	})
	// Later rows lie on the grid of the site.
	g := alignedGrid(50*time.Millisecond, "ams-1", 0)
	rec.wait(t, 1, "time on the grid", func(g2 *got) bool {
		at := time.UnixMilli(g2.t)
		return at.Sub(g.upTo(at)) < time.Millisecond || g.after(at).Sub(at) < time.Millisecond
	})
}

// Targets that misbehave get up 0 and a reason, and harm nobody else.
func TestHostileTargets(t *testing.T) {
	good := serve(t, func(w http.ResponseWriter, r *http.Request) { text(w, "good 1\n") })
	endless := strings.Repeat("x 1\n", 1<<14)
	hostile := map[string]http.HandlerFunc{
		"syntax": func(w http.ResponseWriter, r *http.Request) { text(w, "fine 1\n<html>\n") },
		"body_size_limit": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			for {
				if _, err := io.WriteString(w, endless); err != nil {
					return
				}
			}
		},
		"body_size_limit ": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			for {
				if _, err := io.WriteString(z, endless); err != nil {
					return
				}
			}
		},
		"timeout": func(w http.ResponseWriter, r *http.Request) {
			text(w, "a")
			w.(http.Flusher).Flush()
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
				case <-r.Context().Done():
					return
				}
				if _, err := io.WriteString(w, "a"); err != nil {
					return
				}
				w.(http.Flusher).Flush()
			}
		},
		"timeout ": func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
		},
		"http_status": func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusInternalServerError) },
		"content_type": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			io.WriteString(w, "a 1\n")
		},
		"transfer": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			text(w, "a 1\n")
		},
		"transfer ": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "br")
			text(w, "a 1\n")
		},
		"transfer  ": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			text(w, "a 1\n")
		},
		"limit":         func(w http.ResponseWriter, r *http.Request) { text(w, "a 1\nb 1\nc 1\n") },
		"connect":       func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) },
		"http_status  ": func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNoContent) },
	}
	yaml := jobYAML("good", good)
	names := map[string]string{} // reason by job
	add := func(reason, addr string) {
		name := fmt.Sprintf("bad%d", len(names))
		names[name] = strings.TrimSpace(reason)
		timeout := "30s" // long, so that a busy machine does not fail in another way
		if names[name] == "timeout" {
			timeout = "200ms"
		}
		yaml += fmt.Sprintf("- {job_name: %s, scrape_interval: 60s, scrape_timeout: %s, body_size_limit: 4MB, sample_limit: 2, "+
			"static_configs: [{targets: [%q]}]}\n", name, timeout, addr)
	}
	for reason, h := range hostile {
		add(reason, serve(t, h))
	}
	refused := httptest.NewServer(nil)
	refused.Close()
	add("connect", strings.TrimPrefix(refused.URL, "http://"))

	m, rec, logs := run(t, yaml)
	for name := range names {
		row, _ := rec.wait(t, 0, "a failed scrape of "+name, func(g *got) bool { return strings.HasPrefix(g.key, "scrape/"+name+"/") })
		if row.up() != 0 || len(row.values) != 5 || !row.whole {
			t.Errorf("%s (%s): row %v", name, names[name], row.values)
		}
	}
	first, _ := rec.wait(t, 0, "the good target", func(g *got) bool { return g.has("good", 1) })
	rec.wait(t, 0, "the good target again and again", func(g *got) bool {
		return g.has("good", 1) && g.t > first.t+300
	})
	targets := map[string]Target{}
	// The row of a scrape comes a moment before its target says so.
	eventually(t, "all targets have a state", func() bool {
		known := true
		for _, target := range m.Targets() {
			targets[target.Job] = target
			known = known && target.Health != Unknown
		}
		return known
	})
	for name, reason := range names {
		target := targets[name]
		if target.Health != Down || target.Err == nil || string(reasonOf(target.Err)) != reason {
			t.Errorf("%s: state %s, error %v (%s), want %s", name, target.Health, target.Err, reasonOf(target.Err), reason)
		}
		if n := testutil.ToFloat64(m.shared.metrics.failures.WithLabelValues(reason)); n == 0 {
			t.Errorf("%s: no failure is counted as %s", name, reason)
		}
		if n := strings.Count(logs.String(), " job="+name+" "); n != 1 {
			t.Errorf("%s: %d log lines:\n%s", name, n, logs)
		}
	}
}

// A target that fails in turn for two reasons, or comes and goes, is logged once per reason and time.
func TestLogIsLimited(t *testing.T) {
	logs := &logBuffer{}
	logger := slog.New(slog.NewTextHandler(logs, nil))
	target, err := newTarget(configs(t, jobYAML("node", "h:1"))[0], model.LabelSet{"__address__": "h:1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &settings{cfg: configs(t, jobYAML("node", "h:1"))[0], target: target}
	l := newLoop(&shared{logs: newLimitedLog(logger)}, 0, s)
	now := time.Now()
	for i := range 100 {
		l.log(s, []error{&targetLimitError{}, nil, &expo.LimitError{}, &expo.LimitError{}, nil}[i%5], now.Add(time.Duration(i)*time.Second))
	}
	l.log(s, &expo.LimitError{}, now.Add(logAgain+3*time.Second))
	if failed, works := strings.Count(logs.String(), "scrape failed"), strings.Count(logs.String(), "works again"); failed != 3 || works != 2 {
		t.Errorf("%d and %d lines, want 3 and 2:\n%s", failed, works, logs)
	}
	for range 1000 {
		l.shared.logs.warn("another")
	}
	if n := strings.Count(logs.String(), "another"); n > 30 || l.shared.logs.omitted.Load() < 900 {
		t.Errorf("%d of 1000 lines", n)
	}
}

func TestFailureEndsSeries(t *testing.T) {
	var broken atomic.Bool
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if broken.Load() {
			http.Error(w, "", http.StatusServiceUnavailable)
			return
		}
		text(w, "a 1\n")
	})
	_, rec, logs := run(t, jobYAML("node", addr))
	before, n := rec.wait(t, 0, "up 1", func(g *got) bool { return g.up() == 1 && g.has("a", 1) })
	broken.Store(true)
	failed, n := rec.wait(t, n, "up 0", func(g *got) bool { return g.up() == 0 })
	if len(failed.values) != 5 || failed.schema != before.schema {
		t.Errorf("failed row %v", failed.values)
	}
	broken.Store(false)
	after, _ := rec.wait(t, n, "up 1", func(g *got) bool { return g.up() == 1 })
	if !after.has("a", 1) || !after.has("scrape_series_added", 0) || after.schema != before.schema {
		t.Errorf("row after the failure %v", after.values)
	}
	eventually(t, "log of the recovery", func() bool {
		return strings.Contains(logs.String(), `msg="scrape failed"`) && strings.Contains(logs.String(), `msg="scrape works again"`)
	})
}

func TestOwnTimestamps(t *testing.T) {
	var n atomic.Int64
	start := time.Now().Add(-time.Minute).UnixMilli()
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		at := start + n.Add(1)/2*1000 // advances with every second scrape
		text(w, fmt.Sprintf("a{job=\"x\",instance=\"\"} 1 %d\n", at))
	})
	_, rec, _ := run(t, jobYAML("fed", addr, "  metrics_path: /federate", "  honor_labels: true"))
	stamped := func(g *got) bool { return !g.whole && !g.end }
	one, i := rec.wait(t, 0, "own timestamp", stamped)
	two, _ := rec.wait(t, i, "own timestamp", stamped)
	if two.t <= one.t || (two.t-one.t)%1000 != 0 || !strings.Contains(one.key, "/x//") || one.source != two.source {
		t.Errorf("rows at %d and %d of %s", one.t, two.t, one.key)
	}
	if want := map[string]float64{`{__name__="a", job="x"}`: 1}; !maps.Equal(one.values, want) {
		t.Errorf("values %v, want %v", one.values, want)
	}
}

func TestProtobuf(t *testing.T) {
	reg := prometheus.NewRegistry()
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "native", Help: "H.", NativeHistogramBucketFactor: 1.1})
	reg.MustRegister(h)
	for _, v := range []float64{1, 2, 2} {
		h.Observe(v)
	}
	addr := serve(t, promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP)
	_, rec, _ := run(t, jobYAML("node", addr, "  scrape_native_histograms: true"))
	row, _ := rec.wait(t, 0, "up 1", func(g *got) bool { return g.up() == 1 })
	if len(row.hists) != 1 || len(row.values) != 6 {
		t.Fatalf("histograms %v among %v", row.hists, row.values)
	}
	for l, h := range row.hists {
		if !strings.Contains(l, `__name__="native"`) || !strings.HasPrefix(h, "{count:3, sum:5, ") {
			t.Errorf("%s %s", l, h)
		}
	}
	c := row.schema.Column(5)
	if c.Kind != series.Histogram || c.Family != (series.Family{Name: "native", Type: "histogram", Help: "H."}) {
		t.Errorf("column %+v", c)
	}
}

func TestTargetLimit(t *testing.T) {
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) { t.Error("scraped in spite of target_limit") })
	m, rec, _ := run(t, jobYAML("node", addr+", other:1", "  target_limit: 1"))
	rec.wait(t, 0, "up 0", func(g *got) bool { return g.up() == 0 })
	eventually(t, "two targets with the reason", func() bool {
		targets := m.Targets()
		return len(targets) == 2 && targets[0].Err != nil && targets[1].Err != nil &&
			targets[0].Err.Error() == "target_limit exceeded: limit 1, found 2"
	})
}

func TestStoppingEndsNothing(t *testing.T) {
	hanging := make(chan struct{}, 100)
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		hanging <- struct{}{}
		<-r.Context().Done()
	})
	rec := newRecorder()
	m, err := New(Options{
		Site: "s", Immediate: true, Catalog: series.NewCatalog(), Sink: rec.sink, Logger: slog.New(slog.DiscardHandler),
	}, configs(t, "- job_name: node\n  scrape_interval: 60s\n  static_configs: [{targets: ["+addr+"]}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	<-hanging
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := rec.count(); n != 0 {
		t.Errorf("%d rows of a scrape that was cut short by the stop", n)
	}
	if err := m.ApplyConfig(t.Context(), nil); err == nil {
		t.Error("a stopped manager took a config")
	}
}

func TestUnixSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { text(w, "a 1\n") }))
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	_, rec, _ := run(t, jobYAML("node", "localhost:1",
		"  relabel_configs: [{target_label: __unix_socket__, replacement: "+socket+"}]"))
	rec.wait(t, 0, "a sample from the socket", func(g *got) bool { return g.has("a", 1) })
}
