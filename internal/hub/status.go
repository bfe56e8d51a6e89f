package hub

import (
	"cmp"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
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
	// LastRow is when a row last reached the store, by this clock; zero before the first.
	LastRow time.Time
	// Skew is how far the edge's clock is ahead, at its last hello; Greeted when that was, zero if never.
	Skew    time.Duration
	Greeted time.Time
	// Waiting: the live lane cannot be decoded before a keyframe comes.
	Waiting bool
	// Live and Backfill are what came on the lanes since the hub started.
	Live, Backfill LaneStatus

	Sources                                int
	Messages, Bytes, Frames, Rows, Samples uint64
	Repeated                               uint64 // frames that came more than once
	Gaps                                   int    // holes within what this hub saw
	RowsMissing                            uint64 // in the gaps, and in those that are not held any more
	KeyframeSequence, LastSequence         uint64
}

// LaneStatus is what a hub knows of a lane of a site.
type LaneStatus struct {
	// Last frame that came for the first time, and its send time by the edge's clock; zero before the first.
	Last frame.ID
	Sent time.Time
	// Sequence of the last message in the stream.
	Sequence uint64
	// Rows that came for the first time, and Bytes of all messages.
	Rows, Bytes uint64
}

func laneStatus(t *lane.Traffic) LaneStatus {
	l := LaneStatus{Last: t.Last, Sequence: t.Sequence, Rows: t.Rows, Bytes: t.Bytes}
	if t.Last.Number != 0 {
		l.Sent = time.UnixMilli(t.Sent)
	}
	return l
}

// Sites lists what is known of all sites, and of those that are expected and did not come, by name.
func (h *Hub) Sites() []SiteStatus {
	h.mu.Lock()
	var list []SiteStatus
	seen := map[string]bool{}
	h.receiver.Sites(func(s *lane.Site) bool {
		seen[s.Name] = true
		list = append(list, h.siteStatus(s))
		return true
	})
	for name, c := range h.config.Sites {
		if !seen[name] && c.Expected {
			list = append(list, SiteStatus{Name: name, Part: bus.PartOf(name), Expected: true})
		}
	}
	h.mu.Unlock()
	for i := range list {
		if g, ok := h.control.greeting(list[i].Name); ok {
			list[i].Skew, list[i].Greeted = time.Duration(-g.behind)*time.Millisecond, g.at
		}
	}
	slices.SortFunc(list, func(a, b SiteStatus) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// siteStatus describes a site. The caller holds mu.
func (h *Hub) siteStatus(s *lane.Site) SiteStatus {
	st := SiteStatus{
		Name: s.Name, Part: bus.PartOf(s.Name), Waiting: s.Waiting, Sources: s.Sources(),
		Messages: s.Messages, Bytes: s.Bytes, Frames: s.Frames, Rows: s.Rows, Samples: s.Samples, Repeated: s.Repeated,
		KeyframeSequence: s.KeyframeSequence, LastSequence: s.LastSequence,
		Live: laneStatus(&s.Live), Backfill: laneStatus(&s.Backfill),
	}
	if c, ok := h.config.Sites[s.Name]; ok {
		st.Expected = c.Expected
	}
	for _, f := range s.Facts {
		if f.Name == "version" {
			st.Version = f.Value
		}
	}
	var sent int64
	if st.Newest, sent = s.Ledger.Newest(); st.Newest.Number != 0 {
		st.Sent = time.UnixMilli(sent)
	}
	st.Gaps, st.RowsMissing = s.Ledger.Missing()
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
func (h *Hub) Gaps(limit int) []SiteGap {
	h.mu.Lock()
	defer h.mu.Unlock()
	return gapsOf(h.receiver, limit)
}

func gapsOf(r *lane.Receiver, limit int) (gaps []SiteGap) {
	type holed struct {
		site *lane.Site
		gaps int
	}
	var sites []holed
	r.Sites(func(s *lane.Site) bool {
		if n, _ := s.Ledger.Missing(); n > 0 {
			sites = append(sites, holed{s, n})
		}
		return true
	})
	slices.SortFunc(sites, func(a, b holed) int {
		return cmp.Or(cmp.Compare(a.gaps, b.gaps), cmp.Compare(a.site.Name, b.site.Name))
	})
	for i := range sites {
		sites[i].gaps = min(sites[i].gaps, limit/(len(sites)-i))
		limit -= sites[i].gaps
	}
	slices.SortFunc(sites, func(a, b holed) int { return cmp.Compare(a.site.Name, b.site.Name) })
	for _, x := range sites {
		if x.gaps == 0 {
			continue
		}
		for _, g := range x.site.Ledger.Gaps()[:x.gaps] {
			gaps = append(gaps, SiteGap{x.site.Name, g})
		}
	}
	return gaps
}

// siteCollector gives what is known of each site as metrics.
type siteCollector struct{ hub *Hub }

var (
	siteLastRow = prometheus.NewDesc("thalweg_site_last_row_timestamp_seconds", "When a row of the site last reached the store, by the hub's clock.", []string{"site"}, nil)
	siteMissing = prometheus.NewDesc("thalweg_site_rows_missing", "Rows of the site that exist and did not come, within what this hub saw.", []string{"site"}, nil)
	siteRows    = prometheus.NewDesc("thalweg_site_rows_total", "Rows of the site that came.", []string{"site"}, nil)
	siteSamples = prometheus.NewDesc("thalweg_site_samples_total", "Samples of the site that came.", []string{"site"}, nil)
	siteBytes   = prometheus.NewDesc("thalweg_site_bytes_total", "Bytes of the site's messages that were read.", []string{"site"}, nil)
	siteSkew    = prometheus.NewDesc("thalweg_site_clock_skew_seconds", "How far the clock of the site is ahead of the hub's, at its last hello.", []string{"site"}, nil)
	siteWaiting = prometheus.NewDesc("thalweg_site_waiting_for_keyframe", "Whether the live lane of the site cannot be decoded before a keyframe comes.", []string{"site"}, nil)
)

// Describe implements prometheus.Collector.
func (siteCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{siteLastRow, siteMissing, siteRows, siteSamples, siteBytes, siteSkew, siteWaiting} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c siteCollector) Collect(ch chan<- prometheus.Metric) {
	for _, s := range c.hub.Sites() {
		gauge := func(d *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, s.Name)
		}
		counter := func(d *prometheus.Desc, v uint64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), s.Name)
		}
		last := 0.0
		if !s.LastRow.IsZero() {
			last = float64(s.LastRow.UnixMilli()) / 1000
		}
		gauge(siteLastRow, last)
		gauge(siteMissing, float64(s.RowsMissing))
		counter(siteRows, s.Rows)
		counter(siteSamples, s.Samples)
		counter(siteBytes, s.Bytes)
		if !s.Greeted.IsZero() {
			gauge(siteSkew, s.Skew.Seconds())
		}
		waiting := 0.0
		if s.Waiting {
			waiting = 1
		}
		gauge(siteWaiting, waiting)
	}
}
