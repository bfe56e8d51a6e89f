package bus

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// How a reader pulls. One request is outstanding at a time; it bounds what waits in memory.
const (
	pullMessages  = 256
	pullBytes     = 8 << 20 // or two of the greatest messages
	pullExpires   = 30 * time.Second
	pullHeartbeat = 5 * time.Second
	silenceMax    = 2*pullHeartbeat + time.Second
	// consumerIdle is when the server forgets a consumer that nobody pulls from.
	consumerIdle = 2 * time.Minute
)

// Reasons to make another consumer.
var (
	errSilent    = errors.New("no sign of the consumer")
	errGap       = errors.New("a message was lost on the way")
	errRecreated = errors.New("the stream was recreated")
	errStalled   = errors.New("the consumer does not deliver what the stream holds")
)

// subscription is an ephemeral consumer of the stream and the requests that pull from it. It belongs to one goroutine.
type subscription struct {
	conn     *Conn
	consumer string
	server   string // that has the consumer; "" if it is not one of a cluster
	inbox    string
	messages chan *nats.Msg
	sub      *nats.Subscription
	silence  *time.Timer

	first   uint64 // sequence at which the consumer began to look
	pending uint64 // matching messages when it was made
	next    uint64 // consumer sequence of the next message
	pulled  int    // messages still to come of the outstanding request
	beats   int    // heartbeats since the last message, or since it was set to 0
}

// subscribe makes a consumer that begins behind a sequence or, if that is 0, at a time or, if that is zero, with the
// first message. Nothing comes before pull.
func (c *Conn) subscribe(ctx context.Context, subjects []string, behind uint64, start time.Time) (*subscription, error) {
	s := &subscription{
		conn:     c,
		consumer: rand.Text(),
		inbox:    c.nc.NewInbox(),
		messages: make(chan *nats.Msg, 2*pullMessages), // room for heartbeats and statuses
		silence:  time.NewTimer(silenceMax),
		next:     1,
	}
	config := jetstream.ConsumerConfig{
		Name:              s.consumer,
		AckPolicy:         jetstream.AckNonePolicy,
		DeliverPolicy:     jetstream.DeliverAllPolicy,
		FilterSubjects:    subjects,
		InactiveThreshold: consumerIdle,
		MemoryStorage:     true,
		Replicas:          1,
	}
	switch {
	case behind > 0:
		config.DeliverPolicy, config.OptStartSeq = jetstream.DeliverByStartSequencePolicy, behind+1
	case !start.IsZero():
		start = start.UTC()
		config.DeliverPolicy, config.OptStartTime = jetstream.DeliverByStartTimePolicy, &start
	}
	request := struct {
		Stream string                   `json:"stream_name"`
		Config jetstream.ConsumerConfig `json:"config"`
		Action string                   `json:"action"`
	}{c.options.Config.Stream.Name, config, "create"}
	var answer struct {
		jetstream.ConsumerInfo
		Error *apiError `json:"error"`
	}
	if err := c.api(ctx, "CONSUMER.CREATE."+request.Stream+"."+s.consumer, request, &answer); err != nil {
		return nil, fmt.Errorf("make consumer: %w", err)
	}
	if answer.Error != nil {
		return nil, fmt.Errorf("make consumer: %w", answer.Error.typed())
	}
	s.first = answer.Delivered.Stream + 1
	s.pending = answer.NumPending
	if answer.Cluster != nil {
		s.server = answer.Cluster.Leader
	}
	var err error
	if s.sub, err = c.nc.ChanSubscribe(s.inbox, s.messages); err != nil {
		s.delete()
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	return s, nil
}

// close ends the subscription and, if it can be reached, the consumer.
func (s *subscription) close() {
	s.silence.Stop()
	if err := s.sub.Unsubscribe(); err != nil {
		s.conn.log.Debug("end subscription", "err", err)
	}
	s.delete()
}

// delete asks for the consumer's end and does not wait for it; the server ends it some time anyway.
func (s *subscription) delete() {
	cfg := &s.conn.options.Config
	subject := apiPrefix(cfg.Domain) + "CONSUMER.DELETE." + cfg.Stream.Name + "." + s.consumer
	if err := s.conn.nc.Publish(subject, nil); err != nil {
		s.conn.log.Debug("delete consumer", "err", err)
	}
}

// pull asks for the next messages.
func (s *subscription) pull() error {
	cfg := &s.conn.options.Config
	request, err := json.Marshal(map[string]any{
		"batch":          pullMessages,
		"max_bytes":      max(pullBytes, 2*s.conn.MaxPayload()),
		"expires":        pullExpires,
		"idle_heartbeat": pullHeartbeat,
	})
	if err != nil {
		return fmt.Errorf("encode pull: %w", err)
	}
	subject := apiPrefix(cfg.Domain) + "CONSUMER.MSG.NEXT." + cfg.Stream.Name + "." + s.consumer
	if err := s.conn.nc.PublishRequest(subject, s.inbox, request); err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	s.pulled = pullMessages
	return nil
}

// receive turns what arrived into a message of the stream, or nil for what only concerns the pulling.
func (s *subscription) receive(raw *nats.Msg) (*Message, error) {
	if len(raw.Data) == 0 && raw.Header.Get("Status") != "" {
		return nil, s.status(raw.Header.Get("Status"), raw.Header.Get("Description"))
	}
	meta, err := raw.Metadata()
	if err != nil {
		return nil, fmt.Errorf("parse metadata of message: %w", err)
	}
	if meta.Sequence.Consumer != s.next {
		return nil, fmt.Errorf("%w: got number %d of the consumer, want %d", errGap, meta.Sequence.Consumer, s.next)
	}
	s.next++
	s.beats = 0
	if s.pulled--; s.pulled == 0 {
		if err := s.pull(); err != nil {
			return nil, err
		}
	}
	return &Message{
		Subject:  raw.Subject,
		Sequence: meta.Sequence.Stream,
		Time:     meta.Timestamp,
		Payload:  raw.Data,
		Pending:  meta.NumPending,
	}, nil
}

// status handles a message that is none.
func (s *subscription) status(code, description string) error {
	switch {
	case code == "100": // heartbeat
		s.beats++
		return nil
	case code == "409" && description == "Batch Completed": // follows the last message of a request, counted already
		return nil
	case code == "404", code == "408", // the request has expired
		code == "409" && description == "Message Size Exceeds MaxBytes": // it has no room for the next message
		return s.pull()
	}
	return fmt.Errorf("consumer ended: status %s %s", code, description)
}

// awaitConnection returns when there is a connection or ctx has ended.
func (c *Conn) awaitConnection(ctx context.Context) {
	for {
		state, changed := c.Watch()
		if state.Connected {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// pause waits longer the more often it is needed.
func pause(ctx context.Context, times int) {
	limit := min(reconnectMin<<min(times, 10), reconnectMax)
	timer := time.NewTimer(mathrand.N(limit))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
