package hub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/telemetry"
)

// Destination is where an Output delivers to. Its methods are called one at a time.
type Destination interface {
	// Row takes a row, and copies what it keeps of it. Rows of one lane come in lane order.
	Row(d *lane.Delivery, row *series.Row)
	// Flush returns when the rows taken since the last one are delivered, or given up for good: they are not handed
	// out again after that. An error ends the output, and they are.
	Flush(ctx context.Context) error
}

// OutputOptions of NewOutput. All are required but Now and Oldest.
type OutputOptions struct {
	// Name in logs, metrics and of the cursor's file.
	Name string
	// Dir holds the cursor.
	Dir         string
	Hub         *Hub
	Destination Destination
	// Oldest makes a new output begin with the oldest row in the stream instead of now.
	Oldest bool
}

// Output delivers every row of all sites to one destination, once. Only what was taken between the last two flushes
// before a crash is delivered again, the same to the bit.
//
// It reads the stream itself instead of riding on the tail reader: a slow destination holds back nobody but itself,
// and after a restart the same reader catches up (docs/adr/002-outputs-read-the-stream.md).
type Output struct {
	name        string
	hub         *Hub
	destination Destination
	log         *slog.Logger
	repeats     *telemetry.Repeats
	since       int64 // rows that the server stored before this are not delivered; ms since 1970
	cursor      *cursor

	mu         sync.Mutex
	receiver   *lane.Receiver
	guards     *guards
	meter      *meter
	generation uint64 // of the hub's configuration that receiver and guards know
	expired    time.Time
}

// NewOutput opens the cursor. The caller runs Run, and Close at last.
func NewOutput(o OutputOptions) (*Output, error) {
	out := &Output{
		name: o.Name, hub: o.Hub, destination: o.Destination,
		log:     o.Hub.log.With("output", o.Name),
		repeats: telemetry.NewRepeats(o.Hub.log.With("output", o.Name), repeatEvery),
	}
	out.receiver = lane.NewReceiver(lane.ReceiverConfig{Decoder: func(site string) (frame.DecoderConfig, bool) {
		o.Hub.mu.Lock()
		defer o.Hub.mu.Unlock()
		return o.Hub.config.decoder(o.Hub.catalog, o.Hub.scratch, site)
	}})
	config, generation := o.Hub.configured()
	out.guards, out.meter, out.generation = newGuards(config, o.Hub.catalog, out.log, uncounted), newMeter(), generation
	since := int64(0)
	if !o.Oldest {
		since = o.Hub.now().UnixMilli()
	}
	var err error
	if out.cursor, err = openCursor(o.Dir, o.Name, since); err != nil {
		return nil, fmt.Errorf("open output %q: %w", o.Name, err)
	}
	out.since = out.cursor.since
	// When the last message of a site came is not known any more: it is forgotten so long after the start.
	out.expired = o.Hub.now()
	for site, ledger := range out.cursor.ledgers {
		out.receiver.Adopt(site, ledger, out.expired.UnixMilli())
	}
	out.cursor.ledgers = nil
	if err := out.cursor.damage; err != nil {
		out.log.Warn("cursor is damaged; what it does not say is delivered again", "file", out.cursor.path, "err", err)
	}
	return out, nil
}

// Close closes the cursor. Run must have returned.
func (o *Output) Close() error { return o.cursor.close() }

// Run delivers until ctx ends or the destination fails. It is for once: what a failed one did not deliver, another
// Output with the same cursor does.
func (o *Output) Run(ctx context.Context) error {
	start := bus.Start{Position: o.cursor.restart}
	if o.since > 0 {
		start.Time = time.UnixMilli(o.since).Add(-tailBack)
	}
	var reader *bus.Reader
	var pending []delivered
	flush := func() error {
		if len(pending) == 0 {
			return nil
		}
		if err := o.destination.Flush(ctx); err != nil {
			return err
		}
		err := o.cursor.add(pending)
		pending = pending[:0]
		return err
	}
	config, _ := o.hub.configured()
	subjects := config.subjects(o.hub.conn.Root())
	reader, err := o.hub.conn.NewReader(bus.ReaderOptions{
		Name: o.name, Subjects: subjects, Start: start,
		Handle: func(m bus.Message) error {
			pending = o.step(m, reader.Position(), pending)
			if err := flush(); err != nil {
				return err
			}
			return o.cursor.save(o.restartPosition(m.Time), o.ledgers)
		},
		Reset: func(bus.Reset) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.receiver.Restart()
			o.cursor.forgetPlaces()
		},
	})
	if err != nil {
		return fmt.Errorf("output %q: %w", o.name, err)
	}
	err = reader.Run(ctx)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("output %q: %w", o.name, err)
	}
	return nil
}

// delivered is a frame whose rows the destination took.
type delivered struct {
	site     string
	backfill bool
	header   frame.Header
	losses   []frame.Loss // that it tells of
}

// step hands the rows of a message to the destination. before is the position in front of the message.
func (o *Output) step(m bus.Message, before bus.Position, pending []delivered) []delivered {
	site, l, err := o.hub.conn.Root().ParseLane(m.Subject)
	if err != nil {
		return pending // the tail reader counts and logs it
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
	var losses []frame.Loss // that the frame tells of
	message := lane.Message{Site: site, Backfill: l == bus.Backfill, Sequence: m.Sequence, Received: now.UnixMilli(), Payload: m.Payload}
	handler := lane.Handler{
		Row: func(d *lane.Delivery, row *series.Row) {
			if m.Time.UnixMilli() >= o.since { // the clocks of sites may be anywhere
				o.row(d, row, m.Time.UnixMilli())
			}
		},
		Loss: func(_ string, loss frame.Loss) { losses = append(losses, loss) },
		Done: func(d *lane.Delivery) {
			pending = append(pending, delivered{d.Site, d.Backfill, *d.Header, losses})
			losses = nil
		},
		Problem: func(p lane.Problem) {
			o.repeats.Log(slog.LevelWarn, string(p.Reason)+" "+p.Message.Site, "frame was not delivered",
				slog.String("site", p.Message.Site), slog.String("reason", string(p.Reason)), slog.Any("err", p.Err))
		},
	}
	limits := o.guards.config.SiteLimits(site)
	if within, _ := o.meter.take(site, len(m.Payload), m.Time.UnixMilli(), &limits); within {
		o.receiver.Step(message, handler)
	} else {
		o.receiver.TurnAway(message, errBytes, handler)
	}
	o.cursor.note(site, l == bus.Backfill, m.Time, before, o.receiver.Site(site))
	return pending
}

// row hands a row to the destination, as far as the site's guard lets it. The caller holds mu.
func (o *Output) row(d *lane.Delivery, row *series.Row, stored int64) {
	err := o.guards.apply(d.Site, d.Backfill, row, stored, func(row *series.Row) error {
		o.destination.Row(d, row)
		return nil
	})
	if err != nil { // the tail reader logs and counts it
		o.receiver.Site(d.Site).Ledger.Reject(d.Header, 1, stored)
	}
}

// forgetSites drops, now and then, what is held of sites that were silent for long. The caller holds mu.
func (o *Output) forgetSites(now time.Time) {
	if now.Sub(o.expired) < forgetEvery {
		return
	}
	o.expired = now
	config, _ := o.hub.configured()
	o.receiver.Expire(now.Add(-siteIdle).UnixMilli(), now.Add(-config.siteLife(o.hub.retention)).UnixMilli(), func(site string) {
		delete(o.guards.sites, site)
	})
	o.meter.expire(now.Add(-forgetEvery).UnixMilli(), func(site string) bool { return o.receiver.Site(site) != nil })
}

// restartPosition is the newest place from which everything that is not delivered yet can be decoded.
func (o *Output) restartPosition(now time.Time) bus.Position {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.cursor.oldestRestart(now)
}

// ledgers returns what must outlive the process.
func (o *Output) ledgers() map[string]lane.LedgerState {
	o.mu.Lock()
	defer o.mu.Unlock()
	states := map[string]lane.LedgerState{}
	o.receiver.Sites(func(s *lane.Site) bool {
		states[s.Name] = s.Ledger.State()
		return true
	})
	return states
}

// Gaps lists what this output lacks, by site.
func (o *Output) Gaps(limit int) []SiteGap {
	o.mu.Lock()
	defer o.mu.Unlock()
	return gapsOf(func(f func(string, *lane.Ledger)) {
		o.receiver.Sites(func(s *lane.Site) bool {
			f(s.Name, &s.Ledger)
			return true
		})
	}, limit)
}
