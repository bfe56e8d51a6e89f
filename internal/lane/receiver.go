package lane

import (
	"errors"
	"fmt"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/series"
)

// ReceiverConfig bounds a Receiver.
type ReceiverConfig struct {
	// Decoder returns the limits for a site, and whether it is let in. The catalog should be one for all.
	Decoder func(site string) (cfg frame.DecoderConfig, ok bool)
	// MaxSites bounds the sites known at a time. Default 100,000.
	MaxSites int
}

// Message is one message of a lane: whole frames, one after the other.
type Message struct {
	Site     string
	Backfill bool
	// Sequence of the message in the stream.
	Sequence uint64
	// Received is when it was read, by the receiver's clock, in milliseconds since 1970.
	Received int64
	Payload  []byte
}

// Delivery says where a row comes from.
type Delivery struct {
	Site     string
	Rank     Rank
	Backfill bool
	Header   *frame.Header
	// Facts of a keyframe, for Keyframe and Done; nil otherwise.
	Facts []frame.Fact
}

// Handler takes what a Receiver finds. Rows are valid until Row returns. Nil functions ignore.
type Handler struct {
	// Row takes every row once: those of frames that came before are not handed out again.
	Row func(*Delivery, *series.Row)
	// Known takes the rows of frames that came before and are decoded again for the state behind them.
	Known func(*Delivery, *series.Row)
	// Done is called after the last row of a frame, unless that came before.
	Done func(*Delivery)
	// Keyframe takes each keyframe that was decoded, also one that came before, to have the ledger settled with its facts
	// (Ledger.Settle), now or later. Nil: it is at once.
	Keyframe func(*Delivery)
	// Loss takes the loss notices of a site, which the ledger has noted already.
	Loss func(site string, loss frame.Loss)
	// Problem takes what is wrong with a message; the receiver goes on.
	Problem func(Problem)
}

// Reason says what is wrong with a frame. The set is closed.
type Reason string

const (
	ReasonRefused  Reason = "refused"  // the site is not let in
	ReasonCorrupt  Reason = "corrupt"  // bytes that are no frame, or were changed
	ReasonVersion  Reason = "version"  // a frame version of the future
	ReasonMismatch Reason = "mismatch" // a delta to a state that was not seen
	ReasonLimit    Reason = "limit"    // beyond the limits of the site
	ReasonConflict Reason = "conflict" // another frame of that name came before
)

// Reasons lists them all.
func Reasons() []Reason {
	return []Reason{ReasonRefused, ReasonCorrupt, ReasonVersion, ReasonMismatch, ReasonLimit, ReasonConflict}
}

// Problem is something wrong with a message, or with one frame of it. It is valid until Problem returns.
type Problem struct {
	Message *Message
	// Header of the frame; nil if that could not be verified, or stands for the whole message.
	Header *frame.Header
	Reason Reason
	Err    error
	// Begun: the frame is a keyframe of its lane, or behind one, since the receiver began to read, or of a site that is
	// not let in any more.
	Begun bool
}

// Cause is why the rows of the frame are missing.
func (p *Problem) Cause() Cause {
	if p.Reason == ReasonRefused || p.Reason == ReasonLimit {
		return Rejected
	}
	return Undecodable
}

// WantsKeyframe reports whether a keyframe would mend the lane.
func (p *Problem) WantsKeyframe() bool {
	return !p.Message.Backfill && (p.Reason == ReasonMismatch || p.Reason == ReasonCorrupt || p.Reason == ReasonLimit || p.Reason == ReasonConflict)
}

// Site is what a Receiver knows of one site. It is valid until the next call of the receiver.
type Site struct {
	Name   string
	Ledger Ledger
	// Facts of the newest keyframe.
	Facts []frame.Fact

	Messages, Bytes, Frames, Rows, Samples, Repeated uint64
	// Received is when the last message was read on either lane; see Message.
	Received int64
	// KeyframeSequence is the stream sequence of the message with the last keyframe on the live lane, LastSequence that
	// of the last message on either lane.
	KeyframeSequence, LastSequence uint64
	Live, Backfill                 Traffic
	// Waiting: the live lane needs a keyframe.
	Waiting bool

	backfillKeyframe uint64
	live, backfill   *frame.Decoder // nil while the site is silent
	recent           *recent        // likewise
	// a keyframe came since the receiver began to read, whether or not it could be decoded
	liveBegun, backfillBegun bool
	refused                  bool // though it was let in before
	// limits of decoders that are made from now on; those of the lanes are made anew, with their next keyframe, where
	// stale is set.
	limits                   frame.DecoderConfig
	staleLive, staleBackfill bool
}

// Traffic is what came on one lane of a site.
type Traffic struct {
	// Last is the last frame that came for the first time and was decoded, and Sent its send time, in milliseconds since
	// 1970; zero before the first.
	Last frame.ID
	Sent int64
	// Keyframe is when the last keyframe was decoded, as Received; zero before the first.
	Keyframe int64
	// Sequence of the last message in the stream.
	Sequence uint64
	// Bytes of all messages, and Rows that came for the first time.
	Bytes, Rows uint64
	// Problem is the last thing that was wrong, "" if nothing was, and ProblemAt when, as Received.
	Problem   string
	ProblemAt int64
}

// traffic of a lane.
func (s *Site) traffic(backfill bool) *Traffic {
	if backfill {
		return &s.Backfill
	}
	return &s.Live
}

// KeyframeOf returns the stream sequence of the message with the last keyframe that was decoded on a lane; 0 before
// the first.
func (s *Site) KeyframeOf(backfill bool) uint64 {
	if backfill {
		return s.backfillKeyframe
	}
	return s.KeyframeSequence
}

// Sources counts the sources with decoder state.
func (s *Site) Sources() int {
	if s.live == nil {
		return 0
	}
	return s.live.Sources()
}

// Receiver turns the messages of all sites, in stream order, into rows.
type Receiver struct {
	cfg   ReceiverConfig
	sites map[string]*Site
}

// NewReceiver returns a receiver that knows nothing.
func NewReceiver(cfg ReceiverConfig) *Receiver {
	if cfg.MaxSites == 0 {
		cfg.MaxSites = 100_000
	}
	return &Receiver{cfg: cfg, sites: map[string]*Site{}}
}

// Site returns what is known of a site, or nil.
func (r *Receiver) Site(name string) *Site {
	if s := r.sites[name]; s != nil && !s.refused {
		return s
	}
	return nil
}

// Len counts the sites that are remembered.
func (r *Receiver) Len() int { return len(r.sites) }

// Sites calls f for every site, in no order, until it returns false.
func (r *Receiver) Sites(f func(*Site) bool) {
	for _, s := range r.sites {
		if !s.refused && !f(s) {
			return
		}
	}
}

// Restart forgets all decoder state: reading begins again elsewhere in the stream. Ledgers stay, so that nothing is
// handed out twice.
func (r *Receiver) Restart() {
	r.RestartLane(false)
	r.RestartLane(true)
}

// RestartLane is Restart for the live or the backfill lanes alone, where each kind is read for itself.
func (r *Receiver) RestartLane(backfill bool) {
	for _, s := range r.sites {
		switch {
		case backfill && s.backfill != nil:
			s.backfill.Reset()
			s.backfillKeyframe = 0
		case !backfill && s.live != nil:
			s.live.Reset()
			s.KeyframeSequence = 0
		}
		if backfill {
			s.backfillBegun = false
		} else {
			s.liveBegun = false
		}
	}
}

// sleep drops the decoders. The lanes go on with keyframes.
func (s *Site) sleep() {
	s.live, s.backfill, s.recent, s.staleLive, s.staleBackfill = nil, nil, nil, false, false
	s.KeyframeSequence, s.backfillKeyframe = 0, 0
}

// Expire drops the decoders of sites of which nothing came since idle, and all that is known of those of which nothing
// came since gone, and calls forgotten for these. Times are as in Message.
func (r *Receiver) Expire(idle, gone int64, forgotten func(site string)) {
	for name, s := range r.sites {
		switch {
		case s.Received < gone:
			delete(r.sites, name)
			forgotten(name)
		case s.Received < idle && s.live != nil:
			s.sleep()
		}
	}
}

// Adopt gives a site a ledger from elsewhere, before its first message. It counts as heard of at the time given.
func (r *Receiver) Adopt(name string, ledger Ledger, now int64) {
	if len(r.sites) >= r.cfg.MaxSites {
		return
	}
	s := r.newSite(name)
	s.Ledger, s.Received = ledger, now
	r.sites[name] = s
}

func (r *Receiver) newSite(name string) *Site {
	limits, ok := r.cfg.Decoder(name)
	return &Site{Name: name, refused: !ok, limits: limits}
}

// admit returns the site of a message, which is made if need be, or says why there is none. Those that are not let in
// and never were are not remembered.
func (r *Receiver) admit(name string) (*Site, error) {
	s, known := r.sites[name]
	if !known {
		s = r.newSite(name)
	}
	switch {
	case s.refused:
		return nil, errRefused
	case !known && len(r.sites) >= r.cfg.MaxSites:
		return nil, fmt.Errorf("more than %d sites", r.cfg.MaxSites)
	}
	r.sites[name] = s
	return s, nil
}

var errRefused = errors.New("the site is not listed in hub.sites")

// renew replaces the decoder of a lane that is about to take a keyframe, if other limits are in force than when it was
// made.
func (s *Site) renew(backfill bool) {
	switch {
	case backfill && s.staleBackfill:
		s.backfill, s.staleBackfill = frame.NewDecoder(s.limits), false
	case !backfill && s.staleLive:
		s.live, s.staleLive = frame.NewDecoder(s.limits), false
	}
}

// Step takes one message.
func (r *Receiver) Step(m Message, h Handler) {
	s, err := r.admit(m.Site)
	if err != nil {
		r.turnAway(&m, err, &h)
		return
	}
	if s.live == nil {
		s.live, s.backfill, s.recent = frame.NewDecoder(s.limits), frame.NewDecoder(s.limits), &recent{}
	}
	s.note(&m)
	for rest := m.Payload; len(rest) > 0; {
		header, one, behind, err := frame.Split(rest)
		if err != nil {
			s.trouble(&Problem{Message: &m, Reason: classify(err), Err: err}, &h)
			return
		}
		rest = behind
		// The header is about to change what is known of the site.
		if _, err := frame.Verify(one); err != nil {
			s.trouble(&Problem{Message: &m, Reason: classify(err), Err: err}, &h)
			continue
		}
		if err := s.step(&m, &header, one, &h); err != nil {
			s.trouble(&Problem{Message: &m, Header: &header, Reason: classify(err), Err: err}, &h)
		}
	}
}

// trouble notes what is wrong and hands it on.
func (s *Site) trouble(p *Problem, h *Handler) {
	p.Begun = s.refused || s.begun(p.Message.Backfill)
	t := s.traffic(p.Message.Backfill)
	t.Problem, t.ProblemAt = p.Err.Error(), p.Message.Received
	switch {
	case p.Header == nil:
		s.Ledger.Damage()
	case p.Begun:
		s.Ledger.Miss(p.Header, p.Message.Backfill, p.Cause(), p.Message.Received)
	}
	if h.Problem != nil {
		h.Problem(*p)
	}
}

// turnAway says why a message is not taken. The frames of a site that was let in before are known to be missing.
func (r *Receiver) turnAway(m *Message, err error, h *Handler) {
	reason := ReasonLimit
	if errors.Is(err, errRefused) {
		reason = ReasonRefused
	}
	if s := r.sites[m.Site]; s != nil {
		s.turnAway(m, reason, err, h)
	} else if h.Problem != nil {
		h.Problem(Problem{Message: m, Reason: reason, Err: err})
	}
}

// TurnAway notes a message of a site that is let in, of which nothing is decoded because it is beyond a limit: its frames
// are missing, and the lane goes on with a keyframe. Rows and Done of the handler are not called.
func (r *Receiver) TurnAway(m Message, cause error, h Handler) {
	s, err := r.admit(m.Site)
	if err != nil {
		r.turnAway(&m, err, &h)
		return
	}
	s.note(&m)
	s.turnAway(&m, ReasonLimit, cause, &h)
}

// turnAway notes every frame of a message as one that is not taken.
func (s *Site) turnAway(m *Message, reason Reason, cause error, h *Handler) {
	for rest := m.Payload; len(rest) > 0; {
		header, one, behind, err := frame.Split(rest)
		if err == nil {
			_, err = frame.Verify(one)
		}
		p := Problem{Message: m, Reason: reason, Err: cause}
		if err != nil { // nobody can tell how many frames it was
			s.trouble(&p, h)
			return
		}
		rest = behind
		p.Header = &header
		s.trouble(&p, h)
	}
}

// note takes note of a message that came.
func (s *Site) note(m *Message) {
	s.Messages++
	s.Bytes += uint64(len(m.Payload))
	s.LastSequence, s.Received = m.Sequence, m.Received
	t := s.traffic(m.Backfill)
	t.Bytes += uint64(len(m.Payload))
	t.Sequence = m.Sequence
}

// begun reports whether a keyframe of a lane came since the receiver began to read.
func (s *Site) begun(backfill bool) bool {
	if backfill {
		return s.backfillBegun
	}
	return s.liveBegun
}

// step takes one frame, whose header is right.
func (s *Site) step(m *Message, header *frame.Header, b []byte, h *Handler) error {
	if header.Kind == frame.Keyframe {
		s.renew(m.Backfill)
		s.Waiting = s.Waiting && m.Backfill
		s.liveBegun, s.backfillBegun = s.liveBegun || !m.Backfill, s.backfillBegun || m.Backfill
	}
	decoder := s.live
	if m.Backfill {
		decoder = s.backfill
	}
	had := s.Ledger.Has(header.ID)
	if had && s.recent.differs(header.ID, frame.Checksum(b)) {
		// Deltas that follow apply to a state of this name, but not to the one that is here.
		decoder.Reset()
		s.Waiting = s.Waiting || !m.Backfill
		return &conflictError{header.ID}
	}
	if had {
		s.Repeated++
		if !decoder.Applies(header) {
			return nil
		}
	}
	if !decoder.Applies(header) {
		s.Waiting = s.Waiting || !m.Backfill
		_, err := decoder.Decode(b, frame.Handler{})
		return err
	}
	d := Delivery{Site: s.Name, Rank: s.Ledger.Place(header, m.Backfill), Backfill: m.Backfill, Header: header}
	losses, facts := 0, []frame.Fact(nil)
	traffic := s.traffic(m.Backfill)
	_, err := decoder.Decode(b, frame.Handler{
		Row: func(row *series.Row) {
			if had {
				if h.Known != nil {
					h.Known(&d, row)
				}
				return
			}
			s.Rows++
			traffic.Rows++
			s.Samples += uint64(row.Samples())
			if h.Row != nil {
				h.Row(&d, row)
			}
		},
		Loss: func(l frame.Loss) {
			if losses++; losses > maxLosses {
				return
			}
			s.Ledger.Lose(l)
			if h.Loss != nil && !had {
				h.Loss(s.Name, l)
			}
		},
		Origin: func(x []frame.Fact) { s.Facts, facts = x, x },
	})
	if err != nil {
		s.Waiting = s.Waiting || !m.Backfill
		return err
	}
	s.Frames++
	s.Ledger.Add(header, m.Received)
	if !had {
		s.recent.note(header.ID, frame.Checksum(b))
		traffic.Last, traffic.Sent = header.ID, header.Sent
	}
	if header.Kind == frame.Keyframe {
		d.Facts = facts
		if h.Keyframe != nil {
			h.Keyframe(&d)
		} else {
			s.Ledger.Settle(header, facts)
		}
		s.noteKeyframe(m)
	}
	if h.Done != nil && !had {
		h.Done(&d)
	}
	return nil
}

// noteKeyframe notes where decoding could begin again.
func (s *Site) noteKeyframe(m *Message) {
	s.traffic(m.Backfill).Keyframe = m.Received
	if m.Backfill {
		s.backfillKeyframe = m.Sequence
	} else {
		s.KeyframeSequence = m.Sequence
	}
}

func classify(err error) Reason {
	var mismatch *frame.MismatchError
	var limit *frame.LimitError
	var conflict *conflictError
	switch {
	case errors.As(err, &conflict):
		return ReasonConflict
	case errors.As(err, &mismatch):
		return ReasonMismatch
	case errors.As(err, &limit):
		return ReasonLimit
	case errors.Is(err, frame.ErrVersion):
		return ReasonVersion
	}
	return ReasonCorrupt
}

// Readmit asks again, for every site, whether it is let in and with which limits. What is known of a site stays: if it
// is let in again, nothing is handed out twice.
func (r *Receiver) Readmit() {
	for name, s := range r.sites {
		cfg, ok := r.cfg.Decoder(name)
		switch {
		case !ok:
			s.sleep()
		case s.live != nil && s.limits != cfg:
			s.staleLive, s.staleBackfill = true, true
		}
		s.refused, s.limits = !ok, cfg
	}
}
