package edge

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/natsd"
	"github.com/thalweg/thalweg/internal/series"
)

// problem waits until a part of the edge says that something is wrong, in words that hold the text.
func (s *sender) problem(part, text string) {
	s.t.Helper()
	bustest.WaitFor(s.t, "problem of "+part+": "+text, func() bool {
		for _, p := range s.edge.Problems() {
			if p.Part == part && strings.Contains(p.Reason, text) {
				return true
			}
		}
		return false
	})
}

// healthy waits until nothing is wrong with sending.
func (s *sender) healthy() {
	s.t.Helper()
	bustest.WaitFor(s.t, "end of the problems", func() bool {
		for _, p := range s.edge.Problems() {
			if p.Part != "hello" { // no hub answers here
				return false
			}
		}
		return true
	})
}

func TestServerDownAtStart(t *testing.T) {
	t.Parallel()
	p := single(t)
	p.servers[0].Stop()
	s := start(t, p.proxy.URL(), t.TempDir())
	s.sink(3)
	s.problem("link", "")
	p.servers[0].Start()
	s.allStored()
	s.healthy()
	p.reading.expect(s)
	p.reading.once(bus.Live)
	s.noLoss()
}

func TestStreamMissingAtStart(t *testing.T) {
	t.Parallel()
	server := bustest.NewServer(t)
	s := start(t, server.URL(), t.TempDir())
	s.sink(3)
	s.problem("live", "")
	hub := bustest.Hub(t, server) // makes the stream
	s.allStored()
	s.healthy()
	r := read(t, hub)
	r.expect(s)
	r.once(bus.Live)
	s.noLoss()
}

func deleteStream(t *testing.T, hub *bus.Conn) {
	t.Helper()
	if _, err := hub.Request(t.Context(), "$JS.API.STREAM.DELETE."+bustest.StreamConfig().Name, nil); err != nil {
		t.Fatal(err)
	}
}

func TestStreamDeletedWhileRunning(t *testing.T) {
	t.Parallel()
	p := single(t)
	s := start(t, p.proxy.URL(), t.TempDir())
	for range 5 {
		s.sink(2)
	}
	s.allStored()
	p.reading.expect(s)
	deleteStream(t, p.hub)
	s.sink(1)
	s.problem("live", "")
	bustest.EnsureStream(t, p.hub)
	s.allStored()
	s.sink(1)
	s.allStored()
	p.reading.expect(s)      // who read the old stream gets no row twice
	read(t, p.hub).expect(s) // who reads the new one gets all
	if s.logs.count("sending again") != 1 {
		t.Errorf("%d lines say that the server lost frames, want 1", s.logs.count("sending again"))
	}
}

// An older copy of the server's directory comes back: the edge sends again what is not in it.
func TestOlderCopyRestored(t *testing.T) {
	t.Parallel()
	for _, age := range []time.Duration{0, 3 * time.Minute} {
		t.Run("after "+age.String(), func(t *testing.T) {
			t.Parallel()
			p := single(t)
			s := start(t, p.proxy.URL(), t.TempDir())
			s.sink(3)
			s.allStored()
			p.servers[0].Stop()
			older := p.servers[0].CopyStore()
			p.servers[0].Start()
			for range 4 {
				s.sink(3)
			}
			s.allStored()
			p.reading.expect(s)
			s.ahead.Store(int64(age))
			p.servers[0].Stop()
			p.servers[0].RestoreStore(older)
			p.servers[0].Start()
			bustest.WaitFor(t, "the loss", func() bool {
				s.sink(1) // a publish proves it
				return s.logs.count("sending again") > 0
			})
			s.sink(1)
			s.allStored()
			p.reading.expect(s)
			read(t, p.hub).expect(s)
			if n := s.logs.count("sending again"); n != 1 {
				t.Errorf("%d lines say that the server lost frames, want 1", n)
			}
		})
	}
}

// A second process with the same site takes over; the first keeps what it has and goes on when the other is silent.
func TestReplacement(t *testing.T) {
	t.Parallel()
	p := single(t)
	a := prepare(t, p.proxy.URL(), t.TempDir())
	a.edge.silence, a.edge.silenceCheck = time.Second, 10*time.Millisecond
	a.run()
	a.sink(3)
	a.allStored()
	b := start(t, p.proxy.URL(), t.TempDir())
	b.sink(3)
	b.allStored()
	if n := b.logs.count("taking the lane over", a.edge.Epoch().String()); n != 1 {
		t.Errorf("the new process says %d times whom it replaces, want 1", n)
	}
	a.sink(3)
	a.problem("link", b.edge.Epoch().String())
	if n := a.logs.count("another process publishes as this site", b.edge.Epoch().String()); n != 1 {
		t.Errorf("the old process says %d times who replaced it, want 1", n)
	}
	if got := a.edge.Status().Lanes[0].ReplacedBy; got != b.edge.Epoch() {
		t.Errorf("status says replaced by %s, want %s", got, b.edge.Epoch())
	}
	b.sink(1)
	b.stop()
	a.allStored() // after the silence
	a.healthy()
	p.reading.expect(a, b)
	a.noLoss()
	b.noLoss()
}

// A message of somebody who is no edge on the lane, such as from a shell, neither stops the edge nor makes it spin.
func TestForeignMessageOnLane(t *testing.T) {
	t.Parallel()
	p := single(t)
	s := start(t, p.proxy.URL(), t.TempDir())
	s.sink(2)
	s.allStored()
	subject := p.hub.Root().Lane(site, bus.Live)
	last, err := p.hub.Last(t.Context(), subject)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.hub.Publish(t.Context(), subject, []byte("hello?"), last.Sequence); err != nil {
		t.Fatal(err)
	}
	s.sink(2)
	s.allStored()
	p.reading.expect(s)
	p.reading.once(bus.Live)
	s.noLoss()
}

// After a long outage new rows go first. The backlog comes too, on its own lane.
func TestLiveFirst(t *testing.T) {
	t.Parallel()
	p := single(t)
	dir := t.TempDir()
	s := prepare(t, p.proxy.URL(), dir, func(o *Options) { o.Config.Outbox.BackfillBytesPerSecond = 1 })
	s.edge.tailBytes = 0
	s.run()
	s.sink(1)
	s.allStored()
	p.proxy.Refuse(true)
	p.proxy.Cut()
	s.problem("link", "")
	for range 5 {
		s.sink(3)
	}
	s.ahead.Store(int64(2 * time.Minute))
	p.proxy.Refuse(false)
	s.plannedTimes(2)
	s.sink(1)
	newest := s.edge.Status().Newest
	bustest.WaitFor(t, "the newest row", func() bool { return s.edge.outbox.NewestAcked() == newest })
	if s.edge.Status().Outbox.UnackedFrames == 0 {
		t.Error("the backlog was sent too, faster than allowed")
	}
	s.stop()
	again := start(t, p.proxy.URL(), dir)
	again.rows = s.rows
	again.allStored()
	bustest.WaitFor(t, "line that the gap is filled", func() bool { return again.logs.count("gap is filled") == 1 })
	p.reading.expect(again)
	p.reading.once(bus.Live)
}

func TestInOrder(t *testing.T) {
	t.Parallel()
	p := single(t)
	s := prepare(t, p.proxy.URL(), t.TempDir(), func(o *Options) { o.Config.Recovery = InOrder })
	for range 5 {
		s.sink(3)
	}
	s.ahead.Store(int64(2 * time.Minute))
	s.run()
	s.sink(2)
	s.allStored()
	p.reading.expect(s)
	p.reading.once(bus.Live)
	if n := p.reading.count(bus.Backfill); n != 0 {
		t.Errorf("%d messages on the backfill lane, want none", n)
	}
}

// wide is a schema whose frame no server of these tests takes.
func wide(text int) *series.Schema {
	help := make([]byte, text)
	for i := range help {
		help[i] = byte('0' + rand.IntN(64)) // does not compress to half
	}
	catalog := series.NewCatalog()
	return catalog.Extend(catalog.Empty(), []series.Column{series.Synthetic("wide", string(help))})
}

// sinkWide accepts a row of such a schema.
func (s *sender) sinkWide(schema *series.Schema) error {
	s.t.Helper()
	s.last = max(s.last+1, time.Now().UnixMilli())
	source := &series.Source{Key: "static/wide", Labels: s.source.Labels, Interval: time.Second}
	if err := s.edge.Sink(&series.Row{Source: source, Schema: schema, T: s.last, Values: []float64{1}}); err != nil {
		s.t.Fatal(err)
	}
	return s.edge.Flush()
}

// lacks waits until the reading knows of a gap of so many rows with a cause.
func (r *reading) lacks(rows uint64, cause frame.Cause) {
	r.t.Helper()
	bustest.WaitFor(r.t, "the gap", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.receiver.Site(site) == nil {
			return false
		}
		gaps := r.receiver.Site(site).Ledger.Gaps()
		return len(gaps) == 1 && gaps[0].Rows == rows && fmt.Sprint(gaps[0].Cause) == cause.String()
	})
}

func TestOversizeFrame(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(file, []byte("max_payload: 16KB\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := bustest.NewServer(t, func(o *natsd.Options) { o.Config.ConfigFile = file })
	hub := bustest.Hub(t, server)
	r := read(t, hub)
	s := start(t, server.URL(), t.TempDir())
	s.sink(2)
	s.allStored()
	if err := s.sinkWide(wide(40_000)); err != nil {
		t.Fatal(err)
	}
	// The schema is too large, and the row in the frame behind it needs it.
	bustest.WaitFor(t, "the frames to be given up", func() bool { return s.logs.count("cannot be sent and are given up") == 2 })
	s.sink(2)
	s.allStored()
	r.lacks(1, frame.CauseOversize)
	r.mu.Lock()
	defer r.mu.Unlock()
	for key := range s.rows {
		if r.rows[key] != 1 {
			t.Errorf("row %s came %d times", key, r.rows[key])
		}
	}
	if len(r.problems) > 0 {
		t.Errorf("problems: %q", r.problems)
	}
	s.noLoss()
}

// Both lanes may meet a frame that is too large, each in its goroutine.
func TestOversizeFramesOnBothLanes(t *testing.T) {
	t.Parallel()
	p := single(t)
	s := prepare(t, p.proxy.URL(), t.TempDir())
	defer s.edge.Close()
	s.sink(1)
	h, _ := s.edge.outbox.Last()
	var backfill sync.WaitGroup
	backfill.Go(func() { s.edge.tooLarge(s.edge.backfill, &h, &h, 8<<10, bus.ErrTooLarge) })
	s.edge.tooLarge(s.edge.live, &h, &h, 8<<10, bus.ErrTooLarge)
	backfill.Wait()
	if !s.edge.broken {
		t.Error("the live lane does not go on with a keyframe")
	}
}

// Rows that the outbox does not take are lost, and hubs are told which.
func TestOutboxRefuses(t *testing.T) {
	t.Parallel()
	p := single(t)
	s := start(t, p.proxy.URL(), t.TempDir(), func(o *Options) { o.Config.Outbox.MaxBytes = 20_000 })
	s.sink(2)
	s.allStored()
	for range 3 {
		if err := s.sinkWide(wide(40_000)); err == nil {
			t.Fatal("the outbox took a frame larger than its limit")
		}
	}
	s.problem("outbox", "max_bytes")
	s.sink(2)
	s.allStored()
	s.healthy()
	p.reading.lacks(3, frame.CauseUnwritten)
	if n := s.logs.count("outbox refused frames"); n != 1 {
		t.Errorf("%d lines about one problem, want 1", n)
	}
	p.reading.mu.Lock()
	defer p.reading.mu.Unlock()
	if len(p.reading.losses) != 1 {
		t.Errorf("losses announced: %+v, want one", p.reading.losses)
	}
}

// The frame that tells of rows that were not written is evicted during an outage: hubs are told nevertheless.
func TestNoticeIsEvicted(t *testing.T) {
	t.Parallel()
	p := single(t)
	s := start(t, p.proxy.URL(), t.TempDir(), func(o *Options) { o.Config.Outbox.MaxBytes = 20_000 })
	s.sink(2)
	s.allStored()
	p.proxy.Refuse(true)
	p.proxy.Cut()
	if err := s.sinkWide(wide(40_000)); err == nil {
		t.Fatal("the outbox took a frame larger than its limit")
	}
	s.sink(2)
	told, _ := s.edge.outbox.Last()
	for first := told.ID; first == told.ID; first, _ = s.edge.outbox.FirstUnacked() {
		s.edge.mu.Lock()
		s.edge.sender.RequestKeyframe(time.Now().UnixMilli(), false)
		s.edge.mu.Unlock()
		s.sink(20)
	}
	s.sink(1) // tells of what went
	p.proxy.Refuse(false)
	s.allStored()
	bustest.WaitFor(t, "the notice", func() bool {
		p.reading.mu.Lock()
		defer p.reading.mu.Unlock()
		return slices.ContainsFunc(p.reading.losses, func(l frame.Loss) bool { return l.Rows == 1 && l.Cause == frame.CauseUnwritten })
	})
}

// A process whose first frames the outbox does not take still tells hubs what its epoch comes after.
func TestOutboxRefusesFirstFrames(t *testing.T) {
	t.Parallel()
	p := single(t)
	dir := t.TempDir()
	small := func(o *Options) { o.Config.Outbox.MaxBytes = 20_000 }
	before := start(t, p.proxy.URL(), dir, small)
	before.sink(2)
	before.allStored()
	before.stop()
	last, _ := before.edge.outbox.Last()
	s := start(t, p.proxy.URL(), dir, small)
	for range 3 {
		if err := s.sinkWide(wide(40_000)); err == nil {
			t.Fatal("the outbox took a frame larger than its limit")
		}
	}
	s.sink(2)
	s.allStored()
	r := s.edge.outbox.Reader(frame.ID{Epoch: s.edge.Epoch(), Number: 1})
	defer r.Close()
	_, first, _, err := r.Next(1)
	if err != nil {
		t.Fatal(err)
	}
	if first.Flags&frame.FlagFirst == 0 || first.Predecessor.ID != last.ID {
		t.Errorf("first frame of the epoch has flags %d and predecessor %s, want %s", first.Flags, first.Predecessor.ID, last.ID)
	}
	bustest.WaitFor(t, "the notice", func() bool {
		p.reading.mu.Lock()
		defer p.reading.mu.Unlock()
		return len(p.reading.losses) == 1 && p.reading.losses[0].Rows == 3 && p.reading.losses[0].Cause == frame.CauseUnwritten
	})
}

// What is in memory when the process is told to end is in the stream when it has ended.
func TestDrain(t *testing.T) {
	t.Parallel()
	p := single(t)
	s := start(t, p.proxy.URL(), t.TempDir())
	s.plannedTimes(1)
	row := series.Row{Source: s.source, Schema: s.schema, T: 1, Values: make([]float64, 5)}
	if err := s.edge.Sink(&row); err != nil {
		t.Fatal(err)
	}
	s.rows[rowKey(&row)] = true
	s.stop()
	if last, err := p.hub.Last(t.Context(), p.hub.Root().Lane(site, bus.Live)); err != nil || len(last.Payload) == 0 {
		t.Errorf("last message on the lane: %v, %v", last, err)
	}
	p.reading.expect(s)
}

// Without a server the end does not wait.
func TestDrainWithoutServer(t *testing.T) {
	t.Parallel()
	p := single(t)
	p.servers[0].Stop()
	dir := t.TempDir()
	s := start(t, p.proxy.URL(), dir)
	s.sink(3)
	s.stop()
	p.servers[0].Start()
	again := start(t, p.proxy.URL(), dir)
	again.rows = s.rows
	again.sink(1)
	again.allStored()
	p.reading.expect(again)
}

func TestHelloAndKeyframeOnRequest(t *testing.T) {
	t.Parallel()
	p := single(t)
	hellos := make(chan lane.Hello, 10)
	stop, err := p.hub.Serve(p.hub.Root().Hellos(), func(subject string, data []byte) []byte {
		var h lane.Hello
		if err := json.Unmarshal(data, &h); err != nil || subject != p.hub.Root().Hello(site) {
			t.Errorf("hello %q on %q: %v", data, subject, err)
		}
		hellos <- h
		answer, err := json.Marshal(lane.Welcome{Hub: "h", NowMs: time.Now().Add(-time.Hour).UnixMilli(), FrameVersion: 1, KeyframeIntervalMs: 20_000})
		if err != nil {
			t.Error(err)
		}
		return answer
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	s := start(t, p.proxy.URL(), t.TempDir(), func(o *Options) { o.Config.KeyframeInterval = model.Duration(time.Hour) })
	hello := <-hellos
	if hello.Site != site || hello.Epoch != s.edge.Epoch().String() || hello.Version != "1.2.3" || len(hello.FrameVersions) == 0 {
		t.Errorf("hello %+v", hello)
	}
	bustest.WaitFor(t, "the hub's keyframe interval", func() bool {
		s.edge.mu.Lock()
		defer s.edge.mu.Unlock()
		return s.edge.keyframeInterval() == 20*time.Second
	})
	if st := s.edge.Status(); st.Skew < 59*time.Minute || st.Skew > 61*time.Minute || st.Greeted.IsZero() {
		t.Errorf("at %s the clock is %s ahead of the hub's, want an hour", st.Greeted, st.Skew)
	}
	s.sink(1)
	s.sink(1)
	s.allStored()
	ask := func(request string) (answer lane.ControlAnswer) {
		t.Helper()
		data, err := p.hub.Request(t.Context(), hello.Control, []byte(request))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &answer); err != nil {
			t.Fatal(err)
		}
		return answer
	}
	if a := ask(`{"op": "dance"}`); a.Done || a.Reason == "" {
		t.Errorf("answer to an unknown operation: %+v", a)
	}
	if a := ask(`{`); a.Done || a.Reason == "" {
		t.Errorf("answer to bytes: %+v", a)
	}
	if a := ask(`{"hub": "h", "op": "keyframe"}`); a.Done || a.Reason == "" {
		t.Errorf("answer a moment after the last keyframe: %+v", a)
	}
	s.ahead.Store(int64(15 * time.Second))
	if a := ask(`{"hub": "h", "op": "keyframe"}`); a.Done {
		t.Errorf("answer too early: %+v", a)
	}
	s.ahead.Store(int64(45 * time.Second))
	before := s.keyframe(p)
	if a := ask(`{"hub": "h", "op": "keyframe"}`); !a.Done {
		t.Errorf("answer: %+v", a)
	}
	s.sink(1)
	s.allStored()
	bustest.WaitFor(t, "the keyframe", func() bool { return s.keyframe(p) > before })
	p.reading.expect(s)
}

// keyframe is the sequence of the last keyframe.
func (s *sender) keyframe(p *place) uint64 {
	p.reading.mu.Lock()
	defer p.reading.mu.Unlock()
	if x := p.reading.receiver.Site(site); x != nil {
		return x.KeyframeSequence
	}
	return 0
}
