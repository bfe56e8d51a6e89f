package pipeline

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"

	"github.com/thalweg/thalweg/internal/series"
)

func rule(t testing.TB, action relabel.Action, change func(*relabel.Config)) *relabel.Config {
	t.Helper()
	r := relabel.DefaultRelabelConfig
	r.Action = action
	change(&r)
	if err := r.Validate(model.UTF8Validation); err != nil {
		t.Fatal(err)
	}
	return &r
}

func newPipeline(t testing.TB, o Options, match ...string) *Pipeline {
	t.Helper()
	sets, err := ParseMatch(match)
	if err != nil {
		t.Fatal(err)
	}
	o.Match = append(o.Match, sets)
	if o.Catalog == nil {
		o.Catalog = series.NewCatalog()
	}
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// clone keeps a row beyond its sink.
func clone(r *series.Row) *series.Row {
	c := *r
	c.Columns = append([]uint32(nil), r.Columns...)
	if r.Whole() {
		c.Columns = nil
	}
	c.Values = append([]float64(nil), r.Values...)
	if r.Present != nil {
		c.Present = append([]uint64{}, r.Present...)
	}
	c.Histograms = append([]series.HistogramAt(nil), r.Histograms...)
	c.Exemplars = append([]series.ExemplarAt(nil), r.Exemplars...)
	c.Starts = append([]series.StartAt(nil), r.Starts...)
	return &c
}

func apply(t testing.TB, p *Pipeline, r *series.Row) *series.Row {
	t.Helper()
	var out *series.Row
	if err := p.Apply(r, r.T, func(r *series.Row) error { out = clone(r); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

func column(ss ...string) series.Column { return series.Column{Labels: labels.FromStrings(ss...)} }

func TestUntouched(t *testing.T) {
	c := series.NewCatalog()
	p := newPipeline(t, Options{Catalog: c, Relabel: []*relabel.Config{
		rule(t, relabel.Drop, func(r *relabel.Config) {
			r.SourceLabels, r.Regex = model.LabelNames{"__name__"}, relabel.MustNewRegexp("x.*")
		}),
	}}, "a", `{job="node"}`)
	source := &series.Source{Key: "s", Labels: labels.FromStrings("job", "node")}
	schema := c.Extend(c.Empty(), []series.Column{column("__name__", "a"), column("__name__", "b")})
	row := &series.Row{Source: source, Schema: schema, T: 5, Values: []float64{1, 2}}
	var got *series.Row
	if err := p.Apply(row, row.T, func(r *series.Row) error { got = r; return nil }); err != nil || got != row {
		t.Errorf("a row of which everything passes was not handed on as it is: %v", err)
	}
	// It stays so while the schema grows, until a column is dropped.
	row.Schema = c.Extend(schema, []series.Column{column("__name__", "xx"), column("__name__", "c")})
	row.Values = []float64{1, 2, 3, 4}
	out := apply(t, p, row)
	if !out.Schema.Extends(schema) || !reflect.DeepEqual(out.Values, []float64{1, 2, 4}) || out.Source != source {
		t.Errorf("grown: %v %v", out.Schema.Columns(), out.Values)
	}
	if n := testutil.ToFloat64(p.metrics.dropped.WithLabelValues("relabel")); n != 1 {
		t.Errorf("%v series counted as dropped, want 1", n)
	}
}

// Whoever has many pipelines counts for all of them.
func TestOnDrop(t *testing.T) {
	c := series.NewCatalog()
	dropped := map[Reason]int{}
	count := func(r Reason) { dropped[r]++ }
	schema := c.Extend(c.Empty(), []series.Column{column("__name__", "a"), column("__name__", "b"), column("__name__", "c")})
	row := &series.Row{Source: &series.Source{Key: "s"}, Schema: schema, T: 5, Values: []float64{1, 2, 3}}
	for range 2 {
		p := newPipeline(t, Options{Catalog: c, OnDrop: count}, "a")
		apply(t, p, row)
		apply(t, p, row)
	}
	if len(dropped) != 1 || dropped[NoMatch] != 4 {
		t.Errorf("dropped %v, want 2 series by each pipeline", dropped)
	}
}

func TestVerdict(t *testing.T) {
	o := Options{
		Always:         AlwaysPass("thalweg"),
		ExternalLabels: labels.FromStrings("site", "ams-1", "region", "eu"),
		Relabel: []*relabel.Config{
			rule(t, relabel.Drop, func(r *relabel.Config) {
				r.SourceLabels, r.Regex = model.LabelNames{"secret"}, relabel.MustNewRegexp(".+")
			}),
			rule(t, relabel.Replace, func(r *relabel.Config) {
				r.SourceLabels, r.Regex = model.LabelNames{"region"}, relabel.MustNewRegexp("moon")
				r.TargetLabel, r.Replacement = "__name__", ""
			}),
		},
	}
	p := newPipeline(t, o, "node_load1", `{job="db"}`)
	f := func(reason Reason, want string, in ...string) {
		t.Helper()
		got, why := p.Verdict(labels.FromStrings(in...))
		if why != reason || reason == Pass && got.String() != want {
			t.Errorf("%v: %q %s, want %q %s", in, why, got, reason, want)
		}
	}
	f(Pass, `{__name__="node_load1", region="eu", site="ams-1"}`, "__name__", "node_load1")
	f(Pass, `{__name__="x", job="db", region="us", site="ams-1"}`, "__name__", "x", "job", "db", "region", "us")
	f(NoMatch, "", "__name__", "node_load5")
	f(Pass, `{__name__="up", region="eu", site="ams-1"}`, "__name__", "up")
	f(Pass, `{__name__="scrape_duration_seconds", region="eu", site="ams-1"}`, "__name__", "scrape_duration_seconds")
	f(NoMatch, "", "__name__", "uptime")
	f(Pass, `{__name__="y", job="thalweg", region="eu", site="ams-1"}`, "__name__", "y", "job", "thalweg")
	f(ByRelabeling, "", "__name__", "node_load1", "secret", "1")
	f(NoName, "", "__name__", "node_load1", "region", "moon")
}

func TestCollisionsAndRenames(t *testing.T) {
	c := series.NewCatalog()
	p := newPipeline(t, Options{Catalog: c, Relabel: []*relabel.Config{
		rule(t, relabel.LabelDrop, func(r *relabel.Config) { r.Regex = relabel.MustNewRegexp("core|job") }),
		rule(t, relabel.Replace, func(r *relabel.Config) {
			r.SourceLabels, r.Regex = model.LabelNames{"__name__"}, relabel.MustNewRegexp("old")
			r.TargetLabel, r.Replacement = "__name__", "new"
		}),
	}})
	source := &series.Source{Key: "s", Labels: labels.FromStrings("job", "node", "instance", "i")}
	family := series.Family{Name: "old", Type: model.MetricTypeGauge}
	schema := c.Extend(c.Empty(), []series.Column{
		column("__name__", "cpu", "core", "0"), column("__name__", "cpu", "core", "1"),
		{Labels: labels.FromStrings("__name__", "old"), Family: family},
	})
	// The collision is with a column of an earlier schema, too.
	for range 2 {
		out := apply(t, p, &series.Row{Source: source, Schema: schema, Values: []float64{1, 2, 3, 4}[:schema.Len()]})
		if !reflect.DeepEqual(out.Values, []float64{1, 3}) {
			t.Fatalf("values %v", out.Values)
		}
		var b labels.Builder
		got := fmt.Sprint(out.Source.SeriesLabels(&b, out.Schema.Column(0)), out.Source.SeriesLabels(&b, out.Schema.Column(1)))
		if want := `{__name__="cpu", instance="i"} {__name__="new", instance="i"}`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if f := out.Schema.Column(1).Family; f != (series.Family{}) {
			t.Errorf("renamed series kept family %v", f)
		}
		schema = c.Extend(schema, []series.Column{column("__name__", "cpu", "core", "2")})
	}
	if n := testutil.ToFloat64(p.metrics.dropped.WithLabelValues("collision")); n != 2 {
		t.Errorf("%v collisions counted, want 2", n)
	}
}

func TestSharedSchema(t *testing.T) {
	c := series.NewCatalog()
	p := newPipeline(t, Options{Catalog: c, ExternalLabels: labels.FromStrings("site", "x")}, "a")
	schema := c.Extend(c.Empty(), []series.Column{column("__name__", "a"), column("__name__", "b")})
	var outs []*series.Row
	for i := range 2 {
		s := &series.Source{Key: fmt.Sprint(i), Labels: labels.FromStrings("instance", fmt.Sprint(i))}
		outs = append(outs, apply(t, p, &series.Row{Source: s, Schema: schema, Values: []float64{1, 2}}))
		again := apply(t, p, &series.Row{Source: s, Schema: schema, Values: []float64{1, 2}})
		if again.Source != outs[i].Source || again.Source.Labels.Get("site") != "x" {
			t.Errorf("source %d is not stable or lacks the external label: %v", i, again.Source)
		}
	}
	if outs[0].Schema != outs[1].Schema || outs[0].Schema.Len() != 1 {
		t.Error("two sources with the same series do not share the schema")
	}
}

func TestNothingLeft(t *testing.T) {
	c := series.NewCatalog()
	p := newPipeline(t, Options{Catalog: c}, "nothing")
	s := &series.Source{Key: "s"}
	schema := c.Extend(c.Empty(), []series.Column{column("__name__", "a")})
	for _, r := range []*series.Row{
		{Source: s, Schema: schema, Values: []float64{1}},
		{Source: s, Schema: schema, Columns: []uint32{0}, Values: []float64{1}},
		{Source: s, Schema: schema, End: true},
	} {
		if out := apply(t, p, r); out != nil {
			t.Errorf("row %+v left %+v", r, out)
		}
	}
}

func TestSourcesAreForgotten(t *testing.T) {
	c := series.NewCatalog()
	p := newPipeline(t, Options{Catalog: c, MaxSources: 3}, "a")
	schema := c.Extend(c.Empty(), []series.Column{column("__name__", "a")})
	row := func(key string, at time.Duration, end bool) error {
		r := &series.Row{Source: &series.Source{Key: key}, Schema: schema, T: at.Milliseconds(), Values: []float64{1}}
		if r.End = end; end {
			r.Values = nil
		}
		seen := false
		err := p.Apply(r, r.T, func(out *series.Row) error {
			seen = out.End == end
			return nil
		})
		if err == nil && !seen {
			t.Errorf("source %s: row was lost", key)
		}
		return err
	}
	taken := func(key string, at time.Duration, end bool) {
		t.Helper()
		if err := row(key, at, end); err != nil {
			t.Error(err)
		}
	}
	forgotten := func(ended, silent float64) {
		t.Helper()
		for reason, want := range map[string]float64{"ended": ended, "silent": silent} {
			if got := testutil.ToFloat64(p.metrics.forgotten.WithLabelValues(reason)); got != want {
				t.Errorf("%v sources forgotten as %s, want %v", got, reason, want)
			}
		}
	}
	taken("a", 0, false)
	taken("a", 0, true)
	forgotten(1, 0)
	taken("b", 0, false)
	taken("c", minSilence+time.Minute, false)
	forgotten(1, 1)
	taken("d", minSilence+time.Minute, false)
	taken("e", minSilence+time.Minute, false)
	// There is no room for one more before another one ends, or falls silent.
	err := row("f", minSilence+time.Minute, false)
	if refused, ok := errors.AsType[*RefusedError](err); !ok || refused.Reason != OverSources || refused.Source != "f" {
		t.Errorf("fourth source: %v", err)
	}
	if n := testutil.ToFloat64(p.metrics.refusedRows.WithLabelValues("sources")); n != 1 {
		t.Errorf("%v rows counted as refused, want 1", n)
	}
	taken("e", minSilence+time.Minute, true)
	taken("f", minSilence+time.Minute, false)
	taken("g", 3*minSilence, false)
	forgotten(2, 4)
	if n := p.len(); n != 1 {
		t.Errorf("%d sources are kept, want 1", n)
	}
}

// TestOracle compares mapped rows with what a plain loop makes of maps of labels.
func TestOracle(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		c := series.NewCatalog()
		o := randomOptions(t, rnd, c)
		p := newPipeline(t, o)
		source := &series.Source{Key: "s", Labels: labels.FromStrings("job", "j", "instance", pick(rnd, "i", "k"))}
		schema := c.Empty()
		for step := range 6 {
			if step == 4 {
				schema = c.Empty() // compacted
			}
			schema = c.Extend(schema, randomColumns(rnd, source, schema))
			r := randomRow(rnd, source, schema)
			want := oracle(r, o)
			got := map[string]string{}
			if out := apply(t, p, r); out != nil {
				if out.T != r.T {
					t.Fatalf("seed %d: time %d became %d", seed, r.T, out.T)
				}
				got = contents(out)
			}
			if !maps.Equal(got, want) {
				t.Fatalf("seed %d step %d:\n got %v\nwant %v", seed, step, got, want)
			}
		}
	}
}

func pick[T any](rnd *rand.Rand, of ...T) T { return of[rnd.IntN(len(of))] }

func randomOptions(t *testing.T, rnd *rand.Rand, c *series.Catalog) Options {
	o := Options{Catalog: c}
	if rnd.IntN(2) == 0 {
		for range 1 + rnd.IntN(2) {
			s, err := ParseMatch([]string{pick(rnd, `a`, `{x="1"}`, `{job="j",x!="1"}`), pick(rnd, `b`, `{y=""}`)})
			if err != nil {
				t.Fatal(err)
			}
			o.Match = append(o.Match, s)
		}
	}
	if rnd.IntN(2) == 0 {
		o.ExternalLabels = labels.FromStrings("site", "s", pick(rnd, "x", "y", "job", "z"), "e")
	}
	for range rnd.IntN(3) {
		name := model.LabelName(pick(rnd, "__name__", "x", "y", "job"))
		switch rnd.IntN(4) {
		case 0:
			o.Relabel = append(o.Relabel, rule(t, relabel.LabelDrop, func(r *relabel.Config) {
				r.Regex = relabel.MustNewRegexp(pick(rnd, "x", "y", "job", "site"))
			}))
		case 1:
			o.Relabel = append(o.Relabel, rule(t, relabel.Drop, func(r *relabel.Config) {
				r.SourceLabels, r.Regex = model.LabelNames{name}, relabel.MustNewRegexp(pick(rnd, "a", "1", "zz"))
			}))
		default:
			o.Relabel = append(o.Relabel, rule(t, relabel.Replace, func(r *relabel.Config) {
				r.SourceLabels, r.Regex = model.LabelNames{name}, relabel.MustNewRegexp(pick(rnd, "(.)", "(a|1)"))
				r.TargetLabel, r.Replacement = pick(rnd, "x", "job", "new", "__name__"), pick(rnd, "$1", "", "c")
			}))
		}
	}
	return o
}

// randomColumns makes columns whose full labels are not in the schema yet.
func randomColumns(rnd *rand.Rand, source *series.Source, schema *series.Schema) []series.Column {
	b := labels.NewBuilder(labels.EmptyLabels())
	have := map[string]bool{}
	for i := range schema.Len() {
		have[source.SeriesLabels(b, schema.Column(i)).String()] = true
	}
	var columns []series.Column
	for range rnd.IntN(12) {
		sb := labels.NewScratchBuilder(4)
		sb.Add("__name__", pick(rnd, "a", "b", "c", "up"))
		if rnd.IntN(2) == 0 {
			sb.Add("x", pick(rnd, "1", "2"))
		}
		if rnd.IntN(3) == 0 {
			sb.Add("y", pick(rnd, "1", "2"))
		}
		if rnd.IntN(4) == 0 {
			sb.Add("job", pick(rnd, "", "other"))
		}
		sb.Sort()
		c := series.Column{Labels: sb.Labels(), Kind: pick(rnd, series.Float, series.Float, series.Histogram)}
		if full := source.SeriesLabels(b, &c).String(); !have[full] {
			have[full] = true
			columns = append(columns, c)
		}
	}
	return columns
}

func randomRow(rnd *rand.Rand, source *series.Source, schema *series.Schema) *series.Row {
	n := schema.Len()
	r := &series.Row{Source: source, Schema: schema, T: rnd.Int64N(1e9)}
	partial := rnd.IntN(3) == 0
	if !partial {
		r.Values = make([]float64, n)
		r.Present = series.Bitmap(nil, n)
	} else {
		r.Columns = []uint32{}
	}
	for i := range n {
		if rnd.IntN(4) == 0 {
			continue
		}
		v := math.Float64frombits(rnd.Uint64())
		c := uint32(i)
		if schema.Column(i).Kind == series.Histogram {
			v = 0
			r.Histograms = append(r.Histograms, series.HistogramAt{Column: c, H: &histogram.Histogram{Count: rnd.Uint64()}})
		}
		for range rnd.IntN(3) {
			r.Exemplars = append(r.Exemplars, series.ExemplarAt{Column: c, Exemplar: exemplar.Exemplar{Value: rnd.Float64()}})
		}
		if rnd.IntN(3) == 0 {
			r.Starts = append(r.Starts, series.StartAt{Column: c, Ms: rnd.Int64()})
		}
		if partial {
			r.Columns = append(r.Columns, c)
			r.Values = append(r.Values, v)
		} else {
			r.Values[i] = v
			series.SetBit(r.Present, i)
		}
	}
	return r
}

// contents maps the labels of each sample to everything the row says about it.
func contents(r *series.Row) map[string]string {
	m := map[string]string{}
	b := labels.NewBuilder(labels.EmptyLabels())
	for column, text := range samples(r) {
		m[r.Source.SeriesLabels(b, r.Schema.Column(int(column))).String()] = text
	}
	return m
}

func samples(r *series.Row) map[uint32]string {
	m := map[uint32]string{}
	for i, v := range r.Values {
		column := uint32(i)
		if !r.Whole() {
			column = r.Columns[i]
		} else if !r.Has(i) {
			continue
		}
		m[column] = fmt.Sprintf("%x", math.Float64bits(v))
	}
	for _, h := range r.Histograms {
		m[h.Column] += fmt.Sprintf(" h=%d", h.H.Count)
	}
	for _, e := range r.Exemplars {
		m[e.Column] += fmt.Sprintf(" e=%v", e.Exemplar.Value)
	}
	for _, s := range r.Starts {
		m[s.Column] += fmt.Sprintf(" s=%d", s.Ms)
	}
	return m
}

func oracle(r *series.Row, o Options) map[string]string {
	m := map[string]string{}
	taken := map[string]bool{}
	b := labels.NewBuilder(labels.EmptyLabels())
	all := samples(r)
	for i := range r.Schema.Len() {
		l := r.Source.SeriesLabels(b, r.Schema.Column(i))
		pass := true
		for _, selection := range o.Match {
			one := len(selection) == 0
			for _, set := range selection {
				ok := true
				for _, matcher := range set {
					ok = ok && matcher.Matches(l.Get(matcher.Name))
				}
				one = one || ok
			}
			pass = pass && one
		}
		if !pass {
			continue
		}
		withExternal := l.Map()
		for k, v := range o.ExternalLabels.Map() {
			if withExternal[k] == "" {
				withExternal[k] = v
			}
		}
		lb := labels.NewBuilder(labels.FromMap(withExternal))
		keep := relabel.ProcessBuilder(lb, o.Relabel...)
		l = lb.Labels()
		if !keep || l.Get("__name__") == "" || taken[l.String()] {
			continue
		}
		taken[l.String()] = true
		if text, ok := all[uint32(i)]; ok {
			m[l.String()] = text
		}
	}
	return m
}

func TestConcurrentSources(t *testing.T) {
	c := series.NewCatalog()
	p := newPipeline(t, Options{Catalog: c, ExternalLabels: labels.FromStrings("site", "s")}, "a")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			source := &series.Source{Key: fmt.Sprint(i % 6), Labels: labels.FromStrings("instance", fmt.Sprint(i))}
			schema := c.Empty()
			for n := range 50 {
				schema = c.Extend(schema, []series.Column{column("__name__", pick(rand.New(rand.NewPCG(uint64(n), 0)), "a", "b"), "n", fmt.Sprint(n))})
				r := &series.Row{Source: source, Schema: schema, T: int64(n), Values: make([]float64, n+1)}
				for j := range r.Values {
					r.Values[j] = float64(i)
				}
				err := p.Apply(r, r.T, func(out *series.Row) error {
					for _, v := range out.Values {
						if v != float64(i) {
							t.Errorf("source %d got the value %v", i, v)
						}
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	c := series.NewCatalog()
	whole := c.Extend(c.Empty(), []series.Column{column("__name__", "a"), column("__name__", "x"), column("__name__", "b")})
	key := []byte(strings.Repeat("k", 32))
	anonymizer, err := NewAnonymizer(AnonymizeConfig{Labels: []string{"instance"}, Mode: ModeHMAC, Length: 16}, key)
	if err != nil {
		t.Fatal(err)
	}
	limits := Limits{
		Series: 10, SeriesPerSource: 10, NewSeriesPerHour: 10, SamplesPerSecond: 1000, Labels: 10, LabelNameLength: 100, LabelValueLength: 100,
	}
	// With a series held back, too: a site at its limit must not cost more than others.
	for _, most := range []int{10, 1} {
		limits.Series = most
		p := newPipeline(t, Options{
			Catalog: c, ExternalLabels: labels.FromStrings("site", "s"), RequiredLabels: map[string]string{"site": "s"},
			Limits: limits, Anonymize: anonymizer,
		}, "a", "b")
		for _, r := range []*series.Row{
			{Schema: whole, Values: []float64{1, 2, 3}},
			{Schema: whole, Columns: []uint32{0, 2}, Values: []float64{1, 2}},
		} {
			r.Source = &series.Source{Key: fmt.Sprint(most, r.Whole()), Labels: labels.FromStrings("instance", "i")}
			next := func(*series.Row) error { return nil }
			n := testing.AllocsPerRun(100, func() {
				r.T += 15_000
				if err := p.Apply(r, r.T, next); err != nil {
					t.Error(err)
				}
			})
			if n != 0 {
				t.Errorf("limit of %d series, row %v: %v allocations", most, r.Columns, n)
			}
		}
	}
}
