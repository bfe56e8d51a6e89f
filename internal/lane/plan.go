package lane

import (
	"time"

	"github.com/thalweg/thalweg/internal/frame"
)

// Backlog is how old the oldest frame that is not stored may be for the live lane to send it before newer ones, if what
// is behind it is more than a link carries in a moment.
const Backlog = time.Minute

// Old reports whether a frame, sent at a time, is older than Backlog now; both in milliseconds since 1970. A frame from
// the future is one from before the clock was set back, and may be of any age.
func Old(sent, now int64) bool {
	age := time.Duration(now-sent) * time.Millisecond
	return age.Abs() > Backlog
}

// Standing is what an edge knows when it plans where the live lane goes on. A frame that is not there is zero.
type Standing struct {
	Last frame.ID // on the live lane; zero also if it is another process's
	Head frame.ID // the newest frame in the outbox
	// Oldest is the first frame that is not known to be stored, and Group the keyframe of its file. OldestSent and
	// NewestSent are times in milliseconds since 1970.
	Oldest, Group frame.ID
	OldestSent    int64
	// Newest is the keyframe of the newest file.
	Newest     frame.ID
	NewestSent int64
	// Tail is the keyframe, Group or a later one, from which the rest of the outbox is so little that it can go first.
	Tail    frame.ID
	InOrder bool // oldest first, however old
}

// Start is where the live lane goes on.
type Start struct {
	// Keyframe asks for a keyframe now, with which the lane goes on; what is pending before it belongs to the backfill
	// lane. Otherwise the lane goes on with From.
	Keyframe bool
	From     frame.ID
}

// PlanStart decides where the live lane goes on after a connect, or when it has fallen behind. Deltas go on where the
// lane ended only after a short silence: later, a hub may have forgotten the state they apply to.
//
// A keyframe made now has no rows, so that a source would be seen at its next one only: the rows of the last moments
// before the link returned stand at the end of the backlog, which therefore goes first if it is small (Tail). A young
// keyframe in the outbox is at least as good as one made now; so a link that comes and goes costs one a minute.
func PlanStart(s Standing, now int64) Start {
	pending := s.Oldest.Number != 0
	young := pending && !Old(s.OldestSent, now)
	after := func(id frame.ID) frame.ID { return frame.ID{Epoch: id.Epoch, Number: id.Number + 1} }
	switch {
	case !pending && s.Last == s.Head && s.Head.Number != 0:
		return Start{From: after(s.Head)}
	case young && s.Last.Number > 0 && s.Oldest == after(s.Last):
		return Start{From: s.Oldest}
	case young && s.Oldest == s.Group, pending && s.InOrder:
		return Start{From: s.Group}
	case pending && s.Tail.Number != 0:
		return Start{From: s.Tail}
	case pending && s.Newest.Number != 0 && !Old(s.NewestSent, now):
		return Start{From: s.Newest}
	}
	// What is pending may stand far behind its keyframe, which is too old for the live lane.
	return Start{Keyframe: true}
}
