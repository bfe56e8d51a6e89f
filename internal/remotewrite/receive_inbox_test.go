package remotewrite_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/remotewrite"
	"github.com/thalweg/thalweg/internal/series"
)

// testTime is when the tests of the receiver begin.
const testTime = 1_700_000_000_000

// inbox is a receiver, and what it committed.
type inbox struct {
	t        testing.TB
	receiver *remotewrite.Receiver
	options  remotewrite.ReceiverOptions

	mu      sync.Mutex
	now     int64
	fail    error                                             // of Commit
	enter   func(rows []*series.Row)                          // if not nil, called by Commit without the lock
	samples map[string][]string                               // by series: value@time, in the order of commits
	rows    []string                                          // source key, time and number of columns
	seen    map[string]struct{ source, column labels.Labels } // of a series, when it came last
	schemas map[string]*series.Schema                         // by key of the source
	family  map[string]series.Family                          // by series
	encoder *frame.Encoder
}

func newInbox(t testing.TB, change func(*remotewrite.ReceiverOptions)) *inbox {
	in := &inbox{
		t: t, now: testTime, samples: map[string][]string{}, schemas: map[string]*series.Schema{}, family: map[string]series.Family{},
		seen:    map[string]struct{ source, column labels.Labels }{},
		encoder: frame.NewEncoder(frame.EncoderConfig{Epoch: 1, MaxBody: 1 << 20}),
	}
	in.options = remotewrite.ReceiverOptions{
		Catalog: series.NewCatalog(), Commit: in.commit, Logger: slog.New(slog.DiscardHandler),
		Site: func(r *http.Request) string { return "site" + r.Header.Get("Test-Site") },
		Now: func() time.Time {
			in.mu.Lock()
			defer in.mu.Unlock()
			return time.UnixMilli(in.now)
		},
	}
	if change != nil {
		change(&in.options)
	}
	in.receiver = remotewrite.NewReceiver(in.options)
	return in
}

func (in *inbox) commit(_ context.Context, site string, rows []*series.Row) error {
	if in.enter != nil {
		in.enter(rows)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.fail != nil {
		return in.fail
	}
	last := map[*series.Source]int64{}
	for _, row := range rows {
		if before, ok := last[row.Source]; ok && row.T < before {
			in.t.Errorf("a row of %s at %d stands behind one at %d", row.Source.Key, row.T, before)
		}
		last[row.Source] = row.T
		if _, err := in.encoder.Append(nil, row, in.now); err != nil {
			in.t.Errorf("row of %s is none: %v", row.Source.Key, err)
		}
		in.store(site, row)
	}
	return nil
}

func (in *inbox) store(site string, row *series.Row) {
	if row.Whole() || row.End {
		in.t.Errorf("row of %s is not partial", row.Source.Key)
	}
	in.rows = append(in.rows, fmt.Sprintf("%s@%d/%d", row.Source.Key, row.T-testTime, len(row.Columns)))
	in.schemas[row.Source.Key] = row.Schema
	b := labels.NewBuilder(labels.EmptyLabels())
	name := func(column uint32) string {
		return row.Source.SeriesLabels(b, row.Schema.Column(int(column))).String()
	}
	add := func(column uint32, text string) {
		key := name(column)
		in.samples[key] = append(in.samples[key], text)
	}
	for i, column := range row.Columns {
		c := row.Schema.Column(int(column))
		in.family[name(column)] = c.Family
		in.seen[name(column)] = struct{ source, column labels.Labels }{row.Source.Labels, c.Labels}
		if c.Kind == series.Float {
			v := strconv.FormatFloat(row.Values[i], 'g', -1, 64)
			if value.IsStaleNaN(row.Values[i]) {
				v = "stale"
			}
			add(column, fmt.Sprintf("%s@%d", v, row.T-testTime))
		}
	}
	for _, h := range row.Histograms {
		kind := row.Schema.Column(int(h.Column)).Kind
		if h.H != nil {
			sum := fmt.Sprint(h.H.Sum)
			if value.IsStaleNaN(h.H.Sum) {
				sum = "stale"
			}
			add(h.Column, fmt.Sprintf("%s(%d/%s/%d)@%d", kind, h.H.Count, sum, h.H.Schema, row.T-testTime))
		} else {
			add(h.Column, fmt.Sprintf("float %s(%g/%g/%d)@%d", kind, h.FH.Count, h.FH.Sum, h.FH.Schema, row.T-testTime))
		}
	}
	for _, e := range row.Exemplars {
		add(e.Column, fmt.Sprintf("#%s %g@%d", e.Exemplar.Labels, e.Exemplar.Value, e.Exemplar.Ts-testTime))
	}
	for _, s := range row.Starts {
		add(s.Column, fmt.Sprintf("since %d", s.Ms-testTime))
	}
}

// post sends a body to the receiver.
func (in *inbox) post(header http.Header, body []byte) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/api/v1/write", bytes.NewReader(body))
	r.Header = header
	w := httptest.NewRecorder()
	in.receiver.ServeHTTP(w, r)
	return w
}

const typeV2 = "application/x-protobuf;proto=io.prometheus.write.v2.Request"

func snappy(t testing.TB, m interface{ Marshal() ([]byte, error) }) []byte {
	body, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return s2.EncodeSnappy(nil, body)
}

func (in *inbox) postV1(r *prompb.WriteRequest) *httptest.ResponseRecorder {
	return in.post(http.Header{"Content-Type": {"application/x-protobuf"}, "Content-Encoding": {"snappy"}}, snappy(in.t, r))
}

func (in *inbox) postV2(r *writev2.Request) *httptest.ResponseRecorder {
	return in.post(http.Header{"Content-Type": {typeV2}, "Content-Encoding": {"snappy"}}, snappy(in.t, r))
}

// scraped is one series with samples, as tests write it.
type scraped struct {
	labels     []string
	values     []float64
	times      []int64 // after testTime
	histograms []prompb.Histogram
	exemplars  []prompb.Exemplar
	metadata   []string // type, help, unit
	start      int64
}

// at returns a series with one sample.
func at(t int64, v float64, nameAndLabels ...string) scraped {
	return scraped{labels: append([]string{"__name__"}, nameAndLabels...), values: []float64{v}, times: []int64{t}}
}

func v1(list ...scraped) *prompb.WriteRequest {
	r := &prompb.WriteRequest{}
	for _, s := range list {
		series := prompb.TimeSeries{Exemplars: s.exemplars, Histograms: s.histograms}
		for i := 0; i < len(s.labels); i += 2 {
			series.Labels = append(series.Labels, prompb.Label{Name: s.labels[i], Value: s.labels[i+1]})
		}
		for i, v := range s.values {
			series.Samples = append(series.Samples, prompb.Sample{Value: v, Timestamp: testTime + s.times[i]})
		}
		r.Timeseries = append(r.Timeseries, series)
	}
	return r
}

func v2(list ...scraped) *writev2.Request {
	symbols := writev2.NewSymbolTable()
	refs := func(list []string) (refs []uint32) {
		for _, s := range list {
			refs = append(refs, symbols.Symbolize(s))
		}
		return refs
	}
	r := &writev2.Request{}
	for _, s := range list {
		series := writev2.TimeSeries{LabelsRefs: refs(s.labels)}
		for i, v := range s.values {
			sample := writev2.Sample{Value: v, Timestamp: testTime + s.times[i]}
			if s.start != 0 {
				sample.StartTimestamp = testTime + s.start
			}
			series.Samples = append(series.Samples, sample)
		}
		for _, h := range s.histograms {
			if h.IsFloatHistogram() {
				series.Histograms = append(series.Histograms, writev2.FromFloatHistogram(0, h.Timestamp, h.ToFloatHistogram()))
			} else {
				series.Histograms = append(series.Histograms, writev2.FromIntHistogram(0, h.Timestamp, h.ToIntHistogram()))
			}
		}
		for _, e := range s.exemplars {
			var list []string
			for _, l := range e.Labels {
				list = append(list, l.Name, l.Value)
			}
			series.Exemplars = append(series.Exemplars, writev2.Exemplar{LabelsRefs: refs(list), Value: e.Value, Timestamp: e.Timestamp})
		}
		if m := s.metadata; m != nil {
			typ := writev2.Metadata_MetricType(writev2.Metadata_MetricType_value["METRIC_TYPE_"+strings.ToUpper(m[0])])
			series.Metadata = writev2.Metadata{Type: typ, HelpRef: symbols.Symbolize(m[1]), UnitRef: symbols.Symbolize(m[2])}
		}
		r.Timeseries = append(r.Timeseries, series)
	}
	r.Symbols = symbols.Symbols()
	return r
}

// expect checks an answer: its status, what its text begins with, and the counts of 2.0 if there are any.
func (in *inbox) expect(w *httptest.ResponseRecorder, status int, text string, written ...int) {
	in.t.Helper()
	if w.Code != status || !strings.HasPrefix(w.Body.String(), text) || text == "" && w.Body.Len() > 0 {
		in.t.Errorf("the answer is %d %q, want %d %q", w.Code, w.Body, status, text)
	}
	var got []int
	for _, sort := range []string{"Samples", "Histograms", "Exemplars"} {
		if s := w.Header().Get("X-Prometheus-Remote-Write-" + sort + "-Written"); s != "" {
			n, err := strconv.Atoi(s)
			if err != nil {
				in.t.Error(err)
			}
			got = append(got, n)
		}
	}
	if !slices.Equal(got, written) {
		in.t.Errorf("%v are written, want %v", got, written)
	}
}

// stored checks what was committed of all series since the last call.
func (in *inbox) stored(want map[string][]string) {
	in.t.Helper()
	in.mu.Lock()
	defer in.mu.Unlock()
	for name := range in.samples {
		if _, ok := want[name]; !ok {
			in.t.Errorf("%s has %q, which nobody wants", name, in.samples[name])
		}
	}
	for name, samples := range want {
		if !slices.Equal(in.samples[name], samples) {
			in.t.Errorf("%s has %q, want %q", name, in.samples[name], samples)
		}
	}
	clear(in.samples)
}

func (in *inbox) pass(d time.Duration) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.now += d.Milliseconds()
}

// metric returns the value of one of the receiver's own metrics; the labels are sorted by name.
func (in *inbox) metric(name string, lbls ...string) float64 {
	in.t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(in.receiver.Metrics()...)
	families, err := registry.Gather()
	if err != nil {
		in.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "thalweg_remote_write_receive_"+name {
			continue
		}
		for _, m := range f.Metric {
			var values []string
			for _, l := range m.Label {
				values = append(values, l.GetValue())
			}
			if slices.Equal(values, lbls) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

// posts are the ways to send the same.
var posts = map[string]func(in *inbox, list ...scraped) *httptest.ResponseRecorder{
	"1.0": func(in *inbox, list ...scraped) *httptest.ResponseRecorder { return in.postV1(v1(list...)) },
	"2.0": func(in *inbox, list ...scraped) *httptest.ResponseRecorder { return in.postV2(v2(list...)) },
}

func (in *inbox) expectOK(w *httptest.ResponseRecorder) {
	in.t.Helper()
	if w.Code != 204 || w.Body.Len() > 0 {
		in.t.Errorf("the answer is %d %q", w.Code, w.Body)
	}
}

func ih(t int64, h *histogram.Histogram) prompb.Histogram {
	return prompb.FromIntHistogram(testTime+t, h)
}

func fh(t int64, h *histogram.FloatHistogram) prompb.Histogram {
	return prompb.FromFloatHistogram(testTime+t, h)
}

func buckets(schema int32, counts ...int64) *histogram.Histogram {
	h := &histogram.Histogram{Schema: schema, Sum: 7, PositiveSpans: []histogram.Span{{Length: uint32(len(counts))}}}
	last := int64(0)
	for _, n := range counts {
		h.Count += uint64(n)
		h.PositiveBuckets = append(h.PositiveBuckets, n-last)
		last = n
	}
	return h
}

func exemplar(t int64, v float64, list ...string) prompb.Exemplar {
	e := prompb.Exemplar{Value: v, Timestamp: testTime + t}
	for i := 0; i < len(list); i += 2 {
		e.Labels = append(e.Labels, prompb.Label{Name: list[i], Value: list[i+1]})
	}
	return e
}
