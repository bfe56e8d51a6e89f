package lane

import (
	"fmt"

	"github.com/thalweg/thalweg/internal/frame"
)

// Publisher decides how the messages of one lane reach its subject, where every message must name the sequence of the
// one before it (DESIGN: publishing). It keeps one message in flight:
//
//	for {
//		switch action := p.Next(); action {
//		case Look:    read the subject's last message, then p.Found or p.FoundNone
//		case Publish: publish the message with p.Expect(), then p.Stored or p.Refused, or nothing if in doubt
//		case Done:    p.Begin with the next message
//		case Yield:   stop; p.Owner() took the lane over
//		}
//	}
type Publisher struct {
	epoch frame.Epoch
	// mine reports whether an epoch belongs to the same outbox.
	mine func(frame.Epoch) bool

	known  bool // expect is the sequence of the subject's last message, as far as this process knows
	expect uint64
	floor  uint64 // an answer to Look below this is from a server that is behind
	behind int    // answers below the floor in a row
	owned  bool   // a message of this process was stored
	stored frame.ID
	yield  frame.Epoch
	lost   bool

	last frame.ID // of the message in flight; zero: none
}

// maxBehind is how many answers of a server that is behind are not taken. Then the lane may have been emptied since,
// and publishing with what was found is safe: it is compared at the server.
const maxBehind = 5

// Action is what a Publisher wants next.
type Action uint8

const (
	Done    Action = iota // nothing is in flight
	Look                  // the subject's last message must be read
	Publish               // the message in flight must be published
	Yield                 // another process owns the lane
)

func (a Action) String() string { return [...]string{"done", "look", "publish", "yield"}[a] }

// NewPublisher returns a machine that knows nothing of its subject yet. mine tells the epochs of the same outbox, the
// given one included, from those of other processes.
func NewPublisher(epoch frame.Epoch, mine func(frame.Epoch) bool) *Publisher {
	return &Publisher{epoch: epoch, mine: mine}
}

// Begin puts a message in flight, whose last frame is given.
func (p *Publisher) Begin(last frame.ID) {
	if p.last != (frame.ID{}) {
		panic(fmt.Sprintf("BUG: lane.Publisher: %s begins while %s is in flight", last, p.last))
	}
	p.last = last
}

// Next is what must be done now.
func (p *Publisher) Next() Action {
	switch {
	case p.yield != 0:
		return Yield
	case !p.known:
		return Look
	case p.last == frame.ID{}:
		return Done
	}
	return Publish
}

// Expect is the sequence to publish with.
func (p *Publisher) Expect() uint64 { return p.expect }

// Owner is the epoch that took the lane over, or zero.
func (p *Publisher) Owner() frame.Epoch { return p.yield }

// Owned reports whether a message of this process was stored.
func (p *Publisher) Owned() bool { return p.owned }

// Stored is the answer that the message in flight has a sequence.
func (p *Publisher) Stored(sequence uint64) {
	p.known, p.expect, p.floor = true, sequence, 0
	p.owned, p.stored, p.last = true, p.last, frame.ID{}
}

// Refused is the answer that the subject's last sequence is another than expected. What is stored there decides.
func (p *Publisher) Refused(actual uint64) { p.known, p.floor, p.behind = false, actual, 0 }

// Relook makes the machine look before it publishes again: after a reconnect, the server may be another one. After an
// answer that does not tell whether the message in flight is stored, nothing needs to be said: it is published again
// as it was, and if it had been stored, that is refused.
func (p *Publisher) Relook() { p.known, p.floor = false, 0 }

// Found is the answer to Look: the sequence of the subject's last message and its last frame; its zero value if the
// message is no frame. It reports whether the answer was taken; one from a server that is behind is not, and must be
// asked for again.
func (p *Publisher) Found(sequence uint64, id frame.ID) bool {
	if p.isBehind(sequence) {
		return false
	}
	switch {
	case p.last != frame.ID{} && id == p.last:
		p.Stored(sequence)
		return true
	case p.owned && id.Epoch != p.epoch && !p.mine(id.Epoch):
		// Another process published after this one did: this one was replaced.
		p.yield = id.Epoch
		return true
	}
	p.lost = p.lost || p.owned && id != p.stored
	p.known, p.expect = true, sequence
	return true
}

// FoundNone is the answer to Look that the subject has no message. It reports whether the answer was taken.
func (p *Publisher) FoundNone() bool {
	if p.isBehind(0) {
		return false
	}
	p.lost = p.lost || p.owned
	p.known, p.expect = true, 0
	return true
}

func (p *Publisher) isBehind(sequence uint64) bool {
	if sequence >= p.floor {
		p.floor, p.behind = 0, 0
		return false
	}
	p.behind++
	return p.behind <= maxBehind
}

// Lost reports, once, that the server does not hold any more what it said it had stored.
func (p *Publisher) Lost() bool {
	lost := p.lost
	p.lost = false
	return lost
}

// Forgive ends a yield: the other process fell silent.
func (p *Publisher) Forgive() {
	p.yield, p.owned, p.lost = 0, false, false
	p.Relook()
}

// Drop takes the message in flight back, when no answer is awaited: it will not be published, or is stored for all
// that matters.
func (p *Publisher) Drop() { p.last = frame.ID{} }
