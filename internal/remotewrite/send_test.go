package remotewrite

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"go.yaml.in/yaml/v2"

	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/store"
)

// patience is how long anything is waited for.
const patience = 30 * time.Second

// peerSample is one that a receiver was sent.
type peerSample struct {
	labels    string
	t         int64
	value     string // %016x of its bits, or the sum of a histogram
	histogram bool
}

// peerRequest is one that a receiver got.
type peerRequest struct {
	header   http.Header
	body     []byte
	v2       bool
	samples  []peerSample
	metadata int
}

// peer answers requests as a test says, and keeps them.
type peer struct {
	t   *testing.T
	url string

	mu       sync.Mutex
	answer   func(n int, r *peerRequest, w http.ResponseWriter) // n counts from 0; nil: takes everything
	requests []*peerRequest
}

func newPeer(t *testing.T, answer func(n int, r *peerRequest, w http.ResponseWriter)) *peer {
	rec := &peer{t: t, answer: answer}
	server := httptest.NewServer(rec)
	t.Cleanup(server.Close)
	rec.url = server.URL
	return rec
}

func (rec *peer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		rec.t.Errorf("read body: %v", err)
	}
	if r.Method != http.MethodPost {
		rec.t.Errorf("method %s", r.Method)
	}
	req := decodeSent(rec.t, r.Header.Clone(), body)
	rec.mu.Lock()
	n, answer := len(rec.requests), rec.answer
	rec.requests = append(rec.requests, req)
	rec.mu.Unlock()
	if answer != nil {
		answer(n, req, w)
		return
	}
	take(req, w)
}

func (rec *peer) all() []*peerRequest {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	return slices.Clone(rec.requests)
}

// take is the answer of a receiver that takes everything.
func take(r *peerRequest, w http.ResponseWriter) {
	if r.v2 {
		floats, histograms := 0, 0
		for _, s := range r.samples {
			if s.histogram {
				histograms++
			} else {
				floats++
			}
		}
		w.Header().Set("X-Prometheus-Remote-Write-Samples-Written", strconv.Itoa(floats))
		w.Header().Set("X-Prometheus-Remote-Write-Histograms-Written", strconv.Itoa(histograms))
		w.Header().Set("X-Prometheus-Remote-Write-Exemplars-Written", "0")
	}
	w.WriteHeader(http.StatusNoContent)
}

func decodeSent(t *testing.T, h http.Header, body []byte) *peerRequest {
	r := &peerRequest{header: h, body: body}
	plain, err := snappy.Decode(nil, body)
	if err != nil {
		t.Errorf("request is not snappy: %v", err)
		return r
	}
	b := labels.NewScratchBuilder(0)
	switch h.Get("Content-Type") {
	case "application/x-protobuf":
		var m prompb.WriteRequest
		if err := m.Unmarshal(plain); err != nil {
			t.Errorf("request is not one of 1.0: %v", err)
		}
		r.metadata = len(m.Metadata)
		for _, series := range m.Timeseries {
			ls := series.ToLabels(&b, nil).String()
			for _, s := range series.Samples {
				r.samples = append(r.samples, peerSample{ls, s.Timestamp, bitsOf(s.Value), false})
			}
			for _, s := range series.Histograms {
				r.samples = append(r.samples, peerSample{ls, s.Timestamp, bitsOf(s.Sum), true})
			}
		}
	case "application/x-protobuf;proto=io.prometheus.write.v2.Request":
		r.v2 = true
		var m writev2.Request
		if err := m.Unmarshal(plain); err != nil {
			t.Errorf("request is not one of 2.0: %v", err)
		}
		for _, series := range m.Timeseries {
			full, err := series.ToLabels(&b, m.Symbols)
			if err != nil {
				t.Error(err)
			}
			for _, s := range series.Samples {
				r.samples = append(r.samples, peerSample{full.String(), s.Timestamp, bitsOf(s.Value), false})
			}
			for _, s := range series.Histograms {
				r.samples = append(r.samples, peerSample{full.String(), s.Timestamp, bitsOf(s.Sum), true})
			}
		}
	default:
		t.Errorf("content type %q", h.Get("Content-Type"))
	}
	return r
}

func bitsOf(v float64) string { return fmt.Sprintf("%016x", math.Float64bits(v)) }

// sendClock is a time that a test sets.
type sendClock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *sendClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *sendClock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// sendStart of all tests' time, in ms.
const sendStart = 1_700_000_000_000

var external = labels.FromStrings("hub", "core")

// out is a writer under test.
type out struct {
	*Writer
	*sendClock
	t        *testing.T
	registry *prometheus.Registry
	catalog  *series.Catalog
}

// parse returns an element of hub.remote_write.
func parse(t *testing.T, text string) Config {
	t.Helper()
	var c Config
	if err := yaml.UnmarshalStrict([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	return c
}

// newOut returns a writer that retries fast.
func newOut(t *testing.T, url, more string) *out {
	t.Helper()
	o := &out{t: t, sendClock: &sendClock{t: time.UnixMilli(sendStart)}, registry: prometheus.NewPedanticRegistry(), catalog: series.NewCatalog()}
	metrics := NewSendMetrics()
	o.registry.MustRegister(metrics.Metrics()...)
	var err error
	o.Writer, err = NewWriter(WriterOptions{
		Config: o.config(url, more), Store: store.DefaultConfig(), Version: "1", Metrics: metrics, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		ExternalLabels: external, Now: o.sendClock.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	return o
}

func (o *out) config(url, more string) Config {
	o.t.Helper()
	if more == "" {
		more = "queue_config: {min_backoff: 1ms, max_backoff: 4ms}"
	}
	return parse(o.t, fmt.Sprintf("url: %s/write\nname: out\nmetadata_config: {send: false}\n%s\n", url, more))
}

// apply puts another configuration in force.
func (o *out) apply(c Config) {
	o.t.Helper()
	if err := o.Apply(c, external, store.DefaultConfig()); err != nil {
		o.t.Fatal(err)
	}
}

// row returns a row of a source with one series for each value.
func (o *out) row(key string, t int64, values ...float64) *series.Row {
	columns := make([]series.Column, len(values))
	for i := range columns {
		columns[i] = series.Column{
			Labels: labels.FromStrings("__name__", "x", "i", strconv.Itoa(i)),
			Family: series.Family{Name: "x", Type: "gauge", Help: "What it is."},
		}
	}
	return &series.Row{
		Source: &series.Source{Key: key, Labels: labels.FromStrings("instance", key, "job", "j")},
		Schema: o.catalog.Extend(o.catalog.Empty(), columns), T: t, Values: values,
	}
}

// loss is what a Flush reported.
type loss struct {
	row, samples int
	why          string
}

// flush flushes, and expects all to be answered for good.
func (o *out) flush(s *Sender) []loss {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var all []loss
	done, err := s.Flush(ctx, func(row, samples int, why string) { all = append(all, loss{row, samples, why}) })
	if err != nil || !done {
		o.t.Fatalf("Flush: %t, %v", done, err)
	}
	return all
}

// value returns that of a metric whose labels, but for output, are given as name and value.
func (o *out) value(name string, with ...string) float64 {
	o.t.Helper()
	families, err := o.registry.Gather()
	if err != nil {
		o.t.Fatal(err)
	}
	want := labels.FromStrings(append(with, "output", "out")...)
	for _, f := range families {
		for _, m := range f.Metric {
			b := labels.NewScratchBuilder(0)
			for _, l := range m.Label {
				b.Add(l.GetName(), l.GetValue())
			}
			b.Sort()
			if f.GetName() == name && labels.Equal(b.Labels(), want) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	o.t.Fatalf("there is no %s %s", name, want)
	return 0
}

// expect fails unless got is want.
func expect[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}
