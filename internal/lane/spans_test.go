package lane_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
)

// Spans against a plain map, with frames in random order and of random numbers of rows.
func TestSpansAgainstMap(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		const frames = 60
		before := [frames + 2]uint64{}
		for n := 1; n <= frames; n++ {
			before[n+1] = before[n] + uint64(r.IntN(4))
		}
		var spans lane.Spans
		has := map[uint64]bool{}
		rows := uint64(0)
		for _, i := range r.Perm(frames)[:r.IntN(frames)] {
			n := uint64(i) + 1
			h := frame.Header{ID: frame.ID{Epoch: 1, Number: n}, RowsBefore: before[n], Rows: uint32(before[n+1] - before[n]), Sent: int64(1000 * n)}
			spans = spans.Add(lane.SpanOf(&h, 0))
			has[n] = true
			rows += uint64(h.Rows)
			check := func(ok bool, format string, args ...any) {
				if !ok {
					t.Fatalf("seed %d: after frame %d: %s: %+v", seed, n, fmt.Sprintf(format, args...), spans)
				}
			}
			for k := uint64(0); k <= frames+1; k++ {
				check(spans.Has(k) == has[k], "has frame %d: %t", k, spans.Has(k))
			}
			check(spans.Rows() == rows, "rows %d, want %d", spans.Rows(), rows)
			for j, x := range spans {
				check(x.From <= x.To && x.RowsBefore == before[x.From] && x.RowsAfter == before[x.To+1], "span %d", j)
				check(x.FirstSent == int64(1000*x.From) && x.LastSent == int64(1000*x.To), "times of span %d", j)
				check(j == 0 || spans[j-1].To+1 < x.From, "span %d touches the one before", j)
			}
		}
	}
}
