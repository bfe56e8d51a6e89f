package remotewrite

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"time"

	"github.com/thalweg/thalweg/internal/writeproto"
)

// maxParts bounds the requests that one refused request may become.
const maxParts = 32

// shard sends the requests of some sources, one after the other.
type shard struct {
	sender  *Sender
	encoder *writeproto.Encoder
	// What of the encoder's counts is counted.
	customBuckets, histograms uint64

	// Of the batch that is being sent.
	refusals []refusal
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

// settle sends a request until it is answered for good. The parts of a request that is refused are sent by themselves,
// as long as they may be the ones that can be taken: a receiver of 1.0 refuses all for the sake of one sample, and what
// is wrong with one site must not cost another its rows.
func (sh *shard) settle(ctx context.Context, r writeproto.Request) error {
	w := sh.sender.w
	attempt := trialSend
	if sh.sender.backfill {
		var words string
		if attempt, words = w.tryLate(r.Newest); attempt == trialLeave {
			sh.refuse(&r, LossLate, words)
			return nil
		}
	}
	took, lateWords := false, ""
	parts := []writeproto.Request{r}
	for sent := 1; len(parts) > 0; sent++ {
		part := parts[len(parts)-1]
		parts = parts[:len(parts)-1]
		a, err := sh.deliver(ctx, &part)
		if err != nil {
			return err
		}
		if a.verdict == verdictTaken || a.confirmed && !a.written.none() {
			took = true
			sh.partial(&part, &a)
			continue
		}
		if attempt == trialSend && sent+len(parts)+2 <= maxParts && worthSplitting(&a) {
			if first, second, ok := split(&part); ok {
				parts = append(parts, second, first)
				continue
			}
		}
		reason := LossRefused
		switch {
		case a.verdict == verdictExpired:
			reason = LossTooOld
		case isLate(&a):
			reason, lateWords = LossLate, a.words
		}
		sh.refuse(&part, reason, a.words)
	}
	switch {
	case !sh.sender.backfill:
	case took:
		w.takesLate()
	case lateWords != "":
		w.refusesLate(r.Newest, lateWords)
	}
	return nil
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

// partial notes what was taken of a request: all of it, or what the receiver says.
func (sh *shard) partial(r *writeproto.Request, a *answer) {
	got := written{r.Samples, r.Histograms, r.Exemplars}
	if a.confirmed {
		got = written{min(got.samples, a.written.samples), min(got.histograms, a.written.histograms), min(got.exemplars, a.written.exemplars)}
	}
	m := sh.sender.metrics
	m.samples.Add(float64(got.samples))
	m.histograms.Add(float64(got.histograms))
	m.exemplars.Add(float64(got.exemplars))
	sh.sender.newestTaken(r.Newest)
	lost := r.Samples + r.Histograms - got.samples - got.histograms
	reason, why := LossRefused, a.words
	switch {
	case isLate(a):
		reason = LossLate
	case a.verdict == verdictTaken:
		why = fmt.Sprintf("answered %d, and wrote less than it was sent", a.code)
	}
	// The receiver says how many it did not take, not of which rows: those that come first stand for them.
	for _, part := range r.Rows {
		if lost == 0 {
			break
		}
		n := min(lost, part.Samples)
		sh.refusals = append(sh.refusals, refusal{part.Row, n, reason, why})
		lost -= n
	}
}

// refuse notes that all rows of a request are lost.
func (sh *shard) refuse(r *writeproto.Request, reason Loss, why string) {
	for _, part := range r.Rows {
		sh.refusals = append(sh.refusals, refusal{part.Row, part.Samples, reason, why})
	}
}

// lateness is what receivers say of samples that come too late: Prometheus, Thanos, Mimir and their kin.
var lateness = regexp.MustCompile(`(?i)out[ -]of[ -](order|bounds)|too[ -]old|too far behind`)

// isLate reports whether rows were refused because newer ones of their series are there already.
func isLate(a *answer) bool {
	return (a.code == http.StatusBadRequest || a.code == http.StatusConflict || a.code == http.StatusUnprocessableEntity) && lateness.MatchString(a.words)
}

// worthSplitting reports whether an answer may be about some of the samples only, or about the size. Who says that it
// took none has looked at each.
func worthSplitting(a *answer) bool {
	switch a.code {
	case http.StatusBadRequest, http.StatusConflict, http.StatusUnprocessableEntity:
		return !a.confirmed
	}
	return a.code == http.StatusRequestEntityTooLarge
}
