package hub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/telemetry"
)

// Destination is where one feed of an Output delivers to. Its methods are called one at a time. It is for one run of an
// output: what it had taken when the run ended is handed out again, to another Destination.
type Destination interface {
	// Row takes a row of a site, and copies what it keeps. It does not wait. Rows of a source come in order. Rows are
	// numbered from 0 since the last Flush that was done.
	Row(site string, row *series.Row)
	// Full reports whether the batch should be flushed before more rows come; it is asked after each message of the stream.
	// A batch is flushed also when the stream has no more at the moment, and after a second.
	Full() bool
	// Flush returns done when what was taken is delivered, or given up for good. Not done means: nobody knows when; newer
	// rows will replace what is waiting. Then rows go on coming, and Flush is called again after a second, whatever Full
	// says; how long it rests in between is its own business. An error ends the output, and the rows are handed out again
	// after its restart. Flush returns soon after ctx has ended.
	// refused is called, by one goroutine at a time, for rows, by number, that the destination will never take: with the
	// samples lost and why. It may be called several times for a row.
	Flush(ctx context.Context, refused func(row, samples int, why string)) (done bool, err error)
}

// Replacing is a Destination of an output of the newest rows that knows which rows still wait, so that those before need
// not be handed out again by the next process.
type Replacing interface {
	Destination
	// Oldest returns the number of the oldest row that was taken and was neither delivered, nor refused, nor replaced by a
	// newer one; that of the next row if there is none. It is asked after a Flush that was not done, and in between when
	// very much waits.
	Oldest() int
}

// Resumer is a Destination that is told, before its first row, that the output has delivered before: the batch that was
// under way when the last run ended comes again, first of all, if it was not noted that it had arrived.
type Resumer interface{ Resume() }

// OutputOptions of NewOutput. Name, Dir, Hub and Live are required.
type OutputOptions struct {
	// Name in logs, metrics and of the cursor.
	Name string
	// Kind of destination, for pages.
	Kind string
	// Dir holds the cursor.
	Dir string
	Hub *Hub
	// Live takes what comes on live lanes, Backfill what comes later, after an outage. Neither waits for the other.
	// Without Backfill the output is one of the newest rows: backfill is not read, what did not come live is no gap, and
	// reading never waits for what could not be delivered.
	Live, Backfill Destination
	// Ends has the destinations told which series ended, by rows of stale markers among the others.
	Ends bool
	// Oldest makes a new output begin with the oldest row in the stream instead of now.
	Oldest bool
	// Shared is a connection to the journal that hubs share (bus.Options.Journals). With it only one of the hubs with the
	// same name of the output and the same parts delivers, and another one goes on when that is gone. nil: this hub does.
	Shared *bus.Conn
}

const (
	// idleFlush is how long a batch waits for more rows when the stream has none, and batchTime how long a row waits for
	// its batch at most.
	idleFlush = 20 * time.Millisecond
	batchTime = time.Second
	// newestTime is how long a batch of the newest rows waits at most as long as the stream has more: what comes after a
	// while of absence is replaced before it is delivered.
	newestTime = time.Minute
	// laterFlush is when a flush that was not done is tried again.
	laterFlush = time.Second
	// stopGrace is how long a flush that has begun may take when the output is to stop.
	stopGrace = 2 * time.Second
	// maxPending bounds the frames that are taken and not delivered. At the bound reading waits; in an output of the newest
	// rows the older half counts as delivered.
	maxPending = 100_000
	// framesKept is for how many frames a feed keeps the room.
	framesKept = 10_000
)

// Output delivers every row of all sites to one destination, once. Only the batches that were in flight at a crash are
// delivered again, the same to the bit.
//
// It reads the stream itself instead of riding on the tail reader: a slow destination holds back nobody but itself,
// and after a restart the same reader catches up (docs/adr/002-outputs-read-the-stream.md). It has a feed of live rows
// and one of backfill (docs/adr/011-outputs-have-two-feeds-and-one-holder.md).
type Output struct {
	name    string
	hub     *Hub
	log     *slog.Logger
	repeats *telemetry.Repeats
	feeds   []*feed
	lease   *lease // nil: nobody else delivers
	record  *outputRecord

	// noting is held while cursor and journal are written, so that both tell the same story.
	noting sync.Mutex
	cursor *cursor

	mu         sync.Mutex // never held while waiting for a destination, disk or network
	since      int64      // rows that the server stored before this are not delivered; ms since 1970
	receiver   *lane.Receiver
	guards     *guards
	ends       *lane.Ends // nil: nobody wants to know
	generation uint64     // of the hub's configuration that receiver and guards know
	expired    time.Time
}

// NewOutput opens the cursor. The caller runs Run, and Close at last.
func NewOutput(o OutputOptions) (*Output, error) {
	log := o.Hub.log.With("output", o.Name)
	out := &Output{name: o.Name, hub: o.Hub, log: log, repeats: telemetry.NewRepeats(log, repeatEvery)}
	out.receiver = lane.NewReceiver(lane.ReceiverConfig{Decoder: func(site string) (frame.DecoderConfig, bool) {
		o.Hub.mu.Lock()
		defer o.Hub.mu.Unlock()
		return o.Hub.config.decoder(o.Hub.catalog, o.Hub.scratch, site)
	}})
	config, generation := o.Hub.configured()
	out.guards, out.generation = newGuards(config, o.Hub.catalog, log, uncounted), generation
	out.feeds = append(out.feeds, newFeed(out, bus.Live, o.Live))
	out.feeds[0].newest = o.Backfill == nil
	if o.Backfill != nil {
		out.feeds = append(out.feeds, newFeed(out, bus.Backfill, o.Backfill))
	}
	if o.Ends {
		out.ends = lane.NewEnds(lane.EndsConfig{})
	}
	since := int64(0)
	if !o.Oldest {
		since = o.Hub.now().UnixMilli()
	}
	var err error
	if out.cursor, err = openCursor(o.Dir, o.Name, since); err != nil {
		return nil, fmt.Errorf("open output %q: %w", o.Name, err)
	}
	if err := out.cursor.damage; err != nil {
		log.Warn("cursor is damaged; what it does not say is delivered again", "file", out.cursor.path, "err", err)
	}
	out.record = o.Hub.outputs.open(out, o.Kind)
	if o.Shared != nil {
		out.lease = newLease(o.Shared, config.Parts, o.Name, o.Hub.name, log)
		out.lease.report = func(holder string, trouble error) { out.record.standby(holder, trouble, o.Hub.now()) }
	}
	return out, nil
}

// Close closes the cursor. Run must have returned.
func (o *Output) Close() error {
	o.hub.outputs.close(o)
	return o.cursor.close()
}

// Run delivers until ctx ends, which is no error, the destination fails, or another hub holds the output. It is for
// once: what it did not deliver, another Output of this name does.
func (o *Output) Run(ctx context.Context) error {
	o.record.started()
	err := o.run(ctx)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("output %q: %w", o.name, err)
	}
	o.record.ended(err, o.hub.now())
	return err
}

func (o *Output) run(ctx context.Context) error {
	if o.lease != nil {
		if err := o.acquire(ctx); err != nil {
			return err
		}
		defer o.leave()
	}
	o.begin()
	o.record.hold(o.hub.name)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var tasks sync.WaitGroup
	task := func(f func(context.Context) error) { tasks.Go(func() { cancel(f(ctx)) }) }
	if o.lease != nil {
		task(o.keepLease)
	}
	for _, f := range o.feeds {
		task(f.run)
	}
	tasks.Wait()
	return context.Cause(ctx) // of the first that ended
}

// begin takes over what the cursor knows.
func (o *Output) begin() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.since = o.cursor.since
	for _, f := range o.feeds {
		f.passed.Store(o.cursor.restartOf(f.backfill).Sequence)
	}
	// When the last message of a site came is not known any more: it is forgotten so long after the start.
	o.expired = o.hub.now()
	for site, l := range o.cursor.ledgers {
		o.receiver.Adopt(site, lane.LedgerFrom(l.State()), o.expired.UnixMilli())
	}
	for _, f := range o.feeds {
		if d, ok := f.destination.(Resumer); ok && len(o.cursor.ledgers) > 0 {
			d.Resume()
		}
	}
}

// deliver notes, in file and journal, the frames of a feed that were delivered, and where it would begin again.
func (o *Output) deliver(ctx context.Context, backfill bool, frames []delivered, restart bus.Position) error {
	o.noting.Lock()
	defer o.noting.Unlock()
	lines := o.cursor.note(frames, backfill, restart)
	if len(lines) == 0 {
		return nil
	}
	if o.lease == nil {
		return o.cursor.write(lines)
	}
	if err := o.cursor.write(append(lines, o.cursor.enter(o.lease.number+1, o.lease.instance)...)); err != nil {
		return err
	}
	return o.tell(ctx, lines)
}

// forgetSites drops, now and then, what is held of sites that were silent for long, and gaps that are long known. The
// caller holds mu.
func (o *Output) forgetSites(now time.Time) {
	if now.Sub(o.expired) < forgetEvery {
		return
	}
	o.expired = now
	config, _ := o.hub.configured()
	var gone []string
	o.receiver.Expire(now.Add(-siteIdle).UnixMilli(), now.Add(-config.siteLife(o.hub.retention)).UnixMilli(), func(site string) {
		delete(o.guards.sites, site)
		gone = append(gone, site)
		if o.ends != nil {
			o.ends.Forget(site)
		}
	})
	o.receiver.Sites(func(s *lane.Site) bool {
		s.Ledger.Forget(now.Add(-gapsKept).UnixMilli())
		return true
	})
	for _, f := range o.feeds {
		f.meter.expire(now.Add(-forgetEvery).UnixMilli(), func(site string) bool { return o.receiver.Site(site) != nil })
	}
	o.cursor.forget(gone, now.Add(-gapsKept).UnixMilli())
}

// Gaps lists what this output lacks, by site.
func (o *Output) Gaps(limit int) []SiteGap {
	o.mu.Lock()
	defer o.mu.Unlock()
	gaps := gapsOf(func(f func(string, *lane.Ledger)) {
		o.receiver.Sites(func(s *lane.Site) bool {
			f(s.Name, &s.Ledger)
			return true
		})
	}, limit)
	return slices.DeleteFunc(gaps, func(g SiteGap) bool { return !o.lacks(g.Cause) })
}

// missing counts what this output lacks.
func (o *Output) missing() (sum lane.Missing) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.receiver.Sites(func(s *lane.Site) bool {
		m := s.Ledger.Missing()
		sum.Gaps += m.Gaps
		for c, rows := range m.Rows {
			if o.lacks(lane.Cause(c)) {
				sum.Rows[c] += rows
			}
		}
		return true
	})
	return sum
}

// endsStats is what there is to show of the ends of series.
func (o *Output) endsStats() lane.EndsStats {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ends == nil {
		return lane.EndsStats{}
	}
	return o.ends.Stats()
}

// lacks reports whether a cause makes rows missing here: an output of the newest rows lacks nothing that came late, or
// never, but what came live and could not be delivered.
func (o *Output) lacks(c lane.Cause) bool {
	return len(o.feeds) > 1 || c == lane.Undecodable || c == lane.Rejected || c == lane.RefusedByOutput
}
