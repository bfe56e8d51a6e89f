package store

import (
	"hash/maphash"
	"math/bits"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// columnSet tells which columns of a schema are there already. It holds their numbers only, in an open hash table, which
// is a tenth of what a map of them takes. Its hash is seeded: sites may not choose labels that make a search long.
type columnSet struct {
	slots []uint32 // numbers plus one; 0: free
	n     int
	seed  maphash.Seed
	key   []byte
}

// add adds columns[i] and reports whether no equal one was there: one with the same labels and kind. The columns in the
// set have to be in their places.
func (s *columnSet) add(columns []series.Column, i int) (isNew bool) {
	if s.n >= len(s.slots)/4*3 {
		s.grow(columns)
	}
	c := &columns[i]
	at := s.slot(c)
	for ; s.slots[at] != 0; at = s.next(at) {
		if o := &columns[s.slots[at]-1]; o.Kind == c.Kind && labels.Equal(o.Labels, c.Labels) {
			return false
		}
	}
	s.slots[at] = uint32(i) + 1
	s.n++
	return true
}

// grow makes room for all columns, and a third as many to come.
func (s *columnSet) grow(columns []series.Column) {
	if s.n == 0 {
		s.seed = maphash.MakeSeed()
	}
	old := s.slots
	s.slots = make([]uint32, max(len(columns)*7/4, 8))
	for _, number := range old {
		if number == 0 {
			continue
		}
		at := s.slot(&columns[number-1])
		for s.slots[at] != 0 {
			at = s.next(at)
		}
		s.slots[at] = number
	}
}

// slot is where the search for a column begins: its hash scaled to the length of the table.
func (s *columnSet) slot(c *series.Column) uint64 {
	s.key = c.Labels.Bytes(s.key[:0])
	at, _ := bits.Mul64(maphash.Bytes(s.seed, s.key), uint64(len(s.slots)))
	return at
}

func (s *columnSet) next(slot uint64) uint64 {
	if slot++; slot < uint64(len(s.slots)) {
		return slot
	}
	return 0
}
