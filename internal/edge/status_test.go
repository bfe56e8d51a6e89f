package edge

import (
	"slices"
	"testing"
)

// Who watches problems wakes up when they change, and only then.
func TestWatchProblems(t *testing.T) {
	e := &Edge{status: newStatusBoard()}
	f := func(change func(), wakes bool, want ...Problem) {
		t.Helper()
		_, changed := e.WatchProblems()
		change()
		woken := false
		select {
		case <-changed:
			woken = true
		default:
		}
		if got := e.Problems(); woken != wakes || !slices.Equal(got, want) {
			t.Errorf("woken %t, want %t; problems are %v, want %v", woken, wakes, got, want)
		}
	}
	set := func(part, reason string) func() { return func() { e.status.set(part, reason) } }
	clear := func(part string) func() { return func() { e.status.clear(part) } }
	f(clear("link"), false)
	f(set("link", "refused"), true, Problem{"link", "refused"})
	f(set("link", "refused"), false, Problem{"link", "refused"})
	f(set(PartOutbox, "full"), true, Problem{"link", "refused"}, Problem{PartOutbox, "full"})
	f(set("link", "EOF"), true, Problem{"link", "EOF"}, Problem{PartOutbox, "full"})
	f(clear("link"), true, Problem{PartOutbox, "full"})
	f(clear("link"), false, Problem{PartOutbox, "full"})
}
