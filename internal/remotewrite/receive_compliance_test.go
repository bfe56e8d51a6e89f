package remotewrite_test

import (
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
)

// These are the cases of the receiver's part of the public compliance suite for remote write 2.0
// (github.com/prometheus/compliance, remotewrite/receiver, 2026), told in our words. The suite sends each request that
// should succeed twice, with new times, and asks for 204 and exact counts; here a request that should not is told what it
// gets: 400, and what was written of it.
type complianceCase struct {
	name    string
	series  []scraped
	refused bool // the answer is 400
	written [3]int
}

// now and the like make series of the suite: a sample at the time of the request, or a while before.
const recent, hourAgo, minuteAgo = int64(0), -int64(time.Hour / time.Millisecond), -int64(time.Minute / time.Millisecond)

func told(s scraped, metadata ...string) scraped {
	s.metadata = metadata
	return s
}

func traced(s scraped, list ...string) scraped {
	return tracedAt(s, s.lastTime(), list...)
}

func tracedAt(s scraped, t int64, list ...string) scraped {
	s.exemplars = append(s.exemplars, exemplar(t, 1, list...))
	return s
}

func (s *scraped) lastTime() int64 {
	if len(s.times) > 0 {
		return s.times[len(s.times)-1]
	}
	return s.histograms[len(s.histograms)-1].Timestamp - testTime
}

func begun(s scraped, before time.Duration) scraped {
	s.start = s.lastTime() - before.Milliseconds()
	return s
}

func native(h *histogram.Histogram, nameAndLabels ...string) scraped {
	return scraped{labels: append([]string{"__name__"}, nameAndLabels...), histograms: []prompb.Histogram{ih(recent, h)}}
}

// shaped returns a histogram like those of the suite.
func shaped(positive, negative, zero bool) *histogram.Histogram {
	h := &histogram.Histogram{Sum: 1.5}
	if positive {
		h.PositiveSpans, h.PositiveBuckets, h.Count = []histogram.Span{{Length: 3}, {Offset: 2, Length: 2}}, []int64{1, 2, 1, 3, 1}, 23
	}
	if negative {
		h.NegativeSpans, h.NegativeBuckets, h.Count = []histogram.Span{{Length: 2}}, []int64{1, 1}, h.Count+3
	}
	if zero {
		h.ZeroCount, h.Count = 1, h.Count+1
	}
	return h
}

func customBuckets() *histogram.Histogram {
	return &histogram.Histogram{
		Schema: histogram.CustomBucketsSchema, Count: 30, Sum: 0.05, CustomValues: []float64{0.1, 0.5, 1, 2.5, 5, 10},
		PositiveSpans: []histogram.Span{{Length: 6}}, PositiveBuckets: []int64{2, 1, 2, 3, -1, -2},
	}
}

func complianceCases() []complianceCase {
	one, hist := [3]int{1, 0, 0}, [3]int{0, 1, 0}
	var cases []complianceCase
	add := func(name string, written [3]int, list ...scraped) {
		cases = append(cases, complianceCase{name: name, series: list, written: written})
	}
	refuse := func(name string, written [3]int, list ...scraped) {
		cases = append(cases, complianceCase{name: name, series: list, written: written, refused: true})
	}
	nameless := func(v float64, list ...string) scraped {
		return scraped{labels: list, values: []float64{v}, times: []int64{recent}}
	}

	// Floats.
	for name, v := range map[string]float64{
		"1": 1, "stale": math.Float64frombits(value.StaleNaN), "NaN": math.Float64frombits(value.NormalNaN), "+Inf": math.Inf(1), "-Inf": math.Inf(-1),
	} {
		add(name+" alone", one, at(recent, v, "up"))
		add(name+" of a job", one, at(recent, v, "up", "job", "testjob", "instance", "localhost:9090"))
		add(name+" with newlines", one, at(recent, v, "up", "job", "test\njob\n", "instance", "localhost:9090"))
		add(name+" with dots", one, at(recent, v, "resource.cpu.usage", "job.name", "testjob", "instance.name", "localhost:9090"))
		add(name+" with spaces", one, at(recent, v, "resource cpu usage", "job name", "testjob", "instance name", "localhost:9090"))
		refuse(name+" without a name", [3]int{}, nameless(v, "job", "testjob", "instance", "localhost:9090"))
		refuse(name+" without labels", [3]int{}, nameless(v))
		var good, bad []scraped
		for i := range 4 {
			instance := fmt.Sprint("localhost:909", i)
			good = append(good, at(recent, v, "up", "job", "testjob", "instance", instance))
			bad = append(bad, nameless(v, "job", "testjob", "instance", instance))
		}
		add(name+" four times", [3]int{4, 0, 0}, good...)
		refuse(name+" four times without a name", [3]int{}, bad...)
		refuse(name+" once without a name", [3]int{3, 0, 0}, append(bad[:1:1], good[1:]...)...)
	}
	add("a start", one, begun(at(recent, 100, "http_requests_total", "job", "api"), time.Hour))

	// Histograms.
	add("a histogram", hist, native(shaped(true, true, true), "test_histogram"))
	add("custom buckets", hist, native(customBuckets(), "test_histogram"))
	add("positive buckets", hist, native(shaped(true, false, true), "test_histogram", "job", "test"))
	add("negative buckets", hist, native(shaped(false, true, false), "test_histogram", "instance", "localhost"))
	add("a zero bucket", hist, native(shaped(false, false, true), "minimal_hist"))
	add("no buckets", hist, native(shaped(false, false, false), "empty_hist"))
	wrong := shaped(true, false, false)
	wrong.Count = 99
	refuse("a wrong count", [3]int{}, native(wrong, "minimal_hist"))
	add("a start of a histogram", hist, begun(native(shaped(true, true, true), "request_duration_seconds", "job", "api"), 30*time.Minute))
	add("two histograms", [3]int{0, 2, 0}, native(shaped(true, false, true), "hist1", "job", "test"), native(shaped(false, true, false), "hist2", "job", "test"))
	add("a histogram with metadata", hist, told(native(shaped(true, true, true), "request_duration_seconds", "job", "api"), "histogram", "HTTP request duration in seconds", "seconds"))
	add("a histogram with an exemplar", [3]int{0, 1, 1}, traced(native(shaped(true, false, true), "http_request_duration_seconds", "method", "GET"), "trace_id", "abc123def456", "span_id", "span789"))
	add("a histogram with both", [3]int{0, 1, 1}, traced(told(native(shaped(true, true, true), "response_size_bytes", "service", "upload"), "histogram", "HTTP response size in bytes", "bytes"), "trace_id", "large", "user_id", "user456"))
	add("custom buckets with an exemplar", [3]int{0, 1, 1}, traced(native(customBuckets(), "custom_latency_hist", "version", "v2"), "trace_id", "custom", "bucket", "0.1"))

	// Exemplars.
	for name, list := range map[string][]string{
		"of a trace": {"trace_id", "abc123def456"}, "of a span": {"trace_id", "xyz789", "span_id", "span123"}, "without a trace": {"user_id", "user123"},
		"with many labels": {"trace_id", "trace456", "user", "admin", "endpoint", "/login"}, "without labels": {},
		"with dashes": {"trace_id", "trace-with-dashes_and_underscores.123"}, "with more than ASCII": {"trace_id", "unicode_trace_测试"},
	} {
		add("an exemplar "+name, [3]int{1, 0, 1}, traced(at(recent, 1, "http_requests_total", "region", "🌍"), list...))
	}
	for _, v := range []float64{0, -123.456, 1e10, 1e-10, math.Float64frombits(value.NormalNaN), math.Inf(1), math.Inf(-1)} {
		add(fmt.Sprint("an exemplar at ", v), [3]int{1, 0, 1}, traced(at(recent, v, "test_metric"), "trace_id", "special"))
	}
	add("an exemplar with a start", [3]int{1, 0, 1}, traced(begun(at(recent, 250, "http_requests_total", "job", "api"), 2*time.Hour), "trace_id", "abc123"))
	add("three exemplars", [3]int{3, 0, 3}, traced(at(recent, 0.1, "request_duration", "method", "GET"), "trace_id", "1"),
		traced(at(recent, 0.25, "request_duration", "method", "POST"), "trace_id", "2"), traced(at(recent, 1, "error_count", "service", "payment"), "user", "u"))
	add("exemplars of several times", [3]int{3, 0, 3}, traced(at(hourAgo, 0.05, "latency_hist"), "trace_id", "old"),
		traced(at(minuteAgo, 0.15, "latency_hist"), "trace_id", "recent"), traced(at(recent, 0.08, "latency_hist"), "trace_id", "current"))
	refuse("an exemplar without a name", [3]int{}, traced(nameless(1, "job", "test"), "trace_id", "test"))
	refuse("an exemplar with an empty name", [3]int{}, traced(nameless(1, "__name__", ""), "trace_id", "test"))
	add("an exemplar with a name", [3]int{1, 0, 1}, traced(at(recent, 1, "valid_metric"), "trace_id", "test"))
	refuse("an exemplar without data", [3]int{}, scraped{labels: []string{"__name__", "orphan_metric"}, exemplars: []prompb.Exemplar{exemplar(recent, 42, "trace_id", "orphan")}})

	// Metadata.
	for _, typ := range []string{"counter", "gauge", "unspecified", "info", "stateset", "summary", "gaugehistogram"} {
		add("metadata of a "+typ, one, told(at(recent, 1, "metric_of_type_"+typ), typ, "Help with\nnewlines and \"quotes\"", "bytes/sec"))
	}
	add("metadata without help and unit", one, told(at(recent, 1, "simple_counter"), "counter", "", ""))
	add("metadata with a start", one, told(begun(at(recent, 150, "http_requests_total", "job", "api"), time.Hour), "counter", "Total HTTP requests", "requests"))
	add("metadata of three", [3]int{3, 0, 0}, told(at(recent, 85.5, "cpu_usage"), "gauge", "CPU", "percent"), told(at(recent, 4.096e9, "memory_usage"), "gauge", "Memory", "bytes"),
		told(at(recent, 75.2, "disk_usage", "device", "sda1"), "gauge", "Disk", "percent"))
	add("metadata with many labels", hist, told(native(shaped(true, true, true), "http_request_duration_seconds", "job", "api-server", "instance", "localhost:8080",
		"method", "GET", "status", "200", "endpoint", "/api/v1/users"), "histogram", "HTTP request duration in seconds", "seconds"))
	refuse("metadata without a name", [3]int{}, told(nameless(1, "job", "test"), "counter", "Test help", "unit"))
	refuse("metadata with an empty name", [3]int{}, told(nameless(1, "__name__", ""), "gauge", "Test help", "unit"))
	refuse("metadata without data", [3]int{}, told(scraped{labels: []string{"__name__", "orphan_metric"}}, "counter", "Orphaned", "count"))

	// All of them.
	add("a sample with all", [3]int{1, 0, 1}, traced(told(at(recent, 1, "http_requests_total", "job", "api", "method", "POST"), "counter", "Total", "requests"), "trace_id", "1", "user_id", "u"))
	add("histograms with all", [3]int{0, 2, 1}, traced(told(native(shaped(true, false, true), "response_time_hist", "endpoint", "/api"), "histogram", "Response time", "seconds"), "trace_id", "fast"),
		told(native(shaped(false, true, true), "request_size_hist", "method", "POST"), "histogram", "Request size", "bytes"))
	add("times that differ", [3]int{2, 0, 1}, tracedAt(at(hourAgo, 1, "old_metric"), hourAgo/2, "trace_id", "old"), at(recent, 2, "new_metric"))
	add("special characters", [3]int{1, 0, 1}, traced(told(at(recent, 42, "test_metric", "job", "test-job_with.special@chars", "instance", "localhost:9090", "environment", "test🚀"),
		"gauge", "äöü, newlines\nand \"quotes\"", "special/units"), "trace_id", "äöü-123", "span_id", "span_with.dots-and_underscores"))
	var many, manyHistograms []scraped
	for i := range 50 {
		many = append(many, traced(told(at(recent, float64(i*100), fmt.Sprint("counter_metric_", i), "series", fmt.Sprint(i)), "counter", fmt.Sprint("Counter ", i), "count"), "trace_id", fmt.Sprint(i)))
		manyHistograms = append(manyHistograms, traced(told(native(shaped(true, i%2 == 0, true), fmt.Sprint("histogram_metric_", i), "bucket", fmt.Sprint(i)), "histogram", "H", "seconds"), "trace_id", fmt.Sprint(i)))
	}
	add("fifty samples", [3]int{50, 0, 50}, many...)
	add("fifty histograms", [3]int{0, 50, 50}, manyHistograms...)
	return cases
}

// shift moves all of a case to another time, as the suite does.
func shift(list []scraped, by int64) []scraped {
	moved := make([]scraped, len(list))
	for i, s := range list {
		s.times, s.histograms, s.exemplars = append([]int64(nil), s.times...), append([]prompb.Histogram(nil), s.histograms...), append([]prompb.Exemplar(nil), s.exemplars...)
		for j := range s.times {
			s.times[j] += by
		}
		for j := range s.histograms {
			s.histograms[j].Timestamp += by
		}
		for j := range s.exemplars {
			s.exemplars[j].Timestamp += by
		}
		if s.start != 0 {
			s.start += by
		}
		moved[i] = s
	}
	return moved
}

// Each case by itself is answered exactly as it should be, twice.
func TestReceiverCompliance(t *testing.T) {
	for _, c := range complianceCases() {
		t.Run(c.name, func(t *testing.T) {
			in := newInbox(t, nil)
			for round := range int64(2) {
				in.pass(10 * time.Millisecond)
				list := shift(c.series, 10*round)
				if c.name == "exemplars of several times" || c.name == "times that differ" {
					list = shift(c.series, 2*time.Hour.Milliseconds()*round) // what is older is refused, see below
					in.pass(2 * time.Hour)
				}
				w := in.postV2(v2(list...))
				status := http.StatusNoContent
				if c.refused {
					status = http.StatusBadRequest
				}
				if w.Code != status || c.refused == (w.Body.Len() == 0) {
					t.Errorf("the answer is %d %q, want %d", w.Code, w.Body, status)
				}
				for i, sort := range []string{"Samples", "Histograms", "Exemplars"} {
					if got, want := w.Header().Get("X-Prometheus-Remote-Write-"+sort+"-Written"), fmt.Sprint(c.written[i]); got != want {
						t.Errorf("%s %s are written, want %s", got, sort, want)
					}
				}
			}
		})
	}
}

// All cases one after the other, as the suite sends them, to one receiver: whatever order they are in and whatever was
// there before, no answer says that more was written than there is, none is worth a retry, and what is refused is 400.
func TestReceiverComplianceInOneGo(t *testing.T) {
	in := newInbox(t, nil)
	for i, c := range complianceCases() {
		for round := range int64(2) {
			in.pass(10 * time.Millisecond)
			w := in.postV2(v2(shift(c.series, 10*(2*int64(i)+round))...))
			old := strings.Contains(w.Body.String(), "out of order sample")
			turned := strings.Contains(w.Body.String(), "series changed between")
			if ok := w.Code == 400 && (c.refused || old || turned) || w.Code == 204 && !c.refused; !ok {
				t.Errorf("%s: the answer is %d %q", c.name, w.Code, w.Body)
			}
		}
	}
}
