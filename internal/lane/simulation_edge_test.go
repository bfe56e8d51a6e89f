package lane_test

import (
	"slices"
	"time"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/series"
)

// boxed is a frame in the outbox.
type boxed struct {
	header frame.Header
	data   []byte
	acked  bool
}

// box is the outbox. Indexes count all frames that were ever in it.
type box struct {
	front  int // of the first one that is still there
	frames []boxed
}

func (b *box) end() int        { return b.front + len(b.frames) }
func (b *box) at(i int) *boxed { return &b.frames[i-b.front] }

func (b *box) clone() box { return box{b.front, slices.Clone(b.frames)} }

// index of a frame; -1 if it is not there.
func (b *box) index(id frame.ID) int {
	if i := slices.IndexFunc(b.frames, func(x boxed) bool { return x.header.ID == id }); i >= 0 {
		return b.front + i
	}
	return -1
}

func (b *box) knows(e frame.Epoch) bool {
	return slices.ContainsFunc(b.frames, func(x boxed) bool { return x.header.Epoch == e })
}

// group is the index of the keyframe before index i.
func (b *box) group(i int) int {
	for b.at(i).header.Kind != frame.Keyframe {
		i--
	}
	return i
}

// unacked is the index of the oldest frame that is not known to be stored; the end if all are.
func (b *box) unacked() int {
	if i := slices.IndexFunc(b.frames, func(x boxed) bool { return !x.acked }); i >= 0 {
		return b.front + i
	}
	return b.end()
}

func (b *box) ack(from, to int) {
	for i := max(from, b.front); i <= to && i < b.end(); i++ {
		b.at(i).acked = true
	}
}

// unackAll is for a server that lost an unknown part of what it had.
func (e *simEdge) unackAll() {
	for i := range e.box.frames {
		e.box.frames[i].acked = false
	}
	e.losses, e.spent = append(e.losses, e.spent...), nil
}

// saved is the outbox's state file: what a process that begins knows of the stream.
type saved struct {
	acked []bool // of all frames that were ever in the outbox
	tips  [2]tip
}

type tip struct {
	id       frame.ID
	sequence uint64
	doubtful bool
}

func (x saved) clone() saved {
	x.acked = slices.Clone(x.acked)
	return x
}

// way is a lane of an edge.
type way struct {
	backfill  bool
	publisher *lane.Publisher
	tip       tip // what the outbox knows of it
	from, to  int // what is in flight
	payload   []byte
	flying    bool
	lost      bool     // the server lost frames; who drives the lane has yet to plan anew
	next, end int      // what follows, up to before end
	seen      frame.ID // the last frame that the last look found, whosever
	seenAt    uint64
	owned     bool // since it last began, it had a message stored
}

// simEdge is a process at the site, and those that follow it.
type simEdge struct {
	s       *simulation
	inOrder bool
	line    int         // of processes on one outbox
	copied  frame.Epoch // the newest when the line began with a copy of the outbox
	version int         // of frames; 0: the newest

	box    box
	saved  saved
	losses []frame.Loss // that no stored frame tells of
	spent  []frame.Loss // evicted after the server had it: a loss if the server loses it

	sender    *lane.Sender
	epoch     frame.Epoch
	fresh     []*simRow // of the epoch, behind those that stand in frames
	unwritten int       // so many times, the outbox takes no frames
	ways      [2]*way   // live, backfill
	session   bool
	start     int // where the live lane began in this session
	caught    int // what was in the outbox then, which may be old
	silent    int // turns since a lane that was taken over changed
	seen      uint64
}

// begin starts a process.
func (e *simEdge) begin() {
	s := e.s
	s.epoch++
	e.epoch = s.epoch
	before := e.beginEpoch()
	e.ways = [2]*way{{publisher: lane.NewPublisher(e.epoch, e.box.knows)}, {backfill: true, publisher: lane.NewPublisher(e.epoch, e.box.knows)}}
	for i := range e.box.frames {
		n := e.box.front + i
		e.box.frames[i].acked = n < len(e.saved.acked) && e.saved.acked[n]
	}
	for i, w := range e.ways {
		w.tip = e.saved.tips[i]
		w.publisher.Resume(w.tip.id, w.tip.sequence, w.tip.doubtful)
	}
	e.session, e.fresh, e.unwritten = false, nil, 0
	s.trace("edge %d begins epoch %d behind %s", e.line, e.epoch, before.ID)
}

// beginEpoch makes the encoder of the present epoch, behind what the outbox has.
func (e *simEdge) beginEpoch() (before frame.Predecessor) {
	if n := len(e.box.frames); n > 0 {
		h := e.box.frames[n-1].header
		before = frame.Predecessor{ID: h.ID, Rows: h.RowsAfter()}
	}
	e.sender = lane.NewSender(lane.SenderConfig{
		Encoder: frame.EncoderConfig{Epoch: e.epoch, Predecessor: before, Version: e.version}, Facts: e.facts,
		KeyframeInterval: 20 * time.Second, Lookback: time.Minute, Jitter: e.s.Float64,
	})
	e.fresh = nil
	return before
}

// facts say what is still to come.
func (e *simEdge) facts() []frame.Fact {
	pending := frame.ID{Epoch: e.epoch, Number: 1}
	if i := e.box.unacked(); i < e.box.end() {
		pending = e.box.at(i).header.ID
	} else if n := len(e.box.frames); n > 0 && e.box.frames[n-1].header.Epoch == e.epoch {
		pending.Number = e.box.frames[n-1].header.Number + 1
	}
	return []frame.Fact{{Name: lane.FactPending, Value: pending.String()}}
}

// save writes the state file.
func (e *simEdge) save() {
	e.saved.acked = slices.Grow(e.saved.acked, e.box.end())[:e.box.end()]
	for i, x := range e.box.frames {
		e.saved.acked[e.box.front+i] = x.acked
	}
	for i, w := range e.ways {
		e.saved.tips[i] = w.tip
	}
}

// makeRows makes rows and flushes them.
func (e *simEdge) makeRows(n int) {
	s := e.s
	for range n {
		s.now += 100 + s.Int64N(2000)
		row := series.Row{Source: s.sources[s.IntN(3)], Schema: s.schema, T: s.now, Values: []float64{s.Float64(), 1, float64(s.now)}}
		frames, err := e.sender.Append(nil, &row, s.now)
		if err != nil {
			failf("append: %v", err)
		}
		r := &simRow{}
		s.rows[simKey(&row)] = r
		e.fresh = append(e.fresh, r)
		e.store(frames)
	}
	e.flush()
}

// flush announces losses, and stores what is accepted.
func (e *simEdge) flush() {
	for _, l := range e.losses {
		e.sender.Lost(l)
	}
	told := len(e.losses)
	if frames := e.sender.Flush(nil, e.s.now); len(frames) > 0 && e.store(frames) {
		e.losses = e.losses[told:]
	}
}

// store appends frames to the outbox, unless that takes none.
func (e *simEdge) store(frames [][]byte) bool {
	if len(frames) == 0 {
		return true
	}
	refused := e.unwritten > 0
	if refused {
		e.unwritten--
	}
	for i, f := range frames {
		h, err := frame.Verify(f)
		if err != nil {
			failf("verify: %v", err)
		}
		rows := e.fresh[:h.Rows]
		e.fresh = e.fresh[h.Rows:]
		for _, r := range rows {
			r.id, r.accepted = h.ID, !refused
		}
		e.s.frames[h.ID] = &simFrame{order: len(e.s.frames), line: e.line, rows: rows}
		switch {
		case !refused:
			e.box.frames = append(e.box.frames, boxed{header: h, data: f})
		case i == 0:
			e.losses = append(e.losses, frame.Loss{Epoch: h.Epoch, From: h.Number, To: h.Number, Rows: uint64(h.Rows), First: h.Sent, Last: h.Sent, Cause: frame.CauseUnwritten})
		default:
			l := &e.losses[len(e.losses)-1]
			l.To, l.Last, l.Rows = h.Number, h.Sent, l.Rows+uint64(h.Rows)
		}
	}
	switch n := len(e.box.frames); {
	case refused && (n == 0 || e.box.frames[n-1].header.Epoch != e.epoch): // only its first frame tells what an epoch comes after
		e.s.epoch++
		e.epoch = e.s.epoch
		e.beginEpoch()
	case refused:
		e.sender.RequestKeyframe(e.s.now, false)
	}
	return !refused
}

// forgetNewest is for a power cut: the newest frames had not been synced.
func (e *simEdge) forgetNewest(n int) {
	for ; n > 0 && len(e.box.frames) > 0; n-- {
		k := len(e.box.frames) - 1
		f := e.s.frames[e.box.frames[k].header.ID]
		e.s.forked = e.s.forked || f.sent
		for _, r := range f.rows {
			r.accepted = false
		}
		e.box.frames = e.box.frames[:k]
	}
	e.saved.acked = e.saved.acked[:min(len(e.saved.acked), e.box.end())]
}

// evict drops the oldest file, and notes what of it is lost.
func (e *simEdge) evict() {
	second := slices.IndexFunc(e.box.frames[min(1, len(e.box.frames)):], func(x boxed) bool { return x.header.Kind == frame.Keyframe }) + 1
	if second == 0 {
		return
	}
	losses, spent := len(e.losses), len(e.spent)
	for _, x := range e.box.frames[:second] {
		e.s.frames[x.header.ID].excuse()
		if x.acked {
			e.spent = addEvicted(e.spent, spent, x.header)
		} else {
			e.losses = addEvicted(e.losses, losses, x.header)
		}
	}
	e.box.frames = slices.Clone(e.box.frames[second:])
	e.box.front += second
}

// addEvicted adds a frame to losses, of which those from an index on are of its file.
func addEvicted(losses []frame.Loss, from int, h frame.Header) []frame.Loss {
	if n := len(losses); n > from && losses[n-1].To+1 == h.Number {
		l := &losses[n-1]
		l.To, l.Last, l.Rows = h.Number, h.Sent, l.Rows+uint64(h.Rows)
		return losses
	}
	return append(losses, frame.Loss{
		Epoch: h.Epoch, From: h.Number, To: h.Number, Rows: uint64(h.Rows), First: h.Sent, Last: h.Sent, Cause: frame.CauseEvicted,
	})
}

// look asks for the last message of a lane. It reports whether an answer was taken, and the last frame if it is ours.
func (e *simEdge) look(w *way) (id frame.ID, taken bool) {
	s := e.s
	w.seen, w.seenAt = frame.ID{}, 0
	if s.unlucky(10) {
		return id, false
	}
	i := len(s.stream.messages) - 1
	for ; i >= 0; i-- {
		if s.stream.messages[i].backfill == w.backfill && !s.unlucky(10) { // or a replica is behind
			break
		}
	}
	if i < 0 {
		return id, w.publisher.FoundNone()
	}
	m := s.stream.messages[i]
	w.seenAt = m.sequence
	first, _, _, err := frame.Split(m.payload)
	if err != nil {
		failf("split: %v", err)
	}
	ids := frameIDs(m.payload)
	id = ids[len(ids)-1]
	w.seen = id
	if !w.publisher.Found(m.sequence, first.ID, id) {
		return frame.ID{}, false
	}
	if !e.box.knows(id.Epoch) {
		return frame.ID{}, true
	}
	e.learn(w)
	if first.Kind == frame.Keyframe {
		for _, x := range ids {
			if i := e.box.index(x); i >= 0 {
				e.box.ack(i, i)
			}
		}
	}
	return id, true
}

// learn writes down what the publisher found out.
func (e *simEdge) learn(w *way) {
	if w.publisher.Lost() {
		e.s.trace("edge %d finds that the server lost frames, backfill %t", e.line, w.backfill)
		w.lost = true
		e.unackAll()
	}
	w.tip.id, w.tip.sequence = w.publisher.Newest()
	w.tip.doubtful = w.publisher.Doubtful()
}

// settle acknowledges what was in flight.
func (e *simEdge) settle(w *way) {
	if !w.flying {
		return
	}
	e.learn(w)
	if !w.lost { // else what it applies to is sent again, and it is needed behind that
		e.box.ack(w.from, w.to)
	}
	w.flying = false
}

// resolve begins a session.
func (e *simEdge) resolve() {
	var last [2]frame.ID
	for i, w := range e.ways {
		if newest, _ := w.publisher.Newest(); e.box.index(newest) < 0 {
			w.publisher.Moot()
		}
		w.publisher.Relook()
		newest, at := w.publisher.Newest()
		id, taken := e.look(w)
		if !taken || w.publisher.Next() == lane.Yield {
			return
		}
		// Something else than what was stored last stands behind it: an older copy of the stream that is longer, or the
		// message of another process that hides what became of ours.
		if k := e.box.index(newest); k >= 0 && w.seen.Number != 0 && w.seenAt > at && e.box.index(w.seen) < k {
			e.unackAll()
		}
		if last[i] = id; w.publisher.InFlight() {
			w.publisher.Drop()
			e.learn(w)
		} else {
			e.settle(w)
		}
		w.flying, w.next, w.end = false, 0, 0
	}
	e.ways[0].lost, e.ways[1].lost = false, false
	if id, ok := e.ways[1].publisher.Missing(); ok {
		if i := e.box.index(id); i >= 0 {
			e.box.at(i).acked = false
		}
	}
	e.plan(last[0])
}

// plan decides where the live lane goes on.
func (e *simEdge) plan(last frame.ID) {
	x := lane.Standing{Last: last, InOrder: e.inOrder}
	if n := e.box.end(); n > e.box.front {
		newest := e.box.at(e.box.group(n - 1)).header
		x.Head, x.Newest, x.NewestSent = e.box.at(n-1).header.ID, newest.ID, newest.Sent
	}
	if pending := e.box.unacked(); pending < e.box.end() {
		x.Oldest, x.OldestSent = e.box.at(pending).header.ID, e.box.at(pending).header.Sent
		x.Group = e.box.at(e.box.group(pending)).header.ID
		if e.s.IntN(2) == 0 { // the rest is small
			tail := e.box.group(pending + e.s.IntN(e.box.end()-pending))
			x.Tail = e.box.at(tail).header.ID
		}
	}
	start := lane.PlanStart(x, e.s.now)
	e.caught = e.box.end()
	if start.Keyframe {
		e.flush()
		e.sender.RequestKeyframe(e.s.now, false)
		e.start = e.box.end()
	} else if e.start = e.box.index(start.From); e.start < 0 {
		e.start = e.box.end() // the one behind the head
	}
	e.s.trace("edge %d goes on live at %d of %d to %d, keyframe %t", e.line, e.start, e.box.front, e.box.end(), start.Keyframe)
	e.ways[0].next, e.session = e.start, true
}

// step goes on with a lane.
func (e *simEdge) step(w *way) {
	if e.replaced() {
		return
	}
	if !e.session {
		e.resolve()
		return
	}
	switch w.publisher.Next() {
	case lane.Yield, lane.Part:
		e.session = false
	case lane.Look:
		e.look(w)
	case lane.Publish:
		e.publish(w)
	case lane.Done:
		if !w.flying {
			e.launch(w)
		}
	}
	if w.flying && !w.publisher.InFlight() {
		e.settle(w)
	}
	if w.lost {
		w.lost, e.session = false, false
	}
}

// replaced reports whether another process owns a lane and is not silent.
func (e *simEdge) replaced() bool {
	yields := e.ways[0].publisher.Next() == lane.Yield || e.ways[1].publisher.Next() == lane.Yield
	if last := e.s.stream.last(false); last != e.seen || !yields {
		e.seen, e.silent = last, 0
		return yields
	}
	if e.silent++; e.silent < 100 {
		return true
	}
	e.s.trace("edge %d tries again", e.line)
	e.silent, e.session = 0, false
	for _, w := range e.ways {
		w.publisher.Forgive()
		w.owned = false
	}
	return true
}

// launch puts the next frames of a lane in flight.
func (e *simEdge) launch(w *way) {
	end := e.box.end()
	if w.backfill {
		if w.next == w.end || w.next < e.box.front { // the next run that is not stored, from its keyframe
			w.next = w.end
			from := e.box.unacked()
			if from >= e.start {
				return
			}
			w.next, w.end = e.box.group(from), from
			for w.end < e.start && !e.box.at(w.end).acked && e.box.at(w.end).header.Epoch == e.box.at(from).header.Epoch {
				w.end++
			}
		}
		end = w.end
	}
	w.next = max(w.next, e.box.front)
	if w.next >= end {
		return
	}
	w.from, w.to = w.next, w.next
	for n := e.s.IntN(4); n > 0 && w.to+1 < end && e.box.at(w.to+1).header.Kind == frame.Delta; n-- {
		w.to++
	}
	first, last := e.box.at(w.from).header, e.box.at(w.to).header
	if !w.backfill && !e.inOrder && w.from >= e.caught && lane.Old(first.Sent, e.s.now) {
		e.session = false
		return
	}
	w.payload = nil
	for i := w.from; i <= w.to; i++ {
		w.payload = append(w.payload, e.box.at(i).data...)
	}
	w.next, w.flying = w.to+1, true
	w.publisher.Begin(first.ID, last.ID)
}

func (e *simEdge) publish(w *way) {
	s := e.s
	if w.publisher.Doubtful() {
		e.learn(w)
		e.save()
	}
	p := simPublish{simMessage{backfill: w.backfill, payload: w.payload}, w.publisher.Expect()}
	switch {
	case s.unlucky(5):
		w.publisher.Unanswered()
		return
	case s.unlucky(s.stream.lateness):
		s.stream.late = append(s.stream.late, p)
		w.publisher.Unanswered()
		return
	}
	e.expectNoDuel(w)
	stored := s.publish(p)
	s.trace("edge %d publishes frames %d to %d with %d, backfill %t, stored %t", e.line, w.from, w.to, p.expect, w.backfill, stored)
	switch last := s.stream.last(w.backfill); {
	case s.unlucky(5):
		w.publisher.Unanswered()
	case stored:
		w.owned = true
		w.publisher.Stored(last)
	default:
		w.publisher.Refused(last)
	}
}

// expectNoDuel: who published, and was replaced, does not publish behind what the other one made. Frames from before the
// outbox was copied tell nothing.
func (e *simEdge) expectNoDuel(w *way) {
	if len(e.s.edges) < 2 || !w.owned {
		return
	}
	for _, m := range slices.Backward(e.s.stream.messages) {
		if m.backfill == w.backfill {
			id := frameIDs(m.payload)[0]
			if e.s.frames[id].line != e.line && id.Epoch > e.copied && m.sequence == w.publisher.Expect() {
				failf("edge %d publishes behind a message of another process, by which it was replaced", e.line)
			}
			return
		}
	}
}
