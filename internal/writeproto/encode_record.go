package writeproto

import (
	"encoding/binary"
	"math"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// Fields of both messages that differ.
const (
	fieldSeries1 = 1 // of WriteRequest
	fieldMeta1   = 3
	fieldLabels1 = 1 // of TimeSeries
	fieldSample  = 2 // in both

	fieldExemplar1  = 3
	fieldHistogram1 = 4

	fieldSymbols2   = 4 // of Request
	fieldSeries2    = 5
	fieldRefs2      = 1 // of TimeSeries
	fieldHistogram2 = 3
	fieldExemplar2  = 4
	fieldMetadata2  = 5

	fieldSampleValue = 1
	fieldSampleTime  = 2
	fieldSampleStart = 3

	fieldExemplarLabels = 1
	fieldExemplarValue  = 2
	fieldExemplarTime   = 3

	fieldMetadataType = 1
	fieldMetadataHelp = 3
	fieldMetadataUnit = 4
)

// putFloat adds a sample to the request under construction, or to a new one.
func (e *Encoder) putFloat(s *source, c *column, v float64) {
	e.makeRoom()
	from := e.beginRecord(s, c, sampleHead+8+len(e.time))
	e.raw = append(e.raw, fieldSample<<3|wireBytes, byte(sampleHead-2+8+len(e.time)), fieldSampleValue<<3|wireFixed)
	e.raw = append(binary.LittleEndian.AppendUint64(e.raw, math.Float64bits(v)), e.time...)
	e.endRecord(c, from)
	e.request.Samples++
	e.row.Samples++
}

// sampleHead is the tag and size of a sample, and the tag of its value.
const sampleHead = 3

// put adds a sample of any kind, by its field, with exemplars.
func (e *Encoder) put(s *source, c *column, field func([]byte) []byte, exemplars []series.ExemplarAt) {
	e.makeRoom()
	from := e.beginRecord(s, c, 0)
	e.raw = field(e.raw)
	if len(exemplars) > 0 {
		for _, x := range e.cache.fresh(s, exemplars) {
			e.raw = e.appendExemplar(e.raw, x)
			e.request.Exemplars++
		}
	}
	e.endRecord(c, from)
	e.row.Samples++
}

// makeRoom closes the request under construction if it is full.
func (e *Encoder) makeRoom() {
	if e.samples() >= e.options.MaxSamples || e.bytes() >= e.options.MaxBytes {
		e.close()
	}
}

// beginRecord begins a TimeSeries with the labels of a series; size is that of what follows, if it is known.
func (e *Encoder) beginRecord(s *source, c *column, size int) (from int) {
	if e.options.Message == V1 {
		text := s.text[c.at : c.at+c.n]
		if size > 0 {
			e.raw = binary.AppendUvarint(append(e.raw, fieldSeries1<<3|wireBytes), uint64(len(text)+size))
			e.raw = append(e.raw, text...)
			return 0
		}
		e.raw = append(e.raw, fieldSeries1<<3|wireBytes, 0)
		from = len(e.raw)
		e.raw = append(e.raw, text...)
		return from
	}
	e.raw = append(e.raw, fieldSeries2<<3|wireBytes, 0)
	from = len(e.raw)
	e.raw = e.cache.symbols.appendRefs(e.raw, fieldRefs2, s.ids[c.at:c.at+c.n])
	return from
}

// endRecord ends a TimeSeries.
func (e *Encoder) endRecord(c *column, from int) {
	if e.options.Message == V2 {
		e.raw = append(e.raw, e.metadataOf(c.family)...)
	}
	if from > 0 {
		e.raw = closeLength(e.raw, from)
	}
}

// metadataOf returns the metadata of a family as they stand in a record.
func (e *Encoder) metadataOf(family uint32) []byte {
	if family != e.family {
		m := &e.cache.metadata[family]
		e.family, e.trailer = family, e.trailer[:0]
		if family != 0 {
			e.trailer = append(appendTag(e.trailer, fieldMetadata2, wireBytes), 0)
			from := len(e.trailer)
			e.trailer = appendUint(e.trailer, fieldMetadataType, uint64(m.kind))
			e.trailer = appendUint(e.trailer, fieldMetadataHelp, uint64(e.cache.symbols.ref(m.help)))
			e.trailer = appendUint(e.trailer, fieldMetadataUnit, uint64(e.cache.symbols.ref(m.unit)))
			e.trailer = closeLength(e.trailer, from)
		}
	}
	return e.trailer
}

// appendSample appends a sample as a field of a TimeSeries.
func appendSample(dst []byte, v float64, time []byte, start int64) []byte {
	dst = append(appendTag(dst, fieldSample, wireBytes), 0)
	from := len(dst)
	dst = append(appendFixed(dst, fieldSampleValue, v), time...)
	return closeLength(appendUint(dst, fieldSampleStart, uint64(start)), from)
}

// appendHistogram appends a histogram of the row at hand as a field of a TimeSeries.
func (e *Encoder) appendHistogram(dst []byte, h *series.HistogramAt, start int64) []byte {
	field := fieldHistogram1
	if e.options.Message == V2 {
		field = fieldHistogram2
	}
	dst = append(appendTag(dst, field, wireBytes), 0)
	return closeLength(appendHistogram(dst, h.H, h.FH, e.t, start), len(dst))
}

// appendExemplar appends an exemplar of the row at hand as a field of a TimeSeries. One without a time of its own has
// the row's.
func (e *Encoder) appendExemplar(dst []byte, x *exemplar.Exemplar) []byte {
	t := x.Ts
	if !x.HasTs {
		t = e.t
	}
	field := fieldExemplar1
	if e.options.Message == V2 {
		field = fieldExemplar2
	}
	dst = append(appendTag(dst, field, wireBytes), 0)
	from := len(dst)
	if e.options.Message == V1 {
		x.Labels.Range(func(l labels.Label) { dst = appendLabel(dst, fieldExemplarLabels, l) })
	} else if !x.Labels.IsEmpty() {
		dst = append(appendTag(dst, fieldExemplarLabels, wireBytes), 0)
		refs := len(dst)
		x.Labels.Range(func(l labels.Label) {
			dst = binary.AppendUvarint(dst, uint64(e.cache.symbols.pass(l.Name)))
			dst = binary.AppendUvarint(dst, uint64(e.cache.symbols.pass(l.Value)))
		})
		dst = closeLength(dst, refs)
	}
	dst = appendDouble(dst, fieldExemplarValue, x.Value)
	return closeLength(appendUint(dst, fieldExemplarTime, uint64(t)), from)
}

// typeNumber is the number of a metric type, which is the same in both messages; 0 if it is not known.
func typeNumber(t model.MetricType) byte {
	switch t {
	case model.MetricTypeCounter:
		return 1
	case model.MetricTypeGauge:
		return 2
	case model.MetricTypeHistogram:
		return 3
	case model.MetricTypeGaugeHistogram:
		return 4
	case model.MetricTypeSummary:
		return 5
	case model.MetricTypeInfo:
		return 6
	case model.MetricTypeStateset:
		return 7
	}
	return 0
}
