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
func (s *simStream) publish(p simPublish) bool {
	if s.last(p.backfill) != p.expect {
		return false
	}
	s.stamp++
	p.sequence, p.stamp = s.next, s.stamp
	s.messages = append(s.messages, p.simMessage)
	s.next++
	return true
}

// arrive lets late publishes arrive.
func (s *simStream) arrive(sim *simulation) {
	if len(s.late) == 0 || sim.IntN(2) == 0 {
		return
	}
	p := s.late[0]
	s.late = s.late[1:]
	sim.trace("late publish with %d arrives, stored %t", p.expect, s.publish(p))
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
