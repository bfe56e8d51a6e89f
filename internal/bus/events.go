package bus

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// maxEventsBytes and maxEventsAge bound what waits for an event gateway; the oldest goes first.
	maxEventsBytes = 1 << 30
	maxEventsAge   = 7 * 24 * time.Hour
	// sameEvents is how long the server knows the identifiers of messages, so that one that is sent again is not stored
	// again.
	sameEvents = 2 * time.Minute
)

// wantedEvents is the stream of the connection's events. What has been read stays until it is old: readers know where
// they are, and nothing is deleted that another one may not have read.
func (c *Conn) wantedEvents() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        c.options.Config.Stream.Name,
		Description: "Thalweg events",
		Subjects:    []string{c.root.AllEvents()},
		Storage:     jetstream.FileStorage,
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardOld,
		MaxAge:      maxEventsAge,
		MaxBytes:    maxEventsBytes,
		Duplicates:  sameEvents,
		Replicas:    c.options.Config.Stream.Replicas,
		AllowDirect: true,
	}
}

// Append stores a message behind whatever its subject has, and returns its sequence. The server stores a message of the
// same id, if that is not "", once within two minutes, so that it can be sent again after ErrDoubtful. Errors are those of
// Publish, except for *SequenceError.
func (c *Conn) Append(ctx context.Context, subject string, payload []byte, id string) (uint64, error) {
	started := time.Now()
	m := &nats.Msg{Subject: subject, Data: payload, Header: nats.Header{}}
	if id != "" {
		m.Header.Set(jetstream.MsgIDHeader, id)
	}
	sequence, err := c.publish(ctx, m)
	c.metrics.published(err, time.Since(started))
	if err != nil {
		return 0, fmt.Errorf("publish %d bytes on %q: %w", len(payload), subject, err)
	}
	return sequence, nil
}
