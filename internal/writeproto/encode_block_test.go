package writeproto

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/s2"
)

// playBlock writes what a seed says, and the same bytes plainly.
func playBlock(seed uint64, steps int) (packed, plain []byte) {
	r := rand.New(rand.NewPCG(seed, 3))
	var b block
	for range steps {
		n := r.IntN(20)
		switch r.IntN(10) {
		case 0:
			n = r.IntN(200)
		case 1:
			if seed%8 == 0 {
				n = r.IntN(100_000)
			}
		}
		if len(plain) == 0 || r.IntN(2) == 0 {
			p := make([]byte, n)
			for i := range p {
				p[i] = byte(r.Uint32())
			}
			b.add(p)
			plain = append(plain, p...)
			continue
		}
		d := 1 + r.IntN(min(len(plain), 40))
		if r.IntN(4) == 0 {
			d = 1 + r.IntN(len(plain))
		}
		if b.length > 0 && r.IntN(2) == 0 {
			d = b.distance
		}
		if n > 0 {
			b.repeat(d, n)
		}
		for range n {
			plain = append(plain, plain[len(plain)-d])
		}
	}
	ops := b.end()
	if b.n != len(plain) {
		panic("the block miscounts")
	}
	return append(binary.AppendUvarint(nil, uint64(b.n)), ops...), plain
}

func TestBlock(t *testing.T) {
	for seed := range uint64(3000) {
		packed, plain := playBlock(seed, 30)
		got, err := s2.Decode(nil, packed)
		if err != nil || string(got) != string(plain) {
			t.Fatalf("seed %d: %d bytes instead of %d, or others: %v", seed, len(got), len(plain), err)
		}
	}
}

func TestCommonBytes(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 10_000 {
		a, b := make([]byte, r.IntN(30)), make([]byte, r.IntN(30))
		for i := range a {
			a[i] = byte(r.IntN(8) / 7)
		}
		for i := range b {
			b[i] = byte(r.IntN(8) / 7)
		}
		prefix, suffix := 0, 0
		for prefix < min(len(a), len(b)) && a[prefix] == b[prefix] {
			prefix++
		}
		for suffix < min(len(a), len(b)) && a[len(a)-1-suffix] == b[len(b)-1-suffix] {
			suffix++
		}
		if p, s := commonPrefix(a, b), commonSuffix(a, b); p != prefix || s != suffix {
			t.Fatalf("%x and %x have %d and %d bytes in common, not %d and %d", a, b, prefix, suffix, p, s)
		}
	}
}
