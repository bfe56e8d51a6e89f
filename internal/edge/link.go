package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/outbox"
)

const (
	// silence is how long a lane must have been quiet before a replaced process tries again.
	silence = 5 * time.Minute
	// silenceCheck is how often it looks.
	silenceCheck = 30 * time.Second
	// smallestLimit is the least that frames are bounded to, however small what the server refused.
	smallestLimit = 4 << 10
	// tailBytes is how much of a backlog goes first, on the live lane: what a link of 1 Mbit/s carries in 1.1 s.
	tailBytes = 128 << 10
	// backlogCheck is how often an idle backfill lane looks for something to fill.
	backlogCheck = 30 * time.Second
)

// keepLink publishes whenever there is a connection, until ctx ends.
func (e *Edge) keepLink(ctx context.Context) {
	for attempt := 0; ctx.Err() == nil; {
		state, changed := e.conn.Watch()
		if !state.Connected {
			e.status.set("link", state.Reason)
			e.status.clear(string(bus.Live)) // what was wrong there follows from it
			e.status.clear(string(bus.Backfill))
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		e.status.clear("link")
		resolved := false
		err := e.whileConnected(ctx, func(ctx context.Context) (err error) {
			resolved, err = e.session(ctx)
			return err
		})
		if resolved {
			attempt = 0
		}
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errReplaced):
			e.status.set("link", err.Error())
			e.log.Error("another process publishes as this site; this one keeps its rows in the outbox", "site", e.site,
				"epoch", e.Epoch(), "err", err)
			e.awaitSilence(ctx)
			continue
		case err != nil && !errors.Is(err, context.Canceled):
			e.repeats.Log(slog.LevelWarn, "interrupted", "publishing was interrupted", slog.String("site", e.site), slog.Any("err", err))
		}
		if pause(ctx, attempt) != nil {
			return
		}
		attempt = (attempt + 1) % 8
	}
}

// whileConnected runs f with a context that ends with the connection of this moment.
func (e *Edge) whileConnected(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	state, changed := e.conn.Watch()
	var watcher sync.WaitGroup
	defer watcher.Wait()
	defer cancel()
	watcher.Go(func() {
		for state.Connected {
			select {
			case <-changed:
				state, changed = e.conn.Watch()
			case <-ctx.Done():
				return
			}
		}
		cancel()
	})
	return f(ctx)
}

// session is the life of one connection. It reports whether the lanes could be looked at, besides why it ended.
func (e *Edge) session(ctx context.Context) (resolved bool, err error) {
	e.mu.Lock()
	e.applyLimit()
	e.mu.Unlock()
	for {
		last, err := e.resolve(ctx)
		if err != nil {
			return resolved, err
		}
		resolved = true
		err = e.runLanes(ctx, last)
		if !errors.Is(err, errReplan) {
			return resolved, err
		}
		e.log.Info("live lane is planned anew", "site", e.site, "err", err)
	}
}

// resolve looks at both lanes and returns our last frame on the live one.
func (e *Edge) resolve(ctx context.Context) (last frame.ID, err error) {
	last, err = e.live.resolve(ctx)
	if err != nil {
		return last, err
	}
	if _, err := e.backfill.resolve(ctx); err != nil {
		return last, err
	}
	e.live.regain()
	e.backfill.regain()
	e.resending.Store(false)
	e.serverLost(e.live, e.backfill)
	if id, ok := e.backfill.publisher.Missing(); ok {
		e.outbox.Unack(id.Epoch, id.Number, id.Number) // so that there is something to publish
	}
	return last, nil
}

var errServerLost = fmt.Errorf("%w: the server lost frames", errReplan)

// serverLost reports, once, whether a lane found out that the server lost frames.
func (e *Edge) serverLost(lanes ...*wire) bool {
	lost := false
	for _, w := range lanes {
		lost = lost || w.lost
		w.lost = false
	}
	if lost {
		e.resending.Store(true)
		e.metrics.serverLosses.Inc()
		e.log.Warn("the server no longer holds what it had stored; sending again what the outbox holds", "site", e.site)
	}
	return lost
}

// runLanes plans where the live lane goes on and runs both lanes until one fails.
func (e *Edge) runLanes(ctx context.Context, last frame.ID) error {
	standing := e.standing(last)
	start := lane.PlanStart(standing, e.now().UnixMilli())
	if e.broken { // what comes next in the outbox applies to frames that cannot be sent
		start, e.broken = lane.Start{Keyframe: true}, false
	}
	reader, from := (*outbox.Reader)(nil), start.From
	if start.Keyframe {
		var err error
		if reader, from, err = e.cutHere(); err != nil {
			e.log.Warn("flush before a keyframe", "site", e.site, "err", err)
		}
	} else {
		reader = e.outbox.Reader(start.From)
	}
	e.log.Debug("live lane goes on", "site", e.site, "from", from, "keyframe", start.Keyframe, "oldest", standing.Oldest)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var backfill sync.WaitGroup
	var backfillErr error
	fresh := make(chan struct{}) // closed when the hubs have what was newest
	backfill.Go(func() {
		select {
		case <-fresh:
			backfillErr = e.runBackfill(ctx, from)
		case <-ctx.Done():
			backfillErr = ctx.Err()
		}
		if backfillErr != nil {
			cancel()
		}
	})
	err := e.runLive(ctx, reader, standing.Head, sync.OnceFunc(func() { close(fresh) }))
	cancel()
	backfill.Wait()
	if err == nil || errors.Is(err, context.Canceled) && backfillErr != nil {
		err = backfillErr
	}
	return err
}

// standing is where the edge stands, with a last frame on the live lane.
func (e *Edge) standing(last frame.ID) lane.Standing {
	s := lane.Standing{Last: last, InOrder: e.inOrder()}
	head, _ := e.outbox.Last()
	s.Head = head.ID
	s.Newest, s.NewestSent = e.outbox.NewestKeyframe()
	unacked := e.outbox.Unacked()
	if len(unacked) == 0 {
		return s
	}
	oldest := &unacked[0]
	s.Oldest, s.OldestSent = frame.ID{Epoch: oldest.Epoch, Number: oldest.From}, oldest.FirstSent
	s.Group = s.Oldest
	if group, ok := e.outbox.KeyframeBefore(s.Oldest); ok {
		s.Group = group
	}
	if _, missing := e.backfill.publisher.Missing(); !missing { // else that lane must have something to publish
		s.Tail = e.outbox.TailKeyframe(e.tailRoom())
	}
	return s
}

// tailRoom is how much of a backlog may go first. Who bounds the rate of a backlog means the end of it too.
func (e *Edge) tailRoom() int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	if perSecond := int64(e.config.Outbox.BackfillBytesPerSecond); perSecond > 0 {
		return min(e.tailBytes, 2*perSecond)
	}
	return e.tailBytes
}

// runLive publishes what the reader gives, and what comes behind it, on the live lane. Frames up to
// head, which was the newest when it was planned, may be old; when it is behind them it calls fresh.
func (e *Edge) runLive(ctx context.Context, reader *outbox.Reader, head frame.ID, fresh func()) error {
	defer reader.Close()
	for {
		_, more := e.newestFrame()
		data, first, last, err := reader.Next(e.live.room())
		var gap *outbox.GapError
		switch {
		case errors.Is(err, outbox.ErrHead):
			fresh()
			select {
			case <-more:
			case <-ctx.Done():
				return ctx.Err()
			}
			continue
		case errors.As(err, &gap):
			e.log.Warn("frames are missing in the outbox", "site", e.site, "err", err)
			continue
		case err != nil:
			e.unreadable(bus.Live, err)
			if err := pause(ctx, 3); err != nil {
				return err
			}
			continue
		}
		behind := !e.outbox.Holds(head) || e.outbox.Before(head, first.ID)
		if behind {
			fresh()
		}
		if behind && lane.Old(first.Sent, e.now().UnixMilli()) && !e.inOrder() {
			return fmt.Errorf("%w: the live lane has fallen behind: frame %s is of %s", errReplan, first.ID, first.SentTime().UTC().Format(time.RFC3339))
		}
		if err := e.pace.live(ctx, len(data)); err != nil {
			return err
		}
		if err := e.live.send(ctx, data, &first, &last); err != nil {
			if errors.Is(err, bus.ErrTooLarge) {
				e.tooLarge(e.live, &first, &last, len(data), err)
				err = fmt.Errorf("%w: %w", errReplan, err)
			}
			return err
		}
		if e.serverLost(e.live) {
			return errServerLost
		}
	}
}

// tooLarge deals with a message that the server will never take: it tries smaller ones, or gives a frame up. It reports
// whether there are smaller ones.
func (e *Edge) tooLarge(w *wire, first, last *frame.Header, bytes int, cause error) bool {
	w.largest = bytes / 2
	e.limitFrames(bytes / 2)
	if first.Number != last.Number {
		return true
	}
	if !e.outbox.Acked(first.ID) { // else it was given up before
		e.skip(first, last, cause)
	}
	if w == e.live { // the other lane has a goroutine of its own
		e.broken = true
	}
	return false
}

// limitFrames bounds the frames that are made from now on, by what one proved to be too large.
func (e *Edge) limitFrames(bytes int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.largest == 0 || bytes < e.largest {
		e.largest = max(bytes, smallestLimit)
	}
	e.applyLimit()
}

// applyLimit tells the sender what the server takes. The caller holds mu.
func (e *Edge) applyLimit() {
	limit := frame.DefaultMaxBody
	if most := int(e.conn.MaxPayload())/2 - headroom; most > 0 {
		limit = min(limit, most)
	}
	if e.largest > 0 {
		limit = min(limit, e.largest)
	}
	e.sender.Limit(limit)
}

var errNeedsLarger = errors.New("they apply to a frame that was larger than the server allows")

// skip gives up frames that no message can carry.
func (e *Edge) skip(first, last *frame.Header, cause error) {
	e.outbox.Ack(first.Epoch, first.Number, last.Number)
	loss := outbox.Loss{Cause: outbox.CauseOversize, Range: outbox.Range{
		Epoch: first.Epoch, From: first.Number, To: last.Number, Rows: last.RowsAfter() - first.RowsBefore,
		FirstSent: first.Sent, LastSent: last.Sent,
	}}
	e.outbox.Lose(loss)
	e.log.Error("frames cannot be sent and are given up", "site", e.site, "epoch", first.Epoch,
		"from", first.Number, "to", last.Number, "rows", loss.Rows, "bytes", first.Size, "err", cause)
}

// runBackfill publishes what is not stored of the frames before live on the backfill lane, oldest first, until ctx ends.
func (e *Edge) runBackfill(ctx context.Context, live frame.ID) error {
	e.mu.Lock()
	bytesPerSecond := e.config.Outbox.BackfillBytesPerSecond
	e.mu.Unlock()
	limit := rate.NewLimiter(rate.Inf, 0)
	if bytesPerSecond > 0 {
		limit = rate.NewLimiter(rate.Limit(bytesPerSecond), int(bytesPerSecond))
	}
	for {
		r, ok := e.oldestBefore(live)
		if !ok {
			t := time.NewTimer(backlogCheck)
			select {
			case <-t.C:
				continue
			case <-ctx.Done():
				t.Stop()
				return ctx.Err()
			}
		}
		if err := e.fill(ctx, r, limit); err != nil {
			return err
		}
	}
}

// oldestBefore returns the oldest run of frames before live that is not stored.
func (e *Edge) oldestBefore(live frame.ID) (outbox.Range, bool) {
	unacked := e.outbox.Unacked()
	if len(unacked) == 0 {
		return outbox.Range{}, false
	}
	r := unacked[0]
	if !e.outbox.Before(frame.ID{Epoch: r.Epoch, Number: r.From}, live) {
		return outbox.Range{}, false
	}
	if r.Epoch == live.Epoch {
		r.To = min(r.To, live.Number-1)
	}
	return r, true
}

// fill publishes a run of frames on the backfill lane and says so.
func (e *Edge) fill(ctx context.Context, r outbox.Range, limit *rate.Limiter) error {
	begun := e.now()
	log := e.log.With("site", e.site, "epoch", r.Epoch, "from", r.From, "to", r.To, "rows", r.Rows)
	log.Info("filling a gap", "bytes", r.Bytes)
	err := e.publishRun(ctx, r, limit)
	if err == nil && e.outbox.Acked(frame.ID{Epoch: r.Epoch, Number: r.To}) { // else the rest is found anew
		log.Info("gap is filled", "took", e.now().Sub(begun).Round(time.Millisecond))
	}
	return err
}

// publishRun publishes a run of frames on the backfill lane, from the keyframe before it. If one is too large, those that
// need it are given up too.
func (e *Edge) publishRun(ctx context.Context, r outbox.Range, limit *rate.Limiter) error {
	from := frame.ID{Epoch: r.Epoch, Number: r.From}
	if group, ok := e.outbox.KeyframeBefore(from); ok {
		from = group
	}
	reader := e.outbox.Reader(from)
	defer reader.Close()
	broken := false
	for {
		data, first, last, err := reader.Next(e.backfill.room())
		var gap *outbox.GapError
		switch {
		case errors.Is(err, outbox.ErrHead):
			return nil
		case errors.As(err, &gap):
			return nil // the outbox announces what is lost; what is left is found anew
		case err != nil:
			e.unreadable(bus.Backfill, err)
			if err := pause(ctx, 3); err != nil {
				return err
			}
			continue
		}
		if first.Epoch != r.Epoch || first.Number > r.To {
			return nil
		}
		if broken = broken && first.Kind == frame.Delta; broken {
			e.skip(&first, &last, errNeedsLarger)
		} else {
			if err := waitFor(ctx, limit, len(data), len(data)); err != nil {
				return err
			}
			if err := e.pace.backlog(ctx, len(data)); err != nil {
				return err
			}
			err := e.backfill.send(ctx, data, &first, &last)
			switch {
			case errors.Is(err, bus.ErrTooLarge):
				if e.tooLarge(e.backfill, &first, &last, len(data), err) {
					return nil // found anew
				}
				broken = true
			case err != nil:
				return err
			}
		}
		if e.serverLost(e.backfill) {
			return errServerLost
		}
		if last.Number >= r.To {
			return nil
		}
	}
}

// awaitSilence returns when nobody has published on the live lane for a while, or ctx ended.
func (e *Edge) awaitSilence(ctx context.Context) {
	var last uint64
	quiet := e.now()
	t := time.NewTicker(e.silenceCheck)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		m, err := e.conn.Last(ctx, e.live.subject)
		if err != nil && !errors.Is(err, bus.ErrNoMessage) {
			quiet = e.now() // what cannot be seen is not silent
			continue
		}
		if m.Sequence != last {
			last, quiet = m.Sequence, e.now()
		}
		if e.now().Sub(quiet) >= e.silence {
			e.log.Warn("the other process fell silent; publishing again", "site", e.site)
			e.live.publisher.Forgive()
			e.backfill.publisher.Forgive()
			return
		}
	}
}
