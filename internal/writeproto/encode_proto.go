package writeproto

import (
	"encoding/binary"
	"math"
	"math/bits"

	"github.com/prometheus/prometheus/model/histogram"
)

// Wire types of protobuf.
const (
	wireVarint = 0
	wireFixed  = 1
	wireBytes  = 2
)

func appendTag(dst []byte, field, wire int) []byte {
	return binary.AppendUvarint(dst, uint64(field)<<3|uint64(wire))
}

func appendString(dst []byte, field int, s string) []byte {
	dst = binary.AppendUvarint(appendTag(dst, field, wireBytes), uint64(len(s)))
	return append(dst, s...)
}

func appendUint(dst []byte, field int, v uint64) []byte {
	if v == 0 {
		return dst
	}
	return binary.AppendUvarint(appendTag(dst, field, wireVarint), v)
}

// appendDouble leaves out nothing but the bits of 0: -0 is a value.
func appendDouble(dst []byte, field int, v float64) []byte {
	if math.Float64bits(v) == 0 {
		return dst
	}
	return appendFixed(dst, field, v)
}

func appendFixed(dst []byte, field int, v float64) []byte {
	return binary.LittleEndian.AppendUint64(appendTag(dst, field, wireFixed), math.Float64bits(v))
}

func zigzag(v int64) uint64 { return uint64(v<<1) ^ uint64(v>>63) }

func uvarintLen(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

// Fields of a histogram, the same in both messages. The start is there in 2.0 only.
const (
	histogramCountInt       = 1
	histogramCountFloat     = 2
	histogramSum            = 3
	histogramSchema         = 4
	histogramZeroThreshold  = 5
	histogramZeroCountInt   = 6
	histogramZeroCountFloat = 7
	histogramNegative       = 8
	histogramPositive       = 11
	histogramResetHint      = 14
	histogramTimestamp      = 15
	histogramCustomValues   = 16
	histogramStart          = 17

	spanOffset = 1
	spanLength = 2

	// Of one side, from the field of its spans on.
	sideDeltas = 1
	sideCounts = 2
)

// appendHistogram appends the fields of a histogram; exactly one of h and fh is set.
func appendHistogram(dst []byte, h *histogram.Histogram, fh *histogram.FloatHistogram, t, start int64) []byte {
	if h != nil {
		dst = binary.AppendUvarint(appendTag(dst, histogramCountInt, wireVarint), h.Count)
		dst = appendDouble(dst, histogramSum, h.Sum)
		dst = appendUint(dst, histogramSchema, zigzag(int64(h.Schema)))
		dst = appendDouble(dst, histogramZeroThreshold, h.ZeroThreshold)
		dst = binary.AppendUvarint(appendTag(dst, histogramZeroCountInt, wireVarint), h.ZeroCount)
		dst = appendDeltas(appendSpans(dst, histogramNegative, h.NegativeSpans), histogramNegative+sideDeltas, h.NegativeBuckets)
		dst = appendDeltas(appendSpans(dst, histogramPositive, h.PositiveSpans), histogramPositive+sideDeltas, h.PositiveBuckets)
		dst = appendUint(dst, histogramResetHint, uint64(h.CounterResetHint))
		dst = appendUint(dst, histogramTimestamp, uint64(t))
		dst = appendDoubles(dst, histogramCustomValues, h.CustomValues)
	} else {
		dst = appendFixed(dst, histogramCountFloat, fh.Count)
		dst = appendDouble(dst, histogramSum, fh.Sum)
		dst = appendUint(dst, histogramSchema, zigzag(int64(fh.Schema)))
		dst = appendDouble(dst, histogramZeroThreshold, fh.ZeroThreshold)
		dst = appendFixed(dst, histogramZeroCountFloat, fh.ZeroCount)
		dst = appendDoubles(appendSpans(dst, histogramNegative, fh.NegativeSpans), histogramNegative+sideCounts, fh.NegativeBuckets)
		dst = appendDoubles(appendSpans(dst, histogramPositive, fh.PositiveSpans), histogramPositive+sideCounts, fh.PositiveBuckets)
		dst = appendUint(dst, histogramResetHint, uint64(fh.CounterResetHint))
		dst = appendUint(dst, histogramTimestamp, uint64(t))
		dst = appendDoubles(dst, histogramCustomValues, fh.CustomValues)
	}
	return appendUint(dst, histogramStart, uint64(start))
}

func appendSpans(dst []byte, field int, spans []histogram.Span) []byte {
	for _, s := range spans {
		offset := zigzag(int64(s.Offset))
		n := 0
		if offset != 0 {
			n += 1 + uvarintLen(offset)
		}
		if s.Length != 0 {
			n += 1 + uvarintLen(uint64(s.Length))
		}
		dst = binary.AppendUvarint(appendTag(dst, field, wireBytes), uint64(n))
		dst = appendUint(appendUint(dst, spanOffset, offset), spanLength, uint64(s.Length))
	}
	return dst
}

func appendDeltas(dst []byte, field int, deltas []int64) []byte {
	if len(deltas) == 0 {
		return dst
	}
	n := 0
	for _, d := range deltas {
		n += uvarintLen(zigzag(d))
	}
	dst = binary.AppendUvarint(appendTag(dst, field, wireBytes), uint64(n))
	for _, d := range deltas {
		dst = binary.AppendUvarint(dst, zigzag(d))
	}
	return dst
}

func appendDoubles(dst []byte, field int, values []float64) []byte {
	if len(values) == 0 {
		return dst
	}
	dst = binary.AppendUvarint(appendTag(dst, field, wireBytes), uint64(8*len(values)))
	for _, v := range values {
		dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(v))
	}
	return dst
}
