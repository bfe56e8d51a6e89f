package lane

import (
	"math/bits"
	"slices"

	"github.com/thalweg/thalweg/internal/frame"
)

// Bounds of a ledger. Beyond them the oldest knowledge goes; what was missing there stays counted.
const (
	maxEpochs = 128
	maxSpans  = 1024 // of one epoch
	maxLosses = 256
)

// Ledger is what a hub knows of one site, from frame headers and loss notices alone: which rows exist and which it has.
// Its horizon is the first frame it saw; what was before that is not its business.
type Ledger struct {
	epochs  []*epoch // in the order of the site's life
	losses  []frame.Loss
	dropped uint64 // rows missing in knowledge that went
}

type epoch struct {
	id   frame.Epoch
	rank uint32
	// before is the epoch that this one names, if it is known from its first frame or another hub's knowledge.
	before frame.Predecessor
	first  bool // its first frame was seen: before says all
	spans  Spans
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
	if e.spans = e.spans.Add(SpanOf(h)); len(e.spans) > maxSpans {
		l.dropped += less(e.spans[1].RowsBefore, e.spans[0].RowsAfter)
		e.spans = slices.Delete(e.spans, 0, 1)
	}
	if h.Flags&frame.FlagFirst == 0 {
		return
	}
	e.before, e.first = h.Predecessor, true
	if at := slices.Index(l.epochs, e); at > 0 && e.before.Epoch != 0 && l.find(e.before.Epoch) == nil {
		// Nothing came of the epoch before, and what came earlier shows that it is within the horizon.
		l.insertAt(at, e.before.Epoch)
	}
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
	l.epochs = slices.Insert(l.epochs, at, e)
	if len(l.epochs) > maxEpochs {
		oldest := 0
		if at == 0 {
			oldest = 1
		}
		l.dropped += missing(l.gapsOf(oldest))
		l.epochs = slices.Delete(l.epochs, oldest, oldest+1)
	}
	return e
}

// Lose notes a loss notice.
func (l *Ledger) Lose(x frame.Loss) {
	if x.From > x.To || slices.Contains(l.losses, x) {
		return
	}
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
	for i := range l.epochs {
		gaps = append(gaps, l.gapsOf(i)...)
	}
	return gaps
}

// Rows counts the rows that came and those that are missing within the horizon.
func (l *Ledger) Rows() (have, lacking uint64) {
	for i, e := range l.epochs {
		have += e.spans.Rows()
		lacking += missing(l.gapsOf(i))
	}
	return have, lacking + l.dropped
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

// gapsOf lists the holes of epoch i and, if one that names it tells, behind its end.
func (l *Ledger) gapsOf(i int) (gaps []Gap) {
	e := l.epochs[i]
	add := func(g Gap) {
		if g.Rows > 0 {
			gaps = append(gaps, l.explain(g)...)
		}
	}
	var end Span // the last thing known to be there
	if i > 0 && len(e.spans) > 0 {
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
	if next := l.successor(e); next != nil && next.before.Number > end.To {
		add(Gap{
			Epoch: e.id, From: end.To + 1, To: next.before.Number, Rows: less(next.before.Rows, end.RowsAfter),
			First: end.LastSent, Last: next.firstSent(),
		})
	}
	return gaps
}

// successor returns the epoch that knows most of the end of e, or nil: more than one if the outbox was copied.
func (l *Ledger) successor(e *epoch) (found *epoch) {
	for _, x := range l.epochs {
		if x.first && x.before.Epoch == e.id && (found == nil || x.before.Number > found.before.Number) {
			found = x
		}
	}
	return found
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

// explain splits a gap by the loss notices that overlap it.
func (l *Ledger) explain(g Gap) []Gap {
	rest := []Gap{g}
	for _, x := range l.losses {
		for i := 0; i < len(rest); i++ {
			r := rest[i]
			if x.Epoch != r.Epoch || r.Cause != 0 || x.To < r.From || x.From > r.To {
				continue
			}
			lost := Gap{Epoch: r.Epoch, From: max(r.From, x.From), To: min(r.To, x.To), First: x.First, Last: x.Last, Cause: x.Cause}
			lost.Rows = min(x.Rows, r.Rows)
			if lost.From == r.From && lost.To == r.To {
				lost.Rows = r.Rows // what frames around say is exact
			}
			parts := []Gap{lost}
			left := r.Rows - lost.Rows
			if lost.From > r.From {
				before := Gap{Epoch: r.Epoch, From: r.From, To: lost.From - 1, First: r.First, Last: x.First}
				if lost.To == r.To {
					before.Rows = left
				} else {
					// How the rest divides is known when the frames come; until then by frames.
					high, low := bits.Mul64(left, lost.From-r.From)
					before.Rows, _ = bits.Div64(high, low, (lost.From-r.From)+(r.To-lost.To))
				}
				left -= before.Rows
				parts = append([]Gap{before}, parts...)
			}
			if lost.To < r.To {
				parts = append(parts, Gap{Epoch: r.Epoch, From: lost.To + 1, To: r.To, Rows: left, First: x.Last, Last: r.Last})
			}
			rest = slices.Replace(rest, i, i+1, parts...)
			i += len(parts) - 1
		}
	}
	return slices.DeleteFunc(rest, func(g Gap) bool { return g.Rows == 0 })
}

func missing(gaps []Gap) (n uint64) {
	for _, g := range gaps {
		n += g.Rows
	}
	return n
}
