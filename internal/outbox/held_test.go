package outbox

import (
	"strings"
	"testing"
	"time"

	"github.com/thalweg/thalweg/internal/frame"
)

func TestHeld(t *testing.T) {
	f := newFixture(t)
	f.group(3, 100)
	old := f.epoch()
	f.open()
	newest := func(want frame.ID) {
		t.Helper()
		if got := f.box.NewestAcked(); got != want {
			t.Fatalf("newest acknowledged frame is %s, want %s", got, want)
		}
	}
	newest(frame.ID{})
	f.box.Ack(old, 1, 2)
	newest(frame.ID{Epoch: old, Number: 2})
	f.group(4, 100)
	newest(frame.ID{Epoch: old, Number: 2})
	f.box.Ack(f.epoch(), 2, 3)
	newest(f.id(3))
	f.box.UnackAll()
	newest(frame.ID{})
	f.wantSpans(f.box.Unacked(), span{1, 3}, span{1, 4})

	if !f.box.Knows(old) || !f.box.Knows(f.epoch()) || f.box.Knows(1) {
		t.Fatal("does not know its epochs")
	}
	order := []frame.ID{{Epoch: old, Number: 1}, {Epoch: old, Number: 3}, f.id(1), f.id(9), {Epoch: 1, Number: 1}}
	for i, a := range order {
		for j, b := range order {
			if got := f.box.Before(a, b); got != (i < j) {
				t.Errorf("%s before %s: %t", a, b, got)
			}
		}
	}
}

// An epoch is known when its last file is gone, over restarts, and forgotten behind many others.
func TestKnowsThePast(t *testing.T) {
	f := newFixture(t)
	f.group(1, 100)
	first := f.epoch()
	for i := range maxPast {
		if i > 0 && !f.box.Knows(first) {
			t.Fatalf("does not know its epoch %d epochs ago", i)
		}
		f.box.Ack(f.epoch(), 1, 1)
		f.open()
		f.clock = f.clock.Add(time.Hour)
		if err := f.box.Expire(f.clock); err != nil {
			t.Fatal(err)
		}
		f.group(1, 100)
	}
	if f.box.Knows(first) || len(f.box.past) != maxPast {
		t.Errorf("knows %d epochs of the past, the first %t", len(f.box.past), f.box.Knows(first))
	}
}

// TestOpenReadsLittle sees to it that a long backlog does not make starting slow.
func TestOpenReadsLittle(t *testing.T) {
	w := newWorld(1)
	if err := w.open(); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		for _, kind := range []frame.Kind{frame.Keyframe, frame.Delta} {
			if err := w.box.Append(w.enc.next(kind, 100)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.box.Close(); err != nil {
		t.Fatal(err)
	}
	opened := map[string]bool{}
	w.fs.inject = func(_ int, call string) (fault, error) {
		if name, ok := strings.CutPrefix(call, "open "); ok {
			opened[name] = true
		}
		return noFault, nil
	}
	if err := w.open(); err != nil {
		t.Fatal(err)
	}
	newest := w.box.newest().name
	if len(opened) != 2 || !opened[newest] || !opened[stateName] {
		t.Fatalf("opened %v, want the state file and %s", opened, newest)
	}
	if n := len(contents(t, w.box, 1000, false)); n != 100 {
		t.Fatalf("read %d frames, want 100", n)
	}
}

func TestTailKeyframe(t *testing.T) {
	f := newFixture(t)
	f.open()
	want := func(bytes int64, number uint64) {
		t.Helper()
		want := frame.ID{}
		if number != 0 {
			want = f.id(number)
		}
		if got := f.box.TailKeyframe(bytes); got != want {
			t.Errorf("tail of %d bytes begins with %s, want %s", bytes, got, want)
		}
	}
	want(1000, 0)
	for range 3 {
		f.group(4, 100) // 1 to 4, 5 to 8, 9 to 12
	}
	want(399, 0)
	want(400, 9)
	want(799, 9)
	want(1<<20, 1)
	f.box.Ack(f.epoch(), 1, 2)
	want(1<<20, 1) // a beginning may be acknowledged
	f.box.Ack(f.epoch(), 6, 6)
	want(1<<20, 9) // a hole may not
	f.box.Ack(f.epoch(), 9, 12)
	want(1<<20, 0)
}
