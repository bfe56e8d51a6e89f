package store

import (
	"math"
	"slices"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"

	"github.com/thalweg/thalweg/internal/series"
)

// Bounds of the work that is done under one hold of the lock.
const (
	chunkSeries   = 1024
	chunkColumn   = 16 * 1024
	chunkPicks    = 2048
	chunkFamilies = 2048
)

// selection is the progress of one Select. The store is locked only while a chunk of series is copied out of it; in
// between it changes, and what a source had under an index or labels that it has left is passed over.
type selection struct {
	store      *Store
	query      Query
	matching   matching
	mint, maxt int64
	views      map[*index]*view
	sources    int // of all views

	// The current family.
	family Family
	parts  []part
	types  []model.MetricType // all that occur, but for unknown
	clash  bool               // series may have identical labels
	whole  bool               // some have parts, which have to come from one row
	// Memory of the parts, used again for the next family.
	postings []posting
	picks    []pick
	needs    []uint64

	byLabels map[uint64]int // places in the chunk, by hash

	// The current chunk, and what comes next.
	chunk                  []Series
	part, source, nextPick int
}

// view is what a selection knows of an index: the sources it had when the selection first met it, and which matchers
// they satisfy.
type view struct {
	index     *index
	sources   []viewed
	has       []uint64 // matching.words of each source
	contested bool     // the site label of one of the sources is
	roaming   roaming
	twins     twins
}

// viewed is a source as a selection first met it.
type viewed struct {
	source  *source
	base    *base
	key     string
	ordinal int // in the selection
}

// roaming says whether columns of a view have label names that sources have too, as far as it was looked at.
type roaming struct {
	possible bool
	names    int // of the index
	version  int // of Store.baseNames
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
	// What every one of the picks needs: sources without it are not looked at.
	common []uint64
}

type pick struct {
	column    *series.Column
	number    uint32 // of the column in its schema
	kind      series.Kind
	contested bool
	ordinal   int // in the family
	name      string
	typ       model.MetricType
	needs     []uint64
}

// candidates lists the families that have a metric of a fitting name.
func (sel *selection) candidates() []familyKey {
	s := sel.store
	order := s.order(sel.query.Grouping)
	var keys []familyKey
	for group := range slices.Chunk(order, chunkFamilies) {
		keys = sel.appendCandidates(keys, group)
	}
	return keys
}

func (sel *selection) appendCandidates(keys, group []familyKey) []familyKey {
	s := sel.store
	s.mu.RLock()
	defer s.mu.RUnlock()
	sel.mint = sel.query.Now - time.Duration(s.config.Lookback).Milliseconds()
	sel.maxt = sel.query.Now + FutureBound.Milliseconds()
	families := s.catalogues[sel.query.Grouping].families
	for _, key := range group {
		if f := families[key]; f != nil && sel.matching.mayName(f.names) {
			keys = append(keys, key)
		}
	}
	return keys
}

// load makes key the current family and reads its first chunk. It is false if no series is selected.
func (sel *selection) load(key familyKey) bool {
	sel.parts, sel.types, sel.clash, sel.whole = sel.parts[:0], sel.types[:0], false, false
	clear(sel.picks)
	sel.picks, sel.needs, sel.chunk = sel.picks[:0], sel.needs[:0], sel.chunk[:0]
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
	kinds := sel.copyPostings(key)
	for kind := series.Float; kind <= series.GaugeHistogram; kind++ {
		if kinds&(1<<kind) == 0 {
			continue
		}
		for i := range sel.postings {
			sel.preparePart(key.name, &sel.postings[i], kind)
		}
	}
	var other *view // with twins
	most := 0
	for i := range sel.parts {
		v := sel.parts[i].view
		most += len(v.sources) * len(sel.parts[i].picks)
		if v.twins != noTwins {
			sel.clash = sel.clash || other != nil && other != v
			other = v
		}
	}
	sel.chunk = slices.Grow(sel.chunk, min(most, chunkSeries))
}

// copyPostings takes the list of what belongs to the family, which changes when the store is not locked; what it lists
// does not. It returns the kinds of columns that there are, as bits.
func (sel *selection) copyPostings(key familyKey) (kinds uint8) {
	s := sel.store
	s.mu.RLock()
	defer s.mu.RUnlock()
	clear(sel.postings)
	sel.postings = sel.postings[:0]
	f := s.catalogues[sel.query.Grouping].families[key]
	if f == nil {
		return 0
	}
	sel.postings = append(sel.postings, f.postings...)
	return f.kinds
}

// preparePart finds those of one kind in one index.
func (sel *selection) preparePart(name string, from *posting, kind series.Kind) {
	first, clash := len(sel.picks), false
	v := sel.view(from.index)
	for columns := range slices.Chunk(from.columns, chunkPicks) {
		clash = sel.appendPicks(v, columns, name, kind) || clash
	}
	p := part{view: v, picks: sel.picks[first:len(sel.picks):len(sel.picks)]}
	if len(p.picks) == 0 {
		return
	}
	sel.setCommon(&p)
	if !sel.selectsAny(&p) {
		return
	}
	sel.parts = append(sel.parts, p)
	sel.clash = sel.clash || clash || v.twins == twinsWithin
	for i := range p.picks {
		pk := &p.picks[i]
		sel.whole = sel.whole || pk.isPart()
		if pk.typ != model.MetricTypeUnknown && !slices.Contains(sel.types, pk.typ) && sel.query.Grouping == ByFamily {
			sel.types = append(sel.types, pk.typ)
		}
	}
}

// view returns the selection's view of an index.
func (sel *selection) view(x *index) *view {
	v := sel.views[x]
	if v != nil {
		return v
	}
	s := sel.store
	s.mu.RLock()
	defer s.mu.RUnlock()
	v = &view{index: x, sources: make([]viewed, len(x.sources)), has: make([]uint64, 0, len(x.sources)*sel.matching.words)}
	sets := map[uint64]bool{}
	for i, src := range x.sources {
		v.sources[i] = viewed{source: src, base: src.base, key: src.origin.Key, ordinal: sel.sources + i}
		v.has = sel.matching.appendHas(v.has, src.base.labels)
		v.contested = v.contested || src.base.contested
		if s.baseSets[src.base.set] > 1 {
			if v.twins = max(v.twins, twinsApart); sets[src.base.set] {
				v.twins = twinsWithin
			}
			sets[src.base.set] = true
		}
	}
	sel.sources += len(v.sources)
	sel.views[x] = v
	return v
}

// appendPicks looks at columns of one index, and takes those of a kind that some source can make match. It reports
// whether any of them may have the labels of a series of another source, because those of the sources may stand in a
// label of the column's.
func (sel *selection) appendPicks(v *view, columns []uint32, family string, kind series.Kind) (clash bool) {
	s := sel.store
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := v.index.schema.Columns()
	mayRoam := v.mayRoam(s)
	if need := len(columns); cap(sel.picks)-len(sel.picks) < need {
		sel.picks = slices.Grow(sel.picks, max(need, len(sel.picks))) // not by a quarter, as append does
	}
	for _, number := range columns {
		c := &all[number]
		if c.Kind != kind {
			continue
		}
		first := len(sel.needs)
		name := c.Labels.Get(model.MetricNameLabel)
		contested := v.index.isContested(number)
		sel.needs = sel.matching.appendNeeds(sel.needs, name, c.Labels)
		if len(sel.needs) == first && !contested && !v.contested {
			continue
		}
		sel.picks = append(sel.picks, pick{
			column:    c,
			number:    number,
			kind:      kind,
			contested: contested,
			ordinal:   len(sel.picks),
			name:      name,
			typ:       familyType(c, name, family),
			needs:     sel.needs[first:len(sel.needs):len(sel.needs)],
		})
		clash = clash || contested || v.contested || mayRoam && s.roams(c)
	}
	return clash
}

// mayRoam reports whether roams may be true for any column of the view. The store is locked.
func (v *view) mayRoam(s *Store) bool {
	if r := &v.roaming; r.names != len(v.index.names) || r.version != s.baseVersion {
		*r = roaming{names: len(v.index.names), version: s.baseVersion}
		for name := range v.index.names {
			r.possible = r.possible || s.baseNames[name] > 0
		}
	}
	return v.roaming.possible || v.index.empty
}

// roams reports whether the labels of a column may make its series equal to one of another source.
func (s *Store) roams(c *series.Column) (roams bool) {
	c.Labels.Range(func(l labels.Label) {
		roams = roams || l.Value == "" || s.baseNames[l.Name] > 0
	})
	return roams
}

// setCommon works out what all picks of a part have in common. Whether contested ones match shows only when their
// labels are there.
func (sel *selection) setCommon(p *part) {
	first := len(sel.needs)
	sel.needs = append(sel.needs, make([]uint64, sel.matching.words)...)
	p.common = sel.needs[first:len(sel.needs):len(sel.needs)]
	for w := range p.common {
		p.common[w] = math.MaxUint64
		for i := range p.picks {
			for needs := p.picks[i].needs; len(needs) > 0; needs = needs[len(p.common):] {
				p.common[w] &= needs[w]
			}
			if p.picks[i].contested {
				p.common[w] = 0
			}
		}
	}
}

// maySelect reports whether a source of a part has what all picks need.
func (sel *selection) maySelect(p *part, source int) bool {
	return p.view.sources[source].base.contested || sel.matching.selects(p.common, sel.has(p.view, source))
}

// selectsAny reports whether any source can match any of the part's columns, so that sites which are not selected
// have no say in the family's metadata.
func (sel *selection) selectsAny(p *part) bool {
	for i := range p.view.sources {
		if !sel.maySelect(p, i) {
			continue
		}
		for j := range p.picks {
			if p.view.sources[i].base.contested || p.picks[j].contested || sel.matching.selects(p.picks[j].needs, sel.has(p.view, i)) {
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
		if !sel.maySelect(p, sel.source) {
			sel.source, seen = sel.source+1, seen+1
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
	switch p.column.Family.Type {
	case model.MetricTypeHistogram, model.MetricTypeGaugeHistogram, model.MetricTypeSummary:
		return true
	}
	return false
}

// collect appends series of one source to the chunk. The store is locked.
func (sel *selection) collect(p *part, i int, picks []pick) {
	from := &p.view.sources[i]
	src := from.source
	if src.index != p.view.index || src.base != from.base {
		return // ended, or goes by another schema or other labels now
	}
	mint := sel.mint - sel.store.patience(src.origin).Milliseconds()
	if src.times == nil && (src.time < mint || src.time > sel.maxt) {
		return
	}
	has := sel.has(p.view, i)
	for j := range picks {
		pk := &picks[j]
		if !src.has(pk.number) {
			continue
		}
		t := src.timeOf(pk.number)
		if t < mint || t > sel.maxt {
			continue
		}
		r := Series{T: t, pick: pk, from: from}
		if from.base.contested || pk.contested {
			ls, ok := sel.store.resolve(src, pk.column.Labels)
			if !ok || !sel.matching.selectsLabels(pk.name, ls) {
				continue
			}
			r.extras = &extras{labels: ls, resolved: true}
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
	column := r.pick.number
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
			r.extra().fh = n.float.Copy()
		case !n.floating && (native || n.integer.UsesCustomBuckets()):
			r.extra().h = n.integer.Copy()
		default:
			return false
		}
	}
	if e, ok := s.exemplars[column]; ok {
		mine := e // allocated only for those that have one
		r.extra().exemplar = &mine
	}
	if s.starts != nil {
		r.Start = s.starts[column]
	}
	return true
}

func (s *Series) extra() *extras {
	if s.extras == nil {
		s.extras = &extras{}
	}
	return s.extras
}
