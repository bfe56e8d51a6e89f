package scrape

import (
	"time"

	"github.com/cespare/xxhash/v2"
)

const (
	// spacing of the targets of an aligned site.
	spacing = 10 * time.Millisecond
	// tolerance within which a scrape is taken to be on time, as in Prometheus; at most 1 % of the interval.
	tolerance = 2 * time.Millisecond
)

// grid is the series of instants at which a target is scraped: offset + n*interval since 1970.
type grid struct {
	interval time.Duration
	offset   time.Duration
}

// alignedGrid puts the targets of a site close together, each in a slot of its own.
func alignedGrid(interval time.Duration, site string, slot int) grid {
	offset := time.Duration(xxhash.Sum64String(site) % uint64(interval))
	return grid{interval, (offset + time.Duration(slot)*spacing) % interval}
}

// spreadGrid spreads targets over the interval, those of each site in another way.
func spreadGrid(interval time.Duration, site, key string) grid {
	return grid{interval, time.Duration((xxhash.Sum64String(site) ^ xxhash.Sum64String(key)) % uint64(interval))}
}

// upTo returns the last instant that is not after t.
func (g grid) upTo(t time.Time) time.Time {
	since := (t.UnixNano() - int64(g.offset)) % int64(g.interval)
	if since < 0 {
		since += int64(g.interval)
	}
	return time.Unix(0, t.UnixNano()-since)
}

func (g grid) after(t time.Time) time.Time { return g.upTo(t).Add(g.interval) }

// next returns the instant that follows last, the instant of the previous scrape. It is not after now when that scrape
// took too long; instants that were missed by then are skipped, but for the newest. A clock that was set back does not
// stop the scrapes.
func (g grid) next(last, now time.Time) time.Time {
	next := g.after(last)
	switch {
	case last.IsZero() || next.Sub(now) > g.interval:
		return g.after(now)
	case next.Before(now):
		return g.upTo(now)
	}
	return next
}

// rowTime is the time of a scrape that was due at the given instant and begins now. Scrapes on time have the due time
// itself: regular timestamps cost less.
func (g grid) rowTime(due, now time.Time) time.Time {
	if now.Sub(due).Abs() <= min(tolerance, g.interval/100) {
		return due
	}
	return now
}
