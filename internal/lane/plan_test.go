package lane_test

import (
	"testing"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
)

func TestPlanStart(t *testing.T) {
	const now = 1_000_000
	id := func(n uint64) frame.ID { return frame.ID{Epoch: own, Number: n} }
	none := frame.ID{}
	type state struct {
		pending           uint64 // first frame that is not stored; 0: none
		age               int64  // of it, in milliseconds
		last, head, group frame.ID
		newest            uint64 // keyframe of the newest file; 0: none
		tail              uint64 // keyframe of what is little; 0: none
		newestAge         int64
		inOrder           bool
	}
	f := func(name string, s state, want lane.Start) {
		t.Helper()
		x := lane.Standing{Last: s.last, Head: s.head, Group: s.group, InOrder: s.inOrder}
		if s.pending != 0 {
			x.Oldest, x.OldestSent = id(s.pending), now-s.age
		}
		if s.newest != 0 {
			x.Newest, x.NewestSent = id(s.newest), now-s.newestAge
		}
		if s.tail != 0 {
			x.Tail = id(s.tail)
		}
		if got := lane.PlanStart(x, now); got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	keyframe := lane.Start{Keyframe: true}
	const long = 60_001
	f("empty outbox", state{}, keyframe)
	f("all stored, the lane ends there", state{last: id(9), head: id(9)}, lane.Start{From: id(10)})
	f("all stored, the lane ends elsewhere", state{last: id(8), head: id(9)}, keyframe)
	f("all stored, another process's lane", state{last: none, head: id(9)}, keyframe)
	f("goes on behind the lane's end", state{pending: 7, age: 60_000, last: id(6), head: id(9), group: id(3)}, lane.Start{From: id(7)})
	f("too old to go on", state{pending: 7, age: long, last: id(6), head: id(9), group: id(3)}, keyframe)
	f("young, but its keyframe may be old", state{pending: 7, age: 500, last: id(4), head: id(9), group: id(3)}, keyframe)
	f("young keyframe", state{pending: 3, age: 500, last: none, head: id(9), group: id(3)}, lane.Start{From: id(3)})
	f("old keyframe", state{pending: 3, age: long, last: none, head: id(9), group: id(3)}, keyframe)
	f("first frame of the epoch", state{pending: 1, age: 500, last: none, head: id(1), group: id(1)}, lane.Start{From: id(1)})
	f("first frame of the epoch, lane ends with number 0 of nothing", state{pending: 1, age: 500, last: frame.ID{Epoch: own}, head: id(1), group: id(1)}, lane.Start{From: id(1)})
	f("in order, old", state{pending: 7, age: 3_600_000, last: id(4), head: id(9), group: id(3), inOrder: true}, lane.Start{From: id(3)})
	f("in order, young", state{pending: 7, age: 10, last: id(6), head: id(9), group: id(3), inOrder: true}, lane.Start{From: id(7)})
	f("clock set back", state{pending: 7, age: -3_600_000, last: id(6), head: id(9), group: id(3)}, keyframe)
	f("clock set back a little", state{pending: 7, age: -2_000, last: id(6), head: id(9), group: id(3)}, lane.Start{From: id(7)})
	f("a young keyframe in front of an old backlog", state{pending: 3, age: long, last: id(2), head: id(9), group: id(3), newest: 7, newestAge: 60_000}, lane.Start{From: id(7)})
	f("a young keyframe that is on the lane already", state{pending: 3, age: long, last: id(8), head: id(9), group: id(3), newest: 7, newestAge: 500}, lane.Start{From: id(7)})
	f("no young keyframe", state{pending: 3, age: long, last: id(2), head: id(9), group: id(3), newest: 7, newestAge: long}, keyframe)
	f("a keyframe from before the clock was set back", state{pending: 3, age: long, last: id(2), head: id(9), group: id(3), newest: 7, newestAge: -long}, keyframe)
	f("little behind an old backlog", state{pending: 3, age: long, last: id(2), head: id(9), group: id(3), newest: 7, newestAge: long, tail: 5}, lane.Start{From: id(5)})
	f("little and young", state{pending: 3, age: long, last: id(2), head: id(9), group: id(3), newest: 7, newestAge: 500, tail: 5}, lane.Start{From: id(5)})
	f("little, in order", state{pending: 4, age: long, last: id(2), head: id(9), group: id(3), tail: 5, inOrder: true}, lane.Start{From: id(3)})
	f("little and young, behind the lane's end", state{pending: 7, age: 500, last: id(6), head: id(9), group: id(3), tail: 5}, lane.Start{From: id(7)})
	f("a young keyframe, but all is stored", state{last: none, head: id(9), newest: 7, newestAge: 500}, keyframe)
}
