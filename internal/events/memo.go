package events

import (
	"bytes"
	"hash/maphash"
)

const (
	// leastSlots and mostSlots bound how many payloads are known, and memoBytes how many bytes of them are remembered; none of
	// them is longer than memoPayload.
	leastSlots  = 1 << 12
	mostSlots   = 1 << 18
	memoBytes   = 64 << 20
	memoPayload = 512
	// ways are the slots that a payload may be in. They fill a cache line.
	ways = 4
	// lookahead is how many payloads are looked for at a time.
	lookahead = 16
)

// memo remembers which series payloads were for. Senders that keep no state send the same bytes again and again, but for
// the number behind "value". All other bytes are compared, so that what is the same but for this number is the same event
// with another value. One is remembered when it comes a second time: those that never do cost no memory.
type memo struct {
	slots []slot // sets of ways, by hash
	bytes int    // that are remembered
	seed  maphash.Seed

	probes [lookahead]probe // of look
	seen   float64          // what touch read, which keeps it from being left out
}

type slot struct {
	hash        uint64 // 0: empty
	*remembered        // nil if only the hash is known
}

type remembered struct {
	payload     []byte
	first, last int32 // where the number stands in the payload; nowhere if they are the same
	member      *member
	value       float64 // if it stands nowhere
}

// probe is a payload that is looked for.
type probe struct {
	payload     []byte
	hash        uint64 // 0: it is too long
	first, last int32
}

func newMemo() memo { return memo{slots: make([]slot, leastSlots), seed: maphash.MakeSeed()} }

// probe says where a payload is looked for.
func (m *memo) probe(payload []byte) probe {
	p := probe{payload: payload}
	if len(payload) == 0 || len(payload) > memoPayload {
		return p
	}
	first, last := valueToken(payload)
	p.first, p.last = int32(first), int32(last)
	p.hash = maphash.Bytes(m.seed, payload[:first])*31 + maphash.Bytes(m.seed, payload[last:])
	return p
}

// set is where a payload of a hash may be.
func (m *memo) set(hash uint64) []slot {
	at := hash % uint64(len(m.slots)) &^ (ways - 1)
	return m.slots[at : at+ways : at+ways]
}

// look returns probes for the elements first to last of a page, which are not more than lookahead. They are valid until
// the next call.
func (m *memo) look(p *page, first, last int) []probe {
	probes := m.probes[:last-first]
	for i := range probes {
		probes[i] = m.probe(p.at(first + i))
	}
	m.touch(probes)
	return probes
}

// touch reads what find and what follows it will read of each payload. With many series none of that is in a cache of the
// processor, which can wait for several at a time if none depends on another.
func (m *memo) touch(probes []probe) {
	var found [lookahead]*remembered
	for i := range probes {
		for _, s := range m.set(probes[i].hash) {
			if s.hash == probes[i].hash {
				found[i] = s.remembered
			}
		}
	}
	sum := 0.0
	for _, r := range found {
		if r != nil {
			sum += r.value
		}
	}
	for _, r := range found {
		if r != nil {
			for at := 0; at < len(r.payload); at += 64 {
				sum += float64(r.payload[at])
			}
			sum += r.member.sum.value
		}
	}
	m.seen = sum
}

// find looks for a payload. r is what remembers it: its member takes the value v. Without r it has to be read.
func (m *memo) find(p *probe) (r *remembered, v float64) {
	if p.hash == 0 {
		return nil, 0
	}
	set := m.set(p.hash)
	for i := range set {
		if set[i].hash == p.hash {
			r = set[i].remembered
			break
		}
	}
	head, tail := p.payload[:p.first], p.payload[p.last:]
	if r == nil || r.member.dead || r.first != p.first || len(r.payload)-int(r.last) != len(tail) ||
		!bytes.Equal(r.payload[:r.first], head) || !bytes.Equal(r.payload[r.last:], tail) || (r.first == r.last) != (p.first == p.last) {
		return nil, 0
	}
	if r.first == r.last {
		return r, r.value
	}
	number := scanner{data: p.payload[p.first:p.last]}
	if v = number.number(); number.failed || number.i != len(number.data) {
		return nil, 0
	}
	return r, v
}

// valueToken returns where the number behind the first "value" stands, or nothing where there is none.
func valueToken(payload []byte) (first, last int) {
	const key = `value":` // without the quote before it, of which there are many
	i := bytes.Index(payload, []byte(key))
	if i <= 0 || payload[i-1] != '"' {
		return len(payload), len(payload)
	}
	first = i + len(key)
	for last = first; last < len(payload); last++ {
		switch c := payload[last]; {
		case c >= '0' && c <= '9', c == '.', c == '-', c == '+', c == 'e', c == 'E':
		default:
			return first, last
		}
	}
	return first, last
}

// put remembers the only event of a payload that was not found, if there is nothing to say of it but a value. at is where
// the parser found that. There are slots for two payloads of each series, up to mostSlots.
func (m *memo) put(p *probe, to *member, e *Event, at span, series int) {
	if p.hash == 0 {
		return
	}
	if len(m.slots) < min(2*series, mostSlots) {
		m.grow()
	}
	s := slotFor(m.set(p.hash), p.hash)
	if s.hash != p.hash {
		m.forget(s)
		s.hash = p.hash
		return
	}
	plain := !e.Many && e.ID == "" && e.T == 0 && e.TTL < 0 && e.Op == Set && len(e.Exemplar) == 0
	if !plain || p.first != p.last && at != (span{int(p.first), int(p.last)}) {
		return
	}
	m.forget(s)
	if m.bytes+len(p.payload) > memoBytes {
		m.clear()
		return
	}
	m.bytes += len(p.payload)
	s.remembered = &remembered{payload: bytes.Clone(p.payload), first: p.first, last: p.last, member: to, value: e.Value}
}

// slotFor returns the slot of a set that has a hash, or the one with which the least is lost.
func slotFor(set []slot, hash uint64) *slot {
	least := &set[hash>>62]
	for i := range set {
		if set[i].hash == hash {
			return &set[i]
		}
		if set[i].worth() < least.worth() {
			least = &set[i]
		}
	}
	return least
}

func (s *slot) worth() int {
	switch {
	case s.hash == 0:
		return 0
	case s.remembered == nil:
		return 1
	case s.member.dead:
		return 2
	}
	return 3
}

// forget leaves the hash of a slot.
func (m *memo) forget(s *slot) {
	if s.remembered != nil {
		m.bytes -= len(s.payload)
		s.remembered = nil
	}
}

// grow makes room for twice as many.
func (m *memo) grow() {
	old := m.slots
	m.slots = make([]slot, 2*len(old))
	for _, s := range old {
		if s.hash != 0 {
			*slotFor(m.set(s.hash), s.hash) = s
		}
	}
}

// clear forgets everything, for events that come now may mean something else.
func (m *memo) clear() {
	clear(m.slots)
	m.bytes = 0
}
