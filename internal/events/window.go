package events

import "encoding/binary"

// window remembers the last ids of events, so that what is sent again does not count twice.
type window struct {
	known map[string]struct{}
	order []string // a ring once it is full
	next  int      // of the ring
	fresh int      // how many of order came since the last record
}

// maxIDs are remembered.
const maxIDs = 1 << 16

// has reports whether an event of this id has been taken.
func (w *window) has(id string) bool {
	_, ok := w.known[id]
	return ok
}

// add remembers an id, and forgets the oldest if there is no room.
func (w *window) add(id string) {
	if w.known == nil {
		w.known = map[string]struct{}{}
	}
	w.known[id] = struct{}{}
	w.fresh = min(w.fresh+1, maxIDs)
	if len(w.order) < maxIDs {
		w.order = append(w.order, id)
		return
	}
	delete(w.known, w.order[w.next])
	w.order[w.next] = id
	w.next = (w.next + 1) % maxIDs
}

// append appends all ids, or those that came since the last time, oldest first.
func (w *window) append(dst []byte, all bool) []byte {
	n := w.fresh
	if all {
		n = len(w.order)
	}
	w.fresh = 0
	dst = binary.AppendUvarint(dst, uint64(n))
	for i := range n {
		dst = appendString(dst, w.order[(w.next+len(w.order)-n+i)%len(w.order)])
	}
	return dst
}

// decode adds ids; as many as there can be are all there are.
func (w *window) decode(d *decoder) {
	n := d.length(1)
	if n >= maxIDs {
		*w = window{}
	}
	for range n {
		if id := d.string(); !w.has(id) {
			w.add(id)
		}
	}
	w.fresh = 0
}
