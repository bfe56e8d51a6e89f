package expo

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// knowledge is what the bodies of a target told so far.
type knowledge struct {
	cast     // of what the last good body said, and maybe lines that it did not have
	families families
	whole    *table            // series without timestamps
	stamped  []*table          // series with timestamps of their own, by origin, in the order of their appearance
	origins  map[origin]*table // the same
	settled  int               // tables of stamped that the current body did not add
	present  int               // columns that the last good body had

	former *knowledge // while everything is made anew: what this one replaces
}

// origin tells the sources of series with timestamps apart: a target that has such series speaks for others.
type origin struct{ job, instance string }

func originOf(l labels.Labels) origin {
	return origin{l.Get(model.JobLabel), l.Get(model.InstanceLabel)}
}

// source returns the source for series of the origin that target exposes. Its key is the same after a restart.
func (o origin) source(target *series.Source) *series.Source {
	if o == originOf(target.Labels) {
		return &series.Source{Key: target.Key + StampedSuffix, Labels: target.Labels, Interval: target.Interval}
	}
	b := labels.NewBuilder(target.Labels)
	b.Set(model.JobLabel, o.job)
	b.Set(model.InstanceLabel, o.instance)
	hash := xxhash.Sum64String(o.job + "\xff" + o.instance)
	return &series.Source{
		Key:      fmt.Sprintf("%s/%.100s/%.100s/%016x", target.Key, o.job, o.instance, hash),
		Labels:   b.Labels(),
		Interval: target.Interval,
	}
}

func newKnowledge(o *Options) *knowledge {
	return &knowledge{
		cast:    cast{script: &script{}},
		whole:   newTable(o.Catalog, o.Source, o.Lead),
		origins: map[origin]*table{},
	}
}

// replace returns empty knowledge that will take the place of k.
func (k *knowledge) replace(o *Options) *knowledge {
	anew := newKnowledge(o)
	anew.former, anew.whole.previous = k, k.whole
	return anew
}

// stampedTable returns the table for a series with these labels and a timestamp of its own.
func (k *knowledge) stampedTable(l labels.Labels, o *Options) *table {
	from := originOf(l)
	if t := k.origins[from]; t != nil {
		return t
	}
	from.job, from.instance = strings.Clone(from.job), strings.Clone(from.instance) // l is larger
	var t *table
	if before := k.formerTable(from); before != nil {
		t = newTable(o.Catalog, before.source, nil)
		t.previous = before
	} else {
		t = newTable(o.Catalog, from.source(o.Source), nil)
	}
	t.stamped, t.origin = true, from
	k.insert(t)
	return t
}

func (k *knowledge) formerTable(from origin) *table {
	if k.former == nil {
		return nil
	}
	return k.former.origins[from]
}

func (k *knowledge) insert(t *table) {
	k.stamped = append(k.stamped, t)
	k.origins[t.origin] = t
}

// wasCounted reports whether the series that the bytes of key expose was counted as added before everything was made anew.
func (k *knowledge) wasCounted(key []byte) bool {
	if k.former == nil {
		return false
	}
	i, found := k.former.find(key)
	return found && hasBit(k.former.counted, i)
}

// describes reports whether the column of a line of the script is still right for its series, which is seen as s under
// the current metadata.
func (k *knowledge) describes(i int, s *sample) bool {
	t := k.table(i, k.whole)
	c := t.column(k.columns[i])
	if t.stamped != s.stamped || c.Kind != s.kind {
		return false
	}
	expected := k.family(i)
	current := k.families.current(expected)
	return current == expected || familyOf(current, c.Labels) == c.Family
}

func (k *knowledge) begin(round uint32) {
	k.settled = len(k.stamped)
	k.families.begin()
	k.whole.begin(round)
	for _, t := range k.stamped {
		t.begin(round)
	}
}

// rollback forgets what the current body added.
func (k *knowledge) rollback(round uint32) {
	k.whole.rollback(round)
	for _, t := range k.stamped[k.settled:] {
		delete(k.origins, t.origin)
	}
	clear(k.stamped[k.settled:])
	k.stamped = k.stamped[:k.settled]
	for _, t := range k.stamped {
		t.rollback(round)
	}
}

// unsee lets a body that was read in vain be read once more in the same round.
func (k *knowledge) unsee(round uint32) {
	for t := range k.tables {
		for i := range t.columns {
			if c := &t.columns[i]; c.seen == round {
				c.seen = 0
			}
		}
	}
}

// inherit takes over from the knowledge that is replaced what the current body does not have and that is not dead.
func (k *knowledge) inherit(round uint32, n int) {
	if k.former == nil {
		return
	}
	for _, old := range k.former.stamped {
		if t := k.origins[old.origin]; t != nil {
			t.adopt(old, round, n)
		} else {
			k.insert(old)
		}
	}
	k.former = nil
}

// mark ends the series with timestamps of their own that the current body does not have.
func (k *knowledge) mark(round uint32, t int64) {
	for _, table := range k.stamped {
		table.mark(round, t)
	}
}

// commit keeps what the current body added.
func (k *knowledge) commit(round uint32, catalog *series.Catalog) {
	k.whole.commit(round, catalog)
	for _, t := range k.stamped {
		t.commit(round, catalog)
	}
}

// keep remembers what a good body said: the lines of the script in seen, of which those in counted were counted as added,
// or a draft.
func (k *knowledge) keep(seen, counted []uint64, d *draft, with *Scripts) {
	if d != nil {
		k.cast = d.settled(k.whole, with)
		return
	}
	for i := range seen {
		k.had[i], k.counted[i] = seen[i], counted[i]&seen[i]
	}
}

// crowded reports whether there are so many columns that the current body does not have that they cannot wait for their
// time: a target that makes up new series all the time must not fill the memory. The body before counts too, for the
// sake of targets that leave most out now and then.
func (k *knowledge) crowded() bool {
	total, present, before := 0, 0, k.present
	for t := range k.tables {
		total += t.len()
		present += t.present
	}
	k.present = present
	return total-present > present+before+1000
}

// expire drops the origins that were not in the last n bodies, and calls ended for each. It comes after keep.
func (k *knowledge) expire(round uint32, n int, ended func(*table)) {
	before := len(k.stamped)
	k.stamped = slices.DeleteFunc(k.stamped, func(t *table) bool {
		if t.seen+uint32(n) > round {
			return false
		}
		ended(t)
		delete(k.origins, t.origin)
		return true
	})
	if len(k.stamped) < before {
		k.lose()
	}
}

// compact makes the sparse ones of the tables anew. It comes after keep.
func (k *knowledge) compact(round uint32, n int, catalog *series.Catalog) {
	var compacted []*table
	for t := range k.tables {
		if t.sparse(round, n) {
			t.compact(round, n, catalog)
			compacted = append(compacted, t)
		}
	}
	if compacted == nil {
		return
	}
	k.lose()
	for i, c := range k.columns {
		if moves := k.table(i, k.whole).moves; moves != nil && c < maxColumns {
			k.columns[i] = moves[c]
		}
	}
	for _, t := range compacted {
		t.moves = nil
	}
}

func (k *knowledge) tables(yield func(*table) bool) {
	if !yield(k.whole) {
		return
	}
	for _, t := range k.stamped {
		if !yield(t) {
			return
		}
	}
}
