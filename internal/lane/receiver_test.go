package lane_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/series"
)

// maker makes the frames of a site, of one row each.
type maker struct {
	t       testing.TB
	encoder *frame.Encoder
	schema  *series.Schema
	source  *series.Source
	now     int64
}

func newMaker(t testing.TB, epoch frame.Epoch, columns int) *maker {
	catalog := series.NewCatalog()
	var list []series.Column
	for i := range columns {
		list = append(list, series.Synthetic(fmt.Sprintf("metric_%d", i), "A metric."))
	}
	return &maker{
		t: t, encoder: frame.NewEncoder(frame.EncoderConfig{Epoch: epoch, Facts: []frame.Fact{{Name: "version", Value: "1"}}}),
		schema: catalog.Extend(catalog.Empty(), list), now: 1_700_000_000_000,
		source: &series.Source{Key: "static/a", Labels: labels.FromStrings("instance", "a", "job", "j"), Interval: time.Second},
	}
}

func (m *maker) frame() []byte {
	m.t.Helper()
	m.now += 1000
	row := series.Row{Source: m.source, Schema: m.schema, T: m.now, Values: make([]float64, m.schema.Len())}
	for i := range row.Values {
		row.Values[i] = float64(m.now) / float64(i+3)
	}
	frames, err := m.encoder.Append(nil, &row, m.now)
	if err != nil {
		m.t.Fatal(err)
	}
	return bytes.Join(m.encoder.Close(frames, m.now), nil)
}

func (m *maker) keyframe() []byte {
	m.encoder.RequestKeyframe()
	return m.frame()
}

// taker is a receiver and what came out of it.
type taker struct {
	t        *testing.T
	receiver *lane.Receiver
	refuse   map[string]bool
	limit    int
	sequence uint64
	now      int64
	rows     map[string]int
	done     int
	losses   int
	problems []string
}

func newTaker(t *testing.T, change ...func(*lane.ReceiverConfig)) *taker {
	x := &taker{t: t, rows: map[string]int{}, refuse: map[string]bool{}, limit: 1000}
	catalog := series.NewCatalog()
	cfg := lane.ReceiverConfig{Decoder: func(site string) (frame.DecoderConfig, bool) {
		return frame.DecoderConfig{Catalog: catalog, MaxColumns: x.limit}, !x.refuse[site]
	}}
	for _, f := range change {
		f(&cfg)
	}
	x.receiver = lane.NewReceiver(cfg)
	return x
}

func (x *taker) step(site string, backfill bool, frames ...[]byte) {
	x.sequence++
	x.receiver.Step(lane.Message{Site: site, Backfill: backfill, Sequence: x.sequence, Received: x.now, Payload: bytes.Join(frames, nil)}, lane.Handler{
		Row:     func(d *lane.Delivery, row *series.Row) { x.rows[fmt.Sprintf("%s %d %v", d.Site, row.T, row.Values)]++ },
		Done:    func(*lane.Delivery) { x.done++ },
		Loss:    func(string, frame.Loss) { x.losses++ },
		Problem: func(p lane.Problem) { x.problems = append(x.problems, string(p.Reason)) },
	})
}

// want checks how many rows came, each of them once, and which problems.
func (x *taker) want(rows int, problems ...string) {
	x.t.Helper()
	if len(x.rows) != rows {
		x.t.Errorf("%d rows came, want %d", len(x.rows), rows)
	}
	for key, n := range x.rows {
		if n != 1 {
			x.t.Errorf("row %s came %d times", key, n)
		}
	}
	if !slices.Equal(x.problems, problems) {
		x.t.Errorf("problems %q, want %q", x.problems, problems)
	}
}

func TestReceiver(t *testing.T) {
	t.Run("each row once, whichever way and however often it comes", func(t *testing.T) {
		x, m := newTaker(t), newMaker(t, 1, 3)
		a, b, c, d := m.frame(), m.frame(), m.keyframe(), m.frame()
		x.step("s", false, a)
		x.step("s", false, c, d)
		x.step("s", true, a, b)
		x.step("s", true, a, b, c, d)
		x.step("s", false, a, b, c, d)
		x.want(4)
		s := x.receiver.Site("s")
		if len(s.Ledger.Gaps()) != 0 || s.Frames == 0 || s.Repeated != 9 || x.done != 4 || s.Waiting {
			t.Errorf("gaps %v, repeated %d, done %d, waiting %t", s.Ledger.Gaps(), s.Repeated, x.done, s.Waiting)
		}
		if s.LastSequence != 5 || s.KeyframeOf(false) != 5 || s.KeyframeOf(true) != 4 {
			t.Errorf("sequences %d, %d, %d", s.LastSequence, s.KeyframeOf(false), s.KeyframeOf(true))
		}
	})
	t.Run("a site that goes on from an older state of its memory", func(t *testing.T) {
		x, m, again := newTaker(t), newMaker(t, 1, 3), newMaker(t, 1, 3)
		again.now += 500
		a, b, c := m.frame(), m.frame(), m.frame()
		again.frame()
		other, _, d, e := again.frame(), again.frame(), again.frame(), again.keyframe()
		x.step("s", false, a, b, c)
		x.step("s", true, a, b)
		x.step("s", false, other)
		x.want(3, "conflict")
		x.step("s", false, d) // it applies to a frame of the name of c, but not to c
		x.want(3, "conflict", "mismatch")
		if !x.receiver.Site("s").Waiting {
			t.Error("it does not wait for a keyframe")
		}
		x.step("s", false, e)
		x.want(4, "conflict", "mismatch")
	})
	t.Run("a delta to another state", func(t *testing.T) {
		x, m := newTaker(t), newMaker(t, 1, 3)
		a, _, c, d := m.frame(), m.frame(), m.frame(), m.keyframe()
		x.step("s", false, a)
		x.step("s", false, c)
		x.want(1, "mismatch")
		if !x.receiver.Site("s").Waiting {
			t.Error("it does not wait for a keyframe")
		}
		x.step("s", false, d)
		x.want(2, "mismatch")
		if x.receiver.Site("s").Waiting {
			t.Error("it still waits for a keyframe")
		}
		gaps := x.receiver.Site("s").Ledger.Gaps()
		if len(gaps) != 2 || gaps[0].To != 2 || gaps[0].Cause != lane.NotArrived || gaps[1].To != 3 || gaps[1].Cause != lane.Undecodable {
			t.Errorf("gaps %+v, want frame 2 that did not come and frame 3 that cannot be decoded without it", gaps)
		}
	})
	t.Run("a keyframe that was changed mends nothing", func(t *testing.T) {
		x, m := newTaker(t), newMaker(t, 1, 3)
		a, _, c, d := m.frame(), m.frame(), m.frame(), m.keyframe()
		x.step("s", false, a)
		x.step("s", false, c)
		d[len(d)-1] ^= 1
		x.step("s", false, d)
		x.want(1, "mismatch", "corrupt")
		if !x.receiver.Site("s").Waiting {
			t.Error("it does not wait for a keyframe any more")
		}
	})
	t.Run("what stands in a message behind a bad frame", func(t *testing.T) {
		x, m := newTaker(t), newMaker(t, 1, 3)
		a, b, c := m.frame(), m.frame(), m.keyframe()
		b[len(b)-1] ^= 1
		x.step("s", false, a, b, c)
		x.want(2, "corrupt")
		x.step("s", false, m.frame(), []byte("TLW"))
		x.want(3, "corrupt", "corrupt")
	})
	t.Run("restart", func(t *testing.T) {
		x, m := newTaker(t), newMaker(t, 1, 3)
		a, b := m.frame(), m.frame()
		x.step("s", false, a, b)
		x.receiver.Restart()
		x.step("s", false, m.frame()) // applies to a state that is forgotten
		x.want(2, "mismatch")
		x.step("s", false, a, b)
		x.want(2, "mismatch")
	})
	t.Run("restart of one kind of lanes", func(t *testing.T) {
		for _, backfill := range []bool{false, true} {
			x, m := newTaker(t), newMaker(t, 1, 3)
			a, b, c := m.frame(), m.frame(), m.frame()
			x.step("s", backfill, a)
			x.receiver.RestartLane(!backfill)
			x.step("s", backfill, b)
			x.want(2)
			x.receiver.RestartLane(backfill)
			x.step("s", backfill, c)
			x.want(2, "mismatch")
			if n := x.receiver.Site("s").KeyframeOf(backfill); n != 0 {
				t.Errorf("a keyframe is still known, in message %d", n)
			}
		}
	})
	t.Run("adopted ledger", func(t *testing.T) {
		x, m := newTaker(t), newMaker(t, 1, 3)
		a, b := m.frame(), m.frame()
		x.step("s", false, a)
		y := newTaker(t)
		y.receiver.Adopt("s", lane.LedgerFrom(x.receiver.Site("s").Ledger.State()), 0)
		y.step("s", false, a, b)
		y.want(1)
	})
	t.Run("sites are bounded", func(t *testing.T) {
		x, m := newTaker(t, func(c *lane.ReceiverConfig) { c.MaxSites = 2 }), newMaker(t, 1, 3)
		a := m.frame()
		for _, site := range []string{"a", "b", "c", "d", "a"} {
			x.step(site, false, a)
		}
		x.want(2, "limit", "limit")
	})
	t.Run("refused sites take no room", func(t *testing.T) {
		x, m := newTaker(t, func(c *lane.ReceiverConfig) { c.MaxSites = 1 }), newMaker(t, 1, 3)
		a := m.frame()
		x.refuse["b"], x.refuse["c"] = true, true
		for _, site := range []string{"b", "c", "a"} {
			x.step(site, false, a)
		}
		x.want(1, "refused", "refused")
		if n := x.receiver.Len(); n != 1 {
			t.Errorf("%d sites are remembered, want 1", n)
		}
	})
	t.Run("silent sites are forgotten step by step", func(t *testing.T) {
		x, m := newTaker(t), newMaker(t, 1, 3)
		var forgotten []string
		expire := func(idle, gone int64) {
			x.receiver.Expire(idle, gone, func(site string) { forgotten = append(forgotten, site) })
		}
		a, b, c := m.frame(), m.frame(), m.keyframe()
		x.now = 10
		x.step("s", false, a)
		expire(10, 10)
		x.step("s", false, b)
		x.want(2)
		expire(11, 10)
		if n := x.receiver.Site("s").Sources(); n != 0 {
			t.Errorf("%d sources are held of a silent site", n)
		}
		x.receiver.Restart()
		x.step("s", true, a, b) // of which the ledger still knows
		x.step("s", false, m.frame())
		x.step("s", false, c)
		x.want(3, "mismatch")
		expire(10, 10)
		if len(forgotten) != 0 {
			t.Errorf("%q are forgotten too soon", forgotten)
		}
		expire(11, 11)
		if x.receiver.Len() != 0 || !slices.Equal(forgotten, []string{"s"}) {
			t.Errorf("%d sites are remembered, %q forgotten", x.receiver.Len(), forgotten)
		}
	})
	t.Run("what came on each lane", func(t *testing.T) {
		x, m := newTaker(t), newMaker(t, 1, 3)
		a, b, c := m.frame(), m.frame(), m.keyframe()
		x.step("s", false, c)
		x.step("s", true, a, b, c)
		s := x.receiver.Site("s")
		live := lane.Traffic{Last: frame.ID{Epoch: 1, Number: 3}, Sent: m.now, Sequence: 1, Bytes: uint64(len(c)), Rows: 1}
		backfill := lane.Traffic{Last: frame.ID{Epoch: 1, Number: 2}, Sent: m.now - 1000, Sequence: 2, Bytes: uint64(len(a) + len(b) + len(c)), Rows: 2}
		if s.Live != live || s.Backfill != backfill {
			t.Errorf("live %+v, want %+v; backfill %+v, want %+v", s.Live, live, s.Backfill, backfill)
		}
	})
	t.Run("admission changes, and nothing comes twice", func(t *testing.T) {
		x, m := newTaker(t), newMaker(t, 1, 3)
		a, b, c := m.frame(), m.keyframe(), m.keyframe()
		x.step("s", false, a)
		x.refuse["s"] = true
		x.receiver.Readmit()
		x.step("s", false, b)
		x.want(1, "refused")
		if x.receiver.Site("s") != nil {
			t.Error("a refused site is shown")
		}
		x.refuse["s"] = false
		x.receiver.Readmit()
		x.step("s", false, a, c)
		x.want(2, "refused")
	})
	t.Run("of a site that is not let in any more every frame is known to be missing", func(t *testing.T) {
		x, m := newTaker(t), newMaker(t, 1, 3)
		first := m.frame()
		x.step("s", false, first)
		x.refuse["s"] = true
		x.receiver.Readmit()
		h, err := frame.Verify(first)
		if err != nil {
			t.Fatal(err)
		}
		var hub lane.Ledger // that hears of problems only
		hub.Place(&h, false)
		hub.Add(&h, 0)
		payload := bytes.Join([][]byte{m.frame(), m.frame(), m.keyframe()}, nil)
		x.receiver.Step(lane.Message{Site: "s", Sequence: 9, Payload: payload}, lane.Handler{Problem: func(p lane.Problem) {
			if p.Reason != lane.ReasonRefused || p.Header == nil || !p.Begun {
				t.Fatalf("problem %+v", p)
			}
			hub.Miss(p.Header, false, p.Cause(), 0)
		}})
		x.refuse["s"] = false
		x.receiver.Readmit()
		for name, l := range map[string]*lane.Ledger{"receiver": &x.receiver.Site("s").Ledger, "handler": &hub} {
			if missing := l.Missing(); missing.Rows[lane.Rejected] != 3 || missing.Total() != 3 {
				t.Errorf("%s: missing rows %v, want 3 that were rejected", name, missing.Rows)
			}
		}
	})
	t.Run("limits change with the next keyframe", func(t *testing.T) {
		x, m := newTaker(t), newMaker(t, 1, 50)
		x.step("s", false, m.frame())
		x.limit = 10
		x.receiver.Readmit()
		x.step("s", false, m.frame())
		x.want(2)
		x.step("s", false, m.keyframe())
		x.want(2, "limit")
		x.limit = 1000
		x.receiver.Readmit()
		x.step("s", false, m.keyframe())
		x.want(3, "limit")
	})
	t.Run("losses without end", func(t *testing.T) {
		x, m := newTaker(t), newMaker(t, 1, 3)
		for n := range uint64(5000) {
			m.encoder.Loss(frame.Loss{Epoch: 9, From: n + 1, To: n + 1, Rows: 1, Cause: frame.CauseEvicted})
		}
		x.step("s", false, m.frame())
		x.want(1)
		if n := len(x.receiver.Site("s").Ledger.State().Losses); n > 256 || x.losses > 256 {
			t.Errorf("%d losses are held, %d were handed out", n, x.losses)
		}
	})
}

// No payload makes a receiver panic, or harms what it knows of another site.
func FuzzReceiver(f *testing.F) {
	m := newMaker(f, 1, 3)
	whole := bytes.Join([][]byte{m.frame(), m.frame(), m.keyframe()}, nil)
	f.Add(whole, false)
	f.Add(whole[:len(whole)-7], true)
	f.Add([]byte(strings.Repeat("TLW\x01", 30)), false)
	f.Fuzz(func(t *testing.T, payload []byte, backfill bool) {
		x, good := newTaker(t), newMaker(t, 2, 3)
		x.step("good", false, good.frame())
		x.step("evil", backfill, payload)
		x.step("evil", !backfill, payload)
		x.step("good", false, good.frame())
		n := 0
		for key := range x.rows {
			if strings.HasPrefix(key, "good ") {
				n++
			}
		}
		if n != 2 {
			t.Errorf("%d rows of the other site came, want 2", n)
		}
		s := x.receiver.Site("evil")
		s.Ledger.Gaps()
		s.Ledger.Rows()
	})
}
