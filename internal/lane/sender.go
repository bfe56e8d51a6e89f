package lane

import (
	"time"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/series"
)

// KeyframeSpacing is the least time between two keyframes that are asked for from outside, whoever asks.
const KeyframeSpacing = 30 * time.Second

// SenderConfig is the policy of a Sender.
type SenderConfig struct {
	Encoder frame.EncoderConfig
	// Facts returns those of a keyframe that is about to begin, or some time before; nil: those of Encoder.
	Facts func() []frame.Fact
	// KeyframeInterval between keyframes; each is up to a tenth early, by Jitter.
	KeyframeInterval time.Duration
	// Lookback is the least time before a silent source is forgotten.
	Lookback time.Duration
	// Jitter returns a number in [0, 1).
	Jitter func() float64
}

// Sender turns the rows of a site into frames. Frames come back sealed, in order, and must all be stored in that order.
type Sender struct {
	cfg     SenderConfig
	encoder *frame.Encoder

	now          int64 // of the newest call
	keyframeDue  int64 // when the next keyframe must begin
	lastKeyframe int64
	lastForget   int64
}

// maxStep is more than what passes between two calls: when the clock shows more it was set, or the machine slept.
const maxStep = time.Minute

// NewSender begins an epoch.
func NewSender(cfg SenderConfig) *Sender {
	return &Sender{cfg: cfg, encoder: frame.NewEncoder(cfg.Encoder)}
}

// Continue makes a new sender go on behind the newest frame of its epoch, see frame.Encoder.
func (s *Sender) Continue(newest *frame.Header) { s.encoder.Continue(newest) }

// Append adds a row, and appends to dst the frames that this closed. now is in milliseconds since 1970, here and below.
// An error means that the row is not one; the sender goes on.
func (s *Sender) Append(dst [][]byte, row *series.Row, now int64) ([][]byte, error) {
	s.observe(now)
	if s.encoder.Empty() && now >= s.keyframeDue {
		s.beginKeyframe(now)
	}
	return s.encoder.Append(dst, row, now)
}

// Flush closes the frame under construction, if there is anything in it, and does what is due.
func (s *Sender) Flush(dst [][]byte, now int64) [][]byte {
	s.observe(now)
	if now-s.lastForget >= s.cfg.Lookback.Milliseconds()/2 {
		s.lastForget = now
		dst = s.encoder.ForgetSilent(dst, func(source *series.Source) int64 {
			return now - max(3*source.Interval, s.cfg.Lookback).Milliseconds()
		}, now)
	}
	// At last, so that nothing is under construction: a keyframe that is asked for now is the next frame.
	return s.encoder.Close(dst, now)
}

// RequestKeyframe makes the next frame a keyframe. From outside (a hub asks) it is granted every KeyframeSpacing at
// most; it reports whether it was granted.
func (s *Sender) RequestKeyframe(now int64, outside bool) bool {
	s.observe(now)
	if outside && now-s.lastKeyframe < KeyframeSpacing.Milliseconds() && s.lastKeyframe != 0 {
		return false
	}
	s.beginKeyframe(now)
	return true
}

// observe takes note of the time. When the clock was set, what is due stays as far away as it was, and no source counts
// as silent for that.
func (s *Sender) observe(now int64) {
	if step := now - s.now; s.now != 0 && (step < 0 || step > maxStep.Milliseconds()) {
		s.keyframeDue += step
		s.lastKeyframe += step
		s.lastForget = now
	}
	s.now = now
}

func (s *Sender) beginKeyframe(now int64) {
	if s.cfg.Facts != nil {
		s.encoder.SetFacts(s.cfg.Facts())
	}
	s.encoder.RequestKeyframe()
	s.lastKeyframe = now
	interval := float64(s.cfg.KeyframeInterval.Milliseconds())
	s.keyframeDue = now + int64(interval*(1-s.cfg.Jitter()/10))
}

// SinceKeyframe is how long ago the newest keyframe was made or asked for.
func (s *Sender) SinceKeyframe(now int64) time.Duration {
	s.observe(now)
	return time.Duration(now-s.lastKeyframe) * time.Millisecond
}

// Lost announces frames that will never reach a hub.
func (s *Sender) Lost(l frame.Loss) { s.encoder.Loss(l) }

// Limit bounds the frames from now on, in bytes before compression.
func (s *Sender) Limit(maxBody int) { s.encoder.SetMaxBody(maxBody) }

// SetVersion changes the version of the frames, with a keyframe.
func (s *Sender) SetVersion(v int) { s.encoder.SetVersion(v) }

// SetKeyframeInterval changes the interval from the next keyframe on.
func (s *Sender) SetKeyframeInterval(d time.Duration) { s.cfg.KeyframeInterval = d }

// Last is the header of the newest closed frame; Number 0 before the first.
func (s *Sender) Last() frame.Header { return s.encoder.Last() }
