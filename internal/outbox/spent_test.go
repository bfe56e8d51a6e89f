package outbox

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestSpent: what goes away although the server has it is a loss if the server loses it, within the resend window, also
// after restarts; and it is none before, nor after the window.
func TestSpent(t *testing.T) {
	f := newFixture(t)
	const size = 1000
	f.conf.MaxBytes = 20 * size
	f.open()
	ofOutbox := f.epoch()
	for range 3 {
		f.group(5, size)
	}
	f.box.Ack(f.epoch(), 1, 12)
	f.group(5, size) // 20,000 bytes
	total := func(losses []Loss) (rows uint64) {
		for _, l := range losses {
			rows += l.Rows
		}
		return rows
	}
	want := func(box *Outbox, wanted string) {
		t.Helper()
		got := ""
		for _, l := range box.Losses() {
			if l.Epoch != ofOutbox {
				t.Errorf("loss of epoch %s, want %s", l.Epoch, ofOutbox)
			}
			got += fmt.Sprintf("%s %d-%d ", l.Cause, l.From, l.To)
		}
		if got != wanted {
			t.Fatalf("losses are %q, want %q", got, wanted)
		}
	}
	drop := func(cause Cause) { // the oldest file
		t.Helper()
		f.box.write.Lock()
		defer f.box.write.Unlock()
		if err := f.box.drop(f.box.groups[0], cause); err != nil {
			t.Fatal(err)
		}
	}
	rowsUpTo := func(number uint64) uint64 {
		for _, g := range f.box.groups {
			if g.last == number {
				return g.rowsAfter
			}
		}
		t.Fatalf("no file ends with %d", number)
		return 0
	}
	first, second := rowsUpTo(5), rowsUpTo(10)

	f.group(5, size) // evicts what is stored: 1 to 5
	want(f.box, "")
	f.open()
	want(f.box, "")
	f.box.UnackAll()
	want(f.box, "size 1-5 ")
	if got := total(f.box.Losses()); got != first {
		t.Errorf("%d rows are lost, want %d", got, first)
	}
	f.box.Announced(1)
	f.box.UnackAll()
	want(f.box, "")

	// The next file, of which a kill leaves nothing that the state file knows.
	f.box.Ack(ofOutbox, 6, 12)
	if err := f.box.SaveState(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(f.dir, f.files(groupSuffix)[0])); err != nil {
		t.Fatal(err)
	}
	f.open()
	want(f.box, "")
	f.box.UnackAll()
	want(f.box, "disk 6-10 ")
	if got := total(f.box.Losses()); got != second-first {
		t.Errorf("%d rows are lost, want %d", got, second-first)
	}
	f.box.Announced(1)

	// A file of which a part is stored: that part is spent, the rest is lost.
	f.box.Ack(ofOutbox, 11, 12)
	g := f.box.groups[0]
	drop(CauseDisk)
	want(f.box, "disk 13-15 ")
	lost := total(f.box.Losses())
	f.box.Announced(1)
	f.clock = f.clock.Add(time.Duration(f.conf.ResendWindow) / 2)
	if err := f.box.Expire(f.clock); err != nil {
		t.Fatal(err)
	}
	f.box.UnackAll()
	want(f.box, "disk 11-12 ")
	if got := total(f.box.Losses()) + lost; got != g.rowsAfter-g.rowsBefore {
		t.Errorf("%d rows of the file are lost, want %d", got, g.rowsAfter-g.rowsBefore)
	}
	f.box.Announced(1)

	// Beyond the window nobody asks any more.
	f.box.Ack(ofOutbox, 16, 20)
	drop(CauseSize)
	f.clock = f.clock.Add(time.Duration(f.conf.ResendWindow))
	if err := f.box.Expire(f.clock); err != nil {
		t.Fatal(err)
	}
	f.open()
	f.box.UnackAll()
	want(f.box, "")
	if slices.ContainsFunc(f.box.groups, func(g *group) bool { return g.first == 16 }) {
		t.Error("the file is still there")
	}
}
