package expo

import (
	"bytes"
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
	format    format
	in        textparse.Parser // stands at the current sample; nil if that was read without it
	hasStarts bool             // in gives start timestamps
	t         int64            // of the scrape
	limited   int              // samples that count for the sample limit
	limitErr  error            // the first limit exceeded; what follows is only counted

	cast      cast   // known.cast, with the bitmap counted of this pass
	at        int    // line of the script that the body is expected to have next
	gaps      int    // how often it had another one further down
	draft     *draft // what the body says, once that is not what the script says
	turncoats bool   // the draft has series that the script has in another role

	// Of the current sample.
	item    int     // line of the script that it repeats; -1 if it does not
	segment segment // if it does not
	typ     typ     // of the type line above

	ahead  ahead
	buffer []byte // for the lines that textparse is given

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
	return r.add(r.find(key, &s), key, &s)
}

// near is how far down the script a body is compared with it when it does not say what comes next.
const near = 64

// place compares a series with those that the script has next.
func (r *reader) place(key []byte) {
	s := r.known.script
	r.item, r.segment = -1, segment{text: key}
	if s.format != other {
		return
	}
	for i := r.at; i < min(r.at+near, len(s.lines)); i++ {
		if bytes.Equal(s.key(i), key) {
			r.item = i
			r.skip(i)
			return
		}
	}
}

// skip leaves out the lines of the script before line to, which the body does not have. If there are many such gaps the
// body is to become the script.
func (r *reader) skip(to int) {
	if to == r.at {
		return
	}
	if r.gaps++; r.gaps > 4+len(r.known.lines)/32 {
		r.deviate()
	}
	r.at = to
}

// find returns what is known of the series that the bytes of key expose, which is seen as s.
func (r *reader) find(key []byte, s *sample) role {
	if r.turncoats {
		if l := r.draft.find(key); l.known() {
			return l
		}
	}
	i, found := r.item, r.item >= 0 && !r.known.lines[r.item].repeat
	if !found {
		i, found = r.known.find(key)
	}
	switch {
	case !found:
		return r.draft.find(key)
	case r.cast.columns[i] == gone, r.turns(i, s):
		return role{}
	}
	return role{&r.cast, i}
}

// turns reports whether a line that the last good body did not have comes back as something else. It is learnt anew.
func (r *reader) turns(i int, s *sample) bool {
	return !hasBit(r.cast.had, i) && !hasBit(r.seen, i) && r.cast.columns[i] != dropped && !r.known.describes(i, s)
}

// add takes a sample of the series of which find returned l.
func (r *reader) add(l role, key []byte, s *sample) error {
	r.result.Samples++
	if !l.known() {
		return r.learn(key, s)
	}
	scripted := l.cast == &r.cast
	again := !scripted || hasBit(r.seen, l.line)
	if !again && !l.dropped() && !r.known.describes(l.line, s) {
		return errAnew
	}
	if r.item < 0 {
		r.deviate()
	}
	if err := r.take(l, s, again); err != nil {
		return err
	}
	if r.draft != nil {
		var err error
		if again {
			err = r.write(repeated, nil, false)
		} else {
			err = r.write(l.column(), r.cast.table(l.line, nil), l.counted())
		}
		if err != nil {
			return err
		}
	}
	switch {
	case r.item >= 0:
		r.at = r.item + 1
		series.SetBit(r.seen, r.item)
	case !again:
		r.at = l.line + 1
	}
	if scripted {
		series.SetBit(r.seen, l.line)
	}
	return nil
}

// write adds a line for the current sample to the draft.
func (r *reader) write(column uint32, t *table, counted bool) error {
	var (
		s        = r.known.script
		g        = r.segment
		expected *series.Family
	)
	if r.item >= 0 {
		g, expected = s.segment(r.item), s.family(r.item)
	}
	d := r.draft
	if err := d.append(g, r.known.families.current(expected), r.typ, column == repeated); err != nil {
		return err
	}
	d.add(column, t, counted)
	return nil
}

// deviate begins a draft with those lines of the script that the body has repeated.
func (r *reader) deviate() {
	if r.draft != nil {
		return
	}
	r.draft = newDraft(r.format, r.known.script)
	for first := nextBit(r.seen, 0, r.at); first < r.at; {
		last := nextFreeBit(r.seen, first, r.at)
		r.draft.copy(&r.cast, first, last)
		first = nextBit(r.seen, last, r.at)
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
	to, in := uint32(dropped), (*table)(nil)
	if keep {
		table := k.whole
		if s.stamped {
			table, columnLabels = r.stampedTable(columnLabels)
			in = table
		}
		c := series.Column{Labels: columnLabels, Kind: s.kind, Family: familyOf(k.families.current(nil), columnLabels)}
		i, found := table.find(columnLabels)
		switch {
		case !found:
			i = table.add(c)
			if !s.stamped {
				r.values = append(r.values, 0)
			}
		case table.columns[i].seen == r.round:
			// Another spelling of the series came before, and decides what it is.
		case !table.column(i).Equal(&c):
			return errAnew
		}
		to = i
	}
	r.deviate()
	if err := r.write(to, in, k.wasCounted(key)); err != nil {
		return err
	}
	d := r.draft
	d.learn()
	if i, found := k.find(key); found {
		r.turncoats = true
		series.SetBit(r.seen, i)
	}
	if r.item >= 0 {
		r.at = r.item + 1
	}
	return r.take(role{&d.cast, len(d.lines) - 1}, s, false)
}

// take takes a sample of a known series. again says that this body had the series before.
func (r *reader) take(l role, s *sample, again bool) error {
	if l.dropped() {
		return nil
	}
	r.result.Kept++
	if r.limitErr != nil {
		return nil
	}
	i, t := l.column(), l.cast.table(l.line, r.known.whole)
	t.seen = r.round
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
	column := &t.columns[i]
	// The series may have come in another spelling, or it changes its nature within the body.
	if t.stamped != s.stamped || t.column(i).Kind != s.kind || !s.stamped && column.seen == r.round {
		r.result.Duplicates++
		r.count(l)
		return nil
	}
	if column.seen != r.round {
		column.seen = r.round
		t.present++
	}
	column.place = uint32(r.result.Samples)
	if s.stamped && !r.advances(l, &t.clocks[i], s.t) {
		return nil
	}
	r.count(l)
	if s.stamped {
		r.addStamped(t, i, s)
	} else {
		column.held = held{}
		r.addWhole(i, s)
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
func (r *reader) count(l role) {
	if !l.counted() {
		l.count()
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

// advances reports whether t is a new timestamp of the series of l, and counts it if it must not be.
func (r *reader) advances(l role, c *clock, t int64) bool {
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

func (r *reader) addStamped(t *table, column uint32, s *sample) {
	st := stamp{t: s.t, column: column, v: s.v}
	extra := stampExtra{start: r.start()}
	if s.kind != series.Float {
		extra.HistogramAt = series.HistogramAt{Column: column, H: s.h, FH: s.fh}
	}
	for x, ok := r.exemplar(s); ok; x, ok = r.exemplar(s) {
		extra.exemplars = append(extra.exemplars, series.ExemplarAt{Column: column, Exemplar: x})
	}
	if s.kind != series.Float || extra.start != 0 || extra.exemplars != nil {
		few := extra // only these escape
		st.extra = &few
	}
	t.stamps = append(t.stamps, st)
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
