package expo_test

import (
	"bytes"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/expo"
)

// What Prometheus writes with is the oracle: every generated family has to come out the same, byte for byte.
func TestTextAgreesWithPrometheus(t *testing.T) {
	names := []string{"up", "a:b", "http_requests_total", "my.utf8.metric", "温度", `with "quote"`, "back\\slash", "new\nline", "9lives"}
	values := []string{"", "x", `C:\dir`, "two\nlines", `say "hi"`, "日本", "{}=,"}
	floats := []float64{0, math.Copysign(0, -1), 1, -1, 0.1, 1e300, 1234567890123456789, 1e21, 1e20, 5e-324,
		math.MaxFloat64, math.Inf(1), math.Inf(-1), math.NaN(), 100000, 123456.789}
	types := map[model.MetricType]dto.MetricType{
		model.MetricTypeUnknown: dto.MetricType_UNTYPED, model.MetricTypeCounter: dto.MetricType_COUNTER,
		model.MetricTypeGauge: dto.MetricType_GAUGE, "nonsense": dto.MetricType_UNTYPED, "": dto.MetricType_UNTYPED,
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	pick := func(from []string) string { return from[rnd.IntN(len(from))] }
	for range 2000 {
		scheme := model.EscapingScheme(rnd.IntN(4))
		text := expo.Text{Escaping: scheme}
		family := &dto.MetricFamily{Name: new(pick(names))}
		typ := model.MetricTypeUnknown
		for candidate := range types { // any order will do
			typ = candidate
			break
		}
		family.Type = types[typ].Enum()
		help := pick(values)
		if help != "" {
			family.Help = new(help)
		}
		got := text.AppendFamily(nil, family.GetName(), typ, help)
		for range 1 + rnd.IntN(3) {
			m := &dto.Metric{TimestampMs: new(rnd.Int64N(4e12) - 2e12)}
			var ls []labels.Label
			for range rnd.IntN(4) {
				l := labels.Label{Name: pick(names), Value: pick(values)}
				ls = append(ls, l)
				m.Label = append(m.Label, &dto.LabelPair{Name: new(l.Name), Value: new(l.Value)})
			}
			v := floats[rnd.IntN(len(floats))]
			switch family.GetType() {
			case dto.MetricType_COUNTER:
				m.Counter = &dto.Counter{Value: new(v)}
			case dto.MetricType_GAUGE:
				m.Gauge = &dto.Gauge{Value: new(v)}
			default:
				m.Untyped = &dto.Untyped{Value: new(v)}
			}
			family.Metric = append(family.Metric, m)
			got = text.AppendSample(got, family.GetName(), "", ls, v, m.GetTimestampMs())
		}
		if want := prometheusText(t, family, scheme); string(got) != want {
			t.Fatalf("escaping %s:\n got %q\nwant %q", scheme, got, want)
		}
	}
}

func prometheusText(t *testing.T, family *dto.MetricFamily, scheme model.EscapingScheme) string {
	t.Helper()
	var b bytes.Buffer
	if _, err := expfmt.MetricFamilyToText(&b, model.EscapeMetricFamily(family, scheme)); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestTextHistogram(t *testing.T) {
	h := &histogram.FloatHistogram{
		Schema: histogram.CustomBucketsSchema, Count: 10, Sum: 3.5,
		CustomValues:    []float64{0.1, 1, 5},
		PositiveSpans:   []histogram.Span{{Offset: 0, Length: 1}, {Offset: 1, Length: 2}},
		PositiveBuckets: []float64{2, 3, 5}, // nothing up to 1, five above 5
	}
	f := func(name string, ls []labels.Label, want string) {
		t.Helper()
		got := expo.Text{}.AppendHistogram(nil, name, ls, h, 1000)
		if string(got) != strings.TrimPrefix(want, "\n") {
			t.Errorf("got\n%s", got)
		}
	}
	f("rpc_seconds", []labels.Label{{Name: "job", Value: "x"}}, `
rpc_seconds_bucket{job="x",le="0.1"} 2 1000
rpc_seconds_bucket{job="x",le="1"} 2 1000
rpc_seconds_bucket{job="x",le="5"} 5 1000
rpc_seconds_bucket{job="x",le="+Inf"} 10 1000
rpc_seconds_sum{job="x"} 3.5 1000
rpc_seconds_count{job="x"} 10 1000
`)
	f("rpc.seconds", nil, `
{"rpc.seconds_bucket",le="0.1"} 2 1000
{"rpc.seconds_bucket",le="1"} 2 1000
{"rpc.seconds_bucket",le="5"} 5 1000
{"rpc.seconds_bucket",le="+Inf"} 10 1000
{"rpc.seconds_sum"} 3.5 1000
{"rpc.seconds_count"} 10 1000
`)
	h.Schema = 1
	f("rpc_seconds", nil, "")
}

// Custom buckets come out as Prometheus writes the classic histogram of the same counts.
func TestTextHistogramAgreesWithPrometheus(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		h := &histogram.FloatHistogram{Schema: histogram.CustomBucketsSchema, Sum: rnd.NormFloat64() * 1e6}
		bounds := rnd.IntN(6)
		counts := make([]float64, bounds+1) // the last one has no bound
		for i := range bounds {
			h.CustomValues = append(h.CustomValues, float64(i*i)*0.3-1)
		}
		last := -1
		for i := range counts {
			if rnd.IntN(3) == 0 {
				continue // not in a span
			}
			counts[i] = float64(rnd.IntN(100))
			h.Count += counts[i]
			h.PositiveSpans = append(h.PositiveSpans, histogram.Span{Offset: int32(i - last - 1), Length: 1})
			h.PositiveBuckets = append(h.PositiveBuckets, counts[i])
			last = i
		}
		classic := &dto.Histogram{SampleCountFloat: new(h.Count), SampleSum: new(h.Sum)}
		cumulative := 0.0
		for i, bound := range h.CustomValues {
			cumulative += counts[i]
			classic.Bucket = append(classic.Bucket, &dto.Bucket{UpperBound: new(bound), CumulativeCountFloat: new(cumulative)})
		}
		metric := &dto.Metric{Histogram: classic, TimestampMs: new(int64(7)), Label: []*dto.LabelPair{{Name: new("job"), Value: new("j")}}}
		family := &dto.MetricFamily{Name: new("h"), Type: dto.MetricType_HISTOGRAM.Enum(), Metric: []*dto.Metric{metric}}
		text := expo.Text{}
		got := text.AppendFamily(nil, "h", model.MetricTypeHistogram, "")
		got = text.AppendHistogram(got, "h", []labels.Label{{Name: "job", Value: "j"}}, h, 7)
		if want := prometheusText(t, family, model.NoEscaping); string(got) != want {
			t.Fatalf("%v:\n got %s\nwant %s", h, got, want)
		}
	}
}

func TestTextTypesAndHelp(t *testing.T) {
	f := func(typ model.MetricType, help, want string) {
		t.Helper()
		if got := (expo.Text{Escaping: model.DotsEscaping}).AppendFamily(nil, "a.b_c", typ, help); string(got) != want {
			t.Errorf("%s: got %q, want %q", typ, got, want)
		}
	}
	f(model.MetricTypeHistogram, "", "# TYPE a_dot_b__c histogram\n")
	f(model.MetricTypeGaugeHistogram, "", "# TYPE a_dot_b__c histogram\n")
	f(model.MetricTypeSummary, "", "# TYPE a_dot_b__c summary\n")
	f(model.MetricTypeInfo, "", "# TYPE a_dot_b__c gauge\n")
	f(model.MetricTypeStateset, "bad \xff byte", "# HELP a_dot_b__c bad \uFFFD byte\n# TYPE a_dot_b__c gauge\n")
}
