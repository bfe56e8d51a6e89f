package outbox

import "github.com/thalweg/thalweg/internal/frame"

// Tip is the end of a lane as it was last known: the last frame of the newest message there, and the message's sequence.
type Tip struct {
	frame.ID
	Sequence uint64
	// Doubtful says that the server did not seem to hold it any more when something else was published.
	Doubtful bool
}

// maxTips bounds the lanes; a site has two.
const maxTips = 4

// SetTip notes the tip of a lane, to be found by the next process. Call it before Ack, so that the state file never has
// more acknowledged than the tip says: a process that finds less at the server knows then that the server lost something.
func (o *Outbox) SetTip(lane string, tip Tip) {
	o.mu.Lock()
	defer o.mu.Unlock()
	old, known := o.tips[lane]
	if tip == old || !known && len(o.tips) >= maxTips {
		return
	}
	o.tips[lane] = tip
	o.dirty = true
}

// Tip returns what SetTip noted last for a lane, in this process or an earlier one; zero if nothing.
func (o *Outbox) Tip(lane string) Tip {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.tips[lane]
}

// SaveState writes the state file now, if it is behind. Expire does so now and then.
func (o *Outbox) SaveState() error {
	o.write.Lock()
	defer o.write.Unlock()
	if o.closed {
		return ErrClosed
	}
	o.mu.Lock()
	behind := o.dirty
	o.mu.Unlock()
	if !behind {
		return nil
	}
	return o.save()
}

// Holds reports whether a frame is here.
func (o *Outbox) Holds(id frame.ID) bool {
	_, ok := o.KeyframeBefore(id)
	return ok
}
