package remotewrite

import (
	"cmp"
	"context"
	"math"
	"slices"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/value"

	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/writeproto"
)

// plan is what becomes of one request: rows, and what is wrong with the rest. Under the lock of the intake it looks at
// every series and takes its samples into stamps; without it they become rows. It is for one request at a time, and its
// memory for many.
type plan struct {
	in      *intake
	batch   *writeproto.Batch // until the rows are made
	message writeproto.Message
	now     int64
	flight  *flight
	hash    uint64 // of the request
	large   bool   // it is

	series []*intakeSeries // of the batch; nil where it cannot be taken
	undo   []before

	stamps, sorted []stamp
	places         []int32 // of columns among stamps
	extras         []extra
	portions       []portion

	columns []uint32
	values  []float64
	flat    []series.Row
	rows    []*series.Row

	written  count
	repeated int
	refused  problems
	metadata int // refused entries

	labels []writeproto.Label
	key    []byte
	raw    []byte
}

// count is of samples of each sort.
type count struct{ samples, histograms, exemplars int }

// before is what was known of a series before the request.
type before struct {
	series *intakeSeries
	last   int64
	bits   uint64
}

// portion is what a request has of one source, under one schema.
type portion struct {
	source *series.Source
	schema *series.Schema
	n      int // stamps
}

// stamp is one sample.
type stamp struct {
	t       int64
	v       float64
	column  uint32
	portion uint32
	extra   uint32 // in extras, plus 1; 0 for most
}

type extra struct {
	histogram series.HistogramAt
	start     int64
	exemplars []exemplar.Exemplar
}

// keep resizes a buffer to nothing, without what it refers to.
func keep[T any](s []T) []T {
	clear(s[:cap(s)])
	return s[:0]
}

func (p *plan) reset() {
	p.in, p.batch, p.flight = nil, nil, nil
	p.series, p.undo = keep(p.series), keep(p.undo)
	p.stamps, p.sorted, p.extras, p.portions = p.stamps[:0], p.sorted[:0], keep(p.extras), keep(p.portions)
	p.columns, p.values, p.flat, p.rows = p.columns[:0], p.values[:0], keep(p.flat), keep(p.rows)
	p.written, p.repeated, p.refused, p.metadata = count{}, 0, problems{}, 0
	p.labels, p.key, p.raw = keep(p.labels), p.key[:0], p.raw[:0]
}

// capacity is for how many samples there is memory.
func (p *plan) capacity() int {
	return max(cap(p.series), cap(p.undo), cap(p.stamps), cap(p.flat), cap(p.places), cap(p.extras), cap(p.labels), cap(p.key)/64, cap(p.raw)/64)
}

// prepare makes the plan for a request, of which hash is the hash. The batch is not needed any more then. Until land is
// called nobody else looks at the series that have new samples. The caller has a token of in.decoding.
func (p *plan) prepare(ctx context.Context, in *intake, b *writeproto.Batch, hash uint64, now int64) error {
	p.in, p.batch, p.message, p.hash, p.now = in, b, b.Message(), hash, now
	p.flight = &flight{done: make(chan struct{})}
	p.series = slices.Grow(p.series, len(b.Series))[:len(b.Series)]
	err := p.take(ctx)
	p.batch = nil
	if err != nil {
		p.land(false)
		return err
	}
	p.makeRows()
	return nil
}

// land ends what prepare began: others may look at the series now, which have the new samples only if those are durable.
func (p *plan) land(durable bool) {
	if p.flight == nil {
		return
	}
	p.in.mu.Lock()
	if !durable {
		for _, u := range p.undo {
			u.series.last, u.series.bits = u.last, u.bits
		}
	} else if p.written != (count{}) {
		r := result{written: p.written}
		if p.refused.total > 0 {
			refused := p.refused
			r.refused = &refused
		}
		p.in.answered.remember(p.hash, r)
	}
	p.flight.landed = true
	p.in.mu.Unlock()
	close(p.flight.done)
	p.flight = nil
}

// take looks for the series of the batch and takes their samples. What it finds out about the request as a whole, it
// does before anything is taken.
func (p *plan) take(ctx context.Context) error {
	in := p.in
	in.mu.Lock()
	defer in.mu.Unlock()
	in.sweep(p.now)
	for {
		busy, err := p.find()
		if err != nil {
			return err
		}
		if busy == nil {
			break
		}
		in.mu.Unlock()
		err = p.await(ctx, busy)
		in.mu.Lock()
		if err != nil {
			return err
		}
	}
	if r, ok := in.answered.byHash[p.hash]; ok {
		p.written = r.written
		if p.refused = (problems{}); r.refused != nil {
			p.refused = *r.refused
		}
		p.repeated = p.written.samples + p.written.histograms
		return nil
	}
	p.metadata = in.families.learn(p.batch.Metadata, p.now)
	if p.message == writeproto.V2 { // before new columns are made of new series
		for i := range p.batch.Series {
			if m := p.series[i]; m != nil {
				p.takeMetadata(&p.batch.Series[i], m)
			}
		}
	}
	for i := range p.batch.Series {
		if m := p.series[i]; m != nil {
			p.takeSeries(&p.batch.Series[i], m)
		}
	}
	return nil
}

// await waits until a flight has landed. Another request may be decoded meanwhile, unless this one is so large that it is
// memory what decoding has to be bounded for.
func (p *plan) await(ctx context.Context, busy *flight) error {
	if !p.large {
		<-p.in.decoding
		defer func() { p.in.decoding <- struct{}{} }() // nobody who has one waits for others to have one
	}
	select {
	case <-busy.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// find finds the series of the batch, and makes those known that are new. A flight is returned if one of them has a
// sample in it: only when that has landed is it known what the newest one is.
func (p *plan) find() (busy *flight, err error) {
	p.refused = problems{}
	var last *spelling
	for i := range p.batch.Series {
		s := &p.batch.Series[i]
		// Senders say the same series in the same order, time and again.
		if then := last.follower(p.message == writeproto.V2); then != nil && p.batch.HasKey(s, then.key) {
			last = then
		} else {
			hash := p.batch.Hash(s)
			at := p.in.find(p.batch, p.message, hash, s)
			if at == nil {
				if at, err = p.learn(s, hash); err != nil {
					return nil, err
				}
			}
			if last != nil {
				last.then = at
			}
			last = at
		}
		if p.series[i] = nil; last == nil {
			continue
		}
		m := last.series
		p.series[i] = m
		m.seen, m.source.seen = p.now, p.now
		if m.busy() {
			busy = m.flight
		}
	}
	return busy, nil
}

// learn makes a spelling known that is not, and its series if need be; nil if it cannot be taken.
func (p *plan) learn(s *writeproto.Series, hash uint64) (*spelling, error) {
	list, err := p.batch.AppendLabels(p.labels[:0], s)
	p.labels = list
	if err != nil {
		if !writeproto.IsRefError(err) {
			return nil, malformed(err)
		}
		p.refused.add(badSymbols, s.Len(), err.Error)
		return nil, nil
	}
	p.raw = p.batch.AppendRawKey(p.raw[:0], s, list)
	list, wrong := sortLabels(list)
	if wrong != "" {
		p.refuseLabels(s, list, wrong)
		return nil, nil
	}
	if !p.takeable(s, list) {
		return nil, nil
	}
	p.key = writeproto.AppendKey(p.key[:0], list)
	keyHash := writeproto.HashKey(p.in.seed, p.key)
	m := p.in.findKey(keyHash, p.key)
	if m == nil {
		if !p.in.makeRoom(p.now) {
			p.refused.add(overSeries, s.Len(), func() string { return "there are too many series, " + show(list) + " is one more" })
			return nil, nil
		}
		m = p.in.add(p.key, keyHash, toLabels(list), kindOf(p.batch, s), p.now)
	}
	if v2 := p.message == writeproto.V2; v2 || string(p.raw) != m.key {
		return p.in.spell(m, hash, v2, p.raw), nil
	}
	return &m.spelling, nil
}

// refuseLabels refuses a series for its labels. Prometheus answers 204 to such requests of 1.0, and so does everybody.
func (p *plan) refuseLabels(s *writeproto.Series, list []writeproto.Label, wrong string) {
	if p.message == writeproto.V1 {
		p.refused.addQuietly(badLabels, s.Len(), func() string { return wrong + " in " + show(list) })
		return
	}
	p.refused.add(badLabels, s.Len(), func() string { return "invalid metric name or labels: " + wrong + " in " + show(list) })
}

// noSamplesFor is what Prometheus says.
const noSamplesFor = "TimeSeries must contain at least one sample or histogram for series "

// takeable reports whether a series that is new has something that can be taken. What it has not is refused here.
func (p *plan) takeable(s *writeproto.Series, list []writeproto.Label) bool {
	if s.Len() == 0 {
		if p.message == writeproto.V2 {
			p.refused.add(noSamples, 0, func() string { return noSamplesFor + show(list) })
		} else if len(p.batch.Exemplars(s)) > 0 {
			p.refused.addQuietly(noSamples, 0, func() string { return "exemplars of a series that never had a sample: " + show(list) })
		}
		return false
	}
	samples, histograms := p.batch.Samples(s), p.batch.Histograms(s)
	for i := range samples {
		if !p.ahead(samples[i].T) {
			return true
		}
	}
	for i := range histograms {
		if h := &histograms[i]; !p.ahead(h.T) && checkHistogram(h) == nil {
			return true
		}
	}
	for range samples {
		p.refuseSample(outOfBounds, func() string { return show(list) })
	}
	for i := range histograms {
		if h := &histograms[i]; p.ahead(h.T) {
			p.refuseSample(outOfBounds, func() string { return show(list) })
		} else {
			p.refuseHistogram(checkHistogram(h), func() string { return show(list) })
		}
	}
	return false
}

func kindOf(b *writeproto.Batch, s *writeproto.Series) series.Kind {
	if len(b.Samples(s)) > 0 {
		return series.Float
	}
	return kindOfHistogram(&b.Histograms(s)[0])
}

func kindOfHistogram(h *writeproto.Histogram) series.Kind {
	if h.H != nil && h.H.CounterResetHint == histogram.GaugeType || h.FH != nil && h.FH.CounterResetHint == histogram.GaugeType {
		return series.GaugeHistogram
	}
	return series.Histogram
}

func (p *plan) ahead(t int64) bool { return t > p.now+maxAhead.Milliseconds() }

// open makes sure that there is a portion for a source.
func (p *plan) open(s *intakeSource) {
	if s.flight == p.flight {
		return
	}
	s.grow(p.in.options.Catalog)
	p.in.tend(s, p.now)
	s.flight = p.flight
	p.addPortion(s)
}

func (p *plan) addPortion(s *intakeSource) {
	s.portion = uint32(len(p.portions))
	p.portions = append(p.portions, portion{source: s.source, schema: s.schema})
}

// takeSeries takes the samples of a series.
func (p *plan) takeSeries(s *writeproto.Series, m *intakeSeries) {
	p.open(m.source)
	if p.message == writeproto.V2 && s.Len() == 0 && len(p.batch.Exemplars(s)) == 0 {
		p.refused.add(noSamples, 0, func() string { return noSamplesFor + p.show(m) })
	}
	samples, histograms, exemplars := p.batch.Samples(s), p.batch.Histograms(s), p.batch.Exemplars(s)
	for i := range samples {
		p.takeSample(&samples[i], m, &p.written.samples)
	}
	for i := range histograms {
		p.takeHistogram(&histograms[i], m, &p.written.histograms)
	}
	if len(exemplars) > 0 {
		p.takeExemplars(exemplars, m)
	}
}

func (p *plan) show(m *intakeSeries) string { return p.in.labelsOf(m).String() }

// takeMetadata notes what 2.0 says of a series, if it is something else than before.
func (p *plan) takeMetadata(s *writeproto.Series, m *intakeSeries) {
	hash := p.batch.HashMetadata(s)
	if hash == m.metadata || hash == 0 {
		return
	}
	help, err := p.batch.Help(s)
	if err == nil {
		var unit []byte
		if unit, err = p.batch.Unit(s); err == nil && len(help)+len(unit) <= maxMetadata {
			m.metadata = hash
			p.in.tell(m, p.batch.Type(s), string(help), string(unit))
			return
		}
	}
	p.metadata++
	if err != nil {
		p.refused.add(badSymbols, 0, func() string { return "parsing metadata for series " + p.show(m) + ": " + err.Error() })
	}
}

// takeSample takes a float. It counts it as written.
func (p *plan) takeSample(s *writeproto.Sample, m *intakeSeries, written *int) {
	if m.kind != series.Float && value.IsStaleNaN(s.V) { // that is how some senders end a histogram
		p.takeHistogram(&writeproto.Histogram{T: s.T, H: &histogram.Histogram{Sum: s.V}}, m, written)
		return
	}
	if !p.admit(s.T, math.Float64bits(s.V), m, series.Float, written) {
		return
	}
	p.stamp(m, s.T, s.V)
	if s.Start > 0 && s.Start <= s.T {
		p.extraOf(m).start = s.Start
	}
}

// admit reports whether a sample of a series is to be stored, and makes it the newest one. One that was stored before
// counts as written.
func (p *plan) admit(t int64, bits uint64, m *intakeSeries, kind series.Kind, written *int) bool {
	show := func() string { return p.show(m) }
	switch {
	case p.ahead(t):
		p.refuseSample(outOfBounds, show)
		return false
	case t == m.last && bits == m.bits:
		p.repeated++
		*written++
		return false
	case t == m.last:
		p.refuseSample(duplicate, show)
		return false
	case t < m.last:
		p.refuseSample(outOfOrder, show)
		return false
	}
	if kind != m.kind {
		if !p.in.turn(m, kind, p.now) {
			p.refuseSample(kindChanged, show)
			return false
		}
		p.addPortion(m.source)
	}
	if m.flight != p.flight {
		p.undo = append(p.undo, before{m, m.last, m.bits})
		m.flight = p.flight
	}
	m.last, m.bits = t, bits
	*written++
	return true
}

// stamp adds a sample that was admitted.
func (p *plan) stamp(m *intakeSeries, t int64, v float64) {
	m.stamp = len(p.stamps)
	p.stamps = append(p.stamps, stamp{t: t, v: v, column: m.column, portion: m.source.portion})
	p.portions[m.source.portion].n++
	if list, ok := m.source.held[m]; ok {
		delete(m.source.held, m)
		p.extraOf(m).exemplars = list
	}
}

// extraOf returns what the newest sample of a series has beside its value.
func (p *plan) extraOf(m *intakeSeries) *extra {
	s := &p.stamps[m.stamp]
	if s.extra == 0 {
		p.extras = append(p.extras, extra{})
		s.extra = uint32(len(p.extras))
	}
	return &p.extras[s.extra-1]
}

func (p *plan) refuseSample(why reason, show func() string) {
	p.refused.add(why, 1, func() string { return words[why] + " for series " + show() })
}

func (p *plan) refuseHistogram(err error, show func() string) {
	p.refused.add(badHistogram, 1, func() string { return err.Error() + " for series " + show() })
}

// makeRows turns the stamps into rows: source by source, each in ascending order of time.
func (p *plan) makeRows() {
	n := len(p.stamps)
	p.sorted = slices.Grow(p.sorted, n)[:n]
	p.columns, p.values = slices.Grow(p.columns, n), slices.Grow(p.values, n)
	at := 0
	for i := range p.portions {
		at, p.portions[i].n = at+p.portions[i].n, at
	}
	for i := range p.stamps {
		s := &p.stamps[i]
		place := &p.portions[s.portion].n // where its next stamp goes
		p.sorted[*place] = *s
		*place++
	}
	at = 0
	for i := range p.portions {
		p.rowsOf(&p.portions[i], p.sorted[at:p.portions[i].n])
		at = p.portions[i].n
	}
	for i := range p.flat {
		p.rows = append(p.rows, &p.flat[i])
	}
}

// rowsOf makes the rows of a portion.
func (p *plan) rowsOf(from *portion, stamps []stamp) {
	byTime := func(a, b stamp) int { return cmp.Compare(a.t, b.t) }
	if !slices.IsSortedFunc(stamps, byTime) {
		slices.SortStableFunc(stamps, byTime)
	}
	for len(stamps) > 0 {
		n := 1
		for n < len(stamps) && stamps[n].t == stamps[0].t {
			n++
		}
		p.sortByColumn(stamps[:n], from.schema.Len())
		row := series.Row{Source: from.source, Schema: from.schema, T: stamps[0].t}
		first := len(p.columns)
		for i := range stamps[:n] {
			s := &stamps[i]
			p.columns = append(p.columns, s.column)
			p.values = append(p.values, s.v)
			if s.extra > 0 {
				p.extras[s.extra-1].addTo(&row, s.column)
			}
		}
		row.Columns, row.Values = p.columns[first:len(p.columns):len(p.columns)], p.values[first:len(p.values):len(p.values)]
		p.flat = append(p.flat, row)
		stamps = stamps[n:]
	}
}

// sortByColumn sorts stamps that are of different columns. Senders have them in the order of the target, a schema that
// is at rest in another one, so that it has something to do.
func (p *plan) sortByColumn(stamps []stamp, columns int) {
	byColumn := func(a, b stamp) int { return cmp.Compare(a.column, b.column) }
	if slices.IsSortedFunc(stamps, byColumn) {
		return
	}
	if columns > 8*len(stamps) {
		slices.SortFunc(stamps, byColumn)
		return
	}
	p.places = slices.Grow(p.places[:0], columns)[:columns]
	clear(p.places)
	for i := range stamps {
		p.places[stamps[i].column] = int32(i) + 1
	}
	// What was sorted is no longer needed where it came from.
	from := append(p.stamps[:0], stamps...)
	p.stamps = from
	i := 0
	for _, place := range p.places {
		if place > 0 {
			stamps[i] = from[place-1]
			i++
		}
	}
}

func (x *extra) addTo(row *series.Row, column uint32) {
	if h := x.histogram; h.H != nil || h.FH != nil {
		h.Column = column
		row.Histograms = append(row.Histograms, h)
	}
	if x.start != 0 {
		row.Starts = append(row.Starts, series.StartAt{Column: column, Ms: x.start})
	}
	for _, e := range x.exemplars {
		row.Exemplars = append(row.Exemplars, series.ExemplarAt{Column: column, Exemplar: e})
	}
}
