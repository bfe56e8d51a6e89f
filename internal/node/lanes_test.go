package node

import (
	"testing"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/edge"
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

// Whoever took one lane of an edge over has both.
func TestEdgeLaneState(t *testing.T) {
	f := func(connected bool, live, backfill edge.LaneStatus, want ...string) {
		t.Helper()
		live.Lane, backfill.Lane = "live", "backfill"
		for i, l := range edgeLanes(edge.Status{Link: bus.State{Connected: connected}, Lanes: []edge.LaneStatus{live, backfill}}) {
			if l.State != want[i] {
				t.Errorf("%s lane is %q, want %q", l.Lane, l.State, want[i])
			}
		}
	}
	sent := edge.LaneStatus{Last: frame.ID{Epoch: 1, Number: 2}, Sequence: 3}
	f(true, sent, edge.LaneStatus{}, "publishing", "nothing published yet")
	f(false, sent, sent, "no connection", "no connection")
	f(true, edge.LaneStatus{ReplacedBy: 0xab}, sent, "taken over by epoch 00000000000000ab", "taken over by epoch 00000000000000ab")
}
