package lane

import (
	"cmp"
	"math/bits"
	"slices"

	"github.com/thalweg/thalweg/internal/frame"
)

// Bounds of a ledger. Beyond them the oldest knowledge goes; what was missing there stays counted.
const (
	maxEpochs   = 128
	maxSpans    = 1024 // of one epoch
	maxAllSpans = 4096 // of all epochs
	maxLosses   = 256
)

// Ledger is what a hub knows of one site, from frame headers and loss notices alone: which rows exist and which it has.
// Its horizon is the first frame it saw; what was before that is not its business. A ledger is for one goroutine at a
// time, reading included.
type Ledger struct {
	epochs  []*epoch // in the order of the site's life
	spans   int      // of all epochs
	losses  []frame.Loss
	dropped uint64 // rows missing in knowledge that went

	// What Missing counted, while it holds.
	counted     bool
	gaps        int
	lackingRows uint64
}

type epoch struct {
	id   frame.Epoch
	rank uint32
	// before is the epoch that this one names, if it is known from its first frame or another hub's knowledge.
	before frame.Predecessor
	first  bool // its first frame was seen: before says all
	// cut is the last frame of the knowledge that went; what comes of it now is not noted again.
	cut   uint64
	spans Spans
}

// Rank orders the frames of a site, over epochs, as they were made.
type Rank struct {
	Epoch  uint32
	Number uint64
}

// Less reports whether r was made before o.
func (r Rank) Less(o Rank) bool {
	return r.Epoch < o.Epoch || r.Epoch == o.Epoch && r.Number < o.Number
}

// rankGap leaves room for epochs that turn out to lie between two others.
const rankGap = 1 << 12

// Has reports whether a frame came before.
func (l *Ledger) Has(id frame.ID) bool {
	e := l.find(id.Epoch)
	return e != nil && e.spans.Has(id.Number)
}

// Place finds the rank of a frame, whether or not it came. On which lane it travels matters where its epoch is new.
func (l *Ledger) Place(h *frame.Header, backfill bool) Rank {
	e := l.find(h.Epoch)
	if e == nil {
		e = l.insert(h, backfill)
	}
	return Rank{e.rank, h.Number}
}

// Add notes that a frame came, after Place.
func (l *Ledger) Add(h *frame.Header) {
	e := l.find(h.Epoch)
	if e == nil || e.spans.Has(h.Number) {
		return
	}
	if h.Number > e.cut {
		// Most frames follow the last one of the newest epoch, which opens and closes no gap.
		k := len(e.spans)
		l.counted = l.counted && k > 0 && e.spans[k-1].To+1 == h.Number && l.isLast(e)
		e.spans = e.spans.Add(SpanOf(h))
		l.spans += len(e.spans) - k
		l.trim(e)
	}
	if h.Flags&frame.FlagFirst == 0 {
		return
	}
	l.counted = false
	e.before, e.first = h.Predecessor, true
	if at := slices.Index(l.epochs, e); at > 0 && e.before.Epoch != 0 && l.find(e.before.Epoch) == nil {
		// Nothing came of the epoch before, and what came earlier shows that it is within the horizon.
		l.insertAt(at, e.before.Epoch)
	}
}

// isLast reports whether an epoch is the newest, and none says where it ended.
func (l *Ledger) isLast(e *epoch) bool {
	return l.epochs[len(l.epochs)-1] == e && !slices.ContainsFunc(l.epochs, func(x *epoch) bool { return x.first && x.before.Epoch == e.id })
}

// trim forgets the oldest span if epoch e, or the ledger, has too many.
func (l *Ledger) trim(e *epoch) {
	switch {
	case len(e.spans) > maxSpans:
	case l.spans > maxAllSpans:
		// There are more spans than epochs, so that one has two.
		e = l.epochs[slices.IndexFunc(l.epochs, func(e *epoch) bool { return len(e.spans) > 1 })]
	default:
		return
	}
	if e != l.epochs[0] && e.cut == 0 {
		l.dropped += e.spans[0].RowsBefore
	}
	l.dropped += less(e.spans[1].RowsBefore, e.spans[0].RowsAfter)
	e.cut = e.spans[1].From - 1
	e.spans = slices.Delete(e.spans, 0, 1)
	l.spans--
	l.counted = false
}

func (l *Ledger) find(id frame.Epoch) *epoch {
	for i := len(l.epochs) - 1; i >= 0; i-- {
		if l.epochs[i].id == id {
			return l.epochs[i]
		}
	}
	return nil
}

// insert places a new epoch in the order of the site's life. One on the live lane is the newest, whoever it names: two
// processes may have begun with copies of one outbox. One from the backfill stands behind the one that it names, or
// before one that names it, or else just before the newest.
func (l *Ledger) insert(h *frame.Header, backfill bool) *epoch {
	at := len(l.epochs)
	if !backfill {
		return l.insertAt(at, h.Epoch)
	}
	at = max(at-1, 0)
	for i, e := range l.epochs {
		if h.Flags&frame.FlagFirst != 0 && e.id == h.Predecessor.Epoch {
			at = i + 1
			break
		}
		if e.before.Epoch == h.Epoch {
			at = i
			break
		}
	}
	return l.insertAt(at, h.Epoch)
}

// insertAt puts an epoch before the one at an index. If there is no room the oldest other one goes.
func (l *Ledger) insertAt(at int, id frame.Epoch) *epoch {
	e := &epoch{id: id}
	switch {
	case len(l.epochs) == 0:
		e.rank = 1 << 30
	case at == len(l.epochs):
		e.rank = l.epochs[at-1].rank + rankGap
	case at == 0:
		e.rank = l.epochs[0].rank - rankGap
	default:
		low, high := l.epochs[at-1].rank, l.epochs[at].rank
		e.rank = low + (high-low)/2
	}
	l.counted = false
	l.epochs = slices.Insert(l.epochs, at, e)
	if len(l.epochs) > maxEpochs {
		oldest := 0
		if at == 0 {
			oldest = 1
		}
		next := l.successors()[l.epochs[oldest].id]
		l.holes(oldest, next, func(g Gap) { l.dropped += g.Rows })
		l.spans -= len(l.epochs[oldest].spans)
		l.epochs = slices.Delete(l.epochs, oldest, oldest+1)
	}
	return e
}

// Lose notes a loss notice.
func (l *Ledger) Lose(x frame.Loss) {
	if x.From > x.To || slices.Contains(l.losses, x) {
		return
	}
	l.counted = false
	l.losses = append(l.losses, x)
	if len(l.losses) > maxLosses {
		l.losses = slices.Delete(l.losses, 0, 1)
	}
}

// Gap is a hole in what came: frames From to To of Epoch, both included, that complete Rows rows.
type Gap struct {
	Epoch    frame.Epoch
	From, To uint64 // To is 0 if the end of the epoch is not known
	Rows     uint64
	// First and Last bound the time of the hole, by the send times of the frames around it, in milliseconds since 1970.
	First, Last int64
	// Cause is set when the site announced the loss; the gap can still be filled otherwise.
	Cause frame.Cause
}

// Gaps lists the holes, oldest first.
func (l *Ledger) Gaps() (gaps []Gap) {
	l.eachGap(func(g Gap) { gaps = append(gaps, g) })
	return gaps
}

// Missing counts the holes and the rows in them. Rows of knowledge that went are in no hole any more, but counted. It
// costs nothing as long as the gaps stay as they are.
func (l *Ledger) Missing() (gaps int, rows uint64) {
	if !l.counted {
		l.counted, l.gaps, l.lackingRows = true, 0, 0
		l.eachGap(func(g Gap) {
			l.gaps++
			l.lackingRows += g.Rows
		})
	}
	return l.gaps, l.lackingRows + l.dropped
}

// Rows counts the rows that came and those that are missing within the horizon.
func (l *Ledger) Rows() (have, lacking uint64) {
	for _, e := range l.epochs {
		have += e.spans.Rows()
	}
	_, lacking = l.Missing()
	return have, lacking
}

// Newest is the newest epoch and its last frame; zero before the first.
func (l *Ledger) Newest() (id frame.ID, sent int64) {
	for i := len(l.epochs) - 1; i >= 0; i-- {
		if e := l.epochs[i]; len(e.spans) > 0 {
			last := e.spans[len(e.spans)-1]
			return frame.ID{Epoch: e.id, Number: last.To}, last.LastSent
		}
	}
	return frame.ID{}, 0
}

// eachGap calls f for each gap, oldest first. The work is linear in what the ledger holds.
func (l *Ledger) eachGap(f func(Gap)) {
	next, lost := l.successors(), l.sortedLosses()
	for i, e := range l.epochs {
		rest := lost[e.id]
		l.holes(i, next[e.id], func(g Gap) { rest = explain(g, rest, f) })
	}
}

// holes calls f for each hole of epoch i and, if next tells where it ended, for the one behind its last span.
func (l *Ledger) holes(i int, next *epoch, f func(Gap)) {
	e := l.epochs[i]
	add := func(g Gap) {
		if g.Rows > 0 {
			f(g)
		}
	}
	var end Span // the last thing known to be there
	if i > 0 && len(e.spans) > 0 && e.cut == 0 {
		// The start of an epoch is within the horizon if the one before it is.
		first := e.spans[0]
		add(Gap{Epoch: e.id, From: 1, To: first.From - 1, Rows: first.RowsBefore, First: l.lastSent(i - 1), Last: first.FirstSent})
	}
	for j, x := range e.spans {
		if j > 0 {
			add(Gap{Epoch: e.id, From: end.To + 1, To: x.From - 1, Rows: less(x.RowsBefore, end.RowsAfter), First: end.LastSent, Last: x.FirstSent})
		}
		end = x
	}
	if next != nil && next.before.Number > end.To {
		add(Gap{
			Epoch: e.id, From: end.To + 1, To: next.before.Number, Rows: less(next.before.Rows, end.RowsAfter),
			First: end.LastSent, Last: next.firstSent(),
		})
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

// sortedLosses returns the loss notices of each epoch in frame order, cut so that they do not overlap.
func (l *Ledger) sortedLosses() map[frame.Epoch][]frame.Loss {
	if len(l.losses) == 0 {
		return nil
	}
	sorted := slices.Clone(l.losses)
	slices.SortStableFunc(sorted, func(a, b frame.Loss) int { return cmp.Compare(a.From, b.From) })
	lost := map[frame.Epoch][]frame.Loss{}
	for _, x := range sorted {
		list := lost[x.Epoch]
		if k := len(list); k > 0 && x.From <= list[k-1].To {
			if x.To <= list[k-1].To {
				continue
			}
			x.From = list[k-1].To + 1
		}
		lost[x.Epoch] = append(list, x)
	}
	return lost
}

// less is a - b, and 0 where a header lies about its rows.
func less(a, b uint64) uint64 { return a - min(a, b) }

func (e *epoch) firstSent() int64 {
	if len(e.spans) == 0 {
		return 0
	}
	return e.spans[0].FirstSent
}

func (l *Ledger) lastSent(i int) int64 {
	if s := l.epochs[i].spans; len(s) > 0 {
		return s[len(s)-1].LastSent
	}
	return 0
}

// explain splits a gap by the loss notices that overlap it and calls f for the parts that have rows. It returns the
// notices that may concern gaps behind this one.
func explain(g Gap, lost []frame.Loss, f func(Gap)) []frame.Loss {
	add := func(g Gap) {
		if g.Rows > 0 {
			f(g)
		}
	}
	for len(lost) > 0 && lost[0].From <= g.To {
		x := lost[0]
		if x.To < g.From {
			lost = lost[1:]
			continue
		}
		part := Gap{Epoch: g.Epoch, From: max(g.From, x.From), To: min(g.To, x.To), First: x.First, Last: x.Last, Cause: x.Cause}
		part.Rows = min(x.Rows, g.Rows)
		if part.From == g.From && part.To == g.To {
			part.Rows = g.Rows // what frames around say is exact
		}
		left := g.Rows - part.Rows
		if part.From > g.From {
			before := Gap{Epoch: g.Epoch, From: g.From, To: part.From - 1, Rows: left, First: g.First, Last: x.First}
			if part.To < g.To {
				// How the rest divides is known when the frames come; until then by frames.
				high, low := bits.Mul64(left, part.From-g.From)
				before.Rows, _ = bits.Div64(high, low, (part.From-g.From)+(g.To-part.To))
			}
			left -= before.Rows
			add(before)
		}
		add(part)
		if part.To == g.To {
			return lost // it may reach into the next gap
		}
		g = Gap{Epoch: g.Epoch, From: part.To + 1, To: g.To, Rows: left, First: x.Last, Last: g.Last}
		lost = lost[1:]
	}
	add(g)
	return lost
}
