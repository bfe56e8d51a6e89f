package outbox

import (
	"math"
	"slices"

	"github.com/thalweg/thalweg/internal/frame"
)

// UnackAll takes back every Ack: the server lost an unknown part of what it had stored. What of it is no longer here,
// within a resend_window, is lost.
func (o *Outbox) UnackAll() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, g := range o.groups {
		if len(g.acked) > 0 {
			g.acked = g.acked.remove(0, math.MaxUint64)
			o.dirty = true
		}
	}
	o.loseSpent()
}

// NewestAcked returns the newest frame here that is acknowledged; its zero value if none is.
func (o *Outbox) NewestAcked() frame.ID {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := len(o.groups) - 1; i >= 0; i-- {
		if g := o.groups[i]; len(g.acked) > 0 {
			return frame.ID{Epoch: g.epoch, Number: g.acked[len(g.acked)-1].to}
		}
	}
	return frame.ID{}
}

// NewestKeyframe returns the frame that the newest file begins with and when it was sent, in milliseconds since 1970;
// zero if there is no file.
func (o *Outbox) NewestKeyframe() (id frame.ID, sent int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.groups) == 0 {
		return id, 0
	}
	g := o.groups[len(o.groups)-1]
	return frame.ID{Epoch: g.epoch, Number: g.first}, g.firstSent
}

// UnsentBytes is how much the newest file holds, if nothing of it is acknowledged; else 0.
func (o *Outbox) UnsentBytes() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	if n := len(o.groups); n > 0 && len(o.groups[n-1].acked) == 0 {
		return o.groups[n-1].size
	}
	return 0
}

// TailKeyframe returns the oldest keyframe from which to the end there are at most so many bytes, and in front of the
// first frame that is not acknowledged nothing but its own file's beginning; zero if there is none.
func (o *Outbox) TailKeyframe(bytes int64) (id frame.ID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := len(o.groups) - 1; i >= 0; i-- {
		g := o.groups[i]
		gaps := g.acked.gaps(g.first, g.last)
		bytes -= g.size
		if bytes < 0 || len(gaps) != 1 || gaps[0].to != g.last {
			break
		}
		id = frame.ID{Epoch: g.epoch, Number: g.first}
		if gaps[0].from != g.first {
			break
		}
	}
	return id
}

// Knows reports whether the epoch belongs to this outbox: frames of it are here, or it is one of the newest 64.
func (o *Outbox) Knows(epoch frame.Epoch) bool { return o.knows(epoch) }

// Before reports whether frame a was appended before frame b. An epoch that the outbox does not know counts as one that
// is about to begin.
func (o *Outbox) Before(a, b frame.ID) bool {
	if a.Epoch == b.Epoch {
		return a.Number < b.Number
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.place(a.Epoch) < o.place(b.Epoch)
}

// place orders epochs: those with files, then the newest one if it has none, then all others. The caller holds mu.
func (o *Outbox) place(epoch frame.Epoch) int {
	i := slices.IndexFunc(o.groups, func(g *group) bool { return g.epoch == epoch })
	switch {
	case i >= 0:
		return i
	case epoch == o.last.Epoch:
		return len(o.groups)
	}
	return len(o.groups) + 1
}
