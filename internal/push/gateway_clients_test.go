package push

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientpush "github.com/prometheus/client_golang/prometheus/push"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// TestGoClient pushes as Go programs do.
func TestGoClient(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	started := prometheus.NewGauge(prometheus.GaugeOpts{Name: "started", Help: "When."})
	started.Set(5)
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "seconds", Buckets: []float64{1, 2}, NativeHistogramBucketFactor: 1.1,
	}, []string{"step"})
	seconds.WithLabelValues("dump").(prometheus.ExemplarObserver).ObserveWithExemplar(1.5, prometheus.Labels{"trace_id": "abc"})
	p := clientpush.New(r.address(), "back/up").Grouping("instance", "db 1").Grouping("path", "/var").Grouping("empty", "").
		Collector(started).Collector(seconds)
	f := func(err error, want ...string) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if got := r.taken(); !slices.Equal(got, want) {
			t.Errorf("rows are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	// A space in a label is a plus on the way, and stays one, as at the original.
	const key, by = "push/job/back%2Fup/empty//instance/db+1/path/%2Fvar", `instance="db+1", job="back/up", path="/var"`
	histogram := fmt.Sprintf(` histogram {__name__="seconds", %[1]s, step="dump"} histogram {__name__="seconds_count", %[1]s, step="dump"}=1`+
		` histogram {__name__="seconds_sum", %[1]s, step="dump"}=1.5`+
		` histogram {__name__="seconds_bucket", %[2]s, le="1.0", path="/var", step="dump"}=0`+
		` histogram {__name__="seconds_bucket", %[2]s, le="2.0", path="/var", step="dump"}=1`+
		` histogram {__name__="seconds_bucket", %[2]s, le="+Inf", path="/var", step="dump"}=1`, by, `instance="db+1", job="back/up"`)
	row := key + ":" + histogram + ` gauge {__name__="started", ` + by + `}=5`
	f(p.Push(), row)
	f(p.Add(), row)
	f(p.Delete(), key+": end")
	f(p.Delete())
}

// TestExtrasOfGoClient: what only protobuf can say arrives.
func TestExtrasOfGoClient(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "c_total"})
	c.(prometheus.ExemplarAdder).AddWithExemplar(2, prometheus.Labels{"trace_id": "abc"})
	if err := clientpush.New(r.address(), "j").Collector(c).Push(); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	row := r.rows[0]
	if len(row.Exemplars) != 1 || row.Exemplars[0].Exemplar.Labels.Get("trace_id") != "abc" || !row.Exemplars[0].Exemplar.HasTs {
		t.Errorf("exemplars are %+v", row.Exemplars)
	}
	if len(row.Starts) != 1 || row.Starts[0].Ms == 0 {
		t.Errorf("starts are %+v", row.Starts)
	}
}

// TestPythonClient pushes as Python programs do.
func TestPythonClient(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	python, err := exec.LookPath("python-prometheus-client")
	if err != nil {
		t.Fatalf("%v; scripts/tools.sh installs it, make test knows where", err)
	}
	const script = `
import sys
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, push_to_gateway, pushadd_to_gateway, delete_from_gateway
def registry(value):
    registry = CollectorRegistry()
    Gauge('last', 'When.', registry=registry).set(value)
    return registry
address, key = sys.argv[1], {'instance': 'db 1', 'path': '/var', 'empty': ''}
push_to_gateway(address, 'py/thon', registry(1), key)
pushadd_to_gateway(address, 'py/thon', registry(2), key)
other = CollectorRegistry()
Counter('events', 'Some.', ['kind'], registry=other).labels('a').inc(3)
Histogram('h', 'Some.', buckets=[1], registry=other).observe(0.5)
pushadd_to_gateway(address, 'py/thon', other, key)
delete_from_gateway(address, 'py/thon', key)
`
	cmd := exec.Command(python, "-c", script, r.address())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got := r.taken()
	const key, by = "push/job/py%2Fthon/empty//instance/db+1/path/%2Fvar", `instance="db+1", job="py/thon", path="/var"`
	if len(got) != 4 || got[0] != key+`: gauge {__name__="last", `+by+"}=1" || got[1] != key+`: gauge {__name__="last", `+by+"}=2" || got[3] != key+": end" {
		t.Fatalf("rows are\n%s", strings.Join(got, "\n"))
	}
	for _, want := range []string{
		`counter {__name__="events_total", instance="db+1", job="py/thon", kind="a", path="/var"}=3`, `gauge {__name__="events_created"`,
		`histogram {__name__="h_bucket", instance="db+1", job="py/thon", le="1.0", path="/var"}=1`, `gauge {__name__="last", ` + by + "}=2",
	} {
		if !strings.Contains(got[2], want) {
			t.Errorf("the row lacks %s\n%s", want, got[2])
		}
	}
}

// TestServeMetrics reads what is served as a Prometheus does, in all formats, with families that take several pieces.
func TestServeMetrics(t *testing.T) {
	r := newRig(t, t.TempDir(), func(o *Options) { o.Own = true })
	help := strings.Repeat("h", 90<<10)
	const groups = 12
	for i := range groups {
		r.want(t, 200, "PUT", fmt.Sprintf("/metrics/job/j%d", i), "# HELP x "+help+"\n# TYPE x counter\nx_total 1\nx 2\n# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n")
	}
	r.want(t, 400, "PUT", "/metrics/job/own", "thalweg_push_groups 1\n")
	for _, accept := range []string{"text/plain", "application/openmetrics-text; version=1.0.0", protobufType, "application/openmetrics-text; version=0.0.1"} {
		q := request{method: "GET", path: "/metrics", header: http.Header{"Accept": {accept}}}
		_, answer, header := q.do(t, r.address())
		format := expfmt.ResponseFormat(header)
		if format.FormatType() == expfmt.TypeOpenMetrics {
			if !strings.HasSuffix(answer, "\n# EOF\n") || strings.Count(answer, "# TYPE h histogram\n") != 1 {
				t.Errorf("%s: the answer does not end, or a family has two heads", accept)
			}
			answer = strings.TrimSuffix(answer, "# EOF\n")
			format = expfmt.NewFormat(expfmt.TypeTextPlain)
		} else if format.FormatType() == expfmt.TypeTextPlain && strings.Count(answer, "# HELP x ") != 1 {
			t.Errorf("%s: a family has %d heads", accept, strings.Count(answer, "# HELP x "))
		}
		found := map[string]int{}
		for d := expfmt.NewDecoder(bytes.NewReader([]byte(answer)), format); ; {
			var f dto.MetricFamily
			if d.Decode(&f) != nil {
				break
			}
			found[f.GetName()] += len(f.Metric)
			if f.GetName() == "x" && !strings.HasPrefix(f.GetHelp(), "hh") {
				t.Errorf("%s: the help is %.10q", accept, f.GetHelp())
			}
		}
		for _, name := range []string{"h", pushName, failureName} {
			if found[name] < groups {
				t.Errorf("%s: %s has %d metrics: %v", accept, name, found[name], found)
			}
		}
		if found["thalweg_push_groups"] != 1 {
			t.Errorf("%s: the gateway says nothing of itself: %v", accept, found)
		}
	}
}

func FuzzPath(f *testing.F) {
	for _, c := range contract() {
		f.Add(c.path)
	}
	keys := map[string]string{}
	f.Fuzz(func(t *testing.T, path string) {
		by, err := parseGrouping(path)
		if err != nil {
			return
		}
		if by.get("job") == "" || !slices.IsSortedFunc(by, func(a, b labels.Label) int { return cmp.Compare(a.Name, b.Name) }) {
			t.Errorf("%q is %v", path, by)
		}
		// Two groups have two keys.
		if other, ok := keys[by.key()]; ok && other != fmt.Sprintf("%q", by) {
			t.Errorf("%q and %s have the key %s", by, other, by.key())
		}
		keys[by.key()] = fmt.Sprintf("%q", by)
	})
}

// FuzzBody: whatever is pushed, it is refused or makes a row that is worth it, and can be served and read again.
func FuzzBody(f *testing.F) {
	for _, c := range contract() {
		f.Add([]byte(c.body), c.header.Get("Content-Type") == protobufType)
	}
	by := grouping{{Name: "instance", Value: ""}, {Name: "job", Value: "j"}}
	catalog := series.NewCatalog()
	f.Fuzz(func(t *testing.T, body []byte, delimited bool) {
		contentType := ""
		if delimited {
			contentType = protobufType
		}
		families, err := decode(body, contentType)
		if err != nil {
			return
		}
		next, err := by.pushed(nil, &push{families: families, at: time.Unix(1e9, 0)})
		if err != nil {
			return
		}
		x := newIndex()
		if err := x.check(next); err != nil {
			return
		}
		if err := next.makeRow(catalog, by); err != nil {
			return
		}
		if next.row.Samples() < 2 || len(next.row.Values) != next.row.Schema.Len() {
			t.Errorf("the row has %d samples of %d", next.row.Samples(), next.row.Schema.Len())
		}
		// What is on disk is the same.
		r, _, err := nextRecord(appendRecord(nil, "s", by, next))
		if err != nil {
			t.Fatal(err)
		}
		again, err := by.restored(r.state)
		if err != nil {
			t.Fatal(err)
		}
		if err := again.makeRow(catalog, by); err != nil || again.row.Schema != next.row.Schema || again.series != next.series || again.bytes != next.bytes {
			t.Errorf("after a restart it is another row, %v", err)
		}
		out := exposition{out: bufio.NewWriter(io.Discard), format: expfmt.NewFormat(expfmt.TypeTextPlain)}
		for i := range next.families {
			if len(next.families[i].hashes) == 0 {
				continue
			}
			if err := out.family([]*family{&next.families[i]}); err != nil {
				t.Error(err)
			}
		}
		if _, err := (&content{by, next}).describe(); err != nil {
			t.Error(err)
		}
	})
}
