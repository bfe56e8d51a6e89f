package expo

import (
	"math"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// knowledge is what the bodies of a target told so far.
type knowledge struct {
	series   map[string]*entry // by the bytes that expose the series
	fresh    []string          // keys that the current body added
	seen     int               // entries that the current body has
	families families
	whole    *table // series without timestamps
	stamped  *table // series with timestamps of their own

	previous map[string]*entry // while the schema is made anew: series of the knowledge that this one replaces
}

// entry is what is known of an exposed series.
type entry struct {
	seen    uint64  // round that had it last
	family  *family // the metadata under which it stood
	column  uint32
	kind    series.Kind
	stamped bool // column is one of the stamped table
	dropped bool // by Options.Map; there is no column
	counted bool // as added
}

func (k *knowledge) table(stamped bool) *table {
	if stamped {
		return k.stamped
	}
	return k.whole
}

func (k *knowledge) learn(key string, e *entry) {
	if before := k.previous[key]; before != nil {
		e.counted = before.counted
	}
	k.series[key] = e
	k.fresh = append(k.fresh, key)
	k.seen++
}

// describes reports whether the column of e is still right for its series, which is seen as s under the current
// metadata.
func (k *knowledge) describes(e *entry, s *sample) bool {
	if e.stamped != s.stamped || e.kind != s.kind {
		return false
	}
	current := k.families.current()
	if e.family == current {
		return true
	}
	c := k.table(e.stamped).column(e.column)
	if current.of(c.Labels) != c.Family {
		return false
	}
	e.family = current
	return true
}

func (k *knowledge) begin(round uint64) {
	k.seen = 0
	k.fresh = k.fresh[:0]
	k.families.begin(round)
	k.whole.begin(round)
	k.stamped.begin(round)
}

// rollback forgets what the current body added.
func (k *knowledge) rollback() {
	for _, key := range k.fresh {
		delete(k.series, key)
	}
	clear(k.fresh)
	k.fresh = k.fresh[:0]
	k.families.bound()
	k.whole.rollback()
	k.stamped.rollback()
}

// forget drops what the current body did not have.
func (k *knowledge) forget(round uint64) {
	if k.seen < len(k.series) {
		for key, e := range k.series {
			if e.seen != round {
				delete(k.series, key)
			}
		}
	}
	k.families.forget()
}

// commit keeps what the current body added.
func (k *knowledge) commit(round uint64, catalog *series.Catalog) {
	clear(k.fresh)
	k.fresh = k.fresh[:0]
	k.previous = nil
	k.whole.commit(round, catalog)
	k.stamped.commit(round, catalog)
}

// sparse reports whether a quarter of the columns of a table has been absent for n rounds.
func (k *knowledge) sparse(round uint64, n int) bool {
	return k.whole.sparse(round, n) || k.stamped.sparse(round, n)
}

// table is the schema of one source while it grows.
type table struct {
	lead     int
	schema   *series.Schema
	added    []series.Column   // columns behind schema, of the current body
	hashes   []uint64          // their keys in byLabels
	columns  []column          // one for each of schema and added
	byLabels map[uint64]uint32 // hash of a column's labels, or the next free key behind it
	previous *table            // while the table is made anew: what it replaces
}

// column is what is known of a column beyond the schema.
type column struct {
	seen uint64 // round that had it last

	// For series with timestamps of their own:
	alive bool   // the last good body had it
	moved uint64 // round that had it alive
	last  int64  // its newest timestamp
	next  int64  // what last will be if round moved turns out to be good
}

func newTable(catalog *series.Catalog, lead []series.Column) *table {
	t := &table{
		lead:     len(lead),
		schema:   catalog.Extend(catalog.Empty(), lead),
		byLabels: map[uint64]uint32{},
		columns:  make([]column, len(lead)),
	}
	for i := range lead {
		key, _, _ := t.lookup(lead[i].Labels)
		t.byLabels[key] = uint32(i)
	}
	return t
}

func (t *table) len() int { return len(t.columns) }

func (t *table) column(i uint32) *series.Column {
	if n := uint32(t.schema.Len()); i >= n {
		return &t.added[i-n]
	}
	return t.schema.Column(int(i))
}

// begin marks the lead columns as seen, so that a target cannot speak for them.
func (t *table) begin(round uint64) {
	for i := range t.columns[:t.lead] {
		t.columns[i].seen = round
	}
}

// find returns the column with the given labels.
func (t *table) find(l labels.Labels) (uint32, bool) {
	_, i, found := t.lookup(l)
	return i, found
}

func (t *table) lookup(l labels.Labels) (key uint64, i uint32, found bool) {
	for key = l.Hash(); ; key++ {
		i, taken := t.byLabels[key]
		if !taken || labels.Equal(t.column(i).Labels, l) {
			return key, i, taken
		}
	}
}

func (t *table) add(c series.Column) uint32 {
	key, _, _ := t.lookup(c.Labels)
	i := uint32(len(t.columns))
	state := column{last: math.MinInt64}
	if t.previous != nil {
		if j, found := t.previous.find(c.Labels); found {
			state.last, state.alive = t.previous.columns[j].last, t.previous.columns[j].alive
		}
	}
	t.added = append(t.added, c)
	t.columns = append(t.columns, state)
	t.hashes = append(t.hashes, key)
	t.byLabels[key] = i
	return i
}

// adopt takes over the columns of old that the current body does not have and that are not dead, for the sake of their
// last timestamps: a sample must not come twice because its schema was made anew in between.
func (t *table) adopt(old *table, round uint64, n int) {
	for i := range old.columns {
		c := old.column(uint32(i))
		if _, found := t.find(c.Labels); found || old.columns[i].seen+uint64(n) <= round {
			continue
		}
		t.columns[t.add(*c)] = old.columns[i]
	}
}

func (t *table) rollback() {
	for _, key := range t.hashes {
		delete(t.byLabels, key)
	}
	t.columns = t.columns[:t.schema.Len()]
	t.settle()
}

func (t *table) commit(round uint64, catalog *series.Catalog) {
	t.schema = catalog.Extend(t.schema, t.added)
	for i := range t.columns {
		if c := &t.columns[i]; c.moved == round {
			c.alive, c.last = true, c.next
		}
	}
	t.settle()
}

func (t *table) settle() {
	clear(t.added)
	t.added, t.hashes, t.previous = t.added[:0], t.hashes[:0], nil
}

func (t *table) sparse(round uint64, n int) bool {
	dead := 0
	for i := t.lead; i < len(t.columns); i++ {
		if t.columns[i].seen+uint64(n) <= round {
			dead++
		}
	}
	return dead > 0 && dead*4 >= len(t.columns)-t.lead
}
