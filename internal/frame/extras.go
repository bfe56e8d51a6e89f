package frame

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// Flags of a histogram (docs/frame.md, section 5.4).
const (
	histogramFloat    = 1 << 0 // counts are floats
	histogramLike     = 1 << 1 // laid out like the last one of the column; integers are differences to it
	histogramHintBits = 2      // the counter reset hint stands in bits 2 and 3

	histogramKnown = 1<<4 - 1
)

// Flags of an exemplar (section 5.5).
const (
	exemplarSame = 1 << 0 // the last one of the column again; nothing follows
	exemplarTime = 1 << 1 // it has a time of its own

	exemplarKnown = 1<<2 - 1
)

// histogramState is the last histogram of a column. Of the two only the one in use is up to date.
type histogramState struct {
	float bool
	fresh bool // none came yet
	h     histogram.Histogram
	fh    histogram.FloatHistogram
}

// like reports whether a histogram can be written as differences to the state.
func (s *histogramState) like(at *series.HistogramAt) bool {
	if s == nil || s.float != (at.H == nil) {
		return false
	}
	if h := at.H; h != nil {
		return s.h.Schema == h.Schema && sameBits(s.h.ZeroThreshold, h.ZeroThreshold) &&
			slices.Equal(s.h.PositiveSpans, h.PositiveSpans) && slices.Equal(s.h.NegativeSpans, h.NegativeSpans) &&
			len(s.h.PositiveBuckets) == len(h.PositiveBuckets) && len(s.h.NegativeBuckets) == len(h.NegativeBuckets) &&
			slices.EqualFunc(s.h.CustomValues, h.CustomValues, sameBits)
	}
	h := at.FH
	return s.fh.Schema == h.Schema && sameBits(s.fh.ZeroThreshold, h.ZeroThreshold) &&
		slices.Equal(s.fh.PositiveSpans, h.PositiveSpans) && slices.Equal(s.fh.NegativeSpans, h.NegativeSpans) &&
		len(s.fh.PositiveBuckets) == len(h.PositiveBuckets) && len(s.fh.NegativeBuckets) == len(h.NegativeBuckets) &&
		slices.EqualFunc(s.fh.CustomValues, h.CustomValues, sameBits)
}

func sameBits(a, b float64) bool { return math.Float64bits(a) == math.Float64bits(b) }

// histogramSize estimates the bytes that a histogram takes, from above.
func histogramSize(at *series.HistogramAt) int {
	if h := at.H; h != nil {
		return 64 + 10*(len(h.PositiveBuckets)+len(h.NegativeBuckets)+len(h.PositiveSpans)+len(h.NegativeSpans)+len(h.CustomValues))
	}
	h := at.FH
	return 64 + 10*(len(h.PositiveBuckets)+len(h.NegativeBuckets)+len(h.PositiveSpans)+len(h.NegativeSpans)+len(h.CustomValues))
}

func (s *encoderSource) appendHistograms(dst []byte, hs []series.HistogramAt) []byte {
	if s.histograms == nil {
		s.histograms = map[uint32]*histogramState{}
	}
	dst = binary.AppendUvarint(dst, uint64(len(hs)))
	next := uint32(0)
	for i := range hs {
		at := &hs[i]
		dst = binary.AppendUvarint(dst, uint64(at.Column-next))
		next = at.Column + 1
		state := s.histograms[at.Column]
		if state == nil {
			state = &histogramState{}
			s.histograms[at.Column] = state
			dst = appendHistogram(dst, at, nil)
		} else {
			dst = appendHistogram(dst, at, state)
		}
		if state.float = at.H == nil; state.float {
			at.FH.CopyTo(&state.fh)
		} else {
			at.H.CopyTo(&state.h)
		}
	}
	return dst
}

// appendHistogram writes a histogram against the last one of its column, nil if there is none.
func appendHistogram(dst []byte, at *series.HistogramAt, last *histogramState) []byte {
	like := last.like(at)
	flags := byte(0)
	if like {
		flags |= histogramLike
	}
	if h := at.H; h != nil {
		dst = append(dst, flags|byte(h.CounterResetHint)<<histogramHintBits)
		var from histogram.Histogram
		if like {
			from = last.h
		} else {
			dst = appendLayout(dst, h.Schema, h.ZeroThreshold, h.PositiveSpans, h.NegativeSpans, h.CustomValues)
			dst = binary.AppendUvarint(dst, uint64(len(h.PositiveBuckets)))
			dst = binary.AppendUvarint(dst, uint64(len(h.NegativeBuckets)))
		}
		dst = appendVarint(dst, int64(h.Count-from.Count))
		dst = appendVarint(dst, int64(h.ZeroCount-from.ZeroCount))
		dst = appendFloat(dst, h.Sum)
		dst = appendBuckets(dst, h.PositiveBuckets, from.PositiveBuckets)
		return appendBuckets(dst, h.NegativeBuckets, from.NegativeBuckets)
	}
	h := at.FH
	dst = append(dst, flags|histogramFloat|byte(h.CounterResetHint)<<histogramHintBits)
	if !like {
		dst = appendLayout(dst, h.Schema, h.ZeroThreshold, h.PositiveSpans, h.NegativeSpans, h.CustomValues)
		dst = binary.AppendUvarint(dst, uint64(len(h.PositiveBuckets)))
		dst = binary.AppendUvarint(dst, uint64(len(h.NegativeBuckets)))
	}
	for _, v := range [...]float64{h.Count, h.ZeroCount, h.Sum} {
		dst = appendFloat(dst, v)
	}
	for _, v := range h.PositiveBuckets {
		dst = appendFloat(dst, v)
	}
	for _, v := range h.NegativeBuckets {
		dst = appendFloat(dst, v)
	}
	return dst
}

func appendLayout(dst []byte, schema int32, zeroThreshold float64, positive, negative []histogram.Span, custom []float64) []byte {
	dst = appendFloat(appendVarint(dst, int64(schema)), zeroThreshold)
	for _, spans := range [...][]histogram.Span{positive, negative} {
		dst = binary.AppendUvarint(dst, uint64(len(spans)))
		for _, s := range spans {
			dst = binary.AppendUvarint(appendVarint(dst, int64(s.Offset)), uint64(s.Length))
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(custom)))
	for _, v := range custom {
		dst = appendFloat(dst, v)
	}
	return dst
}

// appendBuckets writes differences to from, which is as long or empty.
func appendBuckets(dst []byte, buckets, from []int64) []byte {
	for i, v := range buckets {
		if len(from) > 0 {
			v -= from[i]
		}
		dst = appendVarint(dst, v)
	}
	return dst
}

type exemplarState = exemplar.Exemplar

func exemplarSize(at *series.ExemplarAt) int {
	return 32 + 4*at.Exemplar.Labels.Len() + int(at.Exemplar.Labels.ByteSize())
}

func (s *encoderSource) appendExemplars(dst []byte, es []series.ExemplarAt, t int64) []byte {
	if s.exemplars == nil {
		s.exemplars = map[uint32]exemplarState{}
	}
	dst = binary.AppendUvarint(dst, uint64(len(es)))
	column := uint32(0)
	for i := range es {
		at := &es[i]
		x := &at.Exemplar
		dst = binary.AppendUvarint(dst, uint64(at.Column-column))
		column = at.Column
		if last, ok := s.exemplars[column]; ok && sameExemplar(&last, x) {
			dst = append(dst, exemplarSame)
			continue
		}
		s.exemplars[column] = exemplar.Exemplar{Labels: x.Labels.Copy(), Value: x.Value, Ts: x.Ts, HasTs: x.HasTs}
		flags := byte(0)
		if x.HasTs {
			flags |= exemplarTime
		}
		dst = appendFloat(appendLabels(append(dst, flags), x.Labels), x.Value)
		if x.HasTs {
			dst = appendVarint(dst, x.Ts-t)
		}
	}
	return dst
}

// sameExemplar compares bit for bit, so that a NaN equals itself.
func sameExemplar(a, b *exemplar.Exemplar) bool {
	return sameBits(a.Value, b.Value) && a.HasTs == b.HasTs && (!a.HasTs || a.Ts == b.Ts) && labels.Equal(a.Labels, b.Labels)
}

// checkExtras is the part of checkRow about histograms, exemplars and start timestamps.
func checkExtras(row *series.Row, n int) error {
	for i := range row.Histograms {
		at := &row.Histograms[i]
		if !hasColumn(row, at.Column) || i > 0 && at.Column <= row.Histograms[i-1].Column || (at.H == nil) == (at.FH == nil) {
			return fmt.Errorf("histogram of column %d at place %d", at.Column, i)
		}
		if row.Schema.Column(int(at.Column)).Kind == series.Float {
			return fmt.Errorf("histogram in float column %d", at.Column)
		}
		var err error
		var hint histogram.CounterResetHint
		if at.H != nil {
			hint, err = at.H.CounterResetHint, at.H.Validate()
		} else {
			hint, err = at.FH.CounterResetHint, at.FH.Validate()
		}
		if hint > histogram.GaugeType {
			return fmt.Errorf("histogram of column %d has counter reset hint %d", at.Column, hint)
		}
		if err != nil {
			return fmt.Errorf("histogram of series %s: %w", row.Schema.Column(int(at.Column)).Labels, err)
		}
	}
	for i := range row.Exemplars {
		if c := row.Exemplars[i].Column; !hasColumn(row, c) || i > 0 && c < row.Exemplars[i-1].Column {
			return fmt.Errorf("exemplar of column %d at place %d", c, i)
		}
	}
	for i := range row.Starts {
		c := row.Starts[i].Column
		if int(c) >= n || i > 0 && c <= row.Starts[i-1].Column || row.Columns != nil && !hasColumn(row, c) {
			return fmt.Errorf("start timestamp of column %d at place %d", c, i)
		}
	}
	return nil
}

// hasColumn reports whether the row says something about column c.
func hasColumn(row *series.Row, c uint32) bool {
	if row.Columns != nil {
		_, ok := slices.BinarySearch(row.Columns, c)
		return ok
	}
	return int(c) < row.Schema.Len() && row.Has(int(c))
}
