package events

import (
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"sort"

	"github.com/prometheus/prometheus/model/histogram"
)

const (
	// firstSchema has buckets each 9 % wider than the one before: 2^(1/8).
	firstSchema = 3
	leastSchema = -4
	// maxNative bounds the buckets of a native histogram. Beyond it pairs of buckets become one.
	maxNative = 160
	// zeroThreshold is that of client_golang, 2^-128.
	zeroThreshold = 0x1p-128
)

// native is an exponential histogram. It widens its buckets rather than have more than maxNative, and never begins anew.
type native struct {
	schema             int32
	zero               uint64
	positive, negative map[int32]uint64 // by index: bucket i ends with base^i
}

func newNative() *native {
	return &native{schema: firstSchema, positive: map[int32]uint64{}, negative: map[int32]uint64{}}
}

func (n *native) observe(v float64) {
	switch {
	case v > zeroThreshold:
		n.positive[bucketIndex(n.schema, v)]++
	case v < -zeroThreshold:
		n.negative[bucketIndex(n.schema, -v)]++
	default:
		n.zero++
		return
	}
	for n.schema > leastSchema && len(n.positive)+len(n.negative) > maxNative {
		n.schema--
		n.positive, n.negative = halve(n.positive), halve(n.negative)
	}
}

// halve makes one bucket of each two.
func halve(buckets map[int32]uint64) map[int32]uint64 {
	wider := make(map[int32]uint64, len(buckets)/2+1)
	for i, k := range buckets {
		wider[(i+1)>>1] += k
	}
	return wider
}

// bucketIndex is that of the bucket of a schema that a positive value belongs to.
func bucketIndex(schema int32, v float64) int32 {
	frac, exp := math.Frexp(v)
	if schema <= 0 {
		if frac == 0.5 {
			exp--
		}
		return int32((exp + 1<<-schema - 1) >> -schema)
	}
	bounds := fractions(schema)
	return int32(sort.SearchFloat64s(bounds, frac) + (exp-1)*len(bounds))
}

// fractions are the bounds of the buckets between a half and one.
func fractions(schema int32) []float64 {
	switch schema {
	case 3:
		return eighths[:]
	case 2:
		return []float64{eighths[0], eighths[2], eighths[4], eighths[6]}
	}
	return []float64{eighths[0], eighths[4]}
}

// eighths are half of the powers 2^(i/8), as client_golang has them.
var eighths = [8]float64{
	0.5, 0.5452538663326288, 0.5946035575013605, 0.6484197773255048, 0.7071067811865475, 0.7711054127039704, 0.8408964152537144, 0.9170040432046711,
}

func (n *native) count() uint64 {
	total := n.zero
	for _, k := range n.positive {
		total += k
	}
	for _, k := range n.negative {
		total += k
	}
	return total
}

// histogram is what is exposed. It shares nothing with n.
func (n *native) histogram(sum float64) *histogram.Histogram {
	h := &histogram.Histogram{Schema: n.schema, ZeroThreshold: zeroThreshold, ZeroCount: n.zero, Count: n.count(), Sum: sum}
	h.PositiveSpans, h.PositiveBuckets = spans(n.positive)
	h.NegativeSpans, h.NegativeBuckets = spans(n.negative)
	if len(h.PositiveSpans)+len(h.NegativeSpans) == 0 {
		h.PositiveSpans = []histogram.Span{{}} // without any span a reader takes it for a classic histogram
	}
	return h
}

// spans are buckets in the form in which they are sent. Gaps of one or two buckets are filled, for they cost less than
// another span.
func spans(buckets map[int32]uint64) (spans []histogram.Span, deltas []int64) {
	before, at := int64(0), int32(0)
	add := func(k uint64) {
		spans[len(spans)-1].Length++
		deltas = append(deltas, int64(k)-before)
		before = int64(k)
		at++
	}
	for _, i := range slices.Sorted(maps.Keys(buckets)) {
		if gap := i - at; len(spans) == 0 || gap > 2 {
			spans = append(spans, histogram.Span{Offset: gap})
			at = i
		}
		for at < i {
			add(0)
		}
		add(buckets[i])
	}
	return spans, deltas
}

func (n *native) appendState(dst []byte) []byte {
	dst = binary.AppendVarint(dst, int64(n.schema))
	dst = binary.AppendUvarint(dst, n.zero)
	for _, side := range []map[int32]uint64{n.positive, n.negative} {
		dst = binary.AppendUvarint(dst, uint64(len(side)))
		for i, k := range side {
			dst = binary.AppendVarint(dst, int64(i))
			dst = binary.AppendUvarint(dst, k)
		}
	}
	return dst
}

func (n *native) decodeState(d *decoder) {
	n.schema = int32(d.varint())
	n.zero = d.uvarint()
	if n.schema > firstSchema || n.schema < leastSchema {
		d.fail()
		return
	}
	for _, side := range []map[int32]uint64{n.positive, n.negative} {
		clear(side)
		for range d.length(2) {
			i := int32(d.varint())
			side[i] = d.uvarint()
		}
	}
}
