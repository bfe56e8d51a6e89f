package push

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// column is one of a family.
func column(family string, typ model.MetricType, name string, ls ...string) series.Column {
	return series.Column{Family: series.Family{Name: family, Type: typ}, Labels: labels.FromStrings(append([]string{"__name__", name}, ls...)...)}
}

// rowOf makes a row whose values are 1, 2 and so on.
func rowOf(s *series.Source, columns ...series.Column) *series.Row {
	row := &series.Row{Source: s, T: 1_700_000_000_000, Schema: catalog.Extend(catalog.Empty(), columns)}
	for i := range columns {
		row.Values = append(row.Values, float64(i+1))
	}
	return row
}

func TestClientLearnsTypes(t *testing.T) {
	g := newRecorder(t)
	p := newPushed(t, ClientConfig{URL: g.URL})
	push := func(done bool) {
		t.Helper()
		p.Row("x", wholeRow(sourceOf("node", "a"), p.time, "up", 1.0))
		p.flush(done)
	}
	// It is not there: nothing is pushed blindly.
	g.exposes = http.StatusServiceUnavailable
	push(false)
	expect(t, "requests", g.takeRequests())
	if err := p.Problem(); err == nil || !strings.Contains(err.Error(), "GET /metrics: 503 Service Unavailable") {
		t.Error(err)
	}
	// It is there.
	g.exposes, g.exposition = http.StatusOK, "# TYPE up counter\nup 1\n"
	p.time = p.time.Add(time.Second)
	push(true)
	push(true)
	expect(t, "requests", g.takeRequests(), "PUT /metrics/job/node/instance/a # TYPE up counter\nup 1\n", "PUT /metrics/job/node/instance/a # TYPE up counter\nup 1\n")
	// It does not say any more: what is known stays so.
	g.exposes = http.StatusInternalServerError
	p.time = p.time.Add(learnedFor + time.Second)
	push(true)
	push(true)
	expect(t, "requests", g.takeRequests(), "PUT /metrics/job/node/instance/a # TYPE up counter\nup 1\n", "PUT /metrics/job/node/instance/a # TYPE up counter\nup 1\n")
	if g.asked != 3 || strings.Count(p.log.String(), "types of what the Push Gateway has are not known") != 1 {
		t.Errorf("it was asked %d times: %s", g.asked, p.log.String())
	}
}

func TestReadTypes(t *testing.T) {
	long := strings.Repeat("x", 5000) + "\n"
	got, err := readTypes(strings.NewReader("# HELP a " + long + "# TYPE a counter\na 1\n# TYPE b untyped\n# TYPE c\n## TYPE d gauge\n# TYPE e histogram"))
	want := gatewayTypes{"a": "counter", "b": "unknown", "e": "histogram"}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("types are %v, error %v", got, err)
	}
}

// Whatever a source says, and whatever the gateway has, a body can be read, and each series is in it once.
func TestClientBodyCanBeRead(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	types := []model.MetricType{"", "counter", "gauge", "histogram", "summary", "gaugehistogram", "info"}
	suffixes := []string{"", "_bucket", "_sum", "_count", "_total"}
	b := newClientBody()
	for range 3000 {
		var columns []series.Column
		seen := map[string]bool{}
		has := gatewayTypes{}
		for range random.IntN(30) {
			family := string(rune('a' + random.IntN(3)))
			name := family + suffixes[random.IntN(len(suffixes))]
			c := column(family, types[random.IntN(len(types))], name)
			if l := random.IntN(4); l > 0 {
				c = column(family, c.Family.Type, name, []string{"", "le", "quantile", "code"}[l], []string{"1", "+Inf", "0.5"}[random.IntN(3)])
			}
			if text := c.Labels.String(); !seen[text] {
				seen[text] = true
				columns = append(columns, c)
			}
			if random.IntN(3) == 0 {
				has[family+suffixes[random.IntN(len(suffixes))]] = types[random.IntN(5)]
			}
		}
		row := rowOf(sourceOf("job", "instance"), columns...)
		g := &outgoing{}
		g.memberOf(row.Source, time.UnixMilli(0)).take(row, time.UnixMilli(0))
		content, _ := b.make(g, []labels.Label{{Name: "job", Value: "job"}, {Name: "instance", Value: "instance"}}, has)
		parser := expfmt.NewTextParser(model.LegacyValidation)
		_, err := parser.TextToMetricFamilies(strings.NewReader(string(content)))
		if err != nil {
			t.Fatalf("%v\n%s\nof %v\nfor %v", err, content, columns, has)
		}
		lines := 0
		for line := range strings.Lines(string(content)) {
			if !strings.HasPrefix(line, "#") {
				lines++
			}
		}
		if lines+b.dropped != len(columns) {
			t.Fatalf("%d of %d series are in\n%s\nof %v\nfor %v", lines, len(columns), content, columns, has)
		}
	}
}

// BenchmarkClientBody makes the body of a row of 1,000 series in histograms of ten.
func BenchmarkClientBody(b *testing.B) {
	row := &series.Row{Source: sourceOf("node", "a", "zone", "1"), T: 1}
	var columns []series.Column
	latency := series.Family{Name: "http_request_duration_seconds", Type: model.MetricTypeHistogram, Help: "Latency of requests."}
	for path := range 100 {
		for i := range 10 {
			name, le := "http_request_duration_seconds_bucket", fmt.Sprint(i)
			switch i {
			case 7:
				le = "+Inf"
			case 8:
				name, le = "http_request_duration_seconds_sum", ""
			case 9:
				name, le = "http_request_duration_seconds_count", ""
			}
			columns = append(columns, series.Column{Family: latency, Labels: labels.FromStrings("__name__", name, "le", le, "path", fmt.Sprintf("/api/v1/%d", path))})
			row.Values = append(row.Values, float64(path*i))
		}
	}
	row.Schema = catalog.Extend(catalog.Empty(), columns)
	g := &outgoing{}
	g.memberOf(row.Source, time.UnixMilli(1)).take(row, time.UnixMilli(1))
	grouping := []labels.Label{{Name: "job", Value: "node"}, {Name: "instance", Value: "a"}}
	body := newClientBody()
	b.ReportAllocs()
	for b.Loop() {
		body.make(g, grouping, gatewayTypes{})
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(columns)), "ns/sample")
}
