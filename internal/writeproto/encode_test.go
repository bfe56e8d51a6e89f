package writeproto_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/prometheus/prometheus/util/compression"

	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/series/seriestest"
	"github.com/thalweg/thalweg/internal/writeproto"
)

// final is what the labels of a series are made of in tests: the site is added, some series are dropped.
func final(site string, source *series.Source, column *series.Column, b *labels.Builder) bool {
	full := source.SeriesLabels(b, column)
	b.Reset(full)
	b.Set("site", site)
	return full.Hash()%7 != 0
}

// entry is one TimeSeries of a request.
type entry struct {
	series    string
	t         int64
	said      string // all of it
	exemplars []string
	floats    int
	buckets   int
}

func (e entry) String() string {
	return fmt.Sprintf("%s @%d %s %q", e.series, e.t, e.said, e.exemplars)
}

func showFloat(v float64, start int64) string {
	return fmt.Sprintf("%016x start=%d", math.Float64bits(v), start)
}

func showBuckets(h *histogram.Histogram, fh *histogram.FloatHistogram, start int64) string {
	if h != nil {
		c := *h
		c.Sum = 0
		return fmt.Sprintf("h %+v %d %016x start=%d", c, c.CounterResetHint, math.Float64bits(h.Sum), start)
	}
	c := *fh
	c.Sum = 0
	return fmt.Sprintf("fh %+v %d %016x start=%d", c, c.CounterResetHint, math.Float64bits(fh.Sum), start)
}

func showExemplar(x exemplar.Exemplar) string {
	return fmt.Sprintf("%s %016x @%d", x.Labels, math.Float64bits(x.Value), x.Ts)
}

// oracle says what a row must become.
type oracle struct {
	options writeproto.EncoderOptions
	shown   map[string][]string // exemplars, by site, source and column
	schemas map[string]*series.Schema
}

func newOracle(o writeproto.EncoderOptions) *oracle {
	return &oracle{options: o, shown: map[string][]string{}, schemas: map[string]*series.Schema{}}
}

func (o *oracle) row(site string, row *series.Row) (entries []entry) {
	source := fmt.Sprintf("%s %p ", site, row.Source)
	if old := o.schemas[source]; row.End || old != nil && !row.Schema.Extends(old) && !old.Extends(row.Schema) {
		for key := range o.shown {
			if strings.HasPrefix(key, source) {
				delete(o.shown, key)
			}
		}
		delete(o.schemas, source)
	}
	if row.End {
		return nil
	}
	if old := o.schemas[source]; old == nil || row.Schema.Extends(old) {
		o.schemas[source] = row.Schema
	}
	v1 := o.options.Message == writeproto.V1
	for i, v := range row.Values {
		c := i
		if !row.Whole() {
			c = int(row.Columns[i])
		} else if !row.Has(i) {
			continue
		}
		column := row.Schema.Column(c)
		b := labels.NewBuilder(labels.EmptyLabels())
		if !o.options.Labels(site, row.Source, column, b) {
			continue
		}
		e := entry{series: b.Labels().String(), t: row.T}
		start := int64(0)
		for _, s := range row.Starts {
			if int(s.Column) == c && !v1 {
				start = s.Ms
			}
		}
		if column.Kind == series.Float {
			e.said, e.floats = showFloat(v, start), 1
		}
		for _, h := range row.Histograms {
			custom := h.H != nil && h.H.UsesCustomBuckets() || h.FH != nil && h.FH.UsesCustomBuckets()
			if int(h.Column) == c && (!v1 || o.options.NativeHistograms && !custom) {
				e.said, e.buckets = showBuckets(h.H, h.FH, start), 1
			}
		}
		if e.said == "" {
			continue
		}
		if !v1 {
			f := column.Family
			e.said += fmt.Sprintf(" %s %q %q", writev2.FromMetadataType(f.Type), f.Help, f.Unit)
		}
		key := fmt.Sprint(source, c)
		var now []string
		for _, x := range row.Exemplars {
			if int(x.Column) != c || v1 && !o.options.Exemplars {
				continue
			}
			raw := fmt.Sprintf("%s %016x %t %d", x.Exemplar.Labels, math.Float64bits(x.Exemplar.Value), x.Exemplar.HasTs, x.Exemplar.Ts)
			now = append(now, raw)
			if slices.Contains(o.shown[key], raw) {
				continue
			}
			sent := x.Exemplar
			if !sent.HasTs {
				sent.Ts = row.T
			}
			e.exemplars = append(e.exemplars, showExemplar(sent))
		}
		if now != nil {
			o.shown[key] = now
		}
		entries = append(entries, e)
	}
	return entries
}

// unpack decodes a body, with several decoders.
func unpack(t testing.TB, body []byte) []byte {
	t.Helper()
	a, err := s2.Decode(nil, body)
	if err != nil {
		t.Fatalf("s2: %v", err)
	}
	b, err := snappy.Decode(nil, body)
	if err != nil {
		t.Fatalf("klauspost snappy: %v", err)
	}
	c, err := compression.Decode(compression.Snappy, body, compression.NewSyncDecodeBuffer())
	if err != nil {
		t.Fatalf("golang snappy: %v", err)
	}
	if string(a) != string(b) || string(a) != string(c) {
		t.Fatal("decoders differ")
	}
	return a
}

// decode reads a request as Prometheus does.
func decode(t testing.TB, r *writeproto.Request) (entries []entry) {
	t.Helper()
	raw := unpack(t, r.Body)
	b := labels.NewScratchBuilder(0)
	one := func(ls labels.Labels, at int64, said string, exemplars []exemplar.Exemplar) {
		e := entry{series: ls.String(), t: at, said: said}
		for _, x := range exemplars {
			e.exemplars = append(e.exemplars, showExemplar(x))
		}
		if dup, found := ls.HasDuplicateLabelNames(); found {
			t.Errorf("label %s stands twice", dup)
		}
		entries = append(entries, e)
	}
	if r.Message == writeproto.V1 {
		var q prompb.WriteRequest
		if err := q.Unmarshal(raw); err != nil {
			t.Fatal(err)
		}
		for _, ts := range q.Timeseries {
			if !slices.IsSortedFunc(ts.Labels, func(a, b prompb.Label) int { return strings.Compare(a.Name, b.Name) }) {
				t.Errorf("labels are not sorted: %v", ts.Labels)
			}
			var exemplars []exemplar.Exemplar
			for _, x := range ts.Exemplars {
				exemplars = append(exemplars, x.ToExemplar(&b, nil))
			}
			ls := ts.ToLabels(&b, nil)
			for _, s := range ts.Samples {
				one(ls, s.Timestamp, showFloat(s.Value, 0), exemplars)
			}
			for _, h := range ts.Histograms {
				if h.IsFloatHistogram() {
					one(ls, h.Timestamp, showBuckets(nil, h.ToFloatHistogram(), 0), exemplars)
				} else {
					one(ls, h.Timestamp, showBuckets(h.ToIntHistogram(), nil, 0), exemplars)
				}
			}
		}
		return entries
	}
	var q writev2.Request
	if err := q.Unmarshal(raw); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i, s := range q.Symbols {
		if seen[s] || (i == 0) != (s == "") {
			t.Errorf("symbol %d is %q", i, s)
		}
		seen[s] = true
	}
	for _, ts := range q.Timeseries {
		var exemplars []exemplar.Exemplar
		for _, x := range ts.Exemplars {
			e, err := x.ToExemplar(&b, q.Symbols)
			if err != nil {
				t.Fatal(err)
			}
			exemplars = append(exemplars, e)
		}
		ls, err := ts.ToLabels(&b, q.Symbols)
		if err != nil {
			t.Fatal(err)
		}
		m := fmt.Sprintf(" %s %q %q", ts.Metadata.Type, q.Symbols[ts.Metadata.HelpRef], q.Symbols[ts.Metadata.UnitRef])
		for _, s := range ts.Samples {
			one(ls, s.Timestamp, showFloat(s.Value, s.StartTimestamp)+m, exemplars)
		}
		for _, h := range ts.Histograms {
			if h.IsFloatHistogram() {
				one(ls, h.Timestamp, showBuckets(nil, h.ToFloatHistogram(), h.StartTimestamp)+m, exemplars)
			} else {
				one(ls, h.Timestamp, showBuckets(h.ToIntHistogram(), nil, h.StartTimestamp)+m, exemplars)
			}
		}
	}
	return entries
}

// decodeAll lists the entries of several requests.
func decodeAll(t testing.TB, requests []writeproto.Request) (entries []string) {
	t.Helper()
	for i := range requests {
		for _, e := range decode(t, &requests[i]) {
			entries = append(entries, e.String())
		}
	}
	return entries
}

// expect compares requests with what the rows were.
func expect(t testing.TB, o writeproto.EncoderOptions, requests []writeproto.Request, rows [][]entry) {
	t.Helper()
	parts := make([]int, len(rows))
	var got []entry
	for i := range requests {
		r := &requests[i]
		entries := decode(t, r)
		exemplars, samples, newest := 0, 0, map[string]int64{}
		oldest, latest := int64(math.MaxInt64), int64(math.MinInt64)
		for _, e := range entries {
			exemplars += len(e.exemplars)
			if e.t < newest[e.series] {
				t.Errorf("request %d: time goes backwards in %s", i, e.series)
			}
			newest[e.series] = e.t
			oldest, latest = min(oldest, e.t), max(latest, e.t)
		}
		for _, p := range r.Rows {
			parts[p.Row] += p.Samples
			samples += p.Samples
		}
		if r.Samples+r.Histograms != len(entries) || samples != len(entries) || r.Exemplars != exemplars || r.Oldest != oldest || r.Newest != latest {
			t.Errorf("request %d says %d+%d samples, %d of rows, %d exemplars, %d to %d; it has %d, %d, %d to %d",
				i, r.Samples, r.Histograms, samples, r.Exemplars, r.Oldest, r.Newest, len(entries), exemplars, oldest, latest)
		}
		if len(entries) > o.MaxSamples {
			t.Errorf("request %d has %d samples", i, len(entries))
		}
		got = append(got, entries...)
	}
	n := 0
	for i, row := range rows {
		if parts[i] != len(row) {
			t.Errorf("row %d has %d samples in requests instead of %d", i, parts[i], len(row))
		}
		for _, want := range row {
			if n == len(got) {
				t.Fatalf("%s of row %d is missing", want, i)
			}
			if got[n].String() != want.String() {
				t.Fatalf("row %d:\n got %s\nwant %s", i, got[n], want)
			}
			n++
		}
	}
	if n < len(got) {
		t.Fatalf("%s is too much", got[n])
	}
}

var optionsOf = map[string]writeproto.EncoderOptions{
	"v1":       {Message: writeproto.V1, MaxSamples: 100, Labels: final},
	"v1/all":   {Message: writeproto.V1, MaxSamples: 100, Labels: final, Exemplars: true, NativeHistograms: true},
	"v2":       {Message: writeproto.V2, MaxSamples: 100, Labels: final},
	"v2/large": {Message: writeproto.V2, MaxSamples: 5000, Labels: final},
}

// encodeWorld encodes rows of a world and compares them.
func encodeWorld(t testing.TB, o writeproto.EncoderOptions, seed uint64, rows int) {
	w, e, oracle := seriestest.New(seed), writeproto.NewEncoder(o), newOracle(o)
	var want [][]entry
	check := func() {
		expect(t, o, e.Close(), want)
		want = nil
	}
	for range rows {
		row := w.Row()
		if w.IntN(20) == 0 {
			markStale(row)
		}
		site := fmt.Sprintf("site-%d", w.IntN(2))
		want = append(want, oracle.row(site, row))
		e.Add(site, len(want)-1, row)
		if w.IntN(12) == 0 {
			check()
		}
	}
	check()
}

// markStale makes all histograms of a row stale markers.
func markStale(row *series.Row) {
	for _, h := range row.Histograms {
		if h.H != nil {
			*h.H = histogram.Histogram{Sum: math.Float64frombits(value.StaleNaN)}
		} else {
			*h.FH = histogram.FloatHistogram{Sum: math.Float64frombits(value.StaleNaN)}
		}
	}
}

func TestEncoderSaysWhatRowsSay(t *testing.T) {
	for name, o := range optionsOf {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(8) {
				encodeWorld(t, o, seed, 200)
			}
		})
	}
}

func FuzzEncoder(f *testing.F) {
	f.Add(uint64(1), uint16(50), uint16(10), true, true)
	f.Fuzz(func(t *testing.T, seed uint64, rows, samples uint16, v2, all bool) {
		o := writeproto.EncoderOptions{Message: writeproto.V1, MaxSamples: int(samples)%3000 + 1, Labels: final, Exemplars: all, NativeHistograms: all}
		if v2 {
			o.Message = writeproto.V2
		}
		encodeWorld(t, o, seed, int(rows)%500)
	})
}

// TestEncoderForgets: whatever is forgotten, at any time, the requests stay the same.
func TestEncoderForgets(t *testing.T) {
	for name, o := range optionsOf {
		o.CacheBytes = 3000
		t.Run(name, func(t *testing.T) {
			w := seriestest.New(7)
			small, large := o, o
			large.CacheBytes = 1 << 30
			a, b := writeproto.NewEncoder(small), writeproto.NewEncoder(large)
			for i := range 600 {
				row := w.Row()
				row.Exemplars = nil // those of a source that was forgotten are repeated
				a.Add("s", i, row)
				b.Add("s", i, row)
				if i%50 == 0 {
					// Requests may end elsewhere.
					if got, want := decodeAll(t, a.Close()), decodeAll(t, b.Close()); !slices.Equal(got, want) {
						t.Fatalf("by row %d there are %d entries instead of %d, or others", i, len(got), len(want))
					}
				}
			}
			s, l := a.Stats(), b.Stats()
			if s.Bytes > 2*l.Bytes/3 || s.Sources > l.Sources {
				t.Errorf("with little room %+v, with much %+v", s, l)
			}
		})
	}
}

// TestEncoderForgetsSilentSources: a source that is not seen any more costs nothing.
func TestEncoderForgetsSilentSources(t *testing.T) {
	o := optionsOf["v2"]
	o.SilentRows = 1000
	e := writeproto.NewEncoder(o)
	catalog := series.NewCatalog()
	schema := catalog.Extend(catalog.Empty(), []series.Column{series.Synthetic("a", ""), series.Synthetic("b", "")})
	const rows = 30_000
	for i := range rows {
		source := &series.Source{Key: fmt.Sprint(i), Labels: labels.FromStrings("instance", fmt.Sprint(i))}
		e.Add("s", 0, &series.Row{Source: source, Schema: schema, T: int64(i), Values: []float64{1, 2}})
		if i%1000 == 0 {
			e.Close()
		}
	}
	if s := e.Stats(); s.Sources > 1200 || s.Series > 2*s.Sources || s.Bytes > 5<<20 {
		t.Errorf("%d sources of one row each leave %+v", rows, s)
	}
	e.Forget()
	if s := e.Stats(); s.Sources+s.Series+s.Bytes != 0 {
		t.Errorf("forgotten: %+v", s)
	}
}

func TestEncoderDropsEndedSources(t *testing.T) {
	o := optionsOf["v1"]
	e := writeproto.NewEncoder(o)
	w := seriestest.New(3)
	sources := map[*series.Source]*series.Row{}
	for range 100 {
		row := w.Row()
		e.Add("s", 0, row)
		sources[row.Source] = row
	}
	for source, row := range sources {
		e.Add("s", 0, &series.Row{Source: source, Schema: row.Schema, T: row.T, End: true})
	}
	if s := e.Stats(); s.Sources+s.Series+s.Bytes != 0 {
		t.Errorf("all sources ended: %+v", s)
	}
}

// TestMetadata: every family that something is sent of stands once in the requests, whichever encoders know it.
func TestMetadata(t *testing.T) {
	o := optionsOf["v1"]
	o.Labels = func(site string, source *series.Source, column *series.Column, b *labels.Builder) bool {
		b.Reset(column.Labels)
		return column.Family.Name != "dropped"
	}
	encoders := []*writeproto.Encoder{writeproto.NewEncoder(o), writeproto.NewEncoder(o)}
	catalog := series.NewCatalog()
	column := func(name string, f series.Family) series.Column {
		return series.Column{Labels: labels.FromStrings("__name__", name), Family: f}
	}
	schema := catalog.Extend(catalog.Empty(), []series.Column{
		column("a_total", series.Family{Name: "a", Type: model.MetricTypeCounter, Help: "A", Unit: "s"}),
		column("b", series.Family{Name: "b", Type: model.MetricTypeGauge, Help: "B"}),
		column("c", series.Family{}),
		column("d", series.Family{Name: "d", Type: model.MetricTypeInfo}),
		column("e", series.Family{Name: "dropped", Type: model.MetricTypeGauge}),
	})
	for i := range 3 {
		encoders[i%2].Add("s", i, &series.Row{Source: &series.Source{Key: fmt.Sprint(i)}, Schema: schema, T: 1, Values: make([]float64, 5)})
	}
	var got []string
	for _, r := range writeproto.MetadataRequests(2, encoders...) {
		var q prompb.WriteRequest
		if err := q.Unmarshal(unpack(t, r.Body)); err != nil {
			t.Fatal(err)
		}
		if len(q.Metadata) != r.Metadata || r.Metadata > 2 {
			t.Errorf("request has %d entries and says %d", len(q.Metadata), r.Metadata)
		}
		for _, m := range q.Metadata {
			got = append(got, fmt.Sprintf("%s %s %s %s", m.MetricFamilyName, m.Type, m.Help, m.Unit))
		}
	}
	if want := []string{"a COUNTER A s", "b GAUGE B ", "d INFO  "}; !slices.Equal(got, want) {
		t.Errorf("metadata %q, not %q", got, want)
	}
}

// TestEncoderTimeGoesBack: rows of a source with an earlier time stand in a request of their own.
func TestEncoderTimeGoesBack(t *testing.T) {
	o := optionsOf["v1"]
	o.Labels = func(_ string, source *series.Source, column *series.Column, b *labels.Builder) bool {
		source.SeriesLabels(b, column)
		return true
	}
	e := writeproto.NewEncoder(o)
	catalog := series.NewCatalog()
	schema := catalog.Extend(catalog.Empty(), []series.Column{series.Synthetic("a", "")})
	source := &series.Source{Key: "k"}
	for i, at := range []int64{5, 5, 7, 6, 8} {
		e.Add("s", i, &series.Row{Source: source, Schema: schema, T: at, Values: []float64{1}})
	}
	var got []string
	for _, r := range e.Close() {
		got = append(got, fmt.Sprint(r.Rows, r.Oldest, r.Newest))
	}
	if want := []string{"[{0 1} {1 1} {2 1}] 5 7", "[{3 1} {4 1}] 6 8"}; !slices.Equal(got, want) {
		t.Errorf("requests %q, not %q", got, want)
	}
}

// TestEncoderAllocatesNothing in the steady state.
func TestEncoderAllocatesNothing(t *testing.T) {
	for name, o := range optionsOf {
		t.Run(name, func(t *testing.T) {
			e := writeproto.NewEncoder(o)
			w := seriestest.New(11)
			rows := make([]*series.Row, 20)
			for i := range rows {
				for rows[i] == nil || rows[i].End {
					rows[i] = w.Row()
				}
			}
			// Of one source the last schema counts, so that nothing is learned again.
			last := map[*series.Source]*series.Row{}
			for _, r := range rows {
				last[r.Source] = r
			}
			rows = slices.DeleteFunc(rows, func(r *series.Row) bool { return last[r.Source] != r })
			round := func() {
				for i, row := range rows {
					e.Add("s", i, row)
				}
				if len(e.Close()) == 0 {
					t.Fatal("no request")
				}
			}
			round()
			round()
			if n := testing.AllocsPerRun(100, round); n > 0 {
				t.Errorf("%v allocations for %d rows", n, len(rows))
			}
		})
	}
}

// TestEncoderStart: a start is sent unless it is behind its sample, which 2.0 forbids.
func TestEncoderStart(t *testing.T) {
	o := optionsOf["v2"]
	o.Labels = func(_ string, source *series.Source, column *series.Column, b *labels.Builder) bool {
		source.SeriesLabels(b, column)
		return true
	}
	e := writeproto.NewEncoder(o)
	catalog := series.NewCatalog()
	columns := []series.Column{{Labels: labels.FromStrings("__name__", "a")}, {Labels: labels.FromStrings("__name__", "b"), Kind: series.Histogram}}
	row := &series.Row{
		Source: &series.Source{Key: "k"}, Schema: catalog.Extend(catalog.Empty(), columns), T: 1000, Values: []float64{1, 0},
		Histograms: []series.HistogramAt{{Column: 1, H: &histogram.Histogram{}}},
	}
	f := func(start, want int64) {
		t.Helper()
		row.Starts = []series.StartAt{{Column: 0, Ms: start}, {Column: 1, Ms: start}}
		e.Add("s", 0, row)
		entries := decode(t, &e.Close()[0])
		if len(entries) != 2 {
			t.Fatalf("%d samples", len(entries))
		}
		for _, x := range entries {
			if !strings.Contains(x.said, fmt.Sprintf("start=%d ", want)) {
				t.Errorf("start %d of a sample at %d: %s", start, row.T, x.said)
			}
		}
		row.T += 10_000
	}
	f(999, 999)
	f(11_000, 11_000)
	f(21_001, 0)
}
