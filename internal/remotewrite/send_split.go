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

// split divides a request in one of the rows for which first is true, by index, and one of the others. It is false if one
// of them has no rows: then the other one is the request as it is.
// An encoder writes one series for each sample, in the order of rows, so that nothing has to be encoded anew; the symbols
// of 2.0 stand in both parts.
func split(r *writeproto.Request, first func(i int) bool) (a, b writeproto.Request, ok bool) {
	x, y := newPart(r), newPart(r)
	series := make([]*part, 0, r.Samples+r.Histograms) // where each of them goes
	for i, row := range r.Rows {
		to := y
		if first(i) {
			to = x
		}
		to.request.Rows = append(to.request.Rows, row)
		for range row.Samples {
			series = append(series, to)
		}
	}
	if len(y.request.Rows) == 0 {
		return *r, y.request, false
	}
	body, err := snappy.Decode(nil, r.Body)
	if err != nil || len(x.request.Rows) == 0 || len(series) != r.Samples+r.Histograms {
		return writeproto.Request{Message: r.Message}, *r, false
	}
	for number, field := range fieldsOf(body) {
		switch {
		case number != x.fields.series:
			x.body, y.body = append(x.body, field.whole...), append(y.body, field.whole...)
		case len(series) > 0:
			series[0].add(field)
			series = series[1:]
		}
	}
	return x.close(), y.close(), true
}

// part is a part of a request under construction.
type part struct {
	fields  fields
	request writeproto.Request // all but its body
	body    []byte
}

func newPart(of *writeproto.Request) *part {
	p := &part{fields: fieldsV1, request: writeproto.Request{Message: of.Message, Oldest: math.MaxInt64, Newest: math.MinInt64}}
	if of.Message == writeproto.V2 {
		p.fields = fieldsV2
	}
	return p
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
