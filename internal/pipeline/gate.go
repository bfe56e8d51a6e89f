package pipeline

import (
	"math/bits"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/value"

	"github.com/thalweg/thalweg/internal/series"
)

// gate lets the series of one source in, as far as the limits of the site allow. A series that was refused gets in as
// soon as there is room. It is used with the lock of its mapping held.
type gate struct {
	key    uint64         // hash of the source's
	schema *series.Schema // on the way in, as far as known; nil at first
	out    *series.Schema // on the way out, without the series that were refused since they appeared
	to     []int32        // column on the way out, or dropped; nil while out has all of schema
	last   int            // last column of schema that out has, if to is not nil; -1: none
	live   []uint64       // bitmap of the columns that are alive and counted
	denied []uint64       // bitmap of the columns that are there and refused
	alive  int
	held   int // bits in denied
	// shuffled: to is not ascending. crowded: the limits may be lower than they were.
	shuffled, crowded bool
}

// pass returns what is let in of a row that the rules have left, or nil if that is nothing.
func (g *gate) pass(p *Pipeline, r *series.Row, s *scratch) *series.Row {
	if g.schema == r.Schema && g.held == 0 && g.to == nil && !g.crowded && r.Whole() && !r.End && g.unchanged(r) {
		return r
	}
	g.count(p, r)
	switch {
	case g.to == nil:
		return r
	case g.out.Len() == 0:
		return nil // nothing of the source has ever been let in
	case r.End:
		s.row = *r
		s.row.Schema = g.out
		return &s.row
	}
	return s.translate(r, move{schema: g.out, to: g.to, denied: g.denied, shuffled: g.shuffled})
}

// count takes note of what a row has, and lets series in or refuses them.
func (g *gate) count(p *Pipeline, r *series.Row) {
	p.limiter.mu.Lock()
	defer p.limiter.mu.Unlock()
	if r.End {
		g.leave(p.limiter)
		return
	}
	known := g.follow(p, r.Schema)
	g.trim(p)
	if r.Whole() {
		g.whole(p, r)
	} else {
		g.partial(p, r)
	}
	g.assign(p, known)
}

// unchanged reports whether a whole row has just the series that are alive.
func (g *gate) unchanged(r *series.Row) bool {
	for w := range g.live {
		if g.live[w] != presentWord(r, w) {
			return false
		}
	}
	return true
}

// presentWord is element w of the bitmap of what a whole row has.
func presentWord(r *series.Row, w int) uint64 {
	word := ^uint64(0)
	if r.Present != nil {
		word = r.Present[w]
	}
	if rest := len(r.Values) - w*64; rest < 64 {
		word &= 1<<rest - 1
	}
	return word
}

// follow brings the gate to the given schema, and returns how many of its columns were known. The caller holds the
// limiter's lock, here and below.
func (g *gate) follow(p *Pipeline, schema *series.Schema) (known int) {
	switch {
	case g.schema == schema:
		return schema.Len()
	case g.schema == nil || !schema.Extends(g.schema):
		g.leave(p.limiter)
		g.out, g.to, g.last, g.shuffled = p.catalog.Empty(), nil, -1, false
		g.live, g.denied = g.live[:0], g.denied[:0]
	default:
		known = g.schema.Len()
	}
	g.schema = schema
	for len(g.live) < (schema.Len()+63)/64 {
		g.live, g.denied = append(g.live, 0), append(g.denied, 0)
	}
	if g.to != nil {
		g.extend(schema.Len())
	}
	return known
}

// extend makes to as long as the schema.
func (g *gate) extend(n int) {
	for len(g.to) < n {
		g.to = append(g.to, dropped)
	}
}

// leave takes all series of the source off the account.
func (g *gate) leave(l *limiter) {
	for w := range g.live {
		g.end(l, w, g.live[w])
		g.live[w], g.denied[w] = 0, 0
	}
	l.refused -= g.held
	g.held = 0
}

// end takes the columns of a word off the account.
func (g *gate) end(l *limiter, w int, gone uint64) {
	if gone == 0 {
		return
	}
	n := bits.OnesCount64(gone)
	g.alive -= n
	l.release(n)
	if l.remembers() {
		for ; gone != 0; gone &= gone - 1 {
			l.remember(g.hash(w*64 + bits.TrailingZeros64(gone)))
		}
	}
}

// hash tells the series of a site apart.
func (g *gate) hash(column int) uint64 {
	return g.key*0x9e3779b97f4a7c15 ^ g.schema.Column(column).Labels.Hash()
}

func keyHash(key string) uint64 { return xxhash.Sum64String(key) }

// whole takes note of which series a whole row has. Those that ended make room first.
func (g *gate) whole(p *Pipeline, r *series.Row) {
	for w := range g.live {
		there := presentWord(r, w)
		g.end(p.limiter, w, g.live[w]&^there)
		g.live[w] &= there
		g.forgive(p.limiter, w, g.denied[w]&^there)
	}
	for w := range g.live {
		fresh := presentWord(r, w) &^ g.live[w]
		if fresh&^g.denied[w] == 0 && (fresh == 0 || !p.limiter.room(g.alive)) {
			continue
		}
		for ; fresh != 0; fresh &= fresh - 1 {
			g.admit(p, w*64+bits.TrailingZeros64(fresh))
		}
	}
}

// partial takes note of which series a partial row has, and which it ends.
func (g *gate) partial(p *Pipeline, r *series.Row) {
	for _, admitting := range [...]bool{false, true} { // what ended makes room first
		histograms := r.Histograms
		for i, column := range r.Columns {
			for len(histograms) > 0 && histograms[0].Column < column {
				histograms = histograms[1:]
			}
			stale := value.IsStaleNaN(r.Values[i]) || len(histograms) > 0 && histograms[0].Column == column && staleHistogram(&histograms[0])
			w, bit := int(column>>6), uint64(1)<<(column&63)
			switch {
			case stale && !admitting:
				g.end(p.limiter, w, g.live[w]&bit)
				g.live[w] &^= bit
				g.forgive(p.limiter, w, g.denied[w]&bit)
			case !stale && admitting && g.live[w]&bit == 0 && (g.denied[w]&bit == 0 || p.limiter.room(g.alive)):
				g.admit(p, int(column))
			}
		}
	}
}

func staleHistogram(h *series.HistogramAt) bool {
	return h.H != nil && value.IsStaleNaN(h.H.Sum) || h.FH != nil && value.IsStaleNaN(h.FH.Sum)
}

// trim refuses what is beyond a limit that was lowered, the last columns first.
func (g *gate) trim(p *Pipeline) {
	if !g.crowded {
		return
	}
	g.crowded = false
	for w := len(g.live) - 1; w >= 0; w-- {
		for g.live[w] != 0 {
			reason := p.limiter.over(g.alive)
			if reason == Pass {
				return
			}
			bit := uint64(1) << (63 - bits.LeadingZeros64(g.live[w]))
			g.end(p.limiter, w, bit)
			g.live[w] &^= bit
			g.deny(p, w*64+bits.TrailingZeros64(bit), reason)
		}
	}
}

// deny notes that a series that is there is refused.
func (g *gate) deny(p *Pipeline, column int, reason Reason) {
	g.denied[column>>6] |= 1 << (column & 63)
	g.held++
	p.limiter.refused++
	p.limiter.count(reason, g.schema.Column(column).Labels.Get(model.MetricNameLabel))
	p.onDrop(reason)
}

// forgive takes refused columns of a word off the list.
func (g *gate) forgive(l *limiter, w int, bit uint64) {
	n := bits.OnesCount64(bit)
	g.denied[w] &^= bit
	g.held -= n
	l.refused -= n
}

// admit lets a series in that is there and not alive, or refuses it.
func (g *gate) admit(p *Pipeline, column int) {
	w, bit := column>>6, uint64(1)<<(column&63)
	reason := p.limiter.admit(g.alive, func() uint64 { return g.hash(column) })
	switch {
	case reason == Pass:
		g.live[w] |= bit
		g.alive++
		g.forgive(p.limiter, w, g.denied[w]&bit)
	case g.denied[w]&bit == 0:
		g.deny(p, column, reason)
	}
}

// assign gives the series that were let in a column on the way out. Those before known had one if none was refused.
func (g *gate) assign(p *Pipeline, known int) {
	if g.to == nil && g.held == 0 {
		g.out = g.schema
		return
	}
	if g.to == nil {
		g.to, g.last = identity(known), known-1
		g.extend(g.schema.Len())
	}
	var added []series.Column
	for w, live := range g.live {
		for ; live != 0; live &= live - 1 {
			column := w*64 + bits.TrailingZeros64(live)
			if g.to[column] != dropped {
				continue
			}
			g.to[column] = int32(g.out.Len() + len(added))
			added = append(added, *g.schema.Column(column))
			g.shuffled = g.shuffled || column < g.last
			g.last = max(g.last, column)
		}
	}
	g.out = p.catalog.Extend(g.out, added)
}
