package store

import (
	"iter"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// Query says which series to read, and how.
type Query struct {
	// Matchers select the union of what each set selects. An empty set selects nothing.
	Matchers [][]*labels.Matcher
	// Now is the store's clock in ms. Samples from the lookback before it, or three intervals of their
	// source if that is longer, to FutureBound behind it are seen.
	Now int64
	// Grouping of the series into families.
	Grouping Grouping
	// Native asks for exponential histograms too. Those with custom buckets are always there.
	Native bool
}

// Family is a metric family of a selection. It is valid until the next one is asked for.
type Family struct {
	// Name under which the text format knows the family: a counter has its _total.
	Name string
	// Kind of all series if the grouping is ByName; Float otherwise.
	Kind series.Kind
	// Metadata, if the grouping is ByFamily. If the selected series disagree on the type, Conflict is set and the
	// type is that of most of them; those of unknown type have no vote.
	Type       model.MetricType
	Help, Unit string
	Conflict   bool

	selection *selection
}

// Series is one series of a family with its newest sample. It is valid until the next one is asked for.
type Series struct {
	T int64   // ms
	V float64 // if there is no native histogram
	// Start is when a cumulative series began, in ms; 0 if that is not known.
	Start int64

	pick   *pick
	from   *viewed
	extras *extras // nil for most
}

// extras are what few series have.
type extras struct {
	h        *histogram.Histogram
	fh       *histogram.FloatHistogram
	exemplar *exemplar.Exemplar
	labels   []labels.Label // all of them, without the metric name
	resolved bool           // labels are in force
}

// Name is the metric name.
func (s *Series) Name() string { return s.pick.name }

// Kind says whether there is a value or a histogram.
func (s *Series) Kind() series.Kind { return s.pick.kind }

// Histogram is the native histogram, one of both if there is one; the reader's own copy.
func (s *Series) Histogram() (*histogram.Histogram, *histogram.FloatHistogram) {
	if s.extras == nil {
		return nil, nil
	}
	return s.extras.h, s.extras.fh
}

// Exemplar is the last one, nil if there is none.
func (s *Series) Exemplar() *exemplar.Exemplar {
	if s.extras == nil {
		return nil
	}
	return s.extras.exemplar
}

// HasHalves reports whether the labels consist of two halves, Own and Base, so that readers can work on each once for
// many series. They do unless the site label has met one of the same name.
func (s *Series) HasHalves() bool { return s.extras == nil || !s.extras.resolved }

// Own are the labels of the series itself, the metric name included. Each replaces one of the same name in Base, and an
// empty one removes it. They are the same for all series of the family with the same Column.
func (s *Series) Own() labels.Labels { return s.pick.column.Labels }

// Base are the labels of the source, sorted, none of them empty. They are the same for all series of the selection with
// the same Source.
func (s *Series) Base() []labels.Label { return s.from.base.labels }

// Column numbers the columns of the family, from 0.
func (s *Series) Column() int { return s.pick.ordinal }

// Source numbers the sources of the selection, from 0.
func (s *Series) Source() int { return s.from.ordinal }

// Label returns the value of one label that is not the metric name, "" if it is not there.
func (s *Series) Label(name string) string {
	all := s.Base()
	if !s.HasHalves() {
		all = s.extras.labels
	} else if value, ok := columnValue(s.Own(), name); ok {
		return value
	}
	value, _ := findValue(all, name)
	return value
}

// AppendLabels appends all labels but the metric name, sorted by name, without empty ones.
func (s *Series) AppendLabels(dst []labels.Label) []labels.Label {
	if !s.HasHalves() {
		return append(dst, s.extras.labels...)
	}
	return mergeLabels(dst, s.Base(), s.Own())
}

// Select reads the families that have series for the query, in bytewise order of their names. It is not one instant:
// rows may be applied between two families and, in a large one, between two series, but not within what a source has
// of a family of classic histograms or summaries: the buckets of a histogram belong together. Identical label sets appear once, with the
// newest sample.
func (s *Store) Select(q Query) iter.Seq[*Family] {
	return func(yield func(*Family) bool) {
		sel := &selection{
			store:    s,
			query:    q,
			matching: newMatching(q.Matchers),
			views:    map[*index]*view{},
		}
		for _, key := range sel.candidates() {
			if sel.load(key) && !yield(&sel.family) {
				return
			}
		}
	}
}

// Chunks yields the series of the family in pieces that are valid until the next one is asked for: those that hold
// floats, then histograms, then gauge histograms. In a family of classic histograms or summaries each piece has all
// that its sources have, so that the buckets of a histogram are in one. It can be gone through once.
func (f *Family) Chunks() iter.Seq[[]Series] {
	return func(yield func([]Series) bool) {
		for yield(f.selection.chunk) && f.selection.fill() {
		}
	}
}

// Series yields the series of the chunks, in place of these.
func (f *Family) Series() iter.Seq[*Series] {
	return func(yield func(*Series) bool) {
		for chunk := range f.Chunks() {
			for i := range chunk {
				if !yield(&chunk[i]) {
					return
				}
			}
		}
	}
}
