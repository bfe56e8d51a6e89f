package hub

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/series"
)

// feed is the way of an output's live rows, or of its backfill: a reader, and a batch for a destination. All but what is
// guarded by a mutex is for the goroutine of run.
type feed struct {
	output      *Output
	lane        bus.Lane
	backfill    bool
	destination Destination
	events      chan feedEvent
	most        int  // maxPending
	newest      bool // of an output of the newest rows
	reader      *bus.Reader
	at          time.Time // of the last message, by the server's clock
	restarted   time.Time // when the place to begin again was noted

	// passed is the sequence of the last message that was read, and idle tells whether there was none behind it. apart: only
	// this lane is read. All three are for the other feed, too.
	passed atomic.Uint64
	idle   atomic.Bool
	apart  bool
	heard  []heard // in the order of the stream, one of each site
	// known is the last frame that was delivered before and decoded again.
	known frame.ID

	places keyPlaces
	place  bus.Position // what places said last
	placed time.Time    // when that was
	meter  *meter       // guarded by output.mu

	// The batch: what was taken since the last flush that was done.
	frames  []delivered
	rows    int              // handed to the destination
	markers []int            // which of them say that series ended
	refused map[int]struct{} // rows that it will never take
	begun   time.Time        // when its first frame was taken
	later   bool             // a flush was not done

	status *feedRecord
}

// feedEvent is a message, with the position in front of it, or a reset, or that all was read.
type feedEvent struct {
	bus.Message
	before          bus.Position
	reset, caughtUp bool
}

// delivered is a frame whose rows the destination was given.
type delivered struct {
	site   string
	header frame.Header
	losses []frame.Loss // that it tells of
	stored int64        // when the server stored it, ms since 1970
	begin  bus.Position // where reading would begin again for it and those behind it
	// first is the number of its first row in the batch, and samples how many its rows have.
	first   int
	samples int
	// rejected counts rows that the site's guard did not let in, refused those that the destination did not take.
	rejected, refused uint64
	whole             bool // it came to its end, and did not come before
}

func newFeed(o *Output, l bus.Lane, d Destination) *feed {
	config, _ := o.hub.configured()
	return &feed{
		apart: config.Parts != AllParts, output: o, lane: l, backfill: l == bus.Backfill, destination: d, events: make(chan feedEvent), most: maxPending,
		places: keyPlaces{}, meter: newMeter(), refused: map[int]struct{}{},
	}
}

// run reads and delivers until ctx ends or something fails.
func (f *feed) run(ctx context.Context) error {
	o := f.output
	config, _ := o.hub.configured()
	start := bus.Start{Position: o.cursor.restartOf(f.backfill)}
	if o.since > 0 {
		start.Time = time.UnixMilli(o.since).Add(-tailBack)
	}
	ctx, cancel := context.WithCancel(ctx)
	var err error
	f.reader, err = o.hub.conn.NewReader(bus.ReaderOptions{
		Name: o.name + " " + string(f.lane), Subjects: config.subjectsOf(o.hub.conn.Root(), f.lane), Start: start,
		Handle:   func(m bus.Message) error { return f.hand(ctx, feedEvent{Message: m, before: f.reader.Position()}) },
		Reset:    func(bus.Reset) { _ = f.hand(ctx, feedEvent{reset: true}) }, // else Run ends anyway
		CaughtUp: func() { _ = f.hand(ctx, feedEvent{caughtUp: true}) },       // likewise
		Trouble:  f.status.trouble,
	})
	if err != nil {
		cancel()
		return err
	}
	read := make(chan error, 1)
	go func() { read <- f.reader.Run(ctx) }()
	err = f.loop(ctx)
	cancel()
	return cmp.Or(err, <-read)
}

// hand gives an event to the loop.
func (f *feed) hand(ctx context.Context, e feedEvent) error {
	select {
	case f.events <- e:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// loop fills batches and flushes them. It returns nil if ctx has ended.
func (f *feed) loop(ctx context.Context) error {
	flush := time.NewTimer(time.Hour)
	defer flush.Stop()
	for {
		events := f.events
		if len(f.frames) >= f.most && !f.newest {
			events = nil
		}
		var due time.Duration
		select {
		case e := <-events:
			switch {
			case e.reset:
				f.reset()
				continue
			case e.caughtUp:
				f.idle.Store(true)
				continue
			}
			f.take(&e)
			switch {
			case f.newest && len(f.frames) >= f.most:
				if err := f.trim(ctx); err != nil {
					return err
				}
				continue // the timer runs
			case f.later:
				continue // likewise
			case len(f.frames) == 0:
				if err := f.advance(ctx, 0); err != nil {
					return err
				}
				continue
			case !f.destination.Full() && len(f.frames) < f.most:
				due = f.flushIn(e.Pending)
			}
		case <-flush.C:
		case <-ctx.Done():
			return nil
		}
		if due <= 0 {
			if err := f.flush(ctx); err != nil {
				return err
			}
			due = time.Hour
			if f.later {
				due = laterFlush
			}
		}
		flush.Reset(due)
	}
}

// flushIn is how long the batch waits for more rows when so many messages are still to be read.
func (f *feed) flushIn(pending uint64) time.Duration {
	most := batchTime
	if pending > 0 && f.newest {
		most = newestTime
	}
	due := most - time.Since(f.begun)
	if pending == 0 {
		due = min(due, idleFlush)
	}
	return due
}

// take hands the rows of a message to the destination.
func (f *feed) take(e *feedEvent) {
	f.at = e.Time
	if len(f.frames) == 0 {
		f.begun = time.Now()
	}
	site, l, err := f.output.hub.conn.Root().ParseLane(e.Subject)
	if err == nil && l == f.lane { // the tail reader counts and logs what is wrong
		f.step(e, site)
	}
	f.idle.Store(e.Pending == 0)
	f.passed.Store(e.Sequence)
	f.believe()
	f.status.took(e, len(f.frames) > 0, f.waiting())
}

// step hands out the rows of a message of a site.
func (f *feed) step(e *feedEvent, site string) {
	o := f.output
	if now := time.Now(); now.Sub(f.placed) >= restartEvery {
		f.placed, f.place = now, f.places.oldest(e.Time, e.before)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if config, generation := o.hub.configured(); generation != o.generation {
		o.generation = generation
		o.guards.reload(config)
		o.receiver.Readmit()
	}
	now := o.hub.now()
	o.forgetSites(now)
	stored := e.Time.UnixMilli()
	var losses []frame.Loss // that the frame tells of
	message := lane.Message{Site: site, Backfill: f.backfill, Sequence: e.Sequence, Received: now.UnixMilli(), Payload: e.Payload}
	handler := lane.Handler{
		Row: func(d *lane.Delivery, row *series.Row) {
			f.row(d, row, stored, stored < o.since) // the clocks of sites may be anywhere
		},
		Keyframe: func(d *lane.Delivery) { f.hear(d, e.Sequence, stored) },
		Loss:     func(_ string, loss frame.Loss) { losses = append(losses, loss) },
		Done: func(d *lane.Delivery) {
			f.settleEnds(d, stored)
			x := f.frame(d, stored)
			x.losses, x.whole = losses, true
			losses = nil
		},
		Problem: func(p lane.Problem) {
			o.repeats.Log(slog.LevelWarn, string(p.Reason)+" "+p.Message.Site, "frame was not delivered",
				slog.String("site", p.Message.Site), slog.String("reason", string(p.Reason)), slog.Any("err", p.Err))
		},
	}
	if o.ends != nil {
		handler.Known = func(d *lane.Delivery, row *series.Row) {
			f.row(d, row, stored, true)
			if f.known != d.Header.ID { // once for each frame
				f.known = d.Header.ID
				f.settleEnds(d, stored)
			}
		}
	}
	limits := o.guards.config.SiteLimits(site)
	if within, _ := f.meter.take(site, len(e.Payload), stored, &limits); within {
		o.receiver.Step(message, handler)
	} else {
		o.receiver.TurnAway(message, errBytes, handler)
	}
	f.places.note(site, e.Time, e.before, o.receiver.Site(site), f.backfill, o.ends != nil)
}

// waiting is how many rows were taken and are not settled.
func (f *feed) waiting() int {
	if len(f.frames) == 0 {
		return 0
	}
	return f.rows - f.frames[0].first
}

// frame returns the batch's entry of a frame, which is the last one.
func (f *feed) frame(d *lane.Delivery, stored int64) *delivered {
	if n := len(f.frames); n == 0 || f.frames[n-1].site != d.Site || f.frames[n-1].header.ID != d.Header.ID {
		f.frames = append(f.frames, delivered{site: d.Site, header: *d.Header, stored: stored, begin: f.place, first: f.rows})
	}
	return &f.frames[len(f.frames)-1]
}

// row hands a row to the destination, as far as the site's guard lets it, unless that is known: then it only tells which
// series are alive. The caller holds output.mu.
func (f *feed) row(d *lane.Delivery, row *series.Row, stored int64, known bool) {
	o := f.output
	if known && o.ends == nil {
		return
	}
	err := o.guards.apply(d.Site, f.backfill, row, stored, func(row *series.Row) error {
		if o.ends != nil {
			o.ends.Row(d, row, known, func(marker *series.Row) { f.give(d, marker, stored, true) })
		}
		if !known {
			f.give(d, row, stored, false)
		}
		return nil
	})
	if err != nil && !known { // the tail reader logs and counts it
		o.receiver.Site(d.Site).Ledger.Reject(d.Header, 1, stored)
		f.frame(d, stored).rejected++
	}
}

// give hands a row, or one of stale markers, to the destination.
func (f *feed) give(d *lane.Delivery, row *series.Row, stored int64, marker bool) {
	x := f.frame(d, stored)
	f.destination.Row(d.Site, row)
	if marker {
		f.markers = append(f.markers, f.rows)
	}
	f.rows++
	x.samples += row.Samples()
}

// reset is for a stream that turned out to be another one. What was taken stays taken.
func (f *feed) reset() {
	clear(f.places)
	f.placed, f.heard = time.Time{}, nil
	f.passed.Store(0)
	f.idle.Store(false)
	f.output.mu.Lock()
	defer f.output.mu.Unlock()
	f.output.receiver.RestartLane(f.backfill)
}

// flush delivers the batch.
func (f *feed) flush(ctx context.Context) error {
	if len(f.frames) == 0 && !f.later {
		return nil
	}
	if err := f.output.mayDeliver(ctx); err != nil {
		return err
	}
	if f.rows > 0 {
		done, err := f.deliver(ctx)
		if err != nil {
			return err
		}
		if f.later = !done; f.later {
			f.status.postponed()
			return f.trim(ctx)
		}
	}
	if err := f.settle(ctx, len(f.frames)); err != nil {
		return err
	}
	f.rows, f.later = 0, false
	return nil
}

// trim settles the frames of which nothing waits any more, though the batch is not done. An output of the newest rows
// settles the older half beyond the bound of what may wait: the destination still has it and goes on trying, but the next
// process will not. Others wait there.
func (f *feed) trim(ctx context.Context) error {
	n := 0
	if d, ok := f.destination.(Replacing); ok {
		oldest := d.Oldest()
		n, _ = slices.BinarySearchFunc(f.frames, oldest, func(x delivered, row int) int { return cmp.Compare(x.first, row) })
		if n > 0 && oldest < f.end(n) {
			n-- // it is a row of the frame before
		}
	}
	if f.newest && len(f.frames) >= f.most {
		n = max(n, len(f.frames)/2)
	}
	if n == 0 {
		return nil
	}
	return f.settle(ctx, n)
}

// end is the number of the row behind the first n frames of the batch.
func (f *feed) end(n int) int {
	if n < len(f.frames) {
		return f.frames[n].first
	}
	return f.rows
}

// deliver has the destination deliver.
func (f *feed) deliver(ctx context.Context) (done bool, err error) {
	flush, cancel := linger(ctx)
	defer cancel(nil)
	if l := f.output.lease; l != nil {
		defer l.onEnd(cancel)()
	}
	began := time.Now()
	done, err = f.destination.Flush(flush, f.refuse)
	f.output.hub.outputs.seconds.WithLabelValues(f.output.name, string(f.lane)).Observe(time.Since(began).Seconds())
	if err != nil && flush.Err() != nil {
		err = context.Cause(flush)
	}
	return done, err
}

// linger returns a context that ends a while after ctx: what is delivered and noted in the meantime need not be
// repeated.
func linger(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	longer, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		t := time.NewTimer(stopGrace)
		defer t.Stop()
		select {
		case <-t.C:
			cancel(context.Cause(ctx))
		case <-longer.Done():
		}
	})
	return longer, func(cause error) {
		stop()
		cancel(cause)
	}
}

// refuse notes that the destination will not take samples of a row.
func (f *feed) refuse(row, samples int, why string) {
	f.refused[row] = struct{}{}
	f.status.refuse(samples)
	site := ""
	if x := f.frameOf(row); x != nil {
		site = x.site
	}
	f.output.repeats.Log(slog.LevelWarn, "refused "+string(f.lane)+" "+site, "destination refuses samples; they are missing there",
		slog.String("site", site), slog.String("lane", string(f.lane)), slog.Int("samples", samples), slog.String("answer", why))
}

// frameOf returns the frame of a row of the batch, or nil.
func (f *feed) frameOf(row int) *delivered {
	i, _ := slices.BinarySearchFunc(f.frames, row, func(x delivered, row int) int {
		if x.first <= row {
			return -1
		}
		return 1
	})
	if i == 0 || row < 0 || row >= f.rows {
		return nil
	}
	return &f.frames[i-1]
}

// settle takes the first n frames out of the batch: they were delivered, or will never be.
func (f *feed) settle(ctx context.Context, n int) error {
	f.book(n)
	if err := f.advance(ctx, n); err != nil {
		return err
	}
	rows := 0
	if n > 0 {
		rows = f.end(n) - f.frames[0].first
	}
	settled := f.frames[:n]
	f.status.delivered(settled, f.frames[n:], rows)
	if n == len(f.frames) && cap(f.frames) > framesKept {
		f.frames = nil
		return nil
	}
	f.frames = slices.Delete(f.frames, 0, n)
	return nil
}

// book makes what was refused of the first n frames a gap.
func (f *feed) book(n int) {
	end := f.end(n)
	for row := range f.refused {
		if row >= end {
			continue
		}
		delete(f.refused, row)
		// A marker that is refused makes no gap: nothing of the site is missing.
		if _, marker := slices.BinarySearch(f.markers, row); marker {
			continue
		}
		if x := f.frameOf(row); x != nil {
			x.refused++
		}
	}
	i, _ := slices.BinarySearch(f.markers, end)
	f.markers = slices.Delete(f.markers, 0, i)
	o := f.output
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range f.frames[:n] {
		x := &f.frames[i]
		if s := o.receiver.Site(x.site); s != nil && x.refused > 0 {
			s.Ledger.RefuseByOutput(&x.header, x.refused, x.stored)
		}
	}
}

// advance notes that the first n frames of the batch are settled and, now and then, where reading would begin again: in
// front of the first frame that is not.
func (f *feed) advance(ctx context.Context, n int) error {
	o, now := f.output, time.Now()
	var restart bus.Position
	if now.Sub(f.restarted) >= restartEvery {
		f.restarted = now
		if n < len(f.frames) {
			restart = f.frames[n].begin
		} else {
			restart = f.places.oldest(f.at, f.reader.Position())
		}
	}
	if n == 0 && restart.IsZero() {
		return nil
	}
	ctx, cancel := linger(ctx)
	defer cancel(nil)
	return o.deliver(ctx, f.backfill, f.frames[:n], restart)
}
