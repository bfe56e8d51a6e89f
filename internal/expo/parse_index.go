package expo

import "math/bits"

// index finds numbers by the hashes of what they stand for. It takes five to eleven bytes of memory for each.
type index struct {
	slots []uint32 // each free (0) or a number plus 1; their count is a power of two
	used  int
}

// newIndex returns an index with room for n numbers.
func newIndex(n int) *index {
	return &index{slots: make([]uint32, 1<<bits.Len(uint(n+n/3+2)))}
}

// find returns the number with the given hash for which same is true.
func (x *index) find(hash uint64, same func(i int) bool) (i int, found bool) {
	for ; ; hash++ {
		i := int(x.slots[hash&uint64(len(x.slots)-1)]) - 1
		if i < 0 || same(i) {
			return i, i >= 0
		}
	}
}

// enter adds a number that is not there yet. hash is for it, and for those that are.
func (x *index) enter(i int, hash func(i int) uint64) {
	if x.used++; x.used > len(x.slots)/4*3 {
		before := x.slots
		x.slots = make([]uint32, 2*len(before))
		for _, n := range before {
			if n > 0 {
				x.put(n, hash(int(n)-1))
			}
		}
	}
	x.put(uint32(i)+1, hash(i))
}

func (x *index) put(n uint32, hash uint64) {
	for x.slots[hash&uint64(len(x.slots)-1)] > 0 {
		hash++
	}
	x.slots[hash&uint64(len(x.slots)-1)] = n
}
