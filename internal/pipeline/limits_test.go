package pipeline

import (
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"

	"github.com/thalweg/thalweg/internal/series"
)

const minute = int64(60_000)

// site gives rows to a pipeline and notes what comes out.
type site struct {
	t       testing.TB
	catalog *series.Catalog
	p       *Pipeline
	now     int64
	options Options
	passed  map[string]map[string]bool // by source: what its last row had behind the pipeline,
	ended   map[string]bool            // and which stale markers
	asking  bool                       // how each sample fared
}

func newSite(t testing.TB, l Limits) *site {
	s := &site{t: t, catalog: series.NewCatalog(), now: 1_000_000 * minute, passed: map[string]map[string]bool{}}
	s.options = Options{Catalog: s.catalog, Limits: l, OnDrop: func(Reason) {}}
	s.p = newPipeline(t, s.options)
	return s
}

func (s *site) reload(change func(*Options)) {
	change(&s.options)
	s.p.Reload(s.options)
}

// whole applies a row of a source with series of these names.
func (s *site) whole(source *series.Source, names ...string) error {
	columns := make([]series.Column, len(names))
	for i, name := range names {
		columns[i] = column("__name__", name)
	}
	schema := s.catalog.Extend(s.catalog.Empty(), columns)
	return s.apply(&series.Row{Source: source, Schema: schema, T: s.now, Values: make([]float64, len(names))})
}

func (s *site) apply(r *series.Row) error {
	s.t.Helper()
	got := map[string]bool{}
	s.ended = map[string]bool{}
	next := func(out *series.Row) error {
		wellFormed(s.t, out)
		var b labels.Builder
		for column := range samples(out) {
			name := out.Source.SeriesLabels(&b, out.Schema.Column(int(column))).String()
			if isStale(out, column) {
				s.ended[name] = true
			} else {
				got[name] = true
			}
		}
		return nil
	}
	var err error
	if s.asking {
		var left []string
		err = s.p.ApplyAll([]*series.Row{r}, s.now, next, func(row *series.Row, column uint32, why Reason) {
			if row != r || why != OverSeries && why != OverSource {
				s.t.Errorf("column %d is refused because of %q", column, why)
			}
			left = append(left, s.name(r, column))
		})
		s.sumUp(r, got, left)
	} else {
		err = s.p.Apply(r, s.now, next)
	}
	if err == nil {
		s.passed[r.Source.Key] = got
	}
	return err
}

func (s *site) name(r *series.Row, column uint32) string {
	var b labels.Builder
	return r.Source.SeriesLabels(&b, r.Schema.Column(int(column))).String()
}

// sumUp checks that each sample of a row was either passed or refused.
func (s *site) sumUp(r *series.Row, passed map[string]bool, refused []string) {
	s.t.Helper()
	var want []string
	for column := range samples(r) {
		if !isStale(r, column) && !passed[s.name(r, column)] {
			want = append(want, s.name(r, column))
		}
	}
	slices.Sort(want)
	if slices.Sort(refused); !slices.Equal(refused, want) {
		s.t.Errorf("refused %v, want %v", refused, want)
	}
}

func isStale(r *series.Row, column uint32) bool {
	for _, h := range r.Histograms {
		if h.Column == column && value.IsStaleNaN(h.H.Sum) {
			return true
		}
	}
	return value.IsStaleNaN(r.Values[r.Place(column)])
}

// wellFormed checks what every reader of a row relies on.
func wellFormed(t testing.TB, r *series.Row) {
	t.Helper()
	if !r.Whole() && !slices.IsSorted(r.Columns) {
		t.Fatalf("columns %v are not sorted", r.Columns)
	}
	for _, c := range r.Columns {
		if int(c) >= r.Schema.Len() {
			t.Fatalf("column %d of %d", c, r.Schema.Len())
		}
	}
	if r.Whole() && !r.End && len(r.Values) != r.Schema.Len() {
		t.Fatalf("%d values of %d series", len(r.Values), r.Schema.Len())
	}
	if !slices.IsSortedFunc(r.Histograms, func(a, b series.HistogramAt) int { return int(a.Column) - int(b.Column) }) ||
		!slices.IsSortedFunc(r.Exemplars, func(a, b series.ExemplarAt) int { return int(a.Column) - int(b.Column) }) ||
		!slices.IsSortedFunc(r.Starts, func(a, b series.StartAt) int { return int(a.Column) - int(b.Column) }) {
		t.Fatal("histograms, exemplars or starts are not sorted")
	}
}

func (s *site) want(source string, names ...string) {
	s.t.Helper()
	want := map[string]bool{}
	for _, n := range names {
		want[fmt.Sprintf("{__name__=%q}", n)] = true
	}
	if got := s.passed[source]; !maps.Equal(got, want) {
		s.t.Errorf("source %s: %v passed, want %v", source, slices.Sorted(maps.Keys(got)), names)
	}
}

func (s *site) count(alive, held int, refused map[Reason]uint64) {
	s.t.Helper()
	u := s.p.Usage(3)
	if u.Series != alive || u.Held != held || !maps.Equal(u.Refused, refused) {
		s.t.Errorf("%d series are alive and %d held, refused were %v; want %d, %d, %v", u.Series, u.Held, u.Refused, alive, held, refused)
	}
}

func origin(key string) *series.Source { return &series.Source{Key: key} }

func TestSeriesLimit(t *testing.T) {
	s := newSite(t, Limits{Series: 3})
	a, b := origin("a"), origin("b")
	s.whole(a, "x", "y")
	s.whole(b, "x", "y", "z")
	s.want("a", "x", "y")
	s.want("b", "x")
	s.count(3, 2, map[Reason]uint64{OverSeries: 2})
	// What is refused again is not counted again.
	s.whole(b, "x", "y", "z")
	s.count(3, 2, map[Reason]uint64{OverSeries: 2})
	if worst := s.p.Usage(1).Worst; !reflect.DeepEqual(worst, []Offender{{OverSeries, "y", 1}}) {
		t.Errorf("worst is %v", worst)
	}
	// What ends makes room for what is there, in the row of its own source and in those of others.
	s.whole(a, "y")
	s.whole(b, "x", "y", "z")
	s.want("b", "x", "y")
	s.count(3, 1, map[Reason]uint64{OverSeries: 2})
	if err := s.apply(&series.Row{Source: a, Schema: s.catalog.Empty(), End: true}); err != nil {
		t.Fatal(err)
	}
	s.whole(b, "x", "y", "z")
	s.want("b", "x", "y", "z")
	s.count(3, 0, map[Reason]uint64{OverSeries: 2})
	// A silent source makes room too.
	s.now += 10 * minute
	s.whole(a, "x", "y", "z")
	s.want("a", "x", "y", "z")
	s.count(3, 0, map[Reason]uint64{OverSeries: 2})
	// A lower limit takes the excess at the next row, a higher one gives it back.
	s.reload(func(o *Options) { o.Limits.Series = 1 })
	s.whole(a, "x", "y", "z")
	s.want("a", "x")
	s.reload(func(o *Options) { o.Limits.Series = 2 })
	s.whole(a, "x", "y", "z")
	s.want("a", "x", "y")
	s.reload(func(o *Options) { o.Limits = Limits{} })
	s.whole(a, "x", "y", "z")
	s.want("a", "x", "y", "z")
	s.count(3, 0, map[Reason]uint64{OverSeries: 4})
	// Rules that change nothing for a source leave what it has let in as it is, whoever comes first.
	s.reload(func(o *Options) { o.Limits.Series = 4 })
	s.whole(b, "v", "w")
	s.want("b", "v")
	s.reload(func(o *Options) { o.RequiredLabels = nil })
	s.whole(b, "v", "w")
	s.whole(a, "x", "y", "z")
	s.want("a", "x", "y", "z")
	s.want("b", "v")
}

func TestSeriesPerSourceLimit(t *testing.T) {
	s := newSite(t, Limits{Series: 5, SeriesPerSource: 2})
	s.whole(origin("a"), "x", "y", "z")
	s.whole(origin("b"), "x", "y", "z")
	s.want("a", "x", "y")
	s.want("b", "x", "y")
	s.count(4, 2, map[Reason]uint64{OverSource: 2})
	s.whole(origin("c"), "x", "y", "z")
	s.want("c", "x")
	s.count(5, 4, map[Reason]uint64{OverSource: 2, OverSeries: 2})
}

func TestNewSeriesLimit(t *testing.T) {
	s := newSite(t, Limits{Series: 100, NewSeriesPerHour: 6})
	a := origin("a")
	// After a start everything is new, and limits.series alone counts.
	s.whole(a, names("old", 40)...)
	s.count(40, 0, map[Reason]uint64{})
	for range 60 { // minutes
		s.now += minute
		s.whole(a, names("old", 40)...)
	}
	all := append(names("old", 40), names("new", 10)...)
	s.whole(a, all...)
	s.count(46, 4, map[Reason]uint64{OverNew: 4})
	// They get in one by one.
	for range 21 {
		s.now += minute
		s.whole(a, all...)
	}
	s.count(48, 2, map[Reason]uint64{OverNew: 4})
	// What was alive within the last hour is not new; a schema that begins anew neither.
	s.whole(a, "new0")
	s.whole(a, append(names("new", 8), names("old", 40)...)...)
	s.count(48, 0, map[Reason]uint64{OverNew: 4})
	for range 200 {
		s.now += minute
		s.whole(a, "new0")
	}
	s.whole(a, append([]string{"new0"}, names("old", 40)...)...)
	s.count(7, 34, map[Reason]uint64{OverNew: 38})
}

func names(prefix string, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("%s%d", prefix, i)
	}
	return list
}

func TestSamplesLimit(t *testing.T) {
	s := newSite(t, Limits{SamplesPerSecond: 10})
	a := origin("a")
	taken := func(want bool) {
		t.Helper()
		err := s.whole(a, names("x", 300)...)
		refused, ok := err.(*RefusedError)
		if want && err != nil || !want && (!ok || refused.Reason != OverSamples || refused.Source != "a") {
			t.Errorf("a row is taken: %v, want %v", err, want)
		}
	}
	// A burst of two minutes, 1200 samples; rows are never halved.
	for range 4 {
		taken(true)
	}
	taken(false)
	s.now += 30_000
	taken(true)
	taken(false)
	s.now += 60_000
	taken(true)
	taken(true)
	taken(false)
	s.count(0, 0, map[Reason]uint64{OverSamples: 3})
	// A backlog counts by the time in which it was made, once: timestamps that were there already give nothing.
	schema := s.catalog.Extend(s.catalog.Empty(), []series.Column{column("__name__", "y")})
	backlog := newSite(t, Limits{SamplesPerSecond: 1})
	backlog.catalog = s.catalog
	row := &series.Row{Source: origin("b"), Schema: schema, T: backlog.now - 1000*minute, Values: []float64{1}}
	for range 1000 {
		if err := backlog.apply(row); err != nil {
			t.Fatal(err)
		}
		row.T += 1000
	}
	n := 0
	for row.T -= 1000 * 1000; backlog.apply(row) == nil; n++ {
		row.T += 1000
	}
	if n != 119 {
		t.Errorf("%d rows with timestamps of before were taken, want the burst of 120 without the first row", n)
	}
	// An end is no sample.
	if err := s.apply(&series.Row{Source: a, Schema: schema, End: true, T: s.now}); err != nil {
		t.Error(err)
	}
}

// Whoever can come again is refused all or nothing for the rate, and is told when there is room.
func TestSamplesLimitOfManyRows(t *testing.T) {
	s := newSite(t, Limits{SamplesPerSecond: 10})
	schema := s.catalog.Extend(s.catalog.Empty(), []series.Column{column("__name__", "x")})
	taken := func(n int, want time.Duration) {
		t.Helper()
		var rows []*series.Row
		for range n {
			rows = append(rows, &series.Row{Source: origin("a"), Schema: schema, T: s.now, Values: []float64{1}})
		}
		passed := 0
		err := s.p.ApplyAll(rows, s.now, func(*series.Row) error { passed++; return nil }, func(*series.Row, uint32, Reason) { t.Error("a sample is refused") })
		early, isEarly := err.(*EarlyError)
		switch {
		case want == 0 && (err != nil || passed != n):
			t.Errorf("%d of %d rows are taken: %v", passed, n, err)
		case want > 0 && (!isEarly || early.Wait != want || passed > 0):
			t.Errorf("%d rows are taken, %v; want to wait for %s", passed, err, want)
		}
	}
	taken(1100, 0)
	taken(500, 0) // of which there was room for 100
	taken(1, 40*time.Second)
	s.now += 39_000
	taken(1, time.Second)
	s.now += 2_000
	taken(1, 0)
	s.count(0, 0, map[Reason]uint64{OverSamples: 2})
}

// What is told of the samples of a row: which are lost, and why.
func TestRefusedSamples(t *testing.T) {
	s := newSite(t, Limits{LabelValueLength: 5, SeriesPerSource: 3})
	wanted, err := ParseMatch([]string{`{__name__!="unwanted"}`})
	if err != nil {
		t.Fatal(err)
	}
	s.reload(func(o *Options) {
		o.RequiredLabels = map[string]string{"team": "a"}
		o.Match = []Selection{wanted}
		o.MaxSources = 1
	})
	name := func(name string, more ...string) series.Column {
		return column(append([]string{"__name__", name, "team", "a"}, more...)...)
	}
	schema := s.catalog.Extend(s.catalog.Empty(), []series.Column{
		name("a"), column("__name__", "unwanted", "team", "a"), column("__name__", "b"), name("c", "x", "longer"), name("d"), name("e"), name("f"),
	})
	row := func(key string, columns ...uint32) *series.Row {
		return &series.Row{Source: origin(key), Schema: schema, T: s.now, Columns: columns, Values: make([]float64, len(columns))}
	}
	ended := row("a", 2, 3, 6)
	for i := range ended.Values {
		ended.Values[i] = math.Float64frombits(value.StaleNaN)
	}
	f := func(want string, rows ...*series.Row) {
		t.Helper()
		got := ""
		err := s.p.ApplyAll(rows, s.now, func(*series.Row) error { return nil }, func(r *series.Row, column uint32, why Reason) {
			got += fmt.Sprintf("%s %d %s, ", r.Source.Key, column, why)
		})
		if err != nil || got != want {
			t.Errorf("refused %q, want %q: %v", got, want, err)
		}
	}
	f("a 2 required_label, a 3 label_value_length, a 6 series_per_source, ", row("a", 0, 1, 2, 3, 4, 5, 6))
	f("a 2 required_label, ", row("a", 2)) // nothing is left of the row
	f("", row("a", 0, 1, 4))
	f("", ended)
	f("b 0 sources, b 2 sources, ", row("a", 0), row("b", 0, 2))
}

// A clock that is set back neither fills a bucket nor stops it.
func TestClock(t *testing.T) {
	var c clock
	f := func(t_, now, want int64) {
		t.Helper()
		if c.advance(t_, now); c.elapsed != want {
			t.Errorf("row of %d at %d: %d ms have passed, want %d", t_, now, c.elapsed, want)
		}
	}
	f(1000, 1000, 0)
	f(2000, 2000, 1000)
	f(1500, 500, 1000) // set back
	f(1500, 600, 1100)
	f(1000_000_000, 600, 1100+600+10*minute-2000) // far ahead counts up to the bound
	f(1000_000_000, 600, 1100+600+10*minute-2000)
}

func TestOffendersAreBounded(t *testing.T) {
	var o offenders
	for i := range 10_000 {
		o.add(OverSeries, fmt.Sprint("noise", i))
		if i%3 == 0 {
			o.add(OverSeries, "worst")
		}
		if i%5 == 0 {
			o.add(OverNew, "worst")
		}
	}
	got := o.worst(2)
	if len(o.list) != maxOffenders || got[0].Name != "worst" || got[1].Name != "worst" || got[0].Reason != OverSeries || got[1].Reason != OverNew {
		t.Errorf("%d are counted, the worst are %v", len(o.list), got)
	}
	for range 64 {
		o.fade()
	}
	if len(o.list) != 0 {
		t.Errorf("%v never fade", o.list)
	}
}
