package remotewrite_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"

	"github.com/thalweg/thalweg/internal/remotewrite"
	"github.com/thalweg/thalweg/internal/series"
)

func TestReceiverLooksAtTheHeaderFirst(t *testing.T) {
	in := newInbox(t, nil)
	good := snappy(t, v1(at(0, 1, "up")))
	f := func(method, contentType, encoding string, body []byte, status int) {
		t.Helper()
		r := httptest.NewRequest(method, "/api/v1/write", bytes.NewReader(body))
		for name, v := range map[string]string{"Content-Type": contentType, "Content-Encoding": encoding} {
			if v != "" {
				r.Header.Set(name, v)
			}
		}
		w := httptest.NewRecorder()
		in.receiver.ServeHTTP(w, r)
		if w.Code != status {
			t.Errorf("%s of %q, %q: %d %s, want %d", method, contentType, encoding, w.Code, w.Body, status)
		}
	}
	f("GET", "application/x-protobuf", "snappy", nil, 405)
	f("PUT", "application/x-protobuf", "snappy", good, 405)
	f("POST", "application/x-protobuf", "snappy", good, 204)
	f("POST", "", "", good, 204) // senders of the first years
	f("POST", "application/x-protobuf; proto=prometheus.WriteRequest", "Snappy", good, 204)
	f("POST", "application/x-protobuf;proto=io.prometheus.write.v2.Request", "snappy", snappy(t, v2()), 204)
	f("POST", "application/json", "snappy", []byte("0"), 415)
	f("POST", "image/png", "", []byte("0"), 415)
	f("POST", "application/x-protobuf;proto=io.prometheus.write.v3.Request", "snappy", []byte("0"), 415)
	f("POST", "application/x-protobuf;proto", "snappy", []byte("0"), 415)
	f("POST", "application/x-protobuf", "gzip", []byte("0"), 415)
	f("POST", "application/x-protobuf", "zstd", []byte("0"), 415)
	f("POST", "application/x-protobuf", "snappy", []byte("0"), 400)
	f("POST", "application/x-protobuf", "snappy", nil, 400)
	f("POST", "application/x-protobuf", "snappy", s2.EncodeSnappy(nil, []byte("no protobuf")), 400)
	f("POST", "application/x-protobuf", "snappy", append([]byte{}, 0xff, 0xff, 0xff, 0xff, 0x0f, 0), 400) // 4 GiB
	if got := in.metric("requests_total", "415", "unknown"); got != 4 {
		t.Errorf("%g requests with an unknown type are counted", got)
	}
}

func TestReceiverBoundsBodies(t *testing.T) {
	in := newInbox(t, func(o *remotewrite.ReceiverOptions) { o.MaxBody = 1000 })
	header := http.Header{}
	in.expect(in.post(header, bytes.Repeat([]byte("a"), 1001)), 413, "the request is larger than 1000 bytes")
	zeros := s2.EncodeSnappy(nil, bytes.Repeat([]byte{0x0a, 0}, 501))
	in.expect(in.post(header, zeros), 400, "the request has 1002 bytes when it is decompressed")
	many := newInbox(t, nil)
	in.expect(many.post(header, s2.EncodeSnappy(nil, bytes.Repeat([]byte{0x0a, 0}, 1_000_001))), 413, "decode request: the request holds more than 1000000 things")
}

// One request becomes one row for each source and time, in order.
func TestReceiverMakesRows(t *testing.T) {
	for version, post := range posts {
		in := newInbox(t, nil)
		in.expectOK(post(in,
			scraped{labels: []string{"__name__", "a", "instance", "h:1", "job", "j"}, values: []float64{1, 2}, times: []int64{0, 10}},
			scraped{labels: []string{"__name__", "b", "instance", "h:1", "job", "j", "x", "y"}, values: []float64{3}, times: []int64{0}},
			at(0, 4, "a", "instance", "h:1", "job", "i/j"),
			at(5, 5, "alone"),
			scraped{labels: []string{"__name__", "c", "instance", "h:1", "job", "j"}, values: []float64{6, 7}, times: []int64{5, 10}},
		))
		in.stored(map[string][]string{
			`{__name__="a", instance="h:1", job="j"}`:        {"1@0", "2@10"},
			`{__name__="b", instance="h:1", job="j", x="y"}`: {"3@0"},
			`{__name__="a", instance="h:1", job="i/j"}`:      {"4@0"},
			`{__name__="alone"}`:                             {"5@5"},
			`{__name__="c", instance="h:1", job="j"}`:        {"6@5", "7@10"},
		})
		want := []string{"write/j/h:1@0/2", "write/j/h:1@5/1", "write/j/h:1@10/2", "write/i%2Fj/h:1@0/1", "write//@5/1"}
		if !slices.Equal(in.rows, want) {
			t.Errorf("rows of %s are %q, want %q", version, in.rows, want)
		}
	}
}

// What was there is accepted again and not stored again, what is older or differs is refused, and the rest is taken.
func TestReceiverOrder(t *testing.T) {
	up, down := `{__name__="up"}`, `{__name__="down"}`
	for version, post := range posts {
		written := func(n ...int) []int {
			if version == "1.0" {
				return nil
			}
			return n
		}
		in := newInbox(t, nil)
		in.expect(post(in, at(10, 1, "up"), at(10, 1, "down")), 204, "", written(2, 0, 0)...)
		in.expect(post(in, at(10, 1, "up"), at(20, 2, "down")), 204, "", written(2, 0, 0)...)
		in.stored(map[string][]string{up: {"1@10"}, down: {"1@10", "2@20"}})
		in.expect(post(in, at(10, 2, "up"), at(30, 3, "down")), 400, "duplicate sample for timestamp for series "+up, written(1, 0, 0)...)
		in.expect(post(in, at(5, 1, "up"), at(40, 4, "down")), 400, "out of order sample for series "+up, written(1, 0, 0)...)
		in.expect(post(in, at(600_001, 1, "up"), at(50, 5, "down")), 400, "out of bounds: timestamp is too far in the future for series "+up, written(1, 0, 0)...)
		in.expect(post(in, at(600_001, 1, "never"), at(60, 6, "down")), 400, `out of bounds: timestamp is too far in the future for series {__name__="never"}`, written(1, 0, 0)...)
		in.stored(map[string][]string{down: {"3@30", "4@40", "5@50", "6@60"}})
		in.expect(post(in, at(600_000, 1, "up")), 204, "", written(1, 0, 0)...)
		in.stored(map[string][]string{up: {"1@600000"}})
		// Within one request, the same series several times.
		in.expect(post(in, at(1, 1, "new"), at(2, 2, "new"), at(1, 3, "new"), at(2, 2, "new")), 400, "out of order sample", written(3, 0, 0)...)
		in.stored(map[string][]string{`{__name__="new"}`: {"1@1", "2@2"}})
		for reason, n := range map[string]float64{"duplicate": 1, "out_of_order": 2, "out_of_bounds": 2} {
			if got := in.metric("refused_total", reason); got != n {
				t.Errorf("%g samples are refused as %s, want %g", got, reason, n)
			}
		}
		if got := in.metric("repeated_samples_total"); got != 2 {
			t.Errorf("%g samples are repeated", got)
		}
	}
}

func TestReceiverComparesBits(t *testing.T) {
	in := newInbox(t, nil)
	other := math.Float64frombits(0x7ff8000000000002)
	in.expect(in.postV2(v2(at(1, math.NaN(), "up"))), 204, "", 1, 0, 0)
	in.expect(in.postV2(v2(at(1, math.NaN(), "up"))), 204, "", 1, 0, 0)
	in.expect(in.postV2(v2(at(1, other, "up"))), 400, "duplicate", 0, 0, 0)
	in.expect(in.postV2(v2(at(2, math.Float64frombits(value.StaleNaN), "up"))), 204, "", 1, 0, 0)
	in.stored(map[string][]string{`{__name__="up"}`: {"NaN@1", "stale@2"}})
}

// A series is one, whatever the order of its labels, and whichever version brings it.
func TestReceiverKnowsSpellings(t *testing.T) {
	in := newInbox(t, nil)
	in.expectOK(in.postV1(v1(at(1, 1, "up", "a", "1", "b", "2"))))
	in.expectOK(in.postV2(v2(at(2, 2, "up", "a", "1", "b", "2"))))
	in.expectOK(in.postV1(v1(at(3, 3, "up", "b", "2", "a", "1", "empty", ""))))
	in.expectOK(in.postV2(v2(at(4, 4, "up", "b", "2", "a", "1"))))
	in.expectOK(in.postV2(v2(at(5, 5, "up", "b", "2", "empty", "", "a", "1"))))
	in.expectOK(in.postV2(v2(scraped{labels: []string{"b", "2", "__name__", "up", "a", "1"}, values: []float64{6}, times: []int64{6}})))
	if w := in.postV2(v2(at(6, 7, "up", "b", "2", "a", "1"))); w.Code != 400 {
		t.Errorf("a duplicate in another spelling: %d", w.Code)
	}
	in.stored(map[string][]string{`{__name__="up", a="1", b="2"}`: {"1@1", "2@2", "3@3", "4@4", "5@5", "6@6"}})
	if got := in.metric("series"); got != 1 {
		t.Errorf("%g series are known", got)
	}
}

// Series with labels that are none are skipped in 1.0, as in Prometheus, and named in 2.0; the others are taken.
func TestReceiverLabels(t *testing.T) {
	long := strings.Repeat("x", 70_000)
	for what, list := range map[string][]string{
		"no metric name":  {"job", "x"},
		"no labels":       {},
		"an empty name":   {"__name__", ""},
		"a label twice":   {"__name__", "up", "a", "1", "a", "2"},
		"no label name":   {"__name__", "up", "", "x"},
		"no UTF-8":        {"__name__", "up", "a", "\xff"},
		"a name so too":   {"__name__", "up", "\xff", "a"},
		"a metric so too": {"__name__", "\xff"},
		"a long label":    {"__name__", "up", "a", long},
	} {
		bad := scraped{labels: list, values: []float64{1, 2}, times: []int64{1, 2}}
		in := newInbox(t, nil)
		in.expect(in.postV1(v1(bad, at(1, 1, "good"))), 204, "")
		in.expect(in.postV2(v2(bad, at(2, 2, "good"))), 400, "invalid metric name or labels: ", 1, 0, 0)
		in.stored(map[string][]string{`{__name__="good"}`: {"1@1", "2@2"}})
		if got := in.metric("refused_total", "labels"); got != 4 {
			t.Errorf("%s: %g samples are refused for their labels", what, got)
		}
	}
	in := newInbox(t, nil)
	r := v2(at(1, 1, "good"), at(1, 1, "bad"), at(1, 1, "odd"))
	r.Timeseries[1].LabelsRefs[1] = 99
	r.Timeseries[2].LabelsRefs = r.Timeseries[2].LabelsRefs[:1]
	in.expect(in.postV2(r), 400, "symbol 99 is not among the", 1, 0, 0)
	in.stored(map[string][]string{`{__name__="good"}`: {"1@1"}})
	broken := s2.EncodeSnappy(nil, []byte("\x0a\x03\x0a\x01\x0a"))
	in.expect(in.post(http.Header{}, broken), 400, "decode request: protobuf message is truncated")
	// UTF-8 is for names, too.
	in.expectOK(in.postV2(v2(at(1, 1, "resource.cpu usage", "job.näme", "test\n"))))
	in.stored(map[string][]string{`{__name__="resource.cpu usage", "job.näme"="test\n"}`: {"1@1"}})
}

func TestReceiverHistograms(t *testing.T) {
	gauge := buckets(1, 1, 2)
	gauge.CounterResetHint = histogram.GaugeType
	custom := buckets(histogram.CustomBucketsSchema, 3, 4)
	custom.CustomValues = []float64{1, 2}
	wrong := buckets(1, 1, 2)
	wrong.Count = 99
	stale := &histogram.Histogram{Sum: math.Float64frombits(value.StaleNaN)}
	of := func(name string, list ...prompb.Histogram) scraped {
		return scraped{labels: []string{"__name__", name}, histograms: list}
	}
	for _, post := range posts {
		in := newInbox(t, nil)
		in.expectOK(post(in, of("h", ih(1, buckets(1, 1, 2)), fh(2, buckets(1, 1, 2).ToFloat(nil)), ih(3, stale)),
			of("g", ih(1, gauge), ih(2, stale), fh(3, gauge.ToFloat(nil))), of("c", ih(1, custom)), of("fine", ih(1, buckets(12, 1, 2, 3))),
			of("finer", fh(1, buckets(12, 1, 2, 3).ToFloat(nil)))))
		in.stored(map[string][]string{
			`{__name__="h"}`:     {"histogram(3/7/1)@1", "float histogram(3/7/1)@2", "histogram(0/stale/0)@3"},
			`{__name__="g"}`:     {"gaugehistogram(3/7/1)@1", "gaugehistogram(0/stale/0)@2", "float gaugehistogram(3/7/1)@3"},
			`{__name__="c"}`:     {"histogram(7/7/-53)@1"},
			`{__name__="fine"}`:  {"histogram(6/7/8)@1"},
			`{__name__="finer"}`: {"float histogram(6/7/8)@1"},
		})
		w := post(in, of("h", ih(3, stale), ih(3, buckets(1, 1)), ih(4, wrong), ih(5, buckets(1, 5))), of("unknown", ih(1, wrong)))
		if w.Code != 400 || !strings.Contains(w.Body.String(), `observations found in buckets, but the Count field is 99`) ||
			!strings.Contains(w.Body.String(), "duplicate sample for timestamp for series") {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		in.stored(map[string][]string{`{__name__="h"}`: {"histogram(5/7/1)@5"}})
		if got := in.metric("refused_total", "histogram"); got != 2 {
			t.Errorf("%g histograms are refused", got)
		}
	}
}

// A series that turns from floats to histograms, or back, goes on, and ends as what it is.
func TestReceiverKindsChange(t *testing.T) {
	in := newInbox(t, nil)
	stale := math.Float64frombits(value.StaleNaN)
	other := at(1, 1, "other")
	in.expectOK(in.postV2(v2(other, at(1, 1, "x"))))
	in.expectOK(in.postV2(v2(at(2, 2, "other"), scraped{labels: []string{"__name__", "x"}, histograms: []prompb.Histogram{ih(2, buckets(1, 1))}}, at(3, 3, "other"))))
	in.expect(in.postV2(v2(at(3, stale, "x"))), 204, "", 1, 0, 0) // vmagent and others know floats only
	in.stored(map[string][]string{`{__name__="other"}`: {"1@1", "2@2", "3@3"}, `{__name__="x"}`: {"1@1", "histogram(1/7/1)@2", "histogram(0/stale/0)@3"}})
	in.expect(in.postV2(v2(at(4, 1, "x"))), 400, `series changed between floats and histograms less than a minute ago for series {__name__="x"}`, 0, 0, 0)
	in.pass(time.Minute)
	in.expectOK(in.postV2(v2(at(4, 1, "x"))))
	in.expectOK(in.postV1(v1(scraped{labels: []string{"__name__", "x"}, histograms: []prompb.Histogram{ih(5, &histogram.Histogram{Sum: stale})}})))
	in.stored(map[string][]string{`{__name__="x"}`: {"1@4", "stale@5"}})
}

// Prometheus sends exemplars as series of their own, behind the sample that they belong to, or in the next request.
func TestReceiverExemplars(t *testing.T) {
	in := newInbox(t, nil)
	up := []string{"__name__", "up"}
	only := func(list ...prompb.Exemplar) scraped { return scraped{labels: up, exemplars: list} }
	with := at(1, 1, "up")
	with.exemplars = []prompb.Exemplar{exemplar(1, 1, "trace_id", "a")}
	in.expect(in.postV2(v2(with, only(exemplar(2, 2, "trace_id", "b")))), 204, "", 1, 0, 2)
	in.stored(map[string][]string{`{__name__="up"}`: {"1@1", `#{trace_id="a"} 1@1`, `#{trace_id="b"} 2@2`}})
	in.expect(in.postV2(v2(only(exemplar(3, 3, "trace_id", "c")))), 204, "", 0, 0, 1)
	in.stored(nil)
	in.expect(in.postV1(v1(at(2, 1, "up"), only(exemplar(4, 4, "trace_id", "d")))), 204, "")
	in.stored(map[string][]string{`{__name__="up"}`: {"1@2", `#{trace_id="c"} 3@3`, `#{trace_id="d"} 4@4`}})
	// Those that are too long are left out and no error.
	in.expect(in.postV2(v2(at(3, 1, "up"), only(exemplar(4, 4, "trace_id", strings.Repeat("x", 121)), exemplar(5, 5)))), 204, "", 1, 0, 1)
	in.stored(map[string][]string{`{__name__="up"}`: {"1@3", "#{} 5@5"}})
	// Of a series that there is not, exemplars are nothing.
	in.expect(in.postV2(v2(scraped{labels: []string{"__name__", "orphan"}, exemplars: []prompb.Exemplar{exemplar(1, 1)}})), 400, "TimeSeries must contain at least one sample or histogram", 0, 0, 0)
	in.expect(in.postV1(v1(scraped{labels: []string{"__name__", "orphan"}, exemplars: []prompb.Exemplar{exemplar(1, 1)}})), 204, "")
	in.expect(in.postV2(v2(scraped{labels: up})), 400, "TimeSeries must contain at least one sample or histogram", 0, 0, 0)
	in.stored(nil)
}

func TestReceiverStarts(t *testing.T) {
	in := newInbox(t, nil)
	s := at(10, 1, "x_total")
	s.start = 5
	late := at(10, 1, "y_total")
	late.start = 11
	in.expectOK(in.postV2(v2(s, late)))
	in.stored(map[string][]string{`{__name__="x_total"}`: {"1@10", "since 5"}, `{__name__="y_total"}`: {"1@10"}})
}

// A request whose rows could not be stored is as if it had never come.
func TestReceiverForgetsWhatWasNotStored(t *testing.T) {
	for version, post := range posts {
		in := newInbox(t, nil)
		zeros := []int{0, 0, 0}
		if version == "1.0" {
			zeros = nil
		}
		in.expectOK(post(in, at(1, 1, "old")))
		in.fail = errors.New("disk full")
		w := post(in, at(2, 2, "old"), at(2, 2, "new"))
		in.expect(w, 503, "the samples cannot be stored now", zeros...)
		if got := w.Header().Get("Retry-After"); got != "5" {
			t.Errorf("Retry-After is %q", got)
		}
		for status, err := range map[int]*remotewrite.Refusal{
			403: {Status: 403, Err: errors.New("not admitted")},
			409: {Status: 409, Err: errors.New("taken")},
			429: {Status: 429, RetryAfter: 1500 * time.Millisecond, Err: errors.New("slowly")},
		} {
			in.fail = fmt.Errorf("commit: %w", err)
			w := post(in, at(2, 2, "old"), at(2, 2, "new"))
			in.expect(w, status, err.Err.Error(), zeros...)
			if got := w.Header().Get("Retry-After"); status == 429 && got != "2" {
				t.Errorf("Retry-After is %q", got)
			}
		}
		in.fail = nil
		in.expectOK(post(in, at(2, 3, "old"), at(1, 1, "new")))
		in.stored(map[string][]string{`{__name__="old"}`: {"1@1", "3@2"}, `{__name__="new"}`: {"1@1"}})
	}
}

// What is beyond a limit behind the receiver is not written, and the sender is told; if it comes again, it is refused again
// until there is room.
func TestReceiverTellsWhatIsBeyondLimits(t *testing.T) {
	for version, post := range posts {
		limited := true
		in := newInbox(t, func(o *remotewrite.ReceiverOptions) {
			commit := o.Commit
			o.Commit = func(ctx context.Context, site string, rows []*series.Row) error {
				var e remotewrite.Excess
				var kept []*series.Row
				for _, row := range rows {
					left := *row
					left.Columns, left.Values, left.Histograms, left.Exemplars = nil, nil, nil, nil
					for j, column := range row.Columns {
						if limited && strings.HasPrefix(row.Schema.Column(int(column)).Labels.Get("__name__"), "beyond") {
							e.Samples = append(e.Samples, remotewrite.ExcessSample{Row: row, Column: column, Limit: "series"})
							continue
						}
						left.Columns, left.Values = append(left.Columns, column), append(left.Values, row.Values[j])
					}
					if left.Columns != nil {
						kept = append(kept, &left)
					}
				}
				if err := commit(ctx, site, kept); err != nil || len(e.Samples) == 0 {
					return err
				}
				return fmt.Errorf("commit: %w", &e)
			}
		})
		counts := func(n ...int) []int {
			if version == "1.0" {
				return nil
			}
			return n
		}
		list := []scraped{
			at(1, 1, "beyond"), at(1, 1, "within", "job", "j"), at(2, 1, "beyond"),
			{labels: []string{"__name__", "beyond_h"}, histograms: []prompb.Histogram{ih(1, buckets(1, 1, 2))}, exemplars: []prompb.Exemplar{exemplar(1, 1, "a", "b")}},
		}
		const text = `beyond the limit series for series {__name__="beyond"}`
		in.expect(post(in, list...), 400, text, counts(1, 0, 0)...)
		in.expect(post(in, list...), 400, text, counts(1, 0, 0)...) // it is known again
		in.expect(post(in, list[:2]...), 400, text, counts(1, 0, 0)...)
		in.stored(map[string][]string{`{__name__="within", job="j"}`: {"1@1"}})
		if got := in.metric("refused_total", "limits"); got != 3+3+1 {
			t.Errorf("%v refused samples are counted", got)
		}
		limited = false
		in.expect(post(in, list[0], list[2]), 204, "", counts(2, 0, 0)...)
		in.stored(map[string][]string{`{__name__="beyond"}`: {"1@1", "1@2"}})
	}
}

// Whatever comes, rows are rows, and answers are answers.
func FuzzReceiver(f *testing.F) {
	for _, list := range [][]scraped{
		{at(1, 1, "up", "job", "a"), at(2, 2, "up", "job", "a"), at(1, 1, "down")},
		{{labels: []string{"__name__", "h"}, histograms: []prompb.Histogram{ih(1, buckets(1, 1, 2)), fh(2, buckets(3, 4).ToFloat(nil))}, exemplars: []prompb.Exemplar{exemplar(1, 1, "a", "b")}}},
	} {
		one, err := v1(list...).Marshal()
		if err != nil {
			f.Fatal(err)
		}
		two, err := v2(list...).Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(one, two)
	}
	f.Fuzz(func(t *testing.T, one, two []byte) {
		in := newInbox(t, nil)
		for range 2 {
			for contentType, body := range map[string][]byte{"application/x-protobuf": one, typeV2: two} {
				w := in.post(http.Header{"Content-Type": {contentType}}, s2.EncodeSnappy(nil, body))
				if w.Code != 204 && w.Code != 400 {
					t.Errorf("%d %s", w.Code, w.Body)
				}
			}
		}
	})
}
