package bus

import (
	"context"
	"strings"
	"time"
)

const (
	// keepEvery is how often the stream is looked after, keepRetry how often while something is wrong.
	keepEvery = 30 * time.Second
	keepRetry = 2 * time.Second
)

// KeepStream calls EnsureStream at each connect, when a reader or a publish of this connection misses the
// stream, and now and then, so that a stream that was deleted comes back, until ctx ends. report is told why the stream cannot
// be used at the moment, "" if it can.
func (c *Conn) KeepStream(ctx context.Context, report func(problem string)) {
	var differed, failed string // as last logged
	for ctx.Err() == nil {
		state, changed := c.Watch()
		problem := ""
		if !state.Connected {
			problem = "not connected: " + state.Reason
			differed, failed = "", ""
		} else if result, err := c.EnsureStream(ctx); err != nil {
			problem = err.Error()
		} else {
			if result.Created {
				c.log.Info("stream created", "stream", c.options.Config.Stream.Name)
			}
			if d := strings.Join(result.Differences, "; "); d != differed {
				differed = d
				if d != "" {
					c.log.Warn("stream differed from the configuration", "stream", c.options.Config.Stream.Name, "what", d,
						"updated", result.Updated)
				}
			}
		}
		if ctx.Err() != nil {
			return
		}
		if state.Connected && problem != failed {
			failed = problem
			if problem != "" {
				c.log.Warn("stream cannot be used", "stream", c.options.Config.Stream.Name, "err", problem)
			}
		}
		report(problem)
		wait := keepEvery
		if problem != "" {
			wait = keepRetry
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-changed:
		case <-c.missing:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// missStream lets KeepStream look after the stream at once.
func (c *Conn) missStream() {
	select {
	case c.missing <- struct{}{}:
	default:
	}
}
