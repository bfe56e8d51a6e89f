package hub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/pipeline"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/store"
)

// Why a tail reader begins anew.
var (
	errRewound = errors.New("the stream is not the one that was read")
	errBehind  = errors.New("the head of the stream is far ahead")
)

// tailPlace is where the tail reader is.
type tailPlace struct {
	at      time.Time // when the server stored the last message that was read; zero before the first
	pending uint64    // messages behind it
}

// keepTail reads the stream from a keyframe and a half back, and goes on at its head. If the stream turns out to be
// another one, or the head is so far ahead that it would take long to get there, it begins again like that; what it
// leaves out history reads.
func (h *Hub) keepTail(ctx context.Context) error {
	for {
		err := h.readTail(ctx)
		if !errors.Is(err, errRewound) && !errors.Is(err, errBehind) {
			return err
		}
		if errors.Is(err, errBehind) {
			h.log.Warn("hub was cut off for long; going on near the head of the stream")
		}
	}
}

func (h *Hub) readTail(ctx context.Context) error {
	begun, rewound := h.now(), false
	config, _ := h.configured()
	var reader *bus.Reader
	reader, err := h.conn.NewReader(bus.ReaderOptions{
		Name:     "tail",
		Subjects: config.subjects(h.conn.Root()),
		Start:    bus.Start{Time: begun.Add(-tailBack), Known: h.ledgers.stood()},
		Handle: func(m bus.Message) error {
			switch now := h.now(); {
			case rewound:
				return errRewound // its start was long ago by now
			case m.Pending > skipBehind && now.Sub(m.Time) > 2*tailBack && now.Sub(begun) > tailBack:
				return errBehind
			}
			h.step(m)
			return nil
		},
		CaughtUp: func() {
			h.mu.Lock()
			h.catchingUp, h.tail.pending = false, 0
			h.caughtUpAt = max(h.tailPosition().Sequence, reader.Head())
			h.mu.Unlock()
			h.caughtUpOnce.Do(func() { close(h.caughtUp) })
			h.history.caughtUp()
		},
		Trouble: h.setTrouble,
		Reset: func(r bus.Reset) {
			rewound = true
			h.ledgers.void()
			h.mu.Lock()
			defer h.mu.Unlock()
			h.reset = StreamReset{h.now(), r}
		},
	})
	if err != nil {
		return fmt.Errorf("read lanes: %w", err)
	}
	h.setTrouble(nil) // that of a reader before this one
	h.mu.Lock()
	h.tailPosition = reader.Position
	h.mu.Unlock()
	err = reader.Run(ctx)
	h.ledgers.stand(reader.Position())
	h.mu.Lock()
	defer h.mu.Unlock()
	h.receiver.Restart()
	h.shares = newShares(h.shares.maxBytes, h.shares.maxAge)
	h.catchingUp = true
	h.ledgers.incomplete()
	return err
}

// StreamReset tells that the stream turned out not to be the one that was read.
type StreamReset struct {
	At time.Time // by this clock; zero if it never did
	bus.Reset
}

// LastReset is the last one since the hub started.
func (h *Hub) LastReset() StreamReset {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.reset
}

// step takes one message of the stream.
func (h *Hub) step(m bus.Message) {
	site, l, err := h.conn.Root().ParseLane(m.Subject)
	if err != nil {
		h.metrics.problems.WithLabelValues("subject").Inc()
		h.repeats.Log(slog.LevelWarn, "subject "+m.Subject, "message on a subject that is no lane", slog.Any("err", err))
		return
	}
	now := h.now()
	v := view{ledgers: h.ledgers, at: m.Time.UnixMilli()}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.metrics.messages.WithLabelValues(string(l)).Inc()
	h.metrics.bytes.WithLabelValues(string(l)).Add(float64(len(m.Payload)))
	message := lane.Message{Site: site, Backfill: l == bus.Backfill, Sequence: m.Sequence, Received: now.UnixMilli(), Payload: m.Payload}
	handler := lane.Handler{
		Row: func(d *lane.Delivery, row *series.Row) { h.row(d, row, now, &v) },
		Done: func(d *lane.Delivery) {
			v.took(d)
			h.metrics.frames.WithLabelValues(string(l)).Inc()
			if !d.Backfill {
				h.metrics.delay.Observe(max(float64(now.UnixMilli()-d.Header.Sent)/1000, 0))
			}
		},
		Loss: v.lose,
		Problem: func(p lane.Problem) {
			v.trouble(&p, h.catchingUp)
			h.complain(&p, l)
		},
	}
	if h.within(site, m, now) {
		h.receiver.Step(message, handler)
	} else {
		h.receiver.TurnAway(message, errBytes, handler)
	}
	if before := h.shares.add(site, m.Sequence, v.at, len(m.Payload)); before > 0 {
		h.wantPurge(site, before)
	}
	h.tail = tailPlace{m.Time, m.Pending}
	h.ledgers.reach(v.at)
}

// within reports whether a site may send a message beside what it has sent, and has it cut off if it is far from that.
// The caller holds mu.
func (h *Hub) within(site string, m bus.Message, now time.Time) bool {
	limits := h.config.SiteLimits(site)
	within, flood := h.meter.take(site, len(m.Payload), m.Time.UnixMilli(), &limits)
	if flood && now.Sub(m.Time) < floodWindow { // else it was before this hub started
		h.metrics.floods.Inc()
		h.log.Error("site sends far more than it may and is refused for a while", slog.String("site", site),
			slog.String("bytes_per_second", limits.BytesPerSecond.String()), slog.Duration("refused", cutOff))
		if h.refuse != nil {
			h.refuse(site, cutOff)
		}
	}
	return within
}

// row applies a row to the store. The caller holds mu.
func (h *Hub) row(d *lane.Delivery, row *series.Row, now time.Time, v *view) {
	h.metrics.rows.Inc()
	h.metrics.samples.Add(float64(row.Samples()))
	err := h.guards.apply(d.Site, d.Backfill, row, v.at, func(row *series.Row) error {
		return h.store.Apply(d.Site, store.Rank{Epoch: d.Rank.Epoch, Frame: d.Rank.Number}, row, now.UnixMilli())
	})
	if err != nil {
		if refused, ok := errors.AsType[*pipeline.RefusedError](err); ok {
			h.metrics.refusedRows.WithLabelValues(string(refused.Reason)).Inc()
		}
		v.reject(d.Site, d.Header)
		h.repeats.Log(slog.LevelWarn, "row "+d.Site, "row was refused", slog.String("site", d.Site),
			slog.String("source", row.Source.Key), slog.Any("err", err))
		return
	}
	h.lastRow[d.Site] = now.UnixMilli()
}

// complain counts and logs a problem, and asks for a keyframe where that helps. The caller holds mu.
func (h *Hub) complain(p *lane.Problem, l bus.Lane) {
	h.metrics.problems.WithLabelValues(string(p.Reason)).Inc()
	h.repeats.Log(slog.LevelWarn, string(p.Reason)+" "+p.Message.Site, "frame was not taken", slog.String("site", p.Message.Site),
		slog.String("lane", string(l)), slog.Uint64("sequence", p.Message.Sequence), slog.String("reason", string(p.Reason)), slog.Any("err", p.Err))
	if p.WantsKeyframe() && !errors.Is(p.Err, errBytes) { // that would be more bytes; it is asked for when there is room
		h.control.wantKeyframe(p.Message.Site)
	}
}
