package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// Message is a message as it is stored in the stream. The payload belongs to who receives the Message.
type Message struct {
	Subject  string
	Sequence uint64
	Time     time.Time // when the server stored it, by its clock
	Payload  []byte
	// Pending counts the messages known to follow it for this reader, and Position is behind it; both zero outside of
	// readers.
	Pending  uint64
	Position Position
}

// Publish stores a message on a subject of which the last message has sequence expect, 0 for none, and returns its
// sequence. It waits for the answer five seconds, and longer the larger the payload is. The payload is not kept. See the
// error variables for what can go wrong: after ErrDoubtful the message should be published again, with the same
// expectation.
func (c *Conn) Publish(ctx context.Context, subject string, payload []byte, expect uint64) (uint64, error) {
	started := time.Now()
	sequence, err := c.publish(ctx, &nats.Msg{
		Subject: subject,
		Data:    payload,
		Header:  nats.Header{"Nats-Expected-Last-Subject-Sequence": {strconv.FormatUint(expect, 10)}},
	})
	c.metrics.published(err, time.Since(started))
	if err != nil {
		return 0, fmt.Errorf("publish %d bytes on %q: %w", len(payload), subject, err)
	}
	return sequence, nil
}

func (c *Conn) publish(ctx context.Context, m *nats.Msg) (uint64, error) {
	answer, err := c.roundTrip(ctx, publishTime(len(m.Data)), m)
	c.countUnanswered(err)
	if err != nil {
		if errors.Is(err, ErrNoListener) {
			c.missStream()
		}
		if hadNoEffect(err) {
			return 0, fmt.Errorf("%w: %w", ErrNotStored, err)
		}
		return 0, fmt.Errorf("%w: %w", ErrDoubtful, err)
	}
	return parseAck(m.Subject, answer.Data)
}

// publishTime is how long the answer to a publish may take.
func publishTime(bytes int) time.Duration {
	return publishTimeout + time.Duration(bytes)*time.Second/slowestLink
}

func hadNoEffect(err error) bool {
	return errors.Is(err, ErrNotConnected) || errors.Is(err, ErrNoListener) ||
		errors.Is(err, ErrTooLarge) || errors.Is(err, ErrDenied)
}

// countUnanswered gives the connection up when it looks alive and the server answers nothing: the next one of a cluster
// may know the way to the stream. Who else a request may be for, as a hub, can be silent without that.
func (c *Conn) countUnanswered(err error) {
	switch {
	case errors.Is(err, errNoAnswer):
		if c.unanswered.Add(1) < unansweredMax {
			return
		}
		c.log.Warn("no answer of the server, connecting again", "requests", unansweredMax, "server", c.State().Server)
		c.unanswered.Store(0)
		if err := c.nc.ForceReconnect(); err != nil {
			c.log.Debug("connect again", "err", err)
		}
	case err == nil, errors.Is(err, ErrNoListener):
		c.unanswered.Store(0)
	}
}

func parseAck(subject string, data []byte) (uint64, error) {
	var ack struct {
		Stream   string    `json:"stream"`
		Sequence uint64    `json:"seq"`
		Error    *apiError `json:"error"`
	}
	if err := json.Unmarshal(data, &ack); err != nil {
		return 0, fmt.Errorf("%w: parse acknowledgement: %w", ErrDoubtful, err)
	}
	switch e := ack.Error; {
	case e == nil && ack.Sequence == 0:
		return 0, fmt.Errorf("%w: acknowledgement without a sequence", ErrDoubtful)
	case e == nil:
		return ack.Sequence, nil
	case e.ErrCode == codeWrongSequenceUnnamed:
		return 0, fmt.Errorf("%w: %w", ErrDoubtful, e.plain())
	case e.ErrCode == codeWrongSequence:
		number := e.Description[strings.LastIndexByte(e.Description, ' ')+1:]
		last, err := strconv.ParseUint(number, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%w: %w", ErrDoubtful, e.plain())
		}
		return 0, &SequenceError{Subject: subject, Last: last}
	case e.ErrCode == codeMessageTooLarge:
		return 0, fmt.Errorf("%w: %w: %s", ErrNotStored, ErrTooLarge, e.Description)
	default:
		return 0, e.plain()
	}
}

// apiError is an error as the JetStream API spells it.
type apiError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

func (e *apiError) plain() *APIError {
	code := e.ErrCode
	if code == 0 {
		code = e.Code
	}
	return &APIError{Code: code, Description: e.Description}
}

// typed is plain, or the sentinel for what callers decide on.
func (e *apiError) typed() error {
	switch e.ErrCode {
	case codeStreamNotFound:
		return ErrNoStream
	case codeMessageNotFound:
		return ErrNoMessage
	}
	return e.plain()
}

// Last reads the last message of a subject, the only way in which an edge can read the stream. In a cluster the
// answer may be of a replica that lags behind. Errors are ErrNoMessage, or those of a request (see Request).
func (c *Conn) Last(ctx context.Context, subject string) (Message, error) {
	m, err := c.last(ctx, subject)
	if err != nil {
		return Message{}, fmt.Errorf("read last message on %q: %w", subject, err)
	}
	return m, nil
}

func (c *Conn) last(ctx context.Context, subject string) (Message, error) {
	cfg := &c.options.Config
	answer, err := c.roundTrip(ctx, apiTimeout, &nats.Msg{Subject: DirectGetSubject(cfg.Domain, cfg.Stream.Name, subject)})
	c.countUnanswered(err)
	if errors.Is(err, ErrNoListener) {
		c.missStream()
	}
	if err != nil {
		return Message{}, err
	}
	switch status := answer.Header.Get("Status"); status {
	case "":
	case "404":
		return Message{}, ErrNoMessage
	default:
		code, _ := strconv.Atoi(status)
		return Message{}, &APIError{Code: code, Description: answer.Header.Get("Description")}
	}
	m := Message{Subject: answer.Header.Get("Nats-Subject"), Payload: answer.Data}
	if m.Sequence, err = strconv.ParseUint(answer.Header.Get("Nats-Sequence"), 10, 64); err != nil {
		return Message{}, fmt.Errorf("parse sequence: %w", err)
	}
	if m.Time, err = time.Parse(time.RFC3339Nano, answer.Header.Get("Nats-Time-Stamp")); err != nil {
		return Message{}, fmt.Errorf("parse time: %w", err)
	}
	if m.Subject != subject {
		return Message{}, fmt.Errorf("answer is about subject %q", m.Subject)
	}
	return m, nil
}
