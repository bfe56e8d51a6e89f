package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/events"
)

const (
	// eventsStream and gatewaysBucket are appended to the name of the stream: what senders publish, and what of it which
	// gateway has claimed.
	eventsStream, gatewaysBucket = "_EVENTS", "_GATEWAYS"
)

// eventReader reads for the gateway what senders publish to NATS.
type eventReader struct {
	conn    *bus.Conn // whose stream is that of events
	shared  *bus.Conn // whose bucket gateways share
	subject string
	stream  *events.Stream

	mu       sync.Mutex
	problems [3]string // by who says them
}

// Who says that something is wrong, in the order in which it matters.
const (
	saysStream = iota
	saysBucket
	saysReader
)

// newEventReader connects the gateway with NATS.
func (n *Node) newEventReader(g *events.Gateway) (*eventReader, error) {
	c := n.config.NATS.Client
	if n.config.Hub != nil {
		c = n.config.HubClient()
	}
	c.Stream.Manage = true // whoever made the stream of frames
	r := &eventReader{subject: n.config.EventsSubject()}
	var err error
	if r.conn, err = n.dial(bus.Options{Config: c, Name: "events", Events: c.Stream.Name + eventsStream}); err != nil {
		return nil, err
	}
	if r.shared, err = n.dial(bus.Options{Config: c, Name: "gateways", Bucket: c.Stream.Name + gatewaysBucket}); err != nil {
		return nil, err
	}
	key := "sites"
	if site, _ := r.conn.Root().ParseEvents(r.subject); site != "" {
		key = "site." + site
	}
	r.stream, err = g.NewStream(events.StreamOptions{
		Name: r.subject, Whole: r.subject == r.conn.Root().AllEvents(), Shared: &sharedValue{conn: r.shared, subject: r.shared.KeySubject(key)},
	})
	return r, err
}

// run reads until ctx ends.
func (r *eventReader) run(ctx context.Context) error {
	var keepers sync.WaitGroup
	defer keepers.Wait()
	keepers.Go(func() { r.conn.KeepStream(ctx, func(problem string) { r.say(saysStream, problem) }) })
	keepers.Go(func() { r.shared.KeepStream(ctx, func(problem string) { r.say(saysBucket, problem) }) })
	reader, err := r.conn.NewReader(bus.ReaderOptions{
		Name: "events", Subjects: []string{r.subject}, Start: bus.Start{Position: busPosition(r.stream.Position())},
		Handle: func(m bus.Message) error {
			return r.stream.Add(ctx, events.Message{Position: streamPosition(&m), Payload: m.Payload})
		},
		CaughtUp: func() { _ = r.stream.CaughtUp(ctx) }, // an error means that ctx has ended
		Reset:    func(reset bus.Reset) { _ = r.stream.Reset(ctx, reset.Reason != bus.StreamRecreated) },
		Trouble: func(err error) {
			problem := ""
			if err != nil {
				problem = err.Error()
			}
			r.say(saysReader, problem)
		},
	})
	if err != nil {
		return err
	}
	return reader.Run(ctx)
}

// say notes what somebody says.
func (r *eventReader) say(who int, problem string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.problems[who] = problem
	r.stream.SetTrouble(cmp.Or(r.problems[:]...))
}

func streamPosition(m *bus.Message) events.StreamPosition {
	return events.StreamPosition{
		Created: m.Position.Created.UnixNano(), Sequence: m.Sequence, Checksum: m.Position.Checksum, Stored: m.Time.UnixNano(),
	}
}

func busPosition(p events.StreamPosition) bus.Position {
	if p.Sequence == 0 {
		return bus.Position{}
	}
	return bus.Position{Created: time.Unix(0, p.Created).UTC(), Sequence: p.Sequence, Checksum: p.Checksum}
}

// sharedValue is a key of a bucket.
type sharedValue struct {
	conn    *bus.Conn
	subject string
}

// Load implements events.Shared.
func (v *sharedValue) Load(ctx context.Context) ([]byte, uint64, error) {
	m, err := v.conn.Last(ctx, v.subject)
	if errors.Is(err, bus.ErrNoMessage) {
		return nil, 0, nil
	}
	return m.Payload, m.Sequence, err
}

// Store implements events.Shared.
func (v *sharedValue) Store(ctx context.Context, value []byte, revision uint64) (uint64, error) {
	stored, err := v.conn.Publish(ctx, v.subject, value, revision)
	if refused := (*bus.SequenceError)(nil); errors.As(err, &refused) {
		err = fmt.Errorf("%w: %w", events.ErrChanged, err)
	}
	return stored, err
}
