package bench

import (
	"cmp"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/thalweg/thalweg/internal/federate"
	"github.com/thalweg/thalweg/internal/store"
)

const (
	federated       = 200 // node_exporters, with some 530 series each
	scrapesInWindow = 20  // of Prometheus, which looks through the samples of the last 5 min
	scrapeInterval  = 15 * time.Second
)

// federation is a hub and a Prometheus that have the same series.
type federation struct {
	hub, prometheus http.Handler
}

func newFederation(b testing.TB) *federation {
	st, err := store.New(store.Options{Config: store.DefaultConfig()})
	if err != nil {
		b.Fatal(err)
	}
	w := newWorkload(b, "node", federated)
	last := time.UnixMilli(begin).Add(scrapesInWindow * scrapeInterval)
	now := last.Add(time.Second)
	p := &promFederation{series: map[string][]promSeries{}, now: now}
	for i := range w.targets {
		row := w.parse(b, i, w.targets[i].next())
		row.T = last.UnixMilli()
		if err := st.Apply("ams-1", store.Rank{Frame: 1}, row, row.T); err != nil {
			b.Fatal(err)
		}
		builder := labels.NewBuilder(labels.EmptyLabels())
		for c := range row.Values {
			builder.Reset(row.Source.SeriesLabels(builder, row.Schema.Column(c)))
			s := promSeries{labels: builder.Set("site", "ams-1").Labels(), chunk: chunkenc.NewXORChunk()}
			app, err := s.chunk.Appender()
			if err != nil {
				b.Fatal(err)
			}
			for n := range scrapesInWindow {
				before := scrapesInWindow - 1 - n
				app.Append(0, last.Add(-time.Duration(before)*scrapeInterval).UnixMilli(), row.Values[c]-float64(before))
			}
			name := s.labels.Get(model.MetricNameLabel)
			p.series[name] = append(p.series[name], s)
		}
	}
	hub, err := federate.New(federate.Options{Select: st.Select, Config: federate.DefaultConfig(), Now: func() time.Time { return now }})
	if err != nil {
		b.Fatal(err)
	}
	return &federation{hub: hub, prometheus: p}
}

// promFederation does what Prometheus does when it is federated, with its own chunks, iterators, encoders and gzip. In
// place of its head, which would bring a whole database, there are sorted series by name: finding them costs nothing
// here, so that the real one needs more.
type promFederation struct {
	series map[string][]promSeries // by name
	now    time.Time
}

type promSeries struct {
	labels labels.Labels
	chunk  *chunkenc.XORChunk
}

type promSample struct {
	labels labels.Labels
	t      int64
	v      float64
}

func (p *promFederation) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		panic(err)
	}
	sets, err := parser.NewParser(parser.Options{}).ParseMetricSelectors(r.Form["match[]"])
	if err != nil {
		panic(err)
	}
	format := expfmt.NegotiateAccept(r.Header, expfmt.NewFormat(expfmt.TypeProtoDelim), expfmt.NewFormat(expfmt.TypeTextPlain))
	w.Header().Set("Content-Type", string(format))
	samples := p.samples(sets)
	slices.SortFunc(samples, func(a, b promSample) int {
		return cmp.Compare(a.labels.Get(model.MetricNameLabel), b.labels.Get(model.MetricNameLabel))
	})
	out := io.Writer(w)
	if r.Header.Get("Accept-Encoding") == "gzip" {
		z := gzip.NewWriter(w)
		defer z.Close()
		out = z
	}
	encoder := expfmt.NewEncoder(out, format)
	var family *dto.MetricFamily
	ship := func() {
		if family == nil {
			return
		}
		if err := encoder.Encode(family); err != nil {
			panic(err)
		}
	}
	for _, s := range samples {
		if name := s.labels.Get(model.MetricNameLabel); family == nil || family.GetName() != name {
			ship()
			family = &dto.MetricFamily{Type: dto.MetricType_UNTYPED.Enum(), Name: new(name)}
		}
		metric := &dto.Metric{TimestampMs: new(s.t), Untyped: &dto.Untyped{Value: new(s.v)}}
		instance := false
		s.labels.Range(func(l labels.Label) {
			if l.Name != model.MetricNameLabel {
				metric.Label = append(metric.Label, &dto.LabelPair{Name: new(l.Name), Value: new(l.Value)})
				instance = instance || l.Name == model.InstanceLabel
			}
		})
		if !instance {
			metric.Label = append(metric.Label, &dto.LabelPair{Name: new(model.InstanceLabel), Value: new("")})
		}
		family.Metric = append(family.Metric, metric)
	}
	ship()
}

// samples reads the newest sample of each series that one of the sets selects.
func (p *promFederation) samples(sets [][]*labels.Matcher) []promSample {
	const lookback = 5 * time.Minute
	samples := make([]promSample, 0, 8000)
	buffer := storage.NewBuffer(lookback.Milliseconds())
	var it chunkenc.Iterator
	for name, all := range p.series {
		if !selects(sets, func(m *labels.Matcher) bool { return m.Name != model.MetricNameLabel || m.Matches(name) }) {
			continue
		}
		for i := range all {
			s := &all[i]
			if !selects(sets, func(m *labels.Matcher) bool {
				return m.Name == model.MetricNameLabel || m.Matches(s.labels.Get(m.Name))
			}) {
				continue
			}
			it = s.chunk.Iterator(it)
			buffer.Reset(it)
			sample := promSample{labels: s.labels}
			if buffer.Seek(p.now.UnixMilli()) == chunkenc.ValFloat {
				sample.t, sample.v = buffer.At()
			} else if before, ok := buffer.PeekBack(1); ok {
				sample.t, sample.v = before.T(), before.F()
			} else {
				continue
			}
			if !value.IsStaleNaN(sample.v) {
				samples = append(samples, sample)
			}
		}
	}
	return samples
}

func selects(sets [][]*labels.Matcher, matches func(*labels.Matcher) bool) bool {
	return slices.ContainsFunc(sets, func(set []*labels.Matcher) bool {
		return !slices.ContainsFunc(set, func(m *labels.Matcher) bool { return !matches(m) })
	})
}

// BenchmarkFederate reports what an answer costs a hub and how large it is, and how many times the time that is what
// Prometheus needs for the same selection: a port of its handler over series with 20 samples each (see promFederation).
// The hub's answers have types and help, which those of Prometheus have not; OpenMetrics is compared with its text,
// since it knows no other there, and zstd with its gzip. Both write into nothing.
func BenchmarkFederate(b *testing.B) {
	const (
		text  = "text/plain;version=0.0.4"
		om    = "application/openmetrics-text;version=1.0.0"
		proto = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
	)
	f := newFederation(b)
	for _, c := range []struct{ name, match, format, accept, coding string }{
		{"all", `{__name__=~".+"}`, "text", text, ""},
		{"all", `{__name__=~".+"}`, "gzip", text, "gzip"},
		{"all", `{__name__=~".+"}`, "zstd", text, "zstd"},
		{"all", `{__name__=~".+"}`, "openmetrics", om, ""},
		{"all", `{__name__=~".+"}`, "protobuf", proto, ""},
		{"selective", `{__name__=~"node_cpu_.+"}`, "text", text, ""},
		{"selective", `{__name__=~"node_cpu_.+"}`, "gzip", text, "gzip"},
	} {
		b.Run(c.name+"/"+c.format, func(b *testing.B) {
			r := httptest.NewRequest(http.MethodGet, "/federate?match[]="+url.QueryEscape(c.match), nil)
			r.Header.Set("Accept", c.accept)
			theirs := r.Clone(b.Context())
			r.Header.Set("Accept-Encoding", c.coding)
			if c.coding != "" {
				theirs.Header.Set("Accept-Encoding", "gzip")
			}
			var ours, reference time.Duration
			var size int
			for b.Loop() {
				w := &sized{header: http.Header{}}
				start := time.Now()
				f.hub.ServeHTTP(w, r)
				ours += time.Since(start)
				size = w.bytes

				w = &sized{header: http.Header{}}
				start = time.Now()
				f.prometheus.ServeHTTP(w, theirs)
				reference += time.Since(start)
				if size == 0 || w.bytes == 0 {
					b.Fatalf("answers of %d and %d bytes", size, w.bytes)
				}
			}
			b.ReportMetric(float64(ours)/float64(b.N), "ns/op")
			b.ReportMetric(float64(size)/1e6, "MB")
			b.ReportMetric(float64(reference)/float64(ours), "x-prometheus")
		})
	}
}

// sized is a reader of any speed, which counts.
type sized struct {
	header http.Header
	bytes  int
}

func (s *sized) Header() http.Header { return s.header }
func (s *sized) WriteHeader(int)     {}
func (s *sized) Write(p []byte) (int, error) {
	s.bytes += len(p)
	return len(p), nil
}

// Both have to have the same samples, or the comparison means nothing.
func TestFederationsAgree(t *testing.T) {
	f := newFederation(t)
	lines := func(h http.Handler) []string {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, `/federate?match[]={__name__=~"node_cpu_.%2b"}`, nil))
		var all []string
		for line := range strings.Lines(w.Body.String()) {
			if line[0] != '#' {
				all = append(all, line)
			}
		}
		slices.Sort(all)
		return all
	}
	if ours, theirs := lines(f.hub), lines(f.prometheus); len(ours) < 1000 || !slices.Equal(ours, theirs) {
		t.Errorf("%d and %d lines, such as %q and %q", len(ours), len(theirs), ours[0], theirs[0])
	}
}
