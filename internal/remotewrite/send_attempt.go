package remotewrite

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/thalweg/thalweg/internal/writeproto"
)

const (
	// maxWords is how much is kept of what a receiver says.
	maxWords = 1024
	// maxAnswer is how much of an answer is read so that its connection can be used again.
	maxAnswer = 64 << 10
	// maxRetryAfter bounds what a receiver may ask for.
	maxRetryAfter = 10 * time.Minute
)

// verdict is what the answer to a request means.
type verdict uint8

const (
	verdictTaken         verdict = iota
	verdictAgain                 // send it again
	verdictRefused               // it will never be taken
	verdictNotUnderstood         // it has to be sent as another message
	verdictExpired               // it is too old to be sent
)

// answer is what came back for a request, or why nothing did.
type answer struct {
	verdict verdict
	code    int           // 0: nothing came
	words   string        // of the receiver, or the error
	after   time.Duration // to wait before it is sent again; 0: the receiver does not say
	// written is what the receiver says it took, which 1.0 does not have.
	written   written
	confirmed bool // it says so
}

// err describes an answer that is not taken.
func (a *answer) err() error {
	if a.code == 0 {
		return fmt.Errorf("send request: %s", a.words)
	}
	return fmt.Errorf("receiver answered %d: %s", a.code, a.words)
}

// written counts what a receiver took of a request of 2.0.
type written struct{ samples, histograms, exemplars int }

func (w written) none() bool { return w == written{} }

// post sends a request once.
func (w *Writer) post(ctx context.Context, s *settings, r *writeproto.Request, attempt int) answer {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(s.config.RemoteTimeout))
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(r.Body))
	if err != nil {
		return answer{verdict: verdictAgain, words: err.Error()}
	}
	h := request.Header
	h.Set("Content-Encoding", "snappy")
	h.Set("User-Agent", w.userAgent)
	if r.Message == writeproto.V2 {
		h.Set("Content-Type", "application/x-protobuf;proto=io.prometheus.write.v2.Request")
		h.Set("X-Prometheus-Remote-Write-Version", "2.0.0")
	} else {
		h.Set("Content-Type", "application/x-protobuf")
		h.Set("X-Prometheus-Remote-Write-Version", "0.1.0")
	}
	if attempt > 0 {
		h.Set("Retry-Attempt", strconv.Itoa(attempt))
	}
	response, err := s.client.Do(request)
	if err != nil {
		return answer{verdict: verdictAgain, words: err.Error()}
	}
	defer response.Body.Close()
	words, _ := io.ReadAll(io.LimitReader(response.Body, maxWords)) // what did not come is not missed
	_, _ = io.CopyN(io.Discard, response.Body, maxAnswer)
	a := answer{code: response.StatusCode, words: shorten(words)}
	a.written, a.confirmed = parseWritten(response.Header)
	a.verdict = s.judge(r, &a)
	if a.verdict == verdictAgain {
		a.after = parseRetryAfter(response.Header.Get("Retry-After"), w.now())
	}
	return a
}

// judge says what an answer means.
func (s *settings) judge(r *writeproto.Request, a *answer) verdict {
	switch {
	case a.code/100 == 2:
		if r.Message == writeproto.V2 && r.Samples+r.Histograms+r.Exemplars > 0 && a.written.none() {
			// Who does not know 2.0 decodes its requests as empty ones, and is content.
			if a.words == "" {
				a.words = "nothing was written"
			}
			return verdictNotUnderstood
		}
		return verdictTaken
	case a.code/100 == 5, a.code == http.StatusTooManyRequests && s.config.QueueConfig.RetryOnRateLimit:
		return verdictAgain
	case a.code == http.StatusUnsupportedMediaType && r.Message == writeproto.V2:
		return verdictNotUnderstood
	}
	return verdictRefused
}

// shorten returns the first line or lines of an answer as they stand, without what could not be logged.
func shorten(words []byte) string {
	return strings.TrimSpace(strings.ToValidUTF8(string(words), "�"))
}

// parseWritten returns what a receiver says it took. Without a valid number it does not say.
func parseWritten(h http.Header) (w written, confirmed bool) {
	read := func(kind string, into *int) {
		if n, err := strconv.Atoi(h.Get("X-Prometheus-Remote-Write-" + kind + "-Written")); err == nil && n >= 0 {
			*into, confirmed = n, true
		}
	}
	read("Samples", &w.samples)
	read("Histograms", &w.histograms)
	read("Exemplars", &w.exemplars)
	return w, confirmed
}

// parseRetryAfter returns how long to wait by a Retry-After header, which has seconds or a date; 0 if it does not say, or
// names the past.
func parseRetryAfter(value string, now time.Time) time.Duration {
	var wait time.Duration
	if seconds, err := strconv.ParseUint(value, 10, 32); err == nil {
		wait = time.Duration(seconds) * time.Second
	} else if date, err := http.ParseTime(value); err == nil {
		wait = date.Sub(now)
	}
	return min(max(wait, 0), maxRetryAfter)
}
