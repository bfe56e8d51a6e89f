package store_test

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"

	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/store"
)

// oracle is the store without any of its structure: a map per source, from the column's labels to the last sample,
// and a loop over everything for a selection.
type oracle struct {
	config  store.Config
	sources map[[2]string]*oracleSource // by site and key
}

type oracleSource struct {
	source  *series.Source
	rank    store.Rank
	lastRow int64
	ended   bool
	samples map[string]oracleSample
}

type oracleSample struct {
	labels labels.Labels
	t      int64
	v      float64
}

func (o *oracle) retention(s *series.Source) int64 {
	return max(3*s.Interval, time.Duration(o.config.Lookback)).Milliseconds()
}

func (o *oracle) apply(site string, rank store.Rank, row *series.Row, now int64) {
	id := [2]string{site, row.Source.Key}
	s := o.sources[id]
	if s == nil {
		if row.End || row.T < now-o.retention(row.Source) {
			return
		}
		s = &oracleSource{source: row.Source, samples: map[string]oracleSample{}}
		o.sources[id] = s
	} else if rank.Less(s.rank) {
		return
	}
	s.rank, s.lastRow, s.ended = rank, max(s.lastRow, row.T), row.End
	if row.Whole() {
		clear(s.samples)
	} else { // a series that has no column any more has ended
		columns := map[string]bool{}
		for i := range row.Schema.Columns() {
			columns[row.Schema.Column(i).Labels.String()] = true
		}
		maps.DeleteFunc(s.samples, func(key string, _ oracleSample) bool { return !columns[key] })
	}
	put := func(column int, v float64) {
		c := row.Schema.Column(column)
		key := c.Labels.String()
		for _, earlier := range row.Schema.Columns()[:column] {
			if earlier.Labels.String() == key {
				return // the first of equal columns is the one
			}
		}
		if value.IsStaleNaN(v) {
			delete(s.samples, key)
			return
		}
		s.samples[key] = oracleSample{labels: c.Labels, t: row.T, v: v}
	}
	for i, v := range row.Values {
		switch {
		case !row.Whole():
			put(int(row.Columns[i]), v)
		case row.Has(i):
			put(i, v)
		}
	}
}

func (o *oracle) expire(now int64) {
	maps.DeleteFunc(o.sources, func(_ [2]string, s *oracleSource) bool {
		return s.lastRow < now-o.retention(s.source)
	})
}

// seen returns the labels of a series as readers see them.
func (o *oracle) seen(site string, s *oracleSource, column labels.Labels) (labels.Labels, bool) {
	all := s.source.Labels.Map()
	maps.Copy(all, column.Map())
	maps.DeleteFunc(all, func(_, v string) bool { return v == "" })
	if l := o.config.SiteLabel; l != "" {
		if own, ok := all[l]; ok {
			if o.config.OnConflict == store.Drop {
				return labels.EmptyLabels(), false
			}
			name := "exported_" + l
			for all[name] != "" {
				name = "exported_" + name
			}
			all[name] = own
		}
		all[l] = site
	}
	return labels.FromMap(all), true
}

// query returns, by labels, the samples with the newest time, any of which may be served.
func (o *oracle) query(sets [][]*labels.Matcher, now int64) map[string][]oracleSample {
	found := map[string][]oracleSample{}
	for id, s := range o.sources {
		for _, sample := range s.samples {
			ls, ok := o.seen(id[0], s, sample.labels)
			matches := func(set []*labels.Matcher) bool {
				return !slices.ContainsFunc(set, func(m *labels.Matcher) bool { return !m.Matches(ls.Get(m.Name)) })
			}
			if !ok || !slices.ContainsFunc(sets, matches) ||
				sample.t < now-o.retention(s.source) || sample.t > now+store.FutureBound.Milliseconds() {
				continue
			}
			key := ls.String()
			switch old := found[key]; {
			case len(old) == 0 || sample.t > old[0].t:
				found[key] = []oracleSample{sample}
			case sample.t == old[0].t:
				found[key] = append(old, sample)
			}
		}
	}
	return found
}

// scenario makes rows and queries from a small vocabulary, so that labels meet in every way they can.
type scenario struct {
	rnd     *rand.Rand
	catalog *series.Catalog
	sources []*series.Source
	schemas map[*series.Source]*series.Schema
	partial map[*series.Source]bool
	value   float64
}

func newScenario(seed uint64) *scenario {
	s := &scenario{
		rnd:     rand.New(rand.NewPCG(seed, 0)),
		catalog: series.NewCatalog(),
		schemas: map[*series.Source]*series.Schema{},
		partial: map[*series.Source]bool{},
	}
	for i := range 6 {
		src := &series.Source{
			Key:      fmt.Sprintf("scrape/%d", i),
			Labels:   s.labels([]string{"job", "instance", "zone", "site", "exported_site"}, []string{"", "x", "x", "y"}, 3),
			Interval: time.Duration(s.rnd.IntN(200)) * time.Second,
		}
		s.sources = append(s.sources, src)
		s.schemas[src] = s.catalog.Empty()
		s.partial[src] = s.rnd.IntN(2) == 0
	}
	return s
}

func (s *scenario) one(from ...string) string { return from[s.rnd.IntN(len(from))] }

func (s *scenario) labels(names, values []string, n int) labels.Labels {
	b := labels.NewScratchBuilder(n)
	slices.Sort(names)
	for _, name := range names {
		if s.rnd.IntN(len(names)) < n {
			b.Add(name, s.one(values...))
		}
	}
	return b.Labels()
}

func (s *scenario) columns(n int) []series.Column {
	var columns []series.Column
	for range n {
		ls := s.labels([]string{"job", "instance", "code", "site", "exported_site", "exported_exported_site"}, []string{"", "x", "y"}, 1)
		name := s.one("m", "h_bucket", "h_sum", "h_count", "h", "n")
		c := series.Column{Labels: labels.NewBuilder(ls).Set("__name__", name).Labels()}
		c.Labels = withEmpty(c.Labels, ls)
		if strings.HasPrefix(name, "h_") {
			c.Family = series.Family{Name: "h", Type: model.MetricTypeHistogram}
		}
		columns = append(columns, c)
	}
	return columns
}

// withEmpty returns named with the empty labels of ls, which a labels.Builder drops.
func withEmpty(named, ls labels.Labels) labels.Labels {
	all := named.Map()
	maps.Copy(all, ls.Map())
	b := labels.NewScratchBuilder(len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		b.Add(name, all[name])
	}
	return b.Labels()
}

// row makes a row of one of the sources, which remain of one sort: whole rows or partial ones.
func (s *scenario) row(now int64) *series.Row {
	src := s.sources[s.rnd.IntN(len(s.sources))]
	if s.rnd.IntN(20) == 0 {
		return &series.Row{Source: src, T: now, End: true}
	}
	schema := s.schemas[src]
	switch s.rnd.IntN(6) {
	case 0:
		schema = s.catalog.Extend(schema, s.columns(1+s.rnd.IntN(3)))
	case 1: // that of another source
		schema = s.schemas[s.sources[s.rnd.IntN(len(s.sources))]]
	case 2:
		schema = s.catalog.Extend(s.catalog.Empty(), s.columns(s.rnd.IntN(70)))
	}
	s.schemas[src] = schema
	row := &series.Row{Source: src, Schema: schema, T: now - int64(s.rnd.IntN(400_000)) + int64(s.rnd.IntN(100_000))}
	next := func() float64 {
		if s.rnd.IntN(10) == 0 {
			return math.Float64frombits(value.StaleNaN)
		}
		s.value++
		return s.value
	}
	if s.partial[src] {
		row.Columns = []uint32{}
		for i := range schema.Len() {
			if s.rnd.IntN(2) == 0 {
				row.Columns, row.Values = append(row.Columns, uint32(i)), append(row.Values, next())
			}
		}
		return row
	}
	if s.rnd.IntN(2) == 0 {
		row.Present = series.Bitmap(nil, schema.Len())
	}
	for i := range schema.Len() {
		row.Values = append(row.Values, next())
		if row.Present != nil && s.rnd.IntN(2) == 0 {
			series.SetBit(row.Present, i)
		}
	}
	return row
}

func (s *scenario) matchers() [][]*labels.Matcher {
	var sets [][]*labels.Matcher
	n := 1 + s.rnd.IntN(2)
	if s.rnd.IntN(20) == 0 {
		n = 40 // more distinct matchers than a word has bits
	}
	for range n {
		var set []*labels.Matcher
		for range 1 + s.rnd.IntN(3) + n/20 {
			set = append(set, labels.MustNewMatcher(
				labels.MatchType(s.rnd.IntN(4)),
				s.one("__name__", "job", "instance", "zone", "site", "exported_site", "code", "absent"),
				s.one("", "x", "y", "a", "m", "h_bucket", "h", ".*", ".+")))
		}
		sets = append(sets, set)
	}
	return sets
}

func TestStoreAgreesWithOracle(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { compareWithOracle(t, seed) })
	}
}

func compareWithOracle(t *testing.T, seed uint64) {
	s := newScenario(seed)
	config := store.DefaultConfig()
	config.SiteLabel = s.one("site", "site", "")
	if s.rnd.IntN(3) == 0 {
		config.OnConflict = store.Drop
	}
	st, err := store.New(store.Options{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	reference := &oracle{config: config, sources: map[[2]string]*oracleSource{}}
	now, frame := int64(1_700_000_000_000), uint64(1000)
	for range 120 {
		frame++
		now += int64(s.rnd.IntN(20_000))
		site, rank := s.one("a", "b"), store.Rank{Epoch: 1, Frame: frame}
		if s.rnd.IntN(5) == 0 {
			rank.Frame -= uint64(s.rnd.IntN(30)) // backfill
		}
		row := s.row(now)
		if err := st.Apply(site, rank, row, now); err != nil {
			t.Fatal(err)
		}
		reference.apply(site, rank, row, now)
		if s.rnd.IntN(30) == 0 {
			st.Expire(now)
			reference.expire(now)
		}
		sets := s.matchers()
		grouping := store.Grouping(s.rnd.IntN(2))
		compareSelection(t, st, reference, store.Query{Matchers: sets, Now: now, Grouping: grouping})
	}
	alive := 0
	for _, src := range reference.sources {
		if !src.ended {
			alive++
		}
	}
	for _, stats := range st.Sites() {
		alive -= stats.Sources
	}
	if alive != 0 {
		t.Errorf("oracle has %d sources more", alive)
	}
}

func compareSelection(t *testing.T, st *store.Store, reference *oracle, q store.Query) {
	t.Helper()
	want := reference.query(q.Matchers, q.Now)
	last := ""
	for family := range st.Select(q) {
		if family.Name <= last {
			t.Errorf("family %q behind %q", family.Name, last)
		}
		last = family.Name
		empty := true
		for s := range family.Series() {
			empty = false
			if s.Name() != family.Name && (q.Grouping == store.ByName || !strings.HasPrefix(s.Name(), family.Name+"_")) {
				t.Errorf("series %q in family %q", s.Name(), family.Name)
			}
			ls := s.AppendLabels(nil)
			if !slices.IsSortedFunc(ls, func(a, b labels.Label) int { return strings.Compare(a.Name, b.Name) }) {
				t.Errorf("labels %v are not sorted", ls)
			}
			key := labels.New(append(ls, labels.Label{Name: "__name__", Value: s.Name()})...).String()
			if !slices.ContainsFunc(want[key], func(o oracleSample) bool { return o.t == s.T && o.v == s.V }) {
				t.Errorf("query %v: got %s %v @%d, want one of %v", q.Matchers, key, s.V, s.T, want[key])
			}
			delete(want, key)
		}
		if empty {
			t.Errorf("family %q without series", family.Name)
		}
	}
	for key, samples := range want {
		t.Errorf("query %v: missing %s %v", q.Matchers, key, samples)
	}
}
