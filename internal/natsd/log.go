package natsd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
)

// Clients can make the server complain as fast as they can send, so only so many lines a second are passed on.
const (
	linesPerSecond = 10
	linesBurst     = 100
)

// logger passes the server's lines on. Its notices are news while the server runs, and noise while it starts and
// stops. A fatal line, after which nats-server would exit, is kept as the reason why it ended.
type logger struct {
	log     *slog.Logger
	limit   *rate.Limiter
	dropped prometheus.Counter
	died    chan struct{} // closed by the first fatal line

	mu      sync.Mutex
	running bool
	cause   error
}

func newLogger(log *slog.Logger) *logger {
	return &logger{
		log:   log.With("component", "nats-server"),
		limit: rate.NewLimiter(linesPerSecond, linesBurst),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "thalweg_natsd_dropped_log_lines_total",
			Help: "Lines of the embedded server that were not logged because there were too many.",
		}),
		died: make(chan struct{}),
	}
}

func (l *logger) started()  { l.setRunning(true) }
func (l *logger) stopping() { l.setRunning(false) }

func (l *logger) setRunning(running bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running = running
}

func (l *logger) fatal() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cause
}

func (l *logger) write(level slog.Level, message, format string, v []any) {
	if !l.log.Enabled(context.Background(), level) {
		return
	}
	if !l.limit.Allow() {
		l.dropped.Inc()
		return
	}
	l.log.Log(context.Background(), level, message, "line", text(format, v))
}

func text(format string, v []any) string { return strings.TrimSpace(fmt.Sprintf(format, v...)) }

func (l *logger) Noticef(format string, v ...any) {
	l.mu.Lock()
	running := l.running
	l.mu.Unlock()
	level := slog.LevelDebug
	if running {
		level = slog.LevelInfo
	}
	l.write(level, "server notice", format, v)
}

func (l *logger) Warnf(format string, v ...any) {
	l.write(slog.LevelWarn, "server warning", format, v)
}

func (l *logger) Errorf(format string, v ...any) {
	if strings.Contains(text(format, v), server.ErrAuthentication.Error()) {
		return // the authenticator says why, and not at every attempt
	}
	l.write(slog.LevelError, "server error", format, v)
}

func (l *logger) Debugf(format string, v ...any) {
	l.write(slog.LevelDebug, "server debug", format, v)
}

func (l *logger) Tracef(format string, v ...any) {
	l.write(slog.LevelDebug, "server trace", format, v)
}

func (l *logger) Fatalf(format string, v ...any) {
	cause := text(format, v)
	l.log.Error("server cannot go on", "line", cause)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause == nil {
		l.cause = errors.New(cause)
		close(l.died)
	}
}
