package outbox

import (
	"slices"

	"github.com/thalweg/thalweg/internal/frame"
)

// Ack marks the frames from to to of an epoch, inclusive, as stored at the server. Frames that are not here any more
// are ignored. The knowledge is saved by Expire and Close; if it is lost in between the frames are sent again.
func (o *Outbox) Ack(epoch frame.Epoch, from, to uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, g := range o.groups {
		if from, to := max(from, g.first), min(to, g.last); g.epoch == epoch && from <= to {
			g.acked = g.acked.add(from, to)
			g.ackedAt = o.now()
			o.dirty = true
		}
	}
}

// Unack takes an Ack back: the server lost the frames and they are to be sent again.
func (o *Outbox) Unack(epoch frame.Epoch, from, to uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, g := range o.groups {
		if g.epoch == epoch && from <= g.last && to >= g.first {
			g.acked = g.acked.remove(from, to)
			o.dirty = true
		}
	}
}

// Acked reports whether a frame is here and acknowledged.
func (o *Outbox) Acked(id frame.ID) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, g := range o.groups {
		if g.holds(id) {
			return g.acked.cover(id.Number, id.Number)
		}
	}
	return false
}

// FirstUnacked is the oldest frame that the server is not known to have stored; false if there is none.
func (o *Outbox) FirstUnacked() (frame.ID, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, g := range o.groups {
		if gaps := g.acked.gaps(g.first, g.last); len(gaps) > 0 {
			return frame.ID{Epoch: g.epoch, Number: gaps[0].from}, true
		}
	}
	return frame.ID{}, false
}

// Unacked returns what the server is not known to have stored, in the order of writing. Ranges that touch are one.
// It reads the headers in files that are acknowledged in part.
func (o *Outbox) Unacked() []Range {
	var ranges []Range
	for _, g := range o.unackedGroups() {
		for _, r := range o.unackedIn(&g) {
			if n := len(ranges); n > 0 && ranges[n-1].Epoch == r.Epoch && ranges[n-1].To+1 == r.From {
				last := &ranges[n-1]
				last.To, last.LastSent = r.To, r.LastSent
				last.Rows, last.Bytes = last.Rows+r.Rows, last.Bytes+r.Bytes
				continue
			}
			ranges = append(ranges, r)
		}
	}
	return ranges
}

// unackedGroups returns copies of the groups that are not acknowledged in full.
func (o *Outbox) unackedGroups() []group {
	o.mu.Lock()
	defer o.mu.Unlock()
	var groups []group
	for _, g := range o.groups {
		if !g.done() {
			c := *g
			c.acked = slices.Clone(g.acked)
			groups = append(groups, c)
		}
	}
	return groups
}

// done reports whether everything in g is acknowledged.
func (g *group) done() bool { return g.acked.cover(g.first, g.last) }

// unackedIn returns what is not acknowledged of a group that nobody else changes meanwhile. Where the file cannot be
// read, the rows and bytes of a part are not known.
func (o *Outbox) unackedIn(g *group) []Range { return o.measure(g, g.acked.gaps(g.first, g.last)) }

// ackedIn returns what is acknowledged, likewise.
func (o *Outbox) ackedIn(g *group) []Range { return o.measure(g, g.acked) }

// measure describes parts of a group.
func (o *Outbox) measure(g *group, parts spans) []Range {
	if len(parts) == 1 && parts[0] == (span{g.first, g.last}) {
		return []Range{g.asRange()}
	}
	extents := make([]extent, len(parts))
	if len(parts) > 0 {
		if f, err := o.fs.Open(g.name); err == nil {
			_ = scan(f, 0, g.size, func(h *frame.Header, _ int64) bool {
				for i, p := range parts {
					if p.from <= h.Number && h.Number <= p.to {
						extents[i].add(h)
					}
				}
				return true
			})
			_ = f.Close()
		}
	}
	ranges := make([]Range, len(parts))
	for i, p := range parts {
		ranges[i] = extents[i].asRange()
		ranges[i].Epoch, ranges[i].From, ranges[i].To = g.epoch, p.from, p.to
	}
	return ranges
}
