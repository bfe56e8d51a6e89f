package edge

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/outbox"
)

const (
	retryMin = 250 * time.Millisecond
	retryMax = 5 * time.Second
	// headroom is what a publish needs beside the payload.
	headroom = 512
)

var errReplaced = errors.New("another process took the lane over")

// wire brings messages onto one lane. It is used by one goroutine at a time, but for its status.
type wire struct {
	e         *Edge
	lane      bus.Lane
	subject   string
	publisher *lane.Publisher
	flight    lane.Span // what is in flight, in epoch flightOf
	flightOf  frame.Epoch
	lost      bool // the server lost frames; who drives the lane has yet to plan anew
	largest   int  // bound for messages beside the server's max_payload, in bytes; 0: none
	pace      lane.Pace

	mu       sync.Mutex
	acked    chan struct{} // closed at the next acknowledgement
	last     frame.ID      // newest on the lane, as far as known
	lastAt   time.Time
	sequence uint64
	taken    frame.Epoch // the owner that replaced this process
	foreign  frame.Epoch // the other process that was found on the lane and was taken over from
}

func newWire(e *Edge, l bus.Lane) *wire {
	w := &wire{
		e: e, lane: l, subject: e.conn.Root().Lane(e.site, l), publisher: lane.NewPublisher(e.epoch, e.outbox.Knows),
		acked: make(chan struct{}),
	}
	tip := e.outbox.Tip(string(l))
	w.publisher.Resume(tip.ID, tip.Sequence, tip.Doubtful)
	return w
}

// resolve finds out, at the start of a session, what the lane's last frame is (zero: none, or not ours), and whether
// what was in flight when the last session ended is stored.
func (w *wire) resolve(ctx context.Context) (last frame.ID, err error) {
	if newest, _ := w.publisher.Newest(); w.e.resending.Load() || !w.e.outbox.Holds(newest) {
		w.publisher.Moot()
	}
	w.publisher.Relook()
	found, err := w.look(ctx, true)
	if err != nil {
		return frame.ID{}, err
	}
	if w.publisher.Next() == lane.Yield {
		return frame.ID{}, w.yield()
	}
	if w.publisher.InFlight() {
		w.publisher.Drop()
		w.learn()
	} else {
		w.settle()
	}
	w.flight = lane.Span{}
	w.e.log.Debug("lane resolved", "site", w.e.site, "lane", w.lane, "last", found)
	return found, nil
}

// look reads the last message of the subject until an answer counts. It returns its last frame, if that is ours. It is
// told whether a session begins.
func (w *wire) look(ctx context.Context, begins bool) (frame.ID, error) {
	for attempt := 0; ; attempt++ {
		m, err := w.e.conn.Last(ctx, w.subject)
		switch {
		case err == nil:
			newest, at := w.publisher.Newest()
			if first, last := frames(m.Payload); w.publisher.Found(m.Sequence, first.ID, last) {
				copied := w.beyond(last, newest)
				if begins && last.Epoch != 0 && m.Sequence > at && w.precedes(last, newest) {
					w.forget(w.e.outbox.Knows(last.Epoch) && !copied)
				}
				return w.found(&first, last, m.Sequence, copied), nil
			}
		case errors.Is(err, bus.ErrNoMessage):
			if w.publisher.FoundNone() {
				w.mu.Lock()
				w.last, w.sequence, w.lastAt = frame.ID{}, 0, time.Time{}
				w.mu.Unlock()
				return frame.ID{}, nil
			}
		default:
			w.e.complain(w.lane, attempt, err)
		}
		if err := pause(ctx, attempt); err != nil {
			return frame.ID{}, err
		}
	}
}

// found takes note of the first and the last frame of the lane's last message, and returns the last if it is ours. What
// begins with a keyframe is acknowledged; what a delta applies to may be what the server lost. It is told whether the
// message is one of a process with a copy of this outbox.
func (w *wire) found(first *frame.Header, id frame.ID, sequence uint64, copied bool) frame.ID {
	if id.Epoch != 0 && w.e.outbox.Knows(id.Epoch) {
		if copied {
			w.takeOver(id)
		}
		w.learn()
		if first.Kind == frame.Keyframe {
			w.e.outbox.Ack(id.Epoch, first.Number, id.Number)
		}
		w.note(id, sequence)
		return id
	}
	w.mu.Lock()
	known := w.foreign == id.Epoch
	w.foreign = id.Epoch
	w.mu.Unlock()
	if id.Epoch != 0 && !known && w.publisher.Next() != lane.Yield {
		w.takeOver(id)
	}
	return frame.ID{}
}

// takeOver says that the next message will replace the process that sent a frame.
func (w *wire) takeOver(id frame.ID) {
	w.e.log.Warn("taking the lane over from another process", "site", w.e.site, "lane", w.lane, "epoch", w.e.Epoch(),
		"other_epoch", id.Epoch, "other_frame", id.Number)
}

// send brings whole frames of one epoch onto the lane and returns when they are stored; nil says so. It tries until
// ctx ends. What is in flight then is resolved by the next session.
func (w *wire) send(ctx context.Context, data []byte, first, last *frame.Header) error {
	w.flight, w.flightOf = lane.Span{From: first.Number, To: last.Number}, first.Epoch
	w.publisher.Begin(first.ID, last.ID)
	for attempt := 0; ; attempt++ {
		switch w.publisher.Next() {
		case lane.Done:
			w.settle()
			return nil
		case lane.Yield:
			return w.yield()
		case lane.Part:
			return fmt.Errorf("%w: the lane is not as it seemed before frames %s to %d", errReplan, first.ID, last.Number)
		case lane.Look:
			if _, err := w.look(ctx, false); err != nil {
				return err
			}
			continue
		}
		if w.publisher.Doubtful() {
			w.confess()
		}
		start := w.e.now()
		sequence, err := w.e.conn.Publish(ctx, w.subject, data, w.publisher.Expect())
		var wrong *bus.SequenceError
		switch {
		case err == nil:
			w.publisher.Stored(sequence)
			w.pace.Sent(len(data), w.e.now().Sub(start))
			w.e.status.clear(string(w.lane))
			continue
		case errors.As(err, &wrong):
			w.publisher.Refused(wrong.Last)
			w.e.metrics.refusedPublishes.WithLabelValues(string(w.lane)).Inc()
			continue
		case errors.Is(err, bus.ErrTooLarge):
			w.publisher.Drop()
			w.flight = lane.Span{}
			return err
		case errors.Is(err, bus.ErrDoubtful):
			w.publisher.Unanswered()
		}
		w.e.complain(w.lane, attempt, err)
		if err := pause(ctx, attempt); err != nil {
			return err
		}
	}
}

// settle acknowledges what was in flight.
func (w *wire) settle() {
	if w.flight.To == 0 {
		return
	}
	w.learn()
	if !w.lost { // else what it applies to is sent again, and it is needed behind that
		w.e.outbox.Ack(w.flightOf, w.flight.From, w.flight.To)
	}
	w.e.metrics.ackedFrames.WithLabelValues(string(w.lane)).Add(float64(w.flight.To - w.flight.From + 1))
	w.note(frame.ID{Epoch: w.flightOf, Number: w.flight.To}, w.publisher.Expect())
	w.flight = lane.Span{}
}

// learn writes down what the publisher found out. If the server lost some of what it had stored (power loss, an older
// copy restored, a deleted stream) everything still in the outbox counts as not stored: hubs know a frame when it comes
// again. In this order, whatever is saved in between lets the next process find the loss.
func (w *wire) learn() {
	if w.publisher.Lost() {
		w.lost = true
		w.e.outbox.UnackAll()
	}
	id, sequence := w.publisher.Newest()
	w.e.outbox.SetTip(string(w.lane), outbox.Tip{ID: id, Sequence: sequence, Doubtful: w.publisher.Doubtful()})
}

// precedes reports whether a frame that is last on the lane is none that could have come behind newest, which is still
// in the outbox.
func (w *wire) precedes(last, newest frame.ID) bool {
	box := w.e.outbox
	return box.Holds(newest) && (!box.Holds(last) || box.Before(last, newest))
}

// beyond reports whether a frame is of an epoch of this outbox, but made later than all that this outbox knows of it: by
// a process with a copy. newest was stored last before it was found.
func (w *wire) beyond(last, newest frame.ID) bool {
	end := uint64(0)
	if newest.Epoch == last.Epoch {
		end = newest.Number
	}
	if head, ok := w.e.outbox.Last(); ok && head.Epoch == last.Epoch {
		end = max(end, head.Number)
	}
	return end != 0 && last.Number > end && !w.e.outbox.Holds(last)
}

// forget makes everything count as not stored when something else stands behind what was stored last: own frames of an
// older copy of the stream whose sequences went on for longer, or the message of another process that hides what became
// of ours.
func (w *wire) forget(own bool) {
	w.e.outbox.UnackAll()
	if own {
		w.lost = true
		return
	}
	w.e.log.Info("lane ends with something else than what was sent last; sending again what the outbox holds", "site", w.e.site, "lane", w.lane)
}

// confess writes down that the next publish is one in doubt.
func (w *wire) confess() {
	w.learn()
	if err := w.e.outbox.SaveState(); err != nil { // the next process may not find a loss that this one does not live to see
		w.e.log.Warn("save state of outbox", "site", w.e.site, "lane", w.lane, "err", err)
	}
}

// note keeps what status shows and wakes who waits for acknowledgements.
func (w *wire) note(id frame.ID, sequence uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last, w.sequence, w.lastAt, w.taken, w.foreign = id, sequence, w.e.now(), 0, 0
	close(w.acked)
	w.acked = make(chan struct{})
}

func (w *wire) ackedSignal() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.acked
}

// yield notes who owns the lane now.
func (w *wire) yield() error {
	owner := w.publisher.Owner()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.taken = owner
	close(w.acked)
	w.acked = make(chan struct{})
	return fmt.Errorf("publish on lane %s of site %q: %w: epoch %s", w.lane, w.e.site, errReplaced, owner)
}

// regain notes that no other process owns the lane any more.
func (w *wire) regain() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.taken = 0
}

func (w *wire) replaced() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.taken != 0
}

// room is how many bytes the next message may have: what the link carries in a moment, and the server takes.
func (w *wire) room() int {
	most := int(w.e.conn.MaxPayload())/2 - headroom
	if most <= 0 {
		most = 512<<10 - headroom
	}
	if w.largest > 0 {
		most = min(most, w.largest)
	}
	return min(most, w.pace.Room())
}

// frames returns the header of the first frame of a message and the identity of the last; zero if the message is no row
// of consecutive frames.
func frames(payload []byte) (first frame.Header, last frame.ID) {
	for len(payload) > 0 {
		h, _, rest, err := frame.Split(payload)
		switch {
		case err != nil:
			return frame.Header{}, frame.ID{}
		case first.Number == 0:
			first = h
		case h.ID != frame.ID{Epoch: last.Epoch, Number: last.Number + 1}:
			return frame.Header{}, frame.ID{}
		}
		last, payload = h.ID, rest
	}
	return first, last
}

// pause waits a while that grows with the attempts, with full jitter, or returns why ctx ended.
func pause(ctx context.Context, attempt int) error {
	limit := min(retryMin<<min(attempt, 5), retryMax)
	t := time.NewTimer(time.Duration(rand.Int64N(int64(limit))) + 10*time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
