package store

import (
	"cmp"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
)

// SiteStats says what the store has of a site.
type SiteStats struct {
	Name    string
	Sources int   // that have not ended
	Series  int   // alive
	LastRow int64 // newest time of any row, in ms; 0 if all were refused
}

// Sites returns what the store has of every site, by name.
func (s *Store) Sites() []SiteStats {
	s.mu.RLock()
	defer s.mu.RUnlock()
	sites := make([]SiteStats, 0, len(s.sites))
	for _, st := range s.sites {
		stats := SiteStats{Name: st.name, LastRow: st.lastRow}
		for _, src := range st.sources {
			if src.index != nil {
				stats.Sources++
				stats.Series += src.alive()
			}
		}
		sites = append(sites, stats)
	}
	slices.SortFunc(sites, func(a, b SiteStats) int { return cmp.Compare(a.Name, b.Name) })
	return sites
}

// SourceStats says what the store has of a source.
type SourceStats struct {
	Key      string
	Labels   labels.Labels // without the site label
	Interval time.Duration // 0 if rows are not expected regularly
	Series   int           // alive
	LastRow  int64         // newest time of any row, in ms
	Ended    bool
}

// Sources returns what the store has of every source of a site, by key; nil if it does not know the site.
func (s *Store) Sources(siteName string) []SourceStats {
	s.mu.RLock()
	defer s.mu.RUnlock()
	st := s.sites[siteName]
	if st == nil {
		return nil
	}
	sources := make([]SourceStats, 0, len(st.sources))
	for key, src := range st.sources {
		sources = append(sources, SourceStats{
			Key:      key,
			Labels:   src.origin.Labels,
			Interval: src.origin.Interval,
			Series:   src.alive(),
			LastRow:  src.lastRow,
			Ended:    src.index == nil,
		})
	}
	slices.SortFunc(sources, func(a, b SourceStats) int { return cmp.Compare(a.Key, b.Key) })
	return sources
}

type metrics struct {
	applied, superseded, hidden, dropped prometheus.Counter
	refused                              *prometheus.CounterVec
}

func newMetrics() *metrics {
	m := &metrics{
		applied: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "thalweg_store_rows_total",
			Help: "Rows stored.",
		}),
		superseded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "thalweg_store_superseded_rows_total",
			Help: "Rows ignored because a newer one of their source is stored, or because they would be forgotten at once.",
		}),
		hidden: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "thalweg_store_hidden_series_total",
			Help: "Series of new schemas that are not served: they have no name, are not valid, or are there already.",
		}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "thalweg_store_dropped_series_total",
			Help: "Series of new schemas that are not served because they have the site label already and on_conflict is drop.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "thalweg_store_refused_rows_total",
			Help: "Rows refused, by reason.",
		}, []string{"reason"}),
	}
	for _, reason := range []Reason{ReasonFuture, ReasonSeries, ReasonSources, ReasonChurn, ReasonSite, ReasonInvalid} {
		m.refused.WithLabelValues(string(reason))
	}
	return m
}

// Metrics returns the store's collectors.
func (s *Store) Metrics() []prometheus.Collector {
	gauge := func(name, help string, value func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			return float64(value())
		})
	}
	total := func(of func(SiteStats) int) func() int {
		return func() (sum int) {
			for _, stats := range s.Sites() {
				sum += of(stats)
			}
			return sum
		}
	}
	return []prometheus.Collector{
		s.metrics.applied, s.metrics.superseded, s.metrics.hidden, s.metrics.dropped, s.metrics.refused,
		gauge("thalweg_store_sites", "Sites with rows within the last day.", func() int { return len(s.Sites()) }),
		gauge("thalweg_store_sources", "Sources that have not ended.", total(func(t SiteStats) int { return t.Sources })),
		gauge("thalweg_store_series", "Series alive.", total(func(t SiteStats) int { return t.Series })),
		gauge("thalweg_store_schemas", "Distinct schemas in the index.", func() int {
			s.mu.RLock()
			defer s.mu.RUnlock()
			return len(s.indexes)
		}),
	}
}
