package writeproto

import (
	"encoding/binary"
	"slices"

	"github.com/klauspost/compress/s2"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// Message is a protobuf message of remote write.
type Message uint8

const (
	V1 Message = 1 // prometheus.WriteRequest
	V2 Message = 2 // io.prometheus.write.v2.Request
)

// EncoderOptions says what requests look like.
type EncoderOptions struct {
	Message Message
	// MaxSamples is how many samples, histograms and exemplars a request holds; the exemplars of one sample stay with it.
	// Default 2,000.
	MaxSamples int
	// MaxBytes bounds a request before compression. What does not fit alone is sent nevertheless. Default 8 MiB.
	MaxBytes int
	// CacheBytes bounds what is remembered of series. Beyond it the sources that were not seen for longest are forgotten,
	// which costs time when they come again. Default 256 MiB.
	CacheBytes int
	// SilentRows is after how many rows of others a source is forgotten that did not end. Default 400,000.
	SilentRows int
	// Labels makes the final labels of a series in b, which it resets: the site label, external labels, relabelling. It is
	// called once per series, and again when the series was forgotten. False drops the series, and so do no labels at all.
	// Names and values are sent as they are, whichever characters they have, as Prometheus does.
	Labels func(site string, source *series.Source, column *series.Column, b *labels.Builder) (ok bool)
	// Exemplars and NativeHistograms are for V1 only; V2 always has them.
	Exemplars, NativeHistograms bool
}

// Encoder turns rows into requests. The samples of a series stand in the order of Add, within a request and from one to
// the next; where time goes backwards in a source a new request begins. An exemplar that a row repeats from the one before
// is sent once. It is for one goroutine.
type Encoder struct {
	options  EncoderOptions
	cache    cache
	requests []Request
	returned bool // by Close
	stats    EncoderStats

	// The request under construction:
	serial  uint64  // begins with 1
	request Request // all but its body
	ops     []byte  // compressed, without a header
	size    int     // of what ops have, before compression
	raw     []byte  // records that are not compressed yet
	packed  []byte  // see pack

	// The row at hand:
	row  RowPart // in the request under construction
	t    int64
	time []byte // as a field of a sample

	trailer []byte // metadata of family, in the request under construction
	family  uint32
	maker   templateMaker
}

// NewEncoder returns an encoder that knows no series.
func NewEncoder(o EncoderOptions) *Encoder {
	setDefault(&o.MaxSamples, 2000)
	setDefault(&o.MaxBytes, 8<<20)
	setDefault(&o.CacheBytes, 256<<20)
	setDefault(&o.SilentRows, 400_000)
	e := &Encoder{options: o}
	e.cache = newCache(&e.options)
	e.begin()
	return e
}

func setDefault(v *int, to int) {
	if *v == 0 {
		*v = to
	}
}

// Request is one request. It is valid until the next call of Add of its encoder.
type Request struct {
	// Body is a snappy block.
	Body    []byte
	Message Message
	// What it holds. Samples are floats.
	Samples, Histograms, Exemplars, Metadata int
	// Oldest and Newest are the least and the greatest time of a row in it, in milliseconds since 1970.
	Oldest, Newest int64
	// Rows says which rows it has samples of, in the order of Add. A row may stand in several requests, one after the other.
	Rows []RowPart
}

// RowPart is what a request has of a row.
type RowPart struct {
	// Row is its number, as given to Add.
	Row int
	// Samples counts floats and histograms.
	Samples int
}

// EncoderStats is what an encoder remembers, and what it could not send.
type EncoderStats struct {
	// Sources, Series and Bytes are remembered at the moment.
	Sources, Series, Bytes int
	// Pending is how many samples and histograms were added since the last Close, and PendingBytes the size of their
	// requests.
	Pending, PendingBytes int
	// CustomBuckets counts histograms with custom buckets, which 1.0 does not have, and Histograms those that it was not
	// asked for, since the encoder began.
	CustomBuckets, Histograms uint64
}

// Stats returns what there is to show.
func (e *Encoder) Stats() EncoderStats {
	s := e.stats
	s.Sources, s.Series, s.Bytes = len(e.cache.sources), e.cache.series, e.cache.bytes
	s.Pending += e.request.Samples + e.request.Histograms
	s.PendingBytes += len(e.ops) + len(e.raw)
	return s
}

// Add appends the samples of a row of a site. Requests that are full are closed. The row is not kept. Its number is for
// Request.Rows.
func (e *Encoder) Add(site string, number int, row *series.Row) {
	if e.returned {
		e.requests, e.returned = e.requests[:0], false
	}
	s := e.cache.find(site, row)
	if row.End {
		e.cache.end(s)
		return
	}
	if s.series == 0 {
		return
	}
	if s.request == e.serial && row.T < s.t {
		e.close()
	}
	e.row, e.t = RowPart{Row: number}, row.T
	e.time = appendUint(e.time[:0], fieldSampleTime, uint64(row.T))
	e.addRow(s, row)
	e.endRow()
	s.t, s.request = row.T, e.serial
}

// addRange adds the values of a row from i up to end one by one, each with what belongs to it.
func (e *Encoder) addRange(s *source, row *series.Row, left *extras, i, end int) {
	columns := row.Schema.Columns()
	for ; i < end; i++ {
		at := i
		if row.Columns != nil {
			at = int(row.Columns[i])
		} else if !row.Has(i) {
			continue
		}
		c := &s.columns[at]
		if c.n == 0 {
			continue
		}
		v, isFloat := row.Values[i], columns[at].Kind == series.Float
		h, exemplars, start := left.take(uint32(at))
		if start > row.T {
			start = 0 // it is none: 2.0 forbids what is behind its sample
		}
		switch {
		case isFloat && len(exemplars) == 0 && start == 0:
			e.putFloat(s, c, v)
		case isFloat:
			e.put(s, c, func(dst []byte) []byte { return appendSample(dst, v, e.time, start) }, exemplars)
			e.request.Samples++
		case h != nil && e.takes(h):
			e.put(s, c, func(dst []byte) []byte { return e.appendHistogram(dst, h, start) }, exemplars)
			e.request.Histograms++
		}
	}
}

// extras is what a row has beside values, as far as it was not taken yet, in ascending order of columns.
type extras struct {
	histograms []series.HistogramAt
	exemplars  []series.ExemplarAt
	starts     []series.StartAt
}

// extras returns what of it is sent.
func (e *Encoder) extras(s *source, row *series.Row) extras {
	x := extras{row.Histograms, row.Exemplars, row.Starts}
	if e.options.Message == V2 {
		return x
	}
	x.starts = nil
	if !e.options.Exemplars {
		x.exemplars = nil
	}
	if !e.options.NativeHistograms {
		for _, h := range x.histograms {
			if s.columns[h.Column].n > 0 {
				e.stats.Histograms++
			}
		}
		x.histograms = nil
	}
	return x
}

// take returns what there is for a column, and drops that and what is before.
func (x *extras) take(column uint32) (h *series.HistogramAt, exemplars []series.ExemplarAt, start int64) {
	x.skip(column)
	if len(x.histograms) > 0 && x.histograms[0].Column == column {
		h = &x.histograms[0]
	}
	n := 0
	for n < len(x.exemplars) && x.exemplars[n].Column == column {
		n++
	}
	if len(x.starts) > 0 && x.starts[0].Column == column {
		start = x.starts[0].Ms
	}
	return h, x.exemplars[:n], start
}

// skip drops what is before a column.
func (x *extras) skip(column uint32) {
	for len(x.histograms) > 0 && x.histograms[0].Column < column {
		x.histograms = x.histograms[1:]
	}
	for len(x.exemplars) > 0 && x.exemplars[0].Column < column {
		x.exemplars = x.exemplars[1:]
	}
	for len(x.starts) > 0 && x.starts[0].Column < column {
		x.starts = x.starts[1:]
	}
}

// within reports whether there is something for the columns from one on, up to another one.
func (x *extras) within(from, end uint32) bool {
	x.skip(from)
	return len(x.histograms) > 0 && x.histograms[0].Column < end || len(x.exemplars) > 0 && x.exemplars[0].Column < end ||
		len(x.starts) > 0 && x.starts[0].Column < end
}

// takes reports whether a histogram can be sent, or counts it.
func (e *Encoder) takes(h *series.HistogramAt) bool {
	custom := h.H != nil && h.H.UsesCustomBuckets() || h.FH != nil && h.FH.UsesCustomBuckets()
	if e.options.Message == V2 || !custom {
		return true
	}
	e.stats.CustomBuckets++
	return false
}

// samples is how full the request under construction is, bytes how long it is before compression.
func (e *Encoder) samples() int {
	return e.request.Samples + e.request.Histograms + e.request.Exemplars
}

func (e *Encoder) bytes() int { return e.size + len(e.raw) + len(e.cache.symbols.section) }

// endRow notes what the request under construction has of the row at hand.
func (e *Encoder) endRow() {
	if e.row.Samples == 0 {
		return
	}
	r := &e.request
	if len(r.Rows) == 0 {
		r.Oldest, r.Newest = e.t, e.t
	}
	r.Oldest, r.Newest = min(r.Oldest, e.t), max(r.Newest, e.t)
	r.Rows = append(r.Rows, e.row)
	e.row.Samples = 0
}

// begin begins a request.
func (e *Encoder) begin() {
	e.serial++
	e.ops, e.size, e.raw = e.ops[:0], 0, e.raw[:0]
	e.family, e.trailer = 0, e.trailer[:0]
	e.request = Request{Message: e.options.Message, Rows: e.request.Rows[:0]}
	e.cache.symbols.reset()
}

// pack compresses bytes to the operations of a block. Blocks have no places, only distances: their operations can stand
// one behind the other. The result is valid until the next call.
func (e *Encoder) pack(b []byte) []byte {
	e.packed = s2.EncodeSnappy(slices.Grow(e.packed[:0], s2.MaxEncodedLen(len(b))), b)
	e.size += len(b)
	return e.packed[uvarintLen(uint64(len(b))):]
}

// packRaw compresses what is not compressed yet.
func (e *Encoder) packRaw() {
	if len(e.raw) > 0 {
		e.ops = append(e.ops, e.pack(e.raw)...)
		e.raw = e.raw[:0]
	}
}

// close closes the request under construction, if there is anything in it.
func (e *Encoder) close() {
	e.endRow()
	if len(e.request.Rows) == 0 {
		return
	}
	e.packRaw()
	var table []byte
	if e.options.Message == V2 {
		table = e.pack(e.cache.symbols.section)
	}
	if n := len(e.requests); n < cap(e.requests) {
		e.requests = e.requests[:n+1]
	} else {
		e.requests = append(e.requests, Request{})
	}
	// What the last use of its place left is used again.
	r := &e.requests[len(e.requests)-1]
	body, rows := binary.AppendUvarint(r.Body[:0], uint64(e.size)), r.Rows
	*r = e.request
	r.Body = append(append(body, table...), e.ops...)
	e.stats.Pending += r.Samples + r.Histograms
	e.stats.PendingBytes += len(r.Body)
	e.request.Rows = rows
	e.begin()
}

// Close closes the request under construction and returns all requests since the last Close, in order.
func (e *Encoder) Close() []Request {
	if e.returned {
		return nil
	}
	e.close()
	e.cache.tidy()
	e.stats.Pending, e.stats.PendingBytes = 0, 0
	e.returned = true
	return e.requests
}

// Forget drops all that is remembered of series: other labels are in force from now on. Requests were closed before.
func (e *Encoder) Forget() {
	e.close()
	e.cache.forget()
}
