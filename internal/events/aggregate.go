package events

import (
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
)

// aggregate is what all events have come to. It is for one goroutine at a time, and knows no clock: now is in ms.
type aggregate struct {
	rules     []*relabel.Config
	limits    Limits
	ttl       time.Duration
	reserved  map[string]bool // names that events cannot have
	index     map[uint64]*member
	families  map[string]*family
	order     []*family // as they came; those that are gone are swept out
	size      int       // series
	bytes     int       // that their labels and buckets take
	summaries int       // of them with quantiles
	started   int64     // when it knew nothing, in ms

	changed []*member // since the last checkpoint
	removed []uint32  // ids of series that have gone since then
	deaths  deaths

	made       uint64 // series that ever were
	relabelled map[uint64]*relabelled
	remembered int    // bytes of labels in relabelled
	mismatches uint64 // observations whose buckets or quantiles were not those of their metric

	// Of the event in hand:
	pairs   []labels.Label
	scratch labels.ScratchBuilder
	own     labels.Labels
	one     [1]float64
	builder *labels.Builder
}

// family is a metric.
type family struct {
	name, help, unit string
	typ              Type
	native           bool
	bounds           []float64   // of a classic histogram
	objectives       []objective // of a summary
	members          []*member   // as they came; dead ones are swept out
	alive            int
	saved            bool // stands in the checkpoint's file
}

// member is a series, or a histogram or summary with all of its series.
type member struct {
	labels  labels.Labels // all of them, with __name__
	family  *family
	next    *member // of the same hash
	sum     sum     // of a gauge its value
	created int64   // ms
	touched int64   // time of the last event, in ms
	ttl     time.Duration
	parts   any // *gauge, *classic, *native, *summary or nil
	// exemplar of a counter or native histogram.
	exemplar *exemplar.Exemplar

	death   int64  // second in which it is looked after; 0 if it does not die
	id      uint32 // in the checkpoint's file; 0 if it does not stand there
	column  int32  // the first in the schema; -1 if it is not there
	changed bool   // stands in aggregate.changed
	dead    bool
}

func newAggregate(c *Config, reserved map[string]bool, now int64) *aggregate {
	a := &aggregate{
		reserved: reserved, index: map[uint64]*member{}, families: map[string]*family{}, started: now,
		scratch: labels.NewScratchBuilder(16), builder: labels.NewBuilder(labels.EmptyLabels()),
	}
	a.configure(c)
	return a
}

// configure puts a configuration in force. What is there stays, whatever the new limits are.
func (a *aggregate) configure(c *Config) {
	a.rules, a.limits, a.ttl = c.RelabelConfigs, c.Limits, time.Duration(c.TTL)
	a.relabelled, a.remembered = nil, 0
	if len(a.rules) > 0 {
		a.relabelled = map[uint64]*relabelled{}
	}
}

// apply takes an event, or says why not.
func (a *aggregate) apply(e *Event, now int64) Reason {
	m, reason := a.find(e, now)
	if reason == Taken {
		reason = a.update(m, e, now)
	}
	return reason
}

// find returns the series of an event that can be taken, which may be new.
func (a *aggregate) find(e *Event, now int64) (*member, Reason) {
	if e.Reason != Taken {
		return nil, e.Reason
	}
	if reason := a.check(e, now); reason != Taken {
		return nil, reason
	}
	a.setLabels(e)
	hash := a.own.Hash()
	if a.relabelled != nil {
		return a.findRelabelled(e, hash, now)
	}
	m := a.lookup(hash)
	if m == nil {
		return a.create(e, hash, now)
	}
	if m.family.typ != e.Type {
		return nil, Conflict
	}
	return m, Taken
}

// check looks at what is not the same in all events of a series.
func (a *aggregate) check(e *Event, now int64) Reason {
	if len(e.Labels) > a.limits.Labels { // before they are sorted
		return LongLabels
	}
	if e.Type == Gauge && e.T > now+maxAhead.Milliseconds() {
		return BadValue
	}
	for _, v := range a.values(e) {
		finite := v-v == 0
		switch {
		case !finite && (e.Type != Gauge || e.Op != Set), v < 0 && e.Type == Counter:
			return BadValue
		}
	}
	if len(e.Exemplar) == 0 {
		return Taken
	}
	length := 0
	for _, l := range e.Exemplar {
		if !model.LegacyValidation.IsValidLabelName(l.Name) {
			return BadExemplar
		}
		length += len(l.Name) + len(l.Value)
	}
	if length > exemplar.ExemplarMaxLabelSetLength {
		return BadExemplar
	}
	return Taken
}

func (a *aggregate) values(e *Event) []float64 {
	if e.Many {
		return e.Values
	}
	a.one[0] = e.Value
	return a.one[:]
}

// setLabels makes the labels of the series of an event. Empty ones are none at all.
func (a *aggregate) setLabels(e *Event) {
	a.pairs = append(a.pairs[:0], labels.Label{Name: model.MetricNameLabel, Value: e.Name})
	for _, l := range e.Labels {
		if l.Value == "" {
			continue
		}
		i := len(a.pairs)
		for i > 0 && a.pairs[i-1].Name > l.Name {
			i--
		}
		a.pairs = slices.Insert(a.pairs, i, l)
	}
	a.scratch.Reset()
	for _, l := range a.pairs {
		a.scratch.Add(l.Name, l.Value)
	}
	a.scratch.Overwrite(&a.own)
}

// lookup returns the series with the labels in hand, nil if there is none.
func (a *aggregate) lookup(hash uint64) *member {
	for m := a.index[hash]; m != nil; m = m.next {
		if labels.Equal(m.labels, a.own) {
			return m
		}
	}
	return nil
}

// create makes the series with the labels in hand.
func (a *aggregate) create(e *Event, hash uint64, now int64) (*member, Reason) {
	if reason := a.validate(e); reason != Taken {
		return nil, reason
	}
	if a.size >= a.limits.Series {
		return nil, SeriesLimit
	}
	f := a.families[e.Name]
	switch {
	case f == nil:
		var reason Reason
		if f, reason = a.newFamily(e); reason != Taken {
			return nil, reason
		}
	case f.typ != e.Type:
		return nil, Conflict
	case f.alive >= a.limits.SeriesPerMetric:
		return nil, MetricLimit
	}
	if len(f.objectives) > 0 && a.summaries >= a.limits.Summaries || a.bytes/bytesPerSeries >= a.limits.Series {
		return nil, SeriesLimit
	}
	m := &member{labels: a.own.Copy(), family: f, created: now, touched: now, ttl: a.ttl, column: -1}
	m.parts = f.newParts()
	a.insert(m, hash)
	return m, Taken
}

// bytesPerSeries is what labels and buckets may take on average, if there are as many series as there may be.
const bytesPerSeries = 1 << 10

// bytes that labels and buckets of a series take.
func (m *member) bytes() int { return 8*len(m.family.bounds) + int(m.labels.ByteSize()) }

// insert makes a series a part of the aggregate.
func (a *aggregate) insert(m *member, hash uint64) {
	f := m.family
	if a.families[f.name] != f {
		a.families[f.name] = f
		a.order = append(a.order, f)
	}
	f.members = append(f.members, m)
	f.alive++
	a.size++
	a.bytes += m.bytes()
	if len(f.objectives) > 0 {
		a.summaries++
	}
	m.next = a.index[hash]
	a.index[hash] = m
	a.made++
}

// newFamily makes the metric of an event, unless its name belongs to another one. It is one only once it has a series.
func (a *aggregate) newFamily(e *Event) (*family, Reason) {
	f := &family{name: strings.Clone(e.Name), help: strings.Clone(e.Help), unit: strings.Clone(e.Unit), typ: e.Type}
	if len(f.help) > maxHelp {
		f.help = strings.ToValidUTF8(f.help[:maxHelp], "")
	}
	ok := true
	switch {
	case a.reserved[f.name], a.reserved[f.name+"_total"]: // as OpenMetrics calls a counter
		return nil, Reserved
	case a.collides(f):
		return nil, Conflict
	case f.typ == Histogram && e.Native:
		f.native = true
	case f.typ == Histogram:
		if f.bounds, ok = layout(e.Buckets); !ok {
			return nil, BadBuckets
		}
	case f.typ == Summary:
		if f.objectives, ok = objectives(e.Quantiles, e.Epsilons); !ok {
			return nil, BadQuantiles
		}
	}
	return f, Taken
}

// maxHelp bounds the length of a help, which does not count as a label.
const maxHelp = 1024

// newParts makes what a series of the family has beside its sum.
func (f *family) newParts() any {
	switch {
	case f.native:
		return newNative()
	case f.typ == Histogram:
		return newClassic(f.bounds)
	case f.typ == Summary:
		return newSummary(f.objectives)
	}
	return nil
}

// suffixes of the series of a metric that has several.
func (f *family) suffixes() []string {
	switch {
	case f.typ == Histogram:
		return []string{"_bucket", "_sum", "_count"} // a native one, too: a page in text has them
	case f.typ == Summary:
		return []string{"_sum", "_count"}
	}
	return nil
}

// collides reports whether a series of one metric would have the name of a series of another.
func (a *aggregate) collides(f *family) bool {
	for _, suffix := range f.suffixes() {
		if a.families[f.name+suffix] != nil || a.reserved[f.name+suffix] {
			return true
		}
	}
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if stem, ok := strings.CutSuffix(f.name, suffix); ok {
			if other := a.families[stem]; other != nil && slices.Contains(other.suffixes(), suffix) {
				return true
			}
		}
	}
	return false
}

// validate looks at name and labels in hand, which is necessary once for each series.
func (a *aggregate) validate(e *Event) (reason Reason) {
	if !isName(e.Name) {
		return BadName
	}
	if len(e.Name) > a.limits.LabelValueLength || a.own.Len()-1 > a.limits.Labels { // relabelling may have added some
		return LongLabels
	}
	a.own.Range(func(l labels.Label) {
		switch {
		case l.Name == model.MetricNameLabel || reason != Taken:
		case !isName(l.Name), strings.HasPrefix(l.Name, "__"),
			l.Name == model.BucketLabel && e.Type == Histogram, l.Name == model.QuantileLabel && e.Type == Summary:
			reason = BadLabel
		case len(l.Name) > a.limits.LabelNameLength, len(l.Value) > a.limits.LabelValueLength:
			reason = LongLabels
		}
	})
	if reason == Taken && len(e.Labels) > 0 && !a.distinct() {
		return BadLabel
	}
	return reason
}

// distinct reports whether no label is there twice, which only __name__ could be.
func (a *aggregate) distinct() bool {
	_, twice := a.own.HasDuplicateLabelNames()
	return !twice
}

// isName reports whether s can be the name of a metric or label: without a colon, as the original has it.
func isName(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_', c >= '0' && c <= '9' && i > 0:
		default:
			return false
		}
	}
	return s != ""
}

// update applies an event to its series.
func (a *aggregate) update(m *member, e *Event, now int64) Reason {
	taken := len(a.values(e)) == 0
	reason := Taken
	for _, v := range a.values(e) {
		if r := a.observe(m, e, v, now); r != Taken {
			reason = r
		} else {
			taken = true
		}
	}
	if !taken {
		return reason
	}
	if e.Type == Histogram || e.Type == Summary {
		a.compareLayout(m.family, e)
	}
	if len(e.Exemplar) > 0 {
		m.mark(e, now)
	}
	if e.TTL >= 0 {
		m.ttl = e.TTL
	}
	a.touch(m, now)
	return Taken
}

// repeat applies another value of an event that says nothing else, and that was taken before. It returns false if this
// value is none for it.
func (a *aggregate) repeat(m *member, v float64, now int64) bool {
	f := m.family
	if finite := v-v == 0; f.typ != Gauge && !finite || f.typ == Counter && v < 0 {
		return false
	}
	switch parts := m.parts.(type) {
	case distribution:
		parts.observe(v)
		m.sum.add(v)
	default:
		if f.typ == Gauge {
			var e Event
			m.update(&e, v, now) // sets it, which cannot fail
		} else {
			m.sum.add(v)
		}
	}
	a.touch(m, now)
	return true
}

// observe applies one value.
func (a *aggregate) observe(m *member, e *Event, v float64, now int64) Reason {
	switch parts := m.parts.(type) {
	case distribution:
		parts.observe(v)
		m.sum.add(v)
	default:
		if m.family.typ == Gauge {
			return m.update(e, v, now)
		}
		m.sum.add(v)
	}
	return Taken
}

// touch notes that a series has changed.
func (a *aggregate) touch(m *member, now int64) {
	m.touched = now
	if !m.changed {
		m.changed = true
		a.changed = append(a.changed, m)
	}
	if m.ttl > 0 {
		a.deaths.plan(m)
	}
}

// compareLayout counts events that ask for other buckets or quantiles than the first one of their metric did.
func (a *aggregate) compareLayout(f *family, e *Event) {
	same := true
	switch {
	case f.typ == Summary:
		same = len(f.objectives) == len(e.Quantiles)
	case f.native || e.Native:
		same = f.native == e.Native
	default:
		asked := e.Buckets
		if n := len(asked); n > len(f.bounds) && n > 0 && asked[n-1]-asked[n-1] != 0 {
			asked = asked[:n-1]
		}
		same = slices.Equal(asked, f.bounds)
	}
	if !same {
		a.mismatches++
	}
}

// mark keeps the exemplar of an event.
func (m *member) mark(e *Event, now int64) {
	v := e.Value
	if e.Many {
		if len(e.Values) == 0 {
			return
		}
		v = e.Values[len(e.Values)-1]
	}
	t := e.T
	if t == 0 {
		t = now
	}
	b := labels.NewScratchBuilder(len(e.Exemplar))
	for _, l := range e.Exemplar {
		b.Add(l.Name, l.Value)
	}
	b.Sort()
	x := &exemplar.Exemplar{Labels: b.Labels(), Value: v, Ts: t, HasTs: true}
	switch parts := m.parts.(type) {
	case *classic:
		parts.mark(v, x)
	case *native:
		m.exemplar = x
	case nil:
		if m.family.typ == Counter {
			m.exemplar = x
		}
	}
}

// remove ends a series.
func (a *aggregate) remove(m *member) {
	hash := m.labels.Hash()
	if first := a.index[hash]; first == m && m.next == nil {
		delete(a.index, hash)
	} else if first == m {
		a.index[hash] = m.next
	} else {
		for first.next != m {
			first = first.next
		}
		first.next = m.next
	}
	m.dead, m.next = true, nil
	a.size--
	a.bytes -= m.bytes()
	m.parts, m.exemplar = nil, nil // what remembers payloads may know the series for long
	if m.id != 0 {
		a.removed = append(a.removed, m.id)
	}
	f := m.family
	f.alive--
	if len(f.objectives) > 0 {
		a.summaries--
	}
	switch {
	case f.alive == 0:
		f.members = nil
		delete(a.families, f.name)
		if len(a.families) < len(a.order)/2 {
			a.order = slices.DeleteFunc(a.order, func(f *family) bool { return f.alive == 0 })
		}
	case f.alive < len(f.members)/2:
		f.members = slices.DeleteFunc(f.members, func(m *member) bool { return m.dead })
	}
}
