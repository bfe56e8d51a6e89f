package store_test

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/store"
)

func TestLimits(t *testing.T) {
	limits := store.Limits{Series: 5, Sources: 2}
	f := newFixture(t, func(o *store.Options) {
		o.Limits = func(site string) store.Limits {
			if site == "free" {
				return store.Limits{}
			}
			return limits
		}
	})
	row := func(key string, n int) *series.Row {
		texts := make([]string, n)
		for i := range texts {
			texts[i] = fmt.Sprint("m", i)
		}
		return &series.Row{Source: source(key, "key", key), Schema: f.schema(texts...), T: now, Values: make([]float64, n)}
	}
	f.apply("a", row("1", 3))
	f.refused(store.ReasonSeries, "a", row("2", 3))
	f.apply("a", row("2", 2))
	f.refused(store.ReasonSeries, "a", row("1", 4))
	f.refused(store.ReasonSources, "a", row("3", 0))
	f.apply("free", row("1", 30))
	f.apply("a", &series.Row{Source: source("1"), T: now, End: true})
	f.apply("a", row("3", 3)) // takes the place of what has ended
	f.want(`m0{site="a"}`, "# m0 unknown\nm0{key=\"2\", site=\"a\"} 0 +0\nm0{key=\"3\", site=\"a\"} 0 +0\n")
	limits.Series = 3 // whoever has more may stay as it is, or shrink
	f.apply("a", row("3", 2))
	f.refused(store.ReasonSeries, "a", row("3", 3))
}

// A site that flips between schemas pays with its own rows, not with everybody's time.
func TestChurnIsBounded(t *testing.T) {
	f := newFixture(t, func(o *store.Options) {
		o.Limits = func(string) store.Limits { return store.Limits{Series: 10} }
	})
	src := source("s")
	row := func(texts ...string) *series.Row {
		return &series.Row{Source: src, Schema: f.schema(texts...), T: now, Values: make([]float64, len(texts))}
	}
	flip, flop := row("a", "b", "c", "d", "e"), row("f", "g", "h", "i", "j")
	for range 4 {
		f.apply("a", flip)
		f.apply("a", flop)
	}
	f.refused(store.ReasonChurn, "a", flip)
	f.apply("a", flop)
	f.apply("b", flip)
	if err := f.store.Apply("a", store.Rank{Epoch: 9}, flip, now+time.Minute.Milliseconds()); err != nil {
		t.Errorf("a minute later: %v", err)
	}
}

func TestBadRowsHarmNothing(t *testing.T) {
	f := newFixture(t, nil)
	good := &series.Row{Source: source("s"), Schema: f.schema("m", "n"), T: now, Values: []float64{1, 2}}
	f.apply("a", good)
	h := &histogram.Histogram{}
	for name, change := range map[string]func(*series.Row){
		"values":           func(r *series.Row) { r.Values = r.Values[:1] },
		"bitmap":           func(r *series.Row) { r.Present = []uint64{} },
		"columns":          func(r *series.Row) { r.Columns = []uint32{0} },
		"column":           func(r *series.Row) { r.Columns = []uint32{0, 2} },
		"histogram":        func(r *series.Row) { r.Histograms = []series.HistogramAt{{Column: 2, H: h}} },
		"histogram kind":   func(r *series.Row) { r.Histograms = []series.HistogramAt{{Column: 1, H: h}} },
		"exemplar":         func(r *series.Row) { r.Exemplars = []series.ExemplarAt{{Column: 2}} },
		"start":            func(r *series.Row) { r.Starts = []series.StartAt{{Column: 2}} },
		"source's name":    func(r *series.Row) { r.Source = source("t", "__name__", "m") },
		"source's label":   func(r *series.Row) { r.Source = source("t", "job", "\xff") },
		"source's classes": func(r *series.Row) { r.Source = source("t", "a", "1", "a", "2") },
	} {
		t.Run(name, func(t *testing.T) {
			bad := *good
			change(&bad)
			g := *f
			g.T = t
			g.refused(store.ReasonInvalid, "a", &bad)
		})
	}
	f.want(`{site="a"}`, "# m unknown\nm{site=\"a\"} 1 +0\n# n unknown\nn{site=\"a\"} 2 +0\n")
}

// Series that a reader would choke on are not served; those beside them are.
func TestUnfitSeriesAreHidden(t *testing.T) {
	f := newFixture(t, nil)
	cs := columns(t, "m", `{job="nameless"}`, "m", "n")
	builder := labels.NewScratchBuilder(3)
	for _, l := range [][2]string{{"__name__", "o"}, {"b", "1"}, {"a", "2"}} {
		builder.Add(l[0], l[1])
	}
	cs = append(cs, series.Column{Labels: builder.Labels()}, series.Column{Labels: labels.FromStrings("__name__", "p", "a", "\xff")})
	f.apply("a", &series.Row{Source: source("s"), Schema: f.catalog.Extend(f.catalog.Empty(), cs), T: now, Values: []float64{1, 2, 3, 4, 5, 6}})
	f.want(`{site="a"}`, "# m unknown\nm{site=\"a\"} 1 +0\n# n unknown\nn{site=\"a\"} 4 +0\n")
	if got := testutil.ToFloat64(metric(t, f.store, "thalweg_store_hidden_series_total")); got != 4 {
		t.Errorf("%v series hidden, want 4", got)
	}
}

func TestExtras(t *testing.T) {
	f := newFixture(t, nil)
	cs := columns(t, "c", "native", "custom")
	cs[1].Kind, cs[2].Kind = series.Histogram, series.GaugeHistogram
	native := &histogram.Histogram{Schema: 1, Count: 3, Sum: 4, PositiveSpans: []histogram.Span{{Length: 2}}, PositiveBuckets: []int64{1, 1}}
	custom := &histogram.FloatHistogram{
		Schema: histogram.CustomBucketsSchema, Count: 2, Sum: 5,
		PositiveSpans: []histogram.Span{{Length: 1}}, PositiveBuckets: []float64{2}, CustomValues: []float64{1, 2},
	}
	row := &series.Row{
		Source: source("s"), Schema: f.catalog.Extend(f.catalog.Empty(), cs), T: now, Values: []float64{1, 0, 0},
		Histograms: []series.HistogramAt{{Column: 1, H: native}, {Column: 2, FH: custom}},
		Exemplars:  []series.ExemplarAt{{Column: 0, Exemplar: exemplar.Exemplar{Labels: labels.FromStrings("trace", "1"), Value: 7}}},
		Starts:     []series.StartAt{{Column: 0, Ms: 77}},
	}
	f.apply("a", row)
	custom.CustomValues[0], native.PositiveBuckets[0] = 99, 99 // the store has copies

	read := func(native bool) map[string]*store.Series {
		got := map[string]*store.Series{}
		for family := range f.store.Select(store.Query{Matchers: selectors(t, `{site="a"}`), Now: now, Native: native}) {
			for r := range family.Series() {
				copied := *r
				got[r.Name()] = &copied
			}
		}
		return got
	}
	got := read(true)
	c := got["c"]
	if e := c.Exemplar(); c.Start != 77 || e == nil || e.Value != 7 || e.Labels.Get("trace") != "1" {
		t.Errorf("c has start %d and exemplar %v", c.Start, e)
	}
	if h, fh := got["native"].Histogram(); fh != nil || h == nil || h.Count != 3 || h.PositiveBuckets[0] != 1 {
		t.Errorf("native is %v", h)
	}
	if h, fh := got["custom"].Histogram(); h != nil || fh == nil || fh.Sum != 5 || fh.CustomValues[0] != 1 {
		t.Errorf("custom is %v", fh)
	}
	if got = read(false); len(got) != 2 || got["custom"] == nil {
		t.Errorf("without native histograms: %v", got)
	}

	row.Exemplars = nil // the last ones stay until others come
	row.Histograms[0].H.Sum = stale
	f.apply("a", row)
	if got = read(true); got["c"].Start != 77 || got["c"].Exemplar() == nil || got["native"] != nil {
		t.Errorf("after the next row: %v", got)
	}
	row.Present, row.Histograms, row.Starts = []uint64{0}, nil, nil
	f.apply("a", row)
	row.Present = []uint64{1}
	f.apply("a", row)
	if got = read(true); len(got) != 1 || got["c"].Start != 0 || got["c"].Exemplar() != nil {
		t.Errorf("after a gap: %v", got)
	}
}

func TestExpire(t *testing.T) {
	f := newFixture(t, nil)
	minutes := func(n int64) int64 { return n * time.Minute.Milliseconds() }
	slow := source("slow")
	slow.Interval = time.Hour
	for _, src := range []*series.Source{source("fast"), slow} {
		f.apply("a", &series.Row{Source: src, Schema: f.schema("m", src.Key), T: now, Values: []float64{1, 2}})
	}
	keys := func() (keys string) {
		for _, s := range f.store.Sources("a") {
			keys += s.Key + " "
		}
		return keys
	}
	f.want("fast", "# fast unknown\nfast{site=\"a\"} 2 +0\n")
	f.store.Expire(now + minutes(5))
	if got := keys(); got != "fast slow " {
		t.Errorf("after the lookback: %q", got)
	}
	f.store.Expire(now + minutes(5) + 1)
	if got := keys(); got != "slow " {
		t.Errorf("later: %q", got)
	}
	f.want("fast", "")
	f.store.Expire(now + minutes(180) + 1)
	if got := f.store.Sites(); len(got) != 1 || got[0].Sources != 0 || got[0].LastRow != now {
		t.Errorf("after three intervals: %v", got)
	}
	if got := testutil.ToFloat64(metric(t, f.store, "thalweg_store_schemas")); got != 0 {
		t.Errorf("%v schemas are left", got)
	}
	f.store.Expire(now + minutes(24*60) + 1)
	if got := f.store.Sites(); len(got) != 0 {
		t.Errorf("after a day: %v", got)
	}
}

// Sources whose schemas grow together share one index; a schema that comes and goes leaves nothing behind.
func TestSchemasAreShared(t *testing.T) {
	f := newFixture(t, nil)
	schemas := func() float64 { return testutil.ToFloat64(metric(t, f.store, "thalweg_store_schemas")) }
	a, b := source("a", "i", "a"), source("b", "i", "b")
	one := f.schema("m")
	two := f.catalog.Extend(one, columns(t, "n"))
	f.apply("x", &series.Row{Source: a, Schema: one, T: now, Values: []float64{1}})
	f.apply("y", &series.Row{Source: b, Schema: one, T: now, Values: []float64{2}})
	f.apply("x", &series.Row{Source: a, Schema: two, T: now, Values: []float64{3, 4}})
	if got := schemas(); got != 1 {
		t.Errorf("%v schemas, want 1", got)
	}
	f.want(`{i=~".+"}`, `
# m unknown
m{i="a", site="x"} 3 +0
m{i="b", site="y"} 2 +0
# n unknown
n{i="a", site="x"} 4 +0
`)
	// Half way, the other one is still within what the index covers.
	f.apply("x", &series.Row{Source: a, Schema: f.catalog.Extend(two, columns(t, "o")), T: now, Values: []float64{3, 4, 5}})
	f.apply("y", &series.Row{Source: b, Schema: two, T: now, Values: []float64{6, 7}})
	if got := schemas(); got != 1 {
		t.Errorf("%v schemas later, want 1", got)
	}
	f.want(`{i="b"}`, "# m unknown\nm{i=\"b\", site=\"y\"} 6 +0\n# n unknown\nn{i=\"b\", site=\"y\"} 7 +0\n")
	for i := range 300 {
		texts := make([]string, 1000)
		for j := range texts {
			texts[j] = fmt.Sprintf("m%d_%d", i, j)
		}
		f.apply("x", &series.Row{Source: a, Schema: f.schema(texts...), T: now, Values: make([]float64, len(texts))})
	}
	if got := schemas(); got > 70 {
		t.Errorf("%v schemas after 300 that came and went", got)
	}
}

func TestApplyDoesNotAllocate(t *testing.T) {
	f := newFixture(t, nil)
	cs := columns(t, "m", "n", "h")
	cs[2].Kind = series.Histogram
	h := &histogram.Histogram{Schema: 1, Count: 3, PositiveSpans: []histogram.Span{{Length: 2}}, PositiveBuckets: []int64{1, 1}}
	schema := f.catalog.Extend(f.catalog.Empty(), cs)
	whole := &series.Row{
		Source: source("w", "i", "w"), Schema: schema, T: now, Values: []float64{1, 2, 0}, Present: []uint64{0b101},
		Histograms: []series.HistogramAt{{Column: 2, H: h}},
		Exemplars:  []series.ExemplarAt{{Column: 0, Exemplar: exemplar.Exemplar{Labels: labels.FromStrings("trace", "1")}}},
		Starts:     []series.StartAt{{Column: 0, Ms: 1}},
	}
	partial := &series.Row{
		Source: source("p", "i", "p"), Schema: schema, T: now, Columns: []uint32{1, 2}, Values: []float64{1, 0},
		Histograms: []series.HistogramAt{{Column: 2, H: h}},
	}
	for _, row := range []*series.Row{whole, partial} {
		f.apply("a", row)
		if n := testing.AllocsPerRun(100, func() { f.apply("a", row) }); n != 0 {
			t.Errorf("%v allocations for a row of %s", n, row.Source.Key)
		}
	}
}

// One writer and several readers; a histogram is never torn between two rows.
func TestReadersSeeWholeHistograms(t *testing.T) {
	f := newFixture(t, nil)
	cs := columns(t, `h_bucket{le="1.0"}`, `h_bucket{le="+Inf"}`, "h_sum", "h_count")
	for i := range cs {
		cs[i].Family = series.Family{Name: "h", Type: model.MetricTypeHistogram}
	}
	schema := f.catalog.Extend(f.catalog.Empty(), cs)
	var sources []*series.Source
	for i := range 400 {
		sources = append(sources, source(fmt.Sprint(i), "i", fmt.Sprint(i)))
	}
	round := func(v float64) {
		for _, src := range sources {
			f.apply("a", &series.Row{Source: src, Schema: schema, T: now, Values: []float64{v, v, v, v}})
		}
	}
	round(0)
	query := store.Query{Matchers: selectors(t, "{__name__=~'h.*'}"), Now: now}
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				n, sum, first := 0, 0.0, 0.0
				for family := range f.store.Select(query) {
					if family.Name != "h" {
						continue
					}
					for r := range family.Series() {
						if n%4 == 0 {
							first = r.V
						}
						if r.V != first {
							t.Errorf("series %d: %v beside %v", n, r.V, first)
						}
						n, sum = n+1, sum+r.V
					}
				}
				if n != 4*len(sources) {
					t.Errorf("%d series, sum %v", n, sum)
				}
			}
		})
	}
	for v := range 20 {
		round(float64(v))
		for i := range 20 { // families come and go beside the one that is read
			f.apply("b", &series.Row{Source: source("b"), Schema: f.schema(fmt.Sprintf("hx%d_%d", v, i), "x"), T: now, Values: []float64{1, 1}})
			f.apply("b", &series.Row{Source: source("b"), T: now, End: true})
		}
		f.store.Expire(now)
	}
	close(done)
	readers.Wait()
}

// Chunks are whole sources and have one kind behind the other, whatever the order of the columns.
func TestChunks(t *testing.T) {
	const sources = 3000
	check := func(kinds []series.Kind, severalChunks bool, want map[series.Kind]int) {
		t.Helper()
		f := newFixture(t, nil)
		cs := columns(t, `m{a="0"}`, "m", `m{a="1"}`, `m{a="2"}`, `m{a="3"}`)
		row := series.Row{T: now, Values: make([]float64, len(cs))}
		for i, k := range kinds {
			if cs[i].Kind = k; k == series.Float {
				cs[i].Family = series.Family{Name: "m", Type: model.MetricTypeHistogram}
			} else {
				row.Histograms = append(row.Histograms, series.HistogramAt{Column: uint32(i), H: &histogram.Histogram{Schema: 1, Count: 3}})
			}
		}
		row.Schema = f.catalog.Extend(f.catalog.Empty(), cs)
		for i := range sources {
			row.Source = source(fmt.Sprint(i), "instance", fmt.Sprint(i))
			f.apply("ams-1", &row)
		}
		chunks, order, counts := 0, []series.Kind(nil), map[series.Kind]int{}
		for family := range f.store.Select(store.Query{Matchers: selectors(t, "m"), Now: now, Native: true}) {
			if family.Type != model.MetricTypeHistogram {
				t.Errorf("type is %s", family.Type)
			}
			for chunk := range family.Chunks() {
				chunks++
				for i := range chunk {
					k := chunk[i].Kind()
					if counts[k]++; !slices.Contains(order, k) {
						order = append(order, k)
					} else if order[len(order)-1] != k {
						t.Fatalf("%s comes behind %s", k, order[len(order)-1])
					}
				}
				if counts[series.Float]*sources%want[series.Float] != 0 {
					t.Error("the floats of a source are in two chunks")
				}
			}
		}
		if !slices.IsSorted(order) || !maps.Equal(counts, want) || (chunks > 1) != severalChunks {
			t.Errorf("%d chunks with %v in the order %v", chunks, counts, order)
		}
	}
	const f, h, g = series.Float, series.Histogram, series.GaugeHistogram
	check([]series.Kind{h, f, h, f, f}, true, map[series.Kind]int{f: 3 * sources, h: 2 * sources})
	check([]series.Kind{g, h, f, h, f}, false, map[series.Kind]int{f: 2 * sources, h: 2 * sources, g: sources})
}

// What a source has of a family may come in several chunks, unless it has buckets.
func TestLargeSourcesAreDivided(t *testing.T) {
	const n = 5000
	check := func(typ model.MetricType, want int) {
		t.Helper()
		f := newFixture(t, nil)
		var texts []string
		for i := range n {
			texts = append(texts, fmt.Sprintf("m{i=%q}", fmt.Sprint(i)))
		}
		cs := columns(t, texts...)
		for i := range cs {
			cs[i].Family = series.Family{Name: "m", Type: typ}
		}
		schema := f.catalog.Extend(f.catalog.Empty(), cs)
		f.apply("ams-1", &series.Row{Source: source("a", "instance", "a"), Schema: schema, T: now, Values: make([]float64, n)})
		f.apply("ams-1", &series.Row{Source: source("b", "instance", "b"), Schema: schema, T: now, Values: make([]float64, n)})
		largest, seen := 0, map[string]bool{}
		for family := range f.store.Select(store.Query{Matchers: selectors(t, "m"), Now: now}) {
			for chunk := range family.Chunks() {
				largest = max(largest, len(chunk))
				for i := range chunk {
					seen[chunk[i].Label("instance")+chunk[i].Label("i")] = true
				}
			}
		}
		if largest != want || len(seen) != 2*n {
			t.Errorf("%s: %d series in chunks of up to %d, want %d in %d", typ, len(seen), largest, 2*n, want)
		}
	}
	check(model.MetricTypeGauge, 1024)
	check(model.MetricTypeHistogram, n)
}
