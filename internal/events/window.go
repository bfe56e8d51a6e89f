package events

import "encoding/binary"

// window remembers the last ids of events, so that what is sent again does not count twice.
type window struct {
	known map[string]struct{}
	order []string // a ring once it is full
	next  int      // of the ring
	fresh []string // since the last checkpoint
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
	w.fresh = append(w.fresh, id)
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
	lists := [][]string{w.fresh}
	if all {
		lists = [][]string{w.order[w.next:], w.order[:w.next]}
	}
	n := 0
	for _, l := range lists {
		n += len(l)
	}
	dst = binary.AppendUvarint(dst, uint64(n))
	for _, l := range lists {
		for _, id := range l {
			dst = appendString(dst, id)
		}
	}
	clear(w.fresh)
	w.fresh = w.fresh[:0]
	return dst
}

func (w *window) decode(d *decoder) {
	for range d.length(1) {
		if id := d.string(); !w.has(id) {
			w.add(id)
		}
	}
	clear(w.fresh)
	w.fresh = w.fresh[:0]
}
