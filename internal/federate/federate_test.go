package federate_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/thalweg/thalweg/internal/federate"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/store"
)

var now = time.UnixMilli(101 * 60 * 1000)

type hub struct {
	testing.TB
	store   *store.Store
	handler *federate.Handler
	catalog *series.Catalog
	rows    uint64
}

// newHub is a store without a site label, as Prometheus knows none, behind a handler.
func newHub(t testing.TB, change func(*federate.Options, *store.Config)) *hub {
	t.Helper()
	config := store.DefaultConfig()
	config.SiteLabel = ""
	o := federate.Options{Config: federate.DefaultConfig(), Now: func() time.Time { return now }}
	if change != nil {
		change(&o, &config)
	}
	st, err := store.New(store.Options{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	o.Select = st.Select
	h, err := federate.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return &hub{TB: t, store: st, handler: h, catalog: series.NewCatalog()}
}

// put stores a source of its own for each sample, as in `up{job="x"}`.
func (h *hub) put(metric string, f series.Family, v float64, at time.Time) {
	h.Helper()
	ls, err := parser.NewParser(parser.Options{}).ParseMetric(metric)
	if err != nil {
		h.Fatal(err)
	}
	h.apply(&series.Row{
		Source: &series.Source{Key: metric},
		Schema: h.catalog.Extend(h.catalog.Empty(), []series.Column{{Labels: ls, Family: f}}),
		T:      at.UnixMilli(),
		Values: []float64{v},
	})
}

func (h *hub) apply(row *series.Row) {
	h.Helper()
	h.rows++
	if err := h.store.Apply("ams-1", store.Rank{Epoch: 1, Frame: h.rows}, row, now.UnixMilli()); err != nil {
		h.Fatal(err)
	}
}

func (h *hub) get(query string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, "/federate?"+query, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.handler.ServeHTTP(w, r)
	return w
}

// sorted sorts the lines of each family, whose order means nothing.
func sorted(body string) string {
	var out, family []string
	flush := func() {
		slices.Sort(family)
		out = append(out, family...)
		family = family[:0]
	}
	for line := range strings.Lines(body) {
		if line[0] == '#' {
			flush()
			out = append(out, line)
		} else {
			family = append(family, line)
		}
	}
	flush()
	return strings.Join(out, "")
}

// The scenarios in which Prometheus tests its own federation, with the answers that it gives.
func TestScenariosOfPrometheus(t *testing.T) {
	everything := "match[]={__name__=~'.%2b'}"
	for name, c := range map[string]struct {
		query    string
		external labels.Labels
		code     int
		want     string
	}{
		"no selector":           {"", labels.EmptyLabels(), 200, ""},
		"match without []":      {"match=a", labels.EmptyLabels(), 200, ""},
		"selects nothing":       {"match[]=absent", labels.EmptyLabels(), 200, ""},
		"no matchers":           {"match[]={}", labels.EmptyLabels(), 200, ""},
		"bad from the start":    {"match[]=-bad", labels.EmptyLabels(), 400, "1:1: parse error: unexpected <op:->\n"},
		"bad later":             {"match[]=not-a-name", labels.EmptyLabels(), 400, "1:4: parse error: unexpected <op:->\n"},
		"bad in the second":     {"match[]=a&match[]=up[5m]", labels.EmptyLabels(), 400, "1:3: parse error: unexpected \"[\"\n"},
		"empty selector":        {"match[]=", labels.EmptyLabels(), 400, "unknown position: parse error: unexpected end of input\n"},
		"a number":              {"match[]=1", labels.EmptyLabels(), 400, "1:1: parse error: unexpected number \"1\"\n"},
		"a function":            {"match[]=sum(up)", labels.EmptyLabels(), 400, "1:4: parse error: unexpected \"(\"\n"},
		"an offset":             {"match[]=up%20offset%205m", labels.EmptyLabels(), 400, "1:4: parse error: unexpected <offset>\n"},
		"a bad escape":          {"match[]=%zz", labels.EmptyLabels(), 400, "error parsing form values: invalid URL escape \"%zz\"\n"},
		"stale":                 {"match[]=gone", labels.EmptyLabels(), 200, ""},
		"older than lookback":   {"match[]=ancient", labels.EmptyLabels(), 200, ""},
		"one name":              {"match[]=a", labels.EmptyLabels(), 200, "# TYPE a untyped\na{foo=\"bar\",instance=\"i\"} 10000 6000000\na{foo=\"boo\",instance=\"i\"} 1 6000000\n"},
		"quoted name":           {`match[]={"b"}`, labels.EmptyLabels(), 200, "# TYPE b untyped\nb{foo=\"boo\",instance=\"i\"} 1 6000000\n"},
		"without labels":        {"match[]=bare", labels.EmptyLabels(), 200, "# TYPE bare untyped\nbare{instance=\"\"} 1001 6000000\n"},
		"older":                 {"match[]=old", labels.EmptyLabels(), 200, "# TYPE old untyped\nold{instance=\"\"} 981 5880000\n"},
		"a label":               {"match[]={foo='boo'}", labels.EmptyLabels(), 200, "# TYPE a untyped\na{foo=\"boo\",instance=\"i\"} 1 6000000\n# TYPE b untyped\nb{foo=\"boo\",instance=\"i\"} 1 6000000\n"},
		"union":                 {"match[]=b&match[]=bare", labels.EmptyLabels(), 200, "# TYPE b untyped\nb{foo=\"boo\",instance=\"i\"} 1 6000000\n# TYPE bare untyped\nbare{instance=\"\"} 1001 6000000\n"},
		"overlapping union":     {"match[]={__name__=~'a'}&match[]={foo='bar'}", labels.EmptyLabels(), 200, "# TYPE a untyped\na{foo=\"bar\",instance=\"i\"} 10000 6000000\na{foo=\"boo\",instance=\"i\"} 1 6000000\n"},
		"label that is not set": {"match[]={foo='',__name__=~'.%2b'}", labels.EmptyLabels(), 200, "# TYPE bare untyped\nbare{instance=\"\"} 1001 6000000\n# TYPE old untyped\nold{instance=\"\"} 981 5880000\n"},
		"everything": {everything, labels.EmptyLabels(), 200, `# TYPE a untyped
a{foo="bar",instance="i"} 10000 6000000
a{foo="boo",instance="i"} 1 6000000
# TYPE b untyped
b{foo="boo",instance="i"} 1 6000000
# TYPE bare untyped
bare{instance=""} 1001 6000000
# TYPE old untyped
old{instance=""} 981 5880000
`},
		"external labels where absent": {everything, labels.FromStrings("foo", "baz", "zone", "ie"), 200, `# TYPE a untyped
a{foo="bar",instance="i",zone="ie"} 10000 6000000
a{foo="boo",instance="i",zone="ie"} 1 6000000
# TYPE b untyped
b{foo="boo",instance="i",zone="ie"} 1 6000000
# TYPE bare untyped
bare{foo="baz",instance="",zone="ie"} 1001 6000000
# TYPE old untyped
old{foo="baz",instance="",zone="ie"} 981 5880000
`},
		"external labels stand behind the series' own": {"match[]=b", labels.FromStrings("a", "1"), 200,
			"# TYPE b untyped\nb{foo=\"boo\",instance=\"i\",a=\"1\"} 1 6000000\n"},
		"instance is an external label": {"match[]={__name__=~'b|bare'}", labels.FromStrings("instance", "baz"), 200,
			"# TYPE b untyped\nb{foo=\"boo\",instance=\"i\"} 1 6000000\n# TYPE bare untyped\nbare{instance=\"baz\"} 1001 6000000\n"},
		"selectors do not see external labels": {"match[]=b{zone='ie'}", labels.FromStrings("zone", "ie"), 200, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHub(t, func(o *federate.Options, _ *store.Config) {
				o.Config.Types, o.ExternalLabels = federate.Untyped, c.external
			})
			known := series.Family{Type: model.MetricTypeGauge, Help: "Not to be seen."}
			h.put(`a{foo="bar",instance="i"}`, known, 10000, time.UnixMilli(6000000))
			h.put(`a{foo="boo",instance="i"}`, known, 1, time.UnixMilli(6000000))
			h.put(`b{foo="boo",instance="i"}`, known, 1, time.UnixMilli(6000000))
			h.put(`bare`, known, 1001, time.UnixMilli(6000000))
			h.put(`gone`, known, math.Float64frombits(0x7ff0000000000002), time.UnixMilli(6000000))
			h.put(`old`, known, 981, time.UnixMilli(5880000))
			h.put(`ancient`, known, 1, time.UnixMilli(now.UnixMilli()-300001))
			w := h.get(c.query)
			if got := sorted(w.Body.String()); w.Code != c.code || got != c.want {
				t.Errorf("got %d\n%swant %d\n%s", w.Code, got, c.code, c.want)
			}
		})
	}
}

func TestAnswersBeginEarly(t *testing.T) {
	h := newHub(t, nil)
	for i := range 200 {
		h.put(fmt.Sprintf(`m{i="%03d"}`, i), series.Family{}, 1, now)
	}
	f := func(query, encoding string, flushed bool) {
		t.Helper()
		before := h.metric("thalweg_federate_response_bytes_total")
		w := h.get(query, "Accept-Encoding", encoding)
		if w.Flushed != flushed {
			t.Errorf("%s %s: flushed %t", query, encoding, w.Flushed)
		}
		if got := h.metric("thalweg_federate_response_bytes_total") - before; int(got) != w.Body.Len() {
			t.Errorf("%s %s: %v bytes counted of %d", query, encoding, got, w.Body.Len())
		}
	}
	f("match[]=m", "identity", true)
	f("match[]=m", "gzip", true)
	f("match[]=m", "zstd", true)
	f("match[]=m{i=~'00.'}", "identity", false)
	if got := h.metric("thalweg_federate_series_total"); got != 610 {
		t.Errorf("%v series counted, want 610", got)
	}
}

func TestTooManyMatchers(t *testing.T) {
	h := newHub(t, nil)
	if w := h.get(strings.Repeat("&match[]=a", 4096)); w.Code != 200 {
		t.Errorf("4096 matchers: %d %s", w.Code, w.Body)
	}
	if w := h.get(strings.Repeat("&match[]=a", 4097)); w.Code != 400 || !strings.HasPrefix(w.Body.String(), "4097 matchers") {
		t.Errorf("4097 matchers: %d %s", w.Code, w.Body)
	}
}

func TestRealTypes(t *testing.T) {
	h := newHub(t, func(_ *federate.Options, c *store.Config) { c.SiteLabel = "site" })
	hist := series.Family{Name: "rpc.seconds", Type: model.MetricTypeHistogram, Help: "Back\\slash,\nnewline."}
	cs := []series.Column{
		{Labels: labels.FromStrings("__name__", "rpc.seconds_bucket", "le", "1.0"), Family: hist},
		{Labels: labels.FromStrings("__name__", "rpc.seconds_bucket", "le", "+Inf"), Family: hist},
		{Labels: labels.FromStrings("__name__", "rpc.seconds_sum"), Family: hist},
		{Labels: labels.FromStrings("__name__", "rpc.seconds_count"), Family: hist},
		{Labels: labels.FromStrings("__name__", "requests_total"), Family: series.Family{Name: "requests", Type: model.MetricTypeCounter}},
		{Labels: labels.FromStrings("__name__", "custom"), Family: series.Family{Name: "custom", Type: model.MetricTypeHistogram}, Kind: series.Histogram},
		{Labels: labels.FromStrings("__name__", "native"), Family: series.Family{Name: "native", Type: model.MetricTypeHistogram}, Kind: series.Histogram},
	}
	h.apply(&series.Row{
		Source: &series.Source{Key: "s", Labels: labels.FromStrings("job", "j", "instance", "i")},
		Schema: h.catalog.Extend(h.catalog.Empty(), cs),
		T:      now.UnixMilli(),
		Values: []float64{1, math.NaN(), math.Inf(1), 1e300, 0.1, 0, 0},
		Histograms: []series.HistogramAt{
			{Column: 5, H: &histogram.Histogram{
				Schema: histogram.CustomBucketsSchema, Count: 3, Sum: 4,
				PositiveSpans: []histogram.Span{{Length: 2}}, PositiveBuckets: []int64{1, 1}, CustomValues: []float64{1},
			}},
			{Column: 6, H: &histogram.Histogram{Schema: 1, Count: 3}},
		},
	})
	f := func(escaping, want string) {
		t.Helper()
		accept := "text/plain;version=0.0.4;escaping=" + escaping
		got := h.get("match[]={__name__!=''}", "Accept", accept).Body.String()
		if want = strings.TrimPrefix(want, "\n"); got != want {
			t.Errorf("%s: got\n%swant\n%s", escaping, got, want)
		}
	}
	common := `
# TYPE custom histogram
custom_bucket{instance="i",job="j",site="ams-1",le="1"} 1 6060000
custom_bucket{instance="i",job="j",site="ams-1",le="+Inf"} 3 6060000
custom_sum{instance="i",job="j",site="ams-1"} 4 6060000
custom_count{instance="i",job="j",site="ams-1"} 3 6060000
# TYPE requests_total counter
requests_total{instance="i",job="j",site="ams-1"} 0.1 6060000
`
	f("allow-utf-8", common+`# HELP "rpc.seconds" Back\\slash,\nnewline.
# TYPE "rpc.seconds" histogram
{"rpc.seconds_bucket",instance="i",job="j",le="1.0",site="ams-1"} 1 6060000
{"rpc.seconds_bucket",instance="i",job="j",le="+Inf",site="ams-1"} NaN 6060000
{"rpc.seconds_sum",instance="i",job="j",site="ams-1"} +Inf 6060000
{"rpc.seconds_count",instance="i",job="j",site="ams-1"} 1e+300 6060000
`)
	f("values", common+`# HELP U__rpc_2e_seconds Back\\slash,\nnewline.
# TYPE U__rpc_2e_seconds histogram
U__rpc_2e_seconds_bucket{instance="i",job="j",le="1.0",site="ams-1"} 1 6060000
U__rpc_2e_seconds_bucket{instance="i",job="j",le="+Inf",site="ams-1"} NaN 6060000
U__rpc_2e_seconds_sum{instance="i",job="j",site="ams-1"} +Inf 6060000
U__rpc_2e_seconds_count{instance="i",job="j",site="ams-1"} 1e+300 6060000
`)
	if err := h.handler.Reload(federate.Config{Types: "half"}, labels.EmptyLabels()); err == nil {
		t.Error("a bad configuration was accepted")
	}
	if err := h.handler.Reload(federate.Config{Types: federate.Untyped}, labels.FromStrings("hub", "h")); err != nil {
		t.Fatal(err)
	}
	nhcb := h.get("match[]=custom").Body.String()
	if !strings.HasPrefix(nhcb, "# TYPE custom histogram\ncustom_bucket{") {
		t.Errorf("untyped custom buckets: got\n%s", nhcb)
	}
	want := "# TYPE rpc_seconds_sum untyped\nrpc_seconds_sum{instance=\"i\",job=\"j\",site=\"ams-1\",hub=\"h\"} +Inf 6060000\n"
	if got := h.get(`match[]={"rpc.seconds_sum"}`).Body.String(); got != want {
		t.Errorf("after the reload: got\n%swant\n%s", got, want)
	}
}

func TestTypeConflict(t *testing.T) {
	h := newHub(t, nil)
	for i, typ := range []model.MetricType{"counter", "gauge", "gauge"} {
		h.put(fmt.Sprintf(`m{i="%d"}`, i), series.Family{Name: "m", Type: typ}, 1, now)
	}
	if got := h.get("match[]=m").Body.String(); !strings.HasPrefix(got, "# TYPE m gauge\n") {
		t.Errorf("got %s", got)
	}
	h.get("match[]=m{i='0'}")
	if got := h.metric("thalweg_federate_type_conflicts_total"); got != 1 {
		t.Errorf("%v conflicts counted, want 1", got)
	}
}

func (h *hub) metric(name string) float64 {
	h.Helper()
	for _, c := range h.handler.Metrics() {
		descs := make(chan *prometheus.Desc, 1)
		c.Describe(descs)
		if strings.Contains((<-descs).String(), `"`+name+`"`) {
			return testutil.ToFloat64(c)
		}
	}
	h.Fatalf("no metric %s", name)
	return 0
}

func TestMethodsAndReadiness(t *testing.T) {
	ready := false
	h := newHub(t, func(o *federate.Options, _ *store.Config) { o.Ready = func() bool { return ready } })
	h.put("m", series.Family{}, 1, now)
	f := func(method, query string, code int, body string) http.Header {
		t.Helper()
		w := httptest.NewRecorder()
		h.handler.ServeHTTP(w, httptest.NewRequest(method, "/federate?"+query, nil))
		if got := w.Body.String(); w.Code != code || got != body {
			t.Errorf("%s: got %d %q, want %d %q", method, w.Code, got, code, body)
		}
		return w.Header()
	}
	f("GET", "match[]=m", 503, "Service Unavailable\n")
	ready = true
	f("GET", "match[]=m", 200, "# TYPE m untyped\nm{instance=\"\"} 1 6060000\n")
	if got := f("HEAD", "match[]=m", 200, "").Get("Content-Type"); !strings.HasPrefix(got, "text/plain; version=0.0.4") {
		t.Errorf("HEAD has Content-Type %q", got)
	}
	for _, accept := range []string{acceptText, acceptOpenMetrics, acceptProto} {
		for _, coding := range []string{"", "gzip", "zstd"} {
			r := httptest.NewRequest(http.MethodHead, "/federate?match[]=m", nil)
			r.Header.Set("Accept", accept)
			r.Header.Set("Accept-Encoding", coding)
			w := httptest.NewRecorder()
			h.handler.ServeHTTP(w, r)
			if got, want := w.Header(), h.get("match[]=m", "Accept", accept, "Accept-Encoding", coding).Header(); !maps.EqualFunc(got, want, slices.Equal) || w.Body.Len() > 0 {
				t.Errorf("HEAD %s %s has header %v and %d bytes, GET has %v", accept, coding, got, w.Body.Len(), want)
			}
		}
	}
	f("HEAD", "match[]=-", 400, "1:1: parse error: unexpected <op:->\n")
	if got := f("POST", "match[]=m", 405, "Method Not Allowed\n").Get("Allow"); got != "GET, HEAD" {
		t.Errorf("Allow is %q", got)
	}
	want := `
# HELP thalweg_federate_requests_total Requests to /federate, by status code.
# TYPE thalweg_federate_requests_total counter
thalweg_federate_requests_total{code="200"} 20
thalweg_federate_requests_total{code="400"} 1
thalweg_federate_requests_total{code="403"} 0
thalweg_federate_requests_total{code="405"} 1
thalweg_federate_requests_total{code="503"} 1
`
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(h.handler.Metrics()...)
	r.MustRegister(h.store.Metrics()...)
	if err := testutil.GatherAndCompare(r, strings.NewReader(want), "thalweg_federate_requests_total"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(r); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
}

func TestViews(t *testing.T) {
	views := map[string][]string{"alice": {`{site="a"}`, `{site="b",__name__=~"node_.*"}`}, "bob": {"up"}, "carol": {}, "dave": {"{}"}}
	h := newHub(t, func(o *federate.Options, _ *store.Config) {
		o.View = func(r *http.Request) ([][]*labels.Matcher, bool) {
			user, _, _ := r.BasicAuth()
			sets, err := parser.NewParser(parser.Options{}).ParseMetricSelectors(views[user])
			if err != nil {
				t.Error(err)
			}
			return sets, user != "root"
		}
	})
	for _, m := range []string{`up{site="a"}`, `up{site="b"}`, `node_load{site="a"}`, `node_load{site="b"}`, `secret{site="b"}`} {
		h.put(m, series.Family{}, 1, now)
	}
	f := func(user, query string, code int, want ...string) {
		t.Helper()
		r := httptest.NewRequest(http.MethodGet, "/federate?"+query, nil)
		r.SetBasicAuth(user, "")
		w := httptest.NewRecorder()
		h.handler.ServeHTTP(w, r)
		var got []string
		for line := range strings.Lines(w.Body.String()) {
			if metric, _, ok := strings.Cut(line, "} "); ok {
				got = append(got, metric)
			}
		}
		if slices.Sort(got); w.Code != code || !slices.Equal(got, want) {
			t.Errorf("%s %s: got %d %q, want %d %q", user, query, w.Code, got, code, want)
		}
	}
	all := "match[]={__name__!=''}"
	a, b := `{site="a",instance=""`, `{site="b",instance=""`
	f("root", all, 200, "node_load"+a, "node_load"+b, "secret"+b, "up"+a, "up"+b)
	f("alice", all, 200, "node_load"+a, "node_load"+b, "up"+a)
	f("alice", "match[]=secret&match[]=up&match[]={}", 200, "up"+a)
	f("bob", all, 200, "up"+a, "up"+b)
	f("bob", "match[]=node_load", 200)
	f("bob", "", 200)
	f("carol", all, 403)
	f("carol", "match[]=-", 403)
	f("dave", all, 200)
	f("mallory", all, 403)
	f("bob", strings.Repeat("&match[]=a", 2048), 200)
	f("bob", strings.Repeat("&match[]=a", 2049), 400)
}

// Real scrapes go through the store and come out again with every sample and every type, as textparse sees them.
func TestRealScrapesRoundTrip(t *testing.T) {
	for _, name := range []string{"node", "prometheus"} {
		t.Run(name, func(t *testing.T) {
			f, err := os.Open(filepath.Join("testdata", name+".txt.gz"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			z, err := gzip.NewReader(f)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(z)
			if err != nil {
				t.Fatal(err)
			}
			want, columns, values := parse(t, body, labels.FromStrings("instance", "i", "job", "j"))
			h := newHub(t, nil)
			h.apply(&series.Row{
				Source: &series.Source{Key: "s", Labels: labels.FromStrings("instance", "i", "job", "j")},
				Schema: h.catalog.Extend(h.catalog.Empty(), columns),
				T:      now.UnixMilli(),
				Values: values,
			})
			got, _, _ := parse(t, h.get("match[]={job='j'}").Body.Bytes(), labels.EmptyLabels())
			for key, v := range want {
				if g, ok := got[key]; !ok || g != v {
					t.Errorf("%s: got %q, want %q", key, g, v)
				}
			}
			if len(got) != len(want) || len(want) < 500 {
				t.Errorf("got %d series, want %d", len(got), len(want))
			}
		})
	}
}

// parse returns, by labels, the value and metadata of each sample, and what a scraper would make of them.
func parse(t *testing.T, body []byte, common labels.Labels) (map[string]string, []series.Column, []float64) {
	t.Helper()
	p, err := textparse.New(body, "text/plain", labels.NewSymbolTable(), textparse.ParserOptions{})
	if err != nil {
		t.Fatal(err)
	}
	samples, values := map[string]string{}, []float64(nil)
	columns, family := []series.Column(nil), series.Family{}
	for {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			return samples, columns, values
		}
		if err != nil {
			t.Fatal(err)
		}
		switch entry {
		case textparse.EntryHelp:
			name, help := p.Help()
			family = series.Family{Name: string(name), Help: string(help)}
		case textparse.EntryType:
			name, typ := p.Type()
			if string(name) != family.Name {
				family = series.Family{Name: string(name)}
			}
			family.Type = typ
		case textparse.EntrySeries:
			var ls labels.Labels
			_, _, v := p.Series()
			p.Labels(&ls)
			columns = append(columns, series.Column{Labels: ls, Family: family})
			values = append(values, v)
			b := labels.NewBuilder(ls)
			common.Range(func(l labels.Label) { b.Set(l.Name, l.Value) })
			samples[b.Labels().String()] = fmt.Sprintf("%x %+v", math.Float64bits(v), family)
		}
	}
}

// A reader that does not read holds up nobody, has the beginning of the answer, and when it goes the work stops.
func TestSlowReader(t *testing.T) {
	h := newHub(t, nil)
	row := &series.Row{Source: &series.Source{Key: "big"}, T: now.UnixMilli()}
	var columns []series.Column
	padding := strings.Repeat("x", 1000)
	for i := range 30_000 { // 30 MB, far more than sockets buffer
		columns = append(columns, series.Column{Labels: labels.FromStrings("__name__", fmt.Sprint("m", i%100), "i", fmt.Sprint(i), "padding", padding)})
		row.Values = append(row.Values, 1)
	}
	row.Schema = h.catalog.Extend(h.catalog.Empty(), columns)
	h.apply(row)

	returned := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.handler.ServeHTTP(w, r)
		close(returned)
	}))
	defer server.Close()
	response, err := http.Get(server.URL + "/federate?match[]={i!=''}")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	first := make([]byte, 100)
	if _, err := io.ReadFull(response.Body, first); err != nil || !bytes.HasPrefix(first, []byte("# TYPE m0 untyped\nm0{i=\"0\"")) {
		t.Fatalf("the answer begins with %q, %v", first, err)
	}
	h.apply(row) // the handler is waiting for its reader now, or will be
	select {
	case <-returned:
		t.Fatal("the handler returned before its reader had read")
	default:
	}
	response.Body.Close()
	select {
	case <-returned:
	case <-time.After(20 * time.Second):
		t.Fatal("the handler goes on without a reader")
	}
	if got := h.metric("thalweg_federate_aborted_total"); got != 1 {
		t.Errorf("%v answers aborted, want 1", got)
	}
}

func TestNewRefuses(t *testing.T) {
	if _, err := federate.New(federate.Options{Config: federate.DefaultConfig()}); err == nil {
		t.Error("a handler without a store was created")
	}
	st, err := store.New(store.Options{Config: store.DefaultConfig()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := federate.New(federate.Options{Select: st.Select}); err == nil {
		t.Error("a handler without types was created")
	}
}
