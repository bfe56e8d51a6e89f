package node

import (
	"testing"
	"time"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/hub"
)

// What a lane is doing, in a few words.
func TestLaneState(t *testing.T) {
	f := func(want, name string, s hub.SiteStatus, l hub.LaneStatus) {
		t.Helper()
		if got := hubLane(&s, name, &l).State; got != want {
			t.Errorf("%s lane %+v of %+v is %q, want %q", name, l, s, got, want)
		}
	}
	now := time.Now()
	f("nothing came yet", "live", hub.SiteStatus{}, hub.LaneStatus{})
	f("nothing could be decoded yet", "backfill", hub.SiteStatus{}, hub.LaneStatus{Bytes: 9})
	f("only frames that came before", "backfill", hub.SiteStatus{}, hub.LaneStatus{Bytes: 9, Keyframe: now})
	f("in order", "backfill", hub.SiteStatus{Waiting: true}, hub.LaneStatus{Bytes: 9, Keyframe: now, Last: frame.ID{Epoch: 1, Number: 2}})
	f("waits for a keyframe", "live", hub.SiteStatus{Waiting: true, Greeted: now}, hub.LaneStatus{Bytes: 9})
	f("waits for a keyframe, and has no way to ask for one", "live", hub.SiteStatus{Waiting: true}, hub.LaneStatus{Bytes: 9})
}
