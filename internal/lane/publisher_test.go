package lane_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
)

const (
	own     frame.Epoch = 1
	earlier frame.Epoch = 2 // of the same outbox
	foreign frame.Epoch = 3
)

// stored is a message on the model's subject.
type stored struct {
	sequence    uint64
	first, last frame.ID
}

// subject is one subject of a stream that compares sequences.
type subject struct {
	messages []stored
	next     uint64 // sequence of the stream's next message
	late     []late
}

// late is a publish that is still on its way.
type late struct {
	operations int // of the server before it arrives
	message    stored
	expect     uint64
}

func (s *subject) last() uint64 {
	if len(s.messages) == 0 {
		return 0
	}
	return s.messages[len(s.messages)-1].sequence
}

// store compares and sets.
func (s *subject) store(m stored, expect uint64) (sequence uint64, ok bool) {
	if s.last() != expect {
		return s.last(), false
	}
	m.sequence = s.next
	s.next++
	s.messages = append(s.messages, m)
	return m.sequence, true
}

// operation lets what is late arrive when its time has come.
func (s *subject) operation() {
	s.late = slices.DeleteFunc(s.late, func(l late) bool {
		if l.operations--; l.operations > 0 {
			return false
		}
		s.store(l.message, l.expect)
		return true
	})
}

// rewind takes the newest messages away, as an older copy of the stream does; the sequences are given again.
func (s *subject) rewind(n int) {
	for range min(n, len(s.messages)) {
		s.next = s.last()
		s.messages = s.messages[:len(s.messages)-1]
	}
}

// chooser enumerates the runs of a test by the choices made in them.
type chooser struct {
	script, limits []int
	at             int
}

func (c *chooser) choose(n int) int {
	if c.at == len(c.script) {
		c.script, c.limits = append(c.script, 0), append(c.limits, 0)
	}
	c.limits[c.at] = n
	c.at++
	return c.script[c.at-1]
}

// next prepares the next run.
func (c *chooser) next() bool {
	for c.at = len(c.script); c.at > 0; c.at-- {
		if i := c.at - 1; c.script[i]+1 < c.limits[i] {
			c.script[i]++
			c.script, c.limits = c.script[:c.at], c.limits[:c.at]
			c.at = 0
			return true
		}
	}
	return false
}

// courier drives a Publisher as package edge does, but that it believes every frame stored that it finds. Here that is
// all that counts; for a hub to decode a frame, what it applies to must be there too.
type courier struct {
	*chooser
	faults int // that may still happen
	log    []string

	subject   subject
	publisher *lane.Publisher
	of        frame.Epoch // whose frames are published
	frames    uint64
	acked     map[uint64]bool // frames that are known to be stored
	bundle    uint64
	forgotten bool // the outbox does not know the earlier epoch any more

	owned, foreign, foreignAfter, lostSome, stale, unanswered, reported bool
}

// following is the first frame that is not known to be stored.
func (c *courier) following() uint64 {
	n := uint64(1)
	for c.acked[n] {
		n++
	}
	return n
}

func (c *courier) ack(first, last uint64) {
	for n := first; n <= last; n++ {
		c.acked[n] = true
	}
}

func (c *courier) id(n uint64) frame.ID { return frame.ID{Epoch: c.of, Number: n} }

// fault chooses among n ways; 0 is none.
func (c *courier) fault(n int, names ...string) int {
	if c.faults == 0 {
		return 0
	}
	k := c.choose(n)
	if k > 0 {
		c.faults--
		c.log = append(c.log, names[k-1])
	}
	return k
}

func (c *courier) note(format string, args ...any) {
	c.log = append(c.log, fmt.Sprintf(format, args...))
}

// world lets something happen between two steps. A rewound stream is that of a server that was restarted.
func (c *courier) world() (reconnected bool) {
	switch c.fault(7, "another site writes", "foreign process writes", "stream recreated", "rewound by one", "rewound", "reconnect") {
	case 1:
		c.subject.next += 3
	case 2:
		if c.lostSome {
			// What JetStream compares cannot tell another process's message from one of this process that had the
			// same sequence in an earlier life of the stream, if there was no reconnect in between.
			c.subject.next += 20
		}
		c.subject.store(stored{first: frame.ID{Epoch: foreign, Number: 7}, last: frame.ID{Epoch: foreign, Number: 7}}, c.subject.last())
		c.foreign = true
		c.foreignAfter = c.foreignAfter || c.owned ||
			slices.ContainsFunc(c.subject.messages, func(m stored) bool { return m.last.Epoch == c.of })
	case 3:
		c.subject.messages, c.subject.next = nil, 1
		c.lostSome = true
	case 4:
		c.subject.rewind(1)
		c.lostSome = true
		return true
	case 5:
		c.subject.rewind(9)
		c.lostSome = true
		return true
	case 6:
		return true
	}
	return false
}

// look asks once.
func (c *courier) look() {
	c.subject.operation()
	messages := c.subject.messages
	switch c.fault(4, "look: no answer", "look: behind by one", "look: behind by all") {
	case 1:
		return
	case 2:
		messages, c.stale = messages[:max(len(messages)-1, 0)], true
	case 3:
		messages, c.stale = nil, true
	}
	if len(messages) == 0 {
		c.note("found none: %t", c.publisher.FoundNone())
		return
	}
	last := messages[len(messages)-1]
	taken := c.publisher.Found(last.sequence, last.first, last.last)
	c.note("found %d %s: %t", last.sequence, last.last, taken)
	if taken && last.last.Epoch == c.of {
		c.ack(last.first.Number, last.last.Number)
	}
}

// publish tries once.
func (c *courier) publish(first, last uint64) {
	c.subject.operation()
	m, expect := stored{first: c.id(first), last: c.id(last)}, c.publisher.Expect()
	fault := c.fault(5, "publish: answer lost", "publish: lost", "publish: late by 1", "publish: late by 2")
	if fault >= 2 {
		if fault > 2 {
			c.subject.late = append(c.subject.late, late{fault - 2, m, expect})
		}
		c.unanswered = true
		c.publisher.Unanswered()
		return
	}
	sequence, ok := c.subject.store(m, expect)
	c.note("publish %d-%d behind %d: %d %t", first, last, expect, sequence, ok)
	switch {
	case fault == 1:
		c.unanswered = true
		c.publisher.Unanswered()
	case ok:
		c.publisher.Stored(sequence)
		c.owned = true
	default:
		c.publisher.Refused(sequence)
	}
}

// run publishes all frames and reports what went wrong.
func (c *courier) run() error {
	var first, last uint64 // in flight, unless dropped
	dropped := true
	probed := false
	for step := 0; !probed || c.following() <= c.frames; step++ {
		if c.following() > c.frames {
			// One more frame brings to light what was lost before.
			probed, c.faults = true, 0
			c.frames++
		}
		if step > 200 {
			return fmt.Errorf("no progress")
		}
		if c.world() {
			c.publisher.Relook()
			for c.publisher.Next() == lane.Look {
				c.look()
			}
			if c.publisher.InFlight() {
				c.publisher.Drop()
				dropped = true
				c.bundle = 3 - c.bundle // the reader may put other frames together than before
			}
		}
		switch c.publisher.Next() {
		case lane.Yield:
			if !c.foreignAfter || c.publisher.Owner() != foreign {
				return fmt.Errorf("yields to %s", c.publisher.Owner())
			}
			return nil
		case lane.Look:
			c.look()
		case lane.Publish:
			c.publish(first, last)
		case lane.Part:
			c.publisher.Drop()
			dropped = true
		case lane.Done:
			first = c.following()
			for last = first; last < min(first+c.bundle-1, c.frames) && !c.acked[last+1]; last++ {
			}
			c.publisher.Begin(c.id(first), c.id(last))
			dropped = false
			continue
		}
		if !dropped && !c.publisher.InFlight() {
			c.ack(first, last)
			c.owned, dropped = true, true
			c.forgotten = c.of != own && c.following() > c.frames
		}
		if c.publisher.Lost() {
			c.note("lost")
			c.reported = true
			clear(c.acked)
		}
	}
	return c.check()
}

// check looks at the subject when all is believed to be stored.
func (c *courier) check() error {
	count := map[uint64]int{}
	for _, m := range c.subject.messages {
		if m.last.Epoch == c.of {
			for n := m.first.Number; n <= m.last.Number; n++ {
				count[n]++
			}
		}
	}
	for n := uint64(1); n <= c.frames; n++ {
		switch {
		case count[n] == 0:
			return fmt.Errorf("frame %d is not stored", n)
		case count[n] > 1 && !c.reported && !c.foreign: // another process may hide what was stored
			return fmt.Errorf("frame %d is stored %d times", n, count[n])
		}
	}
	if c.reported && !c.lostSome && !(c.stale && c.unanswered) {
		return fmt.Errorf("reports a loss where none was")
	}
	if c.publisher.Relook(); c.forgotten { // a reconnect, long after
		for c.publisher.Next() == lane.Look {
			c.look()
		}
		if c.publisher.Next() == lane.Yield {
			return fmt.Errorf("yields to %s, an epoch of its own outbox", c.publisher.Owner())
		}
	}
	return nil
}

// Every sequence of few faults, over a stream that compares sequences as JetStream does.
func TestPublisherExhaustively(t *testing.T) {
	f := func(name string, of frame.Epoch, before []stored) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			faults := 3
			if testing.Short() {
				faults = 2
			}
			c := &chooser{}
			for runs := 1; ; runs++ {
				x := &courier{chooser: c, faults: faults, of: of, frames: 3, bundle: 1, acked: map[uint64]bool{}}
				x.subject = subject{messages: slices.Clone(before), next: 10}
				x.publisher = lane.NewPublisher(own, func(e frame.Epoch) bool { return e == own || e == earlier && !x.forgotten })
				if err := x.run(); err != nil {
					t.Fatalf("run %d: %v\n%s\nsubject: %v", runs, err, strings.Join(x.log, "\n"), x.subject.messages)
				}
				if !c.next() {
					t.Logf("%d runs", runs)
					return
				}
			}
		})
	}
	f("first message", own, nil)
	f("after an earlier epoch", own, []stored{{4, frame.ID{Epoch: earlier, Number: 8}, frame.ID{Epoch: earlier, Number: 9}}})
	f("after another process", own, []stored{{4, frame.ID{Epoch: foreign, Number: 8}, frame.ID{Epoch: foreign, Number: 9}}})
	f("frames of an earlier epoch", earlier, nil)
}

// A message that is no frame must not be taken for another process, nor make the machine turn in circles.
func TestPublisherMeetsWhatIsNoFrame(t *testing.T) {
	p := lane.NewPublisher(own, func(e frame.Epoch) bool { return e == own })
	p.FoundNone()
	p.Begin(frame.ID{Epoch: own, Number: 1}, frame.ID{Epoch: own, Number: 1})
	p.Stored(5)
	p.Begin(frame.ID{Epoch: own, Number: 2}, frame.ID{Epoch: own, Number: 2})
	p.Refused(6)
	if !p.Found(6, frame.ID{}, frame.ID{}) || p.Next() != lane.Publish || p.Expect() != 6 {
		t.Fatalf("next is %s behind %d, want publish behind 6", p.Next(), p.Expect())
	}
	if p.Stored(7); p.Lost() {
		t.Fatal("takes it for a loss")
	}
}

func TestPublisherForgives(t *testing.T) {
	p := lane.NewPublisher(own, func(e frame.Epoch) bool { return e == own })
	p.FoundNone()
	p.Begin(frame.ID{Epoch: own, Number: 1}, frame.ID{Epoch: own, Number: 1})
	p.Stored(5)
	p.Relook()
	if p.Found(6, frame.ID{Epoch: foreign, Number: 1}, frame.ID{Epoch: foreign, Number: 1}); p.Next() != lane.Yield || p.Owner() != foreign {
		t.Fatalf("next is %s to %s, want yield to %s", p.Next(), p.Owner(), foreign)
	}
	p.Forgive()
	if p.Next() != lane.Look {
		t.Fatalf("next is %s, want look", p.Next())
	}
	if p.Found(6, frame.ID{Epoch: foreign, Number: 1}, frame.ID{Epoch: foreign, Number: 1}); p.Next() != lane.Done || p.Expect() != 6 {
		t.Fatalf("next is %s behind %d, want to take over behind 6", p.Next(), p.Expect())
	}
}
