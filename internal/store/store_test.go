package store_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/store"
)

const now = int64(1_700_000_000_000)

var stale = math.Float64frombits(value.StaleNaN)

func newStore(t testing.TB, change func(*store.Options)) *store.Store {
	t.Helper()
	o := store.Options{Config: store.DefaultConfig()}
	if change != nil {
		change(&o)
	}
	s, err := store.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func selectors(t testing.TB, texts ...string) [][]*labels.Matcher {
	t.Helper()
	sets, err := parser.NewParser(parser.Options{}).ParseMetricSelectors(texts)
	if err != nil {
		t.Fatal(err)
	}
	return sets
}

// dump renders a selection, a line for each series, sorted within a family.
func dump(s *store.Store, q store.Query) string {
	var b strings.Builder
	for family := range s.Select(q) {
		fmt.Fprintf(&b, "# %s %s", family.Name, family.Type)
		if family.Help != "" {
			fmt.Fprintf(&b, " %q", family.Help)
		}
		if family.Conflict {
			b.WriteString(" conflict")
		}
		b.WriteByte('\n')
		var lines []string
		for r := range family.Series() {
			ls := labels.New(r.AppendLabels(nil)...)
			lines = append(lines, fmt.Sprintf("%s%s %v %+d\n", r.Name(), ls, r.V, r.T-now))
		}
		slices.Sort(lines)
		b.WriteString(strings.Join(lines, ""))
	}
	return b.String()
}

// columns parses series such as `up{code="x"}`; a type may follow the name of a family that has it.
func columns(t testing.TB, texts ...string) []series.Column {
	t.Helper()
	var cs []series.Column
	for _, text := range texts {
		ls, err := parser.NewParser(parser.Options{}).ParseMetric(text)
		if err != nil {
			t.Fatal(err)
		}
		cs = append(cs, series.Column{Labels: ls})
	}
	return cs
}

func source(key string, ls ...string) *series.Source {
	return &series.Source{Key: key, Labels: labels.FromStrings(ls...), Interval: 15 * time.Second}
}

type fixture struct {
	*testing.T
	store   *store.Store
	catalog *series.Catalog
	frame   uint64
}

func newFixture(t *testing.T, change func(*store.Options)) *fixture {
	return &fixture{T: t, store: newStore(t, change), catalog: series.NewCatalog()}
}

func (f *fixture) schema(texts ...string) *series.Schema {
	return f.catalog.Extend(f.catalog.Empty(), columns(f.T, texts...))
}

func (f *fixture) apply(site string, row *series.Row) {
	f.Helper()
	f.frame++
	f.applyAt(site, store.Rank{Epoch: 1, Frame: f.frame}, row)
}

func (f *fixture) applyAt(site string, rank store.Rank, row *series.Row) {
	f.Helper()
	if err := f.store.Apply(site, rank, row, now); err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) refused(reason store.Reason, site string, row *series.Row) {
	f.Helper()
	err := f.store.Apply(site, store.Rank{Epoch: 9}, row, now)
	refused, ok := errors.AsType[*store.RefusedError](err)
	if !ok || refused.Reason != reason || refused.Site != site || refused.Source != row.Source.Key {
		f.Errorf("got error %v, want a refusal of %s from %s for %s", err, row.Source.Key, site, reason)
	}
}

func (f *fixture) want(selector, want string) {
	f.Helper()
	got := dump(f.store, store.Query{Matchers: selectors(f.T, selector), Now: now})
	if want = strings.TrimPrefix(want, "\n"); got != want {
		f.Errorf("%s: got\n%swant\n%s", selector, got, want)
	}
}

func TestRankDecidesNotTime(t *testing.T) {
	f := newFixture(t, nil)
	src, schema := source("s", "job", "j"), f.schema("m")
	row := func(v float64, ms int64) *series.Row {
		return &series.Row{Source: src, Schema: schema, T: now + ms, Values: []float64{v}}
	}
	f.applyAt("a", store.Rank{Epoch: 2, Frame: 5}, row(1, -1000))
	f.applyAt("a", store.Rank{Epoch: 2, Frame: 4}, row(2, 0))
	f.applyAt("a", store.Rank{Epoch: 1, Frame: 9}, row(3, 0))
	f.want("m", "# m unknown\nm{job=\"j\", site=\"a\"} 1 -1000\n")
	f.applyAt("a", store.Rank{Epoch: 2, Frame: 5}, row(4, -2000)) // the next row of the same frame
	f.want("m", "# m unknown\nm{job=\"j\", site=\"a\"} 4 -2000\n")
	f.applyAt("a", store.Rank{Epoch: 3, Frame: 1}, &series.Row{Source: src, T: now, End: true})
	f.want("m", "")
	f.applyAt("a", store.Rank{Epoch: 2, Frame: 6}, row(5, 0)) // history of a source that has ended
	f.want("m", "")
	f.applyAt("b", store.Rank{Epoch: 1, Frame: 1}, row(6, 0)) // another site has an order of its own
	f.want("m", "# m unknown\nm{job=\"j\", site=\"b\"} 6 +0\n")
	if got := testutil.ToFloat64(metric(t, f.store, "thalweg_store_superseded_rows_total")); got != 3 {
		t.Errorf("%v rows superseded, want 3", got)
	}
}

func metric(t *testing.T, s *store.Store, name string) prometheus.Collector {
	t.Helper()
	for _, c := range s.Metrics() {
		descs := make(chan *prometheus.Desc, 10)
		c.Describe(descs)
		if strings.Contains((<-descs).String(), `"`+name+`"`) {
			return c
		}
	}
	t.Fatalf("no metric %s", name)
	return nil
}

func TestWindow(t *testing.T) {
	f := newFixture(t, nil)
	ahead, lookback := store.FutureBound.Milliseconds(), (5 * time.Minute).Milliseconds()
	for i, ms := range []int64{-lookback - 1, -lookback, 0, ahead} {
		f.apply("a", &series.Row{
			Source: source(fmt.Sprint(i), "i", fmt.Sprint(i)), Schema: f.schema("m"), T: now + ms, Values: []float64{1},
		})
	}
	f.want("m", `
# m unknown
m{i="1", site="a"} 1 -300000
m{i="2", site="a"} 1 +0
m{i="3", site="a"} 1 +600000
`)
	f.refused(store.ReasonFuture, "a", &series.Row{Source: source("5"), Schema: f.schema("m"), T: now + ahead + 1, Values: []float64{1}})
}

func TestPartialRowsMerge(t *testing.T) {
	f := newFixture(t, nil)
	src := source("s")
	two := f.schema("m", "n")
	three := f.catalog.Extend(two, columns(t, "o"))
	other := f.schema("p", "o", "m")
	partial := func(schema *series.Schema, ms int64, columns []uint32, values ...float64) *series.Row {
		return &series.Row{Source: src, Schema: schema, T: now + ms, Columns: columns, Values: values}
	}
	f.apply("a", partial(two, -30, []uint32{0, 1}, 1, 2))
	f.apply("a", partial(three, -20, []uint32{1, 2}, 3, 4))
	f.want(`{site="a"}`, `
# m unknown
m{site="a"} 1 -30
# n unknown
n{site="a"} 3 -20
# o unknown
o{site="a"} 4 -20
`)
	f.apply("a", partial(three, -10, []uint32{1}, stale))
	f.apply("a", partial(other, -5, []uint32{0}, 5)) // compacted: n has gone, the others have moved
	f.want(`{site="a"}`, `
# m unknown
m{site="a"} 1 -30
# o unknown
o{site="a"} 4 -20
# p unknown
p{site="a"} 5 -5
`)
}

// A label that moves from the columns to the source, or back, leaves the series what it was.
func TestPartialRowsMergeOverLabelsThatMove(t *testing.T) {
	f := newFixture(t, nil)
	apart := f.catalog.Extend(f.catalog.Empty(), []series.Column{
		{Labels: labels.FromStrings("__name__", "m", "pod", "p")}, {Labels: labels.FromStrings("__name__", "n", "pod", "p")},
	})
	together := f.schema("n", "m")
	f.apply("a", &series.Row{Source: source("s", "job", "j"), Schema: apart, T: now - 2, Columns: []uint32{0, 1}, Values: []float64{1, 2}})
	f.apply("a", &series.Row{Source: source("s", "job", "j", "pod", "p"), Schema: together, T: now - 1, Columns: []uint32{1}, Values: []float64{3}})
	f.want(`{site="a"}`, `
# m unknown
m{job="j", pod="p", site="a"} 3 -1
# n unknown
n{job="j", pod="p", site="a"} 2 -2
`)
	f.apply("a", &series.Row{Source: source("s", "job", "j"), Schema: apart, T: now, Columns: []uint32{1}, Values: []float64{4}})
	f.want(`{site="a"}`, `
# m unknown
m{job="j", pod="p", site="a"} 3 -1
# n unknown
n{job="j", pod="p", site="a"} 4 +0
`)
}

func TestPartialRowAfterWholeOne(t *testing.T) {
	f := newFixture(t, nil)
	src, two := source("s"), f.schema("m", "n")
	f.apply("a", &series.Row{Source: src, Schema: two, T: now, Values: []float64{1, 2}})
	f.apply("a", &series.Row{
		Source: src, Schema: f.catalog.Extend(two, columns(t, "o", "p")), T: now + 1, Columns: []uint32{1, 3}, Values: []float64{3, 4},
	})
	f.want(`{site="a"}`, `
# m unknown
m{site="a"} 1 +0
# n unknown
n{site="a"} 3 +1
# p unknown
p{site="a"} 4 +1
`)
}

// When a source gets another schema while it is read, column numbers mean something else.
func TestSchemaChangesUnderReader(t *testing.T) {
	f := newFixture(t, nil)
	f.apply("a", &series.Row{Source: source("s", "i", "s"), Schema: f.schema("m", "n", "o"), T: now, Values: []float64{1, 2, 3}})
	f.apply("a", &series.Row{Source: source("t", "i", "t"), Schema: f.schema("m", "o"), T: now, Values: []float64{4, 5}})
	var got []string
	for family := range f.store.Select(store.Query{Matchers: selectors(t, `{site="a"}`), Now: now}) {
		for r := range family.Series() {
			got = append(got, fmt.Sprint(r.Name(), " ", r.V))
		}
		if family.Name == "m" {
			f.apply("a", &series.Row{Source: source("s", "i", "s"), Schema: f.schema("o", "m", "n"), T: now, Values: []float64{3, 1, 2}})
			f.apply("a", &series.Row{Source: source("t", "i", "t"), T: now, End: true})
		}
	}
	slices.Sort(got)
	if want := []string{"m 1", "m 4", "n 2", "o 3"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestWholeRowsEndWhatTheyLack(t *testing.T) {
	f := newFixture(t, nil)
	row := &series.Row{Source: source("s"), Schema: f.schema("m", "n"), T: now, Values: []float64{1, math.NaN()}}
	f.apply("a", row)
	f.want(`{site="a"}`, "# m unknown\nm{site=\"a\"} 1 +0\n# n unknown\nn{site=\"a\"} NaN +0\n")
	row.Values[0] = 99 // the store has a copy
	f.want(`m`, "# m unknown\nm{site=\"a\"} 1 +0\n")
	row.Present = []uint64{0b10}
	f.apply("a", row)
	f.want(`{site="a"}`, "# n unknown\nn{site=\"a\"} NaN +0\n")
}

func TestFamilies(t *testing.T) {
	f := newFixture(t, nil)
	hist := series.Family{Name: "h", Type: model.MetricTypeHistogram, Help: "A histogram."}
	cs := columns(t, `h_bucket{le="1.0"}`, `h_bucket{le="+Inf"}`, "h_sum", "h_count", "h_created", "h_abc", "c_total")
	for i := range 5 {
		cs[i].Family = hist
	}
	cs[6].Family = series.Family{Name: "c", Type: model.MetricTypeCounter}
	f.apply("a", &series.Row{
		Source: source("s"), Schema: f.catalog.Extend(f.catalog.Empty(), cs), T: now, Values: []float64{1, 2, 3, 4, 5, 6, 7},
	})
	f.want(`{site="a"}`, `
# c_total counter
c_total{site="a"} 7 +0
# h histogram "A histogram."
h_bucket{le="+Inf", site="a"} 2 +0
h_bucket{le="1.0", site="a"} 1 +0
h_count{site="a"} 4 +0
h_sum{site="a"} 3 +0
# h_abc unknown
h_abc{site="a"} 6 +0
# h_created unknown "A histogram."
h_created{site="a"} 5 +0
`)
	var names []string
	for family := range f.store.Select(store.Query{Matchers: selectors(t, `{site="a"}`), Now: now, Grouping: store.ByName}) {
		names = append(names, family.Name)
	}
	if want := []string{"c_total", "h_abc", "h_bucket", "h_count", "h_created", "h_sum"}; !slices.Equal(names, want) {
		t.Errorf("by name: %q, want %q", names, want)
	}
}

func TestTypeOfMostSeriesWins(t *testing.T) {
	f := newFixture(t, nil)
	for i, typ := range []model.MetricType{"gauge", "counter", "counter", "unknown", "unknown", "unknown"} {
		cs := columns(t, "m")
		cs[0].Family = series.Family{Name: "m", Type: typ, Help: "A " + string(typ)}
		f.apply("a", &series.Row{
			Source: source(fmt.Sprint(i), "i", fmt.Sprint(i)), Schema: f.catalog.Extend(f.catalog.Empty(), cs), T: now, Values: []float64{1},
		})
	}
	heads := func(selector string) (heads string) {
		for line := range strings.Lines(dump(f.store, store.Query{Matchers: selectors(t, selector), Now: now})) {
			if line[0] == '#' {
				heads += line
			}
		}
		return heads
	}
	for selector, want := range map[string]string{
		`m`:           "# m counter \"A counter\" conflict\n",
		`m{i=~"0|1"}`: "# m counter \"A counter\" conflict\n", // a draw
		`m{i=~"0|3"}`: "# m gauge \"A gauge\"\n",
		`m{i="0"}`:    "# m gauge \"A gauge\"\n",
		`m{i="3"}`:    "# m unknown \"A unknown\"\n",
	} {
		if got := heads(selector); got != want {
			t.Errorf("%s: got %q, want %q", selector, got, want)
		}
	}
}

func TestSiteLabel(t *testing.T) {
	contested := func(f *fixture) {
		f.apply("a", &series.Row{Source: source("1", "job", "j", "site", "mine"), Schema: f.schema("m", `m{exported_site="x"}`), T: now, Values: []float64{1, 2}})
		f.apply("a", &series.Row{Source: source("2", "job", "k"), Schema: f.schema("m", `m{site="theirs"}`), T: now, Values: []float64{3, 4}})
	}
	t.Run("export", func(t *testing.T) {
		f := newFixture(t, nil)
		contested(f)
		f.want("m", `
# m unknown
m{exported_exported_site="mine", exported_site="x", job="j", site="a"} 2 +0
m{exported_site="mine", job="j", site="a"} 1 +0
m{exported_site="theirs", job="k", site="a"} 4 +0
m{job="k", site="a"} 3 +0
`)
		f.want(`m{exported_site="mine"}`, "# m unknown\nm{exported_site=\"mine\", job=\"j\", site=\"a\"} 1 +0\n")
		f.want(`m{site="mine"}`, "")
		config := store.DefaultConfig()
		config.SiteLabel = "edge"
		if err := f.store.Reload(config); err != nil {
			t.Fatal(err)
		}
		f.want(`m{site=~".+"}`, `
# m unknown
m{edge="a", exported_site="x", job="j", site="mine"} 2 +0
m{edge="a", job="j", site="mine"} 1 +0
m{edge="a", job="k", site="theirs"} 4 +0
`)
	})
	t.Run("drop", func(t *testing.T) {
		f := newFixture(t, func(o *store.Options) { o.Config.OnConflict = store.Drop })
		contested(f)
		f.want("m", "# m unknown\nm{job=\"k\", site=\"a\"} 3 +0\n")
		if got := testutil.ToFloat64(metric(t, f.store, "thalweg_store_dropped_series_total")); got != 3 {
			t.Errorf("%v series dropped, want 3", got)
		}
	})
	t.Run("reject", func(t *testing.T) {
		f := newFixture(t, func(o *store.Options) { o.Config.OnConflict = store.Reject })
		f.refused(store.ReasonSite, "a", &series.Row{Source: source("1", "site", "mine"), Schema: f.schema("m"), T: now, Values: []float64{1}})
		f.refused(store.ReasonSite, "a", &series.Row{Source: source("2"), Schema: f.schema("m", `m{site="theirs"}`), T: now, Values: []float64{1, 2}})
		f.want(`{site="a"}`, "")
	})
	t.Run("none", func(t *testing.T) {
		f := newFixture(t, func(o *store.Options) { o.Config.SiteLabel = "" })
		f.apply("a", &series.Row{Source: source("1", "site", "mine"), Schema: f.schema("m"), T: now, Values: []float64{1}})
		f.want("m", "# m unknown\nm{site=\"mine\"} 1 +0\n")
	})
}

func TestIdenticalSeriesAppearOnce(t *testing.T) {
	f := newFixture(t, nil)
	f.apply("a", &series.Row{Source: source("1", "job", "j"), Schema: f.schema("m"), T: now - 5, Values: []float64{1}})
	f.apply("a", &series.Row{Source: source("2", "job", "j"), Schema: f.schema("m"), T: now - 3, Values: []float64{2}})
	f.apply("a", &series.Row{Source: source("3"), Schema: f.schema(`m{job="j"}`, "n"), T: now - 4, Values: []float64{3, 4}})
	f.want(`{site="a"}`, "# m unknown\nm{job=\"j\", site=\"a\"} 2 -3\n# n unknown\nn{site=\"a\"} 4 -4\n")
}

// The same when the other one comes while they are read.
func TestIdenticalSeriesThatComeLaterAppearOnce(t *testing.T) {
	f := newFixture(t, nil)
	f.apply("a", &series.Row{Source: source("1"), Schema: f.schema("m", `n{pod="x"}`), T: now - 5, Values: []float64{1, 2}})
	var got []string
	for family := range f.store.Select(store.Query{Matchers: selectors(t, `{site="a"}`), Now: now}) {
		for r := range family.Series() {
			got = append(got, fmt.Sprint(r.Name(), r.AppendLabels(nil), " ", r.V))
		}
		if family.Name == "m" {
			f.apply("a", &series.Row{Source: source("2", "pod", "x"), Schema: f.schema("n", "o"), T: now, Values: []float64{3, 4}})
		}
	}
	if want := []string{`m[{site a}] 1`, `n[{pod x} {site a}] 3`}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A series whose start is not told any more, as after an upgrade of its target, does not keep the one of before.
func TestStartIsOfTheLastWholeRow(t *testing.T) {
	f := newFixture(t, nil)
	s := source("a")
	schema := f.schema("a_total", "b_total")
	want := func(what string, want string) {
		t.Helper()
		got := ""
		for family := range f.store.Select(store.Query{Matchers: selectors(t, `{__name__!=""}`), Now: now}) {
			for r := range family.Series() {
				got += fmt.Sprintf("%s %d ", r.Name(), r.Start)
			}
		}
		if got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	f.apply("ams-1", &series.Row{
		Source: s, Schema: schema, T: now - 2000, Values: []float64{1, 2}, Starts: []series.StartAt{{Column: 0, Ms: 7}, {Column: 1, Ms: 8}},
	})
	want("both have one", "a_total 7 b_total 8 ")
	f.apply("ams-1", &series.Row{
		Source: s, Schema: schema, T: now - 1000, Columns: []uint32{1}, Values: []float64{3},
	})
	want("a partial row says nothing of it", "a_total 7 b_total 8 ")
	f.apply("ams-1", &series.Row{
		Source: s, Schema: schema, T: now, Values: []float64{1, 2}, Starts: []series.StartAt{{Column: 1, Ms: 9}},
	})
	want("a whole row tells of one", "a_total 0 b_total 9 ")
}
