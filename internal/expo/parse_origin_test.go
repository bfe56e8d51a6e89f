package expo

import (
	"bytes"
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"

	"github.com/thalweg/thalweg/internal/series"
)

// federated makes a parser as a target has it that federates a Prometheus under the rules of honor_labels.
func federated(change func(*Options)) *Parser {
	target := labels.FromStrings("env", "prod", "instance", "leaf:9090", "job", "fed")
	return newParser(func(o *Options) {
		o.Source = &series.Source{Key: "scrape/fed/leaf:9090/0", Labels: target, Interval: 15 * time.Second}
		o.TrackStaleness = true
		o.Map = func(exposed labels.Labels) (labels.Labels, bool, error) {
			b := labels.NewBuilder(exposed)
			target.Range(func(l labels.Label) {
				if !exposed.Has(l.Name) {
					b.Set(l.Name, l.Value)
				}
			})
			return series.Relative(b.Labels(), target), true, nil
		}
		if change != nil {
			change(o)
		}
	})
}

// told prints the stamped rows as readers see them, one line for each sample and end, without repeating the source.
func told(rows []series.Row) string {
	var s strings.Builder
	b := labels.NewBuilder(labels.EmptyLabels())
	var source *series.Source
	for i := range rows {
		r := &rows[i]
		if r.Source != source {
			source = r.Source
			fmt.Fprintf(&s, "%s\n", strings.TrimPrefix(source.Key, "scrape/fed/leaf:9090/0"))
		}
		if r.End {
			fmt.Fprintf(&s, "  %d end\n", r.T-now)
		}
		for j, c := range r.Columns {
			v := fmt.Sprint(r.Values[j])
			if value.IsStaleNaN(r.Values[j]) {
				v = "stale"
			}
			fmt.Fprintf(&s, "  %d %s %s\n", r.T-now, source.SeriesLabels(b, r.Schema.Column(int(c))), v)
		}
	}
	return s.String()
}

func (p *Parser) expect(t *testing.T, body, want string) {
	t.Helper()
	res, err := p.Parse([]byte(body), text, now)
	if err != nil {
		t.Fatal(err)
	}
	if got := told(res.Stamped); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	for i := range res.Stamped {
		if !res.Stamped[i].End {
			checkRow(t, &res.Stamped[i])
		}
	}
}

// A federated Prometheus speaks for many: each (job, instance) is a source, and its samples of one time are a row.
func TestOrigins(t *testing.T) {
	body := `a{job="node",instance="h1:9100"} 1 1699999990000
a{job="node",instance="h2:9100"} 2 1699999991000
a{job="node",instance=""} 3 1699999992000
a 4 1699999993000
b{job="node",instance="h1:9100",env="test"} 5 1699999990000
b{job="node",instance="h2:9100"} 6 1699999991001
b 7 1699999993000
`
	want := `/node/h1:9100/b7b7dce47532b3e9
  -10000 {__name__="a", env="prod", instance="h1:9100", job="node"} 1
  -10000 {__name__="b", env="test", instance="h1:9100", job="node"} 5
/node/h2:9100/855b53946b311f21
  -9000 {__name__="a", env="prod", instance="h2:9100", job="node"} 2
  -8999 {__name__="b", env="prod", instance="h2:9100", job="node"} 6
/node//5dab599150eed554
  -8000 {__name__="a", env="prod", job="node"} 3
/stamped
  -7000 {__name__="a", env="prod", instance="leaf:9090", job="fed"} 4
  -7000 {__name__="b", env="prod", instance="leaf:9090", job="fed"} 7
`
	p := federated(nil)
	p.expect(t, body, want)
	p.expect(t, body, "") // no timestamp advanced
	for _, table := range p.known.stamped {
		if table.source.Interval != 15*time.Second {
			t.Errorf("source %s has the interval %s", table.source.Key, table.source.Interval)
		}
	}
	federated(nil).expect(t, body, want) // keys are the same after a restart
}

// Instances of one job have one schema, whatever their number.
func TestOriginsShareSchemas(t *testing.T) {
	var body strings.Builder
	for _, name := range []string{"a", "b", "c"} {
		for i := range 50 {
			fmt.Fprintf(&body, "%s{job=\"node\",instance=\"h%d\",mode=\"x\"} %d 1699999990000\n", name, i, i)
		}
	}
	res, err := federated(nil).Parse([]byte(body.String()), text, now)
	if err != nil || len(res.Stamped) != 50 {
		t.Fatalf("%d rows, error %v", len(res.Stamped), err)
	}
	for i := range res.Stamped {
		if res.Stamped[i].Schema != res.Stamped[0].Schema {
			t.Fatalf("row %d has a schema of its own", i)
		}
	}
}

// Series end when a body does not have them, at the time of the scrape; their source ends when it has been without any
// for long enough. A target that fails ends series, but no sources.
func TestOriginsEnd(t *testing.T) {
	p := federated(func(o *Options) { o.EndAfter = 3 })
	h1, h2 := `a{job="n",instance="1"} 1 16999999%02d000`+"\n", `a{job="n",instance="2"} 2 16999999%02d000`+"\n"
	one := func(t int) string { return fmt.Sprintf(h1, t) }
	two := func(t int) string { return fmt.Sprintf(h2, t) }
	const (
		key1 = "/n/1/c794149c16882fae\n"
		key2 = "/n/2/f0cc4af99469b710\n"
		a1   = `{__name__="a", env="prod", instance="1", job="n"}`
		a2   = `{__name__="a", env="prod", instance="2", job="n"}`
	)
	p.expect(t, one(10)+two(10), key1+"  -90000 "+a1+" 1\n"+key2+"  -90000 "+a2+" 2\n")
	p.expect(t, one(11), key1+"  -89000 "+a1+" 1\n"+key2+"  0 "+a2+" stale\n")
	if got, want := told(p.Fail(now+1).Stamped), key1+"  1 "+a1+" stale\n"; got != want {
		t.Errorf("failure:\n%swant\n%s", got, want)
	}
	for range 5 {
		if got := told(p.Fail(now + 2).Stamped); got != "" {
			t.Errorf("another failure:\n%s", got)
		}
	}
	later := func(t int) string { return fmt.Sprintf(`a{job="n",instance="1"} 1 17000000%02d000`+"\n", t) }
	p.expect(t, later(10), key1+"  10000 "+a1+" 1\n"+key2+"  0 end\n")
	if n := len(p.known.stamped); n != 1 || len(p.known.origins) != 1 {
		t.Errorf("%d sources are known, want 1", n)
	}
	p.expect(t, later(11)+strings.Replace(later(11), `"1"`, `"2"`, 1),
		key1+"  11000 "+a1+" 1\n"+key2+"  11000 "+a2+" 1\n")
	if got, want := told(p.End(now + 5)[1:]), key1+"  5 end\n"+key2+"  5 end\n"; got != want {
		t.Errorf("end:\n%swant\n%s", got, want)
	}
}

// What a failed body has learnt is forgotten with it, sources included.
func TestFailedBodyLeavesNoOrigins(t *testing.T) {
	p := federated(nil)
	if _, err := p.Parse([]byte("a{job=\"n\",instance=\"1\"} 1 1699999990000\n}\n"), text, now); err == nil {
		t.Fatal("no error")
	}
	if len(p.known.stamped) != 0 || len(p.known.origins) != 0 || len(p.known.script.lines) != 0 {
		t.Errorf("known after a failed body: %d sources, %d series", len(p.known.stamped), len(p.known.script.lines))
	}
	p.expect(t, "a{job=\"n\",instance=\"1\"} 1 1699999990000\n",
		"/n/1/c794149c16882fae\n  -10000 {__name__=\"a\", env=\"prod\", instance=\"1\", job=\"n\"} 1\n")
	if _, err := p.Parse([]byte("a{job=\"n\",instance=\"1\"} 1 1700000001000\n}\n"), text, now); err == nil {
		t.Fatal("no error")
	}
	// The sample of the failed body was not told, so that it is new.
	p.expect(t, "a{job=\"n\",instance=\"1\"} 1 1700000001000\n",
		"/n/1/c794149c16882fae\n  1000 {__name__=\"a\", env=\"prod\", instance=\"1\", job=\"n\"} 1\n")
}

// Other options do not make samples come twice, and end what they drop.
func TestChangeKeepsTimestamps(t *testing.T) {
	p := federated(nil)
	body := "a{job=\"n\",instance=\"1\"} 1 1699999990000\nb{job=\"n\",instance=\"1\"} 1 1699999990000\n"
	if _, err := p.Parse([]byte(body), text, now); err != nil {
		t.Fatal(err)
	}
	source := p.known.stamped[0].source

	o := p.options
	other := *o.Source
	o.Source = &other // equal
	p.Adjust(o)
	p.expect(t, body, "")
	if p.known.stamped[0].source != source {
		t.Error("the source is another one without need")
	}
	slower := *o.Source
	slower.Interval = time.Minute
	o.Source = &slower
	p.Adjust(o)
	p.expect(t, body, "")
	if s := p.known.stamped[0].source; s.Key != source.Key || s.Interval != time.Minute {
		t.Errorf("source with another interval: %+v", s)
	}

	mapper := o.Map
	o.Map = func(l labels.Labels) (labels.Labels, bool, error) {
		if l.Get("__name__") == "b" {
			return l, false, nil
		}
		return mapper(l)
	}
	o.Lead = append(o.Lead, series.Synthetic("more", ""))
	p.Change(o)
	failed := p.Fail(now)
	if n := len(failed.Whole.Values); n != 2 {
		t.Errorf("%d values after a change of the lead columns, want 2", n)
	}
	if got, want := told(failed.Stamped), "/n/1/c794149c16882fae\n"+
		"  0 {__name__=\"a\", env=\"prod\", instance=\"1\", job=\"n\"} stale\n"+
		"  0 {__name__=\"b\", env=\"prod\", instance=\"1\", job=\"n\"} stale\n"; got != want {
		t.Errorf("failure after a change:\n%swant\n%s", got, want)
	}
	p.expect(t, strings.ReplaceAll(body, "1699999990000", "1700000000001"),
		"/n/1/c794149c16882fae\n  1 {__name__=\"a\", env=\"prod\", instance=\"1\", job=\"n\"} 1\n")
}

// leaf makes bodies of a Prometheus with many targets of which some are replaced between scrapes.
type leaf struct {
	first, targets, metrics int
	buf                     bytes.Buffer
}

func (l *leaf) body(t int64) []byte {
	l.buf.Reset()
	for m := range l.metrics {
		for i := l.first; i < l.first+l.targets; i++ {
			fmt.Fprintf(&l.buf, "metric_%d{instance=\"10.0.0.%d:9100\",job=\"node\",mode=\"user\"} %d %d\n", m, i, m+i, t-int64(i%15)*1000)
		}
	}
	return l.buf.Bytes()
}

// 200,000 series of which a tenth are replaced with every scrape: what is remembered stays in proportion to what there
// is, labels are made for new series only, and sources end.
func TestFederationWithChurn(t *testing.T) {
	const (
		targets = 400
		metrics = 500
		churn   = targets / 10
	)
	mapped := 0
	p := federated(func(o *Options) {
		o.CompactAfter, o.EndAfter = 3, 3
		inner := o.Map
		o.Map = func(l labels.Labels) (labels.Labels, bool, error) { mapped++; return inner(l) }
	})
	l := &leaf{targets: targets, metrics: metrics}
	var ended, marked int
	var early uint64
	for scrape := range 12 {
		at := now + int64(scrape)*15_000
		mapped = 0
		res, err := p.Parse(l.body(at), text, at)
		if err != nil {
			t.Fatal(err)
		}
		if want := metrics * churn; scrape > 0 && mapped != want {
			t.Errorf("scrape %d: labels of %d series were made, want %d", scrape, mapped, want)
		}
		samples := 0
		for i := range res.Stamped {
			r := &res.Stamped[i]
			samples += len(r.Values)
			if r.End {
				ended++
			} else if value.IsStaleNaN(r.Values[0]) {
				marked += len(r.Values)
			}
		}
		if most := targets*metrics + churn*metrics; samples > most || samples < targets*metrics {
			t.Errorf("scrape %d: %d samples", scrape, samples)
		}
		if n := len(p.known.script.lines); n != targets*metrics {
			t.Errorf("scrape %d: %d series are remembered", scrape, n)
		}
		columns := 0
		for table := range p.known.tables {
			columns += table.len()
		}
		if columns > targets*metrics+4*churn*metrics {
			t.Errorf("scrape %d: %d columns are remembered", scrape, columns)
		}
		switch scrape {
		case 5:
			early = heap()
		case 11:
			if late := heap(); late > early+early/4 {
				t.Errorf("heap grew from %d to %d bytes", early, late)
			}
		}
		l.first += churn
	}
	if ended != 9*churn || marked != 11*churn*metrics {
		t.Errorf("%d sources and %d series ended, want %d and %d", ended, marked, 9*churn, 11*churn*metrics)
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A target that has other series in each body is not remembered for longer than it takes to say so.
func TestNothingButNewSeries(t *testing.T) {
	for _, stamp := range []string{"", " 1699999990000"} {
		p := federated(nil)
		var body bytes.Buffer
		for i := range 20 {
			body.Reset()
			for j := range 5000 {
				fmt.Fprintf(&body, "a{job=\"n\",instance=\"%d\",x=\"%d-%d\"} 1%s\n", j%100, i, j, stamp)
			}
			if _, err := p.Parse(body.Bytes(), text, now+int64(i)); err != nil {
				t.Fatal(err)
			}
			columns := 0
			for table := range p.known.tables {
				columns += table.len()
			}
			if columns > 3*5000+1000 {
				t.Fatalf("%d columns after body %d", columns, i)
			}
		}
	}
}

// A target that leaves most out now and then keeps its schema.
func TestShortBodies(t *testing.T) {
	p := newParser(nil)
	var full strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&full, "a{x=\"%d\"} 1\n", i)
	}
	var schema *series.Schema
	for i := range 20 {
		body := []string{full.String(), "a{x=\"7\"} 2\n"}[i%2]
		res, err := p.Parse([]byte(body), text, now+int64(i))
		if err != nil {
			t.Fatal(err)
		}
		if schema == nil {
			schema = res.Whole.Schema
		}
		if res.Whole.Schema != schema {
			t.Fatalf("body %d has another schema, of %d columns", i, res.Whole.Schema.Len())
		}
	}
}

// Compaction renumbers what is known of series: their samples still go where they belong.
func TestCompactionKeepsSeriesApart(t *testing.T) {
	p := federated(func(o *Options) { o.CompactAfter = 2 })
	at := now
	for round := range 30 {
		var body strings.Builder
		want := map[string]float64{}
		for i := range 40 {
			if (i+round)%7 < 3 {
				continue
			}
			v := float64(i*1000 + round)
			fmt.Fprintf(&body, "a{job=\"n\",instance=\"%d\",x=\"%d\"} %g %d\nw{x=\"%d\"} %g\n", i%3, i, v, at, i, -v)
			want[fmt.Sprintf(`{__name__="a", env="prod", instance="%d", job="n", x="%d"}`, i%3, i)] = v
			want[fmt.Sprintf(`{__name__="w", env="prod", instance="leaf:9090", job="fed", x="%d"}`, i)] = -v
		}
		res, err := p.Parse([]byte(body.String()), text, at)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		b := labels.NewBuilder(labels.EmptyLabels())
		for i, v := range res.Whole.Values[1:] {
			if res.Whole.Has(i + 1) {
				got[res.Whole.Source.SeriesLabels(b, res.Whole.Schema.Column(i+1)).String()] = v
			}
		}
		for _, r := range res.Stamped {
			for i, c := range r.Columns {
				if !math.IsNaN(r.Values[i]) {
					got[r.Source.SeriesLabels(b, r.Schema.Column(int(c))).String()] = r.Values[i]
				}
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("round %d:\n got %v\nwant %v", round, got, want)
		}
		at += 1000
	}
}
