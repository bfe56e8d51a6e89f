package frame

import "fmt"

// Continue makes a new encoder go on behind the newest frame of its epoch, which another encoder made. Its first frame is
// a keyframe, as that of every encoder: whoever writes a lane together with others keeps no state for it.
func (e *Encoder) Continue(newest *Header) {
	if e.last.Number != 0 || !e.Empty() || newest.Epoch != e.cfg.Epoch {
		panic(fmt.Sprintf("BUG: frame.Encoder.Continue: encoder of epoch %s is at frame %d, told to follow %s", e.cfg.Epoch, e.last.Number, newest.ID))
	}
	e.last = *newest
}
