package writeproto

import (
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
	// MaxSamples is how many samples, histograms and exemplars a request holds. Default 2,000.
	MaxSamples int
	// MaxBytes bounds a request before compression. What does not fit alone is sent nevertheless. Default 8 MiB.
	MaxBytes int
	// CacheBytes bounds what is remembered of series. Beyond it the sources that were not seen for longest are forgotten,
	// which costs time when they come again. Default 256 MiB.
	CacheBytes int
	// Labels makes the final labels of a series in b, which it resets: the site label, external labels, relabelling. It is
	// called once per series, and again when the series was forgotten. False drops the series. Labels with empty values
	// are left out.
	Labels func(site string, source *series.Source, column *series.Column, b *labels.Builder) (ok bool)
	// Exemplars and NativeHistograms are for V1 only; V2 always has them.
	Exemplars, NativeHistograms bool
}

// Encoder turns rows into requests. The samples of a series stand in the order of Add, within a request and from one to
// the next. It is for one goroutine.
type Encoder struct {
	options EncoderOptions
	stats   EncoderStats
}

// NewEncoder returns an encoder that knows no series.
func NewEncoder(o EncoderOptions) *Encoder {
	return &Encoder{options: o}
}

// Request is one request. It is valid until the next call of Add or Metadata of its encoder.
type Request struct {
	// Body is a snappy block.
	Body []byte
	// Message that it is.
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
	// Pending is how many samples, histograms and exemplars were added since the last Close, and PendingBytes their size
	// before compression.
	Pending, PendingBytes int
	// CustomBuckets counts histograms with custom buckets, which 1.0 does not have, and Histograms those that it was not
	// asked for, since the encoder began.
	CustomBuckets, Histograms uint64
}

// Stats returns what there is to show.
func (e *Encoder) Stats() EncoderStats { return e.stats }

// Add appends the samples of a row of a site. Requests that are full are closed. The row is not kept.
func (e *Encoder) Add(site string, number int, row *series.Row) {}

// Close closes the request under construction and returns all requests since the last Close, in order.
func (e *Encoder) Close() []Request { return nil }

// Metadata returns type, help and unit of all families remembered, each once, as requests of 1.0 of MaxSamples entries at
// most. Requests of 2.0 say it with every series.
func (e *Encoder) Metadata() []Request { return nil }

// Forget drops all that is remembered: other labels are in force from now on.
func (e *Encoder) Forget() {}

// Downgrade returns a request of 2.0, made by an encoder, as one of 1.0: for a receiver that turns out not to know 2.0.
// Exemplars and native histograms go with it if they are wanted; those with custom buckets, and all metadata, do not.
func (r *Request) Downgrade(exemplars, nativeHistograms bool) (Request, error) { return Request{}, nil }
