package hub

import (
	"context"
	"log/slog"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
)

const (
	// leastShare of the stream is what every site may hold, as a divisor. With fewer sites each has more.
	leastShare = 10
	// marksPerShare is how finely it is known where the messages of a site stand.
	marksPerShare = 16
	// purgeQueue bounds the deletions that wait; one that finds no room comes again with the next mark.
	purgeQueue = 64
)

// shares sees to it that no site holds more than its share of a stream that is three quarters full, so that none can evict
// what others have there. It counts what the tail reader has read since it began. It is for one goroutine.
type shares struct {
	maxBytes int64 // of the stream; 0: nothing is counted
	maxAge   time.Duration
	sites    map[string]*holding
	bytes    int64 // of all sites
}

// holding is what a site holds.
type holding struct {
	marks []mark // oldest first
	bytes int64  // of all
	last  uint64 // sequence of the newest message
	at    int64  // when it was stored, ms since 1970
}

// mark is where a run of messages of a site begins.
type mark struct {
	sequence uint64
	stored   int64 // ms since 1970
	bytes    int64
}

func newShares(maxBytes int64, maxAge time.Duration) *shares {
	return &shares{maxBytes: maxBytes, maxAge: maxAge, sites: map[string]*holding{}}
}

// share is what a site may hold: as much as each of them, and a tenth of the stream in any case.
func (s *shares) share() int64 { return s.maxBytes / int64(min(leastShare, max(1, len(s.sites)))) }

// add notes a message. It returns the sequence in front of which messages of the site are to be deleted; 0 if none
// are.
func (s *shares) add(site string, sequence uint64, stored int64, bytes int) (before uint64) {
	if s.maxBytes == 0 {
		return 0
	}
	h := s.sites[site]
	if h == nil {
		if len(s.sites) >= maxMetered {
			return 0
		}
		h = &holding{}
		s.sites[site] = h
	}
	if sequence <= h.last {
		return 0 // read again
	}
	h.last, h.at = sequence, stored
	share := s.share()
	if n := len(h.marks); n == 0 || h.marks[n-1].bytes >= share/marksPerShare {
		h.marks = append(h.marks, mark{sequence: sequence, stored: stored})
	}
	h.marks[len(h.marks)-1].bytes += int64(bytes)
	h.bytes += int64(bytes)
	s.bytes += int64(bytes)
	crowded := s.bytes > s.maxBytes/4*3
	for len(h.marks) > 1 {
		second := &h.marks[1] // what is in front of it is older
		switch {
		case s.maxAge > 0 && stored-second.stored > s.maxAge.Milliseconds(): // gone by itself
		case crowded && h.bytes > share:
			before = second.sequence
		default:
			return before
		}
		h.bytes -= h.marks[0].bytes
		s.bytes -= h.marks[0].bytes
		h.marks = h.marks[1:]
	}
	return before
}

// expire drops what is known of sites whose newest message was stored before a time.
func (s *shares) expire(before int64) {
	for site, h := range s.sites {
		if h.at < before {
			s.bytes -= h.bytes
			delete(s.sites, site)
		}
	}
}

// excess is messages of a site that are to be deleted: of each lane those in front of a sequence.
type excess struct {
	site   string
	before map[bus.Lane]uint64
}

// wantPurge has messages of a site deleted that are in front of a sequence, but for the last of each lane: its edge must
// find its place. The caller holds mu.
func (h *Hub) wantPurge(site string, before uint64) {
	s := h.receiver.Site(site)
	if s == nil {
		return
	}
	p := excess{site, map[bus.Lane]uint64{bus.Live: min(before, s.Live.Sequence), bus.Backfill: min(before, s.Backfill.Sequence)}}
	select {
	case h.purges <- p:
	default:
	}
}

// keepPurging deletes what is to be deleted, until ctx ends.
func (h *Hub) keepPurging(ctx context.Context) {
	for {
		select {
		case p := <-h.purges:
			h.deleteExcess(ctx, &p)
		case <-ctx.Done():
			return
		}
	}
}

func (h *Hub) deleteExcess(ctx context.Context, p *excess) {
	for lane, before := range p.before {
		if before == 0 {
			continue
		}
		deleted, err := h.conn.Purge(ctx, h.conn.Root().Lane(p.site, lane), before)
		if err != nil {
			if ctx.Err() == nil {
				h.repeats.Log(slog.LevelError, "purge "+p.site, "messages of a site beyond its share cannot be deleted",
					slog.String("site", p.site), slog.Any("err", err))
			}
			continue
		}
		h.metrics.purged.Add(float64(deleted))
		if deleted > 0 {
			h.repeats.Log(slog.LevelWarn, "share "+p.site, "site holds more than its share of the stream; its oldest messages are deleted",
				slog.String("site", p.site), slog.String("lane", string(lane)), slog.Uint64("messages", deleted), slog.Uint64("before", before))
		}
	}
}
