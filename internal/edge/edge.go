package edge

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/outbox"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/telemetry"
)

// drainTimeout bounds how long Run goes on publishing after its context ended.
const drainTimeout = 5 * time.Second

const (
	// expireEvery is how often the outbox deletes and writes down what it knows.
	expireEvery = 5 * time.Second
	// repeatEvery bounds how often the same failure is logged.
	repeatEvery = time.Minute
	// lossesPerFrame are few enough for the smallest frame (smallestLimit), and for a hub, which takes 256.
	lossesPerFrame = 64
)

// Options of New. All are required but Now.
type Options struct {
	Site   string
	Config Config
	// Dir of the outbox.
	Dir     string
	Conn    *bus.Conn
	Logger  *slog.Logger
	Version string
	// StreamMaxAge bounds the keyframe interval to a quarter of it; 0 if it is not known.
	StreamMaxAge time.Duration
	// Lookback is how long a silent source is remembered at least.
	Lookback time.Duration
	Now      func() time.Time
}

// Edge is the sending side of one site. All methods are safe for concurrent use.
type Edge struct {
	site     string
	log      *slog.Logger
	repeats  *telemetry.Repeats
	conn     *bus.Conn
	outbox   *outbox.Outbox
	now      func() time.Time
	release  string
	control  string // the subject this edge listens on
	metrics  *metrics
	settings chan Config // of Apply, for Run

	live, backfill *wire
	pace           *pace
	resending      atomic.Bool // a lane found a loss, and all is sent again: the other lane need not find it too
	broken         bool        // the live lane must go on with a keyframe; of the goroutine that keeps the link

	// The constants, but for tests.
	silence, silenceCheck time.Duration
	helloInterval         time.Duration
	otherHubs             time.Duration
	tailBytes             int64

	// mu is held while a row is encoded and while frames are appended to the outbox, so that frames stand there in the
	// order in which they were made.
	mu       sync.Mutex
	epoch    frame.Epoch
	config   Config
	sender   *lane.Sender
	frames   [][]byte      // closed and not yet appended; empty between calls
	sealed   uint64        // how many frames were appended or lost, over epochs
	told     int           // how many losses of the outbox stand in the frames that are being stored
	appended chan struct{} // closed when sealed grows
	commits  map[*commit]struct{}
	maxAge   time.Duration
	lookback time.Duration
	largest  int            // bound for frames beside the server's max_payload, in bytes; 0: none
	welcomes []lane.Welcome // of the last hello that was answered
	skew     time.Duration  // see Status
	greeted  time.Time
	version  lane.VersionChoice

	// turn is held by whoever flushes for all callers of Commit, and guards committed: when that was done last.
	turn      chan struct{}
	committed time.Time

	status *statusBoard
}

// New opens the outbox and begins an epoch. The caller runs Run, and Close at last.
func New(o Options) (*Edge, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	box, err := outbox.Open(outbox.Options{Dir: o.Dir, Config: o.Config.Outbox, Logger: o.Logger, Now: o.Now})
	if err != nil {
		return nil, err
	}
	e := &Edge{
		site: o.Site, log: o.Logger, repeats: telemetry.NewRepeats(o.Logger, repeatEvery), conn: o.Conn, outbox: box, now: o.Now, release: o.Version, epoch: newEpoch(),
		control: o.Conn.Root().NewControl(o.Site), metrics: newMetrics(), settings: make(chan Config, 1), status: newStatusBoard(),
		silence: silence, silenceCheck: silenceCheck, tailBytes: tailBytes, helloInterval: helloInterval, otherHubs: otherHubs,
		config: o.Config, appended: make(chan struct{}), maxAge: o.StreamMaxAge,
		commits: map[*commit]struct{}{}, turn: make(chan struct{}, 1),
	}
	e.live = newWire(e, bus.Live)
	e.backfill = newWire(e, bus.Backfill)
	e.lookback = o.Lookback
	e.pace = newPace()
	e.keepPace()
	before := e.beginEpoch()
	e.metrics.frameVersion.Set(float64(e.version.Version()))
	e.log.Info("edge begins an epoch", "site", e.site, "epoch", e.epoch, "predecessor", before.ID, "outbox", o.Dir)
	return e, nil
}

// beginEpoch makes the encoder of the present epoch, behind what the outbox has. The caller holds mu, or is New.
func (e *Edge) beginEpoch() (before frame.Predecessor) {
	if last, ok := e.outbox.Last(); ok {
		before = frame.Predecessor{ID: last.ID, Rows: last.RowsAfter()}
	}
	e.sender = lane.NewSender(lane.SenderConfig{
		Encoder:          frame.EncoderConfig{Version: e.version.Version(), Epoch: e.epoch, Predecessor: before},
		Facts:            e.facts,
		KeyframeInterval: e.keyframeInterval(),
		Lookback:         e.lookback,
		Jitter:           mathrand.Float64,
	})
	e.applyLimit()
	return before
}

// facts are what a keyframe says of this edge. They may be older than the keyframe is, and so name a frame also where
// all is stored: the one behind the newest. The caller holds mu.
func (e *Edge) facts() []frame.Fact {
	pending, ok := e.outbox.FirstUnacked()
	if !ok {
		pending = frame.ID{Epoch: e.epoch, Number: 1}
		if last, _ := e.outbox.Last(); last.Epoch == e.epoch {
			pending.Number = last.Number + 1
		}
	}
	return []frame.Fact{
		{Name: "version", Value: e.release},
		{Name: "keyframe_interval_ms", Value: strconv.FormatInt(e.keyframeInterval().Milliseconds(), 10)},
		{Name: lane.FactPending, Value: pending.String()},
	}
}

func newEpoch() frame.Epoch {
	for {
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails
		if e := frame.Epoch(binary.LittleEndian.Uint64(b[:])); e != 0 && !lane.IsDeposit(e) {
			return e
		}
	}
}

// keyframeInterval is the configured one, lowered to a quarter of what the stream keeps and to what hubs ask for.
func (e *Edge) keyframeInterval() time.Duration {
	d := time.Duration(e.config.KeyframeInterval)
	if e.maxAge > 0 {
		d = min(d, e.maxAge/4)
	}
	for _, w := range e.welcomes {
		if ms := w.KeyframeIntervalMs; ms > 0 {
			d = min(d, time.Duration(ms)*time.Millisecond)
		}
	}
	return d
}

// Sink accepts a row: it is in the outbox after the next flush.
func (e *Edge) Sink(row *series.Row) error { return e.sink(row, nil) }

// sink does the work of Sink. Somebody may wait for the row.
func (e *Edge) sink(row *series.Row, waits *commit) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	frames, err := e.sender.Append(e.frames, row, e.now().UnixMilli())
	e.frames = frames
	if err != nil {
		e.metrics.refusedRows.Inc()
		return err
	}
	if waits != nil {
		e.note(waits)
	}
	e.metrics.rows.Inc()
	e.metrics.samples.Add(float64(row.Samples()))
	if len(e.frames) > 0 {
		return e.store()
	}
	return nil
}

// Flush closes the frame under construction and returns when everything accepted so far is in the outbox.
func (e *Edge) Flush() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.flush()
}

// flush does the work of Flush. The caller holds mu.
func (e *Edge) flush() error {
	losses := e.outbox.Losses()
	losses = losses[:min(len(losses), lossesPerFrame)]
	for _, l := range losses {
		e.sender.Lost(frame.Loss{
			Epoch: l.Epoch, From: l.From, To: l.To, Rows: l.Rows, First: l.FirstSent, Last: l.LastSent, Cause: lossCause(l.Cause),
		})
	}
	e.told = len(losses)
	e.frames = e.sender.Flush(e.frames, e.now().UnixMilli())
	return e.store()
}

func lossCause(c outbox.Cause) frame.Cause {
	switch c {
	case outbox.CauseCorrupt, outbox.CauseMissing:
		return frame.CauseCorrupt
	case outbox.CauseUnwritten:
		return frame.CauseUnwritten
	case outbox.CauseOversize:
		return frame.CauseOversize
	}
	return frame.CauseEvicted
}

// store appends the closed frames to the outbox. The caller holds mu. On an error the rows in them are lost, which is
// announced in a later frame.
func (e *Edge) store() error {
	if len(e.frames) == 0 {
		return nil
	}
	frames := e.frames
	e.frames = nil
	err := e.outbox.Append(frames...)
	e.sealed += uint64(len(frames))
	close(e.appended)
	e.appended = make(chan struct{})
	if err == nil {
		for _, f := range frames {
			e.metrics.frameBytes.Add(float64(len(f)))
		}
		e.metrics.frames.Add(float64(len(frames)))
		e.outbox.Announced(e.told)
		e.told = 0
		e.status.clear(PartOutbox)
		if e.outbox.Crowded() || e.tailGrows() {
			e.sender.RequestKeyframe(e.now().UnixMilli(), false)
		}
		return nil
	}
	e.told = 0
	loss := outbox.Loss{Cause: outbox.CauseUnwritten}
	for i, f := range frames {
		h, parseErr := frame.ParseHeader(f)
		if parseErr != nil {
			panic("BUG: edge: own frame: " + parseErr.Error())
		}
		if i == 0 {
			loss.Epoch, loss.From, loss.FirstSent = h.Epoch, h.Number, h.Sent
		}
		loss.To, loss.LastSent = h.Number, h.Sent
		loss.Rows += uint64(h.Rows)
	}
	e.outbox.Lose(loss)
	if last, _ := e.outbox.Last(); last.Epoch != e.epoch {
		// Nobody would learn what this epoch comes after: only its first frame says so.
		e.epoch = newEpoch()
		e.beginEpoch()
	} else {
		e.sender.RequestKeyframe(e.now().UnixMilli(), false)
	}
	e.lose(e.sealed-uint64(len(frames))+1, e.sealed, err)
	e.metrics.unwrittenRows.Add(float64(loss.Rows))
	e.status.set(PartOutbox, err.Error())
	e.repeats.Log(slog.LevelError, "outbox", "outbox refused frames", slog.String("site", e.site),
		slog.Uint64("rows", loss.Rows), slog.Any("err", err))
	return fmt.Errorf("store frames: %w", err)
}

// tailGrows reports whether, during an outage, the newest file should end, so that it is small enough to go first when
// the link returns. The caller holds mu.
func (e *Edge) tailGrows() bool {
	return e.outbox.UnsentBytes() > e.tailBytes/3 && e.sender.SinceKeyframe(e.now().UnixMilli()) > e.keyframeInterval()/10
}

// Apply takes a changed configuration over at the next flush: intervals and recovery. The outbox's own settings need a
// restart.
func (e *Edge) Apply(c Config) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c.Outbox = e.config.Outbox
	e.config = c
	e.sender.SetKeyframeInterval(e.keyframeInterval())
	e.keepPace()
	select {
	case <-e.settings:
	default:
	}
	e.settings <- c
}

func (e *Edge) inOrder() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.config.Recovery == InOrder
}

// Run flushes and publishes until ctx ends. Then it flushes for the last time and goes on publishing for a few seconds
// at most. Sinks must be quiet by then.
func (e *Edge) Run(ctx context.Context) error {
	linkCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	var links sync.WaitGroup
	links.Go(func() { e.keepLink(linkCtx) })
	links.Go(func() { e.keepHello(linkCtx) })
	e.keepFlushing(ctx)
	e.drain(linkCtx)
	stop()
	links.Wait()
	return nil
}

func (e *Edge) keepFlushing(ctx context.Context) {
	e.mu.Lock()
	flush := time.NewTicker(time.Duration(e.config.FlushInterval))
	e.mu.Unlock()
	defer flush.Stop()
	expire := time.NewTicker(expireEvery)
	defer expire.Stop()
	var backlog backlogWatch
	for {
		select {
		case <-flush.C:
			_ = e.Flush() // logged and counted where it fails
		case <-expire.C:
			if err := e.outbox.Expire(e.now()); err != nil {
				e.repeats.Log(slog.LevelWarn, "expire", "expire outbox files", slog.String("site", e.site), slog.Any("err", err))
			}
			backlog.look(e)
		case c := <-e.settings:
			flush.Reset(time.Duration(c.FlushInterval))
		case <-ctx.Done():
			_ = e.Flush()
			return
		}
	}
}

// drain waits until the newest frame is acknowledged, if there is a link.
func (e *Edge) drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	for {
		last, _ := e.outbox.Last()
		state, changed := e.conn.Watch()
		acked := e.live.ackedSignal()
		if last.ID == e.outbox.NewestAcked() || !state.Connected || e.live.replaced() {
			return
		}
		select {
		case <-acked:
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// Close lets go of the outbox. Run must have returned.
func (e *Edge) Close() error { return e.outbox.Close() }

// Epoch of this process.
func (e *Edge) Epoch() frame.Epoch {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.epoch
}

// Metrics to register.
func (e *Edge) Metrics() []prometheus.Collector {
	return append(e.metrics.all(), e.outbox.Metrics()...)
}

// newestFrame returns where the encoder is and a channel that is closed when more frames are in the outbox.
func (e *Edge) newestFrame() (frame.ID, <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	last, _ := e.outbox.Last()
	return last.ID, e.appended
}

// cutHere closes the frame under construction and makes the next one a keyframe; the first of an epoch is one anyway.
// It returns a reader that begins there and the identity of that frame.
func (e *Edge) cutHere() (*outbox.Reader, frame.ID, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var err error
	if e.sender.Last().Number > 0 {
		err = e.flush()
		e.sender.RequestKeyframe(e.now().UnixMilli(), false)
	}
	return e.outbox.ReaderAtHead(), frame.ID{Epoch: e.epoch, Number: e.sender.Last().Number + 1}, err
}

var errReplan = errors.New("the lanes are planned anew")
