package store

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// FutureBound is how far ahead of the store's clock a row may be. Rows within it are served, later ones are refused:
// Prometheus takes no sample further ahead either.
const FutureBound = 10 * time.Minute

// maxRetention bounds how long a silent source is kept, whatever interval it claims, and is how long a site without
// sources is listed after its last row.
const maxRetention = 24 * time.Hour

// Rank is the place of a row in the order of its site's frames: the ordinal of the epoch, then the frame's number. It
// decides which of two rows is newer, whatever their timestamps say and in whichever order they arrive.
type Rank struct {
	Epoch uint32
	Frame uint64
}

// Less reports whether r is older than o.
func (r Rank) Less(o Rank) bool {
	return r.Epoch < o.Epoch || r.Epoch == o.Epoch && r.Frame < o.Frame
}

// Limits bound what one site may hold. Zero means no limit.
type Limits struct {
	Series  int // columns of the schemas of all its sources
	Sources int
}

// Options configure a Store.
type Options struct {
	// Config, with an empty SiteLabel where no such label is to be added, as at an edge.
	Config Config
	// Limits of a site; nil means none. It is called with the store locked, whenever a site is about to grow.
	Limits func(site string) Limits
}

// Store holds the last row of every source of every site. It is safe for concurrent use.
type Store struct {
	limits  func(site string) Limits
	metrics *metrics

	mu         sync.RWMutex
	config     Config
	sites      map[string]*site
	indexes    map[*series.Schema]*index // by the longest schema of each
	idle       int                       // columns of indexes that have lost their last source, at most
	catalogues [groupings]*catalogue     // built when first asked for
	// Of the base labels of all sources: how many sources have a name, and how many the same set. Selections learn
	// from it where series of different sources may have identical labels.
	baseNames   map[string]int
	baseVersion int // counts the names that were new
	baseSets    map[uint64]int
}

type site struct {
	name    string
	sources map[string]*source // by key, ended ones included
	columns int                // of all sources
	lastRow int64              // newest time of any row, in ms

	// Columns that got another schema within the current minute, which costs more than anything else a site can do.
	churn       int
	churnMinute int64
}

// churnFactor bounds the churn of a site to a multiple of the series it may have. It takes all sources to begin anew
// several times a minute to get there.
const churnFactor = 4

// New returns an empty store.
func New(o Options) (*Store, error) {
	if err := checkConfig(o.Config); err != nil {
		return nil, fmt.Errorf("create store: %w", err)
	}
	s := &Store{
		limits:    o.Limits,
		metrics:   newMetrics(),
		config:    o.Config,
		sites:     map[string]*site{},
		indexes:   map[*series.Schema]*index{},
		baseNames: map[string]int{},
		baseSets:  map[uint64]int{},
	}
	if s.limits == nil {
		s.limits = func(string) Limits { return Limits{} }
	}
	return s, nil
}

func checkConfig(c Config) error {
	if c.SiteLabel == "" {
		c.SiteLabel = DefaultConfig().SiteLabel // an edge adds none; the rest has to be right all the same
	}
	return c.Validate()
}

// Reload puts another configuration in force for everything that is stored and to come. On an error nothing changes.
func (s *Store) Reload(c Config) error {
	if err := checkConfig(c); err != nil {
		return fmt.Errorf("reload store: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	relabel := c.SiteLabel != s.config.SiteLabel
	s.config = c
	if !relabel {
		return nil
	}
	for _, x := range s.indexes {
		x.contested = x.contested[:0]
		x.findContested(c.SiteLabel, 0)
	}
	for _, site := range s.sites {
		for _, src := range site.sources {
			if src.index != nil {
				s.forgetBase(src)
				s.setBase(src)
			}
		}
	}
	return nil
}

// Reason says why a row was refused.
type Reason string

// All reasons there are.
const (
	ReasonFuture  Reason = "future"       // its time is more than FutureBound ahead
	ReasonSeries  Reason = "series_limit" // the site would have more series than it may
	ReasonSources Reason = "source_limit" // the site would have more sources than it may
	ReasonChurn   Reason = "schema_churn" // the site changes its schemas too often
	ReasonSite    Reason = "site_label"   // it has the site label already, and on_conflict is reject
	ReasonInvalid Reason = "invalid"      // its parts contradict each other, or a label of its source is not valid
)

// RefusedError says which row was refused and why. What is stored for its source stays as it is.
type RefusedError struct {
	Site   string
	Source string // its key
	Reason Reason
	Detail string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("store row of source %q of site %q: %s: %s", e.Source, e.Site, e.Reason, e.Detail)
}

// Apply stores a row if no newer one of its source is there: a row that ranks below what is stored is ignored, so
// that backfill fills what is missing and never goes backwards. The time now is the store's clock in ms. The row is
// copied. The only error is a *RefusedError.
func (s *Store) Apply(siteName string, rank Rank, row *series.Row, now int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.apply(siteName, rank, row, now)
	if refused, ok := errors.AsType[*RefusedError](err); ok {
		refused.Site, refused.Source = siteName, row.Source.Key
		s.metrics.refused.WithLabelValues(string(refused.Reason)).Inc()
	}
	return err
}

func refuse(reason Reason, format string, args ...any) error {
	return &RefusedError{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

func (s *Store) apply(siteName string, rank Rank, row *series.Row, now int64) error {
	if ahead := row.T - now; ahead > FutureBound.Milliseconds() {
		return refuse(ReasonFuture, "%s ahead", time.Duration(ahead)*time.Millisecond)
	}
	if err := checkRow(row); err != nil {
		return err
	}
	st := s.sites[siteName]
	if st == nil {
		// The name may be part of a larger message.
		st = &site{name: strings.Clone(siteName), sources: map[string]*source{}}
		s.sites[st.name] = st
	}
	src := st.sources[row.Source.Key]
	switch {
	case src != nil && rank.Less(src.rank):
		s.metrics.superseded.Inc()
		return nil
	case src == nil && (row.End || row.T < now-s.retention(row.Source).Milliseconds()):
		// Nothing to end, or a row that would be forgotten at once: the history of a source that is long gone.
		st.lastRow = max(st.lastRow, row.T)
		s.metrics.superseded.Inc()
		return nil
	}
	if row.End {
		s.end(src)
	} else {
		var err error
		if src, err = s.admit(st, src, row, now); err != nil {
			return err
		}
		src.store(row)
	}
	src.rank = rank
	src.lastRow = max(src.lastRow, row.T)
	st.lastRow = max(st.lastRow, row.T)
	s.metrics.applied.Inc()
	return nil
}

// admit makes room for a row of st that is going to be stored: it creates the source if src is nil, and gives it the
// row's schema and labels. What it refuses, it refuses before anything has changed.
func (s *Store) admit(st *site, src *source, row *series.Row, now int64) (*source, error) {
	if src != nil && src.schema == row.Schema && src.origin == row.Source {
		return src, nil
	}
	relabelled := src == nil || src.index == nil || !labels.Equal(src.origin.Labels, row.Source.Labels)
	if relabelled {
		if err := checkSourceLabels(row.Source.Labels); err != nil {
			return nil, refuse(ReasonInvalid, "%v", err)
		}
	}
	if err := s.config.CheckConflict(row); err != nil {
		return nil, refuse(ReasonSite, "%v", err)
	}
	if err := s.checkLimits(st, src, row, now); err != nil {
		return nil, err
	}
	if src == nil {
		src = &source{site: st}
		st.sources[row.Source.Key] = src
	}
	st.churn += src.churn(row.Schema)
	st.columns += row.Schema.Len() - src.columns()
	if relabelled && src.index != nil {
		s.forgetBase(src)
	}
	origin := src.origin
	src.origin = row.Source
	if relabelled {
		s.setBase(src)
	}
	if src.schema != row.Schema {
		first := row.Schema.Len() - src.churn(row.Schema)
		s.setSchema(src, row, origin)
		s.countDropped(src, first)
	}
	return src, nil
}

// CheckConflict returns an error for a row that has the site label if on_conflict is reject: all of it is refused then.
func (c *Config) CheckConflict(row *series.Row) error {
	site := c.SiteLabel
	if c.OnConflict != Reject || site == "" {
		return nil
	}
	if row.Source.Labels.Get(site) != "" {
		return fmt.Errorf("its labels %s have %q", row.Source.Labels, site)
	}
	if column := findLabel(row.Schema.Columns(), site); column != nil {
		return fmt.Errorf("series %s has %q", column.Labels, site)
	}
	return nil
}

// checkLimits refuses a row that would make its site exceed a limit. A site that exceeds one already, because it was
// lowered, may stay as it is. When there are too many sources, those that have ended make room.
func (s *Store) checkLimits(st *site, src *source, row *series.Row, now int64) error {
	limits, isNew := s.limits(st.name), src == nil
	if isNew {
		src = &source{}
	}
	if limits.Series > 0 {
		after := st.columns - src.columns() + row.Schema.Len()
		if after > limits.Series && after > st.columns {
			return refuse(ReasonSeries, "%d series, limit %d", after, limits.Series)
		}
		if minute := now / time.Minute.Milliseconds(); minute != st.churnMinute {
			st.churn, st.churnMinute = 0, minute
		}
		if churn := st.churn + src.churn(row.Schema); churn > churnFactor*limits.Series {
			return refuse(ReasonChurn, "%d series with another schema within a minute, limit %d", churn, churnFactor*limits.Series)
		}
	}
	if limits.Sources > 0 && isNew {
		if len(st.sources) >= limits.Sources {
			s.forget(st, func(src *source) bool { return src.index == nil })
		}
		if len(st.sources) >= limits.Sources {
			return refuse(ReasonSources, "%d sources, limit %d", len(st.sources)+1, limits.Sources)
		}
	}
	return nil
}

// end frees what the source holds. Its rank stays, so that older rows do not bring it back.
func (s *Store) end(src *source) {
	if src.index == nil {
		return
	}
	src.site.columns -= src.columns()
	s.forgetBase(src)
	s.unindex(src.index, src.slot)
	*src = source{site: src.site, origin: src.origin, lastRow: src.lastRow}
}

// retention is how long a source may be silent before it is forgotten.
func (s *Store) retention(src *series.Source) time.Duration {
	return time.Duration(s.config.Lookback) + s.patience(src)
}

// patience is how much longer than the lookback a source may be silent: three intervals are not more than is expected of
// it.
func (s *Store) patience(src *series.Source) time.Duration {
	return max(3*min(src.Interval, maxRetention/3)-time.Duration(s.config.Lookback), 0)
}

// Expire frees the memory of the sources that are silent for three of their intervals, at least for the lookback, and
// forgets the sites that have had none for a day. The time now is in ms. Call it about once a minute.
func (s *Store) Expire(now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, st := range s.sites {
		s.forget(st, func(src *source) bool {
			return src.lastRow < now-s.retention(src.origin).Milliseconds()
		})
		if len(st.sources) == 0 && st.lastRow < now-maxRetention.Milliseconds() {
			delete(s.sites, name)
		}
	}
	s.sweep()
}

// forget removes the sources of a site for which gone is true.
func (s *Store) forget(st *site, gone func(*source) bool) {
	for key, src := range st.sources {
		if gone(src) {
			s.end(src)
			delete(st.sources, key)
		}
	}
}
