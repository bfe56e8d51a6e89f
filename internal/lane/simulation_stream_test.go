package lane_test

import (
	"slices"

	"github.com/thalweg/thalweg/internal/frame"
)

// simMessage is a message of the stream.
type simMessage struct {
	sequence uint64
	backfill bool
	payload  []byte
	stamp    int // of every message another
}

// simStream is the stream of one site.
type simStream struct {
	messages    []simMessage
	next        uint64
	life, stamp int
	copies      []simStream
	late        []simPublish
	lateness    int // percent of the publishes
}

// simPublish is a publish on its way.
type simPublish struct {
	simMessage
	expect uint64
}

// last returns the sequence of the last message on a lane.
func (s *simStream) last(backfill bool) uint64 {
	for _, m := range slices.Backward(s.messages) {
		if m.backfill == backfill {
			return m.sequence
		}
	}
	return 0
}

// publish compares and stores.
func (s *simulation) publish(p simPublish) bool {
	x := &s.stream
	if x.last(p.backfill) != p.expect {
		return false
	}
	for _, id := range frameIDs(p.payload) {
		s.frames[id].sent = true
	}
	x.stamp++
	p.sequence, p.stamp = x.next, x.stamp
	x.messages = append(x.messages, p.simMessage)
	x.next++
	return true
}

// arrive lets late publishes arrive.
func (s *simulation) arrive() {
	if late := s.stream.late; len(late) > 0 && s.IntN(2) == 0 {
		s.stream.late = late[1:]
		s.trace("late publish with %d arrives, stored %t", late[0].expect, s.publish(late[0]))
	}
}

// truncate loses some of the newest messages, of all sites.
func (s *simStream) truncate(n int) {
	keep := max(0, len(s.messages)-1-n)
	for _, m := range s.messages[keep:] {
		s.next = min(s.next, m.sequence)
	}
	s.messages = s.messages[:keep:keep]
}

// restore puts a copy in place of the stream, or makes one.
func (s *simStream) restore(sim *simulation, n int) {
	if n%2 == 0 || len(s.copies) == 0 {
		s.copies = append(s.copies, simStream{messages: slices.Clone(s.messages), next: s.next, life: s.life})
		return
	}
	c := s.copies[n%len(s.copies)]
	sim.trace("restored: %d messages instead of %d", len(c.messages), len(s.messages))
	s.messages, s.next, s.life = slices.Clone(c.messages), c.next, c.life
}

// frameIDs lists the frames of a message.
func frameIDs(payload []byte) (ids []frame.ID) {
	for len(payload) > 0 {
		h, _, rest, err := frame.Split(payload)
		if err != nil {
			failf("split: %v", err)
		}
		ids, payload = append(ids, h.ID), rest
	}
	return ids
}
