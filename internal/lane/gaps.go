package lane

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/thalweg/thalweg/internal/frame"
)

// Cause says why rows are missing. The set is closed.
type Cause uint8

const (
	// NotArrived: nobody says that they are lost. They may still come.
	NotArrived Cause = iota

	// As the site announced; see frame.Cause, whose numbers and names these are.

	Evicted
	Corrupt
	Refused
	Paused
	Oversize
	Unwritten

	// Expired: the site does not hold them any more, and they are not in the stream. They left it before this hub read
	// them, or the server lost them.
	Expired
	// Undecodable: they came, and cannot be decoded. They are damaged, of a frame version of the future, or apply to a
	// state that was not seen.
	Undecodable
	// Rejected: they came, and this hub's limits or rules do not let them in.
	Rejected
	// Forgotten: they were missing in knowledge that went because there was too much of it.
	Forgotten
	// RefusedByOutput: they came, and the destination of an output will never take them. Only ledgers of outputs have it.
	RefusedByOutput

	causeEnd
)

var causeNames = [causeEnd]string{
	"not_arrived", "evicted", "corrupt", "refused", "paused", "oversize", "unwritten", "expired", "undecodable", "rejected", "forgotten",
	"refused_by_output",
}

// Causes lists them all.
func Causes() []Cause {
	list := make([]Cause, causeEnd)
	for i := range list {
		list[i] = Cause(i)
	}
	return list
}

func (c Cause) String() string {
	if c < causeEnd {
		return causeNames[c]
	}
	return "unknown"
}

// MarshalText is String.
func (c Cause) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText is the inverse of String.
func (c *Cause) UnmarshalText(text []byte) error {
	i := slices.Index(causeNames[:], string(text))
	if i < 0 {
		return fmt.Errorf("parse cause %q: there is no such cause", text)
	}
	*c = Cause(i)
	return nil
}

// FactPending is the name of the fact with which a keyframe says what the site still holds: its value is the identity of
// the oldest frame that is not known to be in the stream, "" if there is none before the keyframe. What is older and did
// not come will not come.
const FactPending = "pending"

// pendingOf reads FactPending among the facts of a keyframe.
func pendingOf(facts []frame.Fact, h *frame.Header) (id frame.ID, ok bool) {
	for _, f := range facts {
		if f.Name != FactPending {
			continue
		}
		if f.Value == "" {
			return h.ID, true
		}
		epoch, number, _ := strings.Cut(f.Value, "/")
		e, err1 := strconv.ParseUint(epoch, 16, 64)
		n, err2 := strconv.ParseUint(number, 10, 64)
		return frame.ID{Epoch: frame.Epoch(e), Number: n}, err1 == nil && err2 == nil && e != 0 && n != 0
	}
	return frame.ID{}, false
}

// Gap is a hole in what came: Rows of the rows that the frames From to To of Epoch, both included, complete.
type Gap struct {
	Epoch    frame.Epoch
	From, To uint64
	Rows     uint64
	// First and Last bound the time of the hole, by the send times of the frames around it, in milliseconds since 1970.
	First, Last int64
	// Cause is NotArrived as long as the rows may come. The others are final, which is not to say that the frames
	// cannot come nevertheless: then there is no gap any more.
	Cause Cause
	// Known is when the gap became known, as the time given to Add; 0 if it was not kept.
	Known int64
}

// Missing says how much is missing, by cause.
type Missing struct {
	Gaps int
	Rows [causeEnd]uint64
}

// Total of all causes.
func (m *Missing) Total() (n uint64) {
	for _, rows := range m.Rows {
		n += rows
	}
	return n
}

// Miss notes that a frame exists and cannot be taken, for a final cause. Its header must have been verified. The first
// frame of all is the horizon, and counts as one that came.
func (l *Ledger) Miss(h *frame.Header, backfill bool, cause Cause, at int64) {
	if l.Has(h.ID) {
		return
	}
	l.Place(h, backfill)
	if l.spans == 0 {
		l.Add(h, at) // what was before is not known
		return
	}
	e := l.find(h.Epoch)
	l.now = max(l.now, at)
	l.follow(e, h)
	l.blame(e, h)
	if h.Number > e.end.Number {
		e.end, l.counted = End{h.Number, h.RowsAfter(), h.Sent, at}, false
	}
	l.note(Loss{Epoch: h.Epoch, From: h.Number, To: h.Number, Rows: uint64(h.Rows), First: h.Sent, Last: h.Sent, Cause: cause})
}

// Reject notes that rows of a frame that is about to be added were not let in.
func (l *Ledger) Reject(h *frame.Header, rows uint64, at int64) { l.turnDown(h, rows, Rejected, at) }

// RefuseByOutput notes that the destination of an output does not take rows of a frame that was added.
func (l *Ledger) RefuseByOutput(h *frame.Header, rows uint64, at int64) {
	l.turnDown(h, rows, RefusedByOutput, at)
}

// turnDown notes that rows of a frame that came are missing nevertheless. Those of one cause that are close are one gap.
func (l *Ledger) turnDown(h *frame.Header, rows uint64, cause Cause, at int64) {
	l.counted = false
	x := Loss{Epoch: h.Epoch, From: h.Number, To: h.Number, Rows: rows, First: h.Sent, Last: h.Sent, Cause: cause, Known: at}
	if n := len(l.rejected); n > 0 {
		last := &l.rejected[n-1]
		if apart := x.First - last.Last; last.Cause == cause && last.Epoch == x.Epoch && x.From >= last.From && apart <= rejectedTogether {
			last.To, last.Last, last.Rows, last.Known = max(last.To, x.To), max(last.Last, x.Last), last.Rows+rows, at
			return
		}
	}
	if l.rejected = append(l.rejected, x); len(l.rejected) > maxLosses {
		l.drop(l.rejected[0].Rows)
		l.rejected = slices.Delete(l.rejected, 0, 1)
	}
}

// rejectedTogether is how far apart rejected rows may be, in milliseconds, to make one gap.
const rejectedTogether = 60_000

// Damage notes that something came that cannot even be identified. The hole before the next frame that can is ascribed
// to it.
func (l *Ledger) Damage() { l.damaged = true }

// blame ascribes the hole right before a frame to what could not be identified.
func (l *Ledger) blame(e *epoch, h *frame.Header) {
	if !l.damaged {
		return
	}
	l.damaged = false
	before := Span{}
	if i := e.spans.search(h.Number); i > 0 {
		before = e.spans[i-1]
	}
	if e.end.Number < h.Number && e.end.Number > before.To {
		before.To, before.LastSent = e.end.Number, e.end.Sent
	}
	if before.To+1 < h.Number {
		l.note(Loss{Epoch: h.Epoch, From: before.To + 1, To: h.Number - 1, First: before.LastSent, Last: h.Sent, Cause: Undecodable})
	}
}

// Settle notes what the facts of a keyframe, which has a place, say of what the site still holds (FactPending).
func (l *Ledger) Settle(h *frame.Header, facts []frame.Fact) {
	id, ok := pendingOf(facts, h)
	e := l.find(h.Epoch)
	if !ok || e == nil {
		return
	}
	if said := (Rank{e.rank, h.Number}); !said.Less(l.said) {
		l.pending, l.said, l.counted = id, said, false
	}
}

// Gaps lists what is missing: what the site lost before the horizon, the holes, oldest first, and what was rejected.
func (l *Ledger) Gaps() (gaps []Gap) {
	l.eachGap(func(g Gap) { gaps = append(gaps, g) })
	return gaps
}

// Missing counts the holes and the rows in them. It costs nothing as long as the gaps stay as they are.
func (l *Ledger) Missing() Missing {
	if !l.counted {
		l.counted, l.missing = true, Missing{}
		l.eachGap(func(g Gap) {
			l.missing.Gaps++
			l.missing.Rows[g.Cause] += g.Rows
		})
		l.missing.Rows[Forgotten] += l.dropped
	}
	return l.missing
}

// Forget drops the gaps that are final and became known before a time, as given to Add. Their frames count as ones that
// came.
func (l *Ledger) Forget(before int64) {
	old := func(known int64) bool { return known > 0 && known < before }
	if l.dropped > 0 && old(l.droppedAt) {
		l.dropped, l.counted = 0, false
	}
	n := len(l.rejected)
	l.rejected = slices.DeleteFunc(l.rejected, func(x Loss) bool { return old(x.Known) })
	l.counted = l.counted && n == len(l.rejected)
	next, lost := l.successors(), l.sortedLosses()
	l.eachUnseen(lost, func(g Gap) {
		if old(g.Known) {
			l.counted = false
			l.losses = slices.DeleteFunc(l.losses, func(x Loss) bool { return x.Epoch == g.Epoch && x.To <= g.To })
		}
	})
	for i, e := range l.epochs {
		rest := lost[e.id]
		var fill []Span
		l.holes(i, next[e.id], func(g Gap, rowsBefore uint64) {
			final := old(g.Known)
			rest = l.split(i, g, rest, func(part Gap) { final = final && part.Cause != NotArrived })
			if final {
				fill = append(fill, Span{g.From, g.To, rowsBefore, rowsBefore + g.Rows, g.First, g.Last, g.Known})
			}
		})
		for _, x := range fill {
			l.spans -= len(e.spans)
			e.spans = e.spans.Add(x)
			l.spans += len(e.spans)
			l.counted = false
		}
	}
}

// eachGap calls f for each gap, oldest first. The work is linear in what the ledger holds.
func (l *Ledger) eachGap(f func(Gap)) {
	next, lost := l.successors(), l.sortedLosses()
	l.eachUnseen(lost, f)
	for i, e := range l.epochs {
		rest := lost[e.id]
		l.holes(i, next[e.id], func(g Gap, _ uint64) { rest = l.split(i, g, rest, f) })
	}
	for _, x := range l.rejected {
		f(Gap(x))
	}
}

// split hands on the parts of a hole of epoch i, each with its cause.
func (l *Ledger) split(i int, g Gap, lost []Loss, f func(Gap)) []Loss {
	return explain(g, lost, func(part Gap) {
		if part.Cause == NotArrived && l.settled(i, part.To) {
			part.Cause = Expired
		}
		f(part)
	})
}

// settled reports whether frame n of epoch i is older than all that the site still holds.
func (l *Ledger) settled(i int, n uint64) bool {
	if l.pending.Number == 0 {
		return false
	}
	if l.epochs[i].id == l.pending.Epoch {
		return n < l.pending.Number
	}
	return slices.ContainsFunc(l.epochs[i:], func(e *epoch) bool { return e.id == l.pending.Epoch })
}

// holes calls f for each hole of epoch i, with the rows of the epoch before it, and, if something tells where the epoch
// ended, for the one behind its last span.
func (l *Ledger) holes(i int, next *epoch, f func(g Gap, rowsBefore uint64)) {
	e := l.epochs[i]
	add := func(g Gap, rowsBefore uint64) {
		if g.Epoch = e.id; g.Rows > 0 {
			f(g, rowsBefore)
		}
	}
	var last Span // the last thing known to be there
	if e.within && len(e.spans) > 0 && e.cut == 0 {
		first, before := e.spans[0], int64(0)
		if i > 0 {
			before = l.lastSent(i - 1)
		}
		add(Gap{From: 1, To: first.From - 1, Rows: first.RowsBefore, First: before, Last: first.FirstSent, Known: first.Came}, 0)
	}
	for j, x := range e.spans {
		if j > 0 {
			add(Gap{From: last.To + 1, To: x.From - 1, Rows: less(x.RowsBefore, last.RowsAfter), First: last.LastSent, Last: x.FirstSent, Known: x.Came}, last.RowsAfter)
		}
		last = x
	}
	until := e.end
	if next != nil && next.before.Number > until.Number {
		until = End{next.before.Number, next.before.Rows, next.firstSent(), next.came()}
	}
	if until.Number > last.To {
		add(Gap{From: last.To + 1, To: until.Number, Rows: less(until.Rows, last.RowsAfter), First: last.LastSent, Last: until.Sent, Known: until.Known}, last.RowsAfter)
	}
}

// successors returns, for each epoch that another one names, the one that knows most of its end: there are several if
// the outbox was copied.
func (l *Ledger) successors() map[frame.Epoch]*epoch {
	next := map[frame.Epoch]*epoch{}
	for _, x := range l.epochs {
		if x.first && (next[x.before.Epoch] == nil || x.before.Number > next[x.before.Epoch].before.Number) {
			next[x.before.Epoch] = x
		}
	}
	return next
}

// less is a - b, and 0 where a header lies about its rows.
func less(a, b uint64) uint64 { return a - min(a, b) }

func (e *epoch) firstSent() int64 {
	if len(e.spans) == 0 {
		return 0
	}
	return e.spans[0].FirstSent
}

func (e *epoch) came() int64 {
	if len(e.spans) == 0 {
		return 0
	}
	return e.spans[0].Came
}

func (l *Ledger) lastSent(i int) int64 {
	if s := l.epochs[i].spans; len(s) > 0 {
		return s[len(s)-1].LastSent
	}
	return 0
}
