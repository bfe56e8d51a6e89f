package expo

import (
	"cmp"
	"math"
	"slices"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// table is the schema of one source while it grows.
type table struct {
	source   *series.Source
	stamped  bool   // its series have timestamps of their own
	origin   origin // of stamped ones
	lead     int
	schema   *series.Schema
	added    []series.Column // columns behind schema, of the current body
	columns  []column        // one for each of schema and added
	clocks   []clock         // one for each column, if stamped
	byLabels *index          // of the columns, as long as bodies add some
	previous *table          // while the table is made anew: what it replaces
	moves    []uint32        // while the table is compacted: where its columns went
	seen     uint32          // round that had one of its series last
	present  int             // columns that the current body has, lead columns included
	stamps   []stamp         // samples of the current body with timestamps of their own
}

// column is what is known of a column beyond the schema.
type column struct {
	held  held   // how its value is spelled
	seen  uint32 // round that had it last
	place uint32 // among the samples of that body
}

// clock is what is known of the timestamps of a column.
type clock struct {
	alive bool   // the last good body had it
	moved uint32 // round that had it alive
	last  int64  // its newest timestamp
	next  int64  // what last will be if round moved turns out to be good
}

// stamp is a sample with a timestamp of its own.
type stamp struct {
	t      int64
	column uint32
	v      float64
	extra  *stampExtra // nil for most
}

type stampExtra struct {
	series.HistogramAt // empty if the column holds floats
	start              int64
	exemplars          []series.ExemplarAt
}

func newTable(catalog *series.Catalog, source *series.Source, lead []series.Column) *table {
	t := &table{source: source, lead: len(lead), schema: catalog.Extend(catalog.Empty(), lead)}
	t.columns = make([]column, len(lead))
	return t
}

func (t *table) hash(i int) uint64 { return t.column(uint32(i)).Labels.Hash() }

func (t *table) len() int { return len(t.columns) }

func (t *table) column(i uint32) *series.Column {
	if n := uint32(t.schema.Len()); i >= n {
		return &t.added[i-n]
	}
	return t.schema.Column(int(i))
}

// begin marks the lead columns as seen, so that a target cannot speak for them.
func (t *table) begin(round uint32) {
	t.clearStamps()
	t.present = t.lead
	for i := range t.columns[:t.lead] {
		t.columns[i].seen = round
	}
}

func (t *table) clearStamps() {
	clear(t.stamps) // histograms and exemplars must not be kept alive
	t.stamps = t.stamps[:0]
}

// find returns the column with the given labels.
func (t *table) find(l labels.Labels) (uint32, bool) {
	if t.byLabels == nil {
		t.index()
	}
	i, found := t.byLabels.find(l.Hash(), func(i int) bool { return labels.Equal(t.column(uint32(i)).Labels, l) })
	return uint32(i), found
}

// index makes byLabels.
func (t *table) index() {
	t.byLabels = newIndex(t.len())
	for i := range t.columns {
		t.byLabels.enter(i, t.hash)
	}
}

// add adds a column that find did not find.
func (t *table) add(c series.Column) uint32 {
	i := uint32(len(t.columns))
	t.added = append(t.added, c)
	t.columns = append(t.columns, column{})
	if t.stamped {
		state := clock{last: math.MinInt64}
		if t.previous != nil {
			if j, found := t.previous.find(c.Labels); found {
				state.last, state.alive = t.previous.clocks[j].last, t.previous.clocks[j].alive
			}
		}
		t.clocks = append(t.clocks, state)
	}
	t.byLabels.enter(int(i), t.hash)
	return i
}

// adopt takes over the columns of old that the current body does not have and that are not dead, for the sake of their
// last timestamps: a sample must not come twice because its schema was made anew in between.
func (t *table) adopt(old *table, round uint32, n int) {
	for i := range old.columns {
		c := old.column(uint32(i))
		if _, found := t.find(c.Labels); found || old.columns[i].absent(round, n) {
			continue
		}
		j := t.add(*c)
		t.columns[j], t.clocks[j] = old.columns[i], old.clocks[i]
	}
}

// mark adds stale markers at now for the series that were alive and that the current body does not have. Where that is
// not after their last sample there is no marker: it would never count.
func (t *table) mark(round uint32, now int64) {
	for i := range t.clocks {
		c := &t.clocks[i]
		if !c.alive || c.moved == round {
			continue
		}
		if c.alive = false; c.last < now {
			c.last = now
			t.stamps = append(t.stamps, staleMarker(uint32(i), t.column(uint32(i)).Kind, now))
		}
	}
}

// presence returns the bitmap of the columns that a round has, and of the lead columns. It clears the values of the
// others.
func (t *table) presence(b []uint64, values []float64, round uint32) []uint64 {
	b = series.Bitmap(b, len(t.columns))
	for i := range t.columns {
		if c := &t.columns[i]; i < t.lead || c.seen == round {
			series.SetBit(b, i)
		} else {
			values[i], c.held = 0, held{}
		}
	}
	return b
}

func (t *table) rollback(round uint32) {
	t.columns = t.columns[:t.schema.Len()]
	if len(t.added) > 0 {
		t.byLabels = nil
	}
	if t.stamped {
		t.clocks = t.clocks[:len(t.columns)]
	}
	for i := range t.clocks {
		if c := &t.clocks[i]; c.moved == round {
			c.moved = 0
		}
	}
	t.clearStamps()
	t.settle()
}

func (t *table) commit(round uint32, catalog *series.Catalog) {
	if len(t.added) == 0 {
		t.byLabels = nil
	}
	t.schema = catalog.Extend(t.schema, t.added)
	for i := range t.clocks {
		if c := &t.clocks[i]; c.moved == round {
			c.alive, c.last = true, c.next
		}
	}
	t.settle()
}

// settle gives back what only a body that adds columns needs.
func (t *table) settle() {
	t.added, t.previous = nil, nil
	t.columns, t.clocks = fit(t.columns), fit(t.clocks)
}

// absent reports whether the column was not in the last n bodies.
func (c *column) absent(round uint32, n int) bool { return c.seen+uint32(n) <= round }

// sparse reports whether a quarter of the columns was not in the last n bodies.
func (t *table) sparse(round uint32, n int) bool {
	if (len(t.columns)-t.present)*4 < len(t.columns)-t.lead {
		return false
	}
	dead := 0
	for i := t.lead; i < len(t.columns); i++ {
		if t.columns[i].absent(round, n) {
			dead++
		}
	}
	return dead > 0 && dead*4 >= len(t.columns)-t.lead
}

// compact drops the columns that were not in the last n bodies, and puts the others in the order of the body that had
// them last: what stands together there costs less together. The caller renumbers what refers to columns, by moves.
func (t *table) compact(round uint32, n int, catalog *series.Catalog) {
	keep := make([]uint32, 0, len(t.columns))
	for i := range t.columns {
		if i < t.lead || !t.columns[i].absent(round, n) {
			keep = append(keep, uint32(i))
		}
	}
	slices.SortStableFunc(keep[t.lead:], func(a, b uint32) int {
		return cmp.Compare(t.columns[a].place, t.columns[b].place)
	})
	t.moves = make([]uint32, len(t.columns))
	kept, states := make([]series.Column, len(keep)), make([]column, len(keep))
	for to, from := range keep {
		t.moves[from] = uint32(to)
		kept[to], states[to] = *t.column(from), column{seen: t.columns[from].seen, place: t.columns[from].place}
	}
	if t.stamped {
		clocks := make([]clock, len(keep))
		for to, from := range keep {
			clocks[to] = t.clocks[from]
		}
		t.clocks = clocks
	}
	t.schema, t.columns, t.byLabels = catalog.Extend(catalog.Empty(), kept), states, nil
}
