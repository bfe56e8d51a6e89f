package outbox

import (
	"testing"

	"github.com/thalweg/thalweg/internal/frame"
)

func TestTipsSurviveRestart(t *testing.T) {
	w := newWorld(1)
	if err := w.open(); err != nil {
		t.Fatal(err)
	}
	live := Tip{ID: frame.ID{Epoch: 7, Number: 12}, Sequence: 99}
	backfill := Tip{ID: frame.ID{Epoch: 7, Number: 3}, Sequence: 98, Doubtful: true}
	w.box.SetTip("live", Tip{ID: frame.ID{Epoch: 7, Number: 1}, Sequence: 1})
	w.box.SetTip("live", live)
	w.box.SetTip("backfill", backfill)
	if err := w.box.SaveState(); err != nil {
		t.Fatal(err)
	}
	w.fs.locked = false // killed
	if err := w.open(); err != nil {
		t.Fatal(err)
	}
	if got := w.box.Tip("live"); got != live {
		t.Errorf("tip of live is %v, want %v", got, live)
	}
	if got := w.box.Tip("backfill"); got != backfill {
		t.Errorf("tip of backfill is %v, want %v", got, backfill)
	}
	if got := w.box.Tip("other"); got != (Tip{}) {
		t.Errorf("tip of a lane that never was is %v", got)
	}
}

// What is written anew when nothing changed wears out a flash disk.
func TestSaveStateWritesOnlyChanges(t *testing.T) {
	w := newWorld(1)
	if err := w.open(); err != nil {
		t.Fatal(err)
	}
	tip := Tip{ID: frame.ID{Epoch: 7, Number: 12}, Sequence: 99}
	w.box.SetTip("live", tip)
	if err := w.box.SaveState(); err != nil {
		t.Fatal(err)
	}
	before := w.fs.ops
	w.box.SetTip("live", tip)
	if err := w.box.SaveState(); err != nil || w.fs.ops != before {
		t.Errorf("%d operations to save what had been saved, %v", w.fs.ops-before, err)
	}
}
