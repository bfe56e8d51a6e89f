package federate_test

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql/parser"
	"google.golang.org/protobuf/proto"

	"github.com/thalweg/thalweg/internal/federate"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/store"
)

// oracle is what Prometheus does when it is federated, over a plain list of the newest samples and with its own
// libraries for everything that is written. Where its order is left to chance (within a name), families do not
// interleave.
type oracle struct {
	external labels.Labels
	lookback time.Duration
	samples  []promSample
}

type promSample struct {
	labels labels.Labels
	t      int64
	v      float64
	h      *histogram.FloatHistogram // nil: a float
}

func (p *oracle) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		http.Error(w, fmt.Sprintf("error parsing form values: %v", err), http.StatusBadRequest)
		return
	}
	sets, err := parser.NewParser(parser.Options{}).ParseMetricSelectors(r.Form["match[]"])
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	format := expfmt.NegotiateAccept(r.Header, expfmt.NewFormat(expfmt.TypeProtoDelim), expfmt.NewFormat(expfmt.TypeProtoText),
		expfmt.NewFormat(expfmt.TypeProtoCompact), expfmt.NewFormat(expfmt.TypeTextPlain))
	w.Header().Set("Content-Type", string(format))
	selected := slices.DeleteFunc(slices.Clone(p.samples), func(s promSample) bool {
		stale := value.IsStaleNaN(s.v) || s.h != nil && value.IsStaleNaN(s.h.Sum)
		old := s.t < now.Add(-p.lookback).UnixMilli()
		speechless := s.h != nil && !s.h.UsesCustomBuckets() && format.FormatType() == expfmt.TypeTextPlain
		return stale || old || speechless || s.labels.Get(model.MetricNameLabel) == "" || !selects(sets, s.labels)
	})
	slices.SortStableFunc(selected, func(a, b promSample) int {
		return cmp.Or(cmp.Compare(a.labels.Get(model.MetricNameLabel), b.labels.Get(model.MetricNameLabel)), cmp.Compare(a.typ(), b.typ()))
	})
	encoder := expfmt.NewEncoder(w, format)
	for len(selected) > 0 {
		name, typ := selected[0].labels.Get(model.MetricNameLabel), selected[0].typ()
		family := &dto.MetricFamily{Name: new(name), Type: typ.Enum()}
		for len(selected) > 0 && selected[0].labels.Get(model.MetricNameLabel) == name && selected[0].typ() == typ {
			family.Metric = append(family.Metric, p.metric(selected[0]))
			selected = selected[1:]
		}
		if err := encoder.Encode(family); err != nil {
			panic(err)
		}
	}
}

func selects(sets [][]*labels.Matcher, ls labels.Labels) bool {
	return slices.ContainsFunc(sets, func(set []*labels.Matcher) bool {
		return len(set) > 0 && !slices.ContainsFunc(set, func(m *labels.Matcher) bool { return !m.Matches(ls.Get(m.Name)) })
	})
}

func (s *promSample) typ() dto.MetricType {
	switch {
	case s.h == nil:
		return dto.MetricType_UNTYPED // which is the least but for gauge, and stands first
	case s.h.CounterResetHint == histogram.GaugeType:
		return dto.MetricType_GAUGE_HISTOGRAM
	}
	return dto.MetricType_HISTOGRAM
}

func (p *oracle) metric(s promSample) *dto.Metric {
	m := &dto.Metric{TimestampMs: new(s.t)}
	add := func(l labels.Label) {
		m.Label = append(m.Label, &dto.LabelPair{Name: new(l.Name), Value: new(l.Value)})
	}
	s.labels.Range(func(l labels.Label) {
		if l.Name != model.MetricNameLabel {
			add(l)
		}
	})
	external := p.external
	if !external.Has(model.InstanceLabel) {
		b := labels.NewScratchBuilder(external.Len() + 1)
		external.Range(func(l labels.Label) { b.Add(l.Name, l.Value) })
		b.Add(model.InstanceLabel, "")
		b.Sort()
		external = b.Labels()
	}
	external.Range(func(l labels.Label) {
		if !s.labels.Has(l.Name) {
			add(l)
		}
	})
	switch {
	case s.h == nil:
		m.Untyped = &dto.Untyped{Value: new(s.v)}
	case s.h.UsesCustomBuckets():
		m.Histogram = &dto.Histogram{SampleCountFloat: new(s.h.Count), SampleSum: new(s.h.Sum)}
		counts := map[int32]float64{}
		for it := s.h.PositiveBucketIterator(); it.Next(); {
			counts[it.At().Index] = it.At().Count
		}
		cumulative := 0.0
		for i, bound := range s.h.CustomValues {
			cumulative += counts[int32(i)]
			m.Histogram.Bucket = append(m.Histogram.Bucket, &dto.Bucket{UpperBound: new(bound), CumulativeCountFloat: new(cumulative)})
		}
	default:
		spans := func(from []histogram.Span) (to []*dto.BucketSpan) {
			for _, s := range from {
				to = append(to, &dto.BucketSpan{Offset: new(s.Offset), Length: new(s.Length)})
			}
			return to
		}
		m.Histogram = &dto.Histogram{
			SampleCountFloat: new(s.h.Count), SampleSum: new(s.h.Sum), Schema: new(s.h.Schema),
			ZeroThreshold: new(s.h.ZeroThreshold), ZeroCountFloat: new(s.h.ZeroCount),
			PositiveSpan: spans(s.h.PositiveSpans), PositiveCount: s.h.PositiveBuckets,
			NegativeSpan: spans(s.h.NegativeSpans), NegativeCount: s.h.NegativeBuckets,
		}
	}
	return m
}

// Untyped answers are those of Prometheus in everything but the order within a name, whatever is asked for and how.
func TestUntypedIsPrometheus(t *testing.T) {
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 2))
		one := func(of ...string) string { return of[r.IntN(len(of))] }
		external := labels.EmptyLabels()
		for _, name := range []string{"instance", "site", "le", "zone"} {
			if r.IntN(4) == 0 {
				b := labels.NewBuilder(external)
				external = b.Set(name, "external").Labels()
			}
		}
		reference := &oracle{external: external, lookback: 5 * time.Minute}
		h := newHub(t, func(o *federate.Options, _ *store.Config) {
			o.Config.Types, o.ExternalLabels = federate.Untyped, external
		})
		populate(h, reference, r)
		for range 12 {
			query := url.Values{}
			for range r.IntN(3) + r.IntN(2) {
				query.Add("match[]", one(`{__name__=~".+"}`, `{__name__=~"h.*"}`, "up", `{"föö.bar"}`, `{job="a"}`, `{job!="a",zone=""}`, `{instance=""}`,
					`{}`, `{job=~".*",__name__!~"h_.*"}`, `up{job=~"b|"}`, `{zone="external"}`, `{le!=""}`, "rate(up)", `up{`, `{a="1"} offset 1m`))
			}
			request := httptest.NewRequest(http.MethodGet, "/federate?"+query.Encode(), nil)
			if accept := one("", "*/*", acceptText, acceptProto, "text/plain;escaping=dots", "text/plain;escaping=values", acceptOpenMetrics,
				"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;escaping=allow-utf-8",
				"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text"); accept != "" {
				request.Header.Set("Accept", accept)
			}
			got, want := httptest.NewRecorder(), httptest.NewRecorder()
			h.handler.ServeHTTP(got, request)
			reference.ServeHTTP(want, request)
			contentType := want.Header().Get("Content-Type")
			if got.Code != want.Code || got.Header().Get("Content-Type") != contentType {
				t.Fatalf("seed %d: %s: got %d %s, want %d %s", seed, query, got.Code, got.Header().Get("Content-Type"), want.Code, contentType)
			}
			if g, w := normal(t, contentType, got.Body), normal(t, contentType, want.Body); g != w {
				t.Fatalf("seed %d: %s, Accept %s:\n got %s\nwant %s", seed, query, request.Header.Get("Accept"), g, w)
			}
		}
	}
}

// normal brings what Prometheus does in no particular order into one, and leaves everything else as it is.
func normal(t *testing.T, contentType string, body *bytes.Buffer) string {
	t.Helper()
	format := expfmt.Format(contentType)
	if format.FormatType() == expfmt.TypeTextPlain || format.FormatType() == expfmt.TypeUnknown {
		return sorted(body.String())
	}
	if format.FormatType() != expfmt.TypeProtoDelim {
		var words []string // the library puts spaces at random
		for line := range bytes.Lines(body.Bytes()) {
			words = append(words, string(bytes.Join(bytes.Fields(line), []byte(" "))))
		}
		slices.Sort(words)
		return fmt.Sprint(words)
	}
	out := ""
	for decoder := expfmt.NewDecoder(body, format); ; {
		var family dto.MetricFamily
		if err := decoder.Decode(&family); err == io.EOF {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		var metrics []string
		for _, m := range family.Metric {
			b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			metrics = append(metrics, string(b))
		}
		slices.Sort(metrics)
		family.Metric = nil
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&family)
		if err != nil {
			t.Fatal(err)
		}
		out += fmt.Sprintf("%q %q\n", b, metrics)
	}
}

// populate gives both the same samples, of sources with one or several series.
func populate(h *hub, reference *oracle, r *rand.Rand) {
	one := func(of ...string) string { return of[r.IntN(len(of))] }
	seen := map[string]bool{}
	for i := range 12 {
		common := labels.NewBuilder(labels.EmptyLabels())
		common.Set("job", one("", "a", "b")).Set("instance", one("", "i")).Set("zone", one("", "", "z"))
		row := &series.Row{
			Source: &series.Source{Key: fmt.Sprint(i), Labels: common.Labels()},
			T:      now.UnixMilli() - int64(r.IntN(310_000)),
		}
		var columns []series.Column
		for range 1 + r.IntN(8) {
			b := labels.NewBuilder(common.Labels())
			name := one("up", "h", "h", "h_bucket", "h_total", "föö.bar", "other:rule")
			b.Set("__name__", name).Set("le", one("", "", "1.0")).Set("dév", one("", "x", "q\"\n")).Set("n", one("1", "2", "3", "4"))
			all := b.Labels()
			if seen[all.String()] {
				continue
			}
			seen[all.String()] = true
			kind := series.Float
			if name == "h" {
				kind = series.Kind(r.IntN(3))
			}
			column := uint32(len(columns))
			columns = append(columns, series.Column{
				Labels: all, Kind: kind, Family: series.Family{Name: name, Type: model.MetricTypeGauge, Help: "Not to be seen.", Unit: "h"},
			})
			s := promSample{labels: all, t: row.T}
			if kind == series.Float {
				s.v = []float64{0, 1, -1.5, 1e300, math.NaN(), math.Float64frombits(value.StaleNaN), math.Inf(1)}[r.IntN(7)]
			} else {
				at := nativeHistogram(r, kind)
				at.Column = column
				row.Histograms = append(row.Histograms, at)
				if s.h = at.FH; s.h == nil {
					s.h = at.H.ToFloat(nil)
				}
			}
			row.Values = append(row.Values, s.v)
			row.Starts = append(row.Starts, series.StartAt{Column: column, Ms: 1})
			reference.samples = append(reference.samples, s)
		}
		row.Schema = h.catalog.Extend(h.catalog.Empty(), columns)
		h.apply(row)
	}
}

func nativeHistogram(r *rand.Rand, kind series.Kind) (at series.HistogramAt) {
	h := &histogram.Histogram{Schema: int32(r.IntN(4)), Count: uint64(r.IntN(2) * 12), Sum: r.Float64()}
	switch r.IntN(3) {
	case 0: // empty
	case 1:
		h.ZeroThreshold, h.ZeroCount, h.PositiveSpans, h.PositiveBuckets = 1e-9, 2, []histogram.Span{{Offset: -2, Length: 2}}, []int64{3, 1}
		h.NegativeSpans, h.NegativeBuckets = []histogram.Span{{Offset: 1, Length: 1}}, []int64{3}
	case 2:
		h.Schema, h.CustomValues = histogram.CustomBucketsSchema, []float64{1, 2, 4}[:r.IntN(4)]
		h.PositiveSpans, h.PositiveBuckets = []histogram.Span{{Length: 1}}, []int64{3}
	}
	if kind == series.GaugeHistogram {
		h.CounterResetHint = histogram.GaugeType
	}
	if r.IntN(2) == 0 {
		return series.HistogramAt{FH: h.ToFloat(nil)}
	}
	return series.HistogramAt{H: h}
}
