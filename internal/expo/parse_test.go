package expo

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"

	"github.com/thalweg/thalweg/internal/series"
)

const (
	text        = "text/plain; version=0.0.4"
	openMetrics = "application/openmetrics-text; version=1.0.0"
	now         = int64(1_700_000_000_000)
)

func keepAll(l labels.Labels) (labels.Labels, bool, error) { return l, true, nil }

func newParser(change func(*Options)) *Parser {
	o := Options{
		Catalog: series.NewCatalog(),
		Source:  &series.Source{Key: "scrape/node/a:1/0"},
		Map:     keepAll,
		Lead:    []series.Column{series.Synthetic("up", "")},
	}
	if change != nil {
		change(&o)
	}
	return NewParser(o)
}

// render prints what a reader of rows would see, one line for each sample.
func render(res *Result) string {
	var b strings.Builder
	print := func(r *series.Row, i int, column uint32) {
		c := r.Schema.Column(int(column))
		fmt.Fprintf(&b, "%s", c.Labels)
		if c.Kind == series.Float {
			fmt.Fprintf(&b, " %v", r.Values[i])
			if math.Float64bits(r.Values[i]) == 0x7ff0000000000002 {
				b.WriteString(" (stale)")
			}
		}
		for _, h := range r.Histograms {
			if h.Column == column && h.H != nil {
				fmt.Fprintf(&b, " %s", h.H)
			}
		}
		for _, s := range r.Starts {
			if s.Column == column {
				fmt.Fprintf(&b, " start=%d", s.Ms)
			}
		}
		for _, e := range r.Exemplars {
			if e.Column == column {
				fmt.Fprintf(&b, " # %s %v %d", e.Exemplar.Labels, e.Exemplar.Value, e.Exemplar.Ts-now)
			}
		}
		b.WriteByte('\n')
	}
	for i := range res.Whole.Values {
		if res.Whole.Has(i) {
			print(res.Whole, i, uint32(i))
		}
	}
	for _, r := range res.Stamped {
		fmt.Fprintf(&b, "at %d\n", r.T-now)
		for i, c := range r.Columns {
			print(&r, i, c)
		}
	}
	return b.String()
}

func TestParse(t *testing.T) {
	type step struct {
		body, want string // want "error: ..." for a failed body
		stats      Stats
	}
	tests := []struct {
		name        string
		contentType string
		options     func(*Options)
		steps       []step
	}{
		{
			name: "absent series are absent, new ones come last",
			steps: []step{
				{"a 1\nb 2\n", "{__name__=\"up\"} 0\n{__name__=\"a\"} 1\n{__name__=\"b\"} 2\n", Stats{Samples: 2, Kept: 2, Added: 2}},
				{"c 3\na 4\n", "{__name__=\"up\"} 0\n{__name__=\"a\"} 4\n{__name__=\"c\"} 3\n", Stats{Samples: 2, Kept: 2, Added: 1}},
				{"", "{__name__=\"up\"} 0\n", Stats{}},
				{"b 5\na 4\n", "{__name__=\"up\"} 0\n{__name__=\"a\"} 4\n{__name__=\"b\"} 5\n", Stats{Samples: 2, Kept: 2, Added: 1}},
			},
		},
		{
			name: "the first of duplicates wins, in any spelling",
			steps: []step{
				{"a{x=\"1\",y=\"2\"} 1\na{y=\"2\",x=\"1\"} 2\na{x=\"1\",y=\"2\"} 3\n",
					"{__name__=\"up\"} 0\n{__name__=\"a\", x=\"1\", y=\"2\"} 1\n", Stats{Samples: 3, Kept: 3, Added: 2, Duplicates: 2}},
				{"a{y=\"2\",x=\"1\"} 2\n",
					"{__name__=\"up\"} 0\n{__name__=\"a\", x=\"1\", y=\"2\"} 2\n", Stats{Samples: 1, Kept: 1}},
			},
		},
		{
			name: "a target cannot speak for the lead columns",
			steps: []step{
				{"up 7\na 1\n", "{__name__=\"up\"} 0\n{__name__=\"a\"} 1\n", Stats{Samples: 2, Kept: 2, Added: 2, Duplicates: 1}},
				{"up 7\na 1\n", "{__name__=\"up\"} 0\n{__name__=\"a\"} 1\n", Stats{Samples: 2, Kept: 2, Duplicates: 1}},
			},
		},
		{
			name: "a broken body changes nothing",
			steps: []step{
				{"a 1\n", "{__name__=\"up\"} 0\n{__name__=\"a\"} 1\n", Stats{Samples: 1, Kept: 1, Added: 1}},
				{"b 1\na 2\n}\n", "error: parse body: expected a valid start token", Stats{Samples: 2, Kept: 2, Added: 1}},
				{"c 1\na 2\n", "{__name__=\"up\"} 0\n{__name__=\"a\"} 2\n{__name__=\"c\"} 1\n", Stats{Samples: 2, Kept: 2, Added: 1}},
			},
		},
		{
			name: "timestamps that do not advance are not samples",
			steps: []step{
				{"a 1 1700000000000\nb 2\nc 3 1699999999000\n",
					"{__name__=\"up\"} 0\n{__name__=\"b\"} 2\nat -1000\n{__name__=\"c\"} 3\nat 0\n{__name__=\"a\"} 1\n",
					Stats{Samples: 3, Kept: 3, Added: 3}},
				{"a 1 1700000000000\nb 2\nc 4 1699999998000\n", "{__name__=\"up\"} 0\n{__name__=\"b\"} 2\n",
					Stats{Samples: 3, Kept: 3, OutOfOrder: 1}},
				{"a 2 1700000000001\na 3 1700000000002\na 4 1700000000002\nb 2\n",
					"{__name__=\"up\"} 0\n{__name__=\"b\"} 2\nat 1\n{__name__=\"a\"} 2\nat 2\n{__name__=\"a\"} 3\n",
					Stats{Samples: 4, Kept: 4, Duplicates: 1}},
				{"a 2 1700000600001\n", "{__name__=\"up\"} 0\n", Stats{Samples: 1, Kept: 1, Future: 1}},
			},
		},
		{
			name:    "ignored timestamps",
			options: func(o *Options) { o.IgnoreTimestamps = true },
			steps: []step{
				{"a 1 5\n", "{__name__=\"up\"} 0\n{__name__=\"a\"} 1\n", Stats{Samples: 1, Kept: 1, Added: 1}},
			},
		},
		{
			name:    "tracked series end once",
			options: func(o *Options) { o.TrackStaleness = true },
			steps: []step{
				{"a 1 1699999999000\nb 1 1699999999000\n", "{__name__=\"up\"} 0\nat -1000\n{__name__=\"a\"} 1\n{__name__=\"b\"} 1\n", Stats{Samples: 2, Kept: 2, Added: 2}},
				{"b 1 1699999999000\n", "{__name__=\"up\"} 0\nat 0\n{__name__=\"a\"} NaN (stale)\n", Stats{Samples: 1, Kept: 1}},
				{"b 1 1699999999000\n", "{__name__=\"up\"} 0\n", Stats{Samples: 1, Kept: 1}},
				{"}", "error: parse body", Stats{}},
				{"b 1 1699999999000\n", "{__name__=\"up\"} 0\n", Stats{Samples: 1, Kept: 1, OutOfOrder: 1}},
				{"b 1 1700000000001\n", "{__name__=\"up\"} 0\nat 1\n{__name__=\"b\"} 1\n", Stats{Samples: 1, Kept: 1}},
			},
		},
		{
			name: "dropped series are not series",
			options: func(o *Options) {
				o.Map = func(l labels.Labels) (labels.Labels, bool, error) { return l, l.Get("__name__") != "a", nil }
			},
			steps: []step{
				{"a 1\na 1\nb 1\n", "{__name__=\"up\"} 0\n{__name__=\"b\"} 1\n", Stats{Samples: 3, Kept: 1, Added: 1}},
				{"a 1\na 1\nb 1\n", "{__name__=\"up\"} 0\n{__name__=\"b\"} 1\n", Stats{Samples: 3, Kept: 1}},
			},
		},
		{
			name:    "sample limit",
			options: func(o *Options) { o.SampleLimit = 2 },
			steps: []step{
				{"a 1\nb 1\n", "{__name__=\"up\"} 0\n{__name__=\"a\"} 1\n{__name__=\"b\"} 1\n", Stats{Samples: 2, Kept: 2, Added: 2}},
				{"a 1\nb 1\nc 1\nd 1\n", "error: sample_limit exceeded: limit 2, found more", Stats{Samples: 4, Kept: 4}},
				{"c 1\n", "{__name__=\"up\"} 0\n{__name__=\"c\"} 1\n", Stats{Samples: 1, Kept: 1, Added: 1}},
			},
		},
		{
			name:        "OpenMetrics: exemplars; start timestamps are series",
			contentType: openMetrics,
			steps: []step{
				{"# TYPE a counter\na_total 5 # {id=\"x\"} 1\na_created 1699999000\n# EOF\n",
					"{__name__=\"up\"} 0\n{__name__=\"a_total\"} 5 # {id=\"x\"} 1 0\n{__name__=\"a_created\"} 1.699999e+09\n", Stats{Samples: 2, Kept: 2, Added: 2}},
				{"a_total 5\n", "error: parse body: data does not end with # EOF", Stats{Samples: 1, Kept: 1}},
			},
		},
		{
			name:    "classic histograms to custom buckets",
			options: func(o *Options) { o.ConvertClassic = true },
			steps: []step{
				{"# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 3\nh_sum 4\nh_count 3\n",
					"{__name__=\"up\"} 0\n{__name__=\"h\"} {count:3, sum:4, [-Inf,1]:1, (1,+Inf]:2}\n", Stats{Samples: 1, Kept: 1, Added: 1}},
			},
		},
		{
			name:        "unknown content type",
			contentType: "text/html",
			steps:       []step{{"a 1\n", "error: content type \"text/html\": received unsupported Content-Type", Stats{}}},
		},
		{
			name:        "fallback content type",
			contentType: "text/html",
			options:     func(o *Options) { o.FallbackContentType = "text/plain" },
			steps:       []step{{"a 1", "{__name__=\"up\"} 0\n{__name__=\"a\"} 1\n", Stats{Samples: 1, Kept: 1, Added: 1}}},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := newParser(test.options)
			contentType := test.contentType
			if contentType == "" {
				contentType = text
			}
			for i, s := range test.steps {
				body := []byte(s.body)
				res, err := p.Parse(body, contentType, now)
				clear(body) // the result must not refer to it
				if want, ok := strings.CutPrefix(s.want, "error: "); ok {
					if err == nil || !strings.HasPrefix(err.Error(), want) {
						t.Errorf("step %d: error %v, want %s", i, err, want)
					}
					if got := len(res.Whole.Values); res.Whole.Samples() != 1 || got != res.Whole.Schema.Len() {
						t.Errorf("step %d: failed body gives %d samples in %d values", i, res.Whole.Samples(), got)
					}
				} else if err != nil {
					t.Errorf("step %d: %v", i, err)
				} else if got := render(res); got != s.want {
					t.Errorf("step %d:\n%swant\n%s", i, got, s.want)
				}
				if res.Stats != s.stats {
					t.Errorf("step %d: %+v, want %+v", i, res.Stats, s.stats)
				}
			}
		})
	}
}

func TestFamilies(t *testing.T) {
	p := newParser(nil)
	parse := func(body string) *series.Schema {
		t.Helper()
		res, err := p.Parse([]byte(body), text, now)
		if err != nil {
			t.Fatal(err)
		}
		return res.Whole.Schema
	}
	body := "# HELP h Help.\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_sum 1\nother 1\n# TYPE c counter\nc_total 2\n"
	first := parse(body)
	var got []string
	for _, c := range first.Columns()[1:] {
		got = append(got, fmt.Sprintf("%s=%s/%s/%s", c.Labels.Get("__name__"), c.Family.Name, c.Family.Type, c.Family.Help))
	}
	want := []string{"h_bucket=h/histogram/Help.", "h_sum=h/histogram/Help.", "other=//", "c_total=c/counter/"}
	if !slices.Equal(got, want) {
		t.Errorf("families %v, want %v", got, want)
	}
	if again := parse(body); again != first {
		t.Error("the same body made another schema")
	}
	if grown := parse(body + "d 1\n"); !grown.Extends(first) || grown == first {
		t.Error("a new series did not grow the schema")
	}
	changed := parse(strings.Replace(body, "Help.", "Other help.", 1))
	if changed.Extends(first) || changed.Column(1).Family.Help != "Other help." || changed.Len() != first.Len() {
		t.Errorf("changed help: schema %v", changed.Columns())
	}
	if back := parse(body); back != first {
		t.Error("equal content did not give the equal schema")
	}
}

func TestCompaction(t *testing.T) {
	p := newParser(func(o *Options) { o.CompactAfter = 3; o.TrackStaleness = true })
	full, part := "a 1\nb 1\nc 1\nd 1\n", "d 2\nb 2\nc 2\n"
	p.Parse([]byte(full), text, now)
	for i := range 3 {
		res, err := p.Parse([]byte(part), text, now)
		if err != nil || res.Whole.Schema.Len() != 5 {
			t.Fatalf("body %d: %v, %d columns", i, err, res.Whole.Schema.Len())
		}
	}
	res, err := p.Parse([]byte(part), text, now)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := render(res), "{__name__=\"up\"} 0\n{__name__=\"d\"} 2\n{__name__=\"b\"} 2\n{__name__=\"c\"} 2\n"; got != want || res.Added != 0 {
		t.Errorf("after compaction, %d added:\n%swant\n%s", res.Added, got, want)
	}
	if n := len(p.known.script.lines); n != 3 {
		t.Errorf("%d entries remembered, want 3", n)
	}
}

// A source whose schema is made anew in the moment a series vanishes still ends that series.
func TestMarkerAcrossSchemas(t *testing.T) {
	p := newParser(func(o *Options) { o.TrackStaleness = true })
	p.Parse([]byte("# HELP a x\na 1 1699999999000\nb 1 1699999999000\n"), text, now)
	res, err := p.Parse([]byte("# HELP a y\na 2 1699999999500\n"), text, now)
	if err != nil {
		t.Fatal(err)
	}
	want := "{__name__=\"up\"} 0\nat -500\n{__name__=\"a\"} 2\nat 0\n{__name__=\"b\"} NaN (stale)\n"
	if got := render(res); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// A timestamp that was seen stays seen when the schema is made anew while its series is absent.
func TestTimestampsAcrossSchemas(t *testing.T) {
	p := newParser(nil)
	p.Parse([]byte("# HELP b x\nb 1 1699999999000\na 1 1699999999000\n"), text, now)
	p.Parse([]byte("# HELP b y\nb 1 1699999999500\n"), text, now)
	res, err := p.Parse([]byte("# HELP b y\nb 1 1699999999500\na 1 1699999999000\n"), text, now)
	if err != nil || len(res.Stamped) != 0 {
		t.Errorf("%d rows, error %v", len(res.Stamped), err)
	}
}

func TestLabelErrorsFailTheBody(t *testing.T) {
	limit := &LimitError{Limit: "label_limit", Max: 1, Got: 2, Detail: "b"}
	p := newParser(func(o *Options) {
		o.Map = func(l labels.Labels) (labels.Labels, bool, error) {
			if l.Get("__name__") == "b" {
				return l, false, limit
			}
			return l, true, nil
		}
	})
	_, err := p.Parse([]byte("a 1\nb 2\n"), text, now)
	if got := (*LimitError)(nil); !errors.As(err, &got) || got != limit {
		t.Errorf("error %v, want %v", err, limit)
	}
	if n := len(p.known.script.lines); n != 0 {
		t.Errorf("%d entries after a failed first body", n)
	}
}

func corpus(t testing.TB) [][]byte {
	names, err := filepath.Glob("testdata/*.txt.gz")
	if err != nil || len(names) == 0 {
		t.Fatalf("corpus: %v, %d files", err, len(names))
	}
	var bodies [][]byte
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, b)
	}
	return bodies
}

// oracle reads a body by a plain loop over textparse: the first value of each label set, nothing if the body is bad.
func oracle(body []byte, contentType string) (map[string]uint64, error) {
	if len(body) == 0 {
		return nil, nil
	}
	p, err := textparse.New(bytes.Clone(body), contentType, nil, textparse.ParserOptions{})
	if p == nil {
		return nil, err
	}
	values := map[string]uint64{}
	for {
		next, err := p.Next()
		if errors.Is(err, io.EOF) {
			return values, nil
		} else if err != nil {
			return nil, err
		}
		if next != textparse.EntrySeries {
			continue
		}
		_, _, v := p.Series()
		var l labels.Labels
		p.Labels(&l)
		if _, ok := values[l.String()]; !ok {
			values[l.String()] = math.Float64bits(v)
		}
	}
}

func compare(t *testing.T, p *Parser, body []byte, contentType string) {
	t.Helper()
	want, wantErr := oracle(body, contentType)
	res, err := p.Parse(bytes.Clone(body), contentType, now)
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("error %v, textparse says %v", err, wantErr)
	}
	got := map[string]uint64{}
	for i, v := range res.Whole.Values {
		if res.Whole.Has(i) {
			got[res.Whole.Schema.Column(i).Labels.String()] = math.Float64bits(v)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d series, textparse has %d", len(got), len(want))
	}
	for l, v := range want {
		if g, ok := got[l]; !ok || g != v {
			t.Fatalf("%s is %x (%t), textparse has %x", l, g, ok, v)
		}
	}
}

func plainOptions(o *Options) { o.Lead, o.IgnoreTimestamps = nil, true }

func TestCorpus(t *testing.T) {
	for _, contentType := range []string{text, openMetrics} {
		p := newParser(plainOptions)
		for _, body := range corpus(t) {
			compare(t, p, body, contentType)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, b := range corpus(f) {
		f.Add(b[:2000], b[1000:3000], text)
	}
	f.Add([]byte("# TYPE a counter\na_total 5 # {id=\"x\"} 1\na_created 1\n# EOF\n"), []byte("# EOF\n"), openMetrics)
	f.Add([]byte("a 1\na{x=\"1\"} 2 3\n"), []byte("# TYPE a gauge\na 1\na 1\n"), text)
	f.Add([]byte("\x0a\x01a\x18\x00\x22\x0b\x1a\x09\x09\x00\x00\x00\x00\x00\x00\xf0\x3f"), []byte{}, "application/vnd.google.protobuf")
	f.Fuzz(func(t *testing.T, one, two []byte, contentType string) {
		p := newParser(plainOptions)
		for _, body := range [][]byte{one, two, one} {
			compare(t, p, body, contentType)
		}
	})
}

// checkRow fails unless the row keeps the rules of series.Row.
func checkRow(t *testing.T, r *series.Row) {
	t.Helper()
	n := r.Schema.Len()
	if r.Whole() {
		if len(r.Values) != n || r.Present != nil && len(r.Present) < (n+63)/64 {
			t.Fatalf("%d values, %d words of presence for %d columns", len(r.Values), len(r.Present), n)
		}
	} else if len(r.Columns) != len(r.Values) || len(r.Values) == 0 || !slices.IsSorted(r.Columns) || int(r.Columns[len(r.Columns)-1]) >= n {
		t.Fatalf("partial row of %d values in columns %v of %d", len(r.Values), r.Columns, n)
	}
	has := func(column uint32) bool {
		if r.Whole() {
			return int(column) < n && r.Has(int(column))
		}
		_, found := slices.BinarySearch(r.Columns, column)
		return found
	}
	histograms := map[uint32]bool{}
	for i, h := range r.Histograms {
		if !has(h.Column) || histograms[h.Column] || i > 0 && h.Column < r.Histograms[i-1].Column || (h.H == nil) == (h.FH == nil) {
			t.Fatalf("histogram %d: %+v", i, h)
		}
		histograms[h.Column] = true
	}
	for i := range n {
		if has(uint32(i)) && (r.Schema.Column(i).Kind != series.Float) != histograms[uint32(i)] {
			t.Fatalf("column %d of kind %s: histogram %t", i, r.Schema.Column(i).Kind, histograms[uint32(i)])
		}
	}
	for i, e := range r.Exemplars {
		if !has(e.Column) || i > 0 && e.Column < r.Exemplars[i-1].Column {
			t.Fatalf("exemplar %d: %+v", i, e)
		}
	}
	for i, s := range r.Starts {
		if !has(s.Column) || i > 0 && s.Column <= r.Starts[i-1].Column {
			t.Fatalf("start %d: %+v", i, s)
		}
	}
}

// FuzzRows gives any body to a parser with everything turned on; the rows must keep the rules.
func FuzzRows(f *testing.F) {
	native := []byte("\x0a\x01h\x18\x04\x22\x1a\x3a\x18\x08\x03\x11\x00\x00\x00\x00\x00\x00\x10\x40\x28\x03\x31\x00\x00\x00\x00\x00\x00\x00\x00\x62\x04\x08\x02\x10\x01")
	native = append([]byte{byte(len(native))}, native...)
	f.Add(native, native, "application/vnd.google.protobuf", uint8(1))
	f.Add([]byte("# TYPE h histogram\nh_bucket{le=\"1\"} 1 5\nh_bucket{le=\"+Inf\"} 3 5\nh_sum 4\nh_count 3\n"), []byte("h 1\nh 2 6\n"), text, uint8(2))
	f.Add([]byte("# TYPE a counter\na_total 5 # {id=\"x\"} 1\na_created 1\n# EOF\n"), []byte("a 1 7\n# EOF\n"), openMetrics, uint8(4))
	f.Fuzz(func(t *testing.T, one, two []byte, contentType string, options uint8) {
		p := newParser(func(o *Options) {
			o.NativeHistograms, o.ConvertClassic = options&1 != 0, options&2 != 0
			o.KeepClassic, o.TrackStaleness = options&4 != 0, options&8 != 0
			o.BucketLimit, o.MinBucketFactor = int(options>>4), 1.1
			o.CompactAfter = 1
		})
		for i, body := range [][]byte{one, two, one, nil, two} {
			res, err := p.Parse(bytes.Clone(body), contentType, now+int64(i))
			checkRow(t, res.Whole)
			if err != nil && res.Whole.Samples() != 1 {
				t.Fatalf("failed body gives %d samples", res.Whole.Samples())
			}
			for _, r := range res.Stamped {
				checkRow(t, &r)
			}
		}
	})
}
