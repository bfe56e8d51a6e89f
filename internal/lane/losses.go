package lane

import (
	"cmp"
	"maps"
	"math/bits"
	"slices"

	"github.com/thalweg/thalweg/internal/frame"
)

// Loss is rows in the frames From to To of an epoch, both included, that are missing for a known cause.
type Loss struct {
	Epoch frame.Epoch `json:"epoch"`
	From  uint64      `json:"from"`
	To    uint64      `json:"to"`
	Rows  uint64      `json:"rows"`
	First int64       `json:"first"` // send times, in milliseconds since 1970
	Last  int64       `json:"last"`
	Cause Cause       `json:"cause"`
	Known int64       `json:"known,omitempty"`
}

// Lose notes a loss notice of the site.
func (l *Ledger) Lose(x frame.Loss) {
	if x.From > x.To || x.Cause < frame.CauseEvicted || x.Cause > frame.CauseUnwritten {
		return
	}
	l.note(Loss{Epoch: x.Epoch, From: x.From, To: x.To, Rows: x.Rows, First: x.First, Last: x.Last, Cause: Cause(x.Cause), Known: l.now})
	l.extend(&x)
}

// extend notes that an epoch that is over went on as far as a loss says. Nothing else may ever tell: the first frame of the
// next epoch can be lost as well.
func (l *Ledger) extend(x *frame.Loss) {
	e := l.find(x.Epoch)
	if e == nil || e == l.epochs[len(l.epochs)-1] || len(e.spans) == 0 {
		return
	}
	last := e.spans[len(e.spans)-1]
	end := End{Number: last.To, Rows: last.RowsAfter}
	if e.end.Number > end.Number {
		end = e.end
	}
	if x.To <= last.To {
		return
	}
	if next := l.successors()[e.id]; next != nil && next.before.Number >= max(x.To, end.Number) {
		return
	}
	if x.To > end.Number {
		end = End{x.To, end.Rows + rowsBehind(x, e.spans, end), x.Last, l.now}
	}
	told := last.RowsAfter // and of losses that came in another order
	for _, y := range l.sortedLosses()[e.id] {
		if y.From > last.To {
			told += y.Rows
		}
	}
	end.Rows = max(end.Rows, told)
	e.end, l.counted = end, false
}

// rowsBehind is how many rows of a loss are behind the end, which is within it or before, of what is known of its epoch.
func rowsBehind(x *frame.Loss, spans Spans, end End) uint64 {
	if x.From > end.Number {
		return x.Rows
	}
	if x.From == 1 {
		return less(x.Rows, end.Rows)
	}
	for _, s := range spans {
		switch x.From {
		case s.From:
			return less(s.RowsBefore+x.Rows, end.Rows)
		case s.To + 1:
			return less(s.RowsAfter+x.Rows, end.Rows)
		}
	}
	// It begins among frames that came: which of its rows they had is not known.
	return max(1, share(x.Rows, x.To-end.Number, x.To-x.From+1))
}

// note adds a cause for frames that are missing, or were. Losses of one cause that touch are one, in whichever order they
// come: a site whose outbox is full evicts a file a minute.
func (l *Ledger) note(x Loss) {
	for i := 0; i < len(l.losses); {
		y := l.losses[i]
		if y.Epoch != x.Epoch || y.Cause != x.Cause || less(x.From, 1) > y.To || less(y.From, 1) > x.To {
			i++
			continue
		}
		if y.From <= x.From && x.To <= y.To {
			return
		}
		l.losses = slices.Delete(l.losses, i, i+1)
		x = x.join(y)
	}
	l.counted = false
	if l.losses = append(l.losses, x); len(l.losses) > maxLosses {
		l.dropLoss(l.losses[0])
		l.losses = slices.Delete(l.losses, 0, 1)
	}
}

// join returns one loss for two that touch, neither of which lies within y.
func (x Loss) join(y Loss) Loss {
	if x.From <= y.From && y.To <= x.To {
		return x
	}
	first, last := x, y
	if y.From < x.From {
		first, last = y, x
	}
	j := first
	j.To, j.Last, j.Known = last.To, last.Last, max(x.Known, y.Known)
	if last.From <= first.To {
		last = last.from(first.To + 1)
	}
	j.Rows += last.Rows
	return j
}

// from cuts off what is before a frame of the loss. Which rows were there is not known.
func (x Loss) from(n uint64) Loss {
	x.Rows = share(x.Rows, x.To-n+1, x.To-x.From+1)
	x.From = n
	return x
}

// dropLoss counts the rows of a loss that is forgotten. If there is a hole it stays, without its cause.
func (l *Ledger) dropLoss(x Loss) {
	if g, ok := l.unseen(x); ok {
		l.drop(g.Rows)
	}
}

// unseen returns the gap of a loss, as far as it lies before all that is known: where nothing came there is no hole.
func (l *Ledger) unseen(x Loss) (Gap, bool) {
	e := l.find(x.Epoch)
	switch {
	case x.Cause > Unwritten, x.Rows == 0, e != nil && (e.within || e.cut > 0 || len(e.spans) == 0 || x.From >= e.spans[0].From):
		return Gap{}, false
	case e != nil && x.To >= e.spans[0].From:
		first := &e.spans[0]
		if x.From > 1 { // else all that is before is of this loss
			x.Rows = share(x.Rows, first.From-x.From, x.To-x.From+1)
		}
		x.To, x.Last, x.Rows = first.From-1, first.FirstSent, min(x.Rows, first.RowsBefore)
	}
	return Gap(x), x.Rows > 0
}

// eachUnseen calls f for each gap that no hole shows.
func (l *Ledger) eachUnseen(lost map[frame.Epoch][]Loss, f func(Gap)) {
	for _, id := range slices.Sorted(maps.Keys(lost)) {
		for _, x := range lost[id] {
			if g, ok := l.unseen(x); ok {
				f(g)
			}
		}
	}
}

// sortedLosses returns the causes for each epoch in frame order, cut so that they do not overlap.
func (l *Ledger) sortedLosses() map[frame.Epoch][]Loss {
	if len(l.losses) == 0 {
		return nil
	}
	sorted := slices.Clone(l.losses)
	slices.SortStableFunc(sorted, func(a, b Loss) int { return cmp.Compare(a.From, b.From) })
	lost := map[frame.Epoch][]Loss{}
	for _, x := range sorted {
		list := lost[x.Epoch]
		if k := len(list); k > 0 && x.From <= list[k-1].To {
			if x.To <= list[k-1].To {
				continue
			}
			x = x.from(list[k-1].To + 1)
		}
		lost[x.Epoch] = append(list, x)
	}
	return lost
}

// share is the part of rows that n of so many frames have, as far as one can tell.
func share(rows, n, of uint64) uint64 {
	if of == 0 {
		return 0 // of all numbers that there are
	}
	high, low := bits.Mul64(rows, n)
	quotient, _ := bits.Div64(high, low, of)
	return quotient
}

// part is a piece of a hole, with its cause.
type part struct {
	Gap
	exact bool   // Rows are those of a loss that lies within the hole
	most  uint64 // of a loss that reaches out of it
}

// explain splits a hole by the causes that overlap it and calls f for the parts that have rows. It returns the causes
// that may concern holes behind this one.
func explain(g Gap, lost []Loss, f func(Gap)) []Loss {
	for len(lost) > 0 && lost[0].To < g.From {
		lost = lost[1:]
	}
	if len(lost) == 0 || lost[0].From > g.To {
		if g.Rows > 0 {
			f(g)
		}
		return lost
	}
	parts, lost := cut(g, lost)
	divide(parts, g.Rows)
	for _, p := range parts {
		if p.Rows > 0 {
			f(p.Gap)
		}
	}
	return lost
}

// cut makes the parts of a hole that a cause overlaps, without rows where they are not known.
func cut(g Gap, lost []Loss) ([]part, []Loss) {
	var parts []part
	rest := g // what is behind the parts so far
	rest.Rows = 0
	for len(lost) > 0 && lost[0].From <= g.To {
		x := lost[0]
		p := part{Gap: rest}
		if x.From > rest.From {
			p.To, p.Last = x.From-1, x.First
			parts = append(parts, p)
			p.From, p.First = x.From, x.First
		}
		p.To, p.Last, p.Cause = g.To, g.Last, x.Cause
		if x.To <= g.To {
			p.To, p.Last = x.To, x.Last
		}
		switch {
		case x.From < g.From || x.To > g.To:
			p.most = x.Rows
		case x.Rows > 0 || x.Cause != Undecodable: // else they are not known, see blame
			p.Rows, p.exact = x.Rows, true
		}
		if parts = append(parts, p); p.To == g.To {
			return parts, lost // it may reach into the next hole
		}
		rest.From, rest.First = p.To+1, p.Last
		lost = lost[1:]
	}
	return append(parts, part{Gap: rest}), lost
}

// divide gives the parts of a hole their rows, of which frames around tell exactly how many there are: what lies within
// has its own, what reaches out of it as many as it can, and the others what is left, by frames until some of them come.
func divide(parts []part, rows uint64) {
	open := uint64(0) // frames
	for i := range parts {
		p := &parts[i]
		p.Rows = min(p.Rows, rows)
		rows -= p.Rows
		if !p.exact && p.most == 0 {
			open += p.To - p.From + 1
		}
	}
	last := len(parts) - 1
	for i := range parts {
		p := &parts[i]
		n := min(p.most, rows)
		p.Rows += n
		rows -= n
		if p.most > 0 && open == 0 {
			last = i
		}
	}
	for i := range parts {
		p := &parts[i]
		if n := p.To - p.From + 1; !p.exact && p.most == 0 {
			taken := share(rows, n, open)
			p.Rows, rows, open, last = taken, rows-taken, open-n, i
		}
	}
	parts[last].Rows += rows
}
