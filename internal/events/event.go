package events

import (
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

// Type of a metric. The numbers are those that events may have in place of the words.
type Type uint8

const (
	Counter Type = iota
	Gauge
	Summary
	Histogram
)

func (t Type) String() string { return string(t.model()) }

func (t Type) model() model.MetricType {
	return [...]model.MetricType{
		Counter: model.MetricTypeCounter, Gauge: model.MetricTypeGauge,
		Summary: model.MetricTypeSummary, Histogram: model.MetricTypeHistogram,
	}[t]
}

// Op is what an event does to a gauge.
type Op uint8

const (
	Set Op = iota
	Inc
	Dec
	Min // the least of a window
	Max // the greatest of a window
)

// Event is one JSON object. Its strings and slices are parts of the payload and of the Parser that read it.
type Event struct {
	Type Type
	Op   Op
	Name string
	Help string
	Unit string
	ID   string
	// Labels as they were sent: not sorted, each name once.
	Labels []labels.Label
	// Value is the one of an event that has no Values.
	Value float64
	// Values of an event that has several: none at all declares a series.
	Values []float64
	Many   bool // Values counts

	// Buckets of a histogram, unless it is native.
	Buckets []float64
	Native  bool
	// Quantiles of a summary and how far each may be off.
	Quantiles, Epsilons []float64

	T      int64         // when it happened, in ms; 0 if it does not say
	TTL    time.Duration // of its series; 0 is for ever, negative if it does not say
	Window time.Duration // of Min and Max; 0 if it does not say
	// Exemplar has the labels of one.
	Exemplar []labels.Label

	// Reason why the event cannot be taken, whatever else there is.
	Reason Reason
}

// Reason why an event, or a payload, is not taken. The set is closed.
type Reason string

const (
	Taken         Reason = ""
	Malformed     Reason = "malformed"      // the payload is not JSON, or neither an object nor a list of objects
	TooLarge      Reason = "too_large"      // the payload is beyond limits.event_bytes
	BadField      Reason = "field"          // a field is of another type than it should be, or has no such value
	BadName       Reason = "name"           // there is no name, or it is no name of a metric
	BadLabel      Reason = "label"          // a label's name is not one, is reserved, or its value is null
	BadValue      Reason = "value"          // NaN, infinite, or negative for a counter
	BadBuckets    Reason = "buckets"        // a histogram has none, or they do not ascend
	BadQuantiles  Reason = "quantiles"      // quantiles and epsilons do not match, or are out of range
	Conflict      Reason = "conflict"       // the name belongs to a metric of another type, or to a part of one
	Reserved      Reason = "reserved"       // the name belongs to the gateway itself
	LongLabels    Reason = "label_limit"    // too many labels, or too long
	SeriesLimit   Reason = "series_limit"   // limits.series, or another bound of all that is kept
	MetricLimit   Reason = "metric_limit"   // limits.series_per_metric
	Relabelled    Reason = "relabel"        // relabel_configs drop it
	Stale         Reason = "stale"          // a later one of its gauge has been taken
	Duplicate     Reason = "duplicate"      // an event of its id has been taken
	BadExemplar   Reason = "exemplar"       // an exemplar's labels are not valid, or too long
	ClaimVanished Reason = "claim_vanished" // Redis lost it after it had been claimed
)

// Reasons are all of them.
func Reasons() []Reason {
	return []Reason{
		Malformed, TooLarge, BadField, BadName, BadLabel, BadValue, BadBuckets, BadQuantiles, Conflict, Reserved, LongLabels,
		SeriesLimit, MetricLimit, Relabelled, Stale, Duplicate, BadExemplar, ClaimVanished,
	}
}
