package edge

import (
	"context"
	"time"

	"golang.org/x/time/rate"

	"github.com/thalweg/thalweg/internal/lane"
)

const (
	// hubShare is how much is used of what hubs take: they measure elsewhere, and drop what is beyond it.
	hubShare = 0.9
	// paceBurst is how long an edge may have saved up bytes for. It is less than at a hub.
	paceBurst = 5 * time.Second
	// paceTurn is how long a backlog waits at a time before live frames may go first.
	paceTurn = 100 * time.Millisecond
)

// pace bounds the bytes that both lanes send per second. Live frames go first: a backlog waits until none does.
type pace struct {
	limit *rate.Limiter
	turn  chan struct{} // full while somebody waits: for a whole live frame, for paceTurn of a backlog
}

func newPace() *pace { return &pace{limit: rate.NewLimiter(rate.Inf, 0), turn: make(chan struct{}, 1)} }

// set puts a limit in force; 0 is none.
func (p *pace) set(bytesPerSecond float64) {
	if bytesPerSecond == 0 {
		p.limit.SetLimit(rate.Inf)
		return
	}
	p.limit.SetBurst(max(1, int(bytesPerSecond*paceBurst.Seconds())))
	p.limit.SetLimit(rate.Limit(bytesPerSecond))
}

// live returns when a message of so many bytes may be sent on the live lane.
func (p *pace) live(ctx context.Context, bytes int) error {
	if p.limit.Limit() == rate.Inf {
		return nil
	}
	return p.wait(ctx, bytes, p.limit.Burst())
}

// backlog returns when a message of so many bytes may be sent on the backfill lane.
func (p *pace) backlog(ctx context.Context, bytes int) error {
	for bytes > 0 && p.limit.Limit() != rate.Inf {
		portion := min(bytes, max(1, int(float64(p.limit.Limit())*paceTurn.Seconds())))
		if err := p.wait(ctx, portion, portion); err != nil {
			return err
		}
		bytes -= portion
	}
	return nil
}

// wait waits for a turn, and then for n bytes.
func (p *pace) wait(ctx context.Context, n, portion int) error {
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-p.turn }()
	return waitFor(ctx, p.limit, n, portion)
}

// waitFor takes n bytes from the limiter, in portions that it allows.
func waitFor(ctx context.Context, limit *rate.Limiter, n, portion int) error {
	if limit.Limit() == rate.Inf {
		return nil
	}
	for n > 0 {
		portion := min(n, portion, limit.Burst())
		if err := limit.WaitN(ctx, portion); err != nil {
			return err
		}
		n -= portion
	}
	return nil
}

// keepPace puts the least in force of what the configuration and the hubs allow. Before any hub has answered that is what
// hubs allow by default. The caller holds mu.
func (e *Edge) keepPace() {
	least := float64(e.config.Limits.BytesPerSecond)
	bound := func(bytesPerSecond float64) {
		if bytesPerSecond > 0 && (least == 0 || bytesPerSecond < least) {
			least = bytesPerSecond
		}
	}
	if len(e.welcomes) == 0 {
		bound(hubShare * lane.DefaultBytesPerSecond)
	}
	for _, w := range e.welcomes {
		bound(hubShare * float64(w.BytesPerSecond))
	}
	e.pace.set(least)
}
