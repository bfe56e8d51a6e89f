package writeproto

import (
	"math"
	"slices"

	"github.com/prometheus/prometheus/model/histogram"
)

// numbers are those of the histogram that is being read.
type numbers struct {
	spans  [2][]histogram.Span // negative, positive
	deltas [2][]int64
	counts [2][]float64
	custom []float64
}

func (n *numbers) reset() {
	for i := range n.spans {
		n.spans[i], n.deltas[i], n.counts[i] = n.spans[i][:0], n.deltas[i][:0], n.counts[i][:0]
	}
	n.custom = n.custom[:0]
}

// head is what a histogram has beside its buckets.
type head struct {
	float                 bool // the count is one, and with it everything
	count, zero           uint64
	floatCount, floatZero float64
	sum, zeroThreshold    float64
	schema, hint          int32
	t, start              int64
}

// readHistogram reads a histogram of either version, which differ in the start only.
func (b *Batch) readHistogram(message []byte, m Message) (Histogram, error) {
	n := &b.numbers
	n.reset()
	var h head
	for w := (wire{b: message}); w.more(); {
		field, typ, err := w.tag()
		if err != nil {
			return Histogram{}, err
		}
		switch {
		case field >= 8 && field <= 13:
			err = n.readBuckets(&w, field, typ)
		case field == 16:
			n.custom, err = appendNumbers(n.custom, &w, typ, wireFixed, readDouble)
		case field <= 15 || field == 17 && m == V2:
			err = h.read(&w, field, typ)
		default:
			err = w.skip(typ)
		}
		if err != nil {
			return Histogram{}, err
		}
	}
	return h.histogram(n), nil
}

// read reads a field that is no list.
func (h *head) read(w *wire, field int32, typ int) error {
	switch field {
	case 2, 3, 5, 7:
		if typ != wireFixed {
			return wrongType("a histogram", typ)
		}
		v, err := readDouble(w)
		switch field {
		case 2:
			h.float, h.floatCount, h.count = true, v, 0
		case 3:
			h.sum = v
		case 5:
			h.zeroThreshold = v
		case 7:
			h.floatZero, h.zero = v, 0
		}
		return err
	}
	if typ != wireVarint {
		return wrongType("a histogram", typ)
	}
	v, err := w.varint()
	switch field {
	case 1:
		h.float, h.floatCount, h.count = false, 0, v
	case 4:
		h.schema = unzigzag32(v)
	case 6:
		h.floatZero, h.zero = 0, v
	case 14:
		h.hint = int32(v)
	case 15:
		h.t = int64(v)
	case 17:
		h.start = int64(v)
	}
	return err
}

// readBuckets reads one of the fields of negative (8 to 10) or positive (11 to 13) buckets.
func (n *numbers) readBuckets(w *wire, field int32, typ int) (err error) {
	side := int(field-8) / 3
	switch (field - 8) % 3 {
	case 0:
		if typ != wireBytes {
			return wrongType("a span", typ)
		}
		message, err := w.bytes()
		if err != nil {
			return err
		}
		span, err := readSpan(message)
		n.spans[side] = append(n.spans[side], span)
		return err
	case 1:
		n.deltas[side], err = appendNumbers(n.deltas[side], w, typ, wireVarint, readDelta)
	case 2:
		n.counts[side], err = appendNumbers(n.counts[side], w, typ, wireFixed, readDouble)
	}
	return err
}

func readDelta(w *wire) (int64, error) {
	v, err := w.varint()
	return unzigzag(v), err
}

func readDouble(w *wire) (float64, error) {
	v, err := w.fixed()
	return math.Float64frombits(v), err
}

func readSpan(message []byte) (s histogram.Span, err error) {
	for w := (wire{b: message}); w.more(); {
		field, typ, err := w.tag()
		if err != nil {
			return s, err
		}
		if field > 2 {
			if err := w.skip(typ); err != nil {
				return s, err
			}
			continue
		}
		if typ != wireVarint {
			return s, wrongType("a span", typ)
		}
		v, err := w.varint()
		if err != nil {
			return s, err
		}
		if field == 1 {
			s.Offset = unzigzag32(v)
		} else {
			s.Length = uint32(v)
		}
	}
	return s, nil
}

// histogram returns what was read, in memory of its own. A hint that nobody knows is as good as none.
func (h *head) histogram(n *numbers) Histogram {
	hint := histogram.UnknownCounterReset
	if h.hint > 0 && h.hint <= int32(histogram.GaugeType) {
		hint = histogram.CounterResetHint(h.hint)
	}
	out := Histogram{T: h.t, Start: h.start}
	negative, positive, custom := owned(n.spans[0]), owned(n.spans[1]), owned(n.custom)
	if h.float {
		out.FH = &histogram.FloatHistogram{
			CounterResetHint: hint, Schema: h.schema, ZeroThreshold: h.zeroThreshold, ZeroCount: h.floatZero, Count: h.floatCount,
			Sum: h.sum, NegativeSpans: negative, PositiveSpans: positive, CustomValues: custom,
			NegativeBuckets: owned(n.counts[0]), PositiveBuckets: owned(n.counts[1]),
		}
		return out
	}
	out.H = &histogram.Histogram{
		CounterResetHint: hint, Schema: h.schema, ZeroThreshold: h.zeroThreshold, ZeroCount: h.zero, Count: h.count,
		Sum: h.sum, NegativeSpans: negative, PositiveSpans: positive, CustomValues: custom,
		NegativeBuckets: owned(n.deltas[0]), PositiveBuckets: owned(n.deltas[1]),
	}
	return out
}

// owned returns a copy, nil of nothing.
func owned[T any](s []T) []T {
	if len(s) == 0 {
		return nil
	}
	return slices.Clone(s)
}
