package lane

import (
	"fmt"

	"github.com/thalweg/thalweg/internal/frame"
)

// Publisher decides how the messages of one lane reach its subject, where every message must name the sequence of the
// one before it (DESIGN: publishing). It keeps one message in flight:
//
//	for {
//		switch p.Next() {
//		case Look:    read the subject's last message, then p.Found or p.FoundNone
//		case Publish: publish the message with p.Expect(), then p.Stored, p.Refused, or p.Unanswered if in doubt
//		case Done:    p.Begin with the next message
//		case Part:    p.Drop, p.Relook, and plan anew what to send
//		case Yield:   stop; p.Owner() took the lane over
//		}
//	}
//
// What a Look finds may be behind the truth, since any replica may answer. So a look alone never proves that the server
// lost something: only a publish does that is taken although it names less than what had been stored.
type Publisher struct {
	epoch frame.Epoch
	// mine reports whether an epoch belongs to the same outbox.
	mine func(frame.Epoch) bool

	known  bool // expect is the sequence of the subject's last message, as far as this process knows
	expect uint64
	floor  uint64 // an answer to Look below this is from a server that is behind
	behind int    // answers below the floor in a row

	owned    bool     // a message of this process was stored
	stored   frame.ID // the last frame of the newest message known to be stored, of this process or an earlier one
	storedAt uint64   // of the same outbox, and its sequence; 0: none
	yield    frame.Epoch

	moot  bool // whether stored is still there makes no difference
	doubt bool // expect is older than what was stored: a publish that is taken proves a loss
	lost  bool // it is proved, or cannot be ruled out any more

	first, last frame.ID // of the message in flight; zero: none
	tried       bool     // it was published in doubt, and there was no answer
	part        bool     // its first frames are stored, by a message that arrived late
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
	Part                  // a part of the message in flight is stored already
	Yield                 // another process owns the lane
)

func (a Action) String() string { return [...]string{"done", "look", "publish", "part", "yield"}[a] }

// NewPublisher returns a machine that knows nothing of its subject yet. mine tells the epochs of the same outbox, the
// given one included, from those of other processes.
func NewPublisher(epoch frame.Epoch, mine func(frame.Epoch) bool) *Publisher {
	return &Publisher{epoch: epoch, mine: mine}
}

// Begin puts a message in flight, which holds the frames from first to last of one epoch.
func (p *Publisher) Begin(first, last frame.ID) {
	if p.InFlight() {
		panic(fmt.Sprintf("BUG: lane.Publisher: %s begins while %s is in flight", last, p.last))
	}
	p.first, p.last = first, last
}

// InFlight reports whether a message is.
func (p *Publisher) InFlight() bool { return p.last != frame.ID{} }

// Next is what must be done now.
func (p *Publisher) Next() Action {
	switch {
	case p.yield != 0:
		return Yield
	case !p.known:
		return Look
	case !p.InFlight():
		return Done
	case p.part:
		return Part
	}
	return Publish
}

// Expect is the sequence to publish with.
func (p *Publisher) Expect() uint64 { return p.expect }

// Owner is the epoch that took the lane over, or zero.
func (p *Publisher) Owner() frame.Epoch { return p.yield }

// Stored is the answer that the message in flight has a sequence.
func (p *Publisher) Stored(sequence uint64) {
	p.lost = p.lost || p.doubt
	p.settle(sequence)
}

func (p *Publisher) settle(sequence uint64) {
	p.known, p.expect, p.floor, p.doubt = true, sequence, 0, false
	p.owned = true
	p.keep(p.last, sequence)
	p.endFlight()
}

// keep notes the newest frame known to be stored.
func (p *Publisher) keep(id frame.ID, sequence uint64) {
	p.stored, p.storedAt, p.moot = id, sequence, false
}

func (p *Publisher) endFlight() {
	p.first, p.last, p.tried, p.part = frame.ID{}, frame.ID{}, false, false
}

// Refused is the answer that the subject's last sequence is another than expected. What is stored there decides.
func (p *Publisher) Refused(actual uint64) {
	p.known, p.doubt = false, false
	p.floor, p.behind = actual, 0
}

// Unanswered says that the message in flight may be stored or not. It is published again as it was, and if it had been
// stored, that is refused.
func (p *Publisher) Unanswered() { p.tried = p.tried || p.doubt }

// Relook makes the machine look before it publishes again: after a reconnect, the server may be another one.
func (p *Publisher) Relook() {
	p.known, p.floor, p.doubt = false, 0, false
}

// Found is the answer to Look: the sequence of the subject's last message, its first and its last frame; their zero
// values if the message is no frame. It reports whether the answer was taken; one from a server that is behind is not,
// and must be asked for again.
func (p *Publisher) Found(sequence uint64, first, id frame.ID) bool {
	if p.isBehind(sequence) {
		return false
	}
	mine := id.Epoch == p.epoch || id == p.stored || p.mine(id.Epoch)
	older := p.storedAt != 0 && (sequence < p.storedAt || sequence == p.storedAt && id != p.stored)
	switch {
	case p.InFlight() && id.Epoch == p.last.Epoch && first.Number <= p.first.Number && p.last.Number <= id.Number:
		// Only its own frames: what stands before it on the lane may be what the server lost.
		if older && !p.tried { // a copy from an earlier time
			p.known, p.expect, p.doubt = true, sequence, true
			p.endFlight()
			return true
		}
		p.lost = p.lost || p.tried
		p.last = id
		p.settle(sequence)
		return true
	case p.owned && id.Epoch != 0 && !mine && sequence > p.storedAt:
		// Another process published after this one did: this one was replaced.
		p.yield = id.Epoch
		return true
	}
	p.known, p.expect = true, sequence
	p.doubt = older && !p.moot
	p.part = p.InFlight() && id.Epoch == p.last.Epoch && first.Number <= p.last.Number && p.first.Number <= id.Number
	if mine && id.Epoch != 0 && !p.doubt {
		p.keep(id, sequence) // one that had been given up and arrived late, or an earlier process's
	}
	return true
}

// FoundNone is the answer to Look that the subject has no message. It reports whether the answer was taken.
func (p *Publisher) FoundNone() bool {
	if p.isBehind(0) {
		return false
	}
	p.known, p.expect, p.doubt, p.part = true, 0, p.storedAt != 0 && !p.moot, false
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

// Resume says, before the first look, what an earlier process of the same outbox knew last: Newest and Doubtful.
func (p *Publisher) Resume(id frame.ID, sequence uint64, doubtful bool) {
	p.keep(id, sequence)
	p.lost = doubtful // its publish may have been taken
}

// Doubtful reports whether the next publish, if it is taken, proves that the server lost something. That must be written
// down before it is published: the message itself would hide the loss from the next process.
func (p *Publisher) Doubtful() bool { return p.doubt }

// Newest is the last frame of the newest message known to be stored, of this process or an earlier one of the same
// outbox, and its sequence; zero: none.
func (p *Publisher) Newest() (id frame.ID, sequence uint64) { return p.stored, p.storedAt }

// Moot says, before a look, that the outbox no longer holds Newest: whether the server does makes no difference.
func (p *Publisher) Moot() { p.moot = true }

// Missing is the last frame that was stored and, to judge by the last look, is not there. On a lane with nothing else to
// send, publishing it again is what tells.
func (p *Publisher) Missing() (id frame.ID, ok bool) { return p.stored, p.doubt && p.storedAt != 0 }

// Lost reports, once, that the server does not hold any more what it said it had stored. Where that cannot be told it
// says so too: sending again does no harm.
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

// Drop takes the message in flight back: it will not be published again in this form. It may still arrive.
func (p *Publisher) Drop() {
	p.lost = p.lost || p.tried
	p.endFlight()
}
