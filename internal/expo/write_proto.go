package expo

import (
	"math"
	"strings"
	"unicode/utf8"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/thalweg/thalweg/internal/series"
)

// Proto appends families in the protobuf format, as messages io.prometheus.client.MetricFamily: first the metrics of
// a family, then the message around them.
//
//	metrics = p.AppendMetric(metrics, family.Type, &metric)
//	dst = p.AppendDelimited(dst, &family, metrics)
//
// Fields come in the order of their numbers. Everything has to be valid UTF-8 but the help. It keeps no state.
type Proto struct {
	// Escaping of names that the format did not know before UTF-8 was allowed in them.
	Escaping model.EscapingScheme
	// Untimed leaves out the time of every metric.
	Untimed bool
}

// Metric is one metric of a family.
type Metric struct {
	Labels   []labels.Label // in the order in which they are written, without le and quantile
	T        int64          // ms
	Start    int64          // of counters, histograms and summaries, in ms; 0 if not known
	Exemplar *exemplar.Exemplar

	// Value of a counter, a gauge or something unknown.
	Value float64

	// The native histogram. One with custom buckets is written as the classic one that it stands for. Counts of H are
	// written as integers, those of FH as floats.
	H  *histogram.Histogram
	FH *histogram.FloatHistogram

	// A classic histogram or a summary, if there is no native histogram.
	Count, Sum float64
	Parts      []Part
}

// Part is a bucket of a classic histogram, with its upper bound and cumulative count, or a quantile of a summary.
type Part struct {
	Bound, Value float64
	Exemplar     *exemplar.Exemplar
}

// Numbers of the fields. Those of Metric that hold a value belong to the types, see protoType.
const (
	familyName, familyHelp, familyType, familyMetric, familyUnit protowire.Number = 1, 2, 3, 4, 5

	metricLabel, metricTime protowire.Number = 1, 6

	pairName, pairValue protowire.Number = 1, 2

	plainValue, counterExemplar, counterStart protowire.Number = 1, 2, 3

	summaryCount, summarySum, summaryQuantile, summaryStart protowire.Number = 1, 2, 3, 4

	histogramCount, histogramSum, histogramBucket, histogramCountFloat, histogramStart protowire.Number = 1, 2, 3, 4, 15

	histogramSchema, histogramZeroThreshold, histogramZeroCount, histogramZeroCountFloat protowire.Number = 5, 6, 7, 8

	histogramNegative, histogramPositive protowire.Number = 9, 12 // spans; deltas and counts follow
)

// metricType is what the format has for a type: the number of the enumeration, and the field of Metric.
type metricType struct {
	number uint64
	field  protowire.Number
}

func protoType(t model.MetricType) metricType {
	switch t {
	case model.MetricTypeCounter:
		return metricType{0, 3}
	case model.MetricTypeGauge, model.MetricTypeInfo, model.MetricTypeStateset:
		return metricType{1, 2}
	case model.MetricTypeSummary:
		return metricType{2, 4}
	case model.MetricTypeHistogram:
		return metricType{4, 7}
	case model.MetricTypeGaugeHistogram:
		return metricType{5, 7}
	}
	return metricType{3, 5}
}

// AppendDelimited appends the message of a family, behind its length. The metrics are what AppendMetric made.
func (p Proto) AppendDelimited(dst []byte, f *series.Family, metrics []byte) []byte {
	first := len(dst)
	dst = p.AppendFamily(dst, f, metrics)
	return insertLength(dst, first)
}

// AppendFamily appends the message of a family.
func (p Proto) AppendFamily(dst []byte, f *series.Family, metrics []byte) []byte {
	dst = appendString(dst, familyName, p.name(f.Name))
	if f.Help != "" {
		dst = appendString(dst, familyHelp, strings.ToValidUTF8(f.Help, string(utf8.RuneError)))
	}
	dst = appendVarint(dst, familyType, protoType(f.Type).number)
	dst = append(dst, metrics...)
	if f.Unit != "" {
		dst = appendString(dst, familyUnit, strings.ToValidUTF8(f.Unit, string(utf8.RuneError)))
	}
	return dst
}

// AppendMetric appends a metric of a family of the given type, as a field of the family's message.
func (p Proto) AppendMetric(dst []byte, t model.MetricType, m *Metric) []byte {
	dst = protowire.AppendTag(dst, familyMetric, protowire.BytesType)
	metric := len(dst)
	dst = p.appendLabels(dst, metricLabel, m.Labels)
	typ := protoType(t)
	if !p.Untimed && typ.field > metricTime {
		dst = appendVarint(dst, metricTime, uint64(m.T))
	}
	dst = protowire.AppendTag(dst, typ.field, protowire.BytesType)
	value := len(dst)
	switch t {
	case model.MetricTypeCounter:
		dst = appendDouble(dst, plainValue, m.Value)
		dst = p.appendExemplar(dst, counterExemplar, m.Exemplar)
		dst = appendTime(dst, counterStart, m.Start)
	case model.MetricTypeSummary:
		dst = appendVarint(dst, summaryCount, uint64(m.Count))
		dst = appendDouble(dst, summarySum, m.Sum)
		for i := range m.Parts {
			dst = protowire.AppendTag(dst, summaryQuantile, protowire.BytesType)
			dst = protowire.AppendVarint(dst, 18)
			dst = appendDouble(dst, 1, m.Parts[i].Bound)
			dst = appendDouble(dst, 2, m.Parts[i].Value)
		}
		dst = appendTime(dst, summaryStart, m.Start)
	case model.MetricTypeHistogram, model.MetricTypeGaugeHistogram:
		dst = p.appendHistogram(dst, m)
	default:
		dst = appendDouble(dst, plainValue, m.Value)
	}
	dst = insertLength(dst, value)
	if !p.Untimed && typ.field < metricTime {
		dst = appendVarint(dst, metricTime, uint64(m.T))
	}
	return insertLength(dst, metric)
}

func (p Proto) appendHistogram(dst []byte, m *Metric) []byte {
	switch {
	case m.FH != nil && m.FH.UsesCustomBuckets():
		dst = p.appendCustom(dst, m.FH, true)
	case m.H != nil && m.H.UsesCustomBuckets():
		dst = p.appendCustom(dst, m.H.ToFloat(nil), false)
	case m.FH != nil:
		dst = appendFloatHistogram(dst, m.FH)
	case m.H != nil:
		dst = appendIntegerHistogram(dst, m.H)
	default:
		floating := !IsCount(m.Count)
		dst = appendCountSum(dst, m.Count, m.Sum, floating)
		for i := range m.Parts {
			part := &m.Parts[i]
			dst = p.appendBucket(dst, part, !IsCount(part.Value))
		}
		if floating {
			dst = appendDouble(dst, histogramCountFloat, m.Count)
		}
	}
	dst = appendTime(dst, histogramStart, m.Start)
	if m.H != nil || m.FH != nil {
		dst = p.appendExemplar(dst, 16, m.Exemplar)
	}
	return dst
}

// appendCustom leaves out the bucket for everything, as Prometheus does.
func (p Proto) appendCustom(dst []byte, h *histogram.FloatHistogram, floating bool) []byte {
	dst = appendCountSum(dst, h.Count, h.Sum, floating)
	rest := len(h.CustomValues)
	for bound, count := range classicBuckets(h) {
		if rest == 0 {
			break
		}
		rest--
		dst = p.appendBucket(dst, &Part{Bound: bound, Value: count}, floating)
	}
	if floating {
		dst = appendDouble(dst, histogramCountFloat, h.Count)
	}
	return dst
}

func appendCountSum(dst []byte, count, sum float64, floating bool) []byte {
	if !floating {
		dst = appendVarint(dst, histogramCount, uint64(count))
	}
	return appendDouble(dst, histogramSum, sum)
}

func (p Proto) appendBucket(dst []byte, b *Part, floating bool) []byte {
	dst = protowire.AppendTag(dst, histogramBucket, protowire.BytesType)
	first := len(dst)
	if !floating {
		dst = appendVarint(dst, 1, uint64(b.Value))
	}
	dst = appendDouble(dst, 2, b.Bound)
	dst = p.appendExemplar(dst, 3, b.Exemplar)
	if floating {
		dst = appendDouble(dst, 4, b.Value)
	}
	return insertLength(dst, first)
}

func appendFloatHistogram(dst []byte, h *histogram.FloatHistogram) []byte {
	counts := func(dst []byte, field protowire.Number, spans []histogram.Span, counts []float64) []byte {
		dst = appendSpans(dst, field, spans)
		for _, c := range counts {
			dst = appendDouble(dst, field+2, c)
		}
		return dst
	}
	dst = appendDouble(dst, histogramSum, h.Sum)
	dst = appendDouble(dst, histogramCountFloat, h.Count)
	dst = appendVarint(dst, histogramSchema, protowire.EncodeZigZag(int64(h.Schema)))
	dst = appendDouble(dst, histogramZeroThreshold, h.ZeroThreshold)
	dst = appendDouble(dst, histogramZeroCountFloat, h.ZeroCount)
	dst = counts(dst, histogramNegative, h.NegativeSpans, h.NegativeBuckets)
	return counts(dst, histogramPositive, h.PositiveSpans, h.PositiveBuckets)
}

func appendIntegerHistogram(dst []byte, h *histogram.Histogram) []byte {
	deltas := func(dst []byte, field protowire.Number, spans []histogram.Span, deltas []int64) []byte {
		dst = appendSpans(dst, field, spans)
		for _, d := range deltas {
			dst = appendVarint(dst, field+1, protowire.EncodeZigZag(d))
		}
		return dst
	}
	dst = appendVarint(dst, histogramCount, h.Count)
	dst = appendDouble(dst, histogramSum, h.Sum)
	dst = appendVarint(dst, histogramSchema, protowire.EncodeZigZag(int64(h.Schema)))
	dst = appendDouble(dst, histogramZeroThreshold, h.ZeroThreshold)
	dst = appendVarint(dst, histogramZeroCount, h.ZeroCount)
	dst = deltas(dst, histogramNegative, h.NegativeSpans, h.NegativeBuckets)
	return deltas(dst, histogramPositive, h.PositiveSpans, h.PositiveBuckets)
}

func appendSpans(dst []byte, field protowire.Number, spans []histogram.Span) []byte {
	for _, s := range spans {
		dst = protowire.AppendTag(dst, field, protowire.BytesType)
		first := len(dst)
		dst = appendVarint(dst, 1, protowire.EncodeZigZag(int64(s.Offset)))
		dst = appendVarint(dst, 2, uint64(s.Length))
		dst = insertLength(dst, first)
	}
	return dst
}

func (p Proto) appendExemplar(dst []byte, field protowire.Number, e *exemplar.Exemplar) []byte {
	if e == nil {
		return dst
	}
	dst = protowire.AppendTag(dst, field, protowire.BytesType)
	first := len(dst)
	e.Labels.Range(func(l labels.Label) {
		dst = p.appendLabel(dst, 1, l.Name, strings.ToValidUTF8(l.Value, string(utf8.RuneError)))
	})
	dst = appendDouble(dst, 2, e.Value)
	if e.HasTs {
		dst = appendTimestamp(dst, 3, e.Ts)
	}
	return insertLength(dst, first)
}

func (p Proto) appendLabels(dst []byte, field protowire.Number, ls []labels.Label) []byte {
	for i := range ls {
		dst = p.appendLabel(dst, field, ls[i].Name, ls[i].Value)
	}
	return dst
}

func (p Proto) appendLabel(dst []byte, field protowire.Number, name, value string) []byte {
	name = p.name(name)
	dst = protowire.AppendTag(dst, field, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(2+protowire.SizeBytes(len(name))+protowire.SizeBytes(len(value))))
	dst = appendString(dst, pairName, name)
	return appendString(dst, pairValue, value)
}

// name escapes the name of a metric or label.
func (p Proto) name(name string) string {
	if p.Escaping == model.NoEscaping || model.LegacyValidation.IsValidMetricName(name) {
		return name
	}
	return model.EscapeName(name, p.Escaping)
}

// appendTime appends a start timestamp, if it is known.
func appendTime(dst []byte, field protowire.Number, ms int64) []byte {
	if ms == 0 {
		return dst
	}
	return appendTimestamp(dst, field, ms)
}

// appendTimestamp appends a google.protobuf.Timestamp, in which the part of a second is never negative.
func appendTimestamp(dst []byte, field protowire.Number, ms int64) []byte {
	seconds, rest := ms/1000, ms%1000
	if rest < 0 {
		seconds, rest = seconds-1, rest+1000
	}
	dst = protowire.AppendTag(dst, field, protowire.BytesType)
	first := len(dst)
	if seconds != 0 {
		dst = appendVarint(dst, 1, uint64(seconds))
	}
	if rest != 0 {
		dst = appendVarint(dst, 2, uint64(rest*1e6))
	}
	return insertLength(dst, first)
}

func appendString(dst []byte, field protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(dst, field, protowire.BytesType), s)
}

func appendVarint(dst []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(dst, field, protowire.VarintType), v)
}

func appendDouble(dst []byte, field protowire.Number, v float64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(dst, field, protowire.Fixed64Type), math.Float64bits(v))
}

// insertLength puts the length of what stands from first on before it.
func insertLength(dst []byte, first int) []byte {
	n := len(dst) - first
	size := protowire.SizeVarint(uint64(n))
	for range size {
		dst = append(dst, 0)
	}
	copy(dst[first+size:], dst[first:first+n])
	protowire.AppendVarint(dst[:first], uint64(n))
	return dst
}
