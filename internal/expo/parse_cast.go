package expo

import (
	"bytes"
	"hash/maphash"
	"math"
	"math/bits"

	"github.com/thalweg/thalweg/internal/series"
)

// cast is what the lines of a script are for one target.
type cast struct {
	*script
	columns []uint32 // one for each line: the column of its series in its table, or one of the numbers below
	owners  []*table // one for each line: the table of its column, nil for that of whole rows; nil if all are
	had     []uint64 // bitmap of the lines that the last good body had
	counted []uint64 // bitmap of those of them that were counted as added
	worn    bool     // some lines are gone
}

// Numbers that stand in the place of a column.
const (
	repeated   = math.MaxUint32 - iota // the series stands above already; all is known there
	dropped                            // by Options.Map
	gone                               // so long ago that nothing is known of the series any more
	maxColumns = math.MaxUint32 - iota // what is smaller is a column
)

// role is one line of a cast. The zero role is that of a series of which nothing is known.
type role struct {
	cast *cast
	line int
}

func (r role) known() bool    { return r.cast != nil }
func (r role) dropped() bool  { return r.cast.columns[r.line] == dropped }
func (r role) column() uint32 { return r.cast.columns[r.line] }
func (r role) counted() bool  { return hasBit(r.cast.counted, r.line) }
func (r role) count()         { series.SetBit(r.cast.counted, r.line) }

// table returns the table that has the column of line i; whole is that of whole rows.
func (c *cast) table(i int, whole *table) *table {
	if c.owners != nil && c.owners[i] != nil {
		return c.owners[i]
	}
	return whole
}

// add adds what the last line of the script is for the target. The table is nil for whole rows.
func (c *cast) add(column uint32, t *table, counted bool) {
	if t != nil && c.owners == nil {
		c.owners = make([]*table, len(c.columns), cap(c.columns))
	}
	if c.owners != nil {
		c.owners = append(c.owners, t)
	}
	i := len(c.columns)
	c.columns = append(c.columns, column)
	if i>>6 == len(c.counted) {
		c.counted = append(c.counted, 0)
	}
	if counted {
		series.SetBit(c.counted, i)
	}
}

// copy adds the lines [first, last) of another cast.
func (c *cast) copy(from *cast, first, last int) {
	c.script.copy(from.script, first, last)
	for i := first; i < last; i++ {
		c.add(from.columns[i], from.table(i, nil), hasBit(from.counted, i))
	}
}

// lose forgets the lines that the last good body did not have.
func (c *cast) lose() {
	for i := range c.columns {
		if hasBit(c.had, i) {
			continue
		}
		c.worn = true
		if c.columns[i] = gone; c.owners != nil {
			c.owners[i] = nil
		}
	}
}

// draft is what a body says that does not say what the script does.
type draft struct {
	cast
	learnt *index // of the lines whose series are new
	seed   maphash.Seed
}

func newDraft(f format, like *script) *draft {
	text, lines := len(like.text)+len(like.text)/16+1024, len(like.lines)+len(like.lines)/16+16
	return &draft{cast: cast{
		script:  &script{format: f, text: make([]byte, 0, text), lines: make([]line, 0, lines)},
		columns: make([]uint32, 0, lines),
	}}
}

// learn makes the last line one that find finds.
func (d *draft) learn() {
	if d.learnt == nil {
		d.learnt, d.seed = newIndex(0), maphash.MakeSeed()
	}
	d.learnt.enter(len(d.lines)-1, func(i int) uint64 { return maphash.Bytes(d.seed, d.key(i)) })
}

// find returns the line of a series that the body itself has told of.
func (d *draft) find(key []byte) role {
	if d == nil || d.learnt == nil {
		return role{}
	}
	i, found := d.learnt.find(maphash.Bytes(d.seed, key), func(i int) bool { return bytes.Equal(d.key(i), key) })
	if !found {
		return role{}
	}
	return role{&d.cast, i}
}

// settled returns the draft as it is kept: in little more memory than it needs, or in none if another target has said
// the same.
func (d *draft) settled(whole *table, with *Scripts) cast {
	c := d.cast
	c.text, c.lines, c.families = fit(c.text), fit(c.lines), fit(c.families)
	c.columns, c.owners, c.counted = fit(c.columns), fit(c.owners), fit(c.counted)
	for i := range c.lines {
		// The schema has the same metadata: there is no need for a second copy.
		if l := &c.lines[i]; l.family > 0 && c.columns[i] < maxColumns {
			if f := &c.table(i, whole).column(c.columns[i]).Family; sameFamily(f, c.family(i)) {
				c.families[l.family-1] = f
			}
		}
	}
	if with != nil {
		c.script = with.shared(c.script)
	}
	c.had = series.Bitmap(nil, len(c.lines))
	for i := range c.had {
		c.had[i] = math.MaxUint64
	}
	return c
}

func hasBit(b []uint64, i int) bool { return b[i>>6]&(1<<(i&63)) != 0 }

// nextBit returns the first bit from i on, below n, that is set; n if there is none.
func nextBit(b []uint64, i, n int) int {
	for i < n {
		if w := b[i>>6] >> (i & 63); w != 0 {
			return min(n, i+bits.TrailingZeros64(w))
		}
		i = i&^63 + 64
	}
	return n
}

// nextFreeBit returns the first bit from i on, below n, that is not set; n if there is none.
func nextFreeBit(b []uint64, i, n int) int {
	for i < n {
		if w := ^b[i>>6] >> (i & 63); w != 0 {
			return min(n, i+bits.TrailingZeros64(w))
		}
		i = i&^63 + 64
	}
	return n
}

// setBits sets the bits [first, last), and returns how many of them were not set.
func setBits(b []uint64, first, last int) int {
	n := 0
	for i := first; i < last; {
		end := min(last, i&^63+64)
		mask := uint64(math.MaxUint64) << (i & 63) & (math.MaxUint64 >> (63 - (end-1)&63))
		n += bits.OnesCount64(mask &^ b[i>>6])
		b[i>>6] |= mask
		i = end
	}
	return n
}
