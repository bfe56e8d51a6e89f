package writeproto_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/klauspost/compress/s2"

	"github.com/thalweg/thalweg/internal/series/seriestest"
	"github.com/thalweg/thalweg/internal/writeproto"
)

// TestSplit: the parts of a request have all of it, each what it is to have, in the same order.
func TestSplit(t *testing.T) {
	for name, o := range optionsOf {
		o.MaxSamples = 500
		e, w, random := writeproto.NewEncoder(o), seriestest.New(11), rand.New(rand.NewPCG(1, 2))
		for i := range 300 {
			e.Add("s", i, w.Row())
		}
		divided := 0
		for _, r := range e.Close() {
			goes := make([]bool, len(r.Rows))
			var want [2][]string
			all := decode(t, &r)
			for i, part := range r.Rows {
				goes[i] = random.IntN(3) == 0
				for _, x := range all[:part.Samples] {
					k := 1
					if goes[i] {
						k = 0
					}
					want[k] = append(want[k], x.String())
				}
				all = all[part.Samples:]
			}
			a, b, ok := r.Split(func(i int) bool { return goes[i] })
			if ok {
				divided++
			}
			for k, part := range []writeproto.Request{a, b} {
				if len(part.Rows) == 0 {
					if len(want[k]) > 0 {
						t.Errorf("%s: part %d is empty", name, k)
					}
					continue
				}
				var got []string
				oldest, newest, samples := int64(math.MaxInt64), int64(math.MinInt64), 0
				for _, x := range decode(t, &part) {
					got = append(got, x.String())
					oldest, newest = min(oldest, x.t), max(newest, x.t)
				}
				for _, row := range part.Rows {
					samples += row.Samples
				}
				if !slices.Equal(got, want[k]) {
					t.Errorf("%s: part %d has %d entries, not %d", name, k, len(got), len(want[k]))
				}
				if part.Oldest != oldest || part.Newest != newest || samples != len(got) || part.Samples+part.Histograms != len(got) || part.Message != r.Message {
					t.Errorf("%s: part %d says %+v", name, k, part.Rows)
				}
			}
			if a.Exemplars+b.Exemplars != r.Exemplars {
				t.Errorf("%s: %d and %d exemplars of %d", name, a.Exemplars, b.Exemplars, r.Exemplars)
			}
		}
		if divided < 3 {
			t.Errorf("%s: %d requests were divided", name, divided)
		}
	}
}

// TestSplitOfOtherBytes: what cannot be read stays whole.
func TestSplitOfOtherBytes(t *testing.T) {
	e, w := writeproto.NewEncoder(optionsOf["v2"]), seriestest.New(9)
	for i := range 20 {
		e.Add("s", i, w.Row())
	}
	r := e.Close()[0]
	raw := unpack(t, r.Body)
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		b := slices.Clone(raw)
		for range 1 + random.IntN(4) {
			b[random.IntN(len(b))] = byte(random.Uint32())
		}
		r.Body = s2.EncodeSnappy(nil, b[:random.IntN(len(b)+1)])
		x, y, ok := r.Split(func(i int) bool { return i%2 == 0 })
		if len(x.Rows)+len(y.Rows) != len(r.Rows) || !ok && len(x.Rows) > 0 {
			t.Fatalf("%d and %d rows of %d", len(x.Rows), len(y.Rows), len(r.Rows))
		}
	}
}
