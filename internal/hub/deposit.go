package hub

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/telemeter"
)

// Deposits stores rows of sites that have no edge: a row becomes the next message of the site's live lane, and stands
// alone there. It goes on behind the last message, in the epoch that this began, so that ledgers see one sequence of
// frames, however many hubs write it; nothing is kept between two rows. Safe for concurrent use.
type Deposits struct{ hub *Hub }

// Deposits returns what stores rows through this hub.
func (h *Hub) Deposits() Deposits { return Deposits{h} }

var _ telemeter.Lanes = Deposits{}

// factDeposited is the name of the fact that tells the keyframes of deposits from those of edges; its value names the
// hub.
const factDeposited = "deposited_by"

const (
	// depositAttempts is how often a row is tried to be stored while others store rows of the same site.
	depositAttempts = 10
	// depositPause is how long it is waited for a server that is behind.
	depositPause = 50 * time.Millisecond
	// headerRoom is what the headers of a message may take of what a server lets through.
	headerRoom = 256
)

// laneEnd is where a deposit goes.
type laneEnd struct {
	sequence uint64
	newest   frame.Header // its zero value on an empty lane
}

// Ready implements telemeter.Lanes.
func (d Deposits) Ready(ctx context.Context, site string, spacing time.Duration) error {
	_, err := d.look(ctx, site, spacing)
	return err
}

// Store implements telemeter.Lanes.
func (d Deposits) Store(ctx context.Context, site string, spacing time.Duration, row *series.Row) error {
	subject := d.hub.conn.Root().Lane(site, bus.Live)
	for range depositAttempts {
		end, err := d.look(ctx, site, spacing)
		if err != nil {
			return err
		}
		message, err := d.encode(site, &end, row)
		if err != nil {
			return err
		}
		moved, err := d.publish(ctx, subject, message, end.sequence)
		if err != nil || !moved {
			return err
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
	return fmt.Errorf("deposit row of site %q: others were faster %d times", site, depositAttempts)
}

// look finds the end of a lane, if a deposit may go there now.
func (d Deposits) look(ctx context.Context, site string, spacing time.Duration) (laneEnd, error) {
	config, _ := d.hub.configured()
	if !config.admits(site) {
		return laneEnd{}, fmt.Errorf("deposit row of site %q: %w", site, telemeter.ErrNotAdmitted)
	}
	m, err := d.hub.conn.Last(ctx, d.hub.conn.Root().Lane(site, bus.Live))
	if errors.Is(err, bus.ErrNoMessage) {
		return laneEnd{}, nil
	}
	if err != nil {
		return laneEnd{}, fmt.Errorf("deposit row of site %q: %w", site, err)
	}
	end := laneEnd{sequence: m.Sequence}
	if end.newest, err = examine(m.Payload); err != nil {
		return laneEnd{}, fmt.Errorf("deposit row of site %q: %w", site, err)
	}
	// The clocks of hubs differ; one that was far ahead and was set right must not shut a site out.
	if since := d.hub.now().Sub(end.newest.SentTime()).Abs(); since < spacing {
		return laneEnd{}, &telemeter.EarlyError{Wait: spacing - since}
	}
	return end, nil
}

// examine returns the header of the last frame of a message, if the message is a deposit. The limits of its site do not
// matter: they may have been others when it was stored.
func examine(message []byte) (newest frame.Header, err error) {
	_, first, rest, err := frame.Split(message)
	if err != nil {
		return newest, fmt.Errorf("%w: its last message is no frame: %w", telemeter.ErrTaken, err)
	}
	deposited := false
	newest, err = frame.NewDecoder(frame.DecoderConfig{Catalog: series.NewCatalog()}).Decode(first, frame.Handler{Origin: func(facts []frame.Fact) {
		deposited = slices.ContainsFunc(facts, func(f frame.Fact) bool { return f.Name == factDeposited })
	}})
	if err != nil || !deposited {
		return newest, fmt.Errorf("%w: frame %s is not a deposit", telemeter.ErrTaken, newest.ID)
	}
	for len(rest) > 0 {
		if newest, _, rest, err = frame.Split(rest); err != nil {
			return newest, fmt.Errorf("%w: its last message is no frame: %w", telemeter.ErrTaken, err)
		}
	}
	return newest, nil
}

// encode makes a message of a row, which begins with a keyframe, in the version that a hub of the release before reads
// too.
func (d Deposits) encode(site string, end *laneEnd, row *series.Row) ([]byte, error) {
	config, _ := d.hub.configured()
	limits := config.SiteLimits(site)
	c := frame.EncoderConfig{
		Epoch: end.newest.Epoch, Version: slices.Min(frame.Versions()), Facts: []frame.Fact{{Name: factDeposited, Value: d.hub.name}},
	}
	if limits.FrameBytes > 0 {
		c.MaxBody = min(frame.DefaultMaxBody, int(limits.FrameBytes))
	}
	if end.newest.Number == 0 {
		c.Epoch = randomEpoch()
	}
	encoder := frame.NewEncoder(c)
	if end.newest.Number != 0 {
		encoder.Continue(&end.newest)
	}
	now := d.hub.now().UnixMilli()
	frames, err := encoder.Append(nil, row, now)
	if err != nil {
		return nil, err
	}
	return bytes.Join(encoder.Close(frames, now), nil), nil
}

func randomEpoch() frame.Epoch {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails
	return cmp.Or(frame.Epoch(binary.LittleEndian.Uint64(b[:])), 1)
}

// publish stores a message behind the one with a sequence. If the last message is another one by now it stores nothing,
// and moved is true. After a doubtful answer it is published again, for as long as ctx allows: if it had been stored, that
// is refused, and reading it back tells.
func (d Deposits) publish(ctx context.Context, subject string, message []byte, expect uint64) (moved bool, err error) {
	conn := d.hub.conn
	if most := conn.MaxPayload(); most > 0 && int64(len(message))+headerRoom > most {
		return false, fmt.Errorf("publish %d bytes on %q: %w: the server takes %d", len(message), subject, telemeter.ErrTooLarge, most)
	}
	for doubtful := false; ; doubtful = true {
		_, err := conn.Publish(ctx, subject, message, expect)
		refused, isRefused := errors.AsType[*bus.SequenceError](err)
		switch {
		case isRefused && !doubtful:
			return true, nil
		case isRefused:
			stored, err := d.isLast(ctx, subject, refused.Last, message)
			return !stored, err
		case err == nil || !doubtful && !errors.Is(err, bus.ErrDoubtful):
			return false, err
		}
		if cause := pause(ctx); cause != nil {
			return false, fmt.Errorf("outcome unknown: %w", err)
		}
	}
}

// isLast reports whether the message with a sequence, which was the last of a subject a moment ago, is a certain one.
func (d Deposits) isLast(ctx context.Context, subject string, sequence uint64, message []byte) (bool, error) {
	for {
		m, err := d.hub.conn.Last(ctx, subject)
		if err == nil && m.Sequence >= sequence {
			// One that another hub has stored behind it hides it: then the client pushes once more.
			return m.Sequence == sequence && bytes.Equal(m.Payload, message), nil
		}
		if cause := pause(ctx); cause != nil { // else the server that answered may be behind
			return false, fmt.Errorf("read back %q: outcome unknown: %w", subject, cmp.Or(err, cause))
		}
	}
}

// pause waits a moment, unless ctx ends.
func pause(ctx context.Context) error {
	t := time.NewTimer(depositPause)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
