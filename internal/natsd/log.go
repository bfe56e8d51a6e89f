package natsd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/thalweg/thalweg/internal/telemetry"
)

// Clients can make the server complain as fast as they can connect and send, so what it says about one of them is
// passed on once an interval for each host and kind, a message that it could not store once an interval, and of all the
// rest only so many lines a second.
const (
	repeatsInterval = time.Minute
	linesPerSecond  = 10
	linesBurst      = 100
)

// notStored begins the line of each message that JetStream could not write.
const notStored = "JetStream failed to store a msg"

// logger passes the server's lines on. Its notices are news while the server runs, and noise while it starts and
// stops. What a client does wrong is a warning, however loudly the server says it. A fatal line, after which
// nats-server would exit, is kept as the reason why it ended.
type logger struct {
	log     *slog.Logger
	repeats *telemetry.Repeats
	limit   *rate.Limiter
	dropped prometheus.Counter
	died    chan struct{} // closed by the first fatal line
	trouble chan struct{} // has a token after lines that tell of an error

	mu      sync.Mutex
	running bool
	cause   error
}

func newLogger(log *slog.Logger) *logger {
	return &logger{
		log:     log,
		repeats: telemetry.NewRepeats(log, repeatsInterval),
		limit:   rate.NewLimiter(linesPerSecond, linesBurst),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "thalweg_natsd_dropped_log_lines_total",
			Help: "Lines of the embedded server that were not logged because there were too many.",
		}),
		died:    make(chan struct{}),
		trouble: make(chan struct{}, 1),
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
	line := text(format, v)
	if host, kind, ok := aboutClient(line); ok && level >= slog.LevelInfo {
		level = min(level, slog.LevelWarn)
		l.repeats.Log(level, host+" "+kind, "server about a client", slog.String("host", host), slog.String("line", line))
		return
	}
	if !l.limit.Allow() {
		l.dropped.Inc()
		return
	}
	l.log.Log(context.Background(), level, message, "line", line)
}

// aboutClient takes a line apart that is about one client:
//
//	ADDRESS:PORT - cid:7 - "v1.52.0:go:edge" - "SITES/ams-1/anonymous" - Publish Violation - Subject "x"
//
// where the quoted parts are there once the client has said what it is and been let in. The kind is what the line
// begins with after that, without what differs from one time to the next.
func aboutClient(line string) (host, kind string, ok bool) {
	address, rest, _ := strings.Cut(line, " - ")
	id, rest, _ := strings.Cut(rest, " - ")
	if !clientID(id) {
		return "", "", false
	}
	host = address
	if port := strings.LastIndexByte(address, ':'); port >= 0 {
		host = address[:port]
	}
	for quoted, err := strconv.QuotedPrefix(rest); err == nil; quoted, err = strconv.QuotedPrefix(rest) {
		rest = strings.TrimPrefix(rest[len(quoted):], " - ")
	}
	if end := strings.IndexAny(rest, ":,-\"0123456789"); end >= 0 {
		rest = rest[:end]
	}
	return host, strings.TrimSpace(rest), true
}

// clientID tells clients, by whatever protocol they come, from the other servers of a cluster.
func clientID(id string) bool {
	protocol, _, _ := strings.Cut(id, ":")
	switch protocol {
	case "cid", "wid", "mid", "mid_ws":
		return true
	}
	return false
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
	line := text(format, v)
	if strings.Contains(line, server.ErrAuthentication.Error()) {
		return // the authenticator says why, and not at every attempt
	}
	if _, _, ok := aboutClient(line); !ok {
		select {
		case l.trouble <- struct{}{}:
		default:
		}
	}
	if strings.HasPrefix(line, notStored) {
		l.repeats.Log(slog.LevelError, notStored, "server error", slog.String("line", line))
		return
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
