package expo

import (
	"fmt"
	"math"

	"github.com/prometheus/prometheus/model/histogram"

	"github.com/thalweg/thalweg/internal/series"
)

// LimitError says that a body exceeds a limit of its target. Its text begins with the key that sets the limit.
type LimitError struct {
	Limit  string // as in the configuration: sample_limit, label_limit, ...
	Max    int    // its value
	Got    int    // what was found; 0: more than Max
	Detail string // what exceeds it, if not the body
}

func (e *LimitError) Error() string {
	got := "more"
	if e.Got > 0 {
		got = fmt.Sprint(e.Got)
	}
	if e.Detail == "" {
		return fmt.Sprintf("%s exceeded: limit %d, found %s", e.Limit, e.Max, got)
	}
	return fmt.Sprintf("%s exceeded: limit %d, found %s: %s", e.Limit, e.Max, got, e.Detail)
}

// SyntaxError says that a body is not of the format that its content type announces.
type SyntaxError struct{ Err error }

func (e *SyntaxError) Error() string { return "parse body: " + shorten(e.Err.Error()) }

func (e *SyntaxError) Unwrap() error { return e.Err }

// ContentTypeError says that the type of a body is missing or unknown, and that there is no fallback.
type ContentTypeError struct {
	ContentType string
	Err         error
}

func (e *ContentTypeError) Error() string {
	return fmt.Sprintf("content type %q: %s", shorten(e.ContentType), shorten(e.Err.Error()))
}

func (e *ContentTypeError) Unwrap() error { return e.Err }

// shorten bounds a text that quotes a body.
func shorten(s string) string {
	const most = 300
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}

// limitBuckets refuses a histogram that contradicts itself, and reduces the resolution of others until they have at most
// limit buckets (0: any number) and no finer schema than maxSchema.
func limitBuckets(s *sample, limit int, maxSchema int32) error {
	if s.kind == series.Float {
		return nil
	}
	h := buckets{s.h, s.fh}
	if limit > 0 && h.count() > limit && !histogram.IsExponentialSchema(h.schema()) {
		return &LimitError{Limit: "native_histogram_bucket_limit", Max: limit, Got: h.count(), Detail: "custom buckets"}
	}
	if err := h.validate(); err != nil {
		return &SyntaxError{err}
	}
	for limit > 0 && h.count() > limit {
		if h.schema() <= histogram.ExponentialSchemaMin {
			return &LimitError{Limit: "native_histogram_bucket_limit", Max: limit, Got: h.count()}
		}
		if err := h.reduce(h.schema() - 1); err != nil {
			return &SyntaxError{fmt.Errorf("reduce histogram to schema %d: %w", h.schema()-1, err)}
		}
	}
	if histogram.IsExponentialSchemaReserved(h.schema()) && h.schema() > maxSchema {
		if err := h.reduce(maxSchema); err != nil {
			return &SyntaxError{fmt.Errorf("reduce histogram to schema %d: %w", maxSchema, err)}
		}
	}
	return nil
}

// buckets is a histogram of either representation.
type buckets struct {
	h  *histogram.Histogram
	fh *histogram.FloatHistogram
}

func (b buckets) validate() error {
	if b.h != nil {
		return b.h.Validate()
	}
	return b.fh.Validate()
}

func (b buckets) schema() int32 {
	if b.h != nil {
		return b.h.Schema
	}
	return b.fh.Schema
}

func (b buckets) count() int {
	if b.h != nil {
		return len(b.h.PositiveBuckets) + len(b.h.NegativeBuckets)
	}
	return len(b.fh.PositiveBuckets) + len(b.fh.NegativeBuckets)
}

func (b buckets) reduce(schema int32) error {
	if b.h != nil {
		return b.h.ReduceResolution(schema)
	}
	return b.fh.ReduceResolution(schema)
}

// maxSchema is the finest exponential schema whose buckets grow by at least factor.
func maxSchema(factor float64) int32 {
	if factor <= 1 {
		return histogram.ExponentialSchemaMax
	}
	s := math.Floor(-math.Log2(math.Log2(factor)))
	return int32(min(max(s, float64(histogram.ExponentialSchemaMin)), float64(histogram.ExponentialSchemaMax)))
}
