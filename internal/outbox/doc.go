// Package outbox is an edge's log of frames on disk. A row is accepted when the frame that holds it is in the outbox;
// from there it is sent, sent again, and kept until some time after the server stored it.
//
//	box, err := outbox.Open(outbox.Options{Dir: dir, Config: outbox.DefaultConfig(), Logger: logger})
//	last, ok := box.Last()                    // what the first frame of the new epoch names as its predecessor
//	err = box.Append(keyframe)                // written and synced; any error asks for a keyframe
//	r := box.Reader(frame.ID{Epoch: e, Number: n})
//	data, first, last, err := r.Next(1 << 20) // whole frames of one epoch, or ErrHead, or a *GapError
//	box.Ack(first.Epoch, first.Number, last.Number)
//	for _, r := range box.Unacked() { ... }   // what is still to be sent, in order
//	err = box.Expire(time.Now())              // once a second: delete what is done or too old, save the state
//	for _, loss := range box.Losses() { ... } // what went away without having been stored; announce it, then:
//	box.Announced(n)
//
// The directory holds one file per keyframe group, <ordinal>-<epoch>-<first number>.frames, a plain concatenation of
// frames. Ordinals only grow, so names sort in the order of writing, over epochs and restarts. state.json holds what
// the frames cannot say: acknowledgements, losses not yet announced, the last frame ever stored, what was dropped soon after
// the server had stored it. Without it everything is read and sent again; no row is lost with it.
//
// Opening reads the newest file and those the state file does not know; what is wrong with the others is found when they
// are read.
//
// It promises, with sync: flush, that what Append accepted is there after a crash, in order, or is reported as a loss;
// that opening never fails because of what the files contain; that Append fails rather than blocks when the disk does;
// and that disk and memory stay bounded, at the price of the oldest files.
//
// It does not look into frames beyond their headers, sends nothing and starts no goroutine. All methods are safe for
// concurrent use, except those of one Reader.
package outbox
