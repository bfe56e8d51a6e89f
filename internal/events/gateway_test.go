package events

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"

	"github.com/klauspost/compress/zstd"

	"github.com/thalweg/thalweg/internal/series"
)

// page is that of a gateway that does not run.
func (x *opened) page(accept string) (body, contentType string) {
	x.t.Helper()
	x.save() // or it would wait for that
	r := httptest.NewRequest(http.MethodGet, "/gateway/metrics", nil)
	r.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	x.ServeMetrics(w, r)
	if w.Code != http.StatusOK {
		x.t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.String(), w.Header().Get("Content-Type")
}

func withRedis(o *Options) {
	redis := DefaultRedisConfig()
	o.Config.Redis = &redis
}

func TestText(t *testing.T) {
	x := open(t, t.TempDir(), withRedis)
	defer x.crash()
	x.feed(`{"name":"b_total","value":1e15,"labels":{"z":"1","a":"x\"\\\ny"},"help":"B\nis."}`, `{"name":"a","type":"gauge","value":-0.5}`,
		`{"name":"b_total","value":2}`, `{"name":"h","type":"histogram","buckets":[0.1,5],"values":[0.05,3,9],"labels":{"l":"m"}}`,
		`{"name":"s","type":"summary","value":3,"quantiles":[0.9,0.5],"epsilons":[0.01,0.05]}`,
		`{"name":"n","type":"histogram","buckets":"native","value":2}`,
		`{"name":"prom_stream_gateway_processed_metrics_total","value":1000,"labels":{"worker":"0","queueKey":"prom-stream-gateway:metric-queue"}}`,
		`{"name":"prom_stream_gateway_dropped_metrics","type":"gauge"}`)
	body, contentType := x.page("")
	const want = `# HELP prom_stream_gateway_info Event gateway, compatible with prom-stream-gateway: aggregates metrics that are sent as JSON events.
# TYPE prom_stream_gateway_info gauge
prom_stream_gateway_info 1
# HELP prom_stream_gateway_redis_queue_empty_pops_total Waits for events that ended without one.
# TYPE prom_stream_gateway_redis_queue_empty_pops_total counter
prom_stream_gateway_redis_queue_empty_pops_total{queueKey="prom-stream-gateway:metric-queue",worker="0"} 0
prom_stream_gateway_redis_queue_empty_pops_total{queueKey="prom-stream-gateway:metric-queue",worker="1"} 0
# HELP prom_stream_gateway_redis_queue_pending_size Events that wait in the queue, and those that were taken out of it and not read.
# TYPE prom_stream_gateway_redis_queue_pending_size gauge
prom_stream_gateway_redis_queue_pending_size{queueKey="prom-stream-gateway:metric-queue"} 0
# HELP prom_stream_gateway_dropped_metrics_total Events that were not aggregated.
# TYPE prom_stream_gateway_dropped_metrics_total counter
prom_stream_gateway_dropped_metrics_total{queueKey="prom-stream-gateway:metric-queue",worker="0"} 1
prom_stream_gateway_dropped_metrics_total{queueKey="prom-stream-gateway:metric-queue",worker="1"} 1
# HELP prom_stream_gateway_processed_metrics_total Events that were aggregated.
# TYPE prom_stream_gateway_processed_metrics_total counter
prom_stream_gateway_processed_metrics_total{queueKey="prom-stream-gateway:metric-queue",worker="0"} 3
prom_stream_gateway_processed_metrics_total{queueKey="prom-stream-gateway:metric-queue",worker="1"} 3
# HELP b_total B\nis.
# TYPE b_total counter
b_total{a="x\"\\\ny",z="1"} 1e+15
b_total 2
# TYPE a gauge
a -0.5
# TYPE h histogram
h_sum{l="m"} 12.05
h_count{l="m"} 3
h_bucket{l="m",le="0.1"} 1
h_bucket{l="m",le="5"} 2
h_bucket{l="m",le="+Inf"} 3
# TYPE s summary
s_sum 3
s_count 1
s{quantile="0.5"} 3
s{quantile="0.9"} 3
# TYPE n histogram
n_sum 2
n_count 1
n_bucket{le="+Inf"} 1
`
	if body != want || contentType != "text/plain; version=0.0.4; charset=utf-8; escaping=underscores" {
		t.Errorf("%s is\n%s", contentType, body)
	}
}

// seriesOf are all samples of a page as Prometheus reads it.
func seriesOf(t *testing.T, body, contentType string) (lines []string, starts int) {
	t.Helper()
	p, err := textparse.New([]byte(body), contentType, labels.NewSymbolTable(), textparse.ParserOptions{ConvertClassicHistogramsToNHCB: false})
	if err != nil {
		t.Fatal(err)
	}
	for {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			slices.Sort(lines)
			return lines, starts
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, body)
		}
		var ls labels.Labels
		switch entry {
		case textparse.EntrySeries:
			_, at, v := p.Series()
			if at != nil {
				t.Errorf("a sample has the time %d", *at)
			}
			p.Labels(&ls)
			lines = append(lines, fmt.Sprintf("%s %g", ls, v))
		case textparse.EntryHistogram:
			_, _, h, _ := p.Histogram()
			p.Labels(&ls)
			lines = append(lines, fmt.Sprintf("%s %s", ls, h))
		default:
			continue
		}
		if p.StartTimestamp() != 0 {
			starts++
		}
	}
}

func TestFormatsAgree(t *testing.T) {
	x := open(t, t.TempDir(), withRedis)
	defer x.crash()
	x.feed(everyKind...)
	x.feed(`{"name":"e_total","value":3,"exemplar":{"trace_id":"a"}}`, `{"name":"h","type":"histogram","buckets":[1,5],"value":2,"exemplar":{"trace_id":"b"}}`)
	text, textType := x.page("")
	om, omType := x.page("application/openmetrics-text;version=1.0.0")
	proto, protoType := x.page("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited")
	for _, exemplar := range []string{`e_total 3.0 # {trace_id="a"} 3.0 1700000000.0`, `h_bucket{le="5.0"} 2 # {trace_id="b"} 2.0`, "# TYPE c unknown"} {
		if !strings.Contains(om, exemplar) {
			t.Errorf("there is no %s in\n%s", exemplar, om)
		}
	}
	a, _ := seriesOf(t, text, textType)
	b, _ := seriesOf(t, om, omType)
	c, starts := seriesOf(t, proto, protoType)
	b = slices.DeleteFunc(b, func(s string) bool { return strings.Contains(s, "_created") })
	a = slices.DeleteFunc(a, func(s string) bool { return strings.Contains(s, `"n`) })
	b = slices.DeleteFunc(b, func(s string) bool { return strings.Contains(s, `"n`) })
	c = slices.DeleteFunc(c, func(s string) bool { return strings.Contains(s, `"n"`) && strings.Contains(s, "count:") })
	for i := range a { // buckets have other names in text
		a[i] = strings.NewReplacer(`le="1"`, `le="1.0"`, `le="5"`, `le="5.0"`).Replace(a[i])
	}
	slices.Sort(a)
	if !slices.Equal(a, b) {
		t.Errorf("text says\n%s\nOpenMetrics\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"))
	}
	if !slices.Equal(b, c) {
		t.Errorf("OpenMetrics says\n%s\nprotobuf\n%s", strings.Join(b, "\n"), strings.Join(c, "\n"))
	}
	if starts == 0 {
		t.Error("protobuf says of nothing when it began")
	}
	var f dto.MetricFamily
	if err := expfmt.NewDecoder(strings.NewReader(proto), expfmt.NewFormat(expfmt.TypeProtoDelim)).Decode(&f); err != nil || f.GetName() != metaInfo {
		t.Errorf("the first family is %s: %v", f.GetName(), err)
	}
}

// Names that mean the same family to OpenMetrics break no page.
func TestOpenMetricsNames(t *testing.T) {
	x := open(t, t.TempDir(), nil)
	defer x.crash()
	x.feed(`{"name":"foo","value":1}`, `{"name":"foo_total","value":2}`, `{"name":"bar_total","type":"gauge","value":3}`, `{"name":"bar","value":4}`,
		`{"name":"foo_created","type":"gauge","value":5}`, `{"name":"x_info","type":"gauge"}`, `{"name":"_total","value":6}`, `{"name":"ok_total"}`,
		`{"name":"q","type":"summary"}`, `{"name":"q_total","value":7,"exemplar":{"trace":"1"}}`)
	body, contentType := x.page("application/openmetrics-text;version=1.0.0")
	lines, _ := seriesOf(t, body, contentType)
	for _, want := range []string{`{__name__="foo"} 1`, `{__name__="foo_total"} 2`, `{__name__="bar_total"} 3`, `{__name__="bar"} 4`, `{__name__="_total"} 6`, `{__name__="q_total"} 7`} {
		if !slices.Contains(lines, want) {
			t.Errorf("there is no %s in\n%s", want, strings.Join(lines, "\n"))
		}
	}
	heads := map[string]int{}
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, _, _ := strings.Cut(rest, " ")
			if heads[name]++; heads[name] == 2 {
				t.Errorf("family %s is there twice in\n%s", name, body)
			}
		}
	}
	if n := strings.Count(body, "\nfoo_created "); n != 1 || !strings.Contains(body, "\nok_created ") {
		t.Errorf("foo_created is there %d times in\n%s", n, body)
	}
}

func TestNoPageBeforeReplay(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir, withRedis)
	x.state.position.seq = 4
	x.feed(`{"name":"a","value":5}`)
	x.save()
	x.crash()
	x = open(t, dir, withRedis)
	defer x.crash()
	w := httptest.NewRecorder()
	x.ServeMetrics(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("status %d before what was taken is read again", w.Code)
	}
	x.replaying.Store(false)
	x.page("")
}

// A gateway that was stopped as it should be has nothing to read again.
func TestPageAfterStop(t *testing.T) {
	s := startRedis(t)
	c := s.client()
	dir := t.TempDir()
	r := runGateway(t, dir, s.addr(), nil)
	push(t, c, `{"name":"a","value":5}`)
	r.waitFor("a", 5)
	r.stop()
	x := open(t, dir, withRedis)
	defer x.crash()
	if body, _ := x.page(""); !strings.Contains(body, "\na 5\n") {
		t.Errorf("the page is %s", body)
	}
}

func TestRowsGoToTheSink(t *testing.T) {
	rows := make(chan string, 10)
	g := runWith(t, func(o *Options) {
		o.Catalog, o.Interval = series.NewCatalog(), time.Second
		o.Sink = func(r *series.Row) error {
			if !r.Whole() || r.T%1000 != 0 || r.Source.Key != "events" || r.Source.Labels.Get(model.InstanceLabel) != "s" {
				t.Errorf("row %+v of %+v", r, r.Source)
			}
			if len(r.Values) > 0 {
				rows <- fmt.Sprint(r.Schema.Column(0).Labels, r.Values)
			}
			return nil
		}
	})
	if _, err := g.Take(t.Context(), []byte(`{"name":"a","value":5}`)); err != nil {
		t.Fatal(err)
	}
	if got := <-rows; got != `{__name__="a"} [5]` {
		t.Errorf("the row is %s", got)
	}
}

// Another interval holds from the next row on.
func TestRowsAfterReload(t *testing.T) {
	var rows []string
	x := open(t, t.TempDir(), func(o *Options) {
		o.Catalog, o.Interval = series.NewCatalog(), time.Second
		o.Sink = func(r *series.Row) error {
			rows = append(rows, fmt.Sprint(r.T, r.Source.Interval))
			return nil
		}
	})
	defer x.crash()
	x.save() // or rows would wait for that
	now := time.UnixMilli(1_234_567)
	first := x.sample(t.Context(), now)
	x.Reload(x.options.Config, 10*time.Second)
	second := x.sample(t.Context(), first)
	x.sample(t.Context(), second)
	if want := []string{"1234000 1s", "1240000 10s"}; !slices.Equal(rows, want) || first.UnixMilli() != 1_235_000 || second.UnixMilli() != 1_240_000 {
		t.Errorf("rows %v, want %v; next at %d and %d", rows, want, first.UnixMilli(), second.UnixMilli())
	}
}

// Who comes when the gateway has stopped is told at once, and nothing of it counts.
func TestTakeAfterStop(t *testing.T) {
	x := open(t, t.TempDir(), nil)
	defer x.crash()
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := x.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if o, err := x.Take(t.Context(), []byte(`{"name":"a","value":5}`)); !errors.Is(err, errStopped) || !errors.Is(err, errNotDurable) || o.Taken != 0 {
		t.Errorf("%+v, %v", o, err)
	}
	if body, _ := x.page(""); strings.Contains(body, "\na 5\n") {
		t.Errorf("the page is %s", body)
	}
}

// runWith runs a gateway without Redis, with the real clock.
func runWith(t *testing.T, change func(*Options)) *opened {
	x := open(t, t.TempDir(), func(o *Options) {
		o.Now = time.Now
		if change != nil {
			change(o)
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- x.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		x.crash()
	})
	return x
}

func TestHTTP(t *testing.T) {
	x := runWith(t, func(o *Options) { o.Config.CORSOrigins = []string{"https://app"} })
	mux := http.NewServeMux()
	for pattern, h := range x.OwnHandlers() {
		mux.Handle(pattern, h)
	}
	server := httptest.NewServer(mux)
	defer server.Close()
	do := func(method, path string, body []byte, header ...string) (int, string, http.Header) {
		t.Helper()
		r, err := http.NewRequest(method, server.URL+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		a, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		text, err := io.ReadAll(a.Body)
		if err != nil {
			t.Fatal(err)
		}
		return a.StatusCode, strings.TrimSpace(string(text)), a.Header
	}
	post := func(status int, want string, body []byte, header ...string) {
		t.Helper()
		got, text, _ := do(http.MethodPost, "/api/v1/events", body, header...)
		if got != status || text != want {
			t.Errorf("%.60q: %d %s, want %d %s", body, got, text, status, want)
		}
	}
	post(200, `{"taken":1}`, []byte(`{"name":"a","value":1}`))
	post(200, `{"taken":2}`, []byte(`[{"name":"a","value":1},{"name":"b","value":1}]`))
	post(200, `{"taken":2,"dropped":{"name":1}}`, []byte("{\"name\":\"a\",\"value\":1}\n{\"name\":\"b\",\"value\":1}\n{}"))
	post(200, `{"taken":0}`, []byte(`[]`))
	post(200, `{"taken":1}`, []byte(`{"name":"a","value":1,"id":"x"}`))
	post(200, `{"taken":0,"dropped":{"duplicate":1}}`, []byte(`{"name":"a","value":1,"id":"x"}`))
	post(400, `{"taken":0,"dropped":{"malformed":1},"error":"the body is not of JSON events"}`, []byte(`[{"name":"a"},`))
	post(400, `{"taken":0,"dropped":{"value":1},"error":"no event can be taken"}`, []byte(`{"name":"a","value":-1}`))

	event := []byte(`{"name":"a","value":1}`)
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write(event)
	_ = z.Close()
	post(200, `{"taken":1}`, zipped.Bytes(), "Content-Encoding", "gzip")
	post(400, `{"taken":0,"error":"read gzip: gzip: invalid header"}`, event, "Content-Encoding", "gzip")
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	post(200, `{"taken":1}`, encoder.EncodeAll(event, nil), "Content-Encoding", "zstd")
	post(400, `{"taken":0,"error":"content encoding \"br\" is not gzip or zstd"}`, event, "Content-Encoding", "br")
	post(413, `{"taken":0,"error":"the body is more than 16 MiB"}`, bytes.Repeat([]byte(" "), maxBody+1))
	post(413, `{"taken":0,"error":"the body is more than 16 MiB"}`, encoder.EncodeAll(bytes.Repeat([]byte(" "), maxBody+1), nil), "Content-Encoding", "zstd")

	if status, _, h := do(http.MethodOptions, "/api/v1/events", nil, "Origin", "https://app", "Access-Control-Request-Method", "POST"); status != 204 || h.Get("Access-Control-Allow-Origin") != "https://app" {
		t.Errorf("a page of an origin that may: %d %v", status, h)
	}
	if status, _, h := do(http.MethodOptions, "/api/v1/events", nil, "Origin", "https://other", "Access-Control-Request-Method", "POST"); status != 405 || h.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("a page of another origin: %d %v", status, h)
	}
	x.mu.Lock()
	if counted := x.meta.workers[0]; counted != (worker{}) {
		t.Errorf("of the queue, which nothing came from, %+v are counted", counted)
	}
	x.mu.Unlock()
	if status, text, _ := do(http.MethodGet, "/", nil); status != 200 || text != "ok" {
		t.Errorf("/ is %d %s", status, text)
	}
	for _, path := range []string{"/metrics", "/metrics/x", "/gateway/metrics", "/metrics?accept=application/openmetrics-text"} {
		status, text, h := do(http.MethodGet, path, nil)
		if status != 200 || !strings.Contains(text, "\na 6") {
			t.Errorf("%s is %d %s", path, status, text)
		}
		if strings.Contains(path, "accept") && !strings.HasPrefix(h.Get("Content-Type"), "application/openmetrics-text") {
			t.Errorf("%s is %s", path, h.Get("Content-Type"))
		}
	}
}

// Senders that are slow, or stop in the middle, keep nobody else from posting, compressed or not.
func TestSlowPosts(t *testing.T) {
	x := runWith(t, nil)
	server := httptest.NewServer(x.Handlers()["/api/v1/events"])
	defer server.Close()
	for i := range 4 * maxLarge {
		c, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		sent := "["
		if i%2 == 0 {
			sent = strings.Repeat(" ", smallBody+1)
		}
		coding := []string{"identity", "gzip"}[i/2%2]
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\nContent-Encoding: %s\r\n\r\n%s", coding, sent)
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = io.WriteString(z, `{"name":"a","value":1}`)
	_ = z.Close()
	client := http.Client{Timeout: largeTimeout * 2 / 3} // less than slow ones may take
	for coding, body := range map[string]string{"identity": `{"name":"a","value":1}`, "gzip": zipped.String()} {
		q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Content-Encoding", coding)
		a, err := client.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		if a.StatusCode != http.StatusOK {
			t.Errorf("a post (%s) is answered with %s", coding, a.Status)
		}
	}
	server.CloseClientConnections()
}

func TestConfig(t *testing.T) {
	f := func(want string, change func(*Config)) {
		t.Helper()
		c := DefaultConfig()
		redis := DefaultRedisConfig()
		c.Redis = &redis
		change(&c)
		if got := fmt.Sprint(c.Validate()); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	f("<nil>", func(*Config) {})
	f("limits.series: 0 is not positive", func(c *Config) { c.Limits.Series = 0 })
	f("limits.event_bytes: 1GiB is more than 64MiB", func(c *Config) { c.Limits.EventBytes = 1 << 30 })
	f("redis.dead_letter_key: is the key of the queue, where what cannot be taken would come again without end", func(c *Config) { c.Redis.DeadLetterKey = c.Redis.Key })
	f("ttl: 10ms is neither 0s nor at least 1s", func(c *Config) { c.TTL = model.Duration(10 * time.Millisecond) })
	f(`listen_address: "9091" is not HOST:PORT`, func(c *Config) { c.ListenAddress = "9091" })
	f("relabel_configs[0]: empty rule", func(c *Config) { c.RelabelConfigs = append(c.RelabelConfigs, nil) })
	f("redis.key: is empty", func(c *Config) { c.Redis.Key = "" })
	f("redis.workers: 0 is not between 1 and 64", func(c *Config) { c.Redis.Workers = 0 })
	f("redis.address: option servicename of StackExchange.Redis is not there", func(c *Config) { c.Redis.Address = "a,serviceName=x" })
	f("redis.password_file: password says it already; remove one", func(c *Config) { c.Redis.Password, c.Redis.PasswordFile = "a", "b" })
}

// A page with what was posted is whole only when that is durable.
func TestPageOfPosts(t *testing.T) {
	x := open(t, t.TempDir(), nil)
	x.save()
	scrape := func() (whole <-chan bool) {
		result := make(chan bool, 1)
		go func() {
			defer func() { result <- recover() == nil }()
			x.ServeMetrics(httptest.NewRecorder(), httptest.NewRequest("GET", "/metrics", nil))
		}()
		return result
	}
	post := func() {
		taken := make(chan error, 1)
		go func() {
			_, err := x.Take(t.Context(), []byte(`{"name":"a","value":1}`))
			taken <- err
		}()
		until(t, func() string {
			x.mu.Lock()
			defer x.mu.Unlock()
			if !x.pending.waited {
				return "nobody waits"
			}
			return ""
		})
	}
	if !<-scrape() {
		t.Error("a page without posts is broken off")
	}
	post()
	whole := scrape()
	x.save()
	if !<-whole {
		t.Error("a page is broken off though all of it is durable")
	}
	post()
	x.mu.Lock()
	lost := x.pending
	x.mu.Unlock()
	whole = scrape()
	lost.err = errNotDurable
	close(lost.done)
	if <-whole {
		t.Error("a page is whole though a crash could take it back")
	}
	x.mu.Lock()
	x.pending = newCommit()
	x.mu.Unlock()
	x.crash()
}

// A page with what came out of the queue is whole only when that is durable, too; but not as long as nothing can be written.
func TestPageOfQueue(t *testing.T) {
	x := open(t, t.TempDir(), nil)
	defer x.crash()
	x.save()
	x.feed(`{"name":"a","value":1}`)
	whole := make(chan bool, 1)
	go func() {
		defer func() { whole <- recover() == nil }()
		x.ServeMetrics(httptest.NewRecorder(), httptest.NewRequest("GET", "/metrics", nil))
	}()
	until(t, func() string {
		x.mu.Lock()
		defer x.mu.Unlock()
		if !x.pending.waited {
			return "the page does not wait"
		}
		return ""
	})
	x.save()
	if !<-whole {
		t.Error("a page with what is durable has no end")
	}
	x.feed(`{"name":"a","value":1}`)
	x.mu.Lock()
	x.failing = errNotDurable
	x.mu.Unlock()
	w := httptest.NewRecorder()
	x.ServeMetrics(w, httptest.NewRequest("GET", "/metrics", nil))
	if got := pageValue(t, w, "a"); got != 2 {
		t.Errorf("while nothing can be written the page has %g", got)
	}
}

// The time in which events cannot come does not count for the life of a series.
func TestTTLStandsStill(t *testing.T) {
	x := open(t, t.TempDir(), func(o *Options) { o.Config.TTL = model.Duration(10 * time.Second) })
	defer x.crash()
	f := func(trouble string, seconds int, want string) {
		t.Helper()
		x.setSource(trouble)
		x.expire(x.now)
		x.now = x.now.Add(time.Duration(seconds) * time.Second)
		x.expire(x.now)
		if got := x.dump(); got != want {
			t.Errorf("there is %q, want %q", got, want)
		}
	}
	x.feed(`{"name":"a","value":1}`)
	f("", 6, "a 1")
	f("Redis is down", 60, "a 1")
	x.feed(`{"name":"b","value":1}`) // posted
	f("Redis is down", 60, "a 1\nb 1")
	f("", 3, "a 1\nb 1")
	f("", 2, "b 1")
	f("", 6, "")
}
