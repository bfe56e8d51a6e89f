package store

import (
	"iter"
	"slices"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"

	"github.com/thalweg/thalweg/internal/series"
)

// Query says which series to read, and how.
type Query struct {
	// Matchers select the union of what each set selects. An empty set selects nothing.
	Matchers [][]*labels.Matcher
	// Now is the store's clock in ms. Samples from the lookback before it to FutureBound behind it are seen.
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
	V float64 // if neither H nor FH is set
	// The native histogram; the reader's own copy.
	H  *histogram.Histogram
	FH *histogram.FloatHistogram
	// Exemplar is the last one, nil if there is none.
	Exemplar *exemplar.Exemplar
	// Start is when a cumulative series began, in ms; 0 if that is not known.
	Start int64

	pick   *pick
	labels []labels.Label // what the source's series have in common; everything if resolved
	// resolved series have no need of the column's labels.
	resolved bool
	origin   *series.Source
}

// Name is the metric name.
func (s *Series) Name() string { return s.pick.name }

// Kind says whether there is a value or a histogram.
func (s *Series) Kind() series.Kind { return s.pick.kind }

// Label returns the value of one label that is not the metric name, "" if it is not there.
func (s *Series) Label(name string) string {
	if !s.resolved {
		if value, ok := columnValue(s.pick.labels, name); ok {
			return value
		}
	}
	value, _ := findValue(s.labels, name)
	return value
}

// AppendLabels appends all labels but the metric name, sorted by name, without empty ones.
func (s *Series) AppendLabels(dst []labels.Label) []labels.Label {
	if s.resolved {
		return append(dst, s.labels...)
	}
	return mergeLabels(dst, s.labels, s.pick.labels)
}

// Bounds of the work that is done under one hold of the lock.
const (
	chunkSeries = 1024
	chunkColumn = 16 * 1024
)

// selection is the progress of one Select. The store is locked only while a chunk of series is copied out of it; in
// between it changes, and what a source had under an index that it has left is passed over.
type selection struct {
	store      *Store
	query      Query
	matching   matching
	mint, maxt int64
	views      map[*index]*view

	// The current family.
	family Family
	parts  []part
	types  []model.MetricType // all that occur, but for unknown
	clash  bool               // series may have identical labels
	whole  bool               // some have parts, which have to come from one row
	// Memory of the parts, used again for the next family.
	picks  []pick
	labels []labels.Label
	needs  []uint64

	// The current chunk, and what comes next.
	chunk                  []Series
	part, source, nextPick int
}

// view is what a selection knows of an index: the sources it had when the selection first met it, and which matchers
// they satisfy.
type view struct {
	index     *index
	sources   []*source
	has       []uint64 // matching.words of each source
	contested bool     // the site label of one of the sources is
	twins     twins
}

// twins says whether sources of a view have the same base labels as other sources, which lets their series be equal.
type twins int

const (
	noTwins     twins = iota
	twinsApart        // with sources of other views
	twinsWithin       // with each other
)

// part is the columns of one index that may be selected in the current family.
type part struct {
	view  *view
	picks []pick
}

type pick struct {
	name      string
	kind      series.Kind
	contested bool
	column    uint32
	labels    []labels.Label // without the name, sorted
	needs     []uint64
	family    *series.Family
	typ       model.MetricType
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

// candidates lists the families that have a metric of a fitting name.
func (sel *selection) candidates() []familyKey {
	s := sel.store
	order := s.order(sel.query.Grouping)
	s.mu.RLock()
	defer s.mu.RUnlock()
	sel.mint = sel.query.Now - time.Duration(s.config.Lookback).Milliseconds()
	sel.maxt = sel.query.Now + FutureBound.Milliseconds()
	var keys []familyKey
	families := s.catalogues[sel.query.Grouping].families
	for _, key := range order {
		if f := families[key]; f != nil && sel.matching.mayName(f.names) {
			keys = append(keys, key)
		}
	}
	return keys
}

// load makes key the current family and reads its first chunk. It is false if no series is selected.
func (sel *selection) load(key familyKey) bool {
	sel.parts, sel.types, sel.clash, sel.whole = sel.parts[:0], sel.types[:0], false, false
	clear(sel.labels)
	clear(sel.picks)
	sel.picks, sel.labels, sel.needs, sel.chunk = sel.picks[:0], sel.labels[:0], sel.needs[:0], sel.chunk[:0]
	sel.part, sel.source, sel.nextPick = 0, 0, 0
	sel.prepare(key)
	sel.family = Family{Name: key.name, Kind: key.kind, Type: model.MetricTypeUnknown, selection: sel}
	if sel.clash || len(sel.types) > 1 {
		// What is left of identical ones, and what most of them are, shows when all are there.
		for sel.more() {
		}
		sel.dedupe()
	} else if !sel.fill() {
		return false
	}
	if sel.query.Grouping == ByFamily {
		sel.settle()
	}
	return len(sel.chunk) > 0
}

// prepare finds the columns of the family that may be selected.
func (sel *selection) prepare(key familyKey) {
	s := sel.store
	s.mu.RLock()
	defer s.mu.RUnlock()
	f := s.catalogues[sel.query.Grouping].families[key]
	if f == nil {
		return
	}
	for kind := series.Float; kind <= series.GaugeHistogram; kind++ {
		if f.kinds&(1<<kind) != 0 {
			sel.prepareKind(key.name, f.postings, kind)
		}
	}
	var other *view // with twins
	for i := range sel.parts {
		if v := sel.parts[i].view; v.twins != noTwins {
			sel.clash = sel.clash || other != nil && other != v
			other = v
		}
	}
}

// prepareKind finds those of one kind.
func (sel *selection) prepareKind(name string, postings []posting, kind series.Kind) {
	for i := range postings {
		p := part{view: sel.view(postings[i].index)}
		clash, first := p.view.twins == twinsWithin, len(sel.picks)
		for _, column := range postings[i].columns {
			if p.view.index.schema.Column(int(column)).Kind != kind {
				continue
			}
			pk, roams, ok := sel.pick(p.view, column, name)
			if ok {
				sel.picks = append(sel.picks, pk)
				sel.whole = sel.whole || pk.isPart()
				clash = clash || roams
			}
		}
		p.picks = sel.picks[first:len(sel.picks):len(sel.picks)]
		if !sel.selectsAny(&p) {
			continue
		}
		sel.parts = append(sel.parts, p)
		sel.clash = sel.clash || clash
		if sel.query.Grouping != ByFamily {
			continue
		}
		for j := range p.picks {
			if t := p.picks[j].typ; t != model.MetricTypeUnknown && !slices.Contains(sel.types, t) {
				sel.types = append(sel.types, t)
			}
		}
	}
}

// view returns the selection's view of an index. The store is locked.
func (sel *selection) view(x *index) *view {
	v := sel.views[x]
	if v != nil {
		return v
	}
	v = &view{index: x, sources: slices.Clone(x.sources), has: make([]uint64, 0, len(x.sources)*sel.matching.words)}
	seen := map[uint64]bool{}
	for _, src := range v.sources {
		v.has = sel.matching.appendHas(v.has, src.base)
		v.contested = v.contested || src.contested
		if sel.store.baseSets[src.baseSet] > 1 {
			if v.twins = max(v.twins, twinsApart); seen[src.baseSet] {
				v.twins = twinsWithin
			}
			seen[src.baseSet] = true
		}
	}
	sel.views[x] = v
	return v
}

// pick looks at one column. It is false if no source can make the column match. A column roams if its labels may make
// its series equal to one of another source. The store is locked.
func (sel *selection) pick(v *view, column uint32, family string) (pk pick, roams, ok bool) {
	c := v.index.schema.Column(int(column))
	first, firstNeed := len(sel.labels), len(sel.needs)
	sel.labels = appendLabels(sel.labels, c.Labels)
	pk = pick{
		name:      c.Labels.Get(model.MetricNameLabel),
		kind:      c.Kind,
		contested: v.index.isContested(column),
		column:    column,
		labels:    sel.labels[first:len(sel.labels):len(sel.labels)],
		family:    &c.Family,
	}
	pk.typ = familyType(c, pk.name, family)
	sel.needs = sel.matching.appendNeeds(sel.needs, pk.name, pk.labels)
	pk.needs = sel.needs[firstNeed:len(sel.needs):len(sel.needs)]
	if len(pk.needs) == 0 && !pk.contested && !v.contested {
		return pk, false, false
	}
	roams = pk.contested || v.contested
	for _, l := range pk.labels {
		roams = roams || l.Value == "" || sel.store.baseNames[l.Name] > 0
	}
	return pk, roams, true
}

// selectsAny reports whether any source can match any of the part's columns, so that sites which are not selected
// have no say in the family's metadata. The store is locked.
func (sel *selection) selectsAny(p *part) bool {
	for i, src := range p.view.sources {
		for j := range p.picks {
			if src.contested || p.picks[j].contested || sel.matching.selects(p.picks[j].needs, sel.has(p.view, i)) {
				return true
			}
		}
	}
	return false
}

// has returns the bits of the matchers that a source of a view satisfies.
func (sel *selection) has(v *view, source int) []uint64 {
	return v.has[source*sel.matching.words:][:sel.matching.words]
}

// fill replaces the chunk by the next series. It is false if there are none left.
func (sel *selection) fill() bool {
	clear(sel.chunk)
	sel.chunk = sel.chunk[:0]
	for len(sel.chunk) == 0 {
		if !sel.more() {
			return false
		}
	}
	return true
}

// more appends series to the chunk, none at all in the worst case. It is false if there are no sources left.
func (sel *selection) more() bool {
	if sel.part == len(sel.parts) {
		return false
	}
	s := sel.store
	s.mu.RLock()
	defer s.mu.RUnlock()
	seen := 0
	for first := len(sel.chunk); sel.part < len(sel.parts) && len(sel.chunk)-first < chunkSeries && seen < chunkColumn; {
		p := &sel.parts[sel.part]
		if sel.source == len(p.view.sources) {
			sel.part, sel.source = sel.part+1, 0
			continue
		}
		picks := p.picks[sel.nextPick:]
		if n := chunkSeries + first - len(sel.chunk); n < len(picks) && !sel.whole {
			picks = picks[:n]
		}
		sel.collect(p, sel.source, picks)
		seen += len(picks)
		if sel.nextPick += len(picks); sel.nextPick == len(p.picks) {
			sel.source, sel.nextPick = sel.source+1, 0
		}
	}
	return true
}

// isPart reports whether a column is one of several that make one metric.
func (p *pick) isPart() bool {
	if p.kind != series.Float {
		return false
	}
	switch p.family.Type {
	case model.MetricTypeHistogram, model.MetricTypeGaugeHistogram, model.MetricTypeSummary:
		return true
	}
	return false
}

// collect appends series of one source to the chunk. The store is locked.
func (sel *selection) collect(p *part, i int, picks []pick) {
	src := p.view.sources[i]
	if src.index != p.view.index {
		return // ended, or goes by another schema now
	}
	if src.times == nil && (src.time < sel.mint || src.time > sel.maxt) {
		return
	}
	has := sel.has(p.view, i)
	for j := range picks {
		pk := &picks[j]
		if !src.has(pk.column) {
			continue
		}
		t := src.timeOf(pk.column)
		if t < sel.mint || t > sel.maxt {
			continue
		}
		r := Series{T: t, pick: pk, labels: src.base, origin: src.origin}
		if src.contested || pk.contested {
			if r.labels, r.resolved = sel.store.resolve(nil, src, pk.labels); !r.resolved || !sel.matching.selectsLabels(pk.name, r.labels) {
				continue
			}
		} else if !sel.matching.selects(pk.needs, has) {
			continue
		}
		if src.read(&r, sel.query.Native) {
			sel.chunk = append(sel.chunk, r)
		}
	}
}

// read copies the sample of a column that is present. It is false if there is nothing to show.
func (s *source) read(r *Series, native bool) bool {
	column := r.pick.column
	if r.pick.kind == series.Float {
		if r.V = s.values[column]; value.IsStaleNaN(r.V) {
			return false
		}
	} else {
		n := s.histograms[column]
		switch {
		case n == nil:
			return false
		case n.floating && (native || n.float.UsesCustomBuckets()):
			r.FH = n.float.Copy()
		case !n.floating && (native || n.integer.UsesCustomBuckets()):
			r.H = n.integer.Copy()
		default:
			return false
		}
	}
	if e, ok := s.exemplars[column]; ok {
		mine := e // allocated only for those that have one
		r.Exemplar = &mine
	}
	r.Start = s.starts[column]
	return true
}

// dedupe leaves one of identical label sets, the one with the newest sample.
func (sel *selection) dedupe() {
	if !sel.clash {
		return
	}
	kept := make(map[uint64]int, len(sel.chunk))
	unique := sel.chunk[:0]
	var mine, theirs []labels.Label
	for i := range sel.chunk {
		r := sel.chunk[i]
		mine = r.AppendLabels(mine[:0])
		hash := hashLabels(r.Name(), mine)
		j, taken := kept[hash]
		if taken {
			other := &unique[j]
			theirs = other.AppendLabels(theirs[:0])
			if other.Name() == r.Name() && slices.Equal(theirs, mine) {
				if r.T > other.T || r.T == other.T && r.origin.Key < other.origin.Key {
					*other = r
				}
				continue
			}
		}
		kept[hash] = len(unique)
		unique = append(unique, r)
	}
	clear(sel.chunk[len(unique):])
	sel.chunk = unique
}

// settle gives the family the type of most of its series, and what goes with it.
func (sel *selection) settle() {
	f := &sel.family
	switch {
	case len(sel.types) == 1:
		f.Type = sel.types[0]
	case len(sel.types) > 1:
		votes := map[model.MetricType]int{}
		for i := range sel.chunk {
			votes[sel.chunk[i].pick.typ]++
		}
		delete(votes, model.MetricTypeUnknown)
		f.Conflict = len(votes) > 1
		slices.Sort(sel.types) // a draw has to be the same every time
		for _, t := range sel.types {
			if votes[t] > votes[f.Type] {
				f.Type = t
			}
		}
	}
	for i := range sel.parts {
		for j := range sel.parts[i].picks {
			pk := &sel.parts[i].picks[j]
			if pk.typ != f.Type {
				continue
			}
			if f.Help == "" {
				f.Help = pk.family.Help
			}
			if f.Unit == "" {
				f.Unit = pk.family.Unit
			}
			if f.Help != "" && f.Unit != "" {
				return
			}
		}
	}
}
