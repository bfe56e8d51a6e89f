package series

import (
	"slices"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
)

// Kind says what a column holds. It never changes within a schema.
type Kind uint8

const (
	Float          Kind = iota // Row.Values
	Histogram                  // Row.Histograms, a native counter histogram, exponential or custom buckets
	GaugeHistogram             // Row.Histograms, a native gauge histogram
)

func (k Kind) String() string {
	switch k {
	case Float:
		return "float"
	case Histogram:
		return "histogram"
	case GaugeHistogram:
		return "gaugehistogram"
	}
	return "unknown"
}

// Family is what an exposition says about a metric family. Name is the family's name, which differs from the name of
// its series for histograms, summaries and OpenMetrics counters. The zero Family means nothing is known.
type Family struct {
	Name string
	Type model.MetricType // "" is the same as model.MetricTypeUnknown
	Help string
	Unit string
}

// Column is one series of a schema. Labels hold __name__ and everything the source's labels do not say already; a
// label here replaces one of the same name there, and an empty value removes it (see Source.SeriesLabels).
type Column struct {
	Labels labels.Labels
	Family Family
	Kind   Kind
}

// Equal reports whether both columns describe the same series with the same metadata.
func (c *Column) Equal(o *Column) bool {
	return c.Kind == o.Kind && c.Family == o.Family && labels.Equal(c.Labels, o.Labels)
}

// Source is one origin of samples inside a site. It is immutable; its identity in memory is its address, across
// restarts and machines its Key.
type Source struct {
	// Key is stable over restarts and unique in a site: input, job, instance, hash of the target's labels.
	Key string
	// Labels all series of the source share (job, instance and the target's other labels), sorted.
	Labels labels.Labels
	// Interval at which rows are expected; 0 when there is no such thing. A source silent for three intervals (at
	// least the lookback) is forgotten.
	Interval time.Duration
}

// SeriesLabels appends to b what a reader sees as the labels of a column: the source's labels under the column's.
func (s *Source) SeriesLabels(b *labels.Builder, c *Column) labels.Labels {
	b.Reset(s.Labels)
	c.Labels.Range(func(l labels.Label) { b.Set(l.Name, l.Value) })
	return b.Labels()
}

// Relative returns the labels of a column whose series has the labels full, in a source with the labels base: what
// differs from base, and an empty value for what full does not have. It is the inverse of Source.SeriesLabels.
func Relative(full, base labels.Labels) labels.Labels {
	b := labels.NewScratchBuilder(full.Len())
	full.Range(func(l labels.Label) {
		if base.Get(l.Name) != l.Value {
			b.Add(l.Name, l.Value)
		}
	})
	base.Range(func(l labels.Label) {
		if !full.Has(l.Name) {
			b.Add(l.Name, "")
		}
	})
	b.Sort()
	return b.Labels()
}

// Row is the values of one schema at one instant, and the currency of the whole program.
//
// A row is valid until the sink it is given to returns; whoever keeps it, or a part of it, copies it. Schema and
// Source are immutable and may be kept.
type Row struct {
	Source *Source
	Schema *Schema
	// T is the row's time in milliseconds since 1970.
	T int64

	// Columns is nil in a whole row: Values has Schema.Len() elements then, and what is not Present has ended. In a
	// partial row Columns lists the columns of Values in ascending order, and the row says nothing about the others.
	Columns []uint32
	// Present has bit i%64 of element i/64 set where a whole row has column i. Nil means that every column is there.
	// Partial rows do not use it.
	Present []uint64
	// Values of float columns, bit for bit: NaN payloads, and the stale marker in partial rows, are data. The element
	// of a histogram column is zero and means nothing.
	Values []float64

	// Histograms of the present columns that hold some, in ascending order of Column.
	Histograms []HistogramAt
	// Exemplars in ascending order of Column; a column may have several.
	Exemplars []ExemplarAt
	// Starts lists the start timestamps of the columns that have one, in ascending order of Column.
	Starts []StartAt

	// End says that the source ended at T. Such a row has no values; every series still alive ends with it.
	End bool
}

// HistogramAt is the native histogram of one column; exactly one of H and FH is set.
type HistogramAt struct {
	Column uint32
	H      *histogram.Histogram
	FH     *histogram.FloatHistogram
}

// ExemplarAt is one exemplar of one column.
type ExemplarAt struct {
	Column   uint32
	Exemplar exemplar.Exemplar
}

// StartAt is the start (created) timestamp of one column, in milliseconds since 1970.
type StartAt struct {
	Column uint32
	Ms     int64
}

// Whole reports whether the row says everything about its source at its time.
func (r *Row) Whole() bool { return r.Columns == nil }

// Has reports whether a whole row has column i.
func (r *Row) Has(i int) bool { return r.Present == nil || r.Present[i>>6]&(1<<(i&63)) != 0 }

// Place returns where column c stands in Values; in a partial row that does not list it, where it would stand.
func (r *Row) Place(c uint32) int {
	if r.Columns == nil {
		return int(c)
	}
	i, _ := slices.BinarySearch(r.Columns, c)
	return i
}

// Samples counts the samples of the row.
func (r *Row) Samples() int {
	switch {
	case r.End:
		return 0
	case r.Columns != nil || r.Present == nil:
		return len(r.Values)
	}
	return CountBits(r.Present, len(r.Values))
}

// Sink takes a row. A nil error means that the row was accepted, not that it is stored anywhere yet. A sink is safe
// for concurrent use and does not keep the row.
type Sink func(*Row) error
