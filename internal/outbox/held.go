package outbox

import (
	"math"

	"github.com/thalweg/thalweg/internal/frame"
)

// UnackAll takes back every Ack: the server lost an unknown part of what it had stored.
func (o *Outbox) UnackAll() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, g := range o.groups {
		if len(g.acked) > 0 {
			g.acked = g.acked.remove(0, math.MaxUint64)
			o.dirty = true
		}
	}
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

// Knows reports whether the epoch belongs to this outbox: frames of it are here, or it is the newest one.
func (o *Outbox) Knows(epoch frame.Epoch) bool { return o.knows(epoch) }

// Before reports whether frame a was appended before frame b. Frames of epochs that are not here any more are older
// than all others.
func (o *Outbox) Before(a, b frame.ID) bool {
	if a.Epoch == b.Epoch {
		return a.Number < b.Number
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, g := range o.groups {
		switch g.epoch {
		case a.Epoch:
			return true
		case b.Epoch:
			return false
		}
	}
	return b.Epoch == o.last.Epoch
}
