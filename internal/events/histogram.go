package events

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/prometheus/prometheus/model/exemplar"
)

// maxBuckets bounds the buckets of a classic histogram.
const maxBuckets = 1000

// distribution is what a histogram or a summary has beside the sum of what was observed.
type distribution interface {
	observe(v float64)
	count() uint64
	// appendState and decodeState write and read what is kept over a restart.
	appendState(dst []byte) []byte
	decodeState(d *decoder)
}

// layout returns the upper bounds of the buckets of a histogram, without the infinite one; not ok if they do not ascend.
func layout(buckets []float64) (bounds []float64, ok bool) {
	if n := len(buckets); n > 0 && math.IsInf(buckets[n-1], 1) {
		buckets = buckets[:n-1]
	}
	for i, b := range buckets {
		if math.IsInf(b, 0) || i > 0 && b <= buckets[i-1] {
			return nil, false
		}
	}
	return slices.Clone(buckets), len(buckets) <= maxBuckets
}

// classic is a histogram with buckets of its own.
type classic struct {
	bounds []float64 // of the family
	counts []uint64  // of each bucket alone, and of the infinite one
	// exemplars of the buckets, once there was one.
	exemplars []*exemplar.Exemplar
}

func newClassic(bounds []float64) *classic {
	return &classic{bounds: bounds, counts: make([]uint64, len(bounds)+1)}
}

// bucket is the place of the bucket that a value belongs to.
func (c *classic) bucket(v float64) int {
	if len(c.bounds) > 32 {
		i, _ := slices.BinarySearch(c.bounds, v)
		return i
	}
	for i, b := range c.bounds {
		if v <= b {
			return i
		}
	}
	return len(c.bounds)
}

func (c *classic) observe(v float64) { c.counts[c.bucket(v)]++ }

func (c *classic) count() (n uint64) {
	for _, k := range c.counts {
		n += k
	}
	return n
}

func (c *classic) mark(v float64, e *exemplar.Exemplar) {
	if c.exemplars == nil {
		c.exemplars = make([]*exemplar.Exemplar, len(c.counts))
	}
	c.exemplars[c.bucket(v)] = e
}

func (c *classic) appendState(dst []byte) []byte {
	for _, k := range c.counts {
		dst = binary.AppendUvarint(dst, k)
	}
	return dst
}

func (c *classic) decodeState(d *decoder) {
	for i := range c.counts {
		c.counts[i] = d.uvarint()
	}
}
