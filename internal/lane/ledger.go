package lane

import (
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
	now     int64    // the latest time given
	losses  []Loss
	damaged bool // something came that could not be identified, and no frame since
	// rejected are rows of frames that came, turned down here or by a destination.
	rejected  []Loss
	pending   frame.ID // what the site still held when it last said so; zero: it did not say
	said      Rank     // in which frame
	dropped   uint64   // rows missing in knowledge that went
	droppedAt int64    // the last of it

	// What Missing counted, while it holds.
	counted bool
	missing Missing
}

type epoch struct {
	id   frame.Epoch
	rank uint32
	// before is the epoch that this one names, if it is known from its first frame or another hub's knowledge.
	before frame.Predecessor
	first  bool // its first frame was seen: before says all
	// within: it began within the horizon, so that what is missing at its start is a gap.
	within bool
	// cut is the last frame of the knowledge that went; what comes of it now is not noted again.
	cut   uint64
	spans Spans
	end   End
}

// End is the newest frame of an epoch of which it is known that it exists, the rows of the epoch up to and with it, its
// send time, and when it became known.
type End struct {
	Number, Rows uint64
	Sent, Known  int64
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

// rankGap leaves room for epochs that turn out to lie between two others: some thousand, as long as each follows the one
// that it names.
const rankGap = 1 << 12

// Has reports whether a frame came before.
func (l *Ledger) Has(id frame.ID) bool {
	e := l.find(id.Epoch)
	return e != nil && e.spans.Has(id.Number)
}

// Place finds the rank of a frame, whether or not it came. On which lane it travels matters where its epoch is new, or
// seemed to be older than others: a live frame makes it the newest, unless it was sent before what is there, and comes
// late because the server had lost it.
func (l *Ledger) Place(h *frame.Header, backfill bool) Rank {
	e := l.find(h.Epoch)
	switch last := len(l.epochs) - 1; {
	case e == nil:
		e = l.insert(h, backfill)
	case !backfill && l.epochs[last] != e && h.Sent >= l.lastSent(last) && h.Number > e.last():
		at := slices.Index(l.epochs, e)
		copy(l.epochs[at:], l.epochs[at+1:])
		l.epochs[last] = e
		e.rank, l.counted = l.epochs[last-1].rank+rankGap, false
	}
	return Rank{e.rank, h.Number}
}

// last is the newest frame of an epoch that came; 0 if none did.
func (e *epoch) last() uint64 {
	if len(e.spans) == 0 {
		return 0
	}
	return e.spans[len(e.spans)-1].To
}

// PlaceBefore is Place for frames of a live lane that are read later than newer ones: a new epoch stands right before a
// known one, and before the one that this names if nothing came of it yet.
func (l *Ledger) PlaceBefore(h *frame.Header, known frame.Epoch) {
	if l.find(h.Epoch) == nil {
		at := slices.IndexFunc(l.epochs, func(e *epoch) bool { return e.id == known })
		switch {
		case at < 0:
			at = len(l.epochs)
		case at > 0 && len(l.epochs[at-1].spans) == 0 && l.epochs[at-1].id == l.epochs[at].before.Epoch:
			at--
		}
		l.insertAt(at, h.Epoch, predecessor(h))
	}
}

// predecessor is the epoch that a frame names as the one before its own; 0 if it names none.
func predecessor(h *frame.Header) frame.Epoch {
	if h.Flags&frame.FlagFirst == 0 {
		return 0
	}
	return h.Predecessor.Epoch
}

// Add notes that a frame came, after Place. The time, in milliseconds since 1970, may be any clock, the same for all:
// it is what Forget goes by.
func (l *Ledger) Add(h *frame.Header, at int64) {
	e := l.find(h.Epoch)
	if e == nil || e.spans.Has(h.Number) {
		return
	}
	l.now = max(l.now, at)
	l.blame(e, h)
	if h.Number > e.cut {
		// Most frames follow the last one of the newest epoch, which opens and closes no gap.
		k := len(e.spans)
		l.counted = l.counted && k > 0 && e.spans[k-1].To+1 == h.Number && e.end.Number < h.Number && l.isLast(e)
		e.spans = e.spans.Add(SpanOf(h, at))
		l.spans += len(e.spans) - k
		l.trim(e)
	}
	l.follow(e, h)
}

// follow takes note of the epoch before the one that a frame begins.
func (l *Ledger) follow(e *epoch, h *frame.Header) {
	if h.Flags&frame.FlagFirst == 0 || e.first {
		return
	}
	l.counted = false
	e.before, e.first = h.Predecessor, true
	if at := slices.Index(l.epochs, e); at > 0 && e.before.Epoch != 0 && l.find(e.before.Epoch) == nil {
		// Nothing came of the epoch before, and what came earlier shows that it is within the horizon.
		l.insertAt(at, e.before.Epoch, 0)
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
	if e.within && e.cut == 0 {
		l.drop(e.spans[0].RowsBefore)
	}
	l.drop(less(e.spans[1].RowsBefore, e.spans[0].RowsAfter))
	e.cut = e.spans[1].From - 1
	e.spans = slices.Delete(e.spans, 0, 1)
	l.spans--
	l.counted = false
}

// drop counts rows that are missing in knowledge that goes.
func (l *Ledger) drop(rows uint64) { l.dropped, l.droppedAt, l.counted = l.dropped+rows, l.now, false }

func (l *Ledger) find(id frame.Epoch) *epoch {
	for i := len(l.epochs) - 1; i >= 0; i-- {
		if l.epochs[i].id == id {
			return l.epochs[i]
		}
	}
	return nil
}

// insert places a new epoch in the order of the site's life: right before one that names it, on whichever lane it comes.
// Otherwise one on the live lane is the newest, whoever it names: two processes may have begun with copies of one
// outbox. One from the backfill stands behind the one that it names, or else just before the newest.
func (l *Ledger) insert(h *frame.Header, backfill bool) *epoch {
	before := predecessor(h)
	named := slices.IndexFunc(l.epochs, func(e *epoch) bool { return e.before.Epoch == h.Epoch })
	names := slices.IndexFunc(l.epochs, func(e *epoch) bool { return before != 0 && e.id == before })
	switch {
	case named >= 0:
		return l.insertAt(named, h.Epoch, before)
	case !backfill:
		return l.insertAt(len(l.epochs), h.Epoch, before)
	case names >= 0:
		return l.insertAt(names+1, h.Epoch, before)
	}
	return l.insertAt(max(len(l.epochs)-1, 0), h.Epoch, before)
}

// rankBetween is a rank for an epoch, which names another or 0, between the ones before and at an index. Where one of them
// is its neighbour in the site's life nothing but a copy's epoch can turn out to lie between, and it takes no room from
// those on the other side.
func (l *Ledger) rankBetween(at int, id, names frame.Epoch) uint32 {
	low, high := l.epochs[at-1], l.epochs[at]
	switch {
	case high.rank-low.rank < 2: // none is left: their frames are ordered by number
		return low.rank
	case names != 0 && low.id == names:
		return low.rank + 1
	case high.before.Epoch == id:
		return high.rank - 1
	}
	return low.rank + (high.rank-low.rank)/2
}

// insertAt puts an epoch, which names another or 0, before the one at an index. If there is no room the oldest other one
// goes.
func (l *Ledger) insertAt(at int, id, names frame.Epoch) *epoch {
	e := &epoch{id: id, within: at > 0}
	if at == 0 && len(l.epochs) > 0 {
		l.epochs[0].within = true
	}
	switch {
	case len(l.epochs) == 0:
		e.rank = 1 << 30
	case at == len(l.epochs):
		e.rank = l.epochs[at-1].rank + rankGap
	case at == 0:
		e.rank = l.epochs[0].rank - rankGap
	default:
		e.rank = l.rankBetween(at, id, names)
	}
	l.counted = false
	l.epochs = slices.Insert(l.epochs, at, e)
	if len(l.epochs) > maxEpochs {
		oldest := 0
		if at == 0 {
			oldest = 1
		}
		next := l.successors()[l.epochs[oldest].id]
		l.holes(oldest, next, func(g Gap, _ uint64) { l.drop(g.Rows) })
		l.spans -= len(l.epochs[oldest].spans)
		l.losses = slices.DeleteFunc(l.losses, func(x Loss) bool {
			if x.Epoch != l.epochs[oldest].id {
				return false
			}
			l.dropLoss(x)
			return true
		})
		l.epochs = slices.Delete(l.epochs, oldest, oldest+1)
	}
	return e
}

// Rows counts the rows that came and those that are missing within the horizon.
func (l *Ledger) Rows() (have, lacking uint64) {
	for _, e := range l.epochs {
		have += e.spans.Rows()
	}
	missing := l.Missing()
	return have, missing.Total()
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
