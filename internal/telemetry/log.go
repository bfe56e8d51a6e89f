package telemetry

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// LogOptions say what is logged and where to.
type LogOptions struct {
	Level  string // debug, info, warn or error; "" is info
	Format string // logfmt or json; "" is logfmt
	// File to append to, reopened by Reopen after somebody rotated it. "" is Output.
	File   string
	Output io.Writer // nil is os.Stderr
}

// Log is the log of the process. Safe for concurrent use.
type Log struct {
	*slog.Logger
	level slog.LevelVar
	file  *logFile // nil if the log goes to Output
}

// OpenLog opens the log.
func OpenLog(o LogOptions) (*Log, error) {
	l := &Log{}
	if err := l.SetLevel(o.Level); err != nil {
		return nil, err
	}
	out := o.Output
	if out == nil {
		out = os.Stderr
	}
	if o.File != "" {
		l.file = &logFile{name: o.File}
		if err := l.file.reopen(); err != nil {
			return nil, err
		}
		out = l.file
	}
	options := &slog.HandlerOptions{Level: &l.level, ReplaceAttr: utc}
	switch o.Format {
	case "", "logfmt":
		l.Logger = slog.New(slog.NewTextHandler(out, options))
	case "json":
		l.Logger = slog.New(slog.NewJSONHandler(out, options))
	default:
		return nil, fmt.Errorf("log format %q is not logfmt or json", o.Format)
	}
	return l, nil
}

// utc makes the times of machines in different zones comparable.
func utc(groups []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey && len(groups) == 0 {
		a.Value = slog.StringValue(a.Value.Time().UTC().Format("2006-01-02T15:04:05.000Z07:00"))
	}
	return a
}

// SetLevel changes what is logged from now on.
func (l *Log) SetLevel(level string) error {
	switch strings.ToLower(level) {
	case "debug":
		l.level.Set(slog.LevelDebug)
	case "", "info":
		l.level.Set(slog.LevelInfo)
	case "warn":
		l.level.Set(slog.LevelWarn)
	case "error":
		l.level.Set(slog.LevelError)
	default:
		return fmt.Errorf("log level %q is not debug, info, warn or error", level)
	}
	return nil
}

// Reopen opens the file anew, for use after a rotation. If that fails, the log goes on in the old file.
func (l *Log) Reopen() error {
	if l.file == nil {
		return nil
	}
	return l.file.reopen()
}

// Close closes the file. Later lines are lost.
func (l *Log) Close() error {
	if l.file == nil {
		return nil
	}
	return l.file.close()
}

type logFile struct {
	name string

	mu sync.Mutex
	f  *os.File
}

func (l *logFile) reopen() error {
	f, err := os.OpenFile(l.name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("open log file: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f != nil {
		_ = l.f.Close() // every line was written when it was logged
	}
	l.f = f
	return nil
}

func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Write(p)
}

func (l *logFile) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Close()
}

// Repeats logs lines that may repeat without end: of each key the first at once, then at most one per interval, which
// says how many were left out. Safe for concurrent use.
type Repeats struct {
	log      *slog.Logger
	interval time.Duration

	mu   sync.Mutex
	keys map[string]*repeat
	rest repeat // of the keys for which there is no room
}

type repeat struct {
	logged     time.Time
	suppressed int
}

// maxRepeats bounds the keys remembered at a time; further ones share one entry.
const maxRepeats = 1000

// NewRepeats returns a Repeats that writes to log.
func NewRepeats(log *slog.Logger, interval time.Duration) *Repeats {
	return &Repeats{log: log, interval: interval, keys: map[string]*repeat{}}
}

// Log writes a line unless one of the same key was written less than an interval ago. Key names what repeats, such as
// the target and the kind of error.
func (r *Repeats) Log(level slog.Level, key, message string, attrs ...slog.Attr) {
	suppressed, ok := r.admit(key)
	if !ok {
		return
	}
	if suppressed > 0 {
		attrs = append(attrs[:len(attrs):len(attrs)], slog.Int("suppressed", suppressed))
	}
	r.log.LogAttrs(context.Background(), level, message, attrs...)
}

func (r *Repeats) admit(key string) (suppressed int, ok bool) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.keys[key]
	if e == nil && len(r.keys) >= maxRepeats {
		r.forget(now)
	}
	switch {
	case e != nil:
	case len(r.keys) >= maxRepeats:
		e = &r.rest
	default:
		e = &repeat{}
		r.keys[key] = e
	}
	if !e.logged.IsZero() && now.Sub(e.logged) < r.interval {
		e.suppressed++
		return 0, false
	}
	suppressed = e.suppressed
	*e = repeat{logged: now}
	return suppressed, true
}

// forget drops the keys whose interval is over.
func (r *Repeats) forget(now time.Time) {
	for key, e := range r.keys {
		if now.Sub(e.logged) >= r.interval {
			delete(r.keys, key)
		}
	}
}

// Forget makes the next line of a key be written at once, for use when what repeated has ended.
func (r *Repeats) Forget(key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.keys, key)
}
