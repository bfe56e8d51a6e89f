package edge

import (
	"slices"
	"testing"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
)

// What little a short outage left goes in order on the live lane: no source waits for its next row to be seen.
func TestSmallBacklogGoesFirst(t *testing.T) {
	t.Parallel()
	p := single(t)
	s := prepare(t, p.proxy.URL(), t.TempDir())
	for range 5 {
		s.sink(3)
	}
	s.ahead.Store(int64(2 * time.Minute))
	s.run()
	s.allStored()
	p.reading.expect(s)
	p.reading.once(bus.Live)
	if n := p.reading.count(bus.Backfill); n != 0 {
		t.Errorf("%d messages on the backfill lane, want none", n)
	}
}

// Of a large backlog the newest file goes first, the rest beside it.
func TestEndOfBacklogGoesFirst(t *testing.T) {
	t.Parallel()
	p := single(t)
	s := prepare(t, p.proxy.URL(), t.TempDir())
	for range 4 {
		s.edge.mu.Lock()
		s.edge.sender.RequestKeyframe(time.Now().UnixMilli(), false)
		s.edge.mu.Unlock()
		s.sink(3)
		s.sink(3)
	}
	newest, _ := s.edge.outbox.NewestKeyframe()
	s.edge.tailBytes = s.edge.outbox.Stats().Bytes / 3
	s.ahead.Store(int64(2 * time.Minute))
	s.run()
	s.allStored()
	p.reading.expect(s)
	p.reading.once(bus.Live)
	p.reading.mu.Lock()
	defer p.reading.mu.Unlock()
	if p.reading.frames[bus.Live][newest] != 1 || p.reading.frames[bus.Backfill][newest] != 0 {
		t.Errorf("the newest keyframe of the backlog, %s, did not go on the live lane alone", newest)
	}
	if len(p.reading.frames[bus.Backfill]) == 0 {
		t.Error("nothing on the backfill lane")
	}
}

// During an outage files end before they are too large to go first, and not while there is a link.
func TestFilesEndDuringOutage(t *testing.T) {
	t.Parallel()
	p := single(t)
	s := prepare(t, p.proxy.URL(), t.TempDir())
	s.edge.tailBytes = 600
	for range 60 {
		s.ahead.Add(int64(10 * time.Second))
		s.sink(1)
	}
	files := s.edge.outbox.Stats().Files
	if files < 8 || files > 11 { // about one a minute
		t.Errorf("%d files after ten minutes of outage, want about ten", files)
	}
	s.run()
	s.sink(1) // of this the first frame is stored when the next are made
	s.allStored()
	for range 25 {
		s.ahead.Add(int64(10 * time.Second))
		s.sink(1)
		s.allStored()
	}
	if n := s.edge.outbox.Stats().Files - files; n > 1 {
		t.Errorf("%d more files in four minutes with a link, want at most 1", n)
	}
	p.reading.expect(s)
}

// The log says during an outage how long the outbox lasts, and afterwards that nothing waits any more.
func TestBacklogIsLogged(t *testing.T) {
	t.Parallel()
	p := single(t)
	s := prepare(t, p.proxy.URL(), t.TempDir())
	var watch backlogWatch
	said := func(text string, want int) {
		t.Helper()
		watch.look(s.edge)
		if got := s.logs.count(text); got != want {
			t.Errorf("the log says %d times %q, want %d", got, text, want)
		}
	}
	const waits, over = `msg="rows wait in the outbox"`, `msg="no rows wait in the outbox any more"`
	said(waits, 0)
	s.sink(3)
	said(waits, 0)
	s.ahead.Store(int64(61 * time.Second))
	said(waits+" site=ams-1 since=", 1)
	said("rows=3 ", 1)
	said("left=", 1)
	s.ahead.Add(int64(9 * time.Minute))
	said(waits, 1)
	s.ahead.Add(int64(2 * time.Minute))
	said(waits, 2)
	said(over, 0)
	s.run()
	s.allStored()
	said(over, 1)
	said(over, 1)
	said(waits, 2)
}

// An outbox that is full holds young rows only: that is no end of the backlog, and what was dropped is told.
func TestBacklogThatDoesNotFitIsLogged(t *testing.T) {
	t.Parallel()
	p := single(t)
	p.proxy.Refuse(true)
	s := prepare(t, p.proxy.URL(), t.TempDir(), func(o *Options) { o.Config.Outbox.MaxBytes = 2000 })
	file := func() {
		t.Helper()
		s.edge.mu.Lock()
		s.edge.sender.RequestKeyframe(s.edge.now().UnixMilli(), false)
		s.edge.mu.Unlock()
		s.sink(2)
	}
	var watch backlogWatch
	file()
	s.ahead.Add(int64(2 * time.Minute))
	watch.look(s.edge)
	if n := s.logs.count("rows wait in the outbox", "dropped=0"); n != 1 {
		t.Fatalf("the log says %d times that rows wait, want 1", n)
	}
	for s.edge.outbox.Stats().DroppedRows == 0 {
		file()
	}
	if s.edge.outbox.Stats().OldestUnacked.Before(s.edge.now().Add(-lane.Backlog)) {
		t.Fatal("the oldest row in the outbox is old still")
	}
	watch.look(s.edge)
	if n := s.logs.count("no rows wait"); n != 0 {
		t.Error("the log says that no rows wait")
	}
	s.problem(PartBacklog, "2 rows were dropped unsent")
	s.ahead.Add(int64(backlogEvery))
	watch.look(s.edge)
	if n := s.logs.count("level=WARN", "rows wait in the outbox", "dropped=2"); n != 1 {
		t.Errorf("the log says %d times what was dropped, want 1", n)
	}
	p.proxy.Refuse(false)
	s.run()
	s.allStored()
	watch.look(s.edge)
	if n := s.logs.count("level=WARN", "no rows wait in the outbox any more", "dropped=2"); n != 1 {
		t.Errorf("the log says %d times that nothing waits any more, want 1", n)
	}
	s.healthy()
}

// A keyframe says which frames may still come, so that hubs need not wait for others.
func TestKeyframesTellWhatIsPending(t *testing.T) {
	t.Parallel()
	p := single(t)
	s := prepare(t, p.proxy.URL(), t.TempDir())
	keyframe := func() {
		s.edge.mu.Lock()
		s.edge.sender.RequestKeyframe(s.edge.now().UnixMilli(), false)
		s.edge.mu.Unlock()
		s.sink(1)
	}
	told := func(want string) {
		t.Helper()
		bustest.WaitFor(t, "a keyframe that says what is pending: "+want, func() bool {
			p.reading.mu.Lock()
			defer p.reading.mu.Unlock()
			x := p.reading.receiver.Site(site)
			return x != nil && slices.Contains(x.Facts, frame.Fact{Name: lane.FactPending, Value: want})
		})
	}
	s.run()
	s.sink(1)
	s.allStored()
	keyframe()
	s.allStored()
	head, _ := s.edge.outbox.Last()
	told(head.ID.String()) // what was stored when the keyframe began is not pending
	p.proxy.Refuse(true)
	p.proxy.Cut()
	s.problem("link", "")
	s.sink(1)
	last, _ := s.edge.outbox.Last()
	s.sink(1)
	keyframe()
	p.proxy.Refuse(false)
	told(last.ID.String())
}
