package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
)

// writeRequest is a request of remote write that was sent by the program; one of v1 and v2 is set.
type writeRequest struct {
	header http.Header
	body   []byte
	v1     *prompb.WriteRequest
	v2     *writev2.Request
	floats []wireSample
}

// wireSample is a float of a request.
type wireSample struct {
	labels    string
	t         int64
	value     float64
	parsed    labels.Labels
	start     int64 // of 2.0, if it has one
	exemplars []exemplar.Exemplar
	metadata  string // TYPE|help|unit, of 2.0
}

// samples returns the floats, in order.
func (r *writeRequest) samples() []wireSample { return r.floats }

func (r *writeRequest) readFloats() (all []wireSample) {
	b := labels.NewScratchBuilder(0)
	if r.v1 != nil {
		for i := range r.v1.Timeseries {
			ts := &r.v1.Timeseries[i]
			ls := ts.ToLabels(&b, nil)
			var exemplars []exemplar.Exemplar
			for _, x := range ts.Exemplars {
				exemplars = append(exemplars, x.ToExemplar(&b, nil))
			}
			for _, s := range ts.Samples {
				all = append(all, wireSample{labels: ls.String(), t: s.Timestamp, value: s.Value, parsed: ls, exemplars: exemplars})
			}
		}
		return all
	}
	for i := range r.v2.Timeseries {
		ts := &r.v2.Timeseries[i]
		ls, err := ts.ToLabels(&b, r.v2.Symbols)
		if err != nil {
			continue // check has complained
		}
		var exemplars []exemplar.Exemplar
		for _, x := range ts.Exemplars {
			if e, err := x.ToExemplar(&b, r.v2.Symbols); err == nil {
				exemplars = append(exemplars, e)
			}
		}
		m := ts.Metadata
		metadata := strings.TrimPrefix(m.Type.String(), "METRIC_TYPE_") + "|" + r.v2.Symbols[m.HelpRef] + "|" + r.v2.Symbols[m.UnitRef]
		for _, s := range ts.Samples {
			all = append(all, wireSample{labels: ls.String(), t: s.Timestamp, value: s.Value, parsed: ls, start: s.StartTimestamp, exemplars: exemplars, metadata: metadata})
		}
	}
	return all
}

// shown returns the floats as text.
func (r *writeRequest) shown() string {
	var b strings.Builder
	for _, s := range r.samples() {
		fmt.Fprintf(&b, "%s %v at %d\n", s.labels, s.value, s.t)
	}
	return b.String()
}

// metadata returns what requests of 1.0 said, by family.
func (c *senderCase) metadata() map[string]string {
	all := map[string]string{}
	for _, r := range c.requests {
		for _, m := range r.v1.GetMetadata() {
			all[m.MetricFamilyName] = m.Type.String() + "|" + m.Help + "|" + m.Unit
		}
	}
	return all
}

// parseWrite decodes a request.
func parseWrite(h http.Header, body []byte) (*writeRequest, error) {
	r := &writeRequest{header: h, body: body}
	plain, err := snappy.Decode(nil, body) // a block; what is framed is none
	if err != nil {
		return nil, err
	}
	if strings.Contains(h.Get("Content-Type"), "write.v2") {
		r.v2 = &writev2.Request{}
		err = r.v2.Unmarshal(plain)
	} else {
		r.v1 = &prompb.WriteRequest{}
		err = r.v1.Unmarshal(plain)
	}
	if err == nil {
		err = r.check()
	}
	if err != nil {
		return nil, err
	}
	r.floats = r.readFloats()
	return r, nil
}

// check returns what is wrong with the form of a request, by the specifications of both versions.
func (r *writeRequest) check() error {
	want := map[string]string{"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy", "X-Prometheus-Remote-Write-Version": "0.1.0"}
	if r.v2 != nil {
		want["Content-Type"], want["X-Prometheus-Remote-Write-Version"] = "application/x-protobuf;proto=io.prometheus.write.v2.Request", "2.0.0"
	}
	for name, value := range want {
		if got := r.header.Get(name); got != value {
			return fmt.Errorf("header %s is %q", name, got)
		}
	}
	if !strings.HasPrefix(r.header.Get("User-Agent"), "Thalweg/") {
		return fmt.Errorf("User-Agent %q", r.header.Get("User-Agent"))
	}
	if r.v2 != nil {
		return r.checkV2()
	}
	newest := map[string]int64{}
	for i := range r.v1.Timeseries {
		ts := &r.v1.Timeseries[i]
		var pairs []string
		for _, l := range ts.Labels {
			pairs = append(pairs, l.Name, l.Value)
		}
		if err := checkPairs(pairs); err != nil {
			return err
		}
		key := strings.Join(pairs, "\xff")
		for _, s := range ts.Samples {
			if s.Timestamp < newest[key] {
				return fmt.Errorf("%s: %d stands behind %d", key, s.Timestamp, newest[key])
			}
			newest[key] = s.Timestamp
		}
	}
	return nil
}

func (r *writeRequest) checkV2() error {
	symbols := r.v2.Symbols
	if len(symbols) == 0 || symbols[0] != "" {
		return fmt.Errorf("the first symbol is not empty: %.100q", symbols)
	}
	if sorted := slices.Sorted(slices.Values(symbols)); len(slices.Compact(sorted)) != len(symbols) {
		return fmt.Errorf("a symbol is there twice")
	}
	if len(r.v2.Timeseries) > 10_000 {
		return fmt.Errorf("%d series", len(r.v2.Timeseries))
	}
	newest := map[string]int64{}
	for i := range r.v2.Timeseries {
		ts := &r.v2.Timeseries[i]
		refs := [][]uint32{ts.LabelsRefs}
		for _, x := range ts.Exemplars {
			if x.Timestamp <= 0 {
				return fmt.Errorf("an exemplar has the time %d", x.Timestamp)
			}
			refs = append(refs, x.LabelsRefs)
		}
		var pairs []string
		for i, list := range refs {
			if len(list)%2 != 0 {
				return fmt.Errorf("%d references", len(list))
			}
			for _, ref := range list {
				if int(ref) >= len(symbols) {
					return fmt.Errorf("reference %d to %d symbols", ref, len(symbols))
				}
				if i == 0 {
					pairs = append(pairs, symbols[ref])
				}
			}
		}
		if int(ts.Metadata.HelpRef) >= len(symbols) || int(ts.Metadata.UnitRef) >= len(symbols) {
			return fmt.Errorf("metadata %v of %d symbols", ts.Metadata, len(symbols))
		}
		if err := checkPairs(pairs); err != nil {
			return err
		}
		if (len(ts.Samples) == 0) == (len(ts.Histograms) == 0) {
			return fmt.Errorf("%q has %d samples and %d histograms", pairs, len(ts.Samples), len(ts.Histograms))
		}
		key := strings.Join(pairs, "\xff")
		for _, s := range ts.Samples {
			if s.Timestamp < newest[key] || s.StartTimestamp > s.Timestamp {
				return fmt.Errorf("%s: %d stands behind %d, and started at %d", key, s.Timestamp, newest[key], s.StartTimestamp)
			}
			newest[key] = s.Timestamp
		}
	}
	return nil
}

// checkPairs looks at the names and values of the labels of a series.
func checkPairs(pairs []string) error {
	last, named := "", false
	for i := 0; i < len(pairs); i += 2 {
		name, v := pairs[i], pairs[i+1]
		if name <= last || v == "" || !model.LegacyValidation.IsValidLabelName(name) || strings.HasPrefix(name, "__") != (name == "__name__") {
			return fmt.Errorf("label %q=%.100q behind %q", name, v, last)
		}
		last = name
		named = named || name == "__name__" && model.LegacyValidation.IsValidMetricName(v)
	}
	if !named {
		return fmt.Errorf("series %q has no name", pairs)
	}
	return nil
}

// takeWrite is the answer of a receiver that takes everything.
func takeWrite(r *writeRequest, w http.ResponseWriter) {
	writtenHeaders(r, w)
	w.WriteHeader(http.StatusNoContent)
}

func writtenHeaders(r *writeRequest, w http.ResponseWriter) {
	if r.v2 == nil {
		return
	}
	histograms, exemplars := 0, 0
	for i := range r.v2.Timeseries {
		histograms += len(r.v2.Timeseries[i].Histograms)
		exemplars += len(r.v2.Timeseries[i].Exemplars)
	}
	w.Header().Set("X-Prometheus-Remote-Write-Samples-Written", strconv.Itoa(len(r.samples())))
	w.Header().Set("X-Prometheus-Remote-Write-Histograms-Written", strconv.Itoa(histograms))
	w.Header().Set("X-Prometheus-Remote-Write-Exemplars-Written", strconv.Itoa(exemplars))
}

// writeReceivers are several, by path: what does not stand in senderReceivers takes everything.
type writeReceivers struct {
	t *testing.T

	mu    sync.Mutex
	cases map[string]*senderCase
}

// ServeHTTP keeps a request, and answers as its receiver does.
func (s *writeReceivers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body bytes.Buffer
	if _, err := io.Copy(&body, r.Body); err != nil {
		return // the program has stopped
	}
	request, err := parseWrite(r.Header.Clone(), body.Bytes())
	if err == nil && r.Method != http.MethodPost {
		err = fmt.Errorf("method %s", r.Method)
	}
	name := strings.TrimPrefix(r.URL.Path, "/")
	if err != nil {
		s.t.Errorf("request to %s: %v", name, err)
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	x, ok := senderReceivers[name]
	if ok && request.v1 != nil && len(request.v1.Timeseries) == 0 { // metadata, which is not what this is about
		takeWrite(request, w)
		return
	}
	n := s.add(name, request)
	if !ok {
		takeWrite(request, w)
		return
	}
	x.answer(n, request, w)
}

// add keeps a request of a case, and says how many there were before.
func (s *writeReceivers) add(name string, r *writeRequest) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.cases[name]
	if c == nil {
		c = &senderCase{}
		s.cases[name] = c
	}
	c.requests = append(c.requests, r)
	return len(c.requests) - 1
}

// await waits until a case is as it should be, and returns it as it is then.
func (s *writeReceivers) await(t *testing.T, name string, ok func(*senderCase) bool) *senderCase {
	t.Helper()
	var c *senderCase
	eventuallyTrue(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.cases[name] == nil {
			return false
		}
		c = &senderCase{requests: slices.Clone(s.cases[name].requests)}
		return ok(c)
	})
	return c
}
