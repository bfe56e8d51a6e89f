package expo_test

import (
	"bytes"
	"io"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/thalweg/thalweg/internal/expo"
	"github.com/thalweg/thalweg/internal/series"
)

func newExemplar(v float64, ms int64, ls ...string) (*exemplar.Exemplar, *dto.Exemplar) {
	e := &exemplar.Exemplar{Labels: labels.FromStrings(ls...), Value: v, Ts: ms, HasTs: ms != 0}
	d := &dto.Exemplar{Value: new(v)}
	if e.HasTs {
		d.Timestamp = timestamppb.New(time.UnixMilli(ms))
	}
	e.Labels.Range(func(l labels.Label) {
		d.Label = append(d.Label, &dto.LabelPair{Name: new(l.Name), Value: new(l.Value)})
	})
	return e, d
}

// Families of one sample per metric come out as expfmt writes them, byte for byte.
func TestOpenMetricsAgreesWithExpfmt(t *testing.T) {
	names := []string{"up", "a:b", "http_requests_total", "total", "_total", "my.utf8.metric", "my.utf8_total", `with "quote"`, "new\nline"}
	values := []string{"", "x", `C:\dir`, "two\nlines", `say "hi"`, "日本", "{}=,"}
	floats := []float64{0, 1, -1, 0.1, 1e300, 1234567890123456789, 5e-324, math.Inf(1), math.Inf(-1), math.NaN(), 100000, 123456.789}
	rnd := rand.New(rand.NewPCG(5, 6))
	pick := func(from []string) string { return from[rnd.IntN(len(from))] }
	for range 3000 {
		scheme := model.EscapingScheme(rnd.IntN(4))
		om := expo.OpenMetrics{Escaping: scheme}
		name, help := pick(names), pick(values)
		f := &series.Family{Name: name, Help: help}
		family := &dto.MetricFamily{Name: new(name)}
		if help != "" {
			family.Help = new(help)
		}
		switch rnd.IntN(3) {
		case 0:
			f.Type, family.Type = model.MetricTypeCounter, dto.MetricType_COUNTER.Enum()
		case 1:
			f.Type, family.Type = model.MetricTypeGauge, dto.MetricType_GAUGE.Enum()
		case 2:
			f.Type, family.Type = model.MetricTypeUnknown, dto.MetricType_UNTYPED.Enum()
		}
		if name == "_total" && f.Type == model.MetricTypeCounter {
			continue // expfmt makes a family without a name of it
		}
		got := om.AppendFamily(nil, f)
		for range 1 + rnd.IntN(3) {
			// Later times expfmt writes with exponents, and some that readers take for a millisecond less.
			m := &dto.Metric{TimestampMs: new(1000 * rnd.Int64N(1e5))}
			var ls []labels.Label
			for range rnd.IntN(3) {
				l := labels.Label{Name: pick(names), Value: pick(values)}
				ls = append(ls, l)
				m.Label = append(m.Label, &dto.LabelPair{Name: new(l.Name), Value: new(l.Value)})
			}
			v := floats[rnd.IntN(len(floats))]
			var e *exemplar.Exemplar
			start := int64(0)
			switch family.GetType() {
			case dto.MetricType_COUNTER:
				m.Counter = &dto.Counter{Value: new(v)}
				if strings.HasSuffix(name, "_total") {
					e, m.Counter.Exemplar = newExemplar(v, int64(rnd.IntN(2)*2000), "trace.id", pick(values))
					if rnd.IntN(2) == 0 {
						start = 1500
						m.Counter.CreatedTimestamp = timestamppb.New(time.UnixMilli(start))
					}
				}
			case dto.MetricType_GAUGE:
				m.Gauge = &dto.Gauge{Value: new(v)}
			default:
				m.Untyped = &dto.Untyped{Value: new(v)}
			}
			if scheme != model.NoEscaping && m.GetCounter().GetExemplar() != nil {
				m.Counter.Exemplar.Label[0].Name = new(model.EscapeName("trace.id", scheme)) // expfmt forgets it
			}
			family.Metric = append(family.Metric, m)
			got = om.AppendSample(got, name, "", ls, v, m.GetTimestampMs(), e)
			if start != 0 {
				got = om.AppendCreated(got, f, ls, start)
			}
		}
		if want := expfmtOpenMetrics(t, family, scheme); string(got) != want {
			t.Fatalf("escaping %s:\n got %q\nwant %q", scheme, got, want)
		}
	}
}

func expfmtOpenMetrics(t *testing.T, family *dto.MetricFamily, scheme model.EscapingScheme) string {
	t.Helper()
	var b bytes.Buffer
	if _, err := expfmt.MetricFamilyToOpenMetrics(&b, model.EscapeMetricFamily(family, scheme), expfmt.WithCreatedLines()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestOpenMetricsHistogram(t *testing.T) {
	e, d := newExemplar(0.7, 3000, "trace_id", "x")
	family := &dto.MetricFamily{
		Name: new("rpc_seconds"), Help: new(`How "long".`), Unit: new("seconds"), Type: dto.MetricType_HISTOGRAM.Enum(),
		Metric: []*dto.Metric{{
			Label: []*dto.LabelPair{{Name: new("job"), Value: new("j")}}, TimestampMs: new(int64(5000)),
			Histogram: &dto.Histogram{
				SampleCount: new(uint64(7)), SampleSum: new(3.5), CreatedTimestamp: timestamppb.New(time.UnixMilli(2000)),
				Bucket: []*dto.Bucket{{UpperBound: new(1.0), CumulativeCount: new(uint64(4)), Exemplar: d}},
			},
		}},
	}
	f := &series.Family{Name: "rpc_seconds", Help: `How "long".`, Unit: "seconds", Type: model.MetricTypeHistogram}
	ls := []labels.Label{{Name: "job", Value: "j"}}
	om := expo.OpenMetrics{}
	head := om.AppendFamily(nil, f)
	got := om.AppendSample(head, "rpc_seconds", "_bucket", append(ls[:1:1], labels.Label{Name: "le", Value: "1.0"}), 4, 5000, e)
	got = om.AppendSample(got, "rpc_seconds", "_bucket", append(ls[:1:1], labels.Label{Name: "le", Value: "+Inf"}), 7, 5000, nil)
	got = om.AppendSample(got, "rpc_seconds", "_sum", ls, 3.5, 5000, e) // no place for an exemplar
	got = om.AppendSample(got, "rpc_seconds", "_count", ls, 7, 5000, nil)
	got = om.AppendCreated(got, f, ls, 2000)
	if want := expfmtOpenMetrics(t, family, model.NoEscaping); string(got) != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}

	family.Metric[0].Histogram.Bucket[0].Exemplar = nil
	h := &histogram.FloatHistogram{
		Schema: histogram.CustomBucketsSchema, Count: 7, Sum: 3.5, CustomValues: []float64{1},
		PositiveSpans: []histogram.Span{{Length: 2}}, PositiveBuckets: []float64{4, 3},
	}
	got = om.AppendHistogram(om.AppendFamily(nil, f), "rpc_seconds", ls, h, 5000)
	got = om.AppendCreated(got, f, ls, 2000)
	if want := expfmtOpenMetrics(t, family, model.NoEscaping); string(got) != want {
		t.Errorf("custom buckets: got\n%swant\n%s", got, want)
	}
	h.Schema = 0
	if got := om.AppendHistogram(nil, "rpc_seconds", ls, h, 5000); len(got) != 0 {
		t.Errorf("exponential buckets: got %s", got)
	}
}

func TestOpenMetricsFamilies(t *testing.T) {
	f := func(name string, typ model.MetricType, unit, want string) {
		t.Helper()
		got := expo.OpenMetrics{Escaping: model.UnderscoreEscaping}.AppendFamily(nil, &series.Family{Name: name, Type: typ, Unit: unit})
		if string(got) != want {
			t.Errorf("%s %s: got %q, want %q", name, typ, got, want)
		}
	}
	f("a_bytes_total", "counter", "bytes", "# TYPE a_bytes counter\n# UNIT a_bytes bytes\n")
	f("a_bytes", "counter", "bytes", "# TYPE a_bytes unknown\n# UNIT a_bytes bytes\n")
	f("a_bytes", "gauge", "seconds", "# TYPE a_bytes gauge\n")
	f("abytes", "gauge", "bytes", "# TYPE abytes gauge\n")
	f("a.b_bytes", "gauge", "b.bytes", "# TYPE a_b_bytes gauge\n")
	f("a.b_bytes", "gauge", "bytes", "# TYPE a_b_bytes gauge\n# UNIT a_b_bytes bytes\n")
	f("build_info", "info", "", "# TYPE build info\n")
	f("build", "info", "", "# TYPE build unknown\n")
	f("_total", "counter", "", "# TYPE _total unknown\n")
	f("s", "stateset", "", "# TYPE s stateset\n")
	f("g", "gaugehistogram", "", "# TYPE g gaugehistogram\n")
	f("s", "summary", "", "# TYPE s summary\n")
	f("x", "", "", "# TYPE x unknown\n")
	f("x", "nonsense", "", "# TYPE x unknown\n")
}

// Readers cut times off behind the millisecond.
func TestOpenMetricsTimesSurvive(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	om := expo.OpenMetrics{}
	body := om.AppendFamily(nil, &series.Family{Name: "m", Type: model.MetricTypeUnknown})
	var want []int64
	for i := range 20_000 {
		ms := int64(i * 37)
		switch i % 4 {
		case 1:
			ms = 1_700_000_000_000 + rnd.Int64N(1e12)
		case 2:
			ms = rnd.Int64N(1 << 43)
		case 3:
			ms = -rnd.Int64N(1e9)
		}
		want = append(want, ms)
		body = om.AppendSample(body, "m", "", nil, 1, ms, nil)
	}
	p := textparse.NewOpenMetricsParser(om.AppendEnd(body), labels.NewSymbolTable())
	for i := 0; ; {
		entry, err := p.Next()
		if err == io.EOF {
			if i != len(want) {
				t.Errorf("%d samples, want %d", i, len(want))
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if entry == textparse.EntrySeries {
			if _, ms, _ := p.Series(); *ms != want[i] {
				t.Fatalf("time is %d, want %d", *ms, want[i])
			}
			i++
		}
	}
}
