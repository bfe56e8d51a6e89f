package expo_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/thalweg/thalweg/internal/expo"
	"github.com/thalweg/thalweg/internal/series"
)

// metricMaker makes the same metric twice, once with the types of the protobuf library.
type metricMaker struct{ *rand.Rand }

func (r metricMaker) float() float64 {
	return []float64{0, 1, -1.5, 1e300, math.Inf(1), math.NaN(), 12345.75}[r.IntN(7)]
}

func (r metricMaker) text() string {
	return []string{"", "x", "two\nlines", "日本", `q"`, "a.b"}[r.IntN(6)]
}

func (r metricMaker) name() string {
	return []string{"up", "a:b", "my.utf8.metric", "温度", "9lives"}[r.IntN(5)]
}

func (r metricMaker) count() float64 {
	return []float64{0, 3, 1 << 40, 0.5, -2, math.NaN()}[r.IntN(6)]
}

func (r metricMaker) exemplar() (*exemplar.Exemplar, *dto.Exemplar) {
	if r.IntN(2) == 0 {
		return nil, nil
	}
	times := []int64{0, 1, 1_700_000_000_123, -1, -2000}
	return newExemplar(r.float(), times[r.IntN(len(times))], "trace_id", r.text(), "z", "")
}

func (r metricMaker) start() (int64, *timestamppb.Timestamp) {
	if r.IntN(2) == 0 {
		return 0, nil
	}
	return 1_600_000_000_500, timestamppb.New(time.UnixMilli(1_600_000_000_500))
}

func (r metricMaker) spans() (spans []histogram.Span, proto []*dto.BucketSpan, buckets int) {
	for range r.IntN(3) {
		s := histogram.Span{Offset: int32(r.IntN(20) - 10), Length: uint32(1 + r.IntN(3))}
		spans, buckets = append(spans, s), buckets+int(s.Length)
		proto = append(proto, &dto.BucketSpan{Offset: new(s.Offset), Length: new(s.Length)})
	}
	return spans, proto, buckets
}

func (r metricMaker) metric(typ model.MetricType) (*expo.Metric, *dto.Metric) {
	m := &expo.Metric{T: r.Int64N(4e12) - 1e12}
	d := &dto.Metric{TimestampMs: new(m.T)}
	for range r.IntN(3) {
		l := labels.Label{Name: r.name(), Value: r.text()}
		m.Labels = append(m.Labels, l)
		d.Label = append(d.Label, &dto.LabelPair{Name: new(l.Name), Value: new(l.Value)})
	}
	m.Value = r.float()
	var start *timestamppb.Timestamp
	m.Start, start = r.start()
	switch typ {
	case model.MetricTypeCounter:
		d.Counter = &dto.Counter{Value: new(m.Value), CreatedTimestamp: start}
		m.Exemplar, d.Counter.Exemplar = r.exemplar()
	case model.MetricTypeGauge:
		d.Gauge = &dto.Gauge{Value: new(m.Value)}
	case model.MetricTypeSummary:
		m.Count, m.Sum = float64(r.IntN(1000)), r.float()
		d.Summary = &dto.Summary{SampleCount: new(uint64(m.Count)), SampleSum: new(m.Sum), CreatedTimestamp: start}
		for range r.IntN(3) {
			p := expo.Part{Bound: r.Float64(), Value: r.float()}
			m.Parts = append(m.Parts, p)
			d.Summary.Quantile = append(d.Summary.Quantile, &dto.Quantile{Quantile: new(p.Bound), Value: new(p.Value)})
		}
	case model.MetricTypeHistogram, model.MetricTypeGaugeHistogram:
		d.Histogram = r.histogram(m)
		d.Histogram.CreatedTimestamp = start
	default:
		d.Untyped = &dto.Untyped{Value: new(m.Value)}
	}
	return m, d
}

func (r metricMaker) histogram(m *expo.Metric) *dto.Histogram {
	sum := r.float()
	d := &dto.Histogram{SampleSum: new(sum)}
	switch r.IntN(4) {
	case 0: // classic
		m.Count, m.Sum = r.count(), sum
		if d.SampleCountFloat = new(m.Count); m.Count >= 1 || m.Count == 0 {
			d.SampleCount, d.SampleCountFloat = new(uint64(m.Count)), nil
		}
		for i := range r.IntN(4) {
			p := expo.Part{Bound: float64(i), Value: r.count()}
			b := &dto.Bucket{UpperBound: new(p.Bound), CumulativeCountFloat: new(p.Value)}
			if p.Value >= 1 || p.Value == 0 {
				b.CumulativeCount, b.CumulativeCountFloat = new(uint64(p.Value)), nil
			}
			p.Exemplar, b.Exemplar = r.exemplar()
			m.Parts, d.Bucket = append(m.Parts, p), append(d.Bucket, b)
		}
		return d
	case 1: // custom buckets; those of an integer one have integers
		integer := r.IntN(2) == 0
		h := &histogram.Histogram{
			Schema: histogram.CustomBucketsSchema, Count: 9, Sum: sum, CustomValues: []float64{0.5, 2, 8},
			PositiveSpans: []histogram.Span{{Length: 1}, {Offset: 1, Length: 2}}, PositiveBuckets: []int64{2, 1, 1},
		}
		if m.H = h; !integer {
			m.H, m.FH = nil, h.ToFloat(nil)
		}
		for i, cumulative := range []uint64{2, 2, 5} {
			b := &dto.Bucket{UpperBound: &h.CustomValues[i], CumulativeCount: new(cumulative)}
			if !integer {
				b.CumulativeCount, b.CumulativeCountFloat = nil, new(float64(cumulative))
			}
			d.Bucket = append(d.Bucket, b)
		}
		if d.SampleCount = new(h.Count); !integer {
			d.SampleCount, d.SampleCountFloat = nil, new(float64(h.Count))
		}
	case 2: // exponential, of floats
		h := &histogram.FloatHistogram{Schema: int32(r.IntN(12) - 4), Count: r.count(), Sum: sum, ZeroThreshold: 1e-9, ZeroCount: r.count()}
		var n int
		h.PositiveSpans, d.PositiveSpan, n = r.spans()
		for range n {
			h.PositiveBuckets = append(h.PositiveBuckets, r.count())
		}
		h.NegativeSpans, d.NegativeSpan, n = r.spans()
		for range n {
			h.NegativeBuckets = append(h.NegativeBuckets, r.count())
		}
		d.SampleCountFloat, d.Schema, d.ZeroThreshold, d.ZeroCountFloat = &h.Count, &h.Schema, &h.ZeroThreshold, &h.ZeroCount
		d.PositiveCount, d.NegativeCount, m.FH = h.PositiveBuckets, h.NegativeBuckets, h
	case 3: // exponential, of integers
		h := &histogram.Histogram{Schema: int32(r.IntN(12) - 4), Count: r.Uint64(), Sum: sum, ZeroCount: r.Uint64()}
		var n int
		h.PositiveSpans, d.PositiveSpan, n = r.spans()
		for range n {
			h.PositiveBuckets = append(h.PositiveBuckets, r.Int64N(1000)-500)
		}
		h.NegativeSpans, d.NegativeSpan, n = r.spans()
		for range n {
			h.NegativeBuckets = append(h.NegativeBuckets, r.Int64N(1000)-500)
		}
		d.SampleCount, d.Schema, d.ZeroThreshold, d.ZeroCount = &h.Count, &h.Schema, &h.ZeroThreshold, &h.ZeroCount
		d.PositiveDelta, d.NegativeDelta, m.H = h.PositiveBuckets, h.NegativeBuckets, h
	}
	var e *dto.Exemplar
	if m.Exemplar, e = r.exemplar(); e != nil {
		d.Exemplars = append(d.Exemplars, e)
	}
	return d
}

// Every generated family has to come out as the protobuf library writes it, byte for byte.
func TestProtoAgreesWithLibrary(t *testing.T) {
	types := map[model.MetricType]dto.MetricType{
		model.MetricTypeUnknown: dto.MetricType_UNTYPED, model.MetricTypeCounter: dto.MetricType_COUNTER,
		model.MetricTypeGauge: dto.MetricType_GAUGE, model.MetricTypeSummary: dto.MetricType_SUMMARY,
		model.MetricTypeHistogram: dto.MetricType_HISTOGRAM, model.MetricTypeGaugeHistogram: dto.MetricType_GAUGE_HISTOGRAM,
	}
	r := metricMaker{rand.New(rand.NewPCG(9, 10))}
	for typ, number := range types {
		for range 1000 {
			scheme := model.EscapingScheme(r.IntN(4))
			p := expo.Proto{Escaping: scheme, Untimed: r.IntN(2) == 0}
			f := &series.Family{Name: r.name(), Type: typ, Help: r.text(), Unit: r.text()}
			family := &dto.MetricFamily{Name: new(f.Name), Type: number.Enum()}
			if f.Help != "" {
				family.Help = new(f.Help)
			}
			if f.Unit != "" {
				family.Unit = new(f.Unit)
			}
			var metrics []byte
			for range 1 + r.IntN(3) {
				m, d := r.metric(typ)
				if p.Untimed {
					d.TimestampMs = nil
				}
				metrics = p.AppendMetric(metrics, typ, m)
				family.Metric = append(family.Metric, d)
			}
			want, err := proto.MarshalOptions{Deterministic: true}.Marshal(model.EscapeMetricFamily(family, scheme))
			if err != nil {
				t.Fatal(err)
			}
			got := p.AppendDelimited([]byte("before"), f, metrics)
			length, n := binary.Uvarint(got[6:])
			if body := got[6+n:]; uint64(len(body)) != length || !bytes.Equal(body, want) {
				read := &dto.MetricFamily{}
				err := proto.Unmarshal(body, read)
				t.Fatalf("%s, escaping %s: %d bytes, want %d (length says %d), %v\n got %s\nwant %s", typ, scheme,
					len(body), len(want), length, err, prototext.Format(read), prototext.Format(model.EscapeMetricFamily(family, scheme)))
			}
		}
	}
}

func TestProtoTypesAndHelp(t *testing.T) {
	f := func(typ model.MetricType, want dto.MetricType) {
		t.Helper()
		got := &dto.MetricFamily{}
		if err := proto.Unmarshal(expo.Proto{}.AppendFamily(nil, &series.Family{Name: "m", Type: typ, Help: "bad \xff"}, nil), got); err != nil {
			t.Fatal(err)
		}
		if got.GetType() != want || got.GetHelp() != "bad \uFFFD" {
			t.Errorf("%s: got %v", typ, got)
		}
	}
	f(model.MetricTypeInfo, dto.MetricType_GAUGE)
	f(model.MetricTypeStateset, dto.MetricType_GAUGE)
	f("", dto.MetricType_UNTYPED)
}
