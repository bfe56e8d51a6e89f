package hub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
)

const (
	// historyBack is how far back a hub that knows nothing reads for its ledgers.
	historyBack = 24 * time.Hour
	// historyPause is how long reading rests that was interrupted.
	historyPause = 10 * time.Second
)

var errCaughtUp = errors.New("the head of the stream is reached")

// history reads, for the ledgers alone, what the tail reader left out: what the server stored before the tail reader
// began and after the ledgers were last up to date. It is background work, done when the tail reader has caught up.
type history struct {
	hub    *Hub
	wanted chan struct{} // has room for one
	pause  time.Duration // historyPause

	mu   sync.Mutex
	left uint64 // messages still to be read, about
}

func newHistory(h *Hub) *history {
	return &history{hub: h, wanted: make(chan struct{}, 1), pause: historyPause}
}

// caughtUp says that the tail reader has.
func (h *history) caughtUp() {
	select {
	case h.wanted <- struct{}{}:
	default:
	}
}

// run reads whenever it is wanted, and again what was interrupted, until ctx ends.
func (h *history) run(ctx context.Context) {
	var again <-chan time.Time
	for {
		select {
		case <-h.wanted:
		case <-again:
		case <-ctx.Done():
			return
		}
		again = nil
		if h.hub.behind() { // the tail reader says when it has caught up again
			continue
		}
		from, needed := h.hub.ledgers.unread(h.hub.now())
		if !needed {
			h.hub.ledgers.complete(0, h.hub.now())
			continue
		}
		if err := h.read(ctx, from); err != nil && ctx.Err() == nil {
			h.hub.repeats.Log(slog.LevelWarn, "history interrupted", "reading what the stream holds was interrupted and begins again",
				slog.Duration("in", h.pause), slog.Any("err", err))
			again = time.After(h.pause)
		}
	}
}

// read reads from a time up to what is the head of the stream at the moment, which the tail reader has passed or will.
func (h *history) read(ctx context.Context, from time.Time) error {
	ctx, done := context.WithCancelCause(ctx)
	defer done(nil)
	start := h.hub.now()
	h.hub.repeats.Log(slog.LevelInfo, "history begins", "reading what the stream holds since a time, for the account of what is missing",
		slog.Time("since", from))
	receiver := lane.NewReceiver(lane.ReceiverConfig{Decoder: func(site string) (frame.DecoderConfig, bool) {
		h.hub.mu.Lock()
		defer h.hub.mu.Unlock()
		return h.hub.config.decoder(h.hub.catalog, h.hub.scratch, site)
	}})
	h.hub.mu.Lock()
	caughtUpAt := h.hub.caughtUpAt
	h.hub.mu.Unlock()
	config, _ := h.hub.configured()
	first, messages, rewound, sizes := int64(0), 0, false, newMeter()
	reader, err := h.hub.conn.NewReader(bus.ReaderOptions{
		Name: "history", Subjects: config.subjects(h.hub.conn.Root()), Start: bus.Start{Time: from},
		Handle: func(m bus.Message) error {
			if rewound {
				return errRewound
			}
			if first == 0 {
				first = m.Time.UnixMilli()
			}
			messages++
			h.setLeft(m.Pending)
			if m.Sequence <= caughtUpAt {
				h.step(receiver, config, sizes, m)
			}
			return nil
		},
		CaughtUp: func() { done(errCaughtUp) },
		Reset:    func(bus.Reset) { rewound = true },
	})
	if err != nil {
		return fmt.Errorf("read history: %w", err)
	}
	defer h.setLeft(0)
	if err := reader.Run(ctx); rewound || !errors.Is(err, errCaughtUp) {
		return fmt.Errorf("read history: %w", cmp.Or(err, errRewound))
	}
	h.hub.ledgers.complete(first, start)
	h.hub.log.Info("what the stream holds was read", "messages", messages, "took", h.hub.now().Sub(start).Round(time.Millisecond))
	return nil
}

// step takes one message. Those behind what the tail reader had read when it had caught up are its own: it alone knows
// which of their rows were let in.
func (h *history) step(receiver *lane.Receiver, config *Config, sizes *meter, m bus.Message) {
	site, l, err := h.hub.conn.Root().ParseLane(m.Subject)
	if err != nil {
		return // the tail reader counts and logs such messages
	}
	v := view{ledgers: h.hub.ledgers, history: true, at: m.Time.UnixMilli()}
	message := lane.Message{Site: site, Backfill: l == bus.Backfill, Sequence: m.Sequence, Received: v.at, Payload: m.Payload}
	handler := lane.Handler{
		Done: v.took,
		Loss: v.lose,
		Problem: func(p lane.Problem) {
			if p.Reason != lane.ReasonRefused {
				v.trouble(&p, true)
			}
		},
	}
	limits := config.SiteLimits(site)
	if within, _ := sizes.take(site, len(m.Payload), v.at, &limits); within {
		receiver.Step(message, handler)
	} else {
		receiver.TurnAway(message, errBytes, handler)
	}
}

func (h *history) setLeft(n uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.left = n
}

// pending is about how many messages are still to be read.
func (h *history) pending() float64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return float64(h.left)
}

// unread says from when on history has to be read, if at all. The tail reader has read a keyframe and a half back: of
// the last third of that time it saw every frame.
func (l *ledgers) unread(now time.Time) (from time.Time, needed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch until := time.UnixMilli(l.until); {
	case l.whole, l.until != 0 && now.Sub(until) <= tailBack-keyframeBound:
		return time.Time{}, false
	case l.until != 0:
		return until.Add(-tailBack), true
	}
	return now.Add(-historyBack), true
}

// complete notes that nothing is left to be read; first is when the oldest message that was read was stored, 0 if there
// was none.
func (l *ledgers) complete(first int64, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.whole = true
	if l.since == 0 {
		l.since = cmp.Or(first, now.UnixMilli())
	}
}

// incomplete notes that something in the stream has not been read.
func (l *ledgers) incomplete() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.whole = false
	for _, s := range l.sites {
		s.tail = 0
	}
}
