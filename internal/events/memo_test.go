package events

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"github.com/thalweg/thalweg/internal/telemetry"
)

// The memo changes nothing: payloads that repeat, of series that end and begin again, and of other rules.
func TestMemo(t *testing.T) {
	x := open(t, t.TempDir(), func(o *Options) { o.Config.TTL = model.Duration(time.Second) })
	defer x.crash()
	payloads := []string{
		`{"name":"c","value":1}`, `{"name":"g","type":"gauge","value":4}`, `{"name":"h","type":"histogram","buckets":[1],"value":2}`,
		`{"name":"s","type":"summary","value":2}`, `{"name":"t","ts":1}`, `{"name":"x","values":[1,2]}`, `{"name":"i","id":"i","value":1}`, ``,
	}
	for range 5 {
		x.feed(payloads...)
	}
	want := "c 5\ng 4\nh_bucket{le=\"+Inf\"} 5\nh_bucket{le=\"1.0\"} 0\nh_count 5\nh_sum 10\ni 1\ns_count 5\ns_sum 10\nt 0\nx 15"
	if got := x.dump(); got != want {
		t.Errorf("there is\n%s\nwant\n%s", got, want)
	}
	if x.meta.workers[0].processed != 31 || x.meta.workers[0].dropped != 9 {
		t.Errorf("%+v", x.meta.workers)
	}
	x.now = x.now.Add(10 * time.Second)
	x.state.expire(x.now.UnixMilli())
	x.feed(payloads[0], payloads[0])
	if got := x.dump(); got != "c 2" {
		t.Errorf("behind the end of all series there is %s", got)
	}
	x.feed(`{"name":"c","type":"gauge","value":1}`)
	x.now = x.now.Add(10 * time.Second)
	x.state.expire(x.now.UnixMilli())
	x.feed(`{"name":"c","type":"gauge","value":7}`, payloads[0], payloads[0])
	if got := x.dump(); got != "c 7" {
		t.Errorf("a payload that does not count any more counts: %s", got)
	}
}

// It keeps what it knows when it grows, and no more than it may.
func TestMemoGrows(t *testing.T) {
	m, to, e := newMemo(), &member{}, &Event{TTL: -1}
	payload := func(i int) *probe {
		p := m.probe(fmt.Appendf(nil, `{"n":%d,"f":"%s"}`, i, strings.Repeat("x", memoPayload-20)))
		return &p
	}
	learn := func(i, series int) {
		for range 2 {
			m.put(payload(i), to, e, span{}, series)
		}
	}
	for i := range 1000 {
		learn(i, 1)
	}
	for i := range 5000 {
		learn(i, 5000)
	}
	known := 0
	for i := range 5000 {
		if r, _ := m.find(payload(i)); r != nil {
			known++
		}
	}
	if known < 4900 || len(m.slots) != 4*leastSlots {
		t.Errorf("%d of 5000 payloads are known in %d slots", known, len(m.slots))
	}
	for i := range memoBytes / memoPayload * 11 / 10 {
		learn(i, mostSlots)
	}
	held := 0
	for _, s := range m.slots {
		if s.remembered != nil {
			held += len(s.payload)
		}
	}
	if m.bytes != held || held > memoBytes || held == 0 || len(m.slots) != mostSlots {
		t.Errorf("%d bytes are remembered, %d are known of, in %d slots", held, m.bytes, len(m.slots))
	}
}

// FuzzMemo compares a gateway that remembers with one that does not, on payloads that are like each other.
func FuzzMemo(f *testing.F) {
	f.Add([]byte(`{"name":"c","value":1}`), []byte(`{"name":"c","value":2.5e1}`))
	f.Add([]byte(`{"name":"g","type":"gauge","value":-1}`), []byte(`{"name":"g","type":"gauge","value":1-1}`))
	f.Add([]byte(`{"labels":{"value":"x"},"name":"c","value":1}`), []byte(`{"labels":{"value":"x"},"name":"c","value":2}`))
	f.Add([]byte(`{"u":{"value":1},"name":"c","value":1}`), []byte(`{"u":{"value":2},"name":"c","value":1}`))
	f.Add([]byte(`{"name":"c","value":1,"value":2}`), []byte(`{"name":"c","value":3,"value":2}`))
	f.Add([]byte(`{"name":"c","value":}`), []byte(`{"name":"c","value":4}`))
	f.Add([]byte(`{"name":"c","value":4}`), []byte(`{"name":"c","value":04}`))
	f.Add([]byte(`{"name":"c\",\"value\":4}","value":1}`), []byte(`{"name":"c\",\"value\":5}","value":1}`))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		sums := func(remember bool) string {
			c := DefaultConfig()
			g := &Gateway{
				metrics: newMetrics(), repeats: telemetry.NewRepeats(slog.New(slog.DiscardHandler), time.Hour), meta: newMeta(&c), memo: newMemo(),
				state: &state{aggregate: newAggregate(&c, nil, 0)},
			}
			var text strings.Builder
			for _, p := range [][]byte{a, a, a, b, b, a, b} {
				var o Outcome
				fmt.Fprintln(&text, g.apply(p, maxBody, 0, &o), o.Dropped)
				if !remember {
					g.memo.clear()
				}
			}
			for _, f := range g.state.order {
				x := f.snapshot(0)
				for i := range x.metrics {
					m := &x.metrics[i]
					fmt.Fprintln(&text, m.labels, m.value, m.count, m.buckets)
				}
			}
			return text.String()
		}
		if got, want := sums(true), sums(false); got != want {
			t.Errorf("with a memo\n%s\nwithout\n%s", got, want)
		}
	})
}

// BenchmarkMemo applies payloads that have come before, but for their value.
func BenchmarkMemo(b *testing.B) {
	x := open(b, b.TempDir(), nil)
	payload := []byte(typical)
	digit := bytes.IndexByte(payload, '1')
	var o Outcome
	for i := 0; b.Loop(); i++ {
		payload[digit] = byte('0' + i%10)
		x.apply(payload, maxBody, 1, &o)
	}
}

// A series that has ended is not kept in memory by what remembers its payload.
func TestMemoHoldsNothing(t *testing.T) {
	x := open(t, t.TempDir(), func(o *Options) { o.Config.TTL = model.Duration(time.Second) })
	defer x.crash()
	x.feed(`{"name":"s","type":"summary","value":1,"quantiles":[0.5],"epsilons":[0.01]}`)
	m := x.state.families["s"].members[0]
	x.now = x.now.Add(10 * time.Second)
	x.expire(x.now)
	if !m.dead || m.parts != nil {
		t.Errorf("dead: %t, parts %v", m.dead, m.parts)
	}
}
