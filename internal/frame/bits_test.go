package frame

import (
	"math/rand/v2"
	"testing"
)

func TestBits(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	type item struct {
		u    uint64
		k, n uint
	}
	for range 2000 {
		var w bitWriter
		var items []item
		size := uint(0)
		for range 100 {
			w.reserve(16)
			it := item{u: r.Uint64() >> r.UintN(65), k: r.UintN(60)}
			if r.IntN(4) == 0 {
				it.n = r.UintN(65)
				it.u &= 1<<it.n - 1
				w.put64(it.u, it.n)
				size += it.n
			} else {
				it.n = 99
				w.number(it.u, it.k)
				size += numberBits(it.u, it.k)
			}
			items = append(items, it)
		}
		w.reserve(1000)
		b := w.bytes()
		if int(size+7)/8 != len(b) {
			t.Fatal(size, len(b))
		}
		rd := bitReader{b: b}
		for i, it := range items {
			var u uint64
			if it.n == 99 {
				u = rd.number(it.k)
			} else {
				u = rd.take(it.n)
			}
			if u != it.u || rd.over() {
				t.Fatalf("%d: %x want %x k %d n %d over %t", i, u, it.u, it.k, it.n, rd.over())
			}
		}
		if rest, ok := rd.end(); len(rest) != 0 || !ok {
			t.Fatal("end")
		}
	}
}
