package push

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/series/seriestest"
)

// exposed returns the lines that a Pushgateway serves of what was pushed, without its own and without those about pushes.
func exposed(t *testing.T, gateway string) []string {
	t.Helper()
	response, err := http.Get("http://" + gateway + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", response.Status, body, err)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	if _, err := parser.TextToMetricFamilies(strings.NewReader(string(body))); err != nil {
		t.Fatalf("nobody can read what the gateway serves: %v", err)
	}
	own := func(line string) bool {
		name := strings.TrimPrefix(strings.TrimPrefix(line, "# HELP "), "# TYPE ")
		return slices.ContainsFunc([]string{"go_", "process_", "promhttp_", "pushgateway_", "push_"}, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
	}
	return slices.DeleteFunc(strings.Split(strings.TrimSpace(string(body)), "\n"), own)
}

// groupsOf returns the grouping labels of what a Pushgateway has.
func groupsOf(t *testing.T, gateway string) []string {
	t.Helper()
	response, err := http.Get("http://" + gateway + "/api/v1/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct {
		Data []struct{ Labels map[string]string }
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	var groups []string
	for _, g := range answer.Data {
		groups = append(groups, labels.FromMap(g.Labels).String())
	}
	slices.Sort(groups)
	return groups
}

// Whatever job and instance are, the gateway has them as they are, and deletes the group when the source ends.
func TestPushgatewayTakesAnyGroup(t *testing.T) {
	gateway := pushgateway(t)
	p := newPushed(t, ClientConfig{URL: "http://" + gateway, PublisherLabel: true})
	values := []string{
		"plain", "localhost:9100", "[::1]:9100", "http://host:9115/probe?a=b&c=d#e", "a b", "a+b", "a%20b", "100%", "/", "//", "a/", ".", "..", "...",
		"Zürich", "日本", "😀", "a\\b", `"q"`, "a;b,c=d", "@base64", "a@base64", "=", "~", "*", "'", "(", "{x}", "line\nbreak", "\t", "\x7f", "-", "_", "a:b", "$", "<&>", "|^`",
	}
	var sources []*series.Source
	var want []string
	for _, v := range values {
		for _, s := range []*series.Source{sourceOf(v, "x"), sourceOf("x", v)} {
			sources = append(sources, s)
			want = append(want, labels.FromMap(map[string]string{"job": s.Labels.Get("job"), "instance": s.Labels.Get("instance"), "publisher": "ams-1"}).String())
		}
	}
	nowhere := &series.Source{Key: "rules", Labels: labels.FromStrings("job", "rules")}
	sources = append(sources, nowhere)
	want = append(want, `{instance="", job="rules", publisher="ams-1"}`)
	for i, s := range sources {
		p.Row("ams-1", wholeRow(s, p.time, "value", float64(i)))
	}
	p.flush(true)
	expect(t, "refused", p.refused)
	slices.Sort(want)
	expect(t, "groups", groupsOf(t, gateway), slices.Compact(want)...)
	if n := len(exposed(t, gateway)); n != 1+len(sources) { // and a line TYPE
		t.Errorf("%d lines are served of %d series", n, len(sources))
	}
	for _, s := range sources {
		p.Row("ams-1", endRow(s, p.time))
	}
	p.flush(true)
	for end := time.Now().Add(time.Minute); len(groupsOf(t, gateway)) > 0; { // it deletes after it has answered
		if time.Now().After(end) {
			t.Fatalf("the gateway keeps %v", groupsOf(t, gateway))
		}
	}
}

// familiesRow is a row with families of all types.
func familiesRow(s *series.Source, t time.Time) *series.Row {
	row := &series.Row{Source: s, T: t.UnixMilli()}
	var columns []series.Column
	add := func(f series.Family, name string, v float64, ls ...string) {
		columns = append(columns, series.Column{Family: f, Labels: labels.FromStrings(append([]string{"__name__", name}, ls...)...)})
		row.Values = append(row.Values, v)
	}
	requests := series.Family{Name: "requests", Type: model.MetricTypeCounter, Help: "Requests.\nAll \\ of them.", Unit: "x"}
	add(requests, "requests_total", 12, "code", "200", "path", "a\"b\\c\nd")
	add(requests, "requests_total", 1e30, "code", "500")
	add(series.Family{Name: "heat", Type: model.MetricTypeGauge}, "heat", math.NaN())
	add(series.Family{Name: "heat", Type: model.MetricTypeGauge}, "heat", math.Inf(-1), "job", "own", "instance", "own", "publisher", "own")
	add(series.Family{}, "nothing_known", 0.1)
	add(series.Family{Name: "build", Type: model.MetricTypeInfo}, "build_info", 1, "version", "1")
	add(series.Family{Name: "state", Type: model.MetricTypeStateset}, "state", 1, "state", "on")
	latency := series.Family{Name: "latency", Type: model.MetricTypeHistogram, Help: "Latency."}
	for _, path := range []string{"/", "/x"} {
		add(latency, "latency_bucket", 1, "le", "0.5", "path", path)
		add(latency, "latency_bucket", 2, "le", "1.0", "path", path)
		add(latency, "latency_bucket", 3, "le", "+Inf", "path", path)
		add(latency, "latency_sum", 4.5, "path", path)
		add(latency, "latency_count", 3, "path", path)
	}
	size := series.Family{Name: "size", Type: model.MetricTypeSummary}
	add(size, "size", 5, "quantile", "0.5")
	add(size, "size", math.NaN(), "quantile", "0.99")
	add(size, "size_sum", 6)
	add(size, "size_count", 7)
	half := series.Family{Name: "half", Type: model.MetricTypeHistogram}
	add(half, "half_count", 8)
	add(half, "half_bucket", 8, "le", "1")
	rest := series.Family{Name: "rest", Type: model.MetricTypeSummary}
	add(rest, "rest", 8, "quantile", "0.5")
	queue := series.Family{Name: "queue", Type: model.MetricTypeGaugeHistogram}
	add(queue, "queue_bucket", 9, "le", "+Inf")
	add(queue, "queue_gsum", 10)
	add(queue, "queue_gcount", 9)
	add(series.Family{Name: "utf.8", Type: model.MetricTypeGauge}, "utf.8", 11, "läbel", "ü", "a:b", "c")
	row.Schema = catalog.Extend(catalog.Empty(), columns)
	return row
}

var familiesExposed = []string{
	`# TYPE build_info gauge`,
	`build_info{instance="a",job="node",version="1"} 1`,
	`# TYPE half_bucket untyped`,
	`half_bucket{instance="a",job="node",le="1"} 8`,
	`# TYPE half_count untyped`,
	`half_count{instance="a",job="node"} 8`,
	`# TYPE heat gauge`,
	`heat{exported_instance="own",exported_job="own",instance="a",job="node",publisher="own"} -Inf`,
	`heat{instance="a",job="node"} NaN`,
	`# HELP latency Latency.`,
	`# TYPE latency histogram`,
	`latency_bucket{instance="a",job="node",path="/",le="0.5"} 1`,
	`latency_bucket{instance="a",job="node",path="/",le="1"} 2`,
	`latency_bucket{instance="a",job="node",path="/",le="+Inf"} 3`,
	`latency_sum{instance="a",job="node",path="/"} 4.5`,
	`latency_count{instance="a",job="node",path="/"} 3`,
	`latency_bucket{instance="a",job="node",path="/x",le="0.5"} 1`,
	`latency_bucket{instance="a",job="node",path="/x",le="1"} 2`,
	`latency_bucket{instance="a",job="node",path="/x",le="+Inf"} 3`,
	`latency_sum{instance="a",job="node",path="/x"} 4.5`,
	`latency_count{instance="a",job="node",path="/x"} 3`,
	`# TYPE nothing_known untyped`,
	`nothing_known{instance="a",job="node"} 0.1`,
	`# TYPE queue_bucket untyped`,
	`queue_bucket{instance="a",job="node",le="+Inf"} 9`,
	`# TYPE queue_gcount untyped`,
	`queue_gcount{instance="a",job="node"} 9`,
	`# TYPE queue_gsum untyped`,
	`queue_gsum{instance="a",job="node"} 10`,
	`# HELP requests_total Requests.\nAll \\ of them.`,
	`# TYPE requests_total counter`,
	`requests_total{code="200",instance="a",job="node",path="a\"b\\c\nd"} 12`,
	`requests_total{code="500",instance="a",job="node"} 1e+30`,
	`# TYPE rest untyped`,
	`rest{instance="a",job="node",quantile="0.5"} 8`,
	`# TYPE size summary`,
	`size{instance="a",job="node",quantile="0.5"} 5`,
	`size{instance="a",job="node",quantile="0.99"} NaN`,
	`size_sum{instance="a",job="node"} 6`,
	`size_count{instance="a",job="node"} 7`,
	`# TYPE state gauge`,
	`state{instance="a",job="node",state="on"} 1`,
	`# TYPE utf_8 gauge`,
	`utf_8{a_b="c",instance="a",job="node",l_bel="ü"} 11`,
}

// nativeExposed is what Pushgateway 1.5.1 says in the text format of what addNative adds. It has no words for counts
// that are floats.
var nativeExposed = []string{
	`# TYPE native histogram`,
	`native_bucket{instance="a",job="node",le="+Inf"} 4`,
	`native_sum{instance="a",job="node"} 5`,
	`native_count{instance="a",job="node"} 4`,
	`# TYPE native_custom histogram`,
	`native_custom_bucket{instance="a",job="node",le="1"} 1`,
	`native_custom_bucket{instance="a",job="node",le="2"} 2`,
	`native_custom_bucket{instance="a",job="node",le="+Inf"} 3`,
	`native_custom_sum{instance="a",job="node"} 5`,
	`native_custom_count{instance="a",job="node"} 3`,
	`# TYPE native_empty histogram`,
	`native_empty_bucket{instance="a",job="node",le="+Inf"} 0`,
	`native_empty_sum{instance="a",job="node"} 0`,
	`native_empty_count{instance="a",job="node"} 0`,
	`# TYPE native_float histogram`,
	`native_float_bucket{instance="a",job="node",le="+Inf"} 0`,
	`native_float_sum{instance="a",job="node"} 5`,
	`native_float_count{instance="a",job="node"} 0`,
	`# TYPE native_gauge histogram`,
	`native_gauge_bucket{instance="a",job="node",le="+Inf"} 4`,
	`native_gauge_sum{instance="a",job="node"} 5`,
	`native_gauge_count{instance="a",job="node"} 4`,
}

func TestPushgatewayServesFamilies(t *testing.T) {
	f := func(want []string, rows ...*series.Row) {
		t.Helper()
		gateway := pushgateway(t)
		p := newPushed(t, ClientConfig{URL: "http://" + gateway})
		for _, row := range rows {
			p.Row("x", row)
		}
		p.flush(true)
		expect(t, "refused", p.refused)
		got := exposed(t, gateway)
		slices.Sort(got) // its own order depends on the format of the push
		expect(t, "exposition", got, slices.Sorted(slices.Values(want))...)
	}
	s := sourceOf("node", "a")
	now := time.UnixMilli(1_700_000_000_000)
	f(familiesExposed, familiesRow(s, now))
	native := familiesRow(s, now)
	addNative(native)
	f(slices.Concat(familiesExposed, nativeExposed), native)

	// Several sources of one group, which have the same series.
	other := sourceOf("node", "a")
	other.Key = "another"
	f(familiesExposed, familiesRow(s, now), familiesRow(other, now))
	f(slices.Concat(familiesExposed, nativeExposed), native, familiesRow(other, now))
}

// addNative adds native histograms of all sorts.
func addNative(row *series.Row) {
	var columns []series.Column
	add := func(name string, kind series.Kind, h *histogram.Histogram, fh *histogram.FloatHistogram) {
		f := series.Family{Name: name, Type: model.MetricTypeHistogram}
		if kind == series.GaugeHistogram {
			f.Type = model.MetricTypeGaugeHistogram
		}
		columns = append(columns, series.Column{Kind: kind, Family: f, Labels: labels.FromStrings("__name__", name)})
		row.Histograms = append(row.Histograms, series.HistogramAt{Column: uint32(len(row.Values)), H: h, FH: fh})
		row.Values = append(row.Values, 0)
	}
	exponential := &histogram.Histogram{
		Schema: 3, ZeroThreshold: 0.01, ZeroCount: 1, Count: 4, Sum: 5,
		PositiveSpans: []histogram.Span{{Offset: 1, Length: 2}}, PositiveBuckets: []int64{1, 1},
	}
	custom := &histogram.Histogram{
		Schema: histogram.CustomBucketsSchema, Count: 3, Sum: 5, CustomValues: []float64{1, 2},
		PositiveSpans: []histogram.Span{{Length: 2}}, PositiveBuckets: []int64{1, 0},
	}
	add("native", series.Histogram, exponential, nil)
	add("native_float", series.Histogram, nil, exponential.ToFloat(nil))
	add("native_gauge", series.GaugeHistogram, exponential, nil)
	add("native_custom", series.Histogram, custom, nil)
	add("native_empty", series.Histogram, &histogram.Histogram{}, nil)
	row.Schema = catalog.Extend(row.Schema, columns)
}

// Rows of every kind leave the gateway readable, whether it takes them or not.
func TestPushgatewayStaysReadable(t *testing.T) {
	gateway := pushgateway(t)
	p := newPushed(t, ClientConfig{URL: "http://" + gateway})
	w := seriestest.New(7)
	for i := range 300 {
		row := w.Row()
		s := *row.Source
		s.Labels = labels.NewBuilder(s.Labels).Set("job", "world").Set("instance", s.Key).Labels()
		row.Source = &s
		p.Row("x", row)
		p.flush(true)
		if i%50 == 0 {
			exposed(t, gateway)
		}
	}
	exposed(t, gateway)
	expect(t, "refused", p.refused)
	if testutil.ToFloat64(p.metrics.dropped) == 0 {
		t.Error("nothing was dropped") // the world is full of contradictions
	}
}

// FuzzClientPath: any job and instance come back from the path, which nothing on the way has a reason to clean.
func FuzzClientPath(f *testing.F) {
	f.Add("node", "localhost:9100")
	f.Add("..", "")
	f.Add("a/b", "a+b c%2F?#;")
	f.Fuzz(func(t *testing.T, job, instance string) {
		if job == "" || !utf8.ValidString(job) || !utf8.ValidString(instance) || len(job)+len(instance) > 1000 {
			return
		}
		u, err := url.Parse("http://gateway" + groupPath(job, instance, "ams-1"))
		if err != nil {
			t.Fatal(err)
		}
		if clean := path.Clean(u.Path); clean != u.Path || strings.Count(u.EscapedPath(), "/") != 7 {
			t.Errorf("%q is cleaned to %q", u.Path, clean)
		}
		by, err := parseGrouping(u.Path)
		if err != nil {
			t.Fatal(err)
		}
		if by.get("job") != job || by.get("instance") != instance || by.get("publisher") != "ams-1" {
			t.Errorf("job %q and instance %q are read as %v", job, instance, by)
		}
	})
}

// What lacks types, as all that is federated, or has other ones, is pushed under those that the gateway has.
func TestPushgatewayTypes(t *testing.T) {
	gateway := pushgateway(t)
	p := newPushed(t, ClientConfig{URL: "http://" + gateway})
	untyped := func(name string, ls ...string) series.Column { return column("", "", name, ls...) }
	first := rowOf(sourceOf("app", "first"),
		column("requests", "counter", "requests_total"),
		column("latency", "histogram", "latency_bucket", "le", "1"), column("latency", "histogram", "latency_bucket", "le", "+Inf"),
		column("latency", "histogram", "latency_sum"), column("latency", "histogram", "latency_count"),
		column("size", "summary", "size", "quantile", "0.5"), column("size", "summary", "size_sum"), column("size", "summary", "size_count"),
		untyped("half_count"), column("temperature", "gauge", "temperature"))
	federated := rowOf(sourceOf("app", "federated"),
		untyped("requests_total"),
		untyped("latency_bucket", "le", "1"), untyped("latency_bucket", "le", "+Inf"), untyped("latency_sum"), untyped("latency_count"),
		untyped("size", "quantile", "0.5"), untyped("size_sum"), untyped("size_count"),
		column("half", "histogram", "half_count"), column("half", "histogram", "half_sum"), column("half", "histogram", "half_bucket", "le", "+Inf"),
		column("temperature", "counter", "temperature"),
		untyped("go_goroutines"), untyped("process_cpu_seconds_total"), untyped("go_gc_duration_seconds", "quantile", "0"),
		untyped("go_gc_duration_seconds_sum"), untyped("go_gc_duration_seconds_count"), untyped("new"))
	p.Row("x", first)
	p.flush(true)
	p.Row("x", federated)
	p.flush(true)
	expect(t, "refused", p.refused)
	var got []string
	for _, line := range exposed(t, gateway) {
		if strings.Contains(line, "TYPE") || strings.Contains(line, "federated") {
			got = append(got, strings.ReplaceAll(line, `instance="federated",job="app"`, "_"))
		}
	}
	expect(t, "exposition", got,
		"# TYPE half_bucket untyped", `half_bucket{_,le="+Inf"} 11`, "# TYPE half_count untyped", "half_count{_} 9", "# TYPE half_sum untyped", "half_sum{_} 10",
		"# TYPE latency histogram", `latency_bucket{_,le="1"} 2`, `latency_bucket{_,le="+Inf"} 3`, "latency_sum{_} 4", "latency_count{_} 5",
		"# TYPE new untyped", "new{_} 18", "# TYPE requests_total counter", "requests_total{_} 1",
		"# TYPE size summary", `size{_,quantile="0.5"} 6`, "size_sum{_} 7", "size_count{_} 8", "# TYPE temperature gauge", "temperature{_} 12")

	// What cannot be at all is left out.
	p.Row("x", rowOf(sourceOf("app", "bad"), untyped("latency"), untyped("good")))
	p.flush(true)
	if n := testutil.ToFloat64(p.metrics.dropped); n != 1 || !strings.Contains(p.log.String(), "name=latency series=1 group=/metrics/job/app/instance/bad") {
		t.Errorf("%v series are dropped: %s", n, p.log.String())
	}
	if !slices.Contains(exposed(t, gateway), `good{instance="bad",job="app"} 2`) {
		t.Error("another series of the group is not there")
	}
	if n := testutil.ToFloat64(p.metrics.requests.WithLabelValues("refused")); n != 0 {
		t.Errorf("%v requests were refused", n)
	}

	// Others push, too: what they have pushed is known when it is in the way, but not more often than every minute.
	other := newPushed(t, ClientConfig{URL: "http://" + gateway})
	other.Row("x", rowOf(sourceOf("other", "one"), column("theirs", "counter", "theirs")))
	other.flush(true)
	theirs := rowOf(sourceOf("app", "late"), untyped("theirs"))
	p.time = p.time.Add(59 * time.Second)
	p.Row("x", theirs)
	p.flush(true)
	if len(p.refused) != 1 || !strings.Contains(p.refused[0], `collected metric "theirs"`) {
		t.Errorf("refused: %q", p.refused)
	}
	p.refused = nil
	p.time = p.time.Add(time.Second)
	p.Row("x", theirs)
	p.flush(true)
	expect(t, "refused", p.refused)
}

// A gateway without its consistency check takes everything, and would serve nothing after one contradiction.
func TestPushgatewayWithoutCheck(t *testing.T) {
	gateway := pushgateway(t, "--push.disable-consistency-check")
	p := newPushed(t, ClientConfig{URL: "http://" + gateway})
	for i, typ := range []model.MetricType{"", "gauge", "histogram", "counter", "summary"} {
		p.Row("x", rowOf(sourceOf("app", fmt.Sprint(i)),
			column("a", typ, "a"), column("b", typ, "b_count"), column("b", typ, "b_sum"), column("b", typ, "b_bucket", "le", "+Inf"),
			column("go_goroutines", "", "go_goroutines"), column("go_gc_duration_seconds", typ, "go_gc_duration_seconds_sum")))
	}
	p.flush(true)
	expect(t, "refused", p.refused)
	for end := time.Now().Add(time.Minute); ; { // it answers before it has stored
		n := strings.Count(strings.Join(exposed(t, gateway), "\n"), "b_sum{")
		if n == 5 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d series are there", n)
		}
	}
}
