package lane_test

import (
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/series"
)

// simHub is a hub's output.
type simHub struct {
	s        *simulation
	receiver *lane.Receiver
	catalog  *series.Catalog

	position  int // messages read
	life      int // of the stream that was read
	last      int // stamp of the last message
	expired   bool
	delivered int // rows, each once

	// before is what was known before the last message, and rows what it brought.
	before *lane.LedgerState
	rows   []*simRow
	order  map[int]*simOrder // by line
}

func (h *simHub) init(s *simulation) {
	h.s, h.catalog = s, series.NewCatalog()
	h.start(nil)
}

// start begins a process, with the ledger that an earlier one had written down. Its store is empty.
func (h *simHub) start(ledger *lane.LedgerState) {
	h.order = map[int]*simOrder{}
	h.receiver = lane.NewReceiver(lane.ReceiverConfig{Decoder: func(string) (frame.DecoderConfig, bool) {
		return frame.DecoderConfig{Catalog: h.catalog}, true
	}})
	if ledger != nil {
		h.receiver.Adopt("s", lane.LedgerFrom(*ledger), 0)
	}
	h.position = 0
}

// kill ends the process. It had delivered the last message, and perhaps not written that down.
func (h *simHub) kill(written bool) {
	site := h.receiver.Site("s")
	if site == nil {
		return
	}
	state := site.Ledger.State()
	if !written && h.before != nil {
		state = *h.before
		for _, r := range h.rows {
			r.repeats++
			h.delivered--
		}
	}
	h.before, h.rows = nil, nil
	h.start(&state)
}

func (h *simHub) gaps() []lane.Gap {
	if site := h.receiver.Site("s"); site != nil {
		return site.Ledger.Gaps()
	}
	return nil
}

// read takes the next message of the stream, or notices that it is another one.
func (h *simHub) read() {
	stream := &h.s.stream
	if h.position > 0 && (h.life != stream.life || len(stream.messages) < h.position || stream.messages[h.position-1].stamp != h.last) {
		h.receiver.Restart()
		h.position = 0
		return
	}
	if h.position == len(stream.messages) {
		return
	}
	m := stream.messages[h.position]
	h.position++
	h.last, h.life = m.stamp, stream.life
	h.rows, h.before = nil, nil
	if site := h.receiver.Site("s"); site != nil {
		state := site.Ledger.State()
		h.before = &state
	}
	h.receiver.Step(lane.Message{Site: "s", Backfill: m.backfill, Sequence: m.sequence, Payload: m.payload}, lane.Handler{
		Row:  h.row,
		Done: h.done,
		Problem: func(p lane.Problem) {
			h.s.trace("hub: %s: %v", p.Reason, p.Err)
			if p.Header != nil && (h.expired || h.s.forked) { // what it applies to is gone, or two processes mixed it up
				h.s.frames[p.Header.ID].excuse()
			}
			if p.WantsKeyframe() {
				for _, e := range h.s.edges {
					e.sender.RequestKeyframe(h.s.now, true)
				}
			}
		},
	})
}

func (h *simHub) row(d *lane.Delivery, row *series.Row) {
	key := simKey(row)
	r := h.s.rows[key]
	switch {
	case r == nil:
		failf("row %s of frame %s was never made", key, d.Header.ID)
	case r.delivered > 0 && r.repeats == 0:
		failf("row %s of frame %s is delivered again", key, d.Header.ID)
	case r.delivered > 0:
		r.repeats--
	}
	r.delivered++
	h.delivered++
	h.rows = append(h.rows, r)
}

// done checks the order in which the store sees frames. One that came on the live lane, and is the newest made of all
// that came, ranks above all older ones, and those that come later on the backfill lane rank below it. (An older epoch
// that is new to the hub and comes on the live lane cannot be told from another process, until the next live frame.)
// Where an outbox forgot what it had sent, nothing can be expected.
func (h *simHub) done(d *lane.Delivery) {
	if h.s.forked {
		return
	}
	f := h.s.frames[d.Header.ID]
	order := h.order[f.line]
	switch {
	case order == nil:
		h.order[f.line] = &simOrder{newest: f.order, rank: d.Rank, top: d.Rank, live: !d.Backfill}
		return
	case f.order > order.newest:
		if !d.Backfill && !order.top.Less(d.Rank) {
			failf("live frame %s has rank %v, below %v of an older frame", d.Header.ID, d.Rank, order.top)
		}
		order.newest, order.rank, order.live = f.order, d.Rank, !d.Backfill
	case f.order < order.newest && order.live && d.Backfill && !d.Rank.Less(order.rank):
		failf("frame %s has rank %v, above %v of a newer live frame", d.Header.ID, d.Rank, order.rank)
	}
	if order.top.Less(d.Rank) {
		order.top = d.Rank
	}
}

// simOrder is what came of a line of processes: its newest frame, the rank of that, whether it came live, and the highest
// rank of all.
type simOrder struct {
	newest    int
	rank, top lane.Rank
	live      bool
}
