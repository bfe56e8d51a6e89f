package bench

import (
	"iter"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"

	"github.com/thalweg/thalweg/internal/federate"
	"github.com/thalweg/thalweg/internal/series"
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

// newFederation gives both the same rows, with 20 samples of each series in the database.
func newFederation(b testing.TB, rows iter.Seq[*series.Row]) *federation {
	st, err := store.New(store.Options{Config: store.DefaultConfig()})
	if err != nil {
		b.Fatal(err)
	}
	last := time.UnixMilli(begin).Add(scrapesInWindow * scrapeInterval)
	now := last.Add(time.Second)
	p := newPrometheus(b, now)
	for row := range rows {
		row.T = last.UnixMilli()
		if err := st.Apply("ams-1", store.Rank{Frame: 1}, row, row.T); err != nil {
			b.Fatal(err)
		}
		builder := labels.NewBuilder(labels.EmptyLabels())
		all := make([]labels.Labels, len(row.Values))
		for c := range row.Values {
			builder.Reset(row.Source.SeriesLabels(builder, row.Schema.Column(c)))
			all[c] = builder.Set("site", "ams-1").Labels()
		}
		refs := make([]storage.SeriesRef, len(all))
		for n := range scrapesInWindow {
			before := scrapesInWindow - 1 - n
			t := last.Add(-time.Duration(before) * scrapeInterval)
			p.appendScrape(b, refs, all, t.UnixMilli(), func(c int) float64 { return row.Values[c] - float64(before) })
		}
	}
	hub, err := federate.New(federate.Options{Select: st.Select, Config: federate.DefaultConfig(), Now: func() time.Time { return now }})
	if err != nil {
		b.Fatal(err)
	}
	return &federation{hub: hub, prometheus: p.handler()}
}

// nodeRows are rows of a fleet of node_exporters.
func nodeRows(b testing.TB) iter.Seq[*series.Row] {
	return func(yield func(*series.Row) bool) {
		w := newWorkload(b, "node", federated)
		for i := range w.targets {
			if !yield(w.parse(b, i, w.targets[i].next())) {
				return
			}
		}
	}
}

// podRows are as many series, of which no two sources have the same.
func podRows(yield func(*series.Row) bool) {
	catalog := series.NewCatalog()
	for i := range 100 {
		row := bareRow(i, catalog.Extend(catalog.Empty(), podColumns(i)))
		for c := range row.Values {
			row.Values[c] = float64(i*1_000_000 + c*4096)
		}
		if !yield(row) {
			return
		}
	}
}

// BenchmarkFederate reports what an answer costs a hub and how large it is, and how many times the time that is what
// Prometheus needs for the same selection: its handler over its database, with 20 samples of each series (see prometheus).
// The hub's answers have types and help, which those of Prometheus have not; OpenMetrics is compared with its text,
// since it knows no other there, and zstd with its gzip. In unshared no two
// sources have the same series, so that nothing can be rendered once for several. Both write into nothing. Beside the time to the first byte
// stands what an answer allocates, which does not depend on how large it is.
func BenchmarkFederate(b *testing.B) {
	const (
		text  = "text/plain;version=0.0.4"
		om    = "application/openmetrics-text;version=1.0.0"
		proto = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
	)
	fleet, pods := newFederation(b, nodeRows(b)), newFederation(b, podRows)
	for _, c := range []struct{ name, match, format, accept, coding string }{
		{"all", `{__name__=~".+"}`, "text", text, ""},
		{"all", `{__name__=~".+"}`, "gzip", text, "gzip"},
		{"all", `{__name__=~".+"}`, "zstd", text, "zstd"},
		{"all", `{__name__=~".+"}`, "openmetrics", om, ""},
		{"all", `{__name__=~".+"}`, "protobuf", proto, ""},
		{"selective", `{__name__=~"node_cpu_.+"}`, "text", text, ""},
		{"selective", `{__name__=~"node_cpu_.+"}`, "gzip", text, "gzip"},
		{"unshared", `{__name__=~".+"}`, "text", text, ""},
		{"unshared", `{__name__=~".+"}`, "gzip", text, "gzip"},
	} {
		f := fleet
		if c.name == "unshared" {
			f = pods
		}
		b.Run(c.name+"/"+c.format, func(b *testing.B) {
			r := httptest.NewRequest(http.MethodGet, "/federate?match[]="+url.QueryEscape(c.match), nil)
			r.Header.Set("Accept", c.accept)
			theirs := r.Clone(b.Context())
			r.Header.Set("Accept-Encoding", c.coding)
			if c.coding != "" {
				theirs.Header.Set("Accept-Encoding", "gzip")
			}
			var ours, reference, first time.Duration
			var size int
			var before, after runtime.MemStats
			allocated := uint64(0)
			for b.Loop() {
				w := &sized{header: http.Header{}}
				runtime.ReadMemStats(&before)
				start := time.Now()
				f.hub.ServeHTTP(w, r)
				ours += time.Since(start)
				runtime.ReadMemStats(&after)
				first += w.first.Sub(start)
				allocated += after.TotalAlloc - before.TotalAlloc
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
			b.ReportMetric(float64(first.Microseconds())/1e3/float64(b.N), "first-byte-ms")
			b.ReportMetric(float64(allocated)/1e3/float64(b.N), "alloc-KB")
			b.ReportMetric(float64(reference)/float64(ours), "x-prometheus")
		})
	}
}

// sized is a reader of any speed, which counts and notes when the first byte comes.
type sized struct {
	header http.Header
	bytes  int
	first  time.Time
}

func (s *sized) Header() http.Header { return s.header }
func (s *sized) WriteHeader(int)     {}
func (s *sized) Write(p []byte) (int, error) {
	if s.bytes == 0 {
		s.first = time.Now()
	}
	s.bytes += len(p)
	return len(p), nil
}

// Both have to have the same samples, or the comparison means nothing.
func TestFederationsAgree(t *testing.T) {
	t.Run("fleet", func(t *testing.T) { compareFederations(t, newFederation(t, nodeRows(t))) })
	t.Run("unshared", func(t *testing.T) { compareFederations(t, newFederation(t, podRows)) })
}

func compareFederations(t *testing.T, f *federation) {
	lines := func(h http.Handler) []string {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, `/federate?match[]={__name__=~".%2b"}`, nil))
		var all []string
		for line := range strings.Lines(w.Body.String()) {
			if line[0] != '#' {
				all = append(all, line)
			}
		}
		slices.Sort(all)
		return all
	}
	ours, theirs := lines(f.hub), lines(f.prometheus)
	if len(ours) < 100_000 || len(ours) != len(theirs) {
		t.Fatalf("%d and %d lines", len(ours), len(theirs))
	}
	for i := range ours {
		if ours[i] != theirs[i] {
			t.Fatalf("%q and %q", ours[i], theirs[i])
		}
	}
}
