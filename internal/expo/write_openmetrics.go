package expo

import (
	"bytes"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// OpenMetrics appends families in OpenMetrics text 1.0.0, of which 0.0.1 is the same but for its name. Families are
// known to it under the name that they have in the text format, a counter with its _total. Everything has to be valid
// UTF-8 but the help. It keeps no state.
//
// It says what expfmt says and on top of it the types and units that expfmt has no words for. A name that does not fit
// its type or unit, which the format does not allow, loses these.
type OpenMetrics struct {
	// Escaping of names that the format did not know before UTF-8 was allowed in them.
	Escaping model.EscapingScheme
}

// AppendFamily appends the lines before the samples of a family.
func (o OpenMetrics) AppendFamily(dst []byte, f *series.Family) []byte {
	t := Text(o)
	name, typ := o.family(f)
	if f.Help != "" {
		dst = append(dst, "# HELP "...)
		dst = t.appendName(dst, name, "")
		dst = append(dst, ' ')
		dst = appendEscaped(dst, strings.ToValidUTF8(f.Help, string(utf8.RuneError)), true)
		dst = append(dst, '\n')
	}
	dst = append(dst, "# TYPE "...)
	dst = t.appendName(dst, name, "")
	dst = append(dst, ' ')
	dst = append(dst, typ...)
	dst = append(dst, '\n')
	if stem, ok := strings.CutSuffix(name, f.Unit); ok && !strings.ContainsAny(f.Unit, "\\\"\n") && f.Unit != "" && strings.HasSuffix(stem, "_") {
		dst = append(dst, "# UNIT "...)
		dst = t.appendName(dst, name, "")
		dst = append(dst, ' ')
		dst = append(dst, f.Unit...)
		dst = append(dst, '\n')
	}
	return dst
}

// family returns what the format calls a family, escaped.
func (o OpenMetrics) family(f *series.Family) (name string, typ model.MetricType) {
	name = f.Name
	if o.Escaping != model.NoEscaping && !model.LegacyValidation.IsValidMetricName(name) {
		name = model.EscapeName(name, o.Escaping)
	}
	suffix := ""
	switch f.Type {
	case model.MetricTypeCounter:
		suffix = "_total"
	case model.MetricTypeInfo:
		suffix = "_info"
	case model.MetricTypeGauge, model.MetricTypeHistogram, model.MetricTypeGaugeHistogram, model.MetricTypeSummary, model.MetricTypeStateset:
	default:
		return name, model.MetricTypeUnknown
	}
	stem, ok := strings.CutSuffix(name, suffix)
	if !ok || stem == "" {
		return name, model.MetricTypeUnknown
	}
	return stem, f.Type
}

// AppendSample appends one line, as Text.AppendSample does. The exemplar may be nil. It is left out where the format
// allows none: everywhere but at counters and buckets.
func (o OpenMetrics) AppendSample(dst []byte, family, suffix string, ls []labels.Label, v float64, ms int64, e *exemplar.Exemplar) []byte {
	dst = o.appendSeries(dst, family, suffix, ls)
	var time [32]byte
	return o.AppendSampleEnd(dst, family, suffix, v, o.AppendTime(time[:0], ms), e)
}

// AppendTime appends a time in ms.
func (o OpenMetrics) AppendTime(dst []byte, ms int64) []byte { return appendSeconds(dst, ms) }

// AppendSampleEnd appends what stands behind name and labels in a line. The time is one of AppendTime, or nothing.
func (o OpenMetrics) AppendSampleEnd(dst []byte, family, suffix string, v float64, time []byte, e *exemplar.Exemplar) []byte {
	dst = append(dst, ' ')
	if count := suffix == "_bucket" || suffix == "_count" || suffix == "_gcount"; count && IsCount(v) {
		dst = strconv.AppendUint(dst, uint64(v), 10)
	} else {
		dst = appendOpenMetricsFloat(dst, v)
	}
	if len(time) > 0 {
		dst = append(dst, ' ')
		dst = append(dst, time...)
	}
	if e != nil && mayHaveExemplar(family, suffix) {
		dst = o.appendExemplar(dst, e)
	}
	return append(dst, '\n')
}

func mayHaveExemplar(family, suffix string) bool {
	return suffix == "_bucket" || suffix == "" && (strings.HasSuffix(family, "_total") || strings.HasSuffix(family, "_bucket"))
}

// AppendHistogram appends a native histogram with custom buckets as the classic histogram that it stands for. Nothing
// is appended for other ones.
func (o OpenMetrics) AppendHistogram(dst []byte, family string, ls []labels.Label, h *histogram.FloatHistogram, ms int64) []byte {
	if !h.UsesCustomBuckets() {
		return dst
	}
	own := ls[:len(ls):len(ls)]
	for bound, count := range classicBuckets(h) {
		le := labels.Label{Name: model.BucketLabel, Value: string(appendOpenMetricsFloat(nil, bound))}
		dst = o.AppendSample(dst, family, "_bucket", append(own, le), count, ms, nil)
	}
	dst = o.AppendSample(dst, family, "_sum", ls, h.Sum, ms, nil)
	return o.AppendSample(dst, family, "_count", ls, h.Count, ms, nil)
}

// AppendCreated appends the line that says when a metric of a family began. It stands behind the metric's samples, and
// its labels are theirs without le and quantile. There is nothing to say of types that do not begin.
func (o OpenMetrics) AppendCreated(dst []byte, f *series.Family, ls []labels.Label, startMs int64) []byte {
	name, typ := o.family(f)
	switch typ {
	case model.MetricTypeCounter, model.MetricTypeHistogram, model.MetricTypeSummary:
	default:
		return dst
	}
	dst = o.appendSeries(dst, name, "_created", ls)
	dst = append(dst, ' ')
	dst = appendSeconds(dst, startMs)
	return append(dst, '\n')
}

// AppendEnd appends the last line, without which the format is not complete.
func (o OpenMetrics) AppendEnd(dst []byte) []byte { return append(dst, "# EOF\n"...) }

// appendSeries appends name and labels.
func (o OpenMetrics) appendSeries(dst []byte, family, suffix string, ls []labels.Label) []byte {
	dst = Text(o).appendSeries(dst, family, suffix, ls)
	if dst[len(dst)-1] == ',' {
		dst[len(dst)-1] = '}'
	}
	return dst
}

func (o OpenMetrics) appendExemplar(dst []byte, e *exemplar.Exemplar) []byte {
	dst = append(dst, " # {"...)
	e.Labels.Range(func(l labels.Label) {
		dst = Text(o).appendName(dst, l.Name, "")
		dst = append(dst, `="`...)
		dst = appendEscaped(dst, strings.ToValidUTF8(l.Value, string(utf8.RuneError)), true)
		dst = append(dst, `",`...)
	})
	if dst[len(dst)-1] == ',' {
		dst = dst[:len(dst)-1]
	}
	dst = append(dst, "} "...)
	dst = appendOpenMetricsFloat(dst, e.Value)
	if e.HasTs {
		dst = append(dst, ' ')
		dst = appendSeconds(dst, e.Ts)
	}
	return dst
}

// IsCount reports whether v is a number that integers can say exactly.
func IsCount(v float64) bool { return v >= 0 && v <= 1<<53 && v == math.Trunc(v) }

// appendOpenMetricsFloat appends a value as AppendFloat does, with a point where it could be taken for an integer.
func appendOpenMetricsFloat(dst []byte, v float64) []byte {
	first := len(dst)
	dst = AppendFloat(dst, v)
	if math.IsNaN(v) || math.IsInf(v, 0) || bytes.ContainsAny(dst[first:], "e.") {
		return dst
	}
	return append(dst, ".0"...)
}

// appendSeconds appends a time. Readers multiply by a thousand and cut the rest off, which must not make it a
// millisecond less.
func appendSeconds(dst []byte, ms int64) []byte {
	s := float64(ms) / 1000
	if int64(s*1000) != ms {
		s = math.Nextafter(s, 2*s)
	} else if ms >= 0 && ms < maxDigits {
		return appendThousandths(dst, uint64(ms))
	}
	first := len(dst)
	dst = strconv.AppendFloat(dst, s, 'f', -1, 64)
	if !bytes.ContainsRune(dst[first:], '.') {
		dst = append(dst, ".0"...)
	}
	return dst
}

// appendThousandths appends n / 1000 with one to three decimals.
func appendThousandths(dst []byte, n uint64) []byte {
	dst = append(strconv.AppendUint(dst, n/1000, 10), '.')
	n %= 1000
	dst = append(dst, byte('0'+n/100), byte('0'+n/10%10), byte('0'+n%10))
	for dst[len(dst)-1] == '0' && dst[len(dst)-2] != '.' {
		dst = dst[:len(dst)-1]
	}
	return dst
}
