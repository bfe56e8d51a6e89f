package push

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// rig is a gateway behind a server, and what became of its rows.
type rig struct {
	*Gateway
	mux    *http.ServeMux
	server *httptest.Server

	mu   sync.Mutex
	rows []series.Row
	fail error // of Commit and Sample
}

// newBareRig opens a gateway in a directory. change may alter its options.
func newBareRig(t testing.TB, dir string, change func(*Options)) *rig {
	t.Helper()
	r := &rig{}
	o := Options{
		Dir: dir, SiteName: "ams-1", Catalog: series.NewCatalog(), Commit: r.commit,
		Settings: Settings{Interval: time.Minute},
		Logger:   slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	if change != nil {
		change(&o)
	}
	var err error
	if r.Gateway, err = Open(o); err != nil {
		t.Fatal(err)
	}
	r.mux = http.NewServeMux()
	for pattern, h := range r.Handlers() {
		r.mux.Handle(pattern, h)
	}
	r.mux.HandleFunc("/metrics", r.ServeMetrics)
	t.Cleanup(r.close)
	return r
}

// newRig opens a gateway in a directory, with a server before it.
func newRig(t testing.TB, dir string, change func(*Options)) *rig {
	t.Helper()
	r := newBareRig(t, dir, change)
	r.server = httptest.NewServer(r.mux)
	return r
}

func (r *rig) close() {
	if r.server != nil {
		r.server.Close()
	}
	_ = r.Close()
}

func (r *rig) commit(_ context.Context, site string, rows []*series.Row) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return r.fail
	}
	for _, row := range rows {
		kept := *row
		kept.Values = slices.Clone(row.Values)
		r.rows = append(r.rows, kept)
	}
	return nil
}

func (r *rig) setFail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = err
}

// taken returns the rows that were taken since the last call, as text: one line for a row, "end" or its values by series.
func (r *rig) taken() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []string
	for i := range r.rows {
		all = append(all, showRow(&r.rows[i]))
	}
	r.rows = nil
	return all
}

// showRow leaves out what depends on the clock.
func showRow(row *series.Row) string {
	text := row.Source.Key + ":"
	if row.End {
		return text + " end"
	}
	b := labels.NewBuilder(labels.EmptyLabels())
	for i, v := range row.Values {
		c := row.Schema.Column(i)
		if !row.Has(i) || strings.HasPrefix(c.Family.Name, "push_") {
			continue
		}
		text += fmt.Sprintf(" %s %s", c.Family.Type, row.Source.SeriesLabels(b, c))
		if c.Kind == series.Float {
			text += fmt.Sprint("=", v)
		}
	}
	return text
}

// request is one to a Pushgateway.
type request struct {
	method, path string // the path may be of any form, and is sent as it is
	header       http.Header
	body         string
}

// do sends a request to whoever listens at address, and returns status and body.
func (r *request) do(t testing.TB, address string) (int, string, http.Header) {
	t.Helper()
	q, err := http.NewRequest(r.method, "http://"+address, strings.NewReader(r.body))
	if err != nil {
		t.Fatal(err)
	}
	path, query, _ := strings.Cut(r.path, "?")
	q.URL.Opaque, q.URL.RawQuery = "//"+address+path, query
	for name, values := range r.header {
		q.Header[name] = values
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answer, err := client.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(body), answer.Header
}

func (r *rig) address() string { return r.server.Listener.Addr().String() }

// want sends a request and fails if the status is another one.
func (r *rig) want(t testing.TB, status int, method, path, body string, header ...string) string {
	t.Helper()
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	got, answer := 0, ""
	if r.server != nil {
		q := request{method: method, path: path, body: body, header: h}
		got, answer, _ = q.do(t, r.address())
	} else {
		w, q := httptest.NewRecorder(), httptest.NewRequest(method, path, strings.NewReader(body))
		q.Header = h
		r.mux.ServeHTTP(w, q)
		got, answer = w.Code, w.Body.String()
	}
	if got != status {
		t.Errorf("%s %s is answered with %d, want %d: %s", method, path, got, status, answer)
	}
	return answer
}

// shown are the lines of /metrics without those of the times of pushes, sorted.
func shown(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.Contains(line, "push_time_seconds") && !strings.Contains(line, "push_failure_time_seconds") {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return lines
}

func TestRowsOfGroups(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	f := func(want ...string) {
		t.Helper()
		if got := r.taken(); !slices.Equal(got, want) {
			t.Errorf("rows are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	r.want(t, 200, "PUT", "/metrics/job/backup/instance/db%201", "# TYPE a counter\na{x=\"1\",job=\"mine\"} 1\n# TYPE b gauge\nb 2\n")
	f(`push/job/backup/instance/db%201: counter {__name__="a", instance="db 1", job="backup", x="1"}=1 gauge {__name__="b", instance="db 1", job="backup"}=2`)
	r.want(t, 200, "POST", "/metrics/job/backup/instance/db%201", "# TYPE b gauge\nb{y=\"2\"} 3\n")
	f(`push/job/backup/instance/db%201: counter {__name__="a", instance="db 1", job="backup", x="1"}=1 gauge {__name__="b", instance="db 1", job="backup", y="2"}=3`)
	r.want(t, 200, "PUT", "/metrics/job/backup/instance/db%201", "c 4\n")
	f(`push/job/backup/instance/db%201: unknown {__name__="c", instance="db 1", job="backup"}=4`)
	r.want(t, 400, "PUT", "/metrics/job/backup/instance/db%201", "c 4 1700000000000\n")
	f(`push/job/backup/instance/db%201: unknown {__name__="c", instance="db 1", job="backup"}=4`)
	r.want(t, 202, "DELETE", "/metrics/job/backup/instance/db%201", "")
	f(`push/job/backup/instance/db%201: end`)
	r.want(t, 202, "DELETE", "/metrics/job/backup/instance/db%201", "")
	f()

	// Values that have to be escaped, and a label that is there but empty.
	r.want(t, 200, "PUT", "/metrics/job@base64/YS9i/empty@base64/=/p/a%25b", "d 5\n")
	f(`push/job/a%2Fb/empty//p/a%25b: unknown {__name__="d", job="a/b", p="a%b"}=5`)

	// A histogram and a summary keep their families.
	r.want(t, 200, "PUT", "/metrics/job/h", "# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_sum 3\nh_count 4\n# TYPE s summary\ns{quantile=\"0.5\"} 6\ns_sum 7\ns_count 8\n")
	f(`push/job/h: histogram {__name__="h_count", job="h"}=4 histogram {__name__="h_sum", job="h"}=3 histogram {__name__="h_bucket", job="h", le="1.0"}=2 histogram {__name__="h_bucket", job="h", le="+Inf"}=4` +
		` summary {__name__="s_count", job="h"}=8 summary {__name__="s_sum", job="h"}=7 summary {__name__="s", job="h", quantile="0.5"}=6`)
}

// quiet is a rig that logs nothing.
func quiet(t testing.TB, dir string) *rig {
	return newRig(t, dir, func(o *Options) { o.Logger = slog.New(slog.DiscardHandler) })
}

// run runs the gateway until the function that it returns is called.
func (r *rig) run(t testing.TB) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// until waits until a condition holds.
func (r *rig) until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
