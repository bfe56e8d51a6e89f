package edge

import (
	"context"
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

// backlogWatch says in the log what waits in the outbox, when something has waited for more than lane.Backlog, and
// that it is gone. It is for one goroutine.
type backlogWatch struct {
	told time.Time // when it was said last; zero: nothing waits
}

// look is to be called every few seconds.
func (b *backlogWatch) look(e *Edge) {
	now, s := e.now(), e.outbox.Stats()
	switch waits := s.UnackedFrames > 0 && lane.Old(s.OldestUnacked.UnixMilli(), now.UnixMilli()); {
	case !waits && b.told.IsZero() || waits && !b.told.IsZero() && now.Sub(b.told).Abs() < backlogEvery:
		return
	case !waits:
		b.told = time.Time{}
		e.log.Info("the server has all rows again", "site", e.site)
		return
	}
	b.told = now
	level, left := slog.LevelInfo, "not known yet"
	if s.Left >= 0 {
		left = s.Left.Round(time.Minute).String()
		if s.Left < backlogShort {
			level = slog.LevelWarn
		}
	}
	e.log.Log(context.Background(), level, "rows wait in the outbox", "site", e.site, "since", s.OldestUnacked.UTC(),
		"rows", s.UnackedRows, "bytes", s.UnackedBytes, "limit", s.Limit, "left", left)
}
