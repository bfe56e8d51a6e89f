package hub

import (
	"errors"
	"maps"
	"time"
)

const (
	// byteBurst is how long a site may have saved up bytes for, beside one frame of the largest size.
	byteBurst = 10 * time.Second
	// A site is cut off when it sends floodFactor times what it may, for as long as floodWindow.
	floodWindow = 30 * time.Second
	floodFactor = 4
	// cutOff is how long it is refused then.
	cutOff = 10 * time.Minute
	// maxMetered bounds the sites that are metered at a time. Nothing is taken of further ones.
	maxMetered = 100_000
)

var errBytes = errors.New("the site sends more than limits.bytes_per_second")

// meter bounds what sites send, by the sizes of their messages and before anything is decoded. Its time is that at which
// the server stored a message: it does not matter when it is read. It is for one goroutine.
type meter struct {
	sites map[string]*siteMeter
}

// siteMeter is a bucket of bytes that is filled at the rate of the limit.
type siteMeter struct {
	level   float64
	at      int64 // ms since 1970, as window
	dropped uint64
	window  int64 // when it began
	bytes   int64 // that came since then
}

func newMeter() *meter { return &meter{sites: map[string]*siteMeter{}} }

// take reports whether a message of so many bytes, which was stored at a time in ms since 1970, is within the limits of
// its site, and whether the site is far beyond them. It says so once in a floodWindow.
func (m *meter) take(site string, bytes int, stored int64, l *Limits) (within, flood bool) {
	rate := float64(l.BytesPerSecond)
	if rate == 0 {
		return true, false
	}
	burst := rate*byteBurst.Seconds() + float64(l.FrameBytes)
	s := m.sites[site]
	if s == nil {
		if len(m.sites) >= maxMetered {
			return false, false
		}
		s = &siteMeter{level: burst, at: stored, window: stored}
		m.sites[site] = s
	}
	s.level = min(s.level+float64(max(stored-s.at, 0))*rate/1000, burst)
	s.at = stored
	if stored-s.window > floodWindow.Milliseconds() || stored < s.window {
		s.window, s.bytes = stored, 0
	}
	s.bytes += int64(bytes)
	if float64(s.bytes) > floodFactor*rate*floodWindow.Seconds() {
		flood = true
		s.window, s.bytes = stored, 0
	}
	if s.level < float64(bytes) {
		s.dropped++
		return false, flood
	}
	s.level -= float64(bytes)
	return true, flood
}

// dropped counts the messages of a site that were not within its limits.
func (m *meter) dropped(site string) uint64 {
	if s := m.sites[site]; s != nil {
		return s.dropped
	}
	return 0
}

// expire drops what is known of the sites that sent nothing since a time, unless they are to be kept.
func (m *meter) expire(before int64, keep func(site string) bool) {
	maps.DeleteFunc(m.sites, func(name string, s *siteMeter) bool { return s.at < before && !keep(name) })
}
