package events

import (
	"bytes"

	"github.com/cespare/xxhash/v2"
)

const (
	// memoSlots bounds the payloads that are remembered, memoBytes how long each may be.
	memoSlots = 1 << 16
	memoBytes = 512
)

// memo remembers what payloads came to, for senders that keep no state send the same bytes again and again. Payloads are
// compared whole. One is remembered when it comes a second time, so that those that never do cost no memory.
type memo struct {
	slots []remembered // by hash; empty until there is something
}

type remembered struct {
	hash    uint64
	payload []byte // empty if only the hash is known
	member  *member
	value   float64
}

// get returns the slot of a payload, and whether it holds it. One that is too long has none.
func (m *memo) get(payload []byte) (slot *remembered, hash uint64, hit bool) {
	if len(payload) == 0 || len(payload) > memoBytes {
		return nil, 0, false
	}
	if m.slots == nil {
		m.slots = make([]remembered, memoSlots)
	}
	hash = xxhash.Sum64(payload)
	slot = &m.slots[hash%memoSlots]
	hit = slot.hash == hash && bytes.Equal(slot.payload, payload) && !slot.member.dead
	return slot, hash, hit
}

// put remembers the only event of a payload, of which there is nothing to say but a value.
func (r *remembered) put(hash uint64, payload []byte, m *member, e *Event) {
	if r.hash != hash {
		r.hash, r.payload, r.member = hash, r.payload[:0], nil
		return
	}
	plain := !e.Many && e.ID == "" && e.T == 0 && e.TTL < 0 && e.Op == Set && len(e.Exemplar) == 0
	if !plain {
		return
	}
	r.payload = append(r.payload[:0], payload...)
	r.member, r.value = m, e.Value
}

// clear forgets everything, for events that come now may mean something else.
func (m *memo) clear() { m.slots = nil }
