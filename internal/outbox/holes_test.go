package outbox

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/alecthomas/units"

	"github.com/thalweg/thalweg/internal/frame"
)

// A file that the state file does not know, since the process was killed before it was written, is damaged or gone in
// front of others. What was in it is a loss with its rows.
func TestHolesThatNoStateKnows(t *testing.T) {
	harm := func(f *fixture, file string, at int64) {
		t.Helper()
		path := filepath.Join(f.dir, file)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		data[at] ^= 1
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := func(name string, at int64, from uint64) {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.open()
			f.group(3, 100)
			f.group(3, 100)
			f.group(3, 100)
			epoch := f.epoch()
			first, err := frame.ParseHeader(f.sent[from-1])
			if err != nil {
				t.Fatal(err)
			}
			behind, err := frame.ParseHeader(f.sent[6])
			if err != nil {
				t.Fatal(err)
			}
			files := f.files(groupSuffix)
			f.close()
			if err := os.Remove(filepath.Join(f.dir, stateName)); err != nil {
				t.Fatal(err)
			}
			harm(f, files[1], at)
			f.box = nil
			f.open()
			want := Range{
				Epoch: epoch, From: from, To: 6, Rows: behind.RowsBefore - first.RowsBefore,
				FirstSent: behind.Sent, LastSent: behind.Sent,
			}
			if got := lossRanges(f.box.Losses()); !slices.Equal(got, []Range{want}) {
				t.Errorf("losses are %+v, want %+v", got, want)
			}
		})
	}
	f("first frame", 70, 4)
	f("second frame", 170, 5)
	f("last frame", 270, 6)
}

// A frame that tells of a loss may be lost in its turn, unsent: then it has to be told again. Once the server has it, it
// has not.
func TestAnnouncementsThatAreLost(t *testing.T) {
	f := newFixture(t)
	f.conf.MaxBytes = 10 * units.KiB
	f.open()
	lost := func() bool {
		return slices.ContainsFunc(f.box.Losses(), func(l Loss) bool { return l.From == 1 && l.To == 4 })
	}
	for range 3 {
		f.group(4, 1000) // the third evicts the first
	}
	f.wantSpans(lossRanges(f.box.Losses()), span{1, 4})
	f.group(1, 1000)
	f.box.Announced(1) // by that
	f.open()
	if lost() {
		t.Fatalf("losses are %v, one of them announced", f.box.Losses())
	}
	for range 3 {
		f.group(4, 1000) // the third evicts what told of it
	}
	if !lost() {
		t.Fatalf("losses are %v, without that whose announcement was lost", f.box.Losses())
	}

	f.box.Announced(len(f.box.Losses()))
	newest, _ := f.box.Last()
	f.box.Ack(newest.Epoch, 1, newest.Number)
	for range 4 {
		f.group(4, 1000)
	}
	if lost() {
		t.Fatalf("losses are %v, one of which the server was told", f.box.Losses())
	}
}

// What the outbox is told that hubs will not get is announced as its own losses are, and again if that is lost.
func TestLossesOfOthers(t *testing.T) {
	f := newFixture(t)
	f.conf.MaxBytes = 10 * units.KiB
	f.open()
	f.group(1, 1000)
	epoch := f.epoch()
	unwritten := func(e frame.Epoch, from, to, rows uint64) {
		f.box.Lose(Loss{Range{Epoch: e, From: from, To: to, Rows: rows, FirstSent: int64(from), LastSent: int64(to)}, CauseUnwritten})
	}
	want := func(want ...Loss) {
		t.Helper()
		if got := f.box.Losses(); !slices.Equal(got, want) {
			t.Fatalf("losses are %+v, want %+v", got, want)
		}
	}
	// A disk is full for long: each frame that is refused was to tell of those before it.
	for n := uint64(2); n <= 5; n++ {
		unwritten(epoch, n, n, 10)
		f.box.Losses()
		if err := f.box.Append([]byte("no frame")); !errors.Is(err, ErrKeyframeNeeded) {
			t.Fatalf("append: %v", err)
		}
	}
	unwritten(epoch+1, 1, 2, 5) // no frame of this epoch was ever stored
	told := Loss{Range{Epoch: epoch, From: 2, To: 7, Rows: 45, FirstSent: 2, LastSent: 2}, CauseUnwritten}
	want(told)
	f.open()
	want(told)

	f.group(4, 1000)
	f.box.Announced(1)
	want()
	f.group(4, 1000)
	unwritten(epoch+2, 3, 3, 1)
	f.box.Losses()
	f.group(4, 1000) // the first two files go, and with the second what told of it
	got := f.box.Losses()
	if len(got) != 4 || got[0] != (Loss{Range{Epoch: epoch + 2, From: 3, To: 3, Rows: 1, FirstSent: 3, LastSent: 3}, CauseUnwritten}) || got[1] != told {
		t.Fatalf("losses are %+v, want that of epoch %s, %+v and the two evicted files", got, epoch+2, told)
	}
}

// How many rows of a file that is gone were not acknowledged the state file tells. A file that is damaged later has its
// share: without any there would be no gap at hubs, and with all rows of the file none would be left for gaps beside it.
func TestRowsOfFilesAcknowledgedInPart(t *testing.T) {
	f := newFixture(t)
	f.open()
	f.group(9, 100)
	f.group(9, 100)
	f.group(1, 100)
	epoch := f.epoch()
	for _, from := range []uint64{1, 10} {
		f.box.Ack(epoch, from, from+1)
		f.box.Ack(epoch, from+4, from+6)
	}
	before := func(number uint64) uint64 {
		h, err := frame.ParseHeader(f.sent[number-1])
		if err != nil {
			t.Fatal(err)
		}
		return h.RowsBefore
	}
	want := func(first, second uint64) {
		t.Helper()
		if got := f.box.Losses(); len(got) != 2 || got[0].Rows != first || got[1].Rows != second {
			t.Errorf("losses are %+v, want %d and %d rows", got, first, second)
		}
		f.group(1, 100)
		f.box.Announced(2)
	}
	files := f.files(groupSuffix)
	f.close()
	if err := os.Remove(filepath.Join(f.dir, files[0])); err != nil {
		t.Fatal(err)
	}
	f.open()
	f.wantSpans(lossRanges(f.box.Losses()), span{3, 4}, span{8, 9})
	want(before(5)-before(3), before(10)-before(8))

	if err := os.Remove(filepath.Join(f.dir, files[1])); err != nil {
		t.Fatal(err)
	}
	var gap *GapError
	if _, _, _, err := f.box.Reader(frame.ID{Epoch: epoch, Number: 10}).Next(1); !errors.As(err, &gap) {
		t.Fatalf("read a file that is gone: %v", err)
	}
	f.wantSpans(lossRanges(f.box.Losses()), span{12, 13}, span{17, 18})
	share := (2*(before(19)-before(10)) + 8) / 9
	want(share, share)
}
