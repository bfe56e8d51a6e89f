package hub

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
)

// A kill at any write of a cursor: before it, in the middle of it, and after it, without the process knowing. What was
// delivered before the write is known afterwards, and nothing that was not.
func TestCursorKilledAtEachWrite(t *testing.T) {
	dir := t.TempDir()
	c, err := openCursor(dir, "out", 42)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.close() }()
	path := filepath.Join(dir, "out.cursor")
	read := func() []byte {
		t.Helper()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	var ledger lane.Ledger
	known := func() string { return fmt.Sprintf("%+v", spansOf(ledger.State())) }
	restart := func(n uint64) bus.Position {
		return bus.Position{Created: time.Unix(0, 1_700_000_000_000_000_000).UTC(), Sequence: n, Checksum: 7}
	}
	// reopen is the next process: journal and what a compaction had begun are as the killed one left them.
	reopen := func(what string, journal, begun []byte, want ...string) {
		t.Helper()
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "out.cursor"), journal, 0o600); err != nil {
			t.Fatal(err)
		}
		if begun != nil {
			if err := os.WriteFile(filepath.Join(dir, "out.cursor.new"), begun, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		next, err := openCursor(dir, "out", 99)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		defer next.close()
		l := next.ledger("ams-1")
		got := fmt.Sprintf("%+v", spansOf(l.State()))
		ok := false
		for _, w := range want {
			ok = ok || got == w
		}
		if !ok || next.since != 42 || next.damage != nil {
			t.Fatalf("%s: the next process knows of %s, since %d, damage %v; want one of %q", what, got, next.since, next.damage, want)
		}
		if left, err := filepath.Glob(filepath.Join(dir, "*.new")); err != nil || len(left) > 0 {
			t.Fatalf("%s: %q is left behind", what, left)
		}
	}
	// appended compares the journal before and after a write that appends to it.
	appended := func(what string, before, after []byte, old, new string) {
		t.Helper()
		if !bytes.HasPrefix(after, before) || len(after) == len(before) {
			t.Fatalf("%s: nothing was appended", what)
		}
		for _, size := range []int{len(before), len(before) + 1, (len(before) + len(after)) / 2, len(after) - 1} {
			reopen(fmt.Sprintf("%s, %d of %d bytes", what, size-len(before), len(after)-len(before)), after[:size], nil, old)
		}
		reopen(what+", done", after, nil, new)
	}
	for n := uint64(1); n <= 12; n++ {
		if n == 5 {
			continue // a gap
		}
		before, old := read(), known()
		h := frame.Header{Kind: frame.Delta, ID: frame.ID{Epoch: 3, Number: n}, Base: n - 1, RowsBefore: n - 1, Rows: 1, Sent: int64(n)}
		ledger.Place(&h, false)
		ledger.Add(&h, h.Sent)
		if err := c.write(c.note([]delivered{{site: "ams-1", header: h, whole: true}}, false, bus.Position{})); err != nil {
			t.Fatal(err)
		}
		after := read()
		appended(fmt.Sprintf("frame %d", n), before, after, old, known())

		if n == 8 {
			c.grown = compactAfter
		}
		if err := c.write(c.note(nil, n%2 == 0, restart(n))); err != nil {
			t.Fatal(err)
		}
		saved := read()
		if n != 8 {
			appended(fmt.Sprintf("restart behind %d", n), after, saved, known(), known())
			continue
		}
		for _, size := range []int{0, 1, len(saved) / 2, len(saved) - 1, len(saved)} {
			reopen(fmt.Sprintf("compaction, %d of %d bytes", size, len(saved)), after, saved[:size], known())
		}
		reopen("compaction, done", saved, nil, known())
	}
}

func spansOf(s lane.LedgerState) (spans [][2]uint64) {
	for _, e := range s.Epochs {
		for _, x := range e.Spans {
			spans = append(spans, [2]uint64{x.From, x.To})
		}
	}
	return spans
}

// The destination took the rows, and the write that says so fails or never happens: they are delivered once more, the
// same, and no others are.
func TestOutputThatCannotWriteItsCursor(t *testing.T) {
	server := bustest.NewServer(t)
	c := newHub(t, bustest.Hub(t, server))
	w := newWriter(t, server.URL(), "ams-1", 1, 5)
	dir, d := t.TempDir(), newCollector()
	o, err := NewOutput(OutputOptions{Name: "out", Dir: dir, Hub: c.Hub, Live: d.live(), Backfill: d.later(), Oldest: true})
	if err != nil {
		t.Fatal(err)
	}
	w.live(3)
	done := make(chan error, 1)
	go func() { done <- o.Run(t.Context()) }()
	d.wait(t, 3)
	bustest.WaitFor(t, "the cursor", func() bool {
		journal, err := os.ReadFile(o.cursor.path)
		return err == nil && bytes.Count(journal, []byte(`"frame"`)) == 3
	})
	if err := o.cursor.close(); err != nil { // as a disk that is gone
		t.Fatal(err)
	}
	w.live(1)
	if err := <-done; err == nil || !strings.Contains(err.Error(), "write cursor") {
		t.Fatalf("Run returned %v", err)
	}
	d.wait(t, 4)
	again := newCollector()
	startOutput(t, c, dir, again, true)
	w.live(1)
	again.wait(t, 2)
	for key := range again.rows {
		if d.rows[key] == 0 {
			continue // the new one
		}
		if d.rows[key] != 1 || !reflect.DeepEqual(d.series["ams-1"], again.series["ams-1"]) {
			t.Errorf("row %s was delivered %d times before, with series %v, and then with %v", key, d.rows[key], d.series, again.series)
		}
	}
}

// The journal is synced now and then. A pipe takes what is written, and cannot be synced.
func TestCursorIsSynced(t *testing.T) {
	c, err := openCursor(t.TempDir(), "out", 42)
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	c.file = w
	defer func() { _ = c.close() }()
	lines := c.note([]delivered{{site: "ams-1", header: frame.Header{Kind: frame.Keyframe, ID: frame.ID{Epoch: 1, Number: 1}, Rows: 1}, whole: true}}, false, bus.Position{})
	if err := c.write(lines); err == nil || !strings.Contains(err.Error(), "sync cursor") {
		t.Errorf("write to a journal that cannot be synced: %v", err)
	}
	if err := c.write(lines); err != nil {
		t.Errorf("write a moment later: %v", err)
	}
}

// What a frame told of losses is known to the next process, which may not read that frame again.
func TestCursorKeepsLosses(t *testing.T) {
	dir := t.TempDir()
	c, err := openCursor(dir, "out", 0)
	if err != nil {
		t.Fatal(err)
	}
	loss := frame.Loss{Epoch: 1, From: 2, To: 4, Rows: 30, Cause: frame.CauseEvicted}
	h := frame.Header{Kind: frame.Keyframe, ID: frame.ID{Epoch: 1, Number: 5}, RowsBefore: 40, Rows: 10}
	first := frame.Header{Kind: frame.Keyframe, ID: frame.ID{Epoch: 1, Number: 1}, Rows: 10}
	frames := []delivered{{site: "ams-1", header: first, whole: true}, {site: "ams-1", header: h, losses: []frame.Loss{loss}, whole: true}}
	if err := c.write(c.note(frames, false, bus.Position{})); err != nil {
		t.Fatal(err)
	}
	if err := c.close(); err != nil { // as after a kill: nothing else is written
		t.Fatal(err)
	}
	if c, err = openCursor(dir, "out", 0); err != nil {
		t.Fatal(err)
	}
	defer c.close()
	ledger := c.ledger("ams-1")
	if gaps := ledger.Gaps(); len(gaps) != 1 || gaps[0].Cause != lane.Evicted || gaps[0].Rows != 30 {
		t.Errorf("gaps are %+v, want 30 evicted rows", gaps)
	}
}

// Compaction and reopening change nothing of what a cursor knows.
func TestCursorCompaction(t *testing.T) {
	dir := t.TempDir()
	c, err := openCursor(dir, "out", 42)
	if err != nil {
		t.Fatal(err)
	}
	var ledger lane.Ledger
	restart := bus.Position{Created: time.Unix(0, 1_700_000_000_000_000_000).UTC(), Sequence: 77, Checksum: 5}
	late := bus.Position{Created: restart.Created, Sequence: 33, Checksum: 6}
	for n := uint64(1); n <= 60; n++ {
		if n%7 == 0 {
			continue // a gap
		}
		h := frame.Header{Kind: frame.Delta, ID: frame.ID{Epoch: 3, Number: n}, Base: n - 1, RowsBefore: n - 1, Rows: 1, Sent: int64(n)}
		ledger.Place(&h, false)
		ledger.Add(&h, h.Sent)
		x := delivered{site: "ams-1", header: h, whole: true, stored: int64(n)}
		if n%10 == 0 {
			x.rejected, x.refused = 1, 2
			ledger.Reject(&h, 1, x.stored)
			ledger.RefuseByOutput(&h, 2, x.stored)
		}
		if n == 30 {
			c.grown = compactAfter
		}
		lines := append(c.note([]delivered{x, {site: "ams-2", header: h}}, false, restart), c.note(nil, true, late)...)
		if err := c.write(lines); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	again, err := openCursor(dir, "out", 99)
	if err != nil {
		t.Fatal(err)
	}
	defer again.close()
	got := again.ledgers["ams-1"]
	if again.since != 42 || again.live != restart || again.backfill != late || !reflect.DeepEqual(got.State(), ledger.State()) {
		t.Errorf("reopened: since %d, restart %s and %s, ledger %+v; want 42, %s, %s, %+v",
			again.since, again.live, again.backfill, got.State(), restart, late, ledger.State())
	}
	if _, known := again.ledgers["ams-2"]; known {
		t.Error("frames that were not given as a whole are known")
	}
	if matches, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(matches) != 1 {
		t.Errorf("files %q, want one", matches)
	}
}

// The restart is in front of the oldest keyframe that a lane needs, and lanes that are silent for long do not count.
func TestCursorRestart(t *testing.T) {
	at := func(n uint64) bus.Position { return bus.Position{Sequence: n, Checksum: 1} }
	now := time.Unix(1_700_000_000, 0)
	k := keyPlaces{}
	position := uint64(0)
	note := func(site string, when time.Time, before, keyframe uint64) {
		position = before + 1
		k.note(site, when, at(before), &lane.Site{KeyframeSequence: keyframe}, false, false)
	}
	want := func(n uint64) {
		t.Helper()
		if got := k.oldest(now, at(position)); got.Sequence != n {
			t.Errorf("restart behind %d, want %d", got.Sequence, n)
		}
	}
	want(0)
	note("a", now, 10, 11)
	want(10)
	note("b", now, 12, 13)
	want(10)
	note("a", now, 20, 11) // a delta
	want(10)
	note("a", now, 30, 31)
	want(12)
	note("c", now, 33, 0) // a lane that nobody can decode yet holds it where it began
	note("b", now, 40, 41)
	want(30)
	note("a", now, 50, 51)
	want(33)
	now = now.Add(laneIdle + time.Second)
	note("a", now, 60, 61)
	want(60)
	note("d", now, 0, 1) // the first message of the stream has no place in front of it
	want(0)
	now = now.Add(laneIdle + time.Second)
	position = 70
	want(70) // everything was delivered, and whoever comes begins with a keyframe
}

// Who tells of ends reads from the last keyframe but one on.
func TestCursorRestartForEnds(t *testing.T) {
	at := func(n uint64) bus.Position { return bus.Position{Sequence: n, Checksum: 1} }
	now := time.Unix(1_700_000_000, 0)
	k := keyPlaces{}
	for _, x := range []struct{ before, keyframe, want uint64 }{{9, 0, 9}, {10, 11, 9}, {11, 11, 9}, {20, 21, 10}, {22, 21, 10}, {30, 31, 20}} {
		k.note("a", now, at(x.before), &lane.Site{KeyframeSequence: x.keyframe}, false, true)
		if got := k.oldest(now, at(x.before+1)); got.Sequence != x.want {
			t.Errorf("behind %d: restart behind %d, want %d", x.before, got.Sequence, x.want)
		}
	}
}

// FuzzReplay: whatever stands in a journal, it is read without a panic, and what was understood can be written and read
// again.
func FuzzReplay(f *testing.F) {
	p := progress{since: 5, live: bus.Position{Created: time.Unix(0, 7), Sequence: 3, Checksum: 1}, ledgers: map[string]*lane.Ledger{}}
	c := &cursor{progress: p}
	header := frame.Header{Kind: frame.Keyframe, ID: frame.ID{Epoch: 1, Number: 2}, RowsBefore: 4, Rows: 3, Sent: 9}
	lines := c.note([]delivered{
		{site: "ams-1", header: header, whole: true, rejected: 1, refused: 1, losses: []frame.Loss{{Epoch: 1, From: 1, To: 1, Rows: 4, Cause: frame.CauseEvicted}}},
	}, true, p.live)
	snapshot := c.snapshot()
	f.Add(append(bytes.Clone(snapshot), lines...))
	f.Add(append(append(bytes.Clone(lines), snapshot...), c.enter(4, "x")...))
	f.Add([]byte(`{"snapshot":{"since":1,"restart":"7-3-00000001","sites":{"a":{"epochs":[{"epoch":1,"rank":1,"spans":[{"From":1,"To":2}]}]}}}}` + "\n" + `{"restart":""}` + "\n"))
	f.Fuzz(func(t *testing.T, journal []byte) {
		var r replay
		r.takeLines(journal)
		if !r.whole {
			return
		}
		var again replay
		if rest := again.takeLines(r.lines()); len(rest) > 0 || !again.whole {
			t.Fatalf("what was read is written as %q", r.lines())
		}
		if again.since != r.since || again.live != r.live || again.backfill != r.backfill || len(again.ledgers) != len(r.ledgers) {
			t.Fatalf("read %+v, and then %+v", r.progress, again.progress)
		}
		for site, l := range r.ledgers {
			l.Gaps()
			if got, want := again.ledger(site).State(), l.State(); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("site %q: %v, and then %v", site, want, got)
			}
		}
	})
}
