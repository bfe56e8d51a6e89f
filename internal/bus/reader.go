package bus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Start says where a reader begins.
type Start struct {
	// Position to go on behind. If it is zero, or void, the other rule holds.
	Position Position
	// Time from which on messages are read, by the server's clock. Zero: from the beginning of the stream.
	Time time.Time
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
	// MessageMissing means that there is no message at the position although older ones are there.
	MessageMissing ResetReason = "missing"
)

func resetReasons() []ResetReason {
	return []ResetReason{StreamRecreated, StreamRewound, MessageReplaced, MessageMissing}
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
}

// Reader reads the stream in order, whatever happens to connections, consumers, servers and the stream itself.
type Reader struct {
	conn    *Conn
	options ReaderOptions

	mu       sync.Mutex
	position Position
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
	return &Reader{conn: c, options: o, position: o.Start.Position}, nil
}

// Position is behind the last message delivered, or where the reader began; zero if there is no such thing.
func (r *Reader) Position() Position {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.position
}

func (r *Reader) setPosition(p Position) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.position = p
}

// Run reads until ctx ends, the handler returns an error, or End is reached; the latter is the only nil.
func (r *Reader) Run(ctx context.Context) error {
	return fmt.Errorf("read stream: %w", ctx.Err())
}
