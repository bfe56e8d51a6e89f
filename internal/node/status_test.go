package node

import (
	"fmt"
	"testing"

	"github.com/thalweg/thalweg/internal/edge"
	"github.com/thalweg/thalweg/internal/web"
)

// A process with both roles lists the lanes of its site twice: as it reads them and as it writes them.
func TestLanesOfBothRoles(t *testing.T) {
	n := start(t, fmt.Sprintf("site: ams-1\ndata_dir: %q\nnats: {embedded: {listen: '127.0.0.1:0'}}\nhub: {}\nedge: {}\n", t.TempDir()))
	lanes := map[string]web.Lane{}
	await(t, "frames on the live lane", func() bool {
		for _, l := range n.lanes() {
			lanes[l.Role+" "+l.Lane] = l
		}
		read, written := lanes["hub live"], lanes["edge live"]
		return read.Rows > 0 && written.Number >= read.Number
	})
	read, written := lanes["hub live"], lanes["edge live"]
	if read.Site != "ams-1" || read.Epoch == "" || read.Epoch != written.Epoch || read.Sequence == 0 || read.Bytes == 0 || read.LastFrame.IsZero() || read.State != "in order" {
		t.Errorf("the hub reads %+v, the edge writes %+v", read, written)
	}
	if unused, ok := lanes["hub backfill"]; !ok || unused.Site != "ams-1" || unused.Number != 0 || unused.State != "nothing came yet" {
		t.Errorf("the hub says of the backfill lane: %+v", unused)
	}
	if len(lanes) != 4 {
		t.Errorf("%d lanes, want 4: %+v", len(lanes), lanes)
	}
}

// Readiness says what becomes of the rows.
func TestWhatIsKept(t *testing.T) {
	f := func(want string, parts ...string) {
		t.Helper()
		var problems []edge.Problem
		for _, part := range parts {
			problems = append(problems, edge.Problem{Part: part})
		}
		if got := kept(problems); got != want {
			t.Errorf("with problems of %v it says %q, want %q", parts, got, want)
		}
	}
	f("rows are kept in the outbox", "link")
	f("newer rows are kept in the outbox", edge.PartBacklog, "link")
	f("rows that come now are lost", edge.PartBacklog, "link", edge.PartOutbox)
}
