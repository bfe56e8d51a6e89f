package lane

import (
	"time"

	"github.com/thalweg/thalweg/internal/frame"
)

// Backlog is how old the oldest frame that is not stored may be for the live lane to send it before newer ones.
const Backlog = time.Minute

// Pending is a run of frames in the outbox that are not known to be stored.
type Pending struct {
	First     frame.ID
	FirstSent int64 // milliseconds since 1970
}

// Start is where the live lane goes on.
type Start struct {
	// Keyframe asks for a keyframe now, with which the lane goes on; what is pending before it belongs to the backfill
	// lane. Otherwise the lane goes on with From.
	Keyframe bool
	From     frame.ID
}

// PlanStart decides where the live lane goes on after a connect, or when it has fallen behind.
//
// oldest is the first run of frames not known to be stored (ok false: all are), last the last frame on the live lane
// (zero: none, or one of another process), head the newest frame of the outbox, group the first frame of the file that
// holds the first frame of oldest. Deltas go on where the lane ended only after a short silence: later, a hub may have
// forgotten the state they apply to.
func PlanStart(oldest Pending, ok bool, last, head, group frame.ID, now int64, inOrder bool) Start {
	young := now-oldest.FirstSent <= Backlog.Milliseconds()
	switch {
	case !ok && last == head && head.Number != 0:
		return Start{From: frame.ID{Epoch: head.Epoch, Number: head.Number + 1}}
	case !ok:
		return Start{Keyframe: true}
	case young && oldest.First.Number > 1 && last == frame.ID{Epoch: oldest.First.Epoch, Number: oldest.First.Number - 1}:
		return Start{From: oldest.First}
	case young && oldest.First == group, inOrder:
		return Start{From: group}
	}
	// What is pending may stand far behind its keyframe, which is too old for the live lane.
	return Start{Keyframe: true}
}
