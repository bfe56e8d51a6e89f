package push

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"google.golang.org/protobuf/proto"
)

// contractCase is a request that a Pushgateway 1.11.3 answers with code.
type contractCase struct {
	name string
	request
	code int
	says string // in the answer
	// debian is the code of Debian's Pushgateway 1.5.1 where it is another one; -1 if what it keeps differs. why says why.
	debian int
	why    string
}

const protobufType = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"

func delimitedBody(families ...*dto.MetricFamily) string {
	var b bytes.Buffer
	e := expfmt.NewEncoder(&b, expfmt.NewFormat(expfmt.TypeProtoDelim).WithEscapingScheme(model.NoEscaping))
	for _, f := range families {
		if err := e.Encode(f); err != nil {
			panic(err)
		}
	}
	return b.String()
}

func gauge(name string, v float64) *dto.MetricFamily {
	return &dto.MetricFamily{Name: &name, Type: dto.MetricType_GAUGE.Enum(), Metric: []*dto.Metric{{Gauge: &dto.Gauge{Value: &v}}}}
}

func native(name string) *dto.MetricFamily {
	return &dto.MetricFamily{Name: &name, Type: dto.MetricType_HISTOGRAM.Enum(), Metric: []*dto.Metric{{Histogram: &dto.Histogram{
		SampleCount: proto.Uint64(6), SampleSum: proto.Float64(7.5), Schema: proto.Int32(0), ZeroThreshold: proto.Float64(0.001),
		ZeroCount: proto.Uint64(1), PositiveSpan: []*dto.BucketSpan{{Offset: proto.Int32(0), Length: proto.Uint32(2)}},
		PositiveDelta: []int64{2, 1}, NegativeSpan: []*dto.BucketSpan{}, NegativeDelta: []int64{},
	}}}}
}

func compressed(coding, body string) string {
	var b bytes.Buffer
	if coding == "gzip" {
		w := gzip.NewWriter(&b)
		fmt.Fprint(w, body)
		w.Close()
	} else {
		w := snappy.NewBufferedWriter(&b)
		fmt.Fprint(w, body)
		w.Close()
	}
	return b.String()
}

func contract() []contractCase {
	put := func(path, body string) request { return request{method: "PUT", path: path, body: body} }
	post := func(path, body string) request { return request{method: "POST", path: path, body: body} }
	get := func(path string) request { return request{method: "GET", path: path} }
	with := func(r request, name, value string) request {
		r.header = http.Header{name: {value}}
		return r
	}
	const x = "/metrics/job/x"
	return []contractCase{
		// 2.1 routes
		{name: "put", request: put(x, "a 1\n"), code: 200},
		{name: "post", request: post(x, "a 1\n"), code: 200},
		{name: "delete what is not there", request: request{method: "DELETE", path: x}, code: 202},
		{name: "delete with a bad path", request: request{method: "DELETE", path: x + "/a"}, code: 400, says: "odd number of components"},
		{name: "get a group", request: get(x), code: 405},
		{name: "head of a group", request: request{method: "HEAD", path: x}, code: 405},
		{name: "post to all", request: post("/metrics", "a 1\n"), code: 405},
		{name: "head of all", request: request{method: "HEAD", path: "/metrics"}, code: 405},
		{name: "no job", request: post("/metrics/job", "a 1\n"), code: 404},
		{name: "no job, slash", request: post("/metrics/job/", "a 1\n"), code: 307},
		{name: "wipe off", request: put("/api/v1/admin/wipe", ""), code: 404, debian: -1, why: "the tests need it on"},
		{name: "options of the API", request: request{method: "OPTIONS", path: "/api/v1/metrics"}, code: 200},
		{name: "post to the API", request: post("/api/v1/metrics", ""), code: 405},

		// 2.2 paths
		{name: "trailing slash", request: put(x+"/", "a 1\n"), code: 200},
		{name: "trailing slash behind a label", request: put(x+"/a/b/", "a 1\n"), code: 400, says: "odd number of components"},
		{name: "empty plain value", request: put(x+"//x", "a 1\n"), code: 307, debian: 301, why: "net/http of Go 1.19 says 301"},
		{name: "odd number", request: put(x+"/a", "a 1\n"), code: 400, says: "odd number of components"},
		{name: "dash in a name", request: put(x+"/a-b/c", "a 1\n"), code: 400, says: "improper label name"},
		{name: "reserved name", request: put(x+"/__a/c", "a 1\n"), code: 400, says: "improper label name"},
		{name: "job twice", request: put("/metrics/job/jA/job/jB", "a 1\n"), code: 200},
		{name: "base64", request: put("/metrics/job@base64/YS9i/p@base64/L3Zhci90bXA", "a 1\n"), code: 200},
		{name: "base64 padded", request: put("/metrics/job@base64/YQ==/p@base64/L3Zhci90bXA=", "a 1\n"), code: 200},
		{name: "base64 empty value", request: put(x+"/p@base64/=", "a 1\n"), code: 200},
		{name: "base64 empty job", request: put("/metrics/job@base64/=", "a 1\n"), code: 400, says: "job name is required"},
		{name: "base64 of the other alphabet", request: put(x+"/p@base64/+w", "a 1\n"), code: 400, says: "invalid base64"},
		{name: "base64 with a slash", request: put(x+"/p@base64/a%2Fw", "a 1\n"), code: 400},
		{name: "job in bad base64", request: put("/metrics/job@base64/+w", "a 1\n"), code: 400, says: "invalid base64"},
		{name: "encoded slash", request: put(x+"/p/a%2Fb", "a 1\n"), code: 400, says: "odd number of components"},
		{name: "encoded space", request: put(x+"/p/a%20b", "a 1\n"), code: 200},
		{name: "plus", request: put(x+"/p/a+b", "a 1\n"), code: 200},
		{name: "value encoding of a name", request: put(x+"/U__foo_2e_bar/v", "a 1\n"), code: 200},
		{name: "label of a series in the path", request: put(x+"/instance/i", "a{instance=\"own\",b=\"c\"} 1\n"), code: 200},

		// 2.3 bodies
		{name: "protobuf", request: with(put(x, delimitedBody(gauge("a", 1), gauge("b", 2))), "Content-Type", protobufType), code: 200},
		{name: "protobuf, family twice", request: with(put(x, delimitedBody(gauge("a", 1), gauge("a", 2))), "Content-Type", protobufType), code: 200},
		{name: "protobuf cut short", request: with(put(x, delimitedBody(gauge("a", 1))[:5]), "Content-Type", protobufType), code: 400},
		{name: "protobuf of another encoding", request: with(put(x, delimitedBody(gauge("a", 1))), "Content-Type", strings.Replace(protobufType, "delimited", "text", 1)), code: 400},
		{name: "native histogram", request: with(put(x, delimitedBody(native("n"))), "Content-Type", protobufType), code: 200, debian: -1, why: "it knows no native histograms"},
		{name: "text", request: put(x, "# HELP a is a\n# TYPE a counter\na{b=\"c\"} 1\na 2\n# TYPE g gauge\ng -Inf\n"), code: 200},
		{name: "histogram without the last bucket", request: put(x, "# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_sum 3\nh_count 4\n"), code: 200},
		{name: "summary", request: put(x, "# TYPE s summary\ns{quantile=\"0.5\"} 1\ns_sum 3\ns_count 4\n"), code: 200},
		{name: "negative counter", request: put(x, "# TYPE c counter\nc -5\n"), code: 200},
		{name: "NaN and infinities", request: put(x, "a NaN\nb +Inf\nc -Inf\n"), code: 200},
		{name: "no final LF", request: put(x, "a 1"), code: 400},
		{name: "CRLF", request: put(x, "a 1\r\n"), code: 400},
		{name: "exemplar", request: put(x, "a 1 # {trace=\"b\"} 2\n"), code: 400},
		{name: "OpenMetrics", request: with(put(x, "# TYPE a counter\na_total 1\n# EOF\n"), "Content-Type", "application/openmetrics-text; version=1.0.0"), code: 200},
		{name: "gzip", request: with(put(x, compressed("gzip", "a 1\n")), "Content-Encoding", "gzip"), code: 200},
		{name: "snappy", request: with(put(x, compressed("snappy", "a 1\n")), "Content-Encoding", "Snappy"), code: 200, debian: 400, why: "it knows gzip only"},
		{name: "another coding", request: with(put(x, compressed("gzip", "a 1\n")), "Content-Encoding", "zstd"), code: 400},
		{name: "gzip that is none", request: with(put(x, "a 1\n"), "Content-Encoding", "gzip"), code: 400},
		{name: "timestamp", request: put(x, "a 1 1700000000000\n"), code: 400, says: "must not have timestamps"},
		{name: "UTF-8 name", request: put(x, "{\"ä\"} 1\n"), code: 400},
		{name: "UTF-8 name in protobuf", request: with(put(x, delimitedBody(gauge("a.b", 1))), "Content-Type", protobufType), code: 400, debian: -1, why: "1.5.1 does not look at names in protobuf"},
		{name: "empty put", request: put(x, ""), code: 200},
		{name: "empty post", request: post(x, ""), code: 200},

		// 2.4 rules within one push
		{name: "label twice", request: put(x, "a{b=\"1\",b=\"2\"} 1\n"), code: 400},
		{name: "series twice", request: put(x, "a{b=\"1\"} 1\na{b=\"1\"} 2\n"), code: 400, says: "same"},
		{name: "series twice by the path", request: put(x+"/b/p", "a{b=\"1\"} 1\na{b=\"2\"} 2\n"), code: 400, says: "same"},
		{name: "suffix", request: put(x, "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n# TYPE h_count gauge\nh_count 3\n"), code: 400},
		{name: "own push time", request: put(x, "push_time_seconds 1\n"), code: 200},
		{name: "own failure time", request: put(x, "push_failure_time_seconds 1\n"), code: 200},
		{name: "quantile in the path", request: put(x+"/quantile/1", "# TYPE s summary\ns{quantile=\"0.5\"} 1\ns_sum 3\ns_count 4\n"), code: 400},
	}
}

// TestContract holds that single requests are answered as the original does.
func TestContract(t *testing.T) {
	for _, c := range contract() {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, t.TempDir(), nil)
			code, answer, _ := c.do(t, r.address())
			if code != c.code || !strings.Contains(answer, c.says) {
				t.Errorf("the answer is %d %q, want %d with %q", code, answer, c.code, c.says)
			}
		})
	}
}

// pushgateway starts Debian's Pushgateway and returns its address.
func pushgateway(t *testing.T, flags ...string) string {
	t.Helper()
	program, err := exec.LookPath("prometheus-pushgateway")
	if err != nil {
		t.Fatalf("%v; scripts/tools.sh installs it, make test knows where", err)
	}
	cmd := exec.Command(program, append(flags, "--web.listen-address=127.0.0.1:0", "--web.enable-admin-api", "--log.level=info")...)
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	address := make(chan string, 1)
	go func() {
		listening := regexp.MustCompile(`[Ll]istening on.*address=(\S+)`)
		for lines := bufio.NewScanner(log); lines.Scan(); {
			if m := listening.FindStringSubmatch(lines.Text()); m != nil {
				select {
				case address <- m[1]:
				default:
				}
			}
		}
		close(address)
	}()
	a, ok := <-address
	if !ok {
		t.Fatal("the Pushgateway does not listen")
	}
	return a
}

// TestContractAsDebian sends the same requests to the Pushgateway of Debian, and compares what is kept then, in all
// formats and in JSON.
func TestContractAsDebian(t *testing.T) {
	debian := pushgateway(t)
	for _, c := range contract() {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, t.TempDir(), nil)
			wipe := request{method: "PUT", path: "/api/v1/admin/wipe"}
			wipe.do(t, debian)
			theirs, answer, _ := c.do(t, debian)
			if want := cmp.Or(max(c.debian, 0), c.code); c.debian >= 0 && theirs != want {
				t.Fatalf("the answer of the original is %d %s, want %d", theirs, answer, want)
			}
			if c.debian != 0 {
				return // c.why
			}
			if ours, answer, _ := c.do(t, r.address()); ours != theirs {
				t.Fatalf("the answer is %d %s, that of the original %d", ours, answer, theirs)
			}
			same(t, r.address(), debian)
		})
	}
}

// TestSequencesAsDebian does so with groups that depend on each other.
func TestSequencesAsDebian(t *testing.T) {
	debian := pushgateway(t)
	put := func(path, body string) request { return request{method: "PUT", path: path, body: body} }
	post := func(path, body string) request { return request{method: "POST", path: path, body: body} }
	del := func(path string) request { return request{method: "DELETE", path: path} }
	const a, b = "/metrics/job/a", "/metrics/job/b/instance/i"
	for name, requests := range map[string][]request{
		"replace all":               {put(a, "x 1\ny 2\n"), put(a, "z 3\n")},
		"replace families":          {put(a, "x{l=\"1\"} 1\ny 2\n"), post(a, "x{l=\"2\"} 3\n")},
		"empty put clears":          {put(a, "x 1\n"), put(a, "")},
		"empty post does not":       {put(a, "x 1\n"), post(a, "")},
		"delete":                    {put(a, "x 1\n"), put(b, "y 1\n"), del(a)},
		"failure of the first push": {put(a, "x 1 1\n")},
		"failure of a later push":   {put(a, "x 1\n"), put(a, "x 1 1\n")},
		"malformed keeps quiet":     {put(a, "x 1\n"), put(a, "x")},
		"type of another group":     {put(a, "# TYPE x gauge\nx 1\n"), put(b, "# TYPE x counter\nx 1\n")},
		"type changes in one group": {put(a, "# TYPE x gauge\nx 1\n"), put(a, "# TYPE x counter\nx 1\n")},
		"help of another group":     {put(a, "# HELP x one\nx 1\n"), put(b, "# HELP x one\nx 1\n")},
		"series of another group":   {put("/metrics/job/c", "x{instance=\"i\"} 1\n"), put("/metrics/job/c/instance/i", "x 1\n")},
		"free again":                {put(a, "# TYPE x gauge\nx 1\n"), del(a), put(b, "# TYPE x counter\nx 1\n")},
		"count beside a histogram":  {put(a, "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n"), put(b, "h_count 1\n")},
		"histogram beside a sum":    {put(a, "h_sum 1\n"), put(b, "# TYPE h summary\nh_sum 1\nh_count 1\n")},
		"bucket beside a summary":   {put(a, "h_bucket 1\n"), put(b, "# TYPE h summary\nh_sum 1\nh_count 1\n")},
		"own failure time later":    {put(a, "x 1\n"), post(a, "push_failure_time_seconds{l=\"m\"} 5\n")},
		"OpenMetrics counter typed": {put(a, "# TYPE c_total counter\nc_total 1\n"), put(b, "# TYPE c counter\nc_total 1\n# EOF\n")},
		"order of labels":           {put(a+"/p/1/q/2", "x 1\n"), post(a+"/q/2/p/1", "y 1\n")},
		"plus is not space":         {put(a+"/p/a+b", "x 1\n"), put(a+"/p/a%20b", "x 1\n")},
		"empty value is none":       {put(a+"/p@base64/=", "x 1\n"), put(a, "y 1\n")},
		"parts of one histogram":    {put(a, "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_sum 1\nh_count 1\n"), put(b, "# TYPE h histogram\nh_bucket{le=\"2\"} 1\nh_sum 1\nh_count 1\n")},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, t.TempDir(), nil)
			wipe := request{method: "PUT", path: "/api/v1/admin/wipe"}
			wipe.do(t, debian)
			for i := range requests {
				theirs, _, _ := requests[i].do(t, debian)
				if ours, answer, _ := requests[i].do(t, r.address()); ours != theirs {
					t.Fatalf("the answer to request %d is %d %s, that of the original %d", i, ours, answer, theirs)
				}
			}
			same(t, r.address(), debian)
		})
	}
}

// same compares what two Pushgateways serve.
func same(t *testing.T, ours, theirs string) {
	t.Helper()
	for _, accept := range []string{"text/plain", "application/openmetrics-text; version=1.0.0"} {
		get := request{method: "GET", path: "/metrics", header: http.Header{"Accept": {accept}}}
		_, a, _ := get.do(t, ours)
		_, b, _ := get.do(t, theirs)
		// 1.5.1 has no OpenMetrics.
		if accept != "text/plain" && !strings.HasSuffix(b, "# EOF\n") {
			continue
		}
		if want := shown(withoutOwn(b)); !slices.Equal(shown(a), want) {
			t.Errorf("as %s there is\n%s\nwant\n%s", accept, strings.Join(shown(a), "\n"), strings.Join(want, "\n"))
		}
		if got, want := pushTimes(a), pushTimes(b); got != want {
			t.Errorf("times of pushes are\n%s\nwant\n%s", got, want)
		}
	}
	get := request{method: "GET", path: "/api/v1/metrics"}
	_, a, h := get.do(t, ours)
	_, b, _ := get.do(t, theirs)
	if got, want := normalJSON(t, a), normalJSON(t, b); got != want {
		t.Errorf("the API says\n%s\nwant\n%s", got, want)
	}
	if h.Get("Access-Control-Allow-Origin") != "*" || h.Get("Content-Type") != "application/json" {
		t.Errorf("headers are %v", h)
	}
}

// withoutOwn leaves out what the original says of itself.
func withoutOwn(text string) string {
	own := regexp.MustCompile(`(?m)^(# (HELP|TYPE|UNIT) )?(go|process|pushgateway|promhttp)_.*\n`)
	return own.ReplaceAllString(text, "")
}

// pushTimes are the lines that say when something was pushed, with 1 for a time.
func pushTimes(text string) string {
	var lines []string
	value := regexp.MustCompile(`} [0-9.e+]{9,}$`)
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); strings.Contains(line, "push_time_seconds") || strings.Contains(line, "push_failure_time_seconds") {
			lines = append(lines, value.ReplaceAllString(line, "} 1"))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// normalJSON is the answer of the API without times, in an order.
func normalJSON(t *testing.T, text string) string {
	t.Helper()
	var answer struct {
		Status string
		Data   []map[string]any
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	var groups []string
	for _, group := range answer.Data {
		for name, f := range group {
			if family, ok := f.(map[string]any); ok && family["time_stamp"] != nil {
				if family["time_stamp"] == "" {
					t.Errorf("%s has no time", name)
				}
				family["time_stamp"] = "then"
				if strings.HasPrefix(name, "push_") {
					for _, m := range family["metrics"].([]any) {
						if v := m.(map[string]any)["value"]; v != "0" && v != "5" && v != "1" {
							m.(map[string]any)["value"] = "then"
						}
					}
				}
			}
		}
		encoded, err := json.Marshal(group)
		if err != nil {
			t.Fatal(err)
		}
		groups = append(groups, string(encoded))
	}
	slices.Sort(groups)
	return answer.Status + "\n" + strings.Join(groups, "\n")
}

// TestNativeHistogramInAPI holds the form of what Debian's Pushgateway does not know.
func TestNativeHistogramInAPI(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	q := request{method: "PUT", path: "/metrics/job/n", body: delimitedBody(native("n")), header: http.Header{"Content-Type": {protobufType}}}
	if code, answer, _ := q.do(t, r.address()); code != 200 {
		t.Fatal(code, answer)
	}
	answer := r.want(t, 200, "GET", "/api/v1/metrics", "")
	const want = `"n":{"time_stamp":"then","type":"HISTOGRAM","metrics":[{"buckets":[[3,"-0.001","0.001","1"],[0,"0.5","1","2"],[0,"1","2","3"]],"count":"6","labels":{"instance":"","job":"n"},"sum":"7.5"}]}`
	if got := regexp.MustCompile(`"time_stamp":"[^"]*"`).ReplaceAllString(answer, `"time_stamp":"then"`); !strings.Contains(got, want) {
		t.Errorf("the API says\n%s\nwhich lacks\n%s", got, want)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if h := r.rows[0].Histograms; len(h) != 1 || h[0].H == nil || h[0].H.Count != 6 || math.Abs(h[0].H.Sum-7.5) > 0 {
		t.Errorf("the row has %+v", h)
	}
}
