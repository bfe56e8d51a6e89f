package lane_test

import (
	"testing"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
)

func TestVersionChoice(t *testing.T) {
	const newest, before = frame.Version, frame.Version - 1
	var c lane.VersionChoice
	round := func(want int, wantAgain bool, offers ...int) {
		t.Helper()
		if again := c.Round(offers); again != wantAgain || c.Version() != want {
			t.Errorf("offers %v: version %d, again %t; want %d, %t", offers, c.Version(), again, want, wantAgain)
		}
	}
	if c.Version() != before {
		t.Errorf("begins with version %d, want %d", c.Version(), before)
	}
	round(before, false)
	round(before, false, before)
	round(before, true, newest) // another hub's answer may have been lost
	round(before, false, newest, before)
	round(before, true, newest, newest)
	round(before, false) // nobody is there: nothing changes
	round(newest, false, newest)
	round(newest, false)
	round(newest, false, newest+1)
	round(before, false, newest+1, before) // at once
	round(before, true, newest+5)
	round(newest, false, newest+5)
	round(before, false, before-1) // cannot be helped
}
