package expo

import (
	"iter"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
)

// Text appends families in the text format 0.0.4, byte for byte as Prometheus writes them. Everything has to be valid
// UTF-8 but the help. It keeps no state.
type Text struct {
	// Escaping of names that the format did not know before UTF-8 was allowed in them.
	Escaping model.EscapingScheme
}

// AppendFamily appends the lines before the samples of a family: HELP if there is a help, and TYPE.
func (t Text) AppendFamily(dst []byte, family string, typ model.MetricType, help string) []byte {
	if help != "" {
		dst = append(dst, "# HELP "...)
		dst = t.appendName(dst, family, "")
		dst = append(dst, ' ')
		dst = appendEscaped(dst, strings.ToValidUTF8(help, string(utf8.RuneError)), false)
		dst = append(dst, '\n')
	}
	dst = append(dst, "# TYPE "...)
	dst = t.appendName(dst, family, "")
	dst = append(dst, ' ')
	dst = append(dst, textType(typ)...)
	return append(dst, '\n')
}

// AppendSample appends one line. The metric's name is that of the family, which is escaped, and the suffix, which is
// not. Labels are written in the order in which they come; the time is in ms.
func (t Text) AppendSample(dst []byte, family, suffix string, ls []labels.Label, v float64, ms int64) []byte {
	return t.appendSampleEnd(t.AppendSeries(dst, family, suffix, ls), v, ms)
}

// AppendSeries appends what stands before the value in the line of AppendSample.
func (t Text) AppendSeries(dst []byte, family, suffix string, ls []labels.Label) []byte {
	dst = t.appendSeries(dst, family, suffix, ls)
	if dst[len(dst)-1] == ',' {
		dst[len(dst)-1] = '}'
	}
	return dst
}

// AppendHistogram appends a native histogram with custom buckets as the classic histogram that it stands for. The
// format has no words for other ones: nothing is appended for them.
func (t Text) AppendHistogram(dst []byte, family string, ls []labels.Label, h *histogram.FloatHistogram, ms int64) []byte {
	if !h.UsesCustomBuckets() {
		return dst
	}
	bucket := func(le, count float64) {
		dst = t.appendSeries(dst, family, "_bucket", ls)
		if dst[len(dst)-1] != ',' {
			dst = append(dst, '{')
		}
		dst = append(dst, model.BucketLabel+`="`...)
		dst = AppendFloat(dst, le)
		dst = append(dst, `"}`...)
		dst = t.appendSampleEnd(dst, count, ms)
	}
	for le, count := range classicBuckets(h) {
		bucket(le, count)
	}
	dst = t.AppendSample(dst, family, "_sum", ls, h.Sum, ms)
	return t.AppendSample(dst, family, "_count", ls, h.Count, ms)
}

// classicBuckets yields the upper bounds and cumulative counts of the classic histogram that a native one with custom
// buckets stands for, the one for everything included.
func classicBuckets(h *histogram.FloatHistogram) iter.Seq2[float64, float64] {
	return func(yield func(float64, float64) bool) {
		cumulative, last := 0.0, math.Inf(-1)
		it := h.PositiveBucketIterator()
		more := it.Next()
		for i, le := range h.CustomValues {
			for ; more && int(it.At().Index) <= i; more = it.Next() {
				if int(it.At().Index) == i {
					cumulative += it.At().Count
				}
			}
			if !yield(le, cumulative) {
				return
			}
			last = le
		}
		if !math.IsInf(last, 1) {
			yield(math.Inf(1), h.Count)
		}
	}
}

// appendSeries appends name and labels. If it has opened a brace, it ends in a comma, in place of which another label
// or the closing brace goes.
func (t Text) appendSeries(dst []byte, family, suffix string, ls []labels.Label) []byte {
	if t.outside(family) {
		dst = t.appendName(dst, family, suffix)
		if len(ls) == 0 {
			return dst
		}
		dst = append(dst, '{')
	} else {
		dst = append(dst, '{')
		dst = t.appendName(dst, family, suffix)
		dst = append(dst, ',')
	}
	for i := range ls {
		dst = t.appendLabel(dst, ls[i])
	}
	return dst
}

// appendLabel appends a label and a comma.
func (t Text) appendLabel(dst []byte, l labels.Label) []byte {
	dst = t.appendName(dst, l.Name, "")
	dst = append(dst, `="`...)
	dst = appendEscaped(dst, l.Value, true)
	return append(dst, `",`...)
}

// outside reports whether a metric's name stands before the braces, as it always did.
func (t Text) outside(name string) bool {
	return t.Escaping != model.NoEscaping || isLegacyName(name)
}

// appendName appends the name of a metric or label. The format has one rule for both, though a label never could have
// a colon.
func (t Text) appendName(dst []byte, name, suffix string) []byte {
	switch {
	case isLegacyName(name):
		return append(append(dst, name...), suffix...)
	case t.Escaping != model.NoEscaping:
		return append(append(dst, model.EscapeName(name, t.Escaping)...), suffix...)
	}
	dst = append(dst, '"')
	dst = appendEscaped(dst, name, true)
	dst = append(dst, suffix...)
	return append(dst, '"')
}

// isLegacyName is model.LegacyValidation.IsValidMetricName without looking at runes.
func isLegacyName(name string) bool {
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_', c == ':', c >= '0' && c <= '9' && i > 0:
		default:
			return false
		}
	}
	return name != ""
}

// appendEscaped appends s with backslashes, newlines and, if quoted, double quotes escaped.
func appendEscaped(dst []byte, s string, quoted bool) []byte {
	first := 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\', c == '"' && quoted:
			dst = append(append(dst, s[first:i]...), '\\', c)
		case c == '\n':
			dst = append(append(dst, s[first:i]...), `\n`...)
		default:
			continue
		}
		first = i + 1
	}
	return append(dst, s[first:]...)
}

// AppendSampleEnd appends what stands behind name and labels in a line. The time is one of AppendTime.
func (t Text) AppendSampleEnd(dst []byte, v float64, time []byte) []byte {
	dst = append(dst, ' ')
	dst = AppendFloat(dst, v)
	dst = append(dst, ' ')
	dst = append(dst, time...)
	return append(dst, '\n')
}

// AppendTime appends a time in ms.
func (t Text) AppendTime(dst []byte, ms int64) []byte { return strconv.AppendInt(dst, ms, 10) }

// appendSampleEnd is AppendSampleEnd for a time that comes once.
func (t Text) appendSampleEnd(dst []byte, v float64, ms int64) []byte {
	var time [20]byte
	return t.AppendSampleEnd(dst, v, t.AppendTime(time[:0], ms))
}

// textType is the word of the format that comes closest to a type.
func textType(t model.MetricType) string {
	switch t {
	case model.MetricTypeCounter:
		return "counter"
	case model.MetricTypeGauge, model.MetricTypeInfo, model.MetricTypeStateset:
		return "gauge"
	case model.MetricTypeHistogram, model.MetricTypeGaugeHistogram:
		return "histogram"
	case model.MetricTypeSummary:
		return "summary"
	}
	return "untyped"
}
