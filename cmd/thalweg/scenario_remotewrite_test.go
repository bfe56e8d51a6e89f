package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/rogpeppe/go-internal/testscript"
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

var (
	metricName = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`)
	labelName  = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)
)

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
		b := labels.NewScratchBuilder(0)
		var pairs []string
		for _, l := range ts.Labels {
			pairs = append(pairs, l.Name, l.Value)
		}
		if err := checkPairs(pairs); err != nil {
			return err
		}
		key := ts.ToLabels(&b, nil).String()
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
		key := fmt.Sprint(pairs)
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
		if name <= last || v == "" || !labelName.MatchString(name) || strings.HasPrefix(name, "__") != (name == "__name__") {
			return fmt.Errorf("label %q=%.100q behind %q", name, v, last)
		}
		last = name
		named = named || name == "__name__" && metricName.MatchString(v)
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

// cmdRecorder begins a receiver in this process that takes everything and keeps it, by path.
func cmdRecorder(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, !neg && len(args) == 1, "recorder NAME")
	s := of(ts)
	l, err := s.ports.listen()
	ts.Check(err)
	r := &recorder{t: s.t, paths: map[string]map[storedSample]int{}, came: map[string][]storedSample{}}
	server := &http.Server{Handler: r}
	go server.Serve(l) // until the script ends
	ts.Defer(func() { _ = server.Close() })
	s.recorders[args[0]] = r
	ts.Setenv(args[0], l.Addr().String())
}

// storedSample is a sample as a receiver has it.
type storedSample struct {
	labels string
	t      int64
	value  string // of its bits, or a histogram
}

// recorder is a receiver that takes everything. It counts how often each sample came.
type recorder struct {
	t testing.TB

	mu    sync.Mutex
	paths map[string]map[storedSample]int
	// came lists the counter's samples of a path as they came. Who waits for some looks at the new ones only: under the
	// lock there is no time to look at all.
	came map[string][]storedSample
}

// ServeHTTP keeps a request.
func (r *recorder) ServeHTTP(w http.ResponseWriter, h *http.Request) {
	body, err := io.ReadAll(h.Body)
	if err != nil {
		return // the program was killed
	}
	request, err := parseWrite(h.Header, body)
	if err != nil {
		r.t.Errorf("request to %s: %v", h.URL.Path, err)
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.paths[h.URL.Path]
	if all == nil {
		all = map[storedSample]int{}
		r.paths[h.URL.Path] = all
	}
	for _, s := range request.stored() {
		all[s]++
		if strings.Contains(s.labels, `"ticks_total"`) {
			r.came[h.URL.Path] = append(r.came[h.URL.Path], s)
		}
	}
	takeWrite(request, w)
}

// stored returns everything of a request.
func (r *writeRequest) stored() (all []storedSample) {
	for _, s := range r.samples() {
		all = append(all, storedSample{withStart(s.parsed, s.start).String(), s.t, floatBits(s.value)})
	}
	b := labels.NewScratchBuilder(0)
	if r.v1 != nil {
		return append(all, storedHistograms(r.v1.Timeseries)...)
	}
	for i := range r.v2.Timeseries {
		ts := &r.v2.Timeseries[i]
		ls, err := ts.ToLabels(&b, r.v2.Symbols)
		if err != nil {
			continue // check has complained
		}
		for _, h := range ts.Histograms {
			ls := withStart(ls, h.StartTimestamp)
			if h.IsFloatHistogram() {
				all = append(all, storedHistogram(ls, prompb.FromFloatHistogram(h.Timestamp, h.ToFloatHistogram())))
			} else {
				all = append(all, storedHistogram(ls, prompb.FromIntHistogram(h.Timestamp, h.ToIntHistogram())))
			}
		}
	}
	return all
}

func storedHistograms(series []prompb.TimeSeries) (all []storedSample) {
	b := labels.NewScratchBuilder(0)
	for i := range series {
		for _, h := range series[i].Histograms {
			all = append(all, storedHistogram(series[i].ToLabels(&b, nil), h))
		}
	}
	return all
}

// storedHistogram shows a histogram without what a storage makes of it: hints, and where spans are cut.
func storedHistogram(ls labels.Labels, h prompb.Histogram) storedSample {
	s := storedSample{labels: ls.String(), t: h.Timestamp}
	if h.IsFloatHistogram() {
		f := h.ToFloatHistogram()
		if value.IsStaleNaN(f.Sum) {
			s.value = "stale histogram"
			return s
		}
		s.value = fmt.Sprint(f.Compact(0), floatBits(f.Sum))
		return s
	}
	f := h.ToIntHistogram()
	if value.IsStaleNaN(f.Sum) {
		s.value = "stale histogram"
		return s
	}
	s.value = fmt.Sprint(f.Compact(0), floatBits(f.Sum))
	return s
}

func floatBits(v float64) string { return fmt.Sprintf("%016x", math.Float64bits(v)) }

// cmdEveryWrite waits until a recorder has every value that a counter has served. Each has to be there once; with
// -repeats, the same sample may have come again.
func cmdEveryWrite(ts *testscript.TestScript, neg bool, args []string) {
	repeats := len(args) > 0 && args[0] == "-repeats"
	if repeats {
		args = args[1:]
	}
	usageOf(ts, !neg && len(args) == 3, "every-write [-repeats] RECORDER PATH TARGET")
	_, served := targetOf(ts, args[2]).counts()
	r, seen, ticks := recorderOf(ts, args[0]), 0, map[int]int64{}
	eventually(ts, func() error {
		came := r.counted(args[1])
		for _, s := range came[seen:] {
			bits, err := strconv.ParseUint(s.value, 16, 64)
			if err != nil || bits == value.StaleNaN {
				continue
			}
			tick := int(math.Float64frombits(bits))
			if t, again := ticks[tick]; again && (t != s.t || !repeats) {
				of(ts).fail(ts, "scrape %d came again, at %d and %d", tick, t, s.t)
			}
			ticks[tick] = s.t
		}
		seen = len(came)
		var missing []int
		for tick := 1; tick <= served; tick++ {
			if _, ok := ticks[tick]; !ok {
				missing = append(missing, tick)
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("of %d scrapes these did not come: %v", served, missing)
		}
		return nil
	})
}

func recorderOf(ts *testscript.TestScript, name string) *recorder {
	r := of(ts).recorders[name]
	if r == nil {
		ts.Fatalf("there is no recorder %s", name)
	}
	return r
}

// counted returns the samples of counters that have come at a path.
func (r *recorder) counted(path string) []storedSample {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.came[path]
}

// copy returns what has come at a path.
func (r *recorder) copy(path string) map[storedSample]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.paths[path])
}

// cmdSameWrites waits until a storage has just the samples of up to now that a recorder has, by remote read: series, time
// and bits, stale markers and histograms included.
func cmdSameWrites(ts *testscript.TestScript, neg bool, args []string) {
	starts := len(args) > 0 && args[0] == "-starts"
	if starts {
		args = args[1:]
	}
	usageOf(ts, !neg && len(args) == 4, "same-writes [-starts] N RECORDER PATH ADDRESS")
	least, err := strconv.Atoi(args[0])
	ts.Check(err)
	end := time.Now().UnixMilli()
	eventually(ts, func() error {
		got, err := remoteRead(args[3], end)
		if err != nil {
			return err
		}
		want, markers, started := map[storedSample]bool{}, 0, 0
		for s := range recorderOf(ts, args[1]).copy(args[2]) {
			if s.t <= end {
				want[s] = true
			}
			if s.value == floatBits(math.Float64frombits(value.StaleNaN)) {
				markers++
			}
			if strings.Contains(s.labels, startLabel) {
				started++
			}
		}
		if err := sameSet(got, want); err != nil {
			return fmt.Errorf("%s has %d samples, recorder has %d: %w", args[3], len(got), len(want), err)
		}
		if len(got) < least || markers == 0 || starts && started == 0 {
			return fmt.Errorf("there are %d samples, %d stale markers, %d samples with a start", len(got), markers, started)
		}
		ts.Logf("%d samples, %d stale markers, %d samples with a start", len(got), markers, started)
		return nil
	})
}

// sameSet says how two sets differ, with an example.
func sameSet(got, want map[storedSample]bool) error {
	report := func(what string, some, others map[storedSample]bool) (err error) {
		n, times := 0, map[int64]bool{}
		for s := range some {
			if !others[s] {
				n++
				times[s.t] = true
				err = fmt.Errorf("it %s %d samples of the times %v, such as %v", what, n, slices.Sorted(maps.Keys(times)), s)
			}
		}
		return err
	}
	return errors.Join(report("lacks", want, got), report("has besides", got, want))
}

// remoteRead returns everything that a storage has of up to a time in ms.
func remoteRead(address string, end int64) (map[storedSample]bool, error) {
	query, err := (&prompb.ReadRequest{Queries: []*prompb.Query{{
		EndTimestampMs: end, Matchers: []*prompb.LabelMatcher{{Type: prompb.LabelMatcher_NEQ, Name: "__name__"}},
	}}}).Marshal()
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequest(http.MethodPost, "http://"+address+"/api/v1/read", bytes.NewReader(snappy.Encode(nil, query)))
	if err != nil {
		return nil, err
	}
	request.Header = http.Header{
		"Content-Encoding": {"snappy"}, "Content-Type": {"application/x-protobuf"}, "X-Prometheus-Remote-Read-Version": {"0.1.0"},
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("remote read: %s, %w: %.200s", answer.Status, err, body)
	}
	if body, err = snappy.Decode(nil, body); err != nil {
		return nil, err
	}
	var response prompb.ReadResponse
	if err := response.Unmarshal(body); err != nil {
		return nil, err
	}
	all := map[storedSample]bool{}
	b := labels.NewScratchBuilder(0)
	for _, result := range response.Results {
		for _, ts := range result.Timeseries {
			ls := ts.ToLabels(&b, nil).String()
			for _, s := range ts.Samples {
				if s.Timestamp <= end {
					all[storedSample{ls, s.Timestamp, floatBits(s.Value)}] = true
				}
			}
			for _, s := range storedHistograms([]prompb.TimeSeries{*ts}) {
				if s.t <= end {
					all[s] = true
				}
			}
		}
	}
	return all, nil
}
