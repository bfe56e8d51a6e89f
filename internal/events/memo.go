package events

import (
	"bytes"
	"hash/maphash"
)

const (
	// leastSlots and mostSlots bound the payloads that are remembered, memoBytes how long each may be. There are at least as
	// many places as series.
	leastSlots = 1 << 12
	mostSlots  = 1 << 17
	memoBytes  = 512
)

// memo remembers which series payloads were for. Senders that keep no state send the same bytes again and again, but for
// the number behind "value". All other bytes are compared, so that what is the same but for this number is the same event
// with another value. One is remembered when it comes a second time: those that never do cost no memory.
type memo struct {
	slots []remembered // pairs of them, by hash
	seed  maphash.Seed
}

type remembered struct {
	hash        uint64
	payload     []byte // empty if only the hash is known
	first, last int    // where the number stands in the payload; nowhere if they are the same
	member      *member
	value       float64 // if it stands nowhere
}

// probe is a payload that is looked for.
type probe struct {
	payload     []byte
	hash        uint64
	first, last int
	slot        *remembered // its own if it is remembered, else the one where it may be; nil if it is too long
}

// find looks for a payload. hit means that slot.member takes the value v of it.
func (m *memo) find(payload []byte, series int) (p probe, v float64, hit bool) {
	p.payload = payload
	if len(payload) == 0 || len(payload) > memoBytes {
		return p, 0, false
	}
	if len(m.slots) < min(series, mostSlots) || m.slots == nil {
		m.grow(series)
	}
	p.first, p.last = valueToken(payload)
	head, tail := payload[:p.first], payload[p.last:]
	p.hash = maphash.Bytes(m.seed, head)*31 + maphash.Bytes(m.seed, tail)
	at := p.hash % uint64(len(m.slots)) &^ 1
	pair := m.slots[at : at+2]
	switch p.hash {
	case pair[0].hash:
		p.slot = &pair[0]
	case pair[1].hash:
		p.slot = &pair[1]
	default:
		p.slot = vacant(pair, p.hash)
		return p, 0, false
	}
	s := p.slot
	if s.member == nil || s.member.dead || s.first != p.first || len(s.payload)-s.last != len(tail) ||
		!bytes.Equal(s.payload[:s.first], head) || !bytes.Equal(s.payload[s.last:], tail) || (s.first == s.last) != (p.first == p.last) {
		return p, 0, false
	}
	if s.first == s.last {
		return p, s.value, true
	}
	number := scanner{data: payload[p.first:p.last]}
	v = number.number()
	return p, v, !number.failed && number.i == len(number.data)
}

// vacant returns the one of a pair that is used the least, or any of them.
func vacant(pair []remembered, hash uint64) *remembered {
	for i := range pair {
		if pair[i].hash == 0 {
			return &pair[i]
		}
	}
	for i := range pair {
		if m := pair[i].member; m == nil || m.dead {
			return &pair[i]
		}
	}
	return &pair[hash>>63]
}

// grow makes room, and forgets everything.
func (m *memo) grow(series int) {
	n := leastSlots
	for n < min(series, mostSlots) {
		n *= 2
	}
	m.slots, m.seed = make([]remembered, n), maphash.MakeSeed()
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

// put remembers the only event of a payload, if there is nothing to say of it but a value. at is where the parser found
// that.
func (p *probe) put(m *member, e *Event, at span) {
	s := p.slot
	if s == nil {
		return
	}
	if s.hash != p.hash {
		s.hash, s.payload, s.member = p.hash, s.payload[:0], nil
		return
	}
	plain := !e.Many && e.ID == "" && e.T == 0 && e.TTL < 0 && e.Op == Set && len(e.Exemplar) == 0
	if !plain || p.first != p.last && at != (span{p.first, p.last}) {
		return
	}
	s.payload = append(s.payload[:0], p.payload...)
	s.first, s.last, s.member, s.value = p.first, p.last, m, e.Value
}

// clear forgets everything, for events that come now may mean something else.
func (m *memo) clear() { m.slots = nil }
