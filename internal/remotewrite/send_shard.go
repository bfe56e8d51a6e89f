package remotewrite

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/thalweg/thalweg/internal/writeproto"
)

// shard sends the requests of some sources, one after the other.
type shard struct {
	sender  *Sender
	encoder *writeproto.Encoder
	// What of the encoder's counts is counted.
	customBuckets, histograms uint64

	suspects map[uint64]*suspect

	// Of the batch that is being sent.
	refusals []refusal
	repeated repetition
	err      error
}

// send sends requests in order, until ctx ends.
func (sh *shard) send(ctx context.Context, requests []writeproto.Request) {
	for i := range requests {
		if sh.err = sh.settle(ctx, requests[i]); sh.err != nil {
			return
		}
	}
}

// deliver sends a request until there is an answer that holds. The request may have become one of 1.0 then. The only error
// is that of ctx.
func (sh *shard) deliver(ctx context.Context, r *writeproto.Request) (answer, error) {
	w := sh.sender.w
	backoff := time.Duration(0)
	for attempt := 0; ; attempt++ {
		s, message := w.current()
		if s.tooOld(r.Newest, w.now()) {
			return answer{verdict: verdictExpired, words: "older than sample_age_limit"}, nil
		}
		if r.Message == writeproto.V2 && message == writeproto.V1 {
			if err := sh.downgrade(s, r); err != nil {
				return answer{verdict: verdictRefused, words: err.Error()}, nil
			}
			attempt = 0
		}
		if r.Samples+r.Histograms == 0 {
			return answer{verdict: verdictTaken, code: http.StatusNoContent}, nil
		}
		a := sh.post(ctx, s, r, attempt)
		if ctx.Err() != nil {
			return answer{}, ctx.Err()
		}
		switch a.verdict {
		case verdictTaken:
			w.attempted(nil)
			if r.Message == writeproto.V2 {
				w.understood()
			}
			return a, nil
		case verdictRefused:
			w.attempted(a.err())
			return a, nil
		case verdictNotUnderstood:
			w.fallBack(a.words)
			continue
		}
		w.attempted(a.err())
		w.repeats.Log(slog.LevelWarn, "again", "receiver took nothing; the request is sent again",
			slog.Any("err", a.err()), slog.Int("attempt", attempt))
		sh.sender.metrics.retries.Inc()
		q := &s.config.QueueConfig
		backoff = max(backoff, time.Duration(q.MinBackoff))
		wait := backoff
		if a.after > 0 {
			wait = a.after
		}
		backoff = min(2*wait, time.Duration(q.MaxBackoff))
		if err := pause(ctx, wait, s.replaced); err != nil {
			return answer{}, err
		}
	}
}

// pause waits, but not when there is another configuration.
func pause(ctx context.Context, d time.Duration, replaced <-chan struct{}) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
	case <-replaced:
	}
	return nil
}

// post sends a request once, and measures it.
func (sh *shard) post(ctx context.Context, s *settings, r *writeproto.Request, attempt int) answer {
	m := sh.sender.metrics
	m.bytes.Add(float64(len(r.Body)))
	begin := time.Now()
	a := sh.sender.w.post(ctx, s, r, attempt)
	m.seconds.Observe(time.Since(begin).Seconds())
	return a
}

// downgrade makes a request of 2.0 one of 1.0. What 1.0 does not have is lost, and counted.
func (sh *shard) downgrade(s *settings, r *writeproto.Request) error {
	down, skipped, err := r.Downgrade(s.config.SendExemplars, s.config.SendNativeHistograms)
	if err != nil {
		return fmt.Errorf("make a request of 2.0 one of 1.0: %w", err)
	}
	reason := LossNativeHistograms
	if s.config.SendNativeHistograms {
		reason = LossCustomBuckets
	}
	sh.sender.metrics.failed[reason].Add(float64(skipped))
	*r = down
	return nil
}
