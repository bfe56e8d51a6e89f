package scrape

import (
	"log/slog"
	"sync/atomic"

	"golang.org/x/time/rate"
)

// limitedLog keeps thousands of targets that fail together from filling the disk. A line says how many others were
// left out before it.
type limitedLog struct {
	logger  *slog.Logger
	limiter *rate.Limiter
	omitted atomic.Int64
}

func newLimitedLog(logger *slog.Logger) *limitedLog {
	return &limitedLog{logger: logger, limiter: rate.NewLimiter(1, 20)}
}

func (l *limitedLog) warn(msg string, attrs ...any) { l.log(l.logger.Warn, msg, attrs) }
func (l *limitedLog) info(msg string, attrs ...any) { l.log(l.logger.Info, msg, attrs) }

func (l *limitedLog) log(log func(string, ...any), msg string, attrs []any) {
	if !l.limiter.Allow() {
		l.omitted.Add(1)
		return
	}
	if n := l.omitted.Swap(0); n > 0 {
		attrs = append(attrs, "omitted", n)
	}
	log(msg, attrs...)
}
