package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
	"github.com/rogpeppe/go-internal/testscript"
)

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
	// came lists, by path and as they came, the samples of counters and the failed scrapes (up 0). Who waits for some looks
	// at the new ones only: under the lock there is no time to look at all.
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
		if strings.Contains(s.labels, `"ticks_total"`) || s.value == floatBits(0) && strings.Contains(s.labels, `__name__="up"`) {
			r.came[h.URL.Path] = append(r.came[h.URL.Path], s)
		}
	}
	takeWrite(request, w)
}

// stored returns everything of a request.
func (r *writeRequest) stored() (all []storedSample) {
	for _, s := range r.samples() {
		shown := s.labels
		if s.start != 0 {
			shown = withStart(s.parsed, s.start).String()
		}
		all = append(all, storedSample{shown, s.t, floatBits(s.value)})
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

// cmdEveryWrite waits until a recorder has every value that a counter has served, or a failed scrape in its place. Each
// has to be there once; with -repeats, the same sample may have come again.
func cmdEveryWrite(ts *testscript.TestScript, neg bool, args []string) {
	repeats := len(args) > 0 && args[0] == "-repeats"
	if repeats {
		args = args[1:]
	}
	usageOf(ts, !neg && len(args) == 3, "every-write [-repeats] RECORDER PATH TARGET")
	_, served := targetOf(ts, args[2]).counts()
	instance := fmt.Sprintf("instance=%q", ts.Getenv(args[2]))
	r, seen, ticks, failed := recorderOf(ts, args[0]), 0, map[int]int64{}, map[int64]bool{}
	eventually(ts, func() error {
		came := r.counted(args[1])
		for _, s := range came[seen:] {
			bits, err := strconv.ParseUint(s.value, 16, 64)
			if err != nil || bits == value.StaleNaN || !strings.Contains(s.labels, instance) {
				continue
			}
			if strings.Contains(s.labels, `__name__="up"`) {
				failed[s.t] = true
				continue
			}
			tick := int(math.Float64frombits(bits))
			if t, again := ticks[tick]; again && (t != s.t || !repeats) {
				of(ts).fail(ts, "scrape %d came again, at %d and %d", tick, t, s.t)
			}
			ticks[tick] = s.t
		}
		seen = len(came)
		return everyTick(served, ticks, slices.Sorted(maps.Keys(failed)))
	})
}

// everyTick says which of so many scrapes did not come. As many may be missing between two as failed between them.
func everyTick(served int, ticks map[int]int64, failed []int64) error {
	var missing, run []int
	for tick := 1; tick <= served; tick++ {
		t, ok := ticks[tick]
		if !ok {
			run = append(run, tick)
			continue
		}
		n, _ := slices.BinarySearch(failed, t)
		if len(run) > n {
			missing = append(missing, run...)
		}
		run, failed = nil, failed[n:]
	}
	if len(run) > len(failed) {
		missing = append(missing, run...)
	}
	if len(missing) > 0 {
		return fmt.Errorf("of %d scrapes these did not come: %v", served, missing)
	}
	return nil
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
	report := func(what string, some, others map[storedSample]bool) error {
		n, times, example := 0, map[int64]bool{}, storedSample{}
		for s := range some {
			if !others[s] {
				n++
				times[s.t] = true
				example = s
			}
		}
		if n == 0 {
			return nil
		}
		const shown = 20
		all := slices.Sorted(maps.Keys(times))
		return fmt.Errorf("it %s %d samples of %d times from %d on, %v, such as %v", what, n, len(all), all[0], all[:min(len(all), shown)], example)
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
