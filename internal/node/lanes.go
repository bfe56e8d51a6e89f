package node

import (
	"fmt"

	"github.com/thalweg/thalweg/internal/edge"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/hub"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/web"
)

// lanes lists those of the hub's sites, and the process's own as an edge.
func (n *Node) lanes() []web.Lane {
	var list []web.Lane
	if n.hub != nil {
		for _, s := range n.hub.hub.Sites() {
			list = append(list, hubLane(&s, "live", &s.Live), hubLane(&s, "backfill", &s.Backfill))
		}
	}
	if n.edge != nil {
		list = append(list, edgeLanes(n.edge.edge.Status())...)
	}
	return list
}

func hubLane(s *hub.SiteStatus, name string, l *hub.LaneStatus) web.Lane {
	x := web.Lane{
		Role: "hub", Site: s.Name, Lane: name, Number: l.Last.Number, Sequence: l.Sequence, Rows: l.Rows, Bytes: l.Bytes,
		LastFrame: l.Sent, LastKeyframe: l.Keyframe, State: "in order",
	}
	if l.Problem != "" {
		x.LastError, x.LastErrorAt = l.Problem, l.ProblemAt
	}
	if !s.Greeted.IsZero() {
		skew := s.Skew.Seconds()
		x.SkewSeconds = &skew
	}
	if name == "backfill" {
		x.Backlog = s.Missing.Rows[lane.NotArrived]
	}
	switch {
	case name == "live" && s.Waiting && s.Greeted.IsZero():
		x.State = "waits for a keyframe, and has no way to ask for one"
	case name == "live" && s.Waiting:
		x.State = "waits for a keyframe"
	case l.Last.Number != 0:
	case !l.Keyframe.IsZero():
		x.State = "only frames that came before"
	case l.Bytes != 0:
		x.State = "nothing could be decoded yet"
	default:
		x.State = "nothing came yet"
	}
	if l.Last.Number != 0 {
		x.Epoch = l.Last.Epoch.String()
	}
	return x
}

func edgeLanes(status edge.Status) []web.Lane {
	problems := map[string]string{}
	for _, p := range status.Problems {
		problems[p.Part] = p.Reason
	}
	var owner frame.Epoch // who took a lane over has both
	for _, l := range status.Lanes {
		owner = max(owner, l.ReplacedBy)
	}
	var list []web.Lane
	for _, l := range status.Lanes {
		x := web.Lane{
			Role: "edge", Site: status.Site, Lane: l.Lane, Number: l.Last.Number, Sequence: l.Sequence, LastFrame: l.At,
			State: "publishing", LastError: problems[l.Lane],
		}
		if x.LastError == "" {
			x.LastError = problems["link"]
		}
		if l.Lane == "backfill" {
			x.Backlog = status.Outbox.UnackedRows
		}
		if !status.Greeted.IsZero() {
			skew := status.Skew.Seconds()
			x.SkewSeconds = &skew
		}
		switch {
		case owner != 0:
			x.State = fmt.Sprintf("taken over by epoch %s", owner)
		case !status.Link.Connected:
			x.State = "no connection"
		case l.Last.Number == 0:
			x.State = "nothing published yet"
		}
		if l.Last.Number != 0 {
			x.Epoch = l.Last.Epoch.String()
		}
		list = append(list, x)
	}
	return list
}

func (n *Node) outbox() web.Outbox {
	s := n.edge.edge.Status().Outbox
	return web.Outbox{
		Rows: s.UnackedRows, Since: s.OldestUnacked, Bytes: s.UnackedBytes, Limit: s.Limit, Left: s.Left, Dropped: s.DroppedRows,
	}
}
