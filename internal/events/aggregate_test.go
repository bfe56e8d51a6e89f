package events

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/relabel"

	"github.com/thalweg/thalweg/internal/series"
)

// desk is an aggregate with what feeds and shows it.
type desk struct {
	*aggregate
	t      testing.TB
	parser Parser
	rows   *rows
	now    int64
}

func newDesk(t testing.TB, change func(*Config)) *desk {
	c := DefaultConfig()
	if change != nil {
		change(&c)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	const start = 1_700_000_000_000
	return &desk{
		aggregate: newAggregate(&c, map[string]bool{"prom_stream_gateway_info": true}, start), t: t, now: start,
		rows: newRows(series.NewCatalog(), &series.Source{Key: "events"}),
	}
}

// feed applies payloads, and returns why the last event was not taken.
func (d *desk) feed(payloads ...string) (reason Reason) {
	d.t.Helper()
	for _, p := range payloads {
		events, ok := d.parser.Parse([]byte(p))
		if !ok {
			d.t.Fatalf("%s is not JSON", p)
		}
		for i := range events {
			reason = d.apply(&events[i], d.now)
		}
	}
	return reason
}

// dump shows all series, in the order of their text.
func (d *desk) dump() string {
	row := d.rows.make(d.aggregate, d.now)
	var lines []string
	next := 0
	for i := range row.Values {
		c := row.Schema.Column(i)
		if !row.Has(i) {
			continue
		}
		value := fmt.Sprint(row.Values[i])
		if c.Kind != series.Float {
			h := row.Histograms[next].H
			next++
			value = fmt.Sprintf("count:%d sum:%g schema:%d zero:%d", h.Count, h.Sum, h.Schema, h.ZeroCount)
		}
		name := c.Labels.Get(model.MetricNameLabel)
		rest := c.Labels.MatchLabels(false, model.MetricNameLabel).String()
		lines = append(lines, strings.TrimSuffix(name+rest, "{}")+" "+value)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func (d *desk) expect(lines ...string) {
	d.t.Helper()
	if got, want := d.dump(), strings.Join(lines, "\n"); got != want {
		d.t.Errorf("there is\n%s\nwant\n%s", got, want)
	}
}

func TestCounter(t *testing.T) {
	d := newDesk(t, nil)
	d.feed(`{"name":"c","value":2.5}`, `{"name":"c","type":"counter","value":1}`, `{"name":"d","labels":{"b":"2","a":"1","e":""}}`,
		`{"name":"d","labels":{"a":"1","b":"2"},"values":[1,2,3]}`)
	for _, bad := range []string{`{"name":"c","value":-1}`, `{"name":"c","value":1e999}`, `{"name":"new","value":-1}`, `{"name":"c","values":[1,-1]}`} {
		if r := d.feed(bad); r != BadValue {
			t.Errorf("%s: %q", bad, r)
		}
	}
	d.expect("c 3.5", `d{a="1", b="2"} 6`)
	for range 1_000_000 {
		d.feed(`{"name":"tenths","value":0.1}`)
	}
	d.expect("c 3.5", `d{a="1", b="2"} 6`, "tenths 100000")
}

func TestGauge(t *testing.T) {
	d := newDesk(t, nil)
	f := func(want float64, payload string) {
		t.Helper()
		d.feed(payload)
		if got := d.dump(); got != "g "+fmt.Sprint(want) {
			t.Errorf("behind %s: %s, want %g", payload, got, want)
		}
	}
	f(5, `{"name":"g","type":"gauge","value":5}`)
	f(6, `{"name":"g","type":"gauge","op":"inc"}`)
	f(4, `{"name":"g","type":"gauge","op":"dec","value":2}`)
	f(7, `{"name":"g","type":"gauge","value":7,"ts":1700000000}`)
	f(7, `{"name":"g","type":"gauge","value":8,"ts":1699999999}`)
	f(9, `{"name":"g","type":"gauge","value":9,"ts":1700000000}`)
	f(1, `{"name":"g","type":"gauge","value":1}`)
	f(math.Inf(1), `{"name":"g","type":"gauge","value":1e999}`)
	f(math.Inf(1), `{"name":"g","type":"gauge","value":1e999,"op":"inc"}`)
	f(-2, `{"name":"g","type":"gauge","value":-2}`)
	if r := d.feed(`{"name":"g","type":"gauge","value":8,"ts":1699999999}`); r != Stale {
		t.Errorf("an older value is %q", r)
	}
}

// A sender whose clock is wrong keeps no later values out; one that is a little ahead may.
func TestGaugeOfTheFuture(t *testing.T) {
	d := newDesk(t, nil)
	for _, op := range []string{"set", "max"} {
		for _, ts := range []string{"1700003601", "4e12"} {
			if r := d.feed(fmt.Sprintf(`{"name":"g_%s","type":"gauge","op":"%s","value":9,"ts":%s}`, op, op, ts)); r != BadValue {
				t.Errorf("%s at %s: %q", op, ts, r)
			}
		}
		if r := d.feed(fmt.Sprintf(`{"name":"g_%s","type":"gauge","op":"%s","value":1,"ts":1700003600}`, op, op)); r != Taken {
			t.Errorf("%s an hour ahead: %q", op, r)
		}
	}
	d.expect("g_max 1", "g_set 1")
	if r := d.feed(`{"name":"g","type":"gauge","ts":4e12}`, `{"name":"c","ts":4e12,"value":1}`); r != Taken {
		t.Errorf("a counter, which adds at whatever time: %q", r)
	}
	d.expect("c 1", "g_max 1", "g_set 1")
}

func TestGaugeWindow(t *testing.T) {
	d := newDesk(t, nil)
	d.now -= d.now % 10_000
	at := func(ms int64, payload string) {
		t.Helper()
		d.now += ms
		if payload != "" {
			d.feed(`{"name":"g","type":"gauge","window":10,` + payload + `}`)
		}
	}
	at(0, `"op":"max","value":3`)
	d.expect("g 3") // none is complete
	at(1000, `"op":"max","value":5`)
	at(1000, `"op":"max","value":4`)
	d.expect("g 5")
	at(8000, `"op":"max","value":1`)
	d.expect("g 5") // the window before
	at(5000, `"op":"max","value":2`)
	d.expect("g 5")
	at(5000, "")
	d.expect("g 2")
	at(0, `"op":"min","value":7`)
	at(1, `"op":"min","value":6`)
	d.expect("g 6")
	at(1, `"op":"inc","value":1`)
	d.expect("g 7")
}

func TestHistogram(t *testing.T) {
	d := newDesk(t, nil)
	for i := range 10 {
		d.feed(fmt.Sprintf(`{"name":"h","type":"histogram","buckets":[1,5],"value":%d,"labels":{"a":"b"}}`, i))
	}
	d.feed(`{"name":"h","type":"histogram","buckets":[2],"value":5,"labels":{"a":"b"}}`)
	d.feed(`{"name":"h","type":"histogram","buckets":[7,8],"values":[],"labels":{"c":"d"}}`)
	if d.mismatches != 2 {
		t.Errorf("%d mismatches", d.mismatches)
	}
	d.expect(
		`h_bucket{a="b", le="+Inf"} 11`, `h_bucket{a="b", le="1.0"} 2`, `h_bucket{a="b", le="5.0"} 7`,
		`h_bucket{c="d", le="+Inf"} 0`, `h_bucket{c="d", le="1.0"} 0`, `h_bucket{c="d", le="5.0"} 0`,
		`h_count{a="b"} 11`, `h_count{c="d"} 0`, `h_sum{a="b"} 50`, `h_sum{c="d"} 0`)
	for _, bad := range []string{`[1,1]`, `[2,1]`, `[1e999,1]`} {
		if r := d.feed(`{"name":"x","type":"histogram","buckets":` + bad + `}`); r != BadBuckets {
			t.Errorf("%s: %q", bad, r)
		}
	}
}

func TestNativeHistogram(t *testing.T) {
	d := newDesk(t, nil)
	d.feed(`{"name":"n","type":"histogram","buckets":"native","values":[1,2,3,0,-5]}`)
	d.expect("n count:5 sum:1 schema:3 zero:1")
	h := d.rows.make(d.aggregate, d.now).Histograms[0].H
	if err := h.Validate(); err != nil {
		t.Error(err)
	}
}

// A native histogram is what client_golang makes of the same observations.
func TestNativeLikeClientGolang(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	other := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "n", NativeHistogramBucketFactor: 1.1})
	n := newNative()
	total := sum{}
	for range 2000 {
		v := rng.NormFloat64() * 3
		if rng.IntN(10) == 0 {
			v = math.Ldexp(1, rng.IntN(6)-3) // bounds of buckets
		}
		other.Observe(v)
		n.observe(v)
		total.add(v)
	}
	n.observe(0)
	other.Observe(0)
	got := n.histogram(total.total())
	if err := got.Validate(); err != nil {
		t.Fatal(err)
	}
	var m dto.Metric
	if err := other.Write(&m); err != nil {
		t.Fatal(err)
	}
	want := m.Histogram
	if got.Schema != want.GetSchema() || got.Count != want.GetSampleCount() || got.ZeroCount != want.GetZeroCount() {
		t.Errorf("schema %d, count %d, zero %d; want %d, %d, %d", got.Schema, got.Count, got.ZeroCount, want.GetSchema(), want.GetSampleCount(), want.GetZeroCount())
	}
	if !slices.Equal(got.PositiveBuckets, want.PositiveDelta) || !slices.Equal(got.NegativeBuckets, want.NegativeDelta) || len(got.PositiveSpans) != len(want.PositiveSpan) {
		t.Errorf("buckets are %v %v, want %v %v", got.PositiveBuckets, got.NegativeBuckets, want.PositiveDelta, want.NegativeDelta)
	}
	for i, s := range got.PositiveSpans {
		if s.Offset != want.PositiveSpan[i].GetOffset() || s.Length != want.PositiveSpan[i].GetLength() {
			t.Errorf("span %d is %v", i, s)
		}
	}
}

func TestNativeWidens(t *testing.T) {
	n := newNative()
	rng := rand.New(rand.NewPCG(3, 4))
	for range 10_000 {
		n.observe(math.Exp(rng.Float64()*200 - 100))
	}
	if len(n.positive) > maxNative || n.schema >= firstSchema || n.count() != 10_000 {
		t.Errorf("%d buckets of schema %d hold %d", len(n.positive), n.schema, n.count())
	}
	if err := n.histogram(1).Validate(); err != nil {
		t.Error(err)
	}
	// What was observed before is where it would be observed now.
	wide := newNative()
	wide.schema = n.schema
	rng = rand.New(rand.NewPCG(3, 4))
	for range 10_000 {
		wide.observe(math.Exp(rng.Float64()*200 - 100))
	}
	if fmt.Sprint(wide.positive) != fmt.Sprint(n.positive) {
		t.Error("buckets made wider are not those of wider ones")
	}
}

func TestSummary(t *testing.T) {
	d := newDesk(t, func(c *Config) { c.Limits.Summaries = 1 })
	for i := range 100 {
		d.feed(fmt.Sprintf(`{"name":"s","type":"summary","value":%d,"quantiles":[0.99,0.5],"epsilons":[0.001,0.01]}`, i))
	}
	d.feed(`{"name":"plain","type":"summary","value":3}`)
	d.expect("plain_count 1", "plain_sum 3", `s_count 100`, `s_sum 4950`, `s{quantile="0.5"} 49`, `s{quantile="0.99"} 98`)
	f := func(want Reason, payload string) {
		t.Helper()
		if r := d.feed(payload); r != want {
			t.Errorf("%s: %q, want %q", payload, r, want)
		}
	}
	f(SeriesLimit, `{"name":"s","type":"summary","value":1,"quantiles":[0.99,0.5],"epsilons":[0.001,0.01],"labels":{"a":"b"}}`)
	f(BadQuantiles, `{"name":"x","type":"summary","quantiles":[1.5],"epsilons":[0.01]}`)
	f(BadQuantiles, `{"name":"x","type":"summary","quantiles":[0.5],"epsilons":[0]}`)
	f(BadQuantiles, `{"name":"x","type":"summary","quantiles":[0.5,0.5],"epsilons":[0.1,0.1]}`)
	f(BadLabel, `{"name":"x","type":"summary","labels":{"quantile":"1"}}`)
}

func TestRefusals(t *testing.T) {
	d := newDesk(t, func(c *Config) { c.Limits.Series, c.Limits.SeriesPerMetric = 8, 3 })
	f := func(want Reason, payload string) {
		t.Helper()
		if got := d.feed(payload); got != want {
			t.Errorf("%s: %q, want %q", payload, got, want)
		}
	}
	f(Taken, `{"name":"h","type":"histogram","buckets":[1]}`)
	f(Taken, `{"name":"s","type":"summary"}`)
	f(Conflict, `{"name":"h","value":1}`)
	f(Conflict, `{"name":"h","value":1,"labels":{"new":"one"}}`)
	f(Conflict, `{"name":"h_count"}`)
	f(Conflict, `{"name":"h_bucket"}`)
	f(Conflict, `{"name":"s_sum","type":"gauge"}`)
	f(Taken, `{"name":"s_bucket"}`)
	f(Taken, `{"name":"x_sum"}`)
	f(Conflict, `{"name":"x","type":"summary"}`)
	f(BadName, `{"name":"a:b"}`)
	f(BadName, `{"name":"a\n"}`)
	f(BadName, `{"name":"1a"}`)
	f(BadName, `{"name":"a-b"}`)
	f(BadLabel, `{"name":"a","labels":{"a-b":"x"}}`)
	f(BadLabel, `{"name":"a","labels":{"__a":"x"}}`)
	f(BadLabel, `{"name":"a","labels":{"__name__":"x"}}`)
	f(BadLabel, `{"name":"hh","type":"histogram","buckets":[1],"labels":{"le":"x"}}`)
	f(Taken, `{"name":"c","labels":{"le":"x"}}`)
	f(Reserved, `{"name":"prom_stream_gateway_info","type":"gauge"}`)
	f(LongLabels, `{"name":"c","labels":{"a":"`+strings.Repeat("x", 1025)+`"}}`)
	f(LongLabels, `{"name":"c","labels":{"`+strings.Repeat("x", 129)+`":"a"}}`)
	f(BadExemplar, `{"name":"c","labels":{"le":"x"},"exemplar":{"trace_id":"`+strings.Repeat("x", 128)+`"}}`)
	f(Taken, `{"name":"c","labels":{"le":"y"}}`)
	f(Taken, `{"name":"c","labels":{"le":"z"}}`)
	f(MetricLimit, `{"name":"c"}`)
	f(Taken, `{"name":"e"}`)
	f(SeriesLimit, `{"name":"f"}`)
	f(Taken, `{"name":"e"}`)
	if d.size != 8 {
		t.Errorf("%d series", d.size)
	}
	b := &strings.Builder{}
	for i := range 65 {
		fmt.Fprintf(b, `"l%d":"x",`, i)
	}
	f(LongLabels, `{"name":"c","labels":{`+strings.TrimSuffix(b.String(), ",")+`}}`)
}

func TestLongSeries(t *testing.T) {
	d := newDesk(t, func(c *Config) { c.Limits.Series, c.TTL = 10, model.Duration(time.Second) })
	event := func(i int) string {
		return fmt.Sprintf(`{"name":"a","labels":{"i":"%d","long":"%s"}}`, i, strings.Repeat("x", 1000))
	}
	wide := func(i int) string {
		return fmt.Sprintf(`{"name":"h%d","type":"histogram","buckets":[%s1e9]}`, i, func() (s string) {
			for i := range 500 {
				s += fmt.Sprint(i, ",")
			}
			return s
		}())
	}
	for range 3 {
		for i, want := range []Reason{Taken, Taken, Taken, Taken, Taken, SeriesLimit} {
			payload := event(i)
			if i > 1 {
				payload = wide(i)
			}
			if got := d.feed(payload); got != want {
				t.Errorf("event %d is %q with %d bytes", i, got, d.bytes)
			}
		}
		d.now += 5000
		if d.expire(d.now); d.bytes != 0 {
			t.Errorf("%d bytes of no series", d.bytes)
		}
	}
}

func TestTTL(t *testing.T) {
	d := newDesk(t, func(c *Config) { c.TTL = model.Duration(time.Minute) })
	d.feed(`{"name":"a"}`, `{"name":"b","ttl":5}`, `{"name":"c","ttl":0}`, `{"name":"h","type":"histogram","buckets":[1],"ttl":5}`)
	d.expire(d.now)
	pass := func(seconds int64) {
		for range seconds {
			d.now += 1000
			d.expire(d.now)
		}
	}
	pass(4)
	d.feed(`{"name":"b"}`) // by another 5 s
	pass(4)
	d.expect("a 0", "b 0", "c 0")
	if r := d.feed(`{"name":"h","type":"gauge"}`); r != Taken {
		t.Errorf("a name that nobody has any more: %q", r)
	}
	pass(1)
	d.expect("a 0", "c 0", "h 0")
	d.feed(`{"name":"a","value":1}`)
	pass(58)
	d.expect("a 1", "c 0", "h 0")
	d.now += 100 * 86400 * 1000 // a clock that jumps
	d.expire(d.now)
	d.expect("c 0")
	if len(d.families) != 1 || len(d.index) != 1 || d.size != 1 || len(d.order) > 2 {
		t.Errorf("%d families, %d series", len(d.families), d.size)
	}
	d.feed(`{"name":"a","value":1}`)
	if m := d.families["a"].members[0]; m.created != d.now {
		t.Errorf("a series that is reborn was created at %d", m.created)
	}
}

// The schema of a gateway in which series come and go does not grow without end.
func TestRowsCompact(t *testing.T) {
	d := newDesk(t, func(c *Config) { c.TTL = model.Duration(10 * time.Second) })
	for i := range 300 {
		d.feed(fmt.Sprintf(`{"name":"c","labels":{"i":"%d"},"value":%d}`, i, i), `{"name":"kept"}`)
		d.now += 1000
		d.expire(d.now)
		if row := d.rows.make(d.aggregate, d.now); row.Samples() != d.size || row.Schema.Len() > 20 {
			t.Fatalf("%d samples in %d columns of %d series", row.Samples(), row.Schema.Len(), d.size)
		}
	}
}

func TestRowExtras(t *testing.T) {
	d := newDesk(t, nil)
	d.feed(`{"name":"c","value":1,"exemplar":{"trace_id":"x"}}`, `{"name":"g","type":"gauge"}`,
		`{"name":"h","type":"histogram","buckets":[1,5],"value":3,"exemplar":{"trace_id":"y"},"ts":1600000000,"unit":"seconds","help":"H."}`)
	row := d.rows.make(d.aggregate, d.now)
	if len(row.Starts) != 6 || row.Starts[0].Ms != d.now {
		t.Errorf("starts are %v", row.Starts)
	}
	if len(row.Exemplars) != 2 || row.Exemplars[0].Column != 0 || row.Exemplars[1].Column != 3 || row.Exemplars[1].Exemplar.Ts != 1_600_000_000_000 {
		t.Errorf("exemplars are %v", row.Exemplars)
	}
	if f := row.Schema.Column(3).Family; f.Unit != "seconds" || f.Help != "H." || f.Type != model.MetricTypeHistogram || f.Name != "h" {
		t.Errorf("family is %+v", f)
	}
}

func TestRelabel(t *testing.T) {
	d := newDesk(t, func(c *Config) {
		rule := func(action relabel.Action, source, regex, target, replacement string) *relabel.Config {
			r := relabel.DefaultRelabelConfig
			r.Action, r.Regex, r.TargetLabel, r.Replacement = action, relabel.MustNewRegexp(regex), target, replacement
			if source != "" {
				r.SourceLabels = model.LabelNames{model.LabelName(source)}
			}
			return &r
		}
		c.RelabelConfigs = []*relabel.Config{
			rule(relabel.LabelDrop, "", "user", "", "$1"),
			rule(relabel.Drop, "env", "test", "", "$1"),
			rule(relabel.Replace, "__name__", "old_(.*)", "__name__", "new_$1"),
		}
	})
	for range 3 {
		d.feed(`{"name":"old_c","value":1,"labels":{"user":"a","env":"prod"}}`, `{"name":"old_c","value":1,"labels":{"user":"b","env":"prod"}}`)
		if r := d.feed(`{"name":"x","labels":{"env":"test"}}`); r != Relabelled {
			t.Errorf("what rules drop is %q", r)
		}
		if r := d.feed(`{"name":"old_c","type":"gauge","labels":{"user":"b","env":"prod"}}`); r != Conflict {
			t.Errorf("another type is %q", r)
		}
	}
	d.expect(`new_c{env="prod"} 6`)
	if n := len(d.relabelled); n != 3 {
		t.Errorf("%d results are remembered", n)
	}
}

func TestApplyAllocates(t *testing.T) {
	rule := relabel.DefaultRelabelConfig
	rule.Action, rule.Regex = relabel.LabelDrop, relabel.MustNewRegexp("x")
	for _, rules := range [][]*relabel.Config{nil, {&rule}} {
		d := newDesk(t, func(c *Config) { c.RelabelConfigs = rules })
		payload := []byte(typical)
		f := func() {
			events, _ := d.parser.Parse(payload)
			if r := d.apply(&events[0], d.now); r != Taken {
				t.Fatal(r)
			}
		}
		f()
		if n := testing.AllocsPerRun(1000, f); n != 0 {
			t.Errorf("%g allocations with rules %v", n, rules)
		}
	}
}

// BenchmarkApply parses and applies events of many series in random order, and says what a series takes.
func BenchmarkApply(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			d := newDesk(b, nil)
			payloads := make([][]byte, n)
			for i := range payloads {
				payloads[i] = fmt.Appendf(nil, `{"type":"counter","name":"http_requests_total","value":%d,"labels":{"instance":"web-%d","job":"shop","region":"eu-west-1","method":"GET","status":"200"}}`, i%10, i)
			}
			own := heap()
			for _, p := range payloads {
				d.feed(string(p))
			}
			d.rows.make(d.aggregate, d.now)
			perSeries := float64(heap()-own) / float64(n)
			order := rand.New(rand.NewPCG(1, 2)).Perm(n)
			i := 0
			for b.Loop() {
				events, _ := d.parser.Parse(payloads[order[i]])
				d.apply(&events[0], d.now)
				if i++; i == n {
					i = 0
				}
			}
			b.ReportMetric(perSeries, "B/series")
			runtime.KeepAlive(payloads)
		})
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
