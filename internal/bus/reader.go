package bus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Start says where a reader begins.
type Start struct {
	// Position to go on behind. If it is zero, or void, the other rule holds.
	Position Position
	// Time from which on messages are read, by the server's clock. Zero: from the beginning of the stream.
	Time time.Time
	// Known is a position that an earlier reader knew. Without a Position, reading begins by the other rule; but if Known
	// is void the stream is another one, and Reset is called first.
	Known Position
}

// ResetReason says why a position is void. It is a closed set.
type ResetReason string

// The reasons.
const (
	// StreamRecreated means that the stream is another one of the same name.
	StreamRecreated ResetReason = "recreated"
	// StreamRewound means that the stream ends before the position, as after a power loss or with an older copy of it.
	StreamRewound ResetReason = "rewound"
	// MessageReplaced means that another message has the sequence of the position: the stream was rewound and has
	// grown again.
	MessageReplaced ResetReason = "replaced"
)

func resetReasons() []ResetReason {
	return []ResetReason{StreamRecreated, StreamRewound, MessageReplaced}
}

// Reset tells that a position is void and that reading begins again by the rule of Start. Messages delivered before
// may come again.
type Reset struct {
	Reason   ResetReason
	Position Position // the void one
	Detail   string   // one line
}

// ReaderOptions of a reader. The functions are called one at a time, on the goroutine of Run, which does not read on
// until they return: they are the back pressure.
type ReaderOptions struct {
	// Name in logs.
	Name string
	// Subjects to read, which may have wildcards but must not overlap.
	Subjects []string
	Start    Start
	// End is the last sequence that is read; 0 for no end.
	End uint64
	// Handle gets every message once, in stream order. An error ends Run with it; the message then does not count as
	// delivered.
	Handle func(Message) error
	// CaughtUp is called when everything has been delivered that the stream held at the (re)subscription: once for
	// each, and at once if there is nothing.
	CaughtUp func()
	// Reset is called before reading begins again with an invalid position.
	Reset func(Reset)
	// Trouble is called with the error of each attempt to read that came to nothing while there was a connection (State
	// tells of the connection), and with nil once messages come again or there are none to come. A consumer that ends
	// after it was of use is replaced without a word.
	Trouble func(error)
}

// Reader reads the stream in order, whatever happens to connections, consumers, servers and the stream itself.
type Reader struct {
	conn    *Conn
	options ReaderOptions

	// Of the goroutine of Run.
	known    Position // to be verified before anything is read
	reading  bool     // the consumer has been of use
	troubled bool     // Trouble was last called with an error
	avoid    string   // server whose consumer stalled

	mu       sync.Mutex
	position Position
	head     uint64
}

// NewReader returns a reader of the stream of the connection's configuration. Nothing happens before Run.
func (c *Conn) NewReader(o ReaderOptions) (*Reader, error) {
	if len(o.Subjects) == 0 {
		return nil, errors.New("make reader: no subjects given")
	}
	if o.Handle == nil {
		return nil, errors.New("make reader: no handler given")
	}
	if o.CaughtUp == nil {
		o.CaughtUp = func() {}
	}
	if o.Reset == nil {
		o.Reset = func(Reset) {}
	}
	if o.Trouble == nil {
		o.Trouble = func(error) {}
	}
	return &Reader{conn: c, options: o, position: o.Start.Position, known: o.Start.Known}, nil
}

// Position is behind the last message delivered, or where the reader began; zero if there is no such thing.
func (r *Reader) Position() Position {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.position
}

// Head is the last sequence that the stream had at the last (re)subscription, whether or not that message was to be
// delivered; 0 before the first.
func (r *Reader) Head() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.head
}

func (r *Reader) setPosition(p Position) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.position = p
}

// Run reads until ctx ends, the handler returns an error, or End is reached; the latter is the only nil.
func (r *Reader) Run(ctx context.Context) error {
	for failures := 0; ; {
		r.conn.awaitConnection(ctx)
		delivered := r.Position()
		r.reading = false
		err := r.follow(ctx)
		var handler *handlerError
		switch {
		case errors.Is(err, errEndReached):
			return nil
		case errors.As(err, &handler):
			return fmt.Errorf("read stream: handle message %d: %w", handler.sequence, handler.err)
		case ctx.Err() != nil:
			return fmt.Errorf("read stream: %w", context.Cause(ctx))
		case errors.Is(err, errVoid):
			continue
		}
		if errors.Is(err, ErrNoStream) {
			r.conn.missStream()
		}
		if failures++; r.Position() != delivered {
			failures = 1
		}
		if !errors.Is(err, errConnectionLost) && !errors.Is(err, ErrNotConnected) { // that has been said already
			if failures > madeSoon || !r.conn.options.Config.Stream.Manage || !errors.Is(err, ErrNoStream) {
				r.conn.logRarely("reader subscribes again", "reader "+r.options.Name+err.Error(), "reader", r.options.Name, "err", err)
			}
			if !r.reading {
				r.troubled = true
				r.options.Trouble(err)
			}
		}
		pause(ctx, failures)
	}
}

// reads is called whenever a consumer proves to be of use.
func (r *Reader) reads() {
	r.reading = true
	if r.troubled {
		r.troubled = false
		r.options.Trouble(nil)
	}
}

// What follow ends with besides the failures of the world.
var (
	errEndReached = errors.New("end reached")
	errVoid       = errors.New("position is void")
)

type handlerError struct {
	sequence uint64
	err      error
}

func (e *handlerError) Error() string { return e.err.Error() }

// follow reads with one consumer, until something is wrong with it.
func (r *Reader) follow(ctx context.Context) error {
	ctx, unlink, err := r.conn.linked(ctx)
	if err != nil {
		return err
	}
	defer unlink()
	if end := r.options.End; end > 0 && r.Position().Sequence >= end {
		return errEndReached
	}
	// The consumer is made first: if the stream is replaced before it is looked at, the consumer is gone, and if it
	// was replaced before the consumer was made, the look tells.
	s, err := r.subscribe(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	info, err := r.verify(ctx)
	if err != nil {
		return err
	}
	r.conn.metrics.readerResumes.Inc()
	r.mu.Lock()
	r.head = info.State.LastSeq
	r.mu.Unlock()
	run := &run{Reader: r, consumer: s, created: info.Created, target: info.State.LastSeq, last: info.State.LastSeq}
	if end := r.options.End; end > 0 {
		run.target = min(run.target, end)
	}
	return run.loop(ctx)
}

// subscribe makes a consumer, and another one if it is where one has stalled: a cluster places them at random.
func (r *Reader) subscribe(ctx context.Context) (*subscription, error) {
	for attempt := 1; ; attempt++ {
		s, err := r.conn.subscribe(ctx, r.options.Subjects, r.Position().Sequence, r.options.Start.Time)
		if err != nil || s.server == "" || s.server != r.avoid || attempt == placements {
			return s, err
		}
		s.close()
	}
}

// verify reads the message at the position back, or at the one that is known. If another one stands there, or none can,
// the position is void: the handler is told and errVoid returned. One that has gone, by its age or because messages of
// its site were deleted, tells nothing: reading goes on behind it.
func (r *Reader) verify(ctx context.Context) (*jetstream.StreamInfo, error) {
	info, err := r.conn.streamInfo(ctx)
	if err != nil {
		return nil, err
	}
	p := r.Position()
	if p.IsZero() {
		p = r.known
	}
	if err := r.compare(p, info); err != nil || p.IsZero() || p.Sequence < info.State.FirstSeq {
		return info, err
	}
	m, err := r.conn.storedMessage(ctx, p.Sequence, "")
	switch {
	case errors.Is(err, ErrNoMessage):
	case err != nil:
		return nil, err
	case m.checksum() != p.Checksum:
		return nil, r.void(p, MessageReplaced, fmt.Sprintf("message %d has checksum %08x, want %08x", p.Sequence, m.checksum(), p.Checksum))
	}
	return info, nil
}

// compare does what can be done without reading a message.
func (r *Reader) compare(p Position, info *jetstream.StreamInfo) error {
	switch {
	case p.IsZero():
		return nil
	case !info.Created.Equal(p.Created):
		return r.void(p, StreamRecreated, fmt.Sprintf("stream was created at %s, want %s",
			info.Created.Format(time.RFC3339Nano), p.Created.Format(time.RFC3339Nano)))
	case info.State.LastSeq < p.Sequence:
		return r.void(p, StreamRewound, fmt.Sprintf("stream ends at %d, before %d", info.State.LastSeq, p.Sequence))
	}
	return nil
}

// void gives a position up.
func (r *Reader) void(p Position, reason ResetReason, detail string) error {
	r.conn.metrics.readerResets.WithLabelValues(string(reason)).Inc()
	r.conn.log.Warn("position in the stream is void, reading begins again",
		"reader", r.options.Name, "reason", string(reason), "position", p.String(), "detail", detail)
	r.setPosition(Position{})
	r.known = Position{}
	r.options.Reset(Reset{Reason: reason, Position: p, Detail: detail})
	return errVoid
}

const (
	// How often a reader to whom nothing comes looks at the stream: until it has caught up or while it waits for its end,
	// and later.
	lookSoon = 500 * time.Millisecond
	lookIdle = 10 * time.Second
	// stallBeats is how many heartbeats a consumer may send, with no message between, after the stream was seen to have
	// more. They come behind the messages, over the same connection, so a slow link is no stall; the first may have been
	// sent before the consumer's server had the message.
	stallBeats = 2
	// madeSoon is how often in a row a stream may be missing, which this program makes itself, before there is a warning. At a
	// first start readers are faster than KeepStream.
	madeSoon = 4
	// placements is how many consumers are made to get one on another server than the one where a consumer stalled.
	placements = 4
)

// run is a reader with a consumer.
type run struct {
	*Reader
	consumer *subscription
	created  time.Time
	target   uint64 // what has to be delivered, if it matches, before CaughtUp
	last     uint64 // last sequence of the stream when it was looked at
	searched uint64 // up to here there was nothing to come behind the position
	owed     uint64 // the first message that was seen to be still to come; 0 if none was seen
	caughtUp bool
}

func (r *run) loop(ctx context.Context) error {
	if err := r.progress(ctx, r.consumer.pending); err != nil {
		return err
	}
	if err := r.consumer.pull(); err != nil {
		return err
	}
	look := time.NewTimer(lookSoon)
	defer look.Stop()
	for {
		came := true
		select {
		case m := <-r.consumer.messages:
			var err error
			if came, err = r.take(ctx, m); err != nil {
				return err
			}
			r.consumer.silence.Reset(silenceMax)
		case <-look.C:
			if err := r.look(ctx); err != nil {
				return err
			}
		case <-r.consumer.silence.C:
			if len(r.consumer.messages) == 0 { // what waited for the handler is no silence
				return errSilent
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		switch {
		case !came: // a heartbeat is no reason to look later
		case r.caughtUp && r.options.End == 0:
			look.Reset(lookIdle)
		default:
			look.Reset(lookSoon)
		}
	}
}

// take handles what the consumer sent, and reports whether that was a message of the stream.
func (r *run) take(ctx context.Context, raw *nats.Msg) (bool, error) {
	m, err := r.consumer.receive(raw)
	if err != nil {
		return false, err
	}
	if m == nil {
		return false, r.checkStall()
	}
	end := r.options.End
	if end > 0 && m.Sequence > end {
		return true, errEndReached
	}
	m.Position = Position{Created: r.created, Sequence: m.Sequence, Checksum: m.checksum()}
	if err := r.options.Handle(*m); err != nil {
		return true, &handlerError{sequence: m.Sequence, err: err}
	}
	r.setPosition(m.Position)
	r.owed = 0
	r.reads()
	r.conn.metrics.readerMessages.Inc()
	r.conn.metrics.readerBytes.Add(float64(len(m.Payload)))
	if err := r.progress(ctx, m.Pending); err != nil {
		return true, err
	}
	if m.Sequence == end {
		return true, errEndReached
	}
	return true, nil
}

// checkStall gives a consumer up that lives and delivers nothing of what the stream holds. In a cluster that happens to
// those on a server whose copy of the stream no longer follows the leader.
func (r *run) checkStall() error {
	if r.owed == 0 || r.consumer.beats < stallBeats {
		return nil
	}
	r.conn.metrics.readerStalls.Inc()
	err := fmt.Errorf("%w: message %d is still to come", errStalled, r.owed)
	if r.avoid = r.consumer.server; r.avoid != "" {
		err = fmt.Errorf("consumer on server %q: %w", r.avoid, err)
	}
	return err
}

// progress reports catching up, once.
func (r *run) progress(ctx context.Context, pending uint64) error {
	if r.caughtUp {
		return nil
	}
	if r.Position().Sequence < r.target {
		if pending > 0 {
			return nil
		}
		if reached, err := r.reached(ctx, r.target); err != nil || !reached {
			return err
		}
	}
	r.caughtUp = true
	r.reads()
	r.options.CaughtUp()
	if end := r.options.End; end > 0 && r.last >= end {
		return errEndReached
	}
	return nil
}

// reached reports whether nothing up to the target, which is not behind the end of the stream, is still to come.
func (r *run) reached(ctx context.Context, target uint64) (bool, error) {
	if err := r.search(ctx, target); err != nil {
		return false, err
	}
	return r.owed == 0 || r.owed > target, nil
}

// search asks the stream's leader for the first message up to a sequence that is still to come, unless one is known.
// The consumer cannot know: its server may lag behind the leader.
func (r *run) search(ctx context.Context, upTo uint64) error {
	from := max(r.Position().Sequence, r.searched, r.consumer.first-1) + 1
	if r.owed > 0 || from > upTo {
		return nil
	}
	first := uint64(0)
	for _, subject := range r.options.Subjects {
		m, err := r.conn.storedMessage(ctx, from, subject)
		switch {
		case errors.Is(err, ErrNoMessage):
		case err != nil:
			return err
		case m.Sequence <= upTo && (first == 0 || m.Sequence < first):
			first = m.Sequence
		}
	}
	r.owed, r.consumer.beats = first, 0
	r.searched = upTo
	if first > 0 {
		r.searched = first - 1
	}
	return nil
}

// look compares position and stream while nothing comes.
func (r *run) look(ctx context.Context) error {
	info, err := r.conn.streamInfo(ctx)
	if err != nil {
		return err
	}
	if !info.Created.Equal(r.created) {
		return errRecreated
	}
	if err := r.compare(r.Position(), info); err != nil {
		return err
	}
	r.last = info.State.LastSeq
	if r.owed < info.State.FirstSeq { // it is no longer there
		r.owed = 0
	}
	if err := r.search(ctx, r.last); err != nil {
		return err
	}
	if err := r.progress(ctx, 0); err != nil {
		return err
	}
	end := r.options.End
	if end == 0 || r.last < end {
		return nil
	}
	reached, err := r.reached(ctx, end)
	if err == nil && reached {
		err = errEndReached
	}
	return err
}
