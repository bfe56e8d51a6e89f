package hub

import (
	"slices"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/series"
)

// heard is what a keyframe says of what its site still holds (lane.FactPending): what is older and did not come will not. It
// speaks of both lanes. The other feed may have to read what came on its lane before, so that this counts when that one has
// come as far in the stream.
type heard struct {
	site     string
	sequence uint64
	stored   int64
	header   frame.Header
	facts    []frame.Fact
}

// hear takes note of what a keyframe says. The caller holds output.mu.
func (f *feed) hear(d *lane.Delivery, sequence uint64, stored int64) {
	switch other := f.other(); {
	case other == nil || other.hasPassed(sequence):
		f.output.receiver.Site(d.Site).Ledger.Settle(d.Header, d.Facts)
	case !slices.ContainsFunc(f.heard, func(h heard) bool { return h.site == d.Site }): // one at a time, so that it counts some day
		f.heard = append(f.heard, heard{d.Site, sequence, stored, *d.Header, d.Facts})
	}
}

// believe has ledgers settled with what was heard, as far as the other feed has come.
func (f *feed) believe() {
	n := 0
	for n < len(f.heard) && f.other().hasPassed(f.heard[n].sequence) {
		n++
	}
	if n == 0 {
		return
	}
	o := f.output
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range f.heard[:n] {
		h := &f.heard[i]
		s := o.receiver.Site(h.site)
		if s == nil {
			continue
		}
		s.Ledger.Settle(&h.header, h.facts)
		f.settleEnds(&lane.Delivery{Site: h.site, Backfill: f.backfill, Header: &h.header}, h.stored)
	}
	f.heard = slices.Delete(f.heard, 0, n)
}

// settleEnds tells of the series whose end shows now that holes were closed. The caller holds output.mu.
func (f *feed) settleEnds(d *lane.Delivery, stored int64) {
	if o := f.output; o.ends != nil {
		o.ends.Settle(d.Site, &o.receiver.Site(d.Site).Ledger, func(marker *series.Row) { f.give(d, marker, stored, true) })
	}
}

// other is the other feed of the output; nil if there is none.
func (f *feed) other() *feed {
	for _, other := range f.output.feeds {
		if other != f {
			return other
		}
	}
	return nil
}

// hasPassed reports whether a feed has read all of its lane up to a sequence. One that reads nothing but its lane, because
// the hub has only some parts, sees no message with that sequence: it has if there was nothing more for it to read when it
// last looked.
func (f *feed) hasPassed(sequence uint64) bool {
	return f.passed.Load() >= sequence || f.apart && f.idle.Load()
}
