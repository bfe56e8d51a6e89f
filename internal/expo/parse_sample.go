package expo

import (
	"errors"
	"unicode/utf8"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"

	"github.com/thalweg/thalweg/internal/series"
)

// reader is one pass over a body.
type reader struct {
	*Parser
	known     *knowledge // as of this pass, not yet the parser's
	in        textparse.Parser
	hasStarts bool  // in gives start timestamps
	t         int64 // of the scrape
	limited   int   // samples that count for the sample limit
	limitErr  error // the first limit exceeded; what follows is only counted
	// Results of interface calls, here because they would escape once per sample.
	labels  labels.Labels
	next    exemplar.Exemplar
	builder labels.Builder
}

// sample is one sample of a body.
type sample struct {
	stamped bool // t is its own timestamp
	t       int64
	kind    series.Kind
	v       float64
	h       *histogram.Histogram
	fh      *histogram.FloatHistogram
}

// sample takes the sample at which the input stands.
func (r *reader) sample(isHistogram bool) error {
	s := sample{t: r.t}
	var (
		key   []byte
		stamp *int64
	)
	if isHistogram {
		key, stamp, s.h, s.fh = r.in.Histogram()
		s.kind = histogramKind(s.h, s.fh)
	} else {
		key, stamp, s.v = r.in.Series()
	}
	if stamp != nil && !r.options.IgnoreTimestamps {
		s.t, s.stamped = *stamp, true
	}
	r.result.Samples++

	e, again, err := r.entry(key, &s)
	if err != nil || e.dropped {
		return err
	}
	r.result.Kept++
	if r.limitErr != nil {
		return nil
	}
	e.table.seen = r.round
	if again && !s.stamped {
		r.result.Duplicates++
		return nil
	}
	if err := r.limit(&s); err != nil {
		if bad := (*SyntaxError)(nil); errors.As(err, &bad) {
			r.result.Kept--
			return err
		}
		r.limitErr = err
		return nil
	}
	column := &e.table.columns[e.column]
	// The series may have come in another spelling, or it changes its nature within the body.
	if e.table.stamped != s.stamped || e.kind != s.kind || !s.stamped && column.seen == r.round {
		r.result.Duplicates++
		r.count(e)
		return nil
	}
	column.seen, column.place = r.round, uint32(r.result.Samples)
	if s.stamped && !r.advances(e, column, s.t) {
		return nil
	}
	r.count(e)
	if s.stamped {
		r.addStamped(e, &s)
	} else {
		r.addWhole(e.column, &s)
	}
	return nil
}

// entry finds what is known of the series with the given bytes, or learns it. It tells if this body had it before.
func (r *reader) entry(key []byte, s *sample) (e *entry, again bool, err error) {
	k := r.known
	if e := k.series[string(key)]; e != nil {
		if e.seen == r.round {
			return e, true, nil
		}
		e.seen = r.round
		k.seen++
		if !e.dropped && !k.describes(e, s) {
			return nil, false, errAnew
		}
		return e, false, nil
	}

	r.in.Labels(&r.labels)
	columnLabels, keep, err := r.options.Map(r.labels)
	if err != nil {
		return nil, false, err
	}
	e = &entry{seen: r.round, dropped: !keep, kind: s.kind, family: k.families.current()}
	if r.limitErr != nil {
		return e, false, nil // the body fails, there is no need to remember more of it
	}
	if keep {
		table := k.whole
		if s.stamped {
			table, columnLabels = r.stampedTable(columnLabels)
		}
		c := series.Column{Labels: columnLabels, Kind: s.kind, Family: e.family.of(columnLabels)}
		i, found := table.find(columnLabels)
		switch {
		case !found:
			i = table.add(c)
			if !s.stamped {
				r.values = append(r.values, 0)
			}
		case table.columns[i].seen == r.round:
			// Another spelling of the series came before, and decides what it is.
			e.kind = table.column(i).Kind
		case !table.column(i).Equal(&c):
			return nil, false, errAnew
		}
		e.table, e.column = table, i
	}
	k.learn(string(key), e)
	return e, false, nil
}

// stampedTable returns the table for a series with a timestamp of its own, and the labels of its column there.
func (r *reader) stampedTable(column labels.Labels) (*table, labels.Labels) {
	full := r.options.Source.SeriesLabels(&r.builder, &series.Column{Labels: column})
	t := r.known.stampedTable(full, &r.options)
	return t, series.Relative(full, t.source.Labels)
}

// count counts the series as added if that was not done before. Another spelling of a series counts once more, as in
// Prometheus.
func (r *reader) count(e *entry) {
	if !e.counted {
		e.counted = true
		r.result.Added++
	}
}

// limit counts a sample for the limits and reduces the resolution of its histogram to what they allow.
func (r *reader) limit(s *sample) error {
	r.limited++
	if max := r.options.SampleLimit; max > 0 && r.limited > max {
		return &LimitError{Limit: "sample_limit", Max: max}
	}
	return limitBuckets(s, r.options.BucketLimit, r.maxSchema)
}

// advances reports whether t is a new timestamp of the column of e, and counts it if it must not be.
func (r *reader) advances(e *entry, c *column, t int64) bool {
	last := c.last
	again := c.moved == r.round
	if again {
		last = c.next
	}
	switch {
	case t > r.t+MaxAhead.Milliseconds():
		r.result.Future++
	case t > last:
		c.moved, c.next = r.round, t
		return true
	case t == last && again:
		r.result.Duplicates++
		r.count(e)
	case t == last && c.alive:
		c.moved, c.next = r.round, t // the same sample as in the previous body
		r.count(e)
	default:
		r.result.OutOfOrder++
		if t > c.last {
			r.count(e) // out of order only within this body, which Prometheus does not see in time
		}
	}
	return false
}

func (r *reader) addWhole(column uint32, s *sample) {
	r.values[column] = s.v
	for len(r.present) <= int(column>>6) {
		r.present = append(r.present, 0)
	}
	series.SetBit(r.present, int(column))
	if s.kind != series.Float {
		r.histograms = append(r.histograms, series.HistogramAt{Column: column, H: s.h, FH: s.fh})
	}
	if start := r.start(); start != 0 {
		r.starts = append(r.starts, series.StartAt{Column: column, Ms: start})
	}
	for e, ok := r.exemplar(s); ok; e, ok = r.exemplar(s) {
		r.exemplars = append(r.exemplars, series.ExemplarAt{Column: column, Exemplar: e})
	}
}

func (r *reader) addStamped(e *entry, s *sample) {
	st := stamp{t: s.t, column: e.column, v: s.v}
	extra := stampExtra{start: r.start()}
	if s.kind != series.Float {
		extra.HistogramAt = series.HistogramAt{Column: e.column, H: s.h, FH: s.fh}
	}
	for x, ok := r.exemplar(s); ok; x, ok = r.exemplar(s) {
		extra.exemplars = append(extra.exemplars, series.ExemplarAt{Column: e.column, Exemplar: x})
	}
	if s.kind != series.Float || extra.start != 0 || extra.exemplars != nil {
		few := extra // only these escape
		st.extra = &few
	}
	e.table.stamps = append(e.table.stamps, st)
}

// start returns the start timestamp of the sample at which the input stands, 0 if it has none.
func (r *reader) start() int64 {
	if !r.hasStarts {
		return 0
	}
	return r.in.StartTimestamp()
}

// exemplar returns the next exemplar of the sample at which the input stands.
func (r *reader) exemplar(s *sample) (exemplar.Exemplar, bool) {
	for {
		r.next = exemplar.Exemplar{}
		if !r.in.Exemplar(&r.next) {
			return r.next, false
		}
		e := r.next
		// Without a timestamp, exemplars of native histograms cannot be told apart from repetitions (section 3.5 of
		// the OpenMetrics specification leaves the choice, Prometheus drops them as well).
		if !e.HasTs && s.kind != series.Float || runes(e.Labels) > exemplar.ExemplarMaxLabelSetLength {
			r.result.Exemplars++
			continue
		}
		if !e.HasTs {
			e.Ts = s.t
		}
		return e, true
	}
}

func runes(l labels.Labels) int {
	n := 0
	l.Range(func(l labels.Label) { n += utf8.RuneCountInString(l.Name) + utf8.RuneCountInString(l.Value) })
	return n
}

func histogramKind(h *histogram.Histogram, fh *histogram.FloatHistogram) series.Kind {
	if h != nil && h.CounterResetHint == histogram.GaugeType || fh != nil && fh.CounterResetHint == histogram.GaugeType {
		return series.GaugeHistogram
	}
	return series.Histogram
}
