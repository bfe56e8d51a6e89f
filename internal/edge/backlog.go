package edge

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/thalweg/thalweg/internal/lane"
)

const (
	// backlogEvery is how often the log says what waits in the outbox.
	backlogEvery = 10 * time.Minute
	// backlogShort is when that becomes a warning.
	backlogShort = time.Hour
)

// backlogWatch says in the log what waits in the outbox, when something has waited for more than lane.Backlog, that some
// of it was dropped, and that nothing waits any more. It is for one goroutine.
type backlogWatch struct {
	told   time.Time // when it was said last; zero: nothing waits
	before uint64    // rows that had been dropped when nothing waited
}

// look is to be called every few seconds.
func (b *backlogWatch) look(e *Edge) {
	now, s := e.now(), e.outbox.Stats()
	waits := s.UnackedFrames > 0 && lane.Old(s.OldestUnacked.UnixMilli(), now.UnixMilli())
	if !b.told.IsZero() && s.UnackedFrames > 0 && !e.conn.State().Connected {
		waits = true // the oldest are young because older ones were dropped
	}
	dropped := s.DroppedRows - b.before
	level := slog.LevelInfo
	if dropped > 0 {
		level = slog.LevelWarn
	}
	switch {
	case !waits:
		if b.before = s.DroppedRows; b.told.IsZero() {
			return
		}
		b.told = time.Time{}
		e.status.clear(PartBacklog)
		e.log.Log(context.Background(), level, "no rows wait in the outbox any more", "site", e.site, "dropped", dropped)
		return
	case dropped > 0:
		e.status.set(PartBacklog, fmt.Sprintf("%d rows were dropped unsent, as the outbox was full or they were too old", dropped))
	}
	if !b.told.IsZero() && now.Sub(b.told).Abs() < backlogEvery {
		return
	}
	b.told = now
	left := "not known yet"
	if s.Left >= 0 {
		left = s.Left.Round(time.Minute).String()
		if s.Left < backlogShort {
			level = slog.LevelWarn
		}
	}
	e.log.Log(context.Background(), level, "rows wait in the outbox", "site", e.site, "since", s.OldestUnacked.UTC(),
		"rows", s.UnackedRows, "bytes", s.UnackedBytes, "limit", s.Limit, "disk_free", s.Free, "left", left, "dropped", dropped)
}
