package remotewrite_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"

	"github.com/thalweg/thalweg/internal/remotewrite"
	"github.com/thalweg/thalweg/internal/series"
)

// target returns the series of a target of one kind, as far as a shard of its sender has them.
func target(t int64, instance string, shard, shards int) []scraped {
	var list []scraped
	for i := shard; i < 12; i += shards {
		list = append(list, at(t, float64(t)+float64(i), fmt.Sprintf("metric_%d", i%4), "cluster", "eu", "instance", instance, "job", "node", "n", fmt.Sprint(i), "pod", "pod of "+instance))
	}
	return list
}

// When a source has come to rest, what its series have in common is the source's, and targets of a kind share a schema,
// however the shards of their sender mixed them.
func TestReceiverSchemasComeToRest(t *testing.T) {
	in := newInbox(t, nil)
	send := func(t int64, shards int) {
		for shard := range shards {
			in.expectOK(in.postV1(v1(append(target(t, "a:1", shard, shards), target(t, "b:1", shards-1-shard, shards)...)...)))
		}
	}
	send(1, 3)
	a, b := in.schemas["write/node/a:1"], in.schemas["write/node/b:1"]
	if a == b {
		t.Fatal("targets share a schema before they could")
	}
	one := `{__name__="metric_0", cluster="eu", instance="a:1", job="node", n="0", pod="pod of a:1"}`
	if got := in.seen[one].source.String(); got != `{instance="a:1", job="node"}` {
		t.Errorf("the labels of a source are %s", got)
	}
	in.pass(time.Minute)
	send(2, 3)
	send(3, 2)
	if got := in.seen[one].source.String(); got != `{cluster="eu", instance="a:1", job="node", pod="pod of a:1"}` {
		t.Errorf("the labels of a source are %s", got)
	}
	if got := in.seen[one].column.String(); got != `{__name__="metric_0", n="0"}` {
		t.Errorf("the labels of a column are %s", got)
	}
	if a, b := in.schemas["write/node/a:1"], in.schemas["write/node/b:1"]; a != b || a.Len() != 12 {
		t.Errorf("targets of a kind have %d and %d columns of their own", a.Len(), b.Len())
	}
	for i := range 12 {
		name := fmt.Sprintf(`{__name__="metric_%d", cluster="eu", instance="b:1", job="node", n="%d", pod="pod of b:1"}`, i%4, i)
		if got, want := in.samples[name], fmt.Sprintf("[%d@1 %d@2 %d@3]", 1+i, 2+i, 3+i); fmt.Sprint(got) != want {
			t.Errorf("%s has %s, want %s", name, got, want)
		}
	}
	// A schema that is at rest stays, and grows.
	before := in.schemas["write/node/a:1"]
	in.pass(9 * time.Minute)
	send(4, 1)
	in.pass(9 * time.Minute)
	in.expectOK(in.postV1(v1(at(4, 1, "more", "instance", "a:1", "job", "node"))))
	if got := in.schemas["write/node/a:1"]; !got.Extends(before) || got.Len() != 13 {
		t.Error("a schema was made anew for one more series")
	}
	if got := in.seen[`{__name__="more", instance="a:1", job="node"}`].column.String(); got != `{__name__="more", cluster="", pod=""}` {
		t.Errorf("the labels of a column are %s", got)
	}
}

// Series that are gone leave the schema, and what is known of them with it.
func TestReceiverForgetsDeadSeries(t *testing.T) {
	in := newInbox(t, nil)
	send := func(t int64, n int) {
		var list []scraped
		for i := range n {
			list = append(list, at(t, 1, fmt.Sprint("metric_", i), "job", "j"))
		}
		in.expectOK(in.postV2(v2(list...)))
	}
	send(1, 20)
	for i := range int64(15) { // more than ten minutes with most of them
		in.pass(time.Minute)
		send(2+i, 14)
	}
	if got := in.schemas["write/j/"].Len(); got != 14 {
		t.Errorf("the schema has %d columns", got)
	}
	if got := in.metric("series"); got != 14 {
		t.Errorf("%g series are known", got)
	}
	send(20, 20) // they come back
	if got := in.metric("series"); got != 20 {
		t.Errorf("%g series are known", got)
	}
	in.pass(20 * time.Minute)
	in.expectOK(in.postV2(v2(at(30, 1, "other", "job", "x"))))
	if series, sources := in.metric("series"), in.metric("sources"); series != 1 || sources != 1 {
		t.Errorf("%g series of %g sources are known", series, sources)
	}
	// A series that returns after a pause, in the request that tidies up, is not lost.
	send(40, 10)
	in.pass(14 * time.Minute)
	send(41, 10)
	if got := in.samples[`{__name__="metric_3", job="j"}`]; got[len(got)-1] != "1@41" {
		t.Errorf("its samples are %q", got)
	}
}

func TestReceiverSeriesLimit(t *testing.T) {
	in := newInbox(t, func(o *remotewrite.ReceiverOptions) { o.MaxSeries = 10 })
	of := func(t int64, job string, n int) (list []scraped) {
		for i := range n {
			list = append(list, at(t, 1, fmt.Sprint("metric_", i), "job", job))
		}
		return list
	}
	in.expect(in.postV2(v2(of(1, "a", 6)...)), 204, "", 6, 0, 0)
	in.expect(in.postV2(v2(of(1, "b", 6)...)), 400, `there are too many series, {__name__="metric_4", job="b"} is one more`, 4, 0, 0)
	in.pass(time.Minute)
	in.expect(in.postV2(v2(of(2, "b", 4)...)), 204, "", 4, 0, 0)
	in.pass(4 * time.Minute)
	in.expect(in.postV2(v2(of(3, "b", 6)...)), 204, "", 6, 0, 0) // a has been idle for long enough
	if got := in.metric("series"); got != 6 {
		t.Errorf("%g series are known", got)
	}
	if got := in.metric("refused_total", "series_limit"); got != 2 {
		t.Errorf("%g samples are beyond the limit", got)
	}
}

func family(list ...string) series.Family {
	f := series.Family{Name: list[0], Type: model.MetricType(list[1])}
	if len(list) > 2 {
		f.Help, f.Unit = list[2], list[3]
	}
	return f
}

// Metadata of 2.0 stands in the columns from the beginning, under the name of the family; other metadata waits.
func TestReceiverMetadataOfV2(t *testing.T) {
	in := newInbox(t, nil)
	of := func(t int64, name string, metadata ...string) scraped {
		s := at(t, 1, name)
		s.metadata = metadata
		return s
	}
	h := scraped{labels: []string{"__name__", "native"}, histograms: []prompb.Histogram{ih(1, buckets(1, 1))}, metadata: []string{"histogram", "N", "s"}}
	in.expectOK(in.postV2(v2(of(1, "x_bucket", "histogram", "X", "s"), of(1, "x_sum", "histogram", "X", "s"), of(1, "y_count", "summary", "Y", ""),
		of(1, "z_count", "gauge", "Z", ""), of(1, "c_total", "counter", "C", ""), of(1, "g_gsum", "gaugehistogram", "G", ""), of(1, "i_info", "info", "", ""),
		of(1, "plain"), h)))
	for name, want := range map[string]series.Family{
		"x_bucket": family("x", "histogram", "X", "s"), "x_sum": family("x", "histogram", "X", "s"), "y_count": family("y", "summary", "Y", ""),
		"z_count": family("z_count", "gauge", "Z", ""), "c_total": family("c_total", "counter", "C", ""), "plain": {},
		"g_gsum": family("g", "gaugehistogram", "G", ""), "i_info": family("i_info", "info", "", ""), "native": family("native", "histogram", "N", "s"),
	} {
		if got := in.family[labels.FromStrings("__name__", name).String()]; got != want {
			t.Errorf("the family of %s is %+v, want %+v", name, got, want)
		}
	}
	before := in.schemas["write//"]
	step := func(d time.Duration, t int64, help string) series.Family {
		in.pass(d)
		in.expectOK(in.postV2(v2(of(t, "c_total", "counter", help, ""))))
		return in.family[`{__name__="c_total"}`]
	}
	if got := step(time.Second, 2, "other"); got.Help != "C" || in.schemas["write//"] != before {
		t.Errorf("the family is %+v at once", got)
	}
	if got := step(time.Minute, 3, "other"); got.Help != "other" {
		t.Errorf("the family is %+v after a minute", got)
	}
	if got := step(time.Minute, 4, "third"); got.Help != "other" {
		t.Errorf("the family is %+v after two", got)
	}
	if got := step(10*time.Minute, 5, "third"); got.Help != "third" {
		t.Errorf("the family is %+v after ten more", got)
	}
	bad := v2(of(6, "c_total", "counter", "fourth", ""), at(6, 6, "fine"))
	bad.Timeseries[0].Metadata.HelpRef = 99
	in.expect(in.postV2(bad), 400, `parsing metadata for series {__name__="c_total"}: symbol 99`, 2, 0, 0)
}

// Metadata of 1.0 comes for itself and later; two targets may say different things of one family, for ever.
func TestReceiverMetadataOfV1(t *testing.T) {
	in := newInbox(t, nil)
	tell := func(list ...prompb.MetricMetadata) { in.expectOK(in.postV1(&prompb.WriteRequest{Metadata: list})) }
	x := prompb.MetricMetadata{Type: prompb.MetricMetadata_HISTOGRAM, MetricFamilyName: "x", Help: "X", Unit: "s"}
	c := prompb.MetricMetadata{Type: prompb.MetricMetadata_COUNTER, MetricFamilyName: "c_total", Help: "C"}
	other := prompb.MetricMetadata{Type: prompb.MetricMetadata_COUNTER, MetricFamilyName: "c_total", Help: "another target's"}
	short := prompb.MetricMetadata{Type: prompb.MetricMetadata_COUNTER, MetricFamilyName: "short", Help: "from OpenMetrics"}
	send := func(t int64) {
		in.expectOK(in.postV1(v1(at(t, 1, "x_bucket", "le", "1"), at(t, 1, "x_total"), at(t, 1, "c_total"), at(t, 1, "short_total"))))
	}
	send(1)
	tell(x, c, other, short)
	for i := range int64(12) {
		in.pass(time.Minute)
		tell(x, c, other, short)
		send(2 + i)
	}
	for name, want := range map[string]series.Family{
		`{__name__="x_bucket", le="1"}`: family("x", "histogram", "X", "s"), `{__name__="c_total"}`: family("c_total", "counter", "C", ""),
		`{__name__="short_total"}`: family("short_total", "counter", "from OpenMetrics", ""), `{__name__="x_total"}`: {},
	} {
		if got := in.family[name]; got != want {
			t.Errorf("the family of %s is %+v, want %+v", name, got, want)
		}
	}
	in.expectOK(in.postV1(v1(at(20, 1, "x_sum"))))
	if got := in.family[`{__name__="x_sum"}`]; got != family("x", "histogram", "X", "s") {
		t.Errorf("the family of a new series is %+v", got)
	}
	for range 20 { // c is gone
		in.pass(time.Minute)
		tell(other)
		send(in.now - testTime)
	}
	if got := in.family[`{__name__="c_total"}`]; got.Help != "another target's" {
		t.Errorf("the family of c_total is %+v", got)
	}
	tell(prompb.MetricMetadata{MetricFamilyName: "long", Help: strings.Repeat("x", 5000)}, prompb.MetricMetadata{})
	if got := in.metric("refused_metadata_total"); got != 2 {
		t.Errorf("%g entries are refused", got)
	}
}

// What is remembered of families has an end.
func TestReceiverBoundsMetadata(t *testing.T) {
	in := newInbox(t, nil)
	tell := func(from, n int) {
		r := &prompb.WriteRequest{}
		for i := from; i < from+n; i++ {
			r.Metadata = append(r.Metadata, prompb.MetricMetadata{MetricFamilyName: fmt.Sprint("family_", i), Help: strings.Repeat("x", 4000)})
		}
		in.expectOK(in.postV1(r))
	}
	for i := range 5 {
		tell(i*1000, 1000)
	}
	refused := in.metric("refused_metadata_total")
	if refused < 700 || refused > 900 {
		t.Errorf("%g of 5,000 entries of 4 kB are refused", refused)
	}
	in.pass(time.Hour)
	tell(10_000, 1000) // the old ones were not said again
	if got := in.metric("refused_metadata_total"); got != refused {
		t.Errorf("%g entries more are refused", got-refused)
	}
}

func TestReceiverKeysOfSources(t *testing.T) {
	in := newInbox(t, nil)
	long := strings.Repeat("j", 300)
	in.expectOK(in.postV1(v1(at(1, 1, "a", "job", "a/b", "instance", "c"), at(1, 1, "a", "job", "a", "instance", "b/c"),
		at(1, 1, "a", "job", "a%2Fb", "instance", "c"), at(1, 1, "a", "job", long, "instance", "1"), at(1, 1, "a", "job", long, "instance", "2"))))
	if got := len(in.schemas); got != 5 {
		t.Errorf("five sources have %d keys", got)
	}
	for key := range in.schemas {
		if len(key) > 256 {
			t.Errorf("a key has %d bytes", len(key))
		}
	}
}

// Sites know nothing of each other.
func TestReceiverSites(t *testing.T) {
	in := newInbox(t, nil)
	body := snappy(t, v1(at(1, 1, "up")))
	for _, site := range []string{"a", "b"} {
		in.expectOK(in.post(map[string][]string{"Test-Site": {site}}, body))
	}
	in.stored(map[string][]string{`{__name__="up"}`: {"1@1", "1@1"}})
}

// Requests with the same series that come at once are stored one after the other; others do not wait for each other.
func TestReceiverKeepsOrder(t *testing.T) {
	in := newInbox(t, nil)
	entered, release := make(chan string), make(chan bool)
	in.enter = func(rows []*series.Row) {
		entered <- rows[0].Schema.Column(int(rows[0].Columns[0])).Labels.Get("__name__")
		<-release
	}
	answers := make(chan *httptest.ResponseRecorder)
	post := func(list ...scraped) { go func() { answers <- in.postV1(v1(list...)) }() }
	post(at(1, 1, "a"))
	if got := <-entered; got != "a" {
		t.Fatal(got)
	}
	post(at(2, 2, "a")) // waits
	post(at(1, 1, "b")) // does not
	if got := <-entered; got != "b" {
		t.Fatal(got)
	}
	release <- true
	release <- true
	first, second := <-answers, <-answers
	if got := <-entered; got != "a" {
		t.Fatal(got)
	}
	release <- true
	for _, w := range []*httptest.ResponseRecorder{first, second, <-answers} {
		in.expectOK(w)
	}
	in.stored(map[string][]string{`{__name__="a"}`: {"1@1", "2@2"}, `{__name__="b"}`: {"1@1"}})
}

// A request that comes again to the byte, because its answer was lost, is answered as before. It may have several samples
// of a series, problems, and may come while the first one is still under way.
func TestReceiverKnowsRequestsAgain(t *testing.T) {
	in := newInbox(t, nil)
	entered, release := make(chan bool), make(chan bool)
	in.enter = func([]*series.Row) { entered <- true; <-release }
	r := v2(at(1, 1, "a"), at(2, 2, "a"), at(3, 3, "a"), at(1, 1, "b"), at(0, 0, "b"))
	answers := make(chan *httptest.ResponseRecorder)
	send := func() { answers <- in.postV2(r) }
	go send()
	<-entered
	go send()
	release <- true
	go send()
	for range 3 {
		in.expect(<-answers, 400, `out of order sample for series {__name__="b"}`, 4, 0, 0)
	}
	in.stored(map[string][]string{`{__name__="a"}`: {"1@1", "2@2", "3@3"}, `{__name__="b"}`: {"1@1"}})
	// What was not stored is not known.
	in.enter = nil
	in.fail = fmt.Errorf("no")
	r = v2(at(4, 4, "a"), at(5, 5, "a"))
	in.expect(in.postV2(r), 503, "the samples cannot be stored now", 0, 0, 0)
	in.fail = nil
	in.expect(in.postV2(r), 204, "", 2, 0, 0)
	for i := range int64(3000) { // others come, and it is forgotten
		in.expect(in.postV2(v2(at(i, 1, "c"))), 204, "", 1, 0, 0)
	}
	in.expect(in.postV2(r), 400, "out of order", 1, 0, 0)
}

// A site that sends more at a time than anybody does is asked to come again; others notice nothing.
func TestReceiverBoundsRequestsOfASite(t *testing.T) {
	in := newInbox(t, nil)
	entered, release := make(chan bool), make(chan bool)
	in.enter = func([]*series.Row) { entered <- true; <-release }
	answers := make(chan *httptest.ResponseRecorder)
	post := func(site string, n int) {
		answers <- in.post(map[string][]string{"Test-Site": {site}}, snappy(t, v1(at(1, 1, "up", "n", fmt.Sprint(n)))))
	}
	const most = 128
	for n := range most {
		go post("a", n)
	}
	for range most {
		<-entered
	}
	go post("a", most)
	if w := <-answers; w.Code != 503 || w.Header().Get("Retry-After") != "5" {
		t.Errorf("one more is answered with %d", w.Code)
	}
	go post("b", 0)
	<-entered
	close(release)
	for range most + 1 {
		in.expectOK(<-answers)
	}
}

// Bodies that come slowly, however many, take up no more than so much memory of a site; others notice nothing.
func TestReceiverBoundsBytesOfASite(t *testing.T) {
	in := newInbox(t, nil)
	const large = 30 << 20
	var writers []*io.PipeWriter
	answers := make(chan *httptest.ResponseRecorder, 5)
	for range 5 {
		r, w := io.Pipe()
		writers = append(writers, w)
		request := httptest.NewRequest(http.MethodPost, "/api/v1/write", r)
		go func() {
			w := httptest.NewRecorder()
			in.receiver.ServeHTTP(w, request)
			answers <- w
			r.CloseWithError(io.ErrClosedPipe)
		}()
	}
	chunk := make([]byte, large)
	for i, w := range writers {
		if _, err := w.Write(chunk); err != nil && i < 4 {
			t.Errorf("body %d is cut off: %v", i, err)
		}
	}
	if w := <-answers; w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("one more is answered with %d", w.Code)
	}
	in.expectOK(in.post(map[string][]string{"Test-Site": {"b"}}, snappy(t, v1(at(1, 1, "up")))))
	for _, w := range writers {
		w.Close()
	}
	for range 4 {
		if w := <-answers; w.Code != 400 {
			t.Errorf("a body of zeros is answered with %d", w.Code)
		}
	}
	in.expectOK(in.postV1(v1(at(1, 1, "up"))))
}

// Requests that wait for another one with the same series keep nobody from being served, however many they are.
func TestReceiverServesOthersWhileRequestsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newInbox(t, nil)
		stored := make(chan struct{})
		in.enter = func([]*series.Row) { <-stored }
		for i := range 4*int64(runtime.GOMAXPROCS(0)) + 1 {
			go in.postV1(v1(at(i, 1, "m")))
		}
		synctest.Wait() // one is being stored, the others wait for it
		in.enter = nil
		answers := make(chan *httptest.ResponseRecorder, 1)
		go func() { answers <- in.postV1(v1(at(0, 1, "another"))) }()
		synctest.Wait()
		select {
		case w := <-answers:
			in.expectOK(w)
		default:
			t.Error("a request with another series is not answered")
		}
		close(stored)
	})
}

// A request costs no more memory for its samples, once their series are known.
func TestReceiverAllocates(t *testing.T) {
	for version := range posts {
		in := newInbox(t, func(o *remotewrite.ReceiverOptions) {
			o.Commit = func(context.Context, string, []*series.Row) error { return nil }
		})
		measure := func(n int) float64 {
			time := int64(0)
			var bodies []*http.Request
			for range 12 {
				time++
				var list []scraped
				for i := range n {
					list = append(list, at(time, 1, "metric", "job", fmt.Sprint(i%3), "n", fmt.Sprint(n, i)))
				}
				header, body := http.Header{"Content-Type": {"application/x-protobuf"}}, snappy(t, v1(list...))
				if version == "2.0" {
					header, body = http.Header{"Content-Type": {typeV2}}, snappy(t, v2(list...))
				}
				r := httptest.NewRequest(http.MethodPost, "/api/v1/write", bytes.NewReader(body))
				r.Header = header
				bodies = append(bodies, r)
			}
			next := 0
			serve := func() {
				in.receiver.ServeHTTP(httptest.NewRecorder(), bodies[next])
				next++
			}
			serve()
			return testing.AllocsPerRun(10, serve)
		}
		if few, many := measure(50), measure(2000); many > few+40 {
			t.Errorf("version %s: %v allocations for 50 samples, %v for 2,000", version, few, many)
		}
	}
}

// Many senders with shards, over a store that fails now and then: what was answered with 204 is stored once, and in
// order; what was not is stored never, or when it is sent again.
func TestReceiverConcurrently(t *testing.T) {
	in := newInbox(t, nil)
	random := rand.New(rand.NewPCG(1, 2))
	in.enter = func([]*series.Row) {
		in.mu.Lock()
		defer in.mu.Unlock()
		in.fail = nil
		if random.IntN(3) == 0 {
			in.fail = fmt.Errorf("not now")
		}
		in.now += int64(random.IntN(2000))
	}
	const shards, rounds, shared = 8, 60, 5
	var wg sync.WaitGroup
	for shard := range shards {
		wg.Go(func() {
			post := posts[[]string{"1.0", "2.0"}[shard%2]]
			for round := range int64(rounds) {
				var list []scraped
				for i := range 20 {
					list = append(list, at(round, float64(round), fmt.Sprint("metric_", i%7), "job", fmt.Sprint("j", i%3), "series", fmt.Sprintf("%d of %d", i, shard)))
				}
				for i := range shared { // all shards send these, with the same values
					list = append(list, at(round, float64(round), "shared", "n", fmt.Sprint(i)))
				}
				for {
					w := post(in, list...)
					if w.Code == 204 {
						break
					}
					if w.Code == 400 && strings.HasPrefix(w.Body.String(), `out of order sample for series {__name__="shared"`) {
						break // another shard is ahead; the rest was taken
					}
					if w.Code != 503 {
						t.Errorf("%d %s", w.Code, w.Body)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	if got, want := len(in.samples), shards*20+shared; got != want {
		t.Errorf("%d series are stored, want %d", got, want)
	}
	for name, samples := range in.samples {
		for i, s := range samples {
			if want := fmt.Sprintf("%d@%d", i, i); s != want {
				t.Fatalf("sample %d of %s is %s", i, name, s)
			}
		}
		if len(samples) != rounds {
			t.Errorf("%s has %d samples", name, len(samples))
		}
	}
}
