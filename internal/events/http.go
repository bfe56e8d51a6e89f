package events

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"
)

const (
	// maxBody bounds a body, decompressed.
	maxBody = 16 << 20
	// smallBody is how long a body may be to be read beside any number of others. Of longer ones, maxLarge are in memory at a
	// time, each for no longer than it takes to send the rest in largeTimeout and to take the events; maxPacked are
	// decompressed at a time, which waits for no client.
	smallBody    = 64 << 10
	maxLarge     = 16
	maxPacked    = 8
	largeTimeout = 10 * time.Second
	// readTimeout is how long a client may take for the beginning of its body, durableTimeout how long it may take to be
	// durable.
	readTimeout    = 30 * time.Second
	durableTimeout = 10 * time.Second
)

const eventsPath = "/api/v1/events"

// Handlers are the endpoints of the gateway by pattern of http.ServeMux. What lets web pages post is AllowOrigins, which
// belongs around everything that asks for users.
func (g *Gateway) Handlers() map[string]http.Handler {
	handlers := map[string]http.Handler{"/gateway/metrics": http.HandlerFunc(g.ServeMetrics)}
	if g.options.Config.HTTP {
		handlers[eventsPath] = g.eventsHandler()
	}
	return handlers
}

// OwnHandlers are those of a listener of its own: the paths of prom-stream-gateway, and those of Handlers.
func (g *Gateway) OwnHandlers() map[string]http.Handler {
	handlers := g.Handlers()
	if h := handlers[eventsPath]; h != nil {
		handlers[eventsPath] = g.AllowOrigins(h)
	}
	handlers["/metrics"] = http.HandlerFunc(g.ServeMetrics)
	handlers["/metrics/"] = http.HandlerFunc(g.ServeMetrics)
	handlers["/{$}"] = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	return handlers
}

// eventsHandler takes events: an object, a list of them, or one on each line. It answers when they are durable.
func (g *Gateway) eventsHandler() http.Handler {
	p := places{large: make(chan struct{}, maxLarge), packed: make(chan struct{}, maxPacked)}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			http.Error(w, "events are posted", http.StatusMethodNotAllowed)
			return
		}
		g.post(w, r, p)
	})
}

// AllowOrigins lets web pages of the configured origins post. Whether they may, browsers ask without the user, so that this
// is answered before anybody asks for one; with a wrong one, pages can read that it is.
func (g *Gateway) AllowOrigins(next http.Handler) http.Handler {
	if !g.options.Config.HTTP || len(g.options.Config.CORSOrigins) == 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != eventsPath || !g.cors(w, r) {
			next.ServeHTTP(w, r)
		}
	})
}

// cors tells a page of a configured origin that it may, and reports whether that was the question.
func (g *Gateway) cors(w http.ResponseWriter, r *http.Request) (done bool) {
	origin, allowed := r.Header.Get("Origin"), g.options.Config.CORSOrigins
	if origin == "" || !slices.Contains(allowed, origin) && !slices.Contains(allowed, "*") {
		return false
	}
	w.Header().Set("Access-Control-Allow-Origin", origin)
	w.Header().Add("Vary", "Origin")
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	w.Header().Set("Access-Control-Allow-Methods", http.MethodPost)
	w.Header().Set("Access-Control-Allow-Headers", "Content-Type, Content-Encoding, Authorization")
	w.Header().Set("Access-Control-Max-Age", "86400")
	w.WriteHeader(http.StatusNoContent)
	return true
}

// posted is the answer to a request with events.
type posted struct {
	Taken   int            `json:"taken"`
	Dropped map[Reason]int `json:"dropped,omitempty"`
	Error   string         `json:"error,omitempty"`
}

func (g *Gateway) post(w http.ResponseWriter, r *http.Request, p places) {
	o, durable, err := g.receive(w, r, p)
	if err != nil {
		if _, large := errors.AsType[*http.MaxBytesError](err); large || errors.Is(err, errTooLarge) {
			g.answer(w, resultTooLarge, http.StatusRequestEntityTooLarge, posted{Error: errTooLarge.Error()})
			return
		}
		g.answer(w, resultMalformed, http.StatusBadRequest, posted{Error: err.Error()})
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), durableTimeout)
	defer cancel()
	err = durable.wait(ctx)
	answer := posted{Taken: o.Taken, Dropped: o.Dropped}
	switch {
	case errors.Is(err, errLost):
		w.Header().Set("Retry-After", "1")
		g.answer(w, resultUnavailable, http.StatusServiceUnavailable, posted{Error: errLost.Error()})
	case err != nil:
		g.repeats.Log(slog.LevelError, "post", "events are not known to be durable", slog.Any("err", err))
		w.Header().Set("Retry-After", "5")
		g.answer(w, resultUnavailable, http.StatusServiceUnavailable, posted{Error: errNotDurable.Error()})
	case o.Dropped[Malformed] > 0:
		answer.Error = "the body is not of JSON events"
		g.answer(w, resultMalformed, http.StatusBadRequest, answer)
	case o.Taken == 0 && o.lost() > 0:
		answer.Error = "no event can be taken"
		g.answer(w, resultRefused, http.StatusBadRequest, answer)
	default:
		g.answer(w, resultTaken, http.StatusOK, answer)
	}
}

func (g *Gateway) answer(w http.ResponseWriter, r result, status int, p posted) {
	g.metrics.requests.WithLabelValues(string(r)).Inc()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(p) // the client has gone
}

var errTooLarge = fmt.Errorf("the body is more than %d MiB", maxBody>>20)

// places bound how many bodies are in memory that are long, or were compressed.
type places struct{ large, packed chan struct{} }

// takePlace waits for a place, which is free again when release is called.
func takePlace(ctx context.Context, places chan struct{}) (release func(), err error) {
	select {
	case places <- struct{}{}:
		return func() { <-places }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// receive reads a body and applies its events. The error is about the body; whether they are durable the commit tells.
func (g *Gateway) receive(w http.ResponseWriter, r *http.Request, p places) (Outcome, *commit, error) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(readTimeout)) // a recorder has none
	body := http.MaxBytesReader(w, r.Body, maxBody)
	data, err := io.ReadAll(io.LimitReader(body, smallBody))
	if err != nil {
		return Outcome{}, nil, fmt.Errorf("read body: %w", err)
	}
	if len(data) == smallBody { // there may be more
		release, err := takePlace(r.Context(), p.large)
		if err != nil {
			return Outcome{}, nil, err
		}
		defer release()
		_ = control.SetReadDeadline(time.Now().Add(largeTimeout))
		if data, err = io.ReadAll(io.MultiReader(bytes.NewReader(data), body)); err != nil {
			return Outcome{}, nil, fmt.Errorf("read body: %w", err)
		}
	}
	if coding := r.Header.Get("Content-Encoding"); coding != "" && coding != "identity" {
		release, err := takePlace(r.Context(), p.packed)
		if err != nil {
			return Outcome{}, nil, err
		}
		defer release()
		if data, err = decompress(data, coding); err != nil {
			return Outcome{}, nil, err
		}
	}
	o, durable := g.take(data)
	return o, durable, nil
}

// decompress returns a body as it was before.
func decompress(packed []byte, coding string) ([]byte, error) {
	body := io.Reader(bytes.NewReader(packed))
	switch coding {
	case "gzip":
		z, err := gzip.NewReader(body)
		if err != nil {
			return nil, fmt.Errorf("read gzip: %w", err)
		}
		body = z
	case "zstd":
		z, err := zstd.NewReader(body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20))
		if err != nil {
			return nil, fmt.Errorf("read zstd: %w", err)
		}
		defer z.Close()
		body = z
	default:
		return nil, fmt.Errorf("content encoding %q is not gzip or zstd", coding)
	}
	data, err := io.ReadAll(io.LimitReader(body, maxBody+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", coding, err)
	case len(data) > maxBody:
		return nil, errTooLarge
	}
	return data, nil
}
