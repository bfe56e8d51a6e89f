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
	// maxLarge bounds the bodies that are in memory at a time and are compressed or longer than smallBody; others of these
	// wait. The rest waits for nobody, however slowly some are sent.
	maxLarge  = 16
	smallBody = 64 << 10
	// readTimeout is how long a client may take for its body, durableTimeout how long it may take to be durable.
	readTimeout    = 30 * time.Second
	durableTimeout = 10 * time.Second
)

// Handlers are the endpoints of the gateway by pattern of http.ServeMux.
func (g *Gateway) Handlers() map[string]http.Handler {
	handlers := map[string]http.Handler{"/gateway/metrics": http.HandlerFunc(g.ServeMetrics)}
	if g.options.Config.HTTP {
		handlers["/api/v1/events"] = g.eventsHandler()
	}
	return handlers
}

// OwnHandlers are those of a listener of its own: the paths of prom-stream-gateway, and those of Handlers.
func (g *Gateway) OwnHandlers() map[string]http.Handler {
	handlers := g.Handlers()
	handlers["/metrics"] = http.HandlerFunc(g.ServeMetrics)
	handlers["/metrics/"] = http.HandlerFunc(g.ServeMetrics)
	handlers["/{$}"] = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	return handlers
}

// eventsHandler takes events: an object, a list of them, or one on each line. It answers when they are durable.
func (g *Gateway) eventsHandler() http.Handler {
	large := make(chan struct{}, maxLarge)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.cors(w, r) {
			return
		}
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			http.Error(w, "events are posted", http.StatusMethodNotAllowed)
			return
		}
		g.post(w, r, large)
	})
}

// cors lets web pages of the configured origins post, and reports whether it has answered.
func (g *Gateway) cors(w http.ResponseWriter, r *http.Request) (done bool) {
	origin, allowed := r.Header.Get("Origin"), g.options.Config.CORSOrigins
	if origin == "" || !slices.Contains(allowed, origin) && !slices.Contains(allowed, "*") {
		return false
	}
	w.Header().Set("Access-Control-Allow-Origin", origin)
	w.Header().Add("Vary", "Origin")
	if r.Method != http.MethodOptions {
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

func (g *Gateway) post(w http.ResponseWriter, r *http.Request, large chan struct{}) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(readTimeout)) // a recorder has none
	body, coding := io.Reader(http.MaxBytesReader(w, r.Body, maxBody)), r.Header.Get("Content-Encoding")
	data, whole, err := readSmall(body, coding)
	if err == nil && !whole {
		select {
		case large <- struct{}{}:
			defer func() { <-large }()
		case <-r.Context().Done():
			return
		}
		data, err = readLarge(io.MultiReader(bytes.NewReader(data), body), coding)
	}
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
	o, err := g.Take(ctx, data)
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

// readSmall reads a body that is neither compressed nor long, or the beginning of one that is not whole then.
func readSmall(body io.Reader, coding string) (data []byte, whole bool, err error) {
	if coding != "" && coding != "identity" {
		return nil, false, nil
	}
	if data, err = io.ReadAll(io.LimitReader(body, smallBody)); err != nil {
		return nil, false, fmt.Errorf("read body: %w", err)
	}
	return data, len(data) < smallBody, nil
}

// readLarge reads a body as it was before it was compressed.
func readLarge(body io.Reader, coding string) ([]byte, error) {
	switch coding {
	case "", "identity":
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
		return nil, fmt.Errorf("read body: %w", err)
	case len(data) > maxBody:
		return nil, errTooLarge
	}
	return data, nil
}
