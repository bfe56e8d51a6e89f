package pipeline

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"

	"github.com/thalweg/thalweg/internal/series"
)

// TestCountingOracle compares what is let in and counted with a map and a loop, under growth, series that come and go,
// schemas that begin anew, partial rows, stale markers, ends, silence and changed limits.
func TestCountingOracle(t *testing.T) {
	for seed := range uint64(100) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		s := newSite(t, Limits{Series: 1 + rnd.IntN(30), SeriesPerSource: rnd.IntN(2) * (1 + rnd.IntN(12))})
		o := oracleSite{limits: s.options.Limits, sources: map[string]*oracleSource{}}
		inputs := map[string]*generator{}
		for step := range 150 {
			s.now += rnd.Int64N(20_000)
			key := pick(rnd, "a", "b", "c", "d")
			switch rnd.IntN(30) {
			case 0:
				s.reload(func(opt *Options) {
					opt.Limits.Series = 1 + rnd.IntN(30)
					opt.Limits.SeriesPerSource = rnd.IntN(2) * (1 + rnd.IntN(12))
				})
				o.reload(s.options.Limits)
				continue
			case 1:
				s.now += 6 * minute // silence of all
				inputs = map[string]*generator{}
			}
			o.silence(s.now)
			in := inputs[key]
			if in == nil {
				in = &generator{source: origin(key), schema: s.catalog.Empty()}
				inputs[key] = in
			}
			row := in.row(rnd, s)
			if row.End {
				delete(inputs, key)
			}
			s.asking = rnd.IntN(2) == 0
			if err := s.apply(row); err != nil {
				t.Fatal(err)
			}
			want, ended := o.apply(row, s.now)
			for name := range ended {
				if !s.ended[name] {
					t.Fatalf("seed %d step %d: the end of %s did not pass", seed, step, name)
				}
			}
			if got := s.passed[key]; !maps.Equal(got, want) {
				t.Fatalf("seed %d step %d: limits %+v\npassed %v\nwant   %v", seed, step, s.options.Limits,
					slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
			}
			if u := s.p.Usage(0); u.Series != o.alive() || u.Held != o.held() || u.Sources != len(o.sources) {
				t.Fatalf("seed %d step %d: %d series, %d held, %d sources; want %d, %d, %d", seed, step, u.Series, u.Held, u.Sources,
					o.alive(), o.held(), len(o.sources))
			}
		}
	}
}

// generator makes rows of one source.
type generator struct {
	source *series.Source
	schema *series.Schema
	grown  int
}

func (g *generator) row(rnd *rand.Rand, s *site) *series.Row {
	if rnd.IntN(15) == 0 {
		g.schema = s.catalog.Empty() // compacted
	}
	for range rnd.IntN(4) {
		g.grown++
		c := column("__name__", fmt.Sprint("m", g.grown%40))
		if slices.ContainsFunc(g.schema.Columns(), func(x series.Column) bool { return labels.Equal(x.Labels, c.Labels) }) {
			continue
		}
		c.Kind = pick(rnd, series.Float, series.Float, series.Histogram)
		g.schema = s.catalog.Extend(g.schema, []series.Column{c})
	}
	r := randomRow(rnd, g.source, g.schema)
	r.T = s.now
	switch {
	case rnd.IntN(25) == 0:
		return &series.Row{Source: g.source, Schema: g.schema, T: s.now, End: true}
	case rnd.IntN(4) == 0 && r.Whole() && len(r.Values) > 0: // everything is there
		for i := range r.Values {
			series.SetBit(r.Present, i)
		}
		r.Histograms = nil
		for i := range r.Values {
			if g.schema.Column(i).Kind == series.Histogram {
				r.Histograms = append(r.Histograms, series.HistogramAt{Column: uint32(i), H: &histogram.Histogram{}})
			}
		}
		r.Present = nil
	}
	for i := range r.Columns {
		if rnd.IntN(4) == 0 {
			stale := math.Float64frombits(value.StaleNaN)
			if g.schema.Column(int(r.Columns[i])).Kind == series.Float {
				r.Values[i] = stale
			}
			for j := range r.Histograms {
				if r.Histograms[j].Column == r.Columns[i] {
					r.Histograms[j].H.Sum = stale
				}
			}
		}
	}
	return r
}

// oracleSite is what a site has, in maps.
type oracleSite struct {
	limits  Limits
	sources map[string]*oracleSource
	swept   int64
}

type oracleSource struct {
	schema      *series.Schema
	live, there map[int]bool // columns let in; columns that are there
	last        int64
	crowded     bool // limits were changed
}

func (o *oracleSite) alive() (n int) {
	for _, s := range o.sources {
		n += len(s.live)
	}
	return n
}

func (o *oracleSite) held() (n int) {
	for _, s := range o.sources {
		n += len(s.there) - len(s.live)
	}
	return n
}

func (o *oracleSite) reload(l Limits) {
	o.limits = l
	for _, s := range o.sources {
		s.crowded = true
	}
}

// silence is looked for once a minute.
func (o *oracleSite) silence(now int64) {
	if now-o.swept < minute {
		return
	}
	o.swept = now
	for key, s := range o.sources {
		if now-s.last > (5 * time.Minute).Milliseconds() {
			delete(o.sources, key)
		}
	}
}

// apply returns the series that are left of a row, and those that it ends of which something was let in.
func (o *oracleSite) apply(r *series.Row, now int64) (left, ended map[string]bool) {
	left, ended = map[string]bool{}, map[string]bool{}
	if r.End {
		delete(o.sources, r.Source.Key)
		return left, ended
	}
	s := o.sources[r.Source.Key]
	if s == nil {
		s = &oracleSource{}
		o.sources[r.Source.Key] = s
	}
	s.last = now
	if s.schema == nil || !r.Schema.Extends(s.schema) {
		s.live, s.there = map[int]bool{}, map[int]bool{}
	}
	s.schema = r.Schema
	for i := r.Schema.Len() - 1; i >= 0 && s.crowded; i-- {
		if o.limits.SeriesPerSource > 0 && len(s.live) > o.limits.SeriesPerSource || o.alive() > o.limits.Series {
			delete(s.live, i)
		}
	}
	s.crowded = false
	stale := map[int]bool{}
	listed := []int{}
	for i := range r.Schema.Len() {
		at := slices.Index(r.Columns, uint32(i))
		switch {
		case r.Whole() && r.Has(i):
			listed = append(listed, i)
		case r.Whole():
			delete(s.live, i)
			delete(s.there, i)
		case at >= 0:
			listed = append(listed, i)
			stale[i] = isStale(r, uint32(i))
		}
	}
	var b labels.Builder
	name := func(i int) string { return r.Source.SeriesLabels(&b, r.Schema.Column(i)).String() }
	for i := range stale {
		if stale[i] {
			if s.live[i] {
				ended[name(i)] = true
			}
			delete(s.live, i)
			delete(s.there, i)
		}
	}
	for _, i := range listed {
		if stale[i] {
			continue
		}
		s.there[i] = true
		room := (o.limits.Series == 0 || o.alive() < o.limits.Series) && (o.limits.SeriesPerSource == 0 || len(s.live) < o.limits.SeriesPerSource)
		if !s.live[i] && room {
			s.live[i] = true
		}
	}
	for _, i := range listed {
		if s.live[i] {
			left[name(i)] = true
		}
	}
	return left, ended
}
