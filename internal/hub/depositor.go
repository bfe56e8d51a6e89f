package hub

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/telemeter"
)

const (
	// depositAttempts is how often rows are tried to be stored while others store rows of the same site.
	depositAttempts = 10
	// depositPause is how long it is waited for a server that is behind.
	depositPause = 50 * time.Millisecond
	// depositBurst is how long a site may have saved up bytes for. It is less than what readers grant (byteBurst), so that
	// none of them turns away what was acknowledged.
	depositBurst = byteBurst / 2
	// headerRoom is what the headers of a message may take of what a server lets through.
	headerRoom = 256
	// factDeposited names the hub that made a keyframe.
	factDeposited = "deposited_by"
)

// errMoved says that the lane has another end than was thought. Nothing was stored.
var errMoved = errors.New("another hub wrote the lane")

// depositor appends rows to the live lane of a site. It is for one goroutine at a time.
type depositor struct {
	hub        *Hub
	metrics    *depositMetrics
	compressor *frame.Compressor
	site       string

	sender   *lane.Sender      // nil: the end of the lane has to be looked up
	sequence uint64            // of the message that the sender goes on behind
	newest   frame.Predecessor // that this process knows to have been stored
	// Bytes that the site may send at once, less than 0 after a large message, and when that was.
	level float64
	at    time.Time
}

func (d *Deposits) depositor(site string) depositor {
	return depositor{hub: d.hub, metrics: d.metrics, compressor: d.compressor, site: site}
}

// laneEnd is the last message of a lane.
type laneEnd struct {
	sequence uint64
	newest   frame.Header // its last frame; the zero value on an empty lane
}

// store stores the rows of a queue in its order, and ends each deposit. spacing is as in telemeter.Lanes.
func (p *depositor) store(ctx context.Context, spacing time.Duration, queue []*deposit) {
	err := p.early()
	for attempt := 0; err == nil && len(queue) > 0; attempt++ {
		if attempt == depositAttempts {
			err = fmt.Errorf("others were faster %d times", attempt)
			break
		}
		queue, err = p.try(ctx, spacing, queue)
		if errors.Is(err, errMoved) {
			p.metrics.moved.Inc()
			err = wait(ctx, depositPause)
		}
	}
	for _, w := range queue {
		w.end(fmt.Errorf("deposit rows of site %q: %w", p.site, err))
	}
}

// early says how long to wait if the site has sent more than it may.
func (p *depositor) early() error {
	rate := float64(p.limits().BytesPerSecond)
	if rate == 0 {
		return nil
	}
	now, burst := time.Now(), rate*depositBurst.Seconds()
	if p.at.IsZero() {
		p.level = burst
	}
	p.level, p.at = min(burst, p.level+now.Sub(p.at).Seconds()*rate), now
	if p.level < 0 {
		return &telemeter.EarlyError{Wait: time.Duration(-p.level / rate * float64(time.Second))}
	}
	return nil
}

func (p *depositor) limits() Limits {
	config, _ := p.hub.configured()
	return config.SiteLimits(p.site)
}

// try stores what it can, and returns the rest.
func (p *depositor) try(ctx context.Context, spacing time.Duration, queue []*deposit) ([]*deposit, error) {
	if p.sender == nil || spacing > 0 {
		end, err := p.look(ctx, spacing)
		if err != nil {
			return queue, err
		}
		if p.sender == nil || end.sequence != p.sequence {
			p.follow(&end)
		}
	}
	messages, err := p.encode(queue)
	for _, m := range messages {
		if err == nil {
			err = p.publish(ctx, &m)
		}
		if err == nil {
			queue = stored(queue, m.rows)
		}
	}
	if err != nil {
		p.sender = nil // its state is not that of the lane
	}
	return queue, err
}

// stored ends the deposits of a queue whose last row is among the next ones.
func stored(queue []*deposit, rows int) []*deposit {
	for len(queue) > 0 {
		w := queue[0]
		n := min(rows, len(w.rows))
		w.rows, rows = w.rows[n:], rows-n
		if len(w.rows) > 0 {
			break
		}
		w.end(nil)
		queue = queue[1:]
	}
	return queue
}

// look finds the end of the lane, if rows may go there now.
func (p *depositor) look(ctx context.Context, spacing time.Duration) (end laneEnd, err error) {
	m, err := p.hub.conn.Last(ctx, p.subject())
	if errors.Is(err, bus.ErrNoMessage) {
		return end, nil
	}
	if err != nil {
		return end, err
	}
	end.sequence = m.Sequence
	for rest := m.Payload; len(rest) > 0; {
		if end.newest, _, rest, err = frame.Split(rest); err != nil {
			return end, fmt.Errorf("%w: its last message is no frame: %w", telemeter.ErrTaken, err)
		}
	}
	if !lane.IsDeposit(end.newest.Epoch) {
		return end, fmt.Errorf("%w: frame %s is not a deposit", telemeter.ErrTaken, end.newest.ID)
	}
	// The clocks of hubs differ; one that was far ahead and was set right must not shut a site out.
	if since := p.hub.now().Sub(end.newest.SentTime()).Abs(); since < spacing {
		return end, &telemeter.EarlyError{Wait: spacing - since}
	}
	return end, nil
}

func (p *depositor) subject() string { return p.hub.conn.Root().Lane(p.site, bus.Live) }

// follow makes a sender that goes on behind the end of the lane, in its epoch if that is possible.
func (p *depositor) follow(end *laneEnd) {
	limits := p.limits()
	c := frame.EncoderConfig{
		Epoch: end.newest.Epoch, MaxBody: frame.DefaultMaxBody, Compressor: p.compressor,
		Version: slices.Min(frame.Versions()), // hubs of the release before read it, too
		Facts:   []frame.Fact{{Name: factDeposited, Value: p.hub.name}},
	}
	if limits.FrameBytes > 0 {
		c.MaxBody = min(c.MaxBody, int(limits.FrameBytes))
	}
	if most := p.hub.conn.MaxPayload(); most > 0 {
		c.MaxBody = min(c.MaxBody, int(most)/2-headerRoom)
	}
	known, lost := p.known(end.newest.ID)
	if end.newest.Number == 0 || lost { // others have read what the server lost: its numbers are used up
		c.Epoch, c.Predecessor = lane.DepositEpoch(mathrand.Uint32()), known
	}
	p.sender = lane.NewSender(lane.SenderConfig{
		Encoder: c, KeyframeInterval: p.keyframeInterval(), Lookback: p.hub.lookback(), Jitter: mathrand.Float64,
	})
	if c.Epoch == end.newest.Epoch {
		p.sender.Continue(&end.newest)
	}
	p.sequence = end.sequence
}

// known returns the newest frame of the lane that this hub knows to have been stored, and whether the server has lost it if
// the lane ends at end.
func (p *depositor) known(end frame.ID) (newest frame.Predecessor, lost bool) {
	l := p.hub.ledgers
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.sites[p.site]; s == nil {
		newest = p.newest
	} else if s.Last(p.newest.Epoch).Number < p.newest.Number { // the tail reader is not there yet
		newest, lost = p.newest, s.Has(end)
	} else if id, _ := s.Newest(); lane.IsDeposit(id.Epoch) {
		newest, lost = s.Last(id.Epoch), s.Has(end)
	}
	if newest.Epoch == end.Epoch {
		lost = newest.Number > end.Number
	}
	return newest, lost
}

// keyframeInterval is as short as that of edges: readers begin a keyframe and a half back.
func (p *depositor) keyframeInterval() time.Duration {
	if r := p.hub.retention; r > 0 {
		return min(keyframeBound, r/4)
	}
	return keyframeBound
}

// lookback is how long series are served after their last sample.
func (h *Hub) lookback() time.Duration {
	config, _ := h.configured()
	return time.Duration(config.Store.Lookback)
}

// depositMessage is frames that are published together.
type depositMessage struct {
	payload   []byte
	rows      int // that are complete with it and not without
	keyframes int
	last      frame.Header
}

// encode makes messages of all rows of a queue.
func (p *depositor) encode(queue []*deposit) (messages []depositMessage, err error) {
	now := p.hub.now().UnixMilli()
	if p.hub.waits(p.site) {
		p.sender.RequestKeyframe(now, true)
	}
	var frames [][]byte
	for _, w := range queue {
		for _, row := range w.rows {
			if frames, err = p.sender.Append(frames, row, now); err != nil {
				return nil, err
			}
		}
	}
	frames = p.sender.Flush(frames, now)
	most := int(p.hub.conn.MaxPayload()) - headerRoom
	var m depositMessage
	for _, f := range frames {
		h, err := frame.ParseHeader(f)
		if err != nil {
			panic("BUG: hub: own frame: " + err.Error())
		}
		if len(m.payload) > 0 && len(m.payload)+len(f) > most {
			messages = append(messages, m)
			m = depositMessage{}
		}
		m.payload, m.last, m.rows = append(m.payload, f...), h, m.rows+int(h.Rows)
		if h.Kind == frame.Keyframe {
			m.keyframes++
		}
	}
	return append(messages, m), nil
}

// publish stores a message at the end of the lane. If the last message is another one by now it stores nothing and
// returns errMoved. After a doubtful answer it publishes again, for as long as ctx allows: if it had been stored, that is
// refused, and reading it back tells.
func (p *depositor) publish(ctx context.Context, m *depositMessage) error {
	conn, subject := p.hub.conn, p.subject()
	if most := conn.MaxPayload(); most > 0 && int64(len(m.payload))+headerRoom > most {
		return fmt.Errorf("publish %d bytes on %q: %w: the server takes %d", len(m.payload), subject, telemeter.ErrTooLarge, most)
	}
	for doubtful := false; ; doubtful = true {
		sequence, err := conn.Publish(ctx, subject, m.payload, p.sequence)
		refused, isRefused := errors.AsType[*bus.SequenceError](err)
		switch {
		case isRefused && !doubtful:
			return errMoved
		case isRefused:
			stored, err := p.isLast(ctx, refused.Last, m.payload)
			if err != nil {
				return err
			}
			if !stored {
				return errMoved
			}
			p.published(m, refused.Last)
			return nil
		case err == nil:
			p.published(m, sequence)
			return nil
		case !doubtful && !errors.Is(err, bus.ErrDoubtful):
			return err
		}
		if cause := wait(ctx, depositPause); cause != nil {
			return fmt.Errorf("outcome unknown: %w", err)
		}
	}
}

// published notes that a message was stored.
func (p *depositor) published(m *depositMessage, sequence uint64) {
	p.sequence = sequence
	p.newest = frame.Predecessor{ID: m.last.ID, Rows: m.last.RowsAfter()}
	p.level -= float64(len(m.payload))
	p.metrics.messages.Inc()
	p.metrics.rows.Add(float64(m.rows))
	p.metrics.bytes.Add(float64(len(m.payload)))
	p.metrics.keyframes.Add(float64(m.keyframes))
}

// isLast reports whether the message with a sequence, which was the last of the lane a moment ago, is a certain one.
func (p *depositor) isLast(ctx context.Context, sequence uint64, payload []byte) (bool, error) {
	for {
		m, err := p.hub.conn.Last(ctx, p.subject())
		if err == nil && m.Sequence >= sequence {
			// One that another hub has stored behind it hides it: then it is stored once more.
			return m.Sequence == sequence && bytes.Equal(m.Payload, payload), nil
		}
		if cause := wait(ctx, depositPause); cause != nil { // else the server that answered may be behind
			return false, fmt.Errorf("read back %q: outcome unknown: %w", p.subject(), cmp.Or(err, cause))
		}
	}
}
