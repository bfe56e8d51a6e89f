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

// A record is a TimeSeries, as a field of its request: head (tag and size), text (its labels), and what else there is, at
// last the metadata in 2.0. That of one float has three bytes, the value and the time behind the text. What a record has
// in common with the one before, in these places, is not written again.
type record struct {
	plain  bool // one float, and no more
	size   int  // without its head
	value  uint64
	t      int64
	label  []byte // its text
	family uint32
	// Where they begin in the block:
	head, text, tail, trailer int
}

// sampleHead is the tag and size of a sample, and the tag of its value.
const sampleHead = 3

// leastCopy is how long a copy should be at least, if it does not continue another one.
const leastCopy = 5

// putFloat adds a sample to the request under construction, or to a new one.
func (e *Encoder) putFloat(s *source, c *column, v float64) {
	e.makeRoom()
	b, last := &e.block, &e.last
	text, trailer := e.text(s, c), e.metadataOf(c.family)
	size := len(text) + sampleHead + 8 + len(e.time) + len(trailer)
	next := record{plain: true, size: size, value: math.Float64bits(v), t: e.t, label: text, family: c.family, head: b.n}

	alike := last.plain && last.t == e.t
	if last.plain && last.size == size {
		b.repeat(b.n-last.head, 1+uvarintLen(uint64(size)))
	} else {
		e.putHead(size)
	}
	next.text = b.n
	e.putText(text, alike)
	next.tail = b.n
	if alike {
		e.putTail(next.value)
	} else {
		e.rest = appendSample(e.rest[:0], v, e.time, 0)
		b.add(e.rest)
	}
	next.trailer = b.n
	e.putTrailer(trailer)
	e.last = next
	e.request.Samples++
	e.row.Samples++
}

// put adds a sample of any kind, by its field, with exemplars.
func (e *Encoder) put(s *source, c *column, field func([]byte) []byte, exemplars []series.ExemplarAt) {
	e.makeRoom()
	e.rest = field(e.rest[:0])
	if len(exemplars) > 0 {
		for _, x := range e.cache.fresh(s, exemplars) {
			e.rest = e.appendExemplar(e.rest, x)
			e.request.Exemplars++
		}
	}
	text, trailer := e.text(s, c), e.metadataOf(c.family)
	size := len(text) + len(e.rest) + len(trailer)
	next := record{size: size, label: text, family: c.family, head: e.block.n}
	e.putHead(size)
	next.text = e.block.n
	e.putText(text, false)
	e.block.add(e.rest)
	next.trailer = e.block.n
	e.putTrailer(trailer)
	e.last = next
	e.row.Samples++
}

// makeRoom closes the request under construction if it is full.
func (e *Encoder) makeRoom() {
	r := &e.request
	if r.Samples+r.Histograms+r.Exemplars >= e.options.MaxSamples || e.block.n+len(e.cache.symbols.section) >= e.options.MaxBytes {
		e.close()
	}
}

// putHead writes tag and size of a record.
func (e *Encoder) putHead(size int) {
	field := byte(fieldSeries1<<3 | wireBytes)
	if e.options.Message == V2 {
		field = fieldSeries2<<3 | wireBytes
	}
	var head [1 + binary.MaxVarintLen64]byte
	head[0] = field
	n := 1 + binary.PutUvarint(head[1:], uint64(size))
	if d := e.block.n - e.last.head; e.block.repeats(d) {
		e.block.repeat(d, 1)
		e.block.add(head[1:n])
		return
	}
	e.block.add(head[:n])
}

// putText writes the text of a record. follows: what comes next is a copy.
func (e *Encoder) putText(text []byte, follows bool) {
	b, last := &e.block, e.last.label
	at, from := b.n, e.last.text
	prefix := commonPrefix(text, last)
	if prefix < leastCopy && !b.repeats(at-from) {
		prefix = 0
	}
	suffix := commonSuffix(text[prefix:], last[min(prefix, len(last)):])
	if suffix < leastCopy && !follows {
		suffix = 0
	}
	if prefix > 0 {
		b.repeat(at-from, prefix)
	}
	b.add(text[prefix : len(text)-suffix])
	if suffix > 0 {
		b.repeat(at+len(text)-from-len(last), suffix)
	}
}

// putTail writes the sample of a float that has the time of the one before.
func (e *Encoder) putTail(value uint64) {
	b := &e.block
	d := b.n - e.last.tail
	x := value ^ e.last.value
	if x == 0 {
		b.repeat(d, sampleHead+8+len(e.time))
		return
	}
	low, high := zeroBytesLow(x), zeroBytesHigh(x)
	head := [sampleHead + 8]byte{fieldSample<<3 | wireBytes, byte(sampleHead - 2 + 8 + len(e.time)), fieldSampleValue<<3 | wireFixed}
	binary.LittleEndian.PutUint64(head[sampleHead:], value)
	common := sampleHead + low
	if common < leastCopy && !b.repeats(d) {
		common = 0
	} else {
		b.repeat(d, common)
	}
	b.add(head[common : len(head)-high])
	b.repeat(d, high+len(e.time))
}

// putTrailer writes the metadata of a record.
func (e *Encoder) putTrailer(trailer []byte) {
	if len(trailer) == 0 {
		return
	}
	if e.last.family == e.family { // there was one, or it would be 0
		e.block.repeat(e.block.n-e.last.trailer, len(trailer))
	} else {
		e.block.add(trailer)
	}
}

// text returns the labels of a series as they stand in a record. What it returned before last is not valid any more.
func (e *Encoder) text(s *source, c *column) []byte {
	if e.options.Message == V1 {
		return s.text[c.at : c.at+c.n]
	}
	e.texts[0], e.texts[1] = e.texts[1], e.texts[0]
	e.texts[0] = e.cache.symbols.appendRefs(e.texts[0][:0], fieldRefs2, s.ids[c.at:c.at+c.n])
	return e.texts[0]
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
