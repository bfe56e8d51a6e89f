package expo

import (
	"bytes"
	"errors"
	"hash/maphash"
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
	format    format
	in        textparse.Parser // stands at the current sample; nil if that was read without it
	hasStarts bool             // in gives start timestamps
	t         int64            // of the scrape
	limited   int              // samples that count for the sample limit
	limitErr  error            // the first limit exceeded; what follows is only counted

	at    int     // line of the script that the body is expected to repeat next
	same  int     // lines of the script, from the first on, that the body repeated, as long as draft is nil
	draft *script // what the body says, once that is not what the script says

	counted []*line // of the script, those that this pass counted as added

	// Of the current sample.
	item    int     // line of the script that it repeats; -1 if it does not
	segment segment // if it does not
	typ     typ     // of the type line above

	ahead ahead

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

// sample takes the sample at which the input stands. What the script says of it is in item or segment.
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
	if r.format == other {
		r.place(key)
	}
	l, at := r.find(key)
	return r.add(l, at, key, &s)
}

// place compares a series with the one that the script has next.
func (r *reader) place(key []byte) {
	s := r.known.script
	r.item, r.segment = -1, segment{text: key}
	if s.format == other && r.at < len(s.lines) && bytes.Equal(s.key(r.at), key) {
		r.item = r.at
	}
}

// find returns what is known of the series that the bytes of key expose: a line of the script and its number, or a line
// of the draft and -1. It is nil if the series is new.
func (r *reader) find(key []byte) (l *line, at int) {
	s := r.known.script
	if i := r.item; i >= 0 && !s.lines[i].repeat {
		return &s.lines[i], i
	}
	if i, found := s.find(key); found {
		return &s.lines[i], i
	}
	if r.draft != nil && r.draft.index != nil {
		if i, found := r.draft.find(key); found {
			return &r.draft.lines[i], -1
		}
	}
	return nil, -1
}

// add takes a sample of the series of which find returned l and at.
func (r *reader) add(l *line, at int, key []byte, s *sample) error {
	r.result.Samples++
	if l == nil {
		return r.learn(key, s)
	}
	again := l.seen == r.round
	if l.seen = r.round; !again && !l.dropped && !r.known.describes(l, s) {
		return errAnew
	}
	counted := l.counted
	if err := r.take(l, s, again); err != nil {
		return err
	}
	if at >= 0 && l.counted != counted {
		r.counted = append(r.counted, l)
	}
	switch {
	case r.item >= 0:
		r.at = r.item + 1
	case !again && at >= 0:
		r.at = at + 1
	}
	if r.draft == nil && r.item >= 0 && r.item == r.same {
		r.same++
		return nil
	}
	copied := *l
	if again {
		copied = line{repeat: true}
	}
	return r.write(copied)
}

// write adds a line for the current sample to the draft.
func (r *reader) write(l line) error {
	r.deviate()
	l.family, l.typ = r.known.families.current(l.family), r.typ
	g := r.segment
	if r.item >= 0 {
		g = r.known.script.segment(r.item)
	}
	return r.draft.append(l, g)
}

// deviate begins a draft with those lines of the script that the body has repeated.
func (r *reader) deviate() {
	if r.draft != nil {
		return
	}
	s := r.known.script
	r.draft = &script{
		format: r.format,
		text:   make([]byte, 0, len(s.text)+len(s.text)/16+1024),
		lines:  make([]line, 0, len(s.lines)+len(s.lines)/16+16),
	}
	r.repeat(0, r.same)
}

// repeat adds the lines [first, last) of the script to the draft.
func (r *reader) repeat(first, last int) {
	s := r.known.script
	r.draft.copy(s, first, last)
	for i := first; i < last; i++ {
		if f := s.lines[i].family; f != nil {
			f.seen = r.round
		}
	}
}

// learn takes a sample of a series that was never seen.
func (r *reader) learn(key []byte, s *sample) error {
	k := r.known
	r.in.Labels(&r.labels)
	columnLabels, keep, err := r.options.Map(r.labels)
	if err != nil {
		return err
	}
	if r.limitErr != nil { // the body fails, there is no need to remember more of it
		if keep {
			r.result.Kept++
		}
		return nil
	}
	l := line{seen: r.round, dropped: !keep, kind: s.kind, counted: k.counted(key)}
	if keep {
		table := k.whole
		if s.stamped {
			table, columnLabels = r.stampedTable(columnLabels)
		}
		c := series.Column{Labels: columnLabels, Kind: s.kind, Family: k.families.current(nil).of(columnLabels)}
		i, found := table.find(columnLabels)
		switch {
		case !found:
			i = table.add(c)
			if !s.stamped {
				r.values = append(r.values, 0)
			}
		case table.columns[i].seen == r.round:
			// Another spelling of the series came before, and decides what it is.
			l.kind = table.column(i).Kind
		case !table.column(i).Equal(&c):
			return errAnew
		}
		l.table, l.column = table, i
	}
	if err := r.write(l); err != nil {
		return err
	}
	d := r.draft
	if d.index == nil {
		d.index, d.seed = newIndex(0), maphash.MakeSeed()
	}
	d.enter(len(d.lines) - 1)
	return r.take(&d.lines[len(d.lines)-1], s, false)
}

// take takes a sample of a known series. again says that this body had the series before.
func (r *reader) take(l *line, s *sample, again bool) error {
	if l.dropped {
		return nil
	}
	r.result.Kept++
	if r.limitErr != nil {
		return nil
	}
	l.table.seen = r.round
	if again && !s.stamped {
		r.result.Duplicates++
		return nil
	}
	if err := r.limit(s); err != nil {
		if bad := (*SyntaxError)(nil); errors.As(err, &bad) {
			r.result.Kept--
			return err
		}
		r.limitErr = err
		return nil
	}
	column := &l.table.columns[l.column]
	// The series may have come in another spelling, or it changes its nature within the body.
	if l.table.stamped != s.stamped || l.kind != s.kind || !s.stamped && column.seen == r.round {
		r.result.Duplicates++
		r.count(l)
		return nil
	}
	if column.seen != r.round {
		column.seen = r.round
		l.table.present++
	}
	column.place = uint32(r.result.Samples)
	if s.stamped && !r.advances(l, &l.table.clocks[l.column], s.t) {
		return nil
	}
	r.count(l)
	if s.stamped {
		r.addStamped(l, s)
	} else {
		r.addWhole(l.column, s)
	}
	return nil
}

// stampedTable returns the table for a series with a timestamp of its own, and the labels of its column there.
func (r *reader) stampedTable(column labels.Labels) (*table, labels.Labels) {
	full := r.options.Source.SeriesLabels(&r.builder, &series.Column{Labels: column})
	t := r.known.stampedTable(full, &r.options)
	return t, series.Relative(full, t.source.Labels)
}

// count counts the series as added if that was not done before. Another spelling of a series counts once more, as in
// Prometheus.
func (r *reader) count(l *line) {
	if !l.counted {
		l.counted = true
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

// advances reports whether t is a new timestamp of the column of l, and counts it if it must not be.
func (r *reader) advances(l *line, c *clock, t int64) bool {
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
		r.count(l)
	case t == last && c.alive:
		c.moved, c.next = r.round, t // the same sample as in the previous body
		r.count(l)
	default:
		r.result.OutOfOrder++
		if t > c.last {
			r.count(l) // out of order only within this body, which Prometheus does not see in time
		}
	}
	return false
}

func (r *reader) addWhole(column uint32, s *sample) {
	r.values[column] = s.v
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

func (r *reader) addStamped(l *line, s *sample) {
	st := stamp{t: s.t, column: l.column, v: s.v}
	extra := stampExtra{start: r.start()}
	if s.kind != series.Float {
		extra.HistogramAt = series.HistogramAt{Column: l.column, H: s.h, FH: s.fh}
	}
	for x, ok := r.exemplar(s); ok; x, ok = r.exemplar(s) {
		extra.exemplars = append(extra.exemplars, series.ExemplarAt{Column: l.column, Exemplar: x})
	}
	if s.kind != series.Float || extra.start != 0 || extra.exemplars != nil {
		few := extra // only these escape
		st.extra = &few
	}
	l.table.stamps = append(l.table.stamps, st)
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
	for r.in != nil {
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
	return exemplar.Exemplar{}, false
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
