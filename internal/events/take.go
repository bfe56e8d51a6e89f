package events

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// errNotDurable is the answer to events as long as nothing can be written.
var (
	errNotDurable = errors.New("events cannot be made durable")
	errStopped    = errors.New("the gateway stops")
)

// Outcome is what became of a payload.
type Outcome struct {
	Taken   int
	Dropped map[Reason]int // nil if there is nothing to say
}

// Take applies a payload of a sender that waits, and returns when it is durable. With an error nobody knows: the sender
// may send it again, if its events have ids.
func (g *Gateway) Take(ctx context.Context, payload []byte) (Outcome, error) {
	o, durable := g.take(payload)
	return o, durable.wait(ctx)
}

// take applies a payload, and returns what tells when it is durable.
func (g *Gateway) take(payload []byte) (o Outcome, durable *commit) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failing != nil || g.stopped || g.standby { // before it counts
		err := cmp.Or(g.failing, errStopped)
		if g.standby {
			err = errLost
		}
		return o, settled(fmt.Errorf("%w: %w", errNotDurable, err))
	}
	o.Taken = g.apply(payload, maxBody, g.options.Now().UnixMilli(), &o)
	g.metrics.taken.Add(float64(o.Taken))
	if o.Taken == 0 && o.Dropped[Duplicate] == 0 {
		return o, settled(nil)
	}
	return o, g.want()
}

// account counts events of the queue, which the metrics of prom-stream-gateway are about, too.
func (g *Gateway) account(taken int, o *Outcome) {
	g.metrics.taken.Add(float64(taken))
	g.meta.count(taken, o.dropped())
}

// apply applies a payload of at most limit bytes. It returns how many events of it were taken, and tells the outcome what
// was dropped.
func (g *Gateway) apply(payload []byte, limit int, now int64, o *Outcome) (taken int) {
	probe := g.memo.probe(payload)
	return g.applyProbe(&probe, limit, now, o)
}

// applyProbe is apply once the memo has been asked where it would know the payload from.
func (g *Gateway) applyProbe(p *probe, limit int, now int64, o *Outcome) (taken int) {
	g.changed = true
	payload := p.payload
	if r, v := g.memo.find(p); r != nil && g.state.repeat(r.member, v, now) {
		return 1
	}
	if len(payload) > limit {
		g.drop(TooLarge, payload, o)
		return 0
	}
	events, ok := g.parser.Parse(payload)
	if !ok {
		g.drop(Malformed, payload, o)
		return 0
	}
	mismatches := g.state.mismatches
	for i := range events {
		e := &events[i]
		m, reason := g.event(e, now)
		if reason != Taken {
			g.drop(reason, payload, o)
			continue
		}
		taken++
		if len(events) == 1 && mismatches == g.state.mismatches {
			g.memo.put(p, m, e, g.parser.value, g.state.size)
		}
	}
	return taken
}

func (g *Gateway) event(e *Event, now int64) (*member, Reason) {
	if e.ID != "" && e.Reason == Taken && g.state.ids.has(e.ID) {
		return nil, Duplicate
	}
	m, reason := g.state.find(e, now)
	if reason == Taken {
		reason = g.state.update(m, e, now)
	}
	if reason == Taken && e.ID != "" {
		g.state.ids.add(strings.Clone(e.ID))
	}
	return m, reason
}

// drop notes that an event is not taken.
func (g *Gateway) drop(r Reason, payload []byte, o *Outcome) {
	g.metrics.dropped[r].Inc()
	if o.Dropped == nil {
		o.Dropped = map[Reason]int{}
	}
	o.Dropped[r]++
	if r == Duplicate || r == Stale || r == Relabelled { // as it should be
		return
	}
	shown := payload[:min(len(payload), maxShown)]
	g.repeats.Log(slog.LevelWarn, "drop "+string(r), "event is not taken", slog.String("reason", string(r)), slog.String("event", string(shown)))
}

func (o *Outcome) dropped() (n int) {
	for _, k := range o.Dropped {
		n += k
	}
	return n
}
