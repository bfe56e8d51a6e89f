package writeproto

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/s2"
	"github.com/prometheus/prometheus/model/histogram"
)

// Downgrade returns a request of 2.0, made by an encoder, as one of 1.0: for a receiver that turns out not to know 2.0.
// Exemplars and native histograms go with it if they are wanted. Those with custom buckets, and all metadata, do not;
// skipped counts histograms that did not. The result keeps nothing of r. It may be larger than MaxBytes.
func (r *Request) Downgrade(exemplars, nativeHistograms bool) (down Request, skipped int, err error) {
	raw, err := s2.Decode(nil, r.Body)
	if err != nil {
		return Request{}, 0, fmt.Errorf("downgrade a request: %w", err)
	}
	d := downgrade{exemplars: exemplars, histograms: nativeHistograms}
	d.Message, d.Oldest, d.Newest = V1, r.Oldest, r.Newest
	rows := rowsOf(r)
	for len(raw) > 0 {
		f, rest, err := cutField(raw)
		if err != nil {
			return Request{}, 0, fmt.Errorf("downgrade a request: %w", err)
		}
		raw = rest
		switch f.number {
		case fieldSymbols2:
			d.symbols = append(d.symbols, f.bytes)
		case fieldSeries2:
			before := d.Samples + d.Histograms
			if err := d.series(f.bytes); err != nil {
				return Request{}, 0, fmt.Errorf("downgrade a request: %w", err)
			}
			d.count(rows(), d.Samples+d.Histograms-before)
		}
	}
	d.Body = s2.EncodeSnappy(nil, d.body)
	return d.Request, d.skipped, nil
}

// rowsOf returns a function that returns the row of each series of a request, one after the other; -1 behind the last.
func rowsOf(r *Request) func() int {
	i, n := 0, 0
	return func() int {
		for i < len(r.Rows) && n == r.Rows[i].Samples {
			i, n = i+1, 0
		}
		if i == len(r.Rows) {
			return -1
		}
		n++
		return r.Rows[i].Row
	}
}

// count notes that so many samples of a row are kept.
func (d *downgrade) count(row, n int) {
	last := len(d.Rows) - 1
	switch {
	case n == 0:
	case last >= 0 && d.Rows[last].Row == row:
		d.Rows[last].Samples += n
	default:
		d.Rows = append(d.Rows, RowPart{row, n})
	}
}

// downgrade is a request of 1.0 that is made of one of 2.0.
type downgrade struct {
	Request
	exemplars, histograms bool
	skipped               int
	symbols               [][]byte
	body, fields          []byte
}

var errRequest = errors.New("it is none of this encoder's")

// protoField is one field of a message: bytes, or a number.
type protoField struct {
	number int
	bytes  []byte
	value  uint64
	whole  []byte // with its tag
}

// cutField splits a field off.
func cutField(b []byte) (f protoField, rest []byte, err error) {
	tag, n := binary.Uvarint(b)
	if n <= 0 {
		return f, nil, errRequest
	}
	f.number = int(tag >> 3)
	end := n
	switch tag & 7 {
	case wireVarint:
		v, k := binary.Uvarint(b[n:])
		if k <= 0 {
			return f, nil, errRequest
		}
		f.value, end = v, n+k
	case wireFixed:
		if len(b) < n+8 {
			return f, nil, errRequest
		}
		f.value, end = binary.LittleEndian.Uint64(b[n:]), n+8
	case wireBytes:
		size, k := binary.Uvarint(b[n:])
		if k <= 0 || size > uint64(len(b)-n-k) {
			return f, nil, errRequest
		}
		end = n + k + int(size)
		f.bytes = b[n+k : end]
	default:
		return f, nil, errRequest
	}
	f.whole = b[:end]
	return f, b[end:], nil
}

// series takes one TimeSeries.
func (d *downgrade) series(b []byte) error {
	d.fields = d.fields[:0]
	for len(b) > 0 {
		f, rest, err := cutField(b)
		if err != nil {
			return err
		}
		b = rest
		switch f.number {
		case fieldRefs2:
			err = d.labels(fieldLabels1, f.bytes)
		case fieldSample:
			err = d.keep(fieldSample, f.bytes, fieldSampleStart, &d.Samples)
		case fieldHistogram2:
			if !d.histograms || customBuckets(f.bytes) {
				d.skipped++
				return nil
			}
			err = d.keep(fieldHistogram1, f.bytes, histogramStart, &d.Histograms)
		case fieldExemplar2:
			if d.exemplars {
				err = d.exemplar(f.bytes)
			}
		}
		if err != nil {
			return err
		}
	}
	d.body = binary.AppendUvarint(appendTag(d.body, fieldSeries1, wireBytes), uint64(len(d.fields)))
	d.body = append(d.body, d.fields...)
	return nil
}

// labels writes labels by their symbols.
func (d *downgrade) labels(field int, refs []byte) error {
	var pair [2][]byte
	for len(refs) > 0 {
		for i := range pair {
			ref, n := binary.Uvarint(refs)
			if n <= 0 || ref >= uint64(len(d.symbols)) {
				return errRequest
			}
			pair[i], refs = d.symbols[ref], refs[n:]
		}
		n := 2 + len(pair[0]) + uvarintLen(uint64(len(pair[0]))) + len(pair[1]) + uvarintLen(uint64(len(pair[1])))
		d.fields = binary.AppendUvarint(appendTag(d.fields, field, wireBytes), uint64(n))
		for i, s := range pair {
			d.fields = binary.AppendUvarint(appendTag(d.fields, i+1, wireBytes), uint64(len(s)))
			d.fields = append(d.fields, s...)
		}
	}
	return nil
}

// keep writes a message as it is, without one of its fields, and counts it.
func (d *downgrade) keep(field int, b []byte, without int, count *int) error {
	*count++
	d.fields = append(appendTag(d.fields, field, wireBytes), 0)
	from := len(d.fields)
	for len(b) > 0 {
		f, rest, err := cutField(b)
		if err != nil {
			return err
		}
		if b = rest; f.number != without {
			d.fields = append(d.fields, f.whole...)
		}
	}
	d.fields = closeLength(d.fields, from)
	return nil
}

func (d *downgrade) exemplar(b []byte) error {
	d.Exemplars++
	d.fields = append(appendTag(d.fields, fieldExemplar1, wireBytes), 0)
	from := len(d.fields)
	for len(b) > 0 {
		f, rest, err := cutField(b)
		if err != nil {
			return err
		}
		if b = rest; f.number != fieldExemplarLabels {
			d.fields = append(d.fields, f.whole...)
		} else if err := d.labels(fieldExemplarLabels, f.bytes); err != nil {
			return err
		}
	}
	d.fields = closeLength(d.fields, from)
	return nil
}

// customBuckets reports whether a histogram has custom buckets.
func customBuckets(b []byte) bool {
	for len(b) > 0 {
		f, rest, err := cutField(b)
		if err != nil {
			return false
		}
		if b = rest; f.number == histogramSchema {
			return f.value == zigzag(int64(histogram.CustomBucketsSchema))
		}
	}
	return false
}
