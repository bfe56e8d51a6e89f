package frame

import (
	"math"
	"slices"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// charge takes n bytes for the extras of the source, or gives them back.
func (s *decoderSource) charge(r *reader, n int) {
	if r.charge(n); r.err == nil {
		s.extra += n
	}
}

// extraColumn reads the column of a histogram or an exemplar, which must be one that the row has and the block covers.
func (s *decoderSource) extraColumn(r *reader, least, first, end int) int {
	c := r.column(least, s.schema.schema.Len())
	if r.err != nil {
		return 0
	}
	if !s.covered(c, first, end) || s.flagsRow&rowPartial == 0 && !s.allPresent && s.present[c>>6]&(1<<(c&63)) == 0 {
		r.failf("column %d is not in the row or not in this part of it", c)
	}
	return c
}

// covered reports whether column c is one of the places first to end of the row.
func (s *decoderSource) covered(c, first, end int) bool {
	if s.flagsRow&rowPartial != 0 {
		_, there := slices.BinarySearch(s.list[first:end], uint32(c))
		return there
	}
	return c >= first && c < end
}

func (s *decoderSource) readHistograms(r *reader, first, end int) {
	if s.histograms == nil {
		s.histograms = map[uint32]*histogramState{}
	}
	least := 0
	for range r.count(minHistogram) {
		c := s.extraColumn(r, least, first, end)
		if r.err != nil {
			return
		}
		least = c + 1
		if s.schema.schema.Column(c).Kind == series.Float {
			r.failf("histogram in float column %d", c)
			return
		}
		at := uint32(c)
		state := s.histograms[at]
		if state == nil {
			if s.charge(r, entryCost); r.err != nil {
				return
			}
			state = &histogramState{fresh: true}
			s.histograms[at] = state
		}
		before := state.size()
		state.read(r)
		if s.charge(r, state.size()-before); r.err != nil {
			return
		}
		h := series.HistogramAt{Column: at}
		var err error
		if state.float {
			h.FH = &state.fh
			err = h.FH.Validate()
		} else {
			h.H = &state.h
			err = h.H.Validate()
		}
		if err != nil {
			r.failf("histogram of column %d: %w", at, err)
			return
		}
		s.row.Histograms = append(s.row.Histograms, h)
	}
}

// minHistogram is the least number of bytes that a histogram takes: column, flags, two counts and the sum.
const minHistogram = 12

// size is the memory of the lists of both kinds, for they stay when the kind changes.
func (s *histogramState) size() int {
	return 8 * (cap(s.h.PositiveSpans) + cap(s.h.NegativeSpans) + cap(s.h.PositiveBuckets) + cap(s.h.NegativeBuckets) + cap(s.h.CustomValues) +
		cap(s.fh.PositiveSpans) + cap(s.fh.NegativeSpans) + cap(s.fh.PositiveBuckets) + cap(s.fh.NegativeBuckets) + cap(s.fh.CustomValues))
}

// read is the reverse of appendHistogram; it brings the state forward.
func (s *histogramState) read(r *reader) {
	flags := r.byte()
	float, like := flags&histogramFloat != 0, flags&histogramLike != 0
	if flags&^histogramKnown != 0 || like && (s.fresh || s.float != float) {
		r.failf("histogram has flags %#x", flags)
		return
	}
	s.float, s.fresh = float, false
	hint := histogram.CounterResetHint(flags >> histogramHintBits)
	if float {
		h := &s.fh
		h.CounterResetHint = hint
		if !like {
			positive, negative := readLayout(r, &h.Schema, &h.ZeroThreshold, &h.PositiveSpans, &h.NegativeSpans, &h.CustomValues, 8)
			h.PositiveBuckets, h.NegativeBuckets = make([]float64, positive), make([]float64, negative)
		}
		h.Count, h.ZeroCount, h.Sum = r.float(), r.float(), r.float()
		for i := range h.PositiveBuckets {
			h.PositiveBuckets[i] = r.float()
		}
		for i := range h.NegativeBuckets {
			h.NegativeBuckets[i] = r.float()
		}
		return
	}
	h := &s.h
	h.CounterResetHint = hint
	if !like {
		positive, negative := readLayout(r, &h.Schema, &h.ZeroThreshold, &h.PositiveSpans, &h.NegativeSpans, &h.CustomValues, 1)
		h.PositiveBuckets, h.NegativeBuckets = make([]int64, positive), make([]int64, negative)
		h.Count, h.ZeroCount = 0, 0
	}
	h.Count += uint64(r.varint())
	h.ZeroCount += uint64(r.varint())
	h.Sum = r.float()
	for i := range h.PositiveBuckets {
		h.PositiveBuckets[i] += r.varint()
	}
	for i := range h.NegativeBuckets {
		h.NegativeBuckets[i] += r.varint()
	}
}

// readLayout reads what appendLayout wrote and the bucket counts behind it; bucketSize is the least size of a bucket.
func readLayout(r *reader, schema *int32, zeroThreshold *float64, positive, negative *[]histogram.Span, custom *[]float64, bucketSize int) (int, int) {
	*schema, *zeroThreshold = r.int32(), r.float()
	for _, spans := range [...]*[]histogram.Span{positive, negative} {
		*spans = nil
		if n := r.count(2); n > 0 {
			*spans = make([]histogram.Span, n)
		}
		for i := range *spans {
			(*spans)[i] = histogram.Span{Offset: r.int32(), Length: r.uint32()}
		}
	}
	*custom = nil
	if n := r.count(8); n > 0 {
		*custom = make([]float64, n)
	}
	for i := range *custom {
		(*custom)[i] = r.float()
	}
	p, n := r.count(bucketSize), r.count(bucketSize)
	return p, n
}

func (s *decoderSource) readExemplars(r *reader, first, end int, b *labels.ScratchBuilder) {
	if s.exemplars == nil {
		s.exemplars = map[uint32]exemplarState{}
	}
	c := 0
	for range r.count(2) {
		c = s.extraColumn(r, c, first, end)
		x := s.readExemplar(r, uint32(c), b)
		if r.err != nil {
			return
		}
		before := cap(s.row.Exemplars)
		s.row.Exemplars = append(s.row.Exemplars, series.ExemplarAt{Column: uint32(c), Exemplar: x})
		s.charge(r, exemplarCost*(cap(s.row.Exemplars)-before))
	}
}

func (s *decoderSource) readExemplar(r *reader, column uint32, b *labels.ScratchBuilder) exemplar.Exemplar {
	flags := r.byte()
	last, known := s.exemplars[column]
	if flags == exemplarSame {
		if !known {
			r.failf("column %d has no exemplar to repeat", column)
		}
		return last
	}
	if flags&^exemplarKnown != 0 || flags&exemplarSame != 0 {
		r.failf("exemplar has flags %#x", flags)
		return exemplar.Exemplar{}
	}
	x := exemplar.Exemplar{Labels: makeLabels(b, readLabelPairs(r, nil)), Value: r.float()}
	if flags&exemplarTime != 0 {
		x.HasTs, x.Ts = true, s.row.T+r.varint()
	}
	cost := int(x.Labels.ByteSize())
	if known {
		cost -= int(last.Labels.ByteSize())
	} else {
		cost += entryCost
	}
	if s.charge(r, cost); r.err == nil {
		s.exemplars[column] = x
	}
	return x
}

// readStarts replaces the start timestamps of the columns that a block covers; those of a partial row are not kept.
func (s *decoderSource) readStarts(r *reader, first, end int) {
	n := r.count(2)
	starts := make([]series.StartAt, 0, n)
	least, ms := 0, int64(0)
	for range n {
		c := r.column(least, s.schema.schema.Len())
		ms += r.varint()
		if r.err == nil && !s.covered(c, first, end) {
			r.failf("start timestamp of column %d is not of this part of the row", c)
		}
		if r.err != nil {
			return
		}
		starts = append(starts, series.StartAt{Column: uint32(c), Ms: ms})
		least = c + 1
	}
	if s.flagsRow&rowPartial != 0 {
		s.row.Starts = append(s.row.Starts, starts...)
		return
	}
	from, to := startsIn(s.starts, first, end)
	s.starts = slices.Replace(s.starts, from, to, starts...)
}

// startsIn returns where the start timestamps of the columns first to end stand in a list.
func startsIn(starts []series.StartAt, first, end int) (from, to int) {
	place := func(column int) int {
		i, _ := slices.BinarySearchFunc(starts, column, func(s series.StartAt, c int) int { return int(min(s.Column, math.MaxInt32)) - c })
		return i
	}
	return place(first), place(end)
}
