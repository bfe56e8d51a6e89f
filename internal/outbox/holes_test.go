package outbox

import (
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
