package outbox

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

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
