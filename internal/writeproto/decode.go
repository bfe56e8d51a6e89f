package writeproto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"math/bits"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
)

// maxItems bounds what a request may hold of each sort: series, symbols, samples, histograms, exemplars, metadata,
// references. An empty message takes two bytes in a body and a hundred in memory.
const maxItems = 1_000_000

// ErrTooMany says that a request holds more things of one sort than any sender sends.
var ErrTooMany = fmt.Errorf("the request holds more than %d things of one sort", maxItems)

// Batch is a request that was taken apart. It is used again and again, so that its memory is. Nothing is copied out of
// the body, which must not change as long as the batch is in use. It is for one goroutine.
type Batch struct {
	// Series in the order of the body. One may stand there several times.
	Series []Series
	// Metadata is what a request of 1.0 says of families; in those of 2.0 it stands with the series.
	Metadata []Metadata

	message Message
	seed    maphash.Seed
	body    []byte
	symbols [][]byte
	hashes  []uint64 // of symbols, 0 where nobody has asked yet

	// What the series have, one series after the other.
	refs       []uint32
	samples    []Sample
	histograms []Histogram
	exemplars  []Exemplar
	loose      []byte // labels of 1.0 that stand in several places
	numbers    numbers
}

// Series is one series of a request: where in the batch is what it has.
type Series struct {
	samples, histograms, exemplars span
	// labels are fields of the body in 1.0, or of loose; in 2.0 they are references.
	labels     span
	loose      bool
	typ        uint8
	help, unit uint32 // symbols of 2.0
}

// span is a part of something.
type span struct{ first, end uint32 }

func (s span) len() int { return int(s.end - s.first) }

func of[T any](list []T, s span) []T { return list[s.first:s.end:s.end] }

// Samples, Histograms and Exemplars return those of a series, in the order of the body.
func (b *Batch) Samples(s *Series) []Sample { return of(b.samples, s.samples) }

func (b *Batch) Histograms(s *Series) []Histogram { return of(b.histograms, s.histograms) }

func (b *Batch) Exemplars(s *Series) []Exemplar { return of(b.exemplars, s.exemplars) }

// Len is how many samples and histograms a series has.
func (s *Series) Len() int { return s.samples.len() + s.histograms.len() }

// fields are the labels of a series of 1.0 as they stand in the body.
func (b *Batch) fields(s *Series) []byte {
	if s.loose {
		return of(b.loose, s.labels)
	}
	return of(b.body, s.labels)
}

// Label is a label as it stands in a body.
type Label struct{ Name, Value []byte }

// Sample of a series. Times are in milliseconds since 1970; Start is 0 where none is given.
type Sample struct {
	T     int64
	V     float64
	Start int64
}

// Histogram is a native histogram of a series; exactly one of H and FH is set. It has memory of its own. Nobody has
// validated it.
type Histogram struct {
	T     int64
	Start int64
	H     *histogram.Histogram
	FH    *histogram.FloatHistogram
}

// Exemplar of a series. Its labels are read by Batch.AppendExemplarLabels.
type Exemplar struct {
	T      int64
	V      float64
	fields []byte // its labels in 1.0
	refs   span   // and in 2.0
}

// Metadata is what is said of one family.
type Metadata struct {
	Type               model.MetricType
	Family, Help, Unit []byte
}

// NewBatch returns a batch whose hashes are made with seed.
func NewBatch(seed maphash.Seed) *Batch { return &Batch{seed: seed} }

// Reset forgets the body. What it takes up is kept for the next one.
func (b *Batch) Reset() {
	clear(b.Metadata)
	clear(b.symbols)
	clear(b.histograms)
	clear(b.exemplars)
	b.Series, b.Metadata, b.symbols, b.hashes = b.Series[:0], b.Metadata[:0], b.symbols[:0], b.hashes[:0]
	b.refs, b.samples, b.histograms, b.exemplars = b.refs[:0], b.samples[:0], b.histograms[:0], b.exemplars[:0]
	b.body, b.loose = nil, b.loose[:0]
}

// Cap is how many samples the batch has memory for, for those who decide whether it is worth keeping.
func (b *Batch) Cap() int {
	return max(cap(b.samples), cap(b.Series), cap(b.refs)/16, cap(b.symbols), cap(b.Metadata), cap(b.loose)/256)
}

// Decode takes a request apart, after decompression. After an error the batch holds nothing of use. The error has
// ErrTooMany in its chain where the request is too large, else it is not a request.
//
// It takes what Prometheus takes, but for numbers that run over the end of their list. Labels are only looked for here:
// AppendLabels says whether they are any.
func (b *Batch) Decode(m Message, body []byte) error {
	b.Reset()
	if uint64(len(body)) > math.MaxUint32 {
		return ErrTooMany
	}
	b.message, b.body = m, body
	if m == V2 {
		return b.decodeV2(body)
	}
	return b.decodeV1(body)
}

// full returns ErrTooMany if there are more than maxItems.
func full(n int) error {
	if n > maxItems {
		return ErrTooMany
	}
	return nil
}

// Hash returns a hash of the labels of a series the way they stand in the body: with other symbols, but not in another
// order, it is the same. Those of 1.0 are HashKey of the key.
func (b *Batch) Hash(s *Series) uint64 {
	if b.message == V1 {
		return maphash.Bytes(b.seed, b.fields(s))
	}
	h := uint64(s.labels.len())
	for _, ref := range of(b.refs, s.labels) {
		h = bits.RotateLeft64(h, 7)*0x9e3779b97f4a7c15 + b.hashOf(ref)
	}
	return h
}

// hashOf is the hash of a symbol, also of one that there is not.
func (b *Batch) hashOf(ref uint32) uint64 {
	if int(ref) >= len(b.symbols) {
		return uint64(ref)
	}
	if b.hashes[ref] == 0 {
		b.hashes[ref] = maphash.Bytes(b.seed, b.symbols[ref])
	}
	return b.hashes[ref]
}

// HasKey reports whether AppendKey of the series gave key.
func (b *Batch) HasKey(s *Series, key string) bool {
	if b.message == V1 {
		return key == string(b.fields(s))
	}
	refs := of(b.refs, s.labels)
	if len(refs)%2 != 0 {
		return false
	}
	for i := 0; i < len(refs); i += 2 {
		if int(refs[i]) >= len(b.symbols) || int(refs[i+1]) >= len(b.symbols) {
			return false
		}
		var ok bool
		if key, ok = cutLabel(key, b.symbols[refs[i]], b.symbols[refs[i+1]]); !ok {
			return false
		}
	}
	return key == ""
}

// cutLabel takes a label off the beginning of a key, as AppendKey has written it.
func cutLabel(key string, name, value []byte) (rest string, ok bool) {
	n, v := len(name), len(value)
	if size := 4 + n + v; size < 0x80 { // all lengths take one byte
		if len(key) < 2+size || key[1] != byte(size) || key[3] != byte(n) || key[5+n] != byte(v) {
			return "", false
		}
		return key[2+size:], key[4:4+n] == string(name) && key[6+n:6+n+v] == string(value)
	}
	key, ok = cutUvarint(key, labelSize(name, value))
	for i := 0; ok && i < 2; i++ {
		s := name
		if i == 1 {
			s = value
		}
		if key, ok = cutUvarint(key, len(s)); ok {
			ok = len(key) >= len(s) && key[:len(s)] == string(s)
			key = key[min(len(s), len(key)):]
		}
	}
	return key, ok
}

// cutUvarint takes a tag, which can be but one, and a number off the beginning of a key.
func cutUvarint(key string, n int) (rest string, ok bool) {
	for i := 1; i < len(key); i++ {
		if n < 0x80 {
			return key[i+1:], key[i] == byte(n)
		}
		if key[i] != byte(n)|0x80 {
			return "", false
		}
		n >>= 7
	}
	return "", false
}

// Tags of the fields that a key is made of, which are those of a TimeSeries of 1.0.
const (
	tagLabels     = 1<<3 | wireBytes
	tagLabelName  = 1<<3 | wireBytes
	tagLabelValue = 2<<3 | wireBytes
)

func labelSize(name, value []byte) int {
	return 2 + uvarintLen(uint64(len(name))) + len(name) + uvarintLen(uint64(len(value))) + len(value)
}

// AppendKey appends a key of labels: themselves, as a series of 1.0 has them. Equal keys mean equal labels, and equal
// labels in the same order have the same key, but for senders of 1.0 that write lengths as nobody does.
func AppendKey(dst []byte, labels []Label) []byte {
	for _, l := range labels {
		dst = binary.AppendUvarint(append(dst, tagLabels), uint64(labelSize(l.Name, l.Value)))
		dst = append(binary.AppendUvarint(append(dst, tagLabelName), uint64(len(l.Name))), l.Name...)
		dst = append(binary.AppendUvarint(append(dst, tagLabelValue), uint64(len(l.Value))), l.Value...)
	}
	return dst
}

// HashKey is the hash of a key.
func HashKey(seed maphash.Seed, key []byte) uint64 { return maphash.Bytes(seed, key) }

// AppendRawKey appends what HasKey compares with.
func (b *Batch) AppendRawKey(dst []byte, s *Series, labels []Label) []byte {
	if b.message == V1 {
		return append(dst, b.fields(s)...)
	}
	return AppendKey(dst, labels)
}

// RefError says that a series refers to what the table of symbols does not have.
type RefError struct{ what string }

func (e *RefError) Error() string { return e.what }

func refError(format string, args ...any) error { return &RefError{fmt.Sprintf(format, args...)} }

// AppendLabels appends the labels of a series as they stand in the body, which may be in any order, several of one name,
// and no valid ones. The error is a *RefError about this series, in requests of 2.0, or the body is not a request.
func (b *Batch) AppendLabels(dst []Label, s *Series) ([]Label, error) {
	if b.message == V1 {
		return appendFields(dst, b.fields(s))
	}
	return b.appendRefs(dst, of(b.refs, s.labels))
}

// AppendExemplarLabels appends the labels of an exemplar, as AppendLabels does.
func (b *Batch) AppendExemplarLabels(dst []Label, e *Exemplar) ([]Label, error) {
	if b.message == V1 {
		return appendFields(dst, e.fields)
	}
	return b.appendRefs(dst, of(b.refs, e.refs))
}

// appendRefs appends the labels behind references.
func (b *Batch) appendRefs(dst []Label, refs []uint32) ([]Label, error) {
	if len(refs)%2 != 0 {
		return dst, refError("labels are %d references to symbols, which are no pairs", len(refs))
	}
	for i := 0; i < len(refs); i += 2 {
		name, err := b.symbol(refs[i])
		if err != nil {
			return dst, err
		}
		value, err := b.symbol(refs[i+1])
		if err != nil {
			return dst, err
		}
		dst = append(dst, Label{name, value})
	}
	return dst, nil
}

// symbol returns a symbol of a request of 2.0.
func (b *Batch) symbol(ref uint32) ([]byte, error) {
	if int(ref) >= len(b.symbols) {
		return nil, refError("symbol %d is not among the %d of the request", ref, len(b.symbols))
	}
	return b.symbols[ref], nil
}

// Type returns the type that 2.0 says of a series.
func (b *Batch) Type(s *Series) model.MetricType { return metricTypes[s.typ] }

// Help returns the help of a series of 2.0; the error is a *RefError.
func (b *Batch) Help(s *Series) ([]byte, error) { return b.symbolOrNone(s.help) }

// Unit returns the unit of a series of 2.0; the error is a *RefError.
func (b *Batch) Unit(s *Series) ([]byte, error) { return b.symbolOrNone(s.unit) }

// symbolOrNone is symbol for references that a request without a table leaves at 0.
func (b *Batch) symbolOrNone(ref uint32) ([]byte, error) {
	if ref == 0 && len(b.symbols) == 0 {
		return nil, nil
	}
	return b.symbol(ref)
}

// HashMetadata returns a hash of type, help and unit of a series of 2.0; 0 if it says nothing.
func (b *Batch) HashMetadata(s *Series) uint64 {
	if s.typ == 0 && s.help == 0 && s.unit == 0 {
		return 0
	}
	h := (uint64(s.typ)+1)*0x9e3779b97f4a7c15 + b.hashOf(s.help)
	return bits.RotateLeft64(h, 7)*0x9e3779b97f4a7c15 + b.hashOf(s.unit) | 1
}

// metricTypes are in the order of the numbers, which are those of both versions.
var metricTypes = [...]model.MetricType{
	model.MetricTypeUnknown, model.MetricTypeCounter, model.MetricTypeGauge, model.MetricTypeHistogram,
	model.MetricTypeGaugeHistogram, model.MetricTypeSummary, model.MetricTypeInfo, model.MetricTypeStateset,
}

// knownType is the place of a type among metricTypes.
func knownType(v uint64) uint8 {
	if i := int32(v); i >= 0 && int(i) < len(metricTypes) {
		return uint8(i)
	}
	return 0
}

// readSample reads a sample of either version; that of 1.0 has no start.
func readSample(b []byte, m Message) (s Sample, err error) {
	for w := (wire{b: b}); w.more(); {
		field, typ, err := w.tag()
		if err != nil {
			return s, err
		}
		switch {
		case field == 1:
			if typ != wireFixed {
				return s, wrongType("a sample's value", typ)
			}
			v, err := w.fixed()
			if err != nil {
				return s, err
			}
			s.V = math.Float64frombits(v)
		case field == 2 || field == 3 && m == V2:
			if typ != wireVarint {
				return s, wrongType("a sample's time", typ)
			}
			v, err := w.varint()
			if err != nil {
				return s, err
			}
			if field == 2 {
				s.T = int64(v)
			} else {
				s.Start = int64(v)
			}
		default:
			if err := w.skip(typ); err != nil {
				return s, err
			}
		}
	}
	return s, nil
}

// IsRefError reports whether the error is about one series only.
func IsRefError(err error) bool {
	_, ok := errors.AsType[*RefError](err)
	return ok
}

// Message is what the batch was decoded as.
func (b *Batch) Message() Message { return b.message }
