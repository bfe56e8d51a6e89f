package writeproto

import (
	"math"

	"github.com/klauspost/compress/s2"
)

// Split divides a request, made by an encoder, in one of the rows for which first is true, by index in Rows, and one of the
// others. It is false if one of them has no rows, or the body cannot be read: then the request stays as it is, in the
// part that has rows, or in b.
func (r *Request) Split(first func(i int) bool) (a, b Request, ok bool) {
	x, y := newPart(r.Message), newPart(r.Message)
	series := make([]*requestPart, 0, r.Samples+r.Histograms) // where each of them goes: an encoder writes one for each sample
	for i, row := range r.Rows {
		to := y
		if first(i) {
			to = x
		}
		to.Rows = append(to.Rows, row)
		for range row.Samples {
			series = append(series, to)
		}
	}
	if len(y.Rows) == 0 {
		return *r, Request{Message: r.Message}, false
	}
	if len(x.Rows) == 0 || len(series) != r.Samples+r.Histograms || !divide(r.Body, x, y, series) {
		return Request{Message: r.Message}, *r, false
	}
	return x.close(), y.close(), true
}

// divide gives the fields of a body to two parts: the n-th series to the n-th of a list, and all others to both.
func divide(body []byte, x, y *requestPart, series []*requestPart) bool {
	raw, err := s2.Decode(nil, body)
	if err != nil {
		return false
	}
	for len(raw) > 0 {
		f, rest, err := cutField(raw)
		if err != nil {
			return false
		}
		raw = rest
		switch {
		case f.number != x.field:
			x.body, y.body = append(x.body, f.whole...), append(y.body, f.whole...)
		case len(series) == 0 || !series[0].add(&f):
			return false
		default:
			series = series[1:]
		}
	}
	return len(series) == 0
}

// requestPart is a part of a request under construction.
type requestPart struct {
	Request       // all but its body
	body          []byte
	field         int // of series
	histogram, ex int // fields of a series
}

func newPart(m Message) *requestPart {
	p := &requestPart{Request: Request{Message: m, Oldest: math.MaxInt64, Newest: math.MinInt64}}
	p.field, p.histogram, p.ex = fieldSeries1, fieldHistogram1, fieldExemplar1
	if m == V2 {
		p.field, p.histogram, p.ex = fieldSeries2, fieldHistogram2, fieldExemplar2
	}
	return p
}

// add appends a series.
func (p *requestPart) add(series *protoField) bool {
	p.body = append(p.body, series.whole...)
	for b := series.bytes; len(b) > 0; {
		f, rest, err := cutField(b)
		if err != nil {
			return false
		}
		b = rest
		switch f.number {
		case fieldSample:
			p.Samples++
			p.time(f.bytes, fieldSampleTime)
		case p.histogram:
			p.Histograms++
			p.time(f.bytes, histogramTimestamp)
		case p.ex:
			p.Exemplars++
		}
	}
	return true
}

// time takes the time of a sample or histogram into account.
func (p *requestPart) time(b []byte, field int) {
	at := int64(0) // what is not there is 0
	for len(b) > 0 {
		f, rest, err := cutField(b)
		if err != nil {
			return
		}
		if b = rest; f.number == field {
			at = int64(f.value)
		}
	}
	p.Oldest, p.Newest = min(p.Oldest, at), max(p.Newest, at)
}

func (p *requestPart) close() Request {
	p.Body = s2.EncodeSnappy(nil, p.body)
	return p.Request
}
