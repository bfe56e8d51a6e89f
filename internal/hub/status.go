package hub

import (
	"cmp"
	"slices"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/pipeline"
)

// SiteStatus is what a hub knows of a site.
type SiteStatus struct {
	Name     string
	Part     int
	Expected bool // by the configuration
	Version  string
	// Newest frame that came, and its send time by the edge's clock; zero before the first.
	Newest frame.ID
	Sent   time.Time
	State  SiteState
	// LastRow is when a row last reached the store, by this clock, or of a site that was silent since this hub started,
	// when the server stored its last frame; zero before the first.
	LastRow time.Time
	// Skew is how far the edge's clock is ahead, at its last hello; Greeted when that was, zero if never.
	Skew    time.Duration
	Greeted time.Time
	// Waiting: the live lane cannot be decoded before a keyframe comes.
	Waiting bool
	// Live and Backfill are what came on the lanes since the hub started.
	Live, Backfill LaneStatus

	// Usage is what limits count, of what came live; Dropped are messages beyond bytes_per_second.
	Usage   pipeline.Usage
	Dropped uint64

	Sources                                int
	Messages, Bytes, Frames, Rows, Samples uint64
	Repeated                               uint64 // frames that came more than once
	Missing                                lane.Missing
	KeyframeSequence, LastSequence         uint64
}

// Refused counts what rules and limits have refused of a site since the hub started, by reason.
func (s *SiteStatus) Refused() map[string]uint64 {
	refused := map[string]uint64{}
	for reason, n := range s.Usage.Refused {
		refused[string(reason)] = n
	}
	if s.Dropped > 0 {
		refused[overBytes] = s.Dropped
	}
	return refused
}

// LaneStatus is what a hub knows of a lane of a site.
type LaneStatus struct {
	// Last frame that came for the first time, and its send time by the edge's clock; zero before the first.
	Last frame.ID
	Sent time.Time
	// Keyframe is when the last keyframe was decoded, by this clock; zero before the first.
	Keyframe time.Time
	// Sequence of the last message in the stream.
	Sequence uint64
	// Rows that came for the first time, and Bytes of all messages.
	Rows, Bytes uint64
	// Problem is the last thing that was wrong since the hub started, "" if nothing was, and ProblemAt when, by this clock.
	Problem   string
	ProblemAt time.Time
}

func laneStatus(t *lane.Traffic) LaneStatus {
	l := LaneStatus{Last: t.Last, Sequence: t.Sequence, Rows: t.Rows, Bytes: t.Bytes, Problem: t.Problem}
	if t.Problem != "" {
		l.ProblemAt = time.UnixMilli(t.ProblemAt)
	}
	if t.Last.Number != 0 {
		l.Sent = time.UnixMilli(t.Sent)
	}
	if t.Keyframe != 0 {
		l.Keyframe = time.UnixMilli(t.Keyframe)
	}
	return l
}

// SiteState says in one word whether somebody should look at a site.
type SiteState string

const (
	SiteLive    SiteState = "live"
	SiteWaiting SiteState = "waiting" // frames come, but cannot be decoded before the next keyframe
	SiteSilent  SiteState = "silent"  // no row for longer than the lookback
	SiteMissing SiteState = "missing" // expected by the configuration, and never seen
)

// SiteStates lists them all.
func SiteStates() []SiteState { return []SiteState{SiteLive, SiteWaiting, SiteSilent, SiteMissing} }

func (s *SiteStatus) state(now time.Time, lookback time.Duration) SiteState {
	switch {
	case s.Waiting:
		return SiteWaiting
	case s.LastRow.IsZero() && s.Messages == 0:
		return SiteMissing
	case now.Sub(s.LastRow) > lookback:
		return SiteSilent
	}
	return SiteLive
}

// Sites lists what is known of all sites, and of those that are expected and did not come, by name.
func (h *Hub) Sites() []SiteStatus {
	h.mu.Lock()
	var list []SiteStatus
	seen := map[string]bool{}
	lookback := time.Duration(h.config.Store.Lookback)
	h.receiver.Sites(func(s *lane.Site) bool {
		seen[s.Name] = true
		list = append(list, h.siteStatus(s))
		return true
	})
	for _, name := range h.ledgers.names() { // of sites that were silent since this hub started
		if !seen[name] && h.config.admits(name) {
			seen[name] = true
			list = append(list, SiteStatus{Name: name, Part: bus.PartOf(name), Expected: h.config.Sites[name].Expected})
		}
	}
	for name, c := range h.config.Sites {
		if !seen[name] && c.Expected {
			list = append(list, SiteStatus{Name: name, Part: bus.PartOf(name), Expected: true})
		}
	}
	h.mu.Unlock()
	now := h.now()
	for i := range list {
		h.account(&list[i])
		list[i].State = list[i].state(now, lookback)
		if g, ok := h.control.greeting(list[i].Name); ok {
			list[i].Skew, list[i].Greeted = time.Duration(-g.behind)*time.Millisecond, g.at
		}
	}
	slices.SortFunc(list, func(a, b SiteStatus) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// account adds what the ledger of a site knows.
func (h *Hub) account(st *SiteStatus) {
	var sent, came int64
	if st.Newest, sent, came = h.ledgers.newest(st.Name); st.Newest.Number != 0 {
		st.Sent = time.UnixMilli(sent)
	}
	if st.LastRow.IsZero() && came != 0 {
		st.LastRow = time.UnixMilli(came)
	}
	st.Missing = h.ledgers.missing(st.Name)
}

// siteStatus describes a site. The caller holds mu.
func (h *Hub) siteStatus(s *lane.Site) SiteStatus {
	st := SiteStatus{
		Name: s.Name, Part: bus.PartOf(s.Name), Waiting: s.Waiting, Sources: s.Sources(),
		Messages: s.Messages, Bytes: s.Bytes, Frames: s.Frames, Rows: s.Rows, Samples: s.Samples, Repeated: s.Repeated,
		KeyframeSequence: s.KeyframeSequence, LastSequence: s.LastSequence,
		Live: laneStatus(&s.Live), Backfill: laneStatus(&s.Backfill),
	}
	if guard := h.guards.sites[s.Name]; guard != nil {
		st.Usage = guard.live.Usage(worstShown)
	}
	st.Dropped = h.meter.dropped(s.Name)
	if c, ok := h.config.Sites[s.Name]; ok {
		st.Expected = c.Expected
	}
	for _, f := range s.Facts {
		if f.Name == "version" {
			st.Version = f.Value
		}
	}
	if ms := h.lastRow[s.Name]; ms != 0 {
		st.LastRow = time.UnixMilli(ms)
	}
	return st
}

// SiteGap is a gap of a site.
type SiteGap struct {
	Site string
	lane.Gap
}

// Gaps lists what is missing, by site, oldest first, at most limit of them. If that is not all, sites with many gaps
// make room for those with few.
func (h *Hub) Gaps(limit int) []SiteGap { return h.ledgers.gaps(limit) }

// Account says what is missing, and since when that holds, of the sites that are seen; nil sees all.
func (h *Hub) Account(sees func(site string) bool) Account { return h.ledgers.account(h.now(), sees) }

// gapsOf lists at most limit gaps of the ledgers that each hands out.
func gapsOf(each func(f func(site string, l *lane.Ledger)), limit int) (gaps []SiteGap) {
	type holed struct {
		site   string
		ledger *lane.Ledger
		gaps   int
	}
	var sites []holed
	each(func(site string, l *lane.Ledger) {
		if n := l.Missing().Gaps; n > 0 {
			sites = append(sites, holed{site, l, n})
		}
	})
	slices.SortFunc(sites, func(a, b holed) int {
		return cmp.Or(cmp.Compare(a.gaps, b.gaps), cmp.Compare(a.site, b.site))
	})
	for i := range sites {
		sites[i].gaps = min(sites[i].gaps, limit/(len(sites)-i))
		limit -= sites[i].gaps
	}
	slices.SortFunc(sites, func(a, b holed) int { return cmp.Compare(a.site, b.site) })
	for _, x := range sites {
		if x.gaps == 0 {
			continue
		}
		for _, g := range x.ledger.Gaps()[:x.gaps] {
			gaps = append(gaps, SiteGap{x.site, g})
		}
	}
	return gaps
}
