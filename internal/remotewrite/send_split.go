package remotewrite

import (
	"iter"
	"math"

	"github.com/klauspost/compress/snappy"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/thalweg/thalweg/internal/writeproto"
)

// Field numbers of the two messages, and of what their series have.
var (
	fieldsV1 = fields{series: 1, samples: 2, exemplars: 3, histograms: 4}
	fieldsV2 = fields{series: 5, samples: 2, histograms: 3, exemplars: 4}
)

type fields struct{ series, samples, histograms, exemplars protowire.Number }

const (
	sampleTime    = 2
	histogramTime = 15
)

// split cuts a request between two of its rows into two of about the same size. It is false if there is only one row.
// An encoder writes one series for each sample, in the order of rows, so that nothing has to be encoded anew; the symbols
// of 2.0 stand in both parts.
func split(r *writeproto.Request) (first, second writeproto.Request, ok bool) {
	if len(r.Rows) < 2 {
		return first, second, false
	}
	rows, n := 1, r.Rows[0].Samples
	for rows < len(r.Rows)-1 && n+r.Rows[rows].Samples <= (r.Samples+r.Histograms)/2 {
		n += r.Rows[rows].Samples
		rows++
	}
	body, err := snappy.Decode(nil, r.Body)
	if err != nil {
		return first, second, false
	}
	f := fieldsV1
	if r.Message == writeproto.V2 {
		f = fieldsV2
	}
	a := part{fields: f, request: writeproto.Request{Message: r.Message, Rows: r.Rows[:rows], Oldest: math.MaxInt64, Newest: math.MinInt64}}
	b := part{fields: f, request: writeproto.Request{Message: r.Message, Rows: r.Rows[rows:], Oldest: math.MaxInt64, Newest: math.MinInt64}}
	for number, field := range fieldsOf(body) {
		switch {
		case number != f.series:
			a.body, b.body = append(a.body, field.whole...), append(b.body, field.whole...)
		case a.request.Samples+a.request.Histograms < n:
			a.add(field)
		default:
			b.add(field)
		}
	}
	first, second = a.close(), b.close()
	// Nothing is lost, whatever there was to read.
	ok = first.Samples+first.Histograms == n && first.Samples+second.Samples == r.Samples && first.Histograms+second.Histograms == r.Histograms
	return first, second, ok
}

// part is a part of a request under construction.
type part struct {
	fields  fields
	request writeproto.Request // all but its body
	body    []byte
}

// add appends a series.
func (p *part) add(series field) {
	p.body = append(p.body, series.whole...)
	r := &p.request
	for number, f := range fieldsOf(series.content) {
		time := protowire.Number(sampleTime)
		switch number {
		case p.fields.samples:
			r.Samples++
		case p.fields.histograms:
			r.Histograms++
			time = histogramTime
		case p.fields.exemplars:
			r.Exemplars++
			continue
		default:
			continue
		}
		for number, f := range fieldsOf(f.content) {
			if number == time {
				r.Oldest, r.Newest = min(r.Oldest, int64(f.number)), max(r.Newest, int64(f.number))
			}
		}
	}
}

func (p *part) close() writeproto.Request {
	p.request.Body = snappy.Encode(nil, p.body)
	return p.request
}

// field is one field of a message.
type field struct {
	whole   []byte // with its tag
	content []byte // of what has a length
	number  uint64 // if it is a varint
}

// fieldsOf ranges over the fields of a message, up to what is none.
func fieldsOf(message []byte) iter.Seq2[protowire.Number, field] {
	return func(yield func(protowire.Number, field) bool) {
		for len(message) > 0 {
			number, kind, n := protowire.ConsumeTag(message)
			size := -1
			if n > 0 {
				size = protowire.ConsumeFieldValue(number, kind, message[n:])
			}
			if size < 0 {
				return
			}
			f := field{whole: message[:n+size]}
			switch value := message[n : n+size]; kind {
			case protowire.BytesType:
				f.content, _ = protowire.ConsumeBytes(value)
			case protowire.VarintType:
				f.number, _ = protowire.ConsumeVarint(value)
			}
			if !yield(number, f) {
				return
			}
			message = message[n+size:]
		}
	}
}
