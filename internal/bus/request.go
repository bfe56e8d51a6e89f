package bus

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go"
)

// Bounds of what waits for a Serve function; what is beyond them is dropped by the client library and the requester
// gets no answer.
const (
	servePendingMessages = 1024
	servePendingBytes    = 8 << 20
)

// Request sends data and returns the first answer. Errors have ErrNotConnected, ErrNoListener, ErrTooLarge or
// ErrDenied in their chain if nobody got the request; else there was no answer within five seconds.
func (c *Conn) Request(ctx context.Context, subject string, data []byte) ([]byte, error) {
	answer, err := c.roundTrip(ctx, apiTimeout, &nats.Msg{Subject: subject, Data: data})
	if err != nil {
		return nil, fmt.Errorf("request %q: %w", subject, err)
	}
	return answer.Data, nil
}

// Tell sends data to all who serve the subject, and waits for no answer. Without a connection it fails at once.
func (c *Conn) Tell(subject string, data []byte) error {
	// With a reply subject that nobody listens on, because Serve takes nothing without one.
	if err := c.nc.PublishRequest(subject, c.nc.NewInbox(), data); err != nil {
		return fmt.Errorf("tell %q: %w", subject, err)
	}
	return nil
}

// Serve calls answer for each request on a subject, which may have wildcards, one after the other, and sends what it
// returns; nil sends nothing. It goes on over reconnects until stop is called, which waits for a running answer.
//
// What arrives without a reply subject is not a request and is dropped: it is how the answer to a request of somebody
// else looks whose reply subject was forged to be this one (package natsd says more).
func (c *Conn) Serve(subject string, answer func(subject string, data []byte) []byte) (stop func(), err error) {
	return c.serve(subject, "", answer)
}

// ServeShared is Serve, except that of all processes which do so one gets each request.
func (c *Conn) ServeShared(subject string, answer func(subject string, data []byte) []byte) (stop func(), err error) {
	return c.serve(subject, "shared", answer)
}

func (c *Conn) serve(subject, queue string, answer func(subject string, data []byte) []byte) (stop func(), err error) {
	var running sync.Mutex
	stopped := false
	subscription, err := c.nc.QueueSubscribe(subject, queue, func(m *nats.Msg) {
		if m.Reply == "" {
			c.metrics.unsolicited.Inc()
			return
		}
		running.Lock()
		defer running.Unlock()
		if stopped {
			return
		}
		data := answer(m.Subject, m.Data)
		if data == nil {
			return
		}
		if err := m.Respond(data); err != nil {
			c.logRarely("answer request", "answer "+subject, "subject", m.Subject, "err", err)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("serve %q: %w", subject, err)
	}
	if err := subscription.SetPendingLimits(servePendingMessages, servePendingBytes); err != nil {
		return nil, fmt.Errorf("serve %q: %w", subject, err)
	}
	return func() {
		if err := subscription.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) &&
			!errors.Is(err, nats.ErrBadSubscription) {
			c.log.Warn("stop serving", "subject", subject, "err", err)
		}
		running.Lock()
		stopped = true
		running.Unlock()
	}, nil
}
