package hub

import (
	"fmt"
	"log/slog"
	"testing"

	"github.com/thalweg/thalweg/internal/lane"
)

// A site with as many gaps as it can make hides neither those of another site nor how many there are.
func TestGapsAreShared(t *testing.T) {
	l := newLedgers(slog.New(slog.DiscardHandler), nil)
	holed := func(site string, gaps int) {
		state := lane.EpochState{Epoch: 1, Rank: 1}
		for n := range uint64(gaps + 1) {
			state.Spans = append(state.Spans, lane.Span{From: 2 * n, To: 2 * n, RowsBefore: 2 * n, RowsAfter: 2*n + 1})
		}
		l.sites[site] = &siteLedger{Ledger: lane.LedgerFrom(lane.LedgerState{Epochs: []lane.EpochState{state}})}
	}
	holed("a-hostile", 1000)
	holed("b-whole", 0)
	holed("c", 3)
	holed("d", 60)
	f := func(limit int, want string) {
		t.Helper()
		count := map[string]int{}
		for _, g := range l.gaps(limit) {
			count[g.Site]++
		}
		if got := fmt.Sprint(count); got != want {
			t.Errorf("of at most %d gaps: %s, want %s", limit, got, want)
		}
	}
	f(2000, "map[a-hostile:1000 c:3 d:60]")
	f(100, "map[a-hostile:49 c:3 d:48]")
	f(2, "map[a-hostile:1 d:1]")
	f(0, "map[]")
}
