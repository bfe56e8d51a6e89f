package events

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

const (
	// queuedBytes bounds what of a stream waits to be claimed, and queuedMessages the number of it.
	queuedBytes    = 8 << 20
	queuedMessages = 16 << 10
	// appliedAtOnce is after how many messages others may look at the aggregate.
	appliedAtOnce = 100
	// claimPause is how long it is waited after a failure to claim.
	claimPause = 100 * time.Millisecond
)

// StreamPosition is behind a message of a stream. The zero value is none.
type StreamPosition struct {
	Created  int64  // when the stream was created, in nanoseconds since 1970
	Sequence uint64 // of the message
	Checksum uint32 // tells the message from another one with its sequence
	Stored   int64  // when the server stored the message, in nanoseconds since 1970, by its clock
}

// Message is one of a stream.
type Message struct {
	Position StreamPosition
	Payload  []byte // belongs to the Stream
}

// ErrChanged is the answer of a Shared where another revision stands.
var ErrChanged = errors.New("somebody else has changed it")

// Shared is a small value that all gateways of a stream share.
type Shared interface {
	// Load returns the value and its revision; nil and 0 if there is none.
	Load(ctx context.Context) (value []byte, revision uint64, err error)
	// Store puts a value in the place of the one with a revision, and returns its own. ErrChanged is in the chain of its
	// error if another one stands there. After other errors it may have been stored.
	Store(ctx context.Context, value []byte, revision uint64) (stored uint64, err error)
}

// StreamOptions of NewStream. Name and Shared are required.
type StreamOptions struct {
	// Name is the same for all gateways that share the messages.
	Name string
	// Whole: every sequence of the stream is delivered, so that one that does not come was lost.
	Whole  bool
	Shared Shared
}

// Stream takes events from a stream, each once, whatever happens to this process, to others, to the server and to the
// stream.
//
// Every gateway reads everything, and claims what nobody has claimed, by compare-and-set of a value that all share; what it
// has claimed it applies. How far it has read stands in the record on disk that says what that came to, so that after a
// crash it reads on behind, and knows from the shared value what of that is its own.
type Stream struct {
	gateway *Gateway
	options StreamOptions
	id      string // of this gateway

	// Of run alone.
	claims   claims
	revision uint64
	known    bool  // claims is what stood there once
	floor    int64 // what was stored before has been looked at; the stream was rewound

	queue streamQueue

	// Why nothing can be taken at the moment; "" is no reason. Guarded by Gateway.mu.
	unread, unclaimed string
}

// NewStream returns a stream whose messages are taken while Run runs. It is called before Run.
func (g *Gateway) NewStream(o StreamOptions) (*Stream, error) {
	id, err := readID(filepath.Join(g.options.Dir, "id"))
	if err != nil {
		return nil, fmt.Errorf("open stream of events %q: %w", o.Name, err)
	}
	s := &Stream{gateway: g, options: o, id: id, unread: "connecting", queue: newStreamQueue()}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.streams = append(g.streams, s)
	return s, nil
}

// Position returns where to read on.
func (s *Stream) Position() StreamPosition {
	s.gateway.mu.Lock()
	defer s.gateway.mu.Unlock()
	return s.gateway.durable.streams[s.options.Name]
}

// Add takes the next message. It waits when there are many, until ctx ends.
func (s *Stream) Add(ctx context.Context, m Message) error {
	return s.queue.add(ctx, item{Message: m})
}

// Reset says that the position is void, and messages come from the beginning. If the stream was rewound, it is the one that
// was read, but for what had come last: what was stored before the position is known, and other messages have the numbers
// of the rest.
func (s *Stream) Reset(ctx context.Context, rewound bool) error {
	mark := markRecreated
	if rewound {
		mark = markRewound
	}
	return s.queue.add(ctx, item{mark: mark})
}

// CaughtUp says that all has been added that the stream holds.
func (s *Stream) CaughtUp(ctx context.Context) error {
	return s.queue.add(ctx, item{mark: markCaughtUp})
}

// SetTrouble says why nothing can be read; "" if it can.
func (s *Stream) SetTrouble(trouble string) {
	s.gateway.mu.Lock()
	defer s.gateway.mu.Unlock()
	s.unread = trouble
	s.gateway.report()
}

func (s *Stream) setUnclaimed(trouble string) {
	s.gateway.mu.Lock()
	defer s.gateway.mu.Unlock()
	s.unclaimed = trouble
	s.gateway.report()
}

// run takes messages until ctx ends.
func (s *Stream) run(ctx context.Context) {
	for {
		items, err := s.queue.take(ctx)
		if err != nil {
			return
		}
		if err := s.takeAll(ctx, items); err != nil {
			return
		}
		select {
		case <-time.After(claimEvery): // so that claims become fewer
		case <-ctx.Done():
			return
		}
	}
}

// takeAll takes messages and marks, until ctx ends.
func (s *Stream) takeAll(ctx context.Context, items []item) error {
	for len(items) > 0 {
		if items[0].mark != 0 {
			s.note(items[0].mark)
			items = items[1:]
			continue
		}
		n := 1
		for n < len(items) && items[n].mark == 0 {
			n++
		}
		if err := s.takeBatch(ctx, items[:n]); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}

func (s *Stream) note(m mark) {
	switch m {
	case markCaughtUp:
		s.gateway.rereading.Store(false)
	case markRecreated:
		s.floor = 0
	case markRewound:
		s.floor = s.at().Stored
	}
}

// at is behind the last message that was looked at.
func (s *Stream) at() StreamPosition {
	s.gateway.mu.Lock()
	defer s.gateway.mu.Unlock()
	return s.gateway.state.position.streams[s.options.Name]
}

// takeBatch claims what of some messages is unclaimed, and applies those that are this gateway's.
func (s *Stream) takeBatch(ctx context.Context, batch []item) error {
	for len(batch) > 0 && batch[0].Position.Stored <= s.floor {
		batch = batch[1:]
	}
	if len(batch) == 0 {
		return nil
	}
	if err := s.claim(ctx, batch); err != nil {
		return err
	}
	s.floor = 0 // what follows was stored later
	for len(batch) > 0 {
		n := min(appliedAtOnce, len(batch))
		s.applyAll(batch[:n])
		batch = batch[n:]
	}
	return nil
}

// applyAll applies what of some messages is this gateway's.
func (s *Stream) applyAll(batch []item) {
	g := s.gateway
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.options.Now().UnixMilli()
	for i := range batch {
		if !s.claims.of(s.id, batch[i].Position) {
			continue
		}
		var o Outcome
		taken := g.apply(batch[i].Payload, int(g.state.limits.EventBytes), now, &o)
		g.metrics.taken.Add(float64(taken))
	}
	g.state.position.streams[s.options.Name] = batch[len(batch)-1].Position
	g.changed = true
}

// claim returns when each message of a batch belongs to this gateway or to another one, or ctx has ended.
func (s *Stream) claim(ctx context.Context, batch []item) error {
	at := s.at()
	for {
		lost, err := s.claimOnce(ctx, at, batch)
		switch {
		case err == nil:
			s.setUnclaimed("")
			s.lose(lost)
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !errors.Is(err, ErrChanged):
			s.setUnclaimed(err.Error())
			s.gateway.repeats.Log(slog.LevelError, "claim", "events of the stream cannot be claimed; trying again", slog.String("stream", s.options.Name), slog.Any("err", err))
		}
		s.known = false
		pause := claimPause
		if errors.Is(err, ErrChanged) { // somebody else was faster
			pause = rand.N(claimEvery)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// claimOnce claims what is free, and tells how many messages behind a position are lost.
func (s *Stream) claimOnce(ctx context.Context, at StreamPosition, batch []item) (lost uint64, err error) {
	if err := s.load(ctx, at, batch[0].Position); err != nil {
		return 0, err
	}
	c := s.claims
	if free := slices.IndexFunc(batch, func(i item) bool { return c.free(i.Position) }); free >= 0 {
		c = c.before(batch[free].Position)
		if err := s.append(ctx, c, batch[free:]); err != nil {
			return 0, err
		}
	}
	if first := batch[0].Position; first.Created < c.Stream {
		s.gateway.repeats.Log(slog.LevelError, "older stream", "the stream is older than one of which gateways have taken events, and is not read; to read it all the same, delete what they share",
			slog.String("stream", s.options.Name), slog.Time("created", time.Unix(0, first.Created)), slog.Time("newer", time.Unix(0, c.Stream)))
	}
	if s.options.Whole {
		lost = c.lost(s.id, at, batch[0].Position)
	}
	return lost, nil
}

// load reads the claims, unless they are known.
func (s *Stream) load(ctx context.Context, at, next StreamPosition) error {
	if s.known {
		return nil
	}
	value, revision, err := s.options.Shared.Load(ctx)
	if err != nil {
		return err
	}
	c, err := parseClaims(value)
	if err != nil {
		s.gateway.options.Logger.Error("what gateways have claimed cannot be understood; this one begins anew behind what it knows",
			"stream", s.options.Name, "err", err)
	}
	s.claims, s.revision, s.known = c.known(s.id, at, next), revision, true
	return nil
}

// append claims free messages.
func (s *Stream) append(ctx context.Context, c claims, batch []item) error {
	if c.open(s.id, s.Position()) >= maxOwnClaims {
		if err := s.gateway.await(ctx); err != nil {
			return err
		}
	}
	until := int64(0)
	for i := range batch {
		until = max(until, batch[i].Position.Stored)
	}
	c = c.add(s.id, batch[len(batch)-1].Position.Sequence, until, s.Position())
	value, err := c.encode()
	if err != nil {
		return err
	}
	revision, err := s.options.Shared.Store(ctx, value, s.revision)
	if err != nil {
		return err
	}
	s.claims, s.revision, s.known = c, revision, true
	s.gateway.metrics.streamClaims.Inc()
	return nil
}

// lose counts messages that the stream dropped before they were read.
func (s *Stream) lose(n uint64) {
	if n == 0 {
		return
	}
	s.gateway.metrics.streamLost.Add(float64(n))
	s.gateway.repeats.Log(slog.LevelError, "lost", "the stream has dropped messages that no gateway had read", slog.String("stream", s.options.Name), slog.Uint64("messages", n))
}

// mark stands between messages.
type mark int

const (
	_ mark = iota
	markCaughtUp
	markRecreated
	markRewound
)

// item is a message or a mark.
type item struct {
	Message
	mark mark
}

// streamQueue has what was read and not yet taken. It is bounded.
type streamQueue struct {
	mu    sync.Mutex
	items []item
	bytes int
	// filled and drained say, once, that something came or went.
	filled, drained chan struct{}
}

func newStreamQueue() streamQueue {
	return streamQueue{filled: make(chan struct{}, 1), drained: make(chan struct{}, 1)}
}

// add waits until there is room, or ctx ends.
func (q *streamQueue) add(ctx context.Context, i item) error {
	for !q.put(i) {
		select {
		case <-q.drained:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (q *streamQueue) put(i item) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.bytes >= queuedBytes || len(q.items) >= queuedMessages {
		return false
	}
	q.items = append(q.items, i)
	q.bytes += len(i.Payload)
	select {
	case q.filled <- struct{}{}:
	default:
	}
	return true
}

// take waits until there is something, and takes all of it.
func (q *streamQueue) take(ctx context.Context) ([]item, error) {
	select {
	case <-q.filled:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	items := q.items
	q.items, q.bytes = nil, 0
	select {
	case q.drained <- struct{}{}:
	default:
	}
	return items, nil
}
