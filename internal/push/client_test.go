package push

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"

	"github.com/thalweg/thalweg/internal/series"
)

// recorder is a gateway that does as a test says, and remembers what it was asked for.
type recorder struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string // method, path and body
	status   func(path string) int
	busy     int // requests under way
	busiest  int
	gather   int // so many requests wait for each other, unless it is 0
	all      chan struct{}

	exposes    int // status of what it has
	exposition string
	asked      int
}

func newRecorder(t *testing.T) *recorder {
	r := &recorder{status: func(string) int { return http.StatusOK }, exposes: http.StatusNotFound}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return
	}
	if request.Method == http.MethodGet {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.asked++
		w.WriteHeader(r.exposes)
		fmt.Fprint(w, r.exposition)
		return
	}
	r.mu.Lock()
	r.busy++
	r.busiest = max(r.busiest, r.busy)
	gather := r.gather
	if r.busy == gather {
		r.gather = 0
		close(r.all)
	}
	r.mu.Unlock()
	if gather > 0 {
		<-r.all
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.busy--
	r.requests = append(r.requests, fmt.Sprintf("%s %s %s", request.Method, request.URL.EscapedPath(), body))
	code := r.status(request.URL.Path)
	w.WriteHeader(code)
	fmt.Fprintf(w, "this is %d", code)
}

// answers makes the gateway answer from now on with a status.
func (r *recorder) answers(code int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = func(string) int { return code }
}

// takeRequests returns what was asked for since the last call, sorted.
func (r *recorder) takeRequests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	requests := r.requests
	r.requests = nil
	slices.Sort(requests)
	return requests
}

// pushed is a client under test, its clock, and what it refused.
type pushed struct {
	*Client
	t       *testing.T
	time    time.Time
	refused []string
	log     strings.Builder
}

func newPushed(t *testing.T, c ClientConfig) *pushed {
	t.Helper()
	p := &pushed{t: t, time: time.UnixMilli(1_700_000_000_000)}
	c.HTTP = DefaultClientConfig().HTTP
	client, err := NewClient(ClientOptions{
		Config: c, Name: "pushgateway", Metrics: NewClientMetrics("pushgateway"), Logger: slog.New(slog.NewTextHandler(&p.log, nil)), Now: func() time.Time { return p.time },
	})
	if err != nil {
		t.Fatal(err)
	}
	p.Client = client
	return p
}

// flush expects a flush to be done or not.
func (p *pushed) flush(want bool) {
	p.t.Helper()
	done, err := p.Flush(p.t.Context(), func(row, samples int, why string) {
		p.refused = append(p.refused, fmt.Sprintf("%d %d %s", row, samples, why))
	})
	if err != nil || done != want {
		p.t.Fatalf("flush is done: %t, want %t; error %v; %v", done, want, err, p.Problem())
	}
}

// expect compares lists of lines.
func expect(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n  %s\nwant\n  %s", what, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func sourceOf(job, instance string, more ...string) *series.Source {
	return &series.Source{
		Key:      fmt.Sprintf("scrape/%s/%s/%s", job, instance, strings.Join(more, "/")),
		Labels:   labels.FromStrings(append([]string{"job", job, "instance", instance}, more...)...),
		Interval: 15 * time.Second,
	}
}

var catalog = series.NewCatalog()

// wholeRow makes a row of gauges, NAME VALUE.
func wholeRow(s *series.Source, t time.Time, namesAndValues ...any) *series.Row {
	row := &series.Row{Source: s, T: t.UnixMilli()}
	var columns []series.Column
	for i := 0; i < len(namesAndValues); i += 2 {
		columns = append(columns, series.Synthetic(namesAndValues[i].(string), ""))
		row.Values = append(row.Values, namesAndValues[i+1].(float64))
	}
	row.Schema = catalog.Extend(catalog.Empty(), columns)
	return row
}

// partialRow makes of a row one that says nothing about other columns.
func partialRow(row *series.Row, columns ...uint32) *series.Row {
	row.Columns = append([]uint32{}, columns...)
	var values []float64
	for _, c := range columns {
		values = append(values, row.Values[c])
	}
	row.Values = values
	return row
}

func endRow(s *series.Source, t time.Time) *series.Row {
	return &series.Row{Source: s, T: t.UnixMilli(), End: true}
}

func TestClientPushesWholeGroups(t *testing.T) {
	g := newRecorder(t)
	p := newPushed(t, ClientConfig{URL: g.URL + "/gate/"})
	a := sourceOf("node", "a:9100", "zone", "1")
	p.Row("ams-1", wholeRow(a, p.time, "up", 1.0, "x", 2.5))
	p.Row("ams-1", wholeRow(sourceOf("node", "b:9100"), p.time, "up", 0.0))
	p.flush(true)
	expect(t, "requests", g.takeRequests(),
		"PUT /gate/metrics/job/node/instance/a:9100 # TYPE up gauge\nup{zone=\"1\"} 1\n# TYPE x gauge\nx{zone=\"1\"} 2.5\n",
		"PUT /gate/metrics/job/node/instance/b:9100 # TYPE up gauge\nup 0\n")

	// Of several rows the last one is pushed, and nothing if there is no other one.
	p.Row("ams-1", wholeRow(a, p.time, "up", 1.0, "x", 3.0))
	gone := wholeRow(a, p.time, "up", 1.0, "x", 4.0)
	gone.Present = []uint64{1}
	p.Row("ams-1", gone)
	p.flush(true)
	p.flush(true)
	expect(t, "requests", g.takeRequests(), "PUT /gate/metrics/job/node/instance/a:9100 # TYPE up gauge\nup{zone=\"1\"} 1\n")

	p.Row("ams-1", endRow(a, p.time))
	p.flush(true)
	expect(t, "requests", g.takeRequests(), "DELETE /gate/metrics/job/node/instance/a:9100 ")
	if n := len(p.groups); n != 1 {
		t.Errorf("%d groups are held", n)
	}
	expect(t, "refused", p.refused)
}

func TestClientAfterRestart(t *testing.T) {
	g := newRecorder(t)
	p := newPushed(t, ClientConfig{URL: g.URL, PublisherLabel: true})
	p.Row("ams-1", endRow(sourceOf("node", "a"), p.time))
	back := sourceOf("node", "b")
	p.Row("ams-1", endRow(back, p.time))
	p.Row("ams-1", wholeRow(back, p.time, "up", 1.0))
	p.flush(true)
	expect(t, "requests", g.takeRequests(),
		"DELETE /metrics/job/node/instance/a/publisher/ams-1 ",
		"PUT /metrics/job/node/instance/b/publisher/ams-1 # TYPE up gauge\nup 1\n")
}

func TestClientGroupOfSeveralSources(t *testing.T) {
	g := newRecorder(t)
	p := newPushed(t, ClientConfig{URL: g.URL})
	scraped, stamped := sourceOf("cadvisor", "a"), sourceOf("cadvisor", "a")
	stamped.Key += "/stamped"
	p.Row("ams-1", wholeRow(scraped, p.time, "up", 1.0, "both", 1.0))
	p.Row("ams-1", partialRow(wholeRow(stamped, p.time.Add(time.Second), "cpu", 2.0, "both", 3.0), 0, 1))
	p.flush(true)
	expect(t, "requests", g.takeRequests(),
		"POST /metrics/job/cadvisor/instance/a # TYPE cpu gauge\ncpu 2\n# TYPE both gauge\nboth 3\n# TYPE up gauge\nup 1\n")

	// The end of one of them is not that of the group.
	p.Row("ams-1", endRow(stamped, p.time))
	p.flush(true)
	expect(t, "requests", g.takeRequests(), "PUT /metrics/job/cadvisor/instance/a # TYPE up gauge\nup 1\n# TYPE both gauge\nboth 1\n")

	// A source that is not there any more without having ended makes room.
	changed := sourceOf("cadvisor", "a", "zone", "1")
	p.Row("ams-1", wholeRow(changed, p.time.Add(time.Minute), "up", 1.0))
	p.flush(true)
	expect(t, "requests", g.takeRequests(), "PUT /metrics/job/cadvisor/instance/a # TYPE up gauge\nup{zone=\"1\"} 1\nup 1\n# TYPE both gauge\nboth 1\n")
	p.Row("ams-1", wholeRow(changed, p.time.Add(6*time.Minute), "up", 1.0))
	p.flush(true)
	expect(t, "requests", g.takeRequests(), "PUT /metrics/job/cadvisor/instance/a # TYPE up gauge\nup{zone=\"1\"} 1\n")
}

func TestClientPartialRows(t *testing.T) {
	g := newRecorder(t)
	p := newPushed(t, ClientConfig{URL: g.URL})
	s := sourceOf("sender", "a")
	full := func() *series.Row { return wholeRow(s, p.time, "a", 1.0, "b", 2.0, "c", 3.0) }
	p.Row("x", partialRow(full(), 0))
	p.flush(true)
	p.Row("x", partialRow(full(), 1))
	p.flush(true)
	expect(t, "requests", g.takeRequests(),
		"POST /metrics/job/sender/instance/a # TYPE a gauge\na 1\n",
		"POST /metrics/job/sender/instance/a # TYPE a gauge\na 1\n# TYPE b gauge\nb 2\n")

	// After a while all that there is has been seen; what ends vanishes.
	p.time = p.time.Add(5 * time.Minute)
	ends := partialRow(full(), 0, 2)
	ends.Values[0] = math.Float64frombits(value.StaleNaN)
	p.Row("x", ends)
	p.flush(true)
	expect(t, "requests", g.takeRequests(), "PUT /metrics/job/sender/instance/a # TYPE b gauge\nb 2\n# TYPE c gauge\nc 3\n")

	// A schema that has nothing to do with the one before: what is known begins anew.
	p.Row("x", partialRow(wholeRow(s, p.time, "b", 5.0, "a", 6.0), 1))
	p.flush(true)
	expect(t, "requests", g.takeRequests(), "POST /metrics/job/sender/instance/a # TYPE a gauge\na 6\n")

	// One that has grown goes on, and so does the shorter one after it.
	p.Row("x", partialRow(wholeRow(s, p.time, "b", 5.0, "a", 6.0, "d", 7.0), 2)) // equal columns are another chain
	p.flush(true)
	expect(t, "requests", g.takeRequests(), "POST /metrics/job/sender/instance/a # TYPE d gauge\nd 7\n")
	two := catalog.Extend(catalog.Empty(), []series.Column{series.Synthetic("k", ""), series.Synthetic("l", "")})
	three := catalog.Extend(two, []series.Column{series.Synthetic("m", "")})
	p.Row("x", &series.Row{Source: s, Schema: two, T: p.time.UnixMilli(), Columns: []uint32{0}, Values: []float64{1}})
	p.Row("x", &series.Row{Source: s, Schema: three, T: p.time.UnixMilli(), Columns: []uint32{2}, Values: []float64{3}})
	p.Row("x", &series.Row{Source: s, Schema: two, T: p.time.UnixMilli(), Columns: []uint32{1}, Values: []float64{2}})
	p.flush(true)
	expect(t, "requests", g.takeRequests(), "POST /metrics/job/sender/instance/a # TYPE k gauge\nk 1\n# TYPE l gauge\nl 2\n# TYPE m gauge\nm 3\n")
}

func TestClientRefused(t *testing.T) {
	g := newRecorder(t)
	p := newPushed(t, ClientConfig{URL: g.URL})
	a, b := sourceOf("node", "a"), sourceOf("node", "b")
	g.status = func(path string) int {
		if strings.HasSuffix(path, "/a") {
			return http.StatusBadRequest
		}
		return http.StatusAccepted
	}
	p.Row("x", wholeRow(a, p.time, "up", 1.0))
	p.Row("x", wholeRow(a, p.time, "up", 1.0, "more", 1.0))
	p.Row("x", wholeRow(b, p.time, "up", 1.0))
	p.Row("x", wholeRow(&series.Source{Key: "nobody"}, p.time, "up", 1.0))
	p.flush(true)
	expect(t, "refused", p.refused,
		"3 1 the source has no label job, without which there is no group",
		"1 2 PUT /metrics/job/node/instance/a: 400 Bad Request: this is 400")

	// The next one is tried anew. Numbers begin at 0 again.
	g.answers(200)
	p.refused = nil
	g.takeRequests()
	p.Row("x", wholeRow(a, p.time, "up", 0.0))
	p.flush(true)
	expect(t, "requests", g.takeRequests(), "PUT /metrics/job/node/instance/a # TYPE up gauge\nup 0\n")
	g.answers(404)
	p.Row("x", endRow(a, p.time))
	p.flush(true)
	expect(t, "refused", p.refused, "0 0 DELETE /metrics/job/node/instance/a: 404 Not Found: this is 404")
	if got := testutil.ToFloat64(p.metrics.requests.WithLabelValues("refused")); got != 2 {
		t.Errorf("%v requests count as refused", got)
	}
}

func TestClientTriesAgain(t *testing.T) {
	g := newRecorder(t)
	p := newPushed(t, ClientConfig{URL: g.URL})
	a, b := sourceOf("node", "a"), sourceOf("node", "b")
	g.answers(503)
	p.Row("x", wholeRow(a, p.time, "up", 1.0))
	p.flush(false)
	if err := p.Problem(); err == nil || !strings.Contains(err.Error(), "503 Service Unavailable: this is 503") {
		t.Errorf("the problem is %v", err)
	}
	g.takeRequests()

	// Not before the pause is over, which becomes longer each time.
	var waits []time.Duration
	for range 9 {
		from := p.time
		for len(g.takeRequests()) == 0 {
			p.time = p.time.Add(100 * time.Millisecond)
			p.flush(false)
		}
		waits = append(waits, p.time.Sub(from))
	}
	want := []time.Duration{500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000}
	for i := range want {
		if waits[i] != want[i]*time.Millisecond {
			t.Fatalf("the pauses are %v", waits)
		}
	}

	// What is newer replaces what waits. What nobody takes holds up no other.
	p.Row("x", wholeRow(a, p.time, "up", 0.0))
	p.Row("x", wholeRow(b, p.time, "up", 1.0))
	g.status = func(path string) int {
		if strings.HasSuffix(path, "/a") {
			return http.StatusTooManyRequests
		}
		return http.StatusOK
	}
	p.time = p.time.Add(time.Minute)
	for len(p.waiting) > 1 {
		p.flush(false)
		p.time = p.time.Add(time.Minute)
	}
	if got := g.takeRequests(); !slices.Contains(got, "PUT /metrics/job/node/instance/b # TYPE up gauge\nup 1\n") {
		t.Errorf("requests are %q", got)
	}
	g.answers(200)
	p.flush(true)
	expect(t, "requests", g.takeRequests(), "PUT /metrics/job/node/instance/a # TYPE up gauge\nup 0\n")
	expect(t, "refused", p.refused)
	if err := p.Problem(); err != nil {
		t.Error(err)
	}

	// A server that is not there.
	g.Close()
	p.Row("x", wholeRow(a, p.time, "up", 0.0))
	p.flush(false)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p.time = p.time.Add(time.Minute)
	if done, err := p.Flush(ctx, nil); done || err == nil {
		t.Errorf("a cancelled flush is done: %t, %v", done, err)
	}
	if !strings.Contains(p.log.String(), "push failed and is tried again") || !strings.Contains(p.log.String(), "pushes are taken again") {
		t.Error(p.log.String())
	}
}

func TestClientMaxAge(t *testing.T) {
	g := newRecorder(t)
	p := newPushed(t, ClientConfig{URL: g.URL, MaxAge: model.Duration(20 * time.Second)})
	a := sourceOf("node", "a")
	p.Row("x", wholeRow(a, p.time.Add(-20*time.Second-time.Millisecond), "up", 1.0))
	p.Row("x", wholeRow(sourceOf("node", "b"), p.time.Add(-20*time.Second), "up", 1.0))
	p.flush(true)
	expect(t, "refused", p.refused, "0 1 older than max_age, 20s")
	expect(t, "requests", g.takeRequests(), "PUT /metrics/job/node/instance/b # TYPE up gauge\nup 1\n")

	// It counts when it is pushed, and ends are never too old.
	g.answers(500)
	p.refused = nil
	p.Row("x", wholeRow(a, p.time, "up", 1.0))
	p.flush(false)
	p.time = p.time.Add(time.Minute)
	p.Row("x", endRow(sourceOf("node", "b"), p.time.Add(-time.Hour)))
	g.answers(200)
	g.takeRequests()
	p.flush(true)
	expect(t, "refused", p.refused, "0 1 older than max_age, 20s")
	expect(t, "requests", g.takeRequests(), "DELETE /metrics/job/node/instance/b ")
	if got := testutil.ToFloat64(p.metrics.aged); got != 2 {
		t.Errorf("%v rows count as aged", got)
	}
	if n := strings.Count(p.log.String(), "max_age is less than two intervals"); n != 1 {
		t.Errorf("that max_age is short is said %d times", n)
	}
}

func TestClientSitesInOneGroup(t *testing.T) {
	g := newRecorder(t)
	p := newPushed(t, ClientConfig{URL: g.URL})
	s := sourceOf("node", "localhost")
	for range 2 {
		p.Row("one", wholeRow(s, p.time, "up", 1.0))
		p.flush(true)
		p.Row("two", wholeRow(s, p.time, "up", 2.0))
		p.flush(true)
	}
	if n := strings.Count(p.log.String(), "set publisher_label"); n != 1 || testutil.ToFloat64(p.metrics.overwritten) != 3 {
		t.Errorf("it is said %d times: %s", n, p.log.String())
	}
	g.takeRequests()
	p.Row("one", endRow(s, p.time)) // it is the other's now
	p.flush(true)
	expect(t, "requests", g.takeRequests())
	p.Row("two", endRow(s, p.time))
	p.flush(true)
	expect(t, "requests", g.takeRequests(), "DELETE /metrics/job/node/instance/localhost ")
	if len(p.groups)+len(p.owners) != 0 {
		t.Errorf("%d groups and %d owners are held", len(p.groups), len(p.owners))
	}
}

func TestClientApply(t *testing.T) {
	before, after := newRecorder(t), newRecorder(t)
	p := newPushed(t, ClientConfig{URL: before.URL})
	p.Row("x", wholeRow(sourceOf("node", "a"), p.time, "up", 1.0))
	p.flush(true)
	before.takeRequests()
	bad := ClientConfig{URL: after.URL, HTTP: DefaultClientConfig().HTTP}
	bad.HTTP.TLSConfig.CertFile = "not there"
	if err := p.Apply(bad); err == nil {
		t.Error("a certificate without its key is taken")
	}
	p.flush(true)
	expect(t, "requests", before.takeRequests())

	// The other gateway gets everything at once; a change that is none pushes nothing.
	good := ClientConfig{URL: after.URL, PublisherLabel: true, HTTP: DefaultClientConfig().HTTP}
	for range 2 {
		if err := p.Apply(good); err != nil {
			t.Fatal(err)
		}
		p.flush(true)
	}
	expect(t, "requests", before.takeRequests())
	expect(t, "requests", after.takeRequests(), "PUT /metrics/job/node/instance/a/publisher/x # TYPE up gauge\nup 1\n")
}

func TestClientBoundsItsGroups(t *testing.T) {
	g := newRecorder(t)
	p := newPushed(t, ClientConfig{URL: g.URL})
	for i := range 10 {
		p.time = p.time.Add(time.Second)
		p.Row("x", wholeRow(sourceOf("node", fmt.Sprint(i)), p.time, "up", 1.0))
	}
	p.flush(true)
	p.Row("x", wholeRow(sourceOf("node", "3"), p.time, "up", 1.0))
	if !p.forgetSilent(3) {
		t.Error("nothing is forgotten")
	}
	for i := range 10 {
		if _, held := p.groups[outgoingKey{"x", "node", fmt.Sprint(i)}]; held != (i > 2) {
			t.Errorf("group %d is held: %t", i, held)
		}
	}
	if p.forgetSilent(6); p.forgetSilent(1) {
		t.Error("what waits is forgotten")
	}
	p.flush(true)
	p.time = p.time.Add(outgoingIdle + time.Second)
	p.flush(true)
	if n := len(p.groups); n != 0 {
		t.Errorf("%d groups are held that nothing comes of", n)
	}
	g.takeRequests()
	p.Row("x", endRow(sourceOf("node", "5"), p.time))
	p.flush(true)
	expect(t, "requests", g.takeRequests(), "DELETE /metrics/job/node/instance/5 ")
}

func TestClientPushesAtOnce(t *testing.T) {
	g := newRecorder(t)
	g.gather, g.all = pushesAtOnce, make(chan struct{})
	p := newPushed(t, ClientConfig{URL: g.URL})
	for i := range 50 {
		p.Row("x", wholeRow(sourceOf("node", fmt.Sprint(i)), p.time, "up", 1.0))
	}
	p.flush(true)
	if n := len(g.takeRequests()); n != 50 || g.busiest != pushesAtOnce {
		t.Errorf("%d requests, %d at a time", n, g.busiest)
	}
}

func TestClientConfig(t *testing.T) {
	f := func(want string, c ClientConfig) {
		t.Helper()
		got := "<nil>"
		if err := c.Validate(); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%+v: %s, want %s", c, got, want)
		}
	}
	f("<nil>", ClientConfig{URL: "http://gate:9091/prefix"})
	f("url: is missing", ClientConfig{})
	f("url: is not an http:// or https:// URL", ClientConfig{URL: "gate:9091"})
	f("url: is not an http:// or https:// URL", ClientConfig{URL: "ftp://gate"})
	f("url: has a user in it, who belongs into basic_auth", ClientConfig{URL: "http://user:secret@gate"})
	f(`url: "http://gate/?a=b" has more than a path`, ClientConfig{URL: "http://gate/?a=b"})
	f("max_age: -1s is negative", ClientConfig{URL: "http://gate", MaxAge: model.Duration(-time.Second)})
}

func TestClientMetrics(t *testing.T) {
	p := newPushed(t, ClientConfig{URL: "http://127.0.0.1:1"})
	r := prometheus.NewPedanticRegistry()
	for _, m := range p.metrics.Metrics() {
		r.MustRegister(m)
	}
	p.Row("x", wholeRow(sourceOf("node", "a"), p.time, "up", 1.0))
	p.flush(false)
	want := `# HELP thalweg_pushgateway_requests_total Requests to the Push Gateway, by result: done, refused for good, or failed and tried again.
# TYPE thalweg_pushgateway_requests_total counter
thalweg_pushgateway_requests_total{output="pushgateway",result="done"} 0
thalweg_pushgateway_requests_total{output="pushgateway",result="failed"} 1
thalweg_pushgateway_requests_total{output="pushgateway",result="refused"} 0
# HELP thalweg_pushgateway_waiting_groups Groups whose last row waits to be pushed.
# TYPE thalweg_pushgateway_waiting_groups gauge
thalweg_pushgateway_waiting_groups{output="pushgateway"} 1
`
	if err := testutil.GatherAndCompare(r, strings.NewReader(want), "thalweg_pushgateway_requests_total", "thalweg_pushgateway_waiting_groups"); err != nil {
		t.Error(err)
	}
}
