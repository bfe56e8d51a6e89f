package hub

import (
	"context"
	"testing"

	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/series"
)

// resumable is a destination that notes whether the output has delivered before.
type resumable struct {
	*taker
	t       *testing.T
	resumed bool
	rows    int
}

func (r *resumable) Resume() {
	if r.rows > 0 {
		r.t.Error("it resumes behind its first row")
	}
	r.resumed = true
}

func (r *resumable) Row(site string, row *series.Row) {
	r.rows++
	r.taker.Row(site, row)
}

// TestResume: a destination is told that there was a run before its own, if that had delivered.
func TestResume(t *testing.T) {
	server := bustest.NewServer(t)
	c := newHub(t, bustest.Hub(t, server))
	w := newWriter(t, server.URL(), "ams-1", 1, 5)
	d, dir := newCollector(), t.TempDir()
	run := func(want bool, rows int) {
		t.Helper()
		live, late := &resumable{taker: d.live(), t: t}, &resumable{taker: d.later(), t: t}
		o, err := NewOutput(OutputOptions{Name: "out", Dir: dir, Hub: c.Hub, Live: live, Backfill: late, Oldest: true})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- o.Run(ctx) }()
		if rows > 0 {
			d.wait(t, rows)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := o.Close(); err != nil {
			t.Error(err)
		}
		if live.resumed != want || late.resumed != want {
			t.Errorf("resumed: live %t, backfill %t, want %t", live.resumed, late.resumed, want)
		}
	}
	run(false, 0)
	w.live(1)
	run(false, 1)
	run(true, 0)
}
