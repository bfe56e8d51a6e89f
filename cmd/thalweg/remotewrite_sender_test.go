package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/model/value"
)

// senderTargets are what the sender cases of the public compliance suite (prometheus/compliance, remotewrite/sender) have
// scraped, by the names of its cases where one stands for several: what arrives has to be all of it, and nothing else.
var senderTargets = map[string]string{
	"values":          "test_metric 123.45\ntest_counter_total 42\ntest_gauge 0\nneg -15.5\nplus +Inf\nminus -Inf\nnan NaN\nhuge 1.7976931348623157e+308\ntiny 2.2250738585072014e-308\nscientific 1.23e-4\nprecision 0.123456789012345\n",
	"special_floats":  "special_values{type=\"nan\"} NaN\nspecial_values{type=\"inf\"} +Inf\nspecial_values{type=\"ninf\"} -Inf\nspecial_values{type=\"zero\"} -0\nspecial_values{type=\"negative\"} -123.45\n",
	"label_order":     "test_metric{zzz=\"3\",aaa=\"1\",bbb=\"2\"} 42\n",
	"label_names":     "test_metric{valid_label=\"value\",another_1=\"val2\"} 42\nvalid_metric_name:subsystem_total 42\nhttp:request:duration:seconds 0.5\n",
	"label_empty":     "test_metric{empty=\"\"} 42\n",
	"label_long":      "test_metric{very_long_label_name_that_exceeds_normal_length_but_is_still_valid=\"" + strings.Repeat("x", 10_000) + "\"} 42\nmetric_" + strings.Repeat("very_long_name_", 50) + " 42\n",
	"label_many":      "test_metric{l1=\"v1\",l2=\"v2\",l3=\"v3\",l4=\"v4\",l5=\"v5\",l6=\"v6\",l7=\"v7\",l8=\"v8\",l9=\"v9\",l10=\"v10\"} 42\n",
	"unicode":         "test_metric{emoji=\"🚀\",chinese=\"测试\",arabic=\"مرحبا\",vietnamese=\"tôi yêu việt nam\"} 42\n",
	"special_chars":   "test_metric{path=\"/api/v1/users\",query=\"foo=bar&baz=qux\",quote=\"\\\"\\\\\\n\"} 42\n",
	"symbols":         "test_metric{foo=\"bar\",baz=\"qux\"} 1\nanother_metric{foo=\"bar\",bar=\"foo\"} 3\nfoo{test_metric=\"foo\"} 4\n",
	"empty_scrape":    "# No metrics\n",
	"no_metadata":     "requests_total 100\n",
	"help_only":       "# HELP lonely Some words.\nlonely 1\n",
	"counter":         "# HELP http_requests_total The total number of HTTP requests\n# TYPE http_requests_total counter\nhttp_requests_total{method=\"GET\"} 100\nhttp_requests_total{method=\"POST\"} 50\n",
	"gauge":           "# HELP memory_usage_bytes Memory \"usage\" and \\\\backslashes\\n in two lines\n# TYPE memory_usage_bytes gauge\nmemory_usage_bytes 1048576\n",
	"histogram":       "# HELP request_duration_seconds Request duration\n# TYPE request_duration_seconds histogram\nrequest_duration_seconds_bucket{le=\"0.1\"} 50\nrequest_duration_seconds_bucket{le=\"+Inf\"} 9007199254740992\nrequest_duration_seconds_sum 50.5\nrequest_duration_seconds_count 9007199254740992\n",
	"histogram_empty": "# TYPE none histogram\nnone_bucket{le=\"1.0\"} 0\nnone_bucket{le=\"+Inf\"} 0\nnone_sum 0\nnone_count 0\n",
	"summary":         "# HELP rpc_duration_seconds RPC duration\n# TYPE rpc_duration_seconds summary\nrpc_duration_seconds{quantile=\"0.5\"} 0.05\nrpc_duration_seconds{quantile=\"0.9\"} 0.1\nrpc_duration_seconds_sum 100\nrpc_duration_seconds_count 1000\n",
	"om_unit":         "# HELP size_bytes Size.\n# TYPE size_bytes gauge\n# UNIT size_bytes bytes\nsize_bytes 1\n# EOF\n",
	"om_exemplars": "# TYPE http_requests counter\nhttp_requests_total 1000 # {trace_id=\"abc123\",span_id=\"def456\"} 999 1234567890.5\n" +
		"# TYPE duration_seconds histogram\nduration_seconds_bucket{le=\"0.1\"} 10 # {user_id=\"u1\"} 0.05 1234567890\nduration_seconds_bucket{le=\"0.5\"} 50 # {request_id=\"r2\"} 0.3 1234567891.123\nduration_seconds_bucket{le=\"+Inf\"} 100\nduration_seconds_sum 50\nduration_seconds_count 100\n# EOF\n",
	"om_start":    "# TYPE started counter\nstarted_total 17\nstarted_created 1700000000.5\n# EOF\n",
	"many_series": manySeries(3000),
}

func manySeries(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "many{label=\"%d\",path=\"/api/v1/%d\"} %d\n", i, i%10, i)
	}
	return b.String()
}

// senderReceivers are receivers that are not content, and what has to come of it. Each gets the series of one target,
// whose counter says how often it was scraped.
var senderReceivers = map[string]struct {
	message string
	answer  func(n int, r *writeRequest, w http.ResponseWriter)
	check   func(c *senderCase) error
}{
	"retry_500":    {v2Message, failing(3, http.StatusInternalServerError), retried(3)},
	"retry_502":    {v2Message, failing(1, http.StatusBadGateway), retried(1)},
	"retry_503":    {v2Message, failing(4, http.StatusServiceUnavailable), retried(4)},
	"retry_504":    {v1Message, failing(1, http.StatusGatewayTimeout), retried(1)},
	"retry_429":    {v2Message, failing(2, http.StatusTooManyRequests), retried(2)},
	"cut":          {v2Message, func(n int, r *writeRequest, w http.ResponseWriter) { cutFirst(n, r, w) }, retried(1)},
	"no_retry_400": {v2Message, failing(3, http.StatusBadRequest), notRetried(3)},
	"no_retry_401": {v1Message, failing(3, http.StatusUnauthorized), notRetried(3)},
	"no_retry_404": {v2Message, failing(3, http.StatusNotFound), notRetried(3)},
	"no_retry_413": {v1Message, failing(3, http.StatusRequestEntityTooLarge), notRetried(3)},
	"large_error": {v1Message, func(n int, r *writeRequest, w http.ResponseWriter) {
		if n == 0 {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write(bytes.Repeat([]byte("details; "), 1<<17))
			return
		}
		takeWrite(r, w)
	}, notRetried(1)},
	"partial_write": {v2Message, func(n int, r *writeRequest, w http.ResponseWriter) {
		h := w.Header()
		h.Set("X-Prometheus-Remote-Write-Samples-Written", "1")
		h.Set("X-Prometheus-Remote-Write-Histograms-Written", "0")
		h.Set("X-Prometheus-Remote-Write-Exemplars-Written", "0")
		http.Error(w, "Rejected some samples", http.StatusBadRequest)
	}, notRetried(3)},
	"fallback_415": {v2Message, func(n int, r *writeRequest, w http.ResponseWriter) {
		if n == 0 {
			http.Error(w, "RW 2.0 not supported, please use RW 1.0", http.StatusUnsupportedMediaType)
			return
		}
		takeWrite(r, w)
	}, fellBack},
	"empty_response": {v2Message, func(_ int, _ *writeRequest, w http.ResponseWriter) { w.WriteHeader(http.StatusOK) }, fellBack},
	"body_on_success": {v2Message, func(_ int, r *writeRequest, w http.ResponseWriter) {
		writtenHeaders(r, w)
		_, _ = w.Write([]byte("This body should be ignored"))
	}, func(c *senderCase) error { return c.inOrderOnce(0) }},
	"no_fallback": {v2Message, func(_ int, r *writeRequest, w http.ResponseWriter) { takeWrite(r, w) }, func(c *senderCase) error {
		for i, r := range c.requests {
			if r.v2 == nil {
				return fmt.Errorf("request %d is not one of 2.0", i)
			}
		}
		return c.inOrderOnce(0)
	}},
}

const (
	v1Message = "prometheus.WriteRequest"
	v2Message = "io.prometheus.write.v2.Request"
	// wantTicks is how many scrapes a receiver has to get before it is judged, and wantRequests in how many requests: more
	// than any of them refuses.
	wantTicks, wantRequests = 6, 8
)

// failing refuses the first requests.
func failing(first, code int) func(int, *writeRequest, http.ResponseWriter) {
	return func(n int, r *writeRequest, w http.ResponseWriter) {
		if n < first {
			w.Header().Set("Retry-After", "0")
			http.Error(w, fmt.Sprintf("the words of %d", code), code)
			return
		}
		takeWrite(r, w)
	}
}

func cutFirst(n int, r *writeRequest, w http.ResponseWriter) {
	if n == 0 {
		panic(http.ErrAbortHandler)
	}
	takeWrite(r, w)
}

// retried expects the first request to come again until it is taken, the same to the bit, and then the rest.
func retried(times int) func(*senderCase) error {
	return func(c *senderCase) error {
		for i, r := range c.requests[:times+1] {
			want := strconv.Itoa(i)
			if i == 0 {
				want = ""
			}
			if !bytes.Equal(r.body, c.requests[0].body) || r.header.Get("Retry-Attempt") != want {
				return fmt.Errorf("request %d is not the first one, or Retry-Attempt is %q", i, r.header.Get("Retry-Attempt"))
			}
		}
		return c.inOrderOnce(times)
	}
}

// notRetried expects no request to come again, and those after it to come.
func notRetried(refused int) func(*senderCase) error {
	return func(c *senderCase) error {
		seen := map[string]bool{}
		for i, r := range c.requests {
			if seen[string(r.body)] || r.header.Get("Retry-Attempt") != "" {
				return fmt.Errorf("request %d was sent before", i)
			}
			seen[string(r.body)] = true
		}
		if len(c.requests) <= refused {
			return errors.New("nothing came after what was refused")
		}
		return nil
	}
}

// fellBack expects the samples of the request of 2.0 to come again as one of 1.0, and nothing but 1.0 from then on.
func fellBack(c *senderCase) error {
	for i, r := range c.requests {
		if (i == 0) != (r.v2 != nil) {
			return fmt.Errorf("request %d: Content-Type %s", i, r.header.Get("Content-Type"))
		}
	}
	if first, second := c.requests[0].shown(), c.requests[1].shown(); first != second {
		return fmt.Errorf("2.0 had %s, 1.0 has %s", first, second)
	}
	return c.inOrderOnce(1)
}

// senderCase is a receiver with what it got.
type senderCase struct {
	requests []*writeRequest
}

// ticks are the values of the counter in the order in which they came, without the first requests.
func (c *senderCase) ticks(skip int) (ticks []int) {
	for _, r := range c.requests[min(skip, len(c.requests)):] {
		for _, s := range r.samples() {
			if strings.Contains(s.labels, "ticks_total") && !value.IsStaleNaN(s.value) {
				ticks = append(ticks, int(s.value))
			}
		}
	}
	return ticks
}

// judgeable reports whether enough came.
func (c *senderCase) judgeable() bool {
	distinct := map[int]bool{}
	for _, tick := range c.ticks(0) {
		distinct[tick] = true
	}
	return len(distinct) >= wantTicks && len(c.requests) >= wantRequests
}

// inOrderOnce expects every scrape once, in order, but for those that failed, as they may on a busy machine.
func (c *senderCase) inOrderOnce(skip int) error {
	ticks, holes, failed := c.ticks(skip), 0, 0
	for i := 1; i < len(ticks); i++ {
		if ticks[i] <= ticks[i-1] {
			return fmt.Errorf("scrapes came as %v", ticks)
		}
		holes += ticks[i] - ticks[i-1] - 1
	}
	for _, r := range c.requests {
		for _, s := range r.samples() {
			if s.parsed.Get("__name__") == "up" && s.parsed.Get("job") == "counting" && s.value == 0 {
				failed++
			}
		}
	}
	if holes > failed {
		return fmt.Errorf("%d scrapes failed, and they came as %v", failed, ticks)
	}
	return nil
}

// TestRemoteWriteSender holds the program against the public compliance suite's facts about senders: an edge scrapes, the
// hub of the same process sends to receivers of the test.
func TestRemoteWriteSender(t *testing.T) {
	targets := &counterTarget{}
	target := httptest.NewServer(targets)
	defer target.Close()
	receivers := &writeReceivers{t: t, cases: map[string]*senderCase{}}
	receiver := httptest.NewServer(receivers)
	defer receiver.Close()

	var config strings.Builder
	fmt.Fprintf(&config, "site: ams-1\nnats: {embedded: {listen: '127.0.0.1:0'}}\nglobal: {scrape_interval: 1s, scrape_timeout: 1s}\nhub:\n  remote_write:\n")
	element := func(name, url, message, keep string) {
		fmt.Fprintf(&config, "    - {name: %s, url: '%s', protobuf_message: %s, send_exemplars: true, queue_config: {min_backoff: 20ms}, metadata_config: {send_interval: 1s}", name, url, message)
		if keep != "" {
			fmt.Fprintf(&config, ", write_relabel_configs: [{source_labels: [__name__, job], regex: '%s', action: keep}]", keep)
		}
		config.WriteString("}\n")
	}
	const counter = "(ticks_total|up);counting"
	element("everything_1", receiver.URL+"/everything_1", v1Message, "")
	element("everything_2", receiver.URL+"/everything_2", v2Message, "")
	element("nobody", "http://127.0.0.1:1/write", v2Message, counter)
	element("unknown", "http://nonexistent.invalid:9999/api/v1/write", v1Message, counter)
	for _, name := range slices.Sorted(maps.Keys(senderReceivers)) {
		element(name, receiver.URL+"/"+name, senderReceivers[name].message, counter)
	}
	config.WriteString("edge:\n  self: false\n  flush_interval: 100ms\n  scrape_configs:\n")
	job := func(name string) {
		fmt.Fprintf(&config, "    - {job_name: %s, metrics_path: /%s, scrape_protocols: [OpenMetricsText1.0.0, PrometheusText0.0.4], static_configs: [{targets: ['%s']}]}\n",
			name, name, target.Listener.Addr())
	}
	job("counting")
	job("vanishing")
	for _, name := range slices.Sorted(maps.Keys(senderTargets)) {
		job(name)
	}
	log := runProgram(t, config.String())

	for _, name := range slices.Sorted(maps.Keys(senderReceivers)) {
		t.Run(name, func(t *testing.T) {
			c := receivers.await(t, name, (*senderCase).judgeable)
			if err := senderReceivers[name].check(c); err != nil {
				t.Error(err)
			}
		})
	}
	for _, name := range []string{"everything_1", "everything_2"} {
		t.Run(name, func(t *testing.T) {
			c := receivers.await(t, name, func(c *senderCase) bool {
				return c.judgeable() && slices.ContainsFunc(c.requests, func(r *writeRequest) bool {
					return slices.ContainsFunc(r.samples(), func(s wireSample) bool { return value.IsStaleNaN(s.value) })
				}) && (name == "everything_2" || len(c.metadata()) > 0)
			})
			if err := c.inOrderOnce(0); err != nil {
				t.Error(err)
			}
			checkEverything(t, c, target.Listener.Addr())
		})
	}
	t.Run("log_error_messages_verbatim", func(t *testing.T) {
		eventuallyTrue(t, func() bool {
			b, err := os.ReadFile(log)
			return err == nil && bytes.Contains(b, []byte("the words of 400")) && bytes.Contains(b, []byte("the words of 404"))
		})
	})
}

// checkEverything compares what came with what the targets say.
func checkEverything(t *testing.T, c *senderCase, instance net.Addr) {
	got := map[string]map[string]uint64{} // job, series
	markers, failures := map[string]int{}, 0
	exemplars, metadata := map[string]bool{}, map[string]string{} // by job and name
	for _, r := range c.requests {
		for _, s := range r.samples() {
			ls := s.parsed
			name := ls.Get("__name__")
			if name == "up" || strings.HasPrefix(name, "scrape_") {
				if name == "up" && s.value == 0 {
					failures++
				}
				continue
			}
			job := ls.Get("job")
			if ls.Get("instance") != instance.String() || ls.Get("site") != "ams-1" {
				t.Fatalf("series %s", ls)
			}
			if age := time.Since(time.UnixMilli(s.t)); age < -time.Minute || age > 5*time.Minute {
				t.Errorf("series %s has a sample of %s ago", ls, age)
			}
			key := labels.NewBuilder(ls).Del("job", "instance", "site").Labels().String()
			if math.Float64bits(s.value) == value.StaleNaN {
				markers[job+key]++
				continue
			}
			if got[job] == nil {
				got[job] = map[string]uint64{}
			}
			got[job][key] = math.Float64bits(s.value)
			for _, x := range s.exemplars {
				exemplars[fmt.Sprint(job, " ", key, " ", x.Labels, x.Value, x.Ts)] = true
			}
			if r.v2 != nil {
				want, known := metadata[job+" "+name]
				if !known {
					want = metadataOf(senderTargets[job], name)
					metadata[job+" "+name] = want
				}
				if job != "counting" && job != "vanishing" && s.metadata != want {
					t.Errorf("job %s: metadata of %s: %q, want %q", job, key, s.metadata, want)
				}
			}
		}
	}
	for job, text := range senderTargets {
		want, wantExemplars := seriesOf(t, text)
		if !maps.Equal(got[job], want) && len(got[job])+len(want) > 0 {
			t.Errorf("job %s: got %d series, want %d: %.1000v\nwant %.1000v", job, len(got[job]), len(want), got[job], want)
		}
		for _, x := range wantExemplars {
			if !exemplars[job+" "+x] {
				t.Errorf("job %s: exemplar %s did not come", job, x)
			}
		}
	}
	if markers[`vanishing{__name__="here", a="b"}`] == 0 || failures == 0 && len(markers) > 1 {
		t.Errorf("%d scrapes failed, stale markers %v", failures, markers)
	}
	if c.requests[0].v2 == nil {
		if m := c.metadata(); m["http_requests_total"] != "COUNTER|The total number of HTTP requests|" || m["rpc_duration_seconds"] != "SUMMARY|RPC duration|" {
			t.Errorf("metadata %v", m)
		}
	}
}

// seriesOf returns the series of an exposition with the bits of their values, and its exemplars.
func seriesOf(t *testing.T, text string) (map[string]uint64, []string) {
	all, exemplars := map[string]uint64{}, []string(nil)
	st := labels.NewSymbolTable()
	var p textparse.Parser = textparse.NewPromParser([]byte(text), st, false)
	if strings.HasSuffix(text, "# EOF\n") {
		p = textparse.NewOpenMetricsParser([]byte(text), st)
	}
	for {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			return all, exemplars
		}
		if err != nil {
			t.Fatal(err)
		}
		if entry != textparse.EntrySeries {
			continue
		}
		var ls labels.Labels
		p.Labels(&ls)
		ls = labels.NewBuilder(ls).Labels() // without empty ones
		_, _, v := p.Series()
		all[ls.String()] = math.Float64bits(v)
		var x exemplar.Exemplar
		if p.Exemplar(&x) {
			exemplars = append(exemplars, fmt.Sprint(ls.String(), " ", x.Labels, x.Value, x.Ts))
		}
	}
}

// metadataOf returns what an exposition says about a series: TYPE|help|unit, as in 2.0.
func metadataOf(text, name string) string {
	typ, help, unit := "UNSPECIFIED", "", ""
	family := name
	for _, suffix := range []string{"_bucket", "_sum", "_count", "_total"} {
		if f := strings.TrimSuffix(name, suffix); strings.Contains(text, " "+f+" histogram\n") || strings.Contains(text, " "+f+" summary\n") || strings.HasSuffix(text, "# EOF\n") {
			if strings.Contains(text, "# TYPE "+f+" ") {
				family = f
			}
		}
	}
	for line := range strings.Lines(text) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(f) < 4 || f[0] != "#" || f[2] != family {
			continue
		}
		switch f[1] {
		case "TYPE":
			typ = strings.ToUpper(f[3])
		case "HELP":
			help = strings.NewReplacer(`\\`, `\`, `\n`, "\n").Replace(f[3])
		case "UNIT":
			unit = f[3]
		}
	}
	return typ + "|" + help + "|" + unit
}

// counterTarget serves senderTargets, a counter, and a series that is there at first.
type counterTarget struct {
	mu       sync.Mutex
	ticks    int
	vanished int
}

// ServeHTTP serves the target of that path.
func (c *counterTarget) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/")
	text := senderTargets[name]
	c.mu.Lock()
	defer c.mu.Unlock()
	switch name {
	case "counting":
		c.ticks++
		text = fmt.Sprintf("# TYPE ticks_total counter\nticks_total %d\n", c.ticks)
	case "vanishing":
		if c.vanished++; c.vanished <= 3 {
			text = "here{a=\"b\"} 1\n"
		}
	}
	contentType := "text/plain; version=0.0.4"
	if strings.HasSuffix(text, "# EOF\n") {
		contentType = "application/openmetrics-text; version=1.0.0; charset=utf-8"
	}
	w.Header().Set("Content-Type", contentType)
	_, _ = io.WriteString(w, text)
}

// runProgram runs the program with a configuration until the test ends. It returns the file of its log.
func runProgram(t *testing.T, config string) (log string) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "thalweg.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	log = filepath.Join(dir, "log")
	out, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command("thalweg", "run", "--config.file="+file, "--web.listen-address=127.0.0.1:0")
	cmd.Dir, cmd.Stderr = dir, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		err := cmd.Wait()
		if b, _ := os.ReadFile(log); err != nil || t.Failed() {
			t.Logf("the program: %v\n%s", err, b[max(0, len(b)-8000):])
		}
		if err != nil {
			t.Errorf("the program exited with %v", err)
		}
	})
	return log
}

// eventuallyTrue waits until a condition holds.
func eventuallyTrue(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %s", patience)
		}
	}
}
