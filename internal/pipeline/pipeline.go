package pipeline

import (
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"

	"github.com/thalweg/thalweg/internal/series"
)

// Options of a Pipeline. Catalog is required.
type Options struct {
	// Catalog of the schemas of the incoming rows; outgoing ones are made in it too.
	Catalog *series.Catalog
	// Match are the selectors of what passes, see ParseMatch. Empty: everything.
	Match [][]*labels.Matcher
	// Always are selectors of what passes whatever Match says, see AlwaysPass.
	Always [][]*labels.Matcher
	// ExternalLabels are added to every series that has no label of the same name.
	ExternalLabels labels.Labels
	// Relabel has rules that were validated.
	Relabel []*relabel.Config
	// MaxSources bounds the sources whose mapping is kept; beyond it, mappings are thrown away and worked out again
	// when needed. Zero: DefaultMaxSources.
	MaxSources int
	// OnDrop, if not nil, is called for each series that is dropped when it appears, with one of Reasons. It is for
	// those who have many pipelines and count for all of them; the metrics of this pipeline then need no registration.
	OnDrop func(Reason)
}

const (
	// DefaultMaxSources is more than a site is expected to have.
	DefaultMaxSources = 100_000
	// minSilence is how long a source is silent, at least, before its mapping is thrown away.
	minSilence = 5 * time.Minute
)

// AlwaysPass selects what a site never holds back: up, scrape_* and the metrics of job.
func AlwaysPass(job string) [][]*labels.Matcher {
	return [][]*labels.Matcher{
		{labels.MustNewMatcher(labels.MatchRegexp, model.MetricNameLabel, "up|scrape_.+")},
		{labels.MustNewMatcher(labels.MatchEqual, "job", job)},
	}
}

// Pipeline maps rows. It is safe for concurrent use.
type Pipeline struct {
	rules   rules
	catalog *series.Catalog
	max     int
	metrics *metrics
	onDrop  func(Reason)

	mu      sync.Mutex
	sources map[string]*mapping // by the key of the incoming source
	swept   int64               // time of the row that last made us look for silent sources

	rows sync.Pool // of *scratch
}

// New returns a pipeline.
func New(o Options) (*Pipeline, error) {
	if o.Catalog == nil {
		return nil, errors.New("new pipeline: no catalog")
	}
	if o.MaxSources == 0 {
		o.MaxSources = DefaultMaxSources
	}
	p := &Pipeline{
		rules: rules{
			match:    o.Match,
			always:   o.Always,
			external: o.ExternalLabels,
			relabel:  o.Relabel,
		},
		catalog: o.Catalog,
		max:     o.MaxSources,
		sources: map[string]*mapping{},
	}
	p.metrics = newMetrics(p.len)
	if p.onDrop = o.OnDrop; p.onDrop == nil {
		p.onDrop = func(r Reason) { p.metrics.dropped.WithLabelValues(string(r)).Inc() }
	}
	p.rows.New = func() any { return &scratch{} }
	return p, nil
}

// Metrics returns the collectors of the pipeline.
func (p *Pipeline) Metrics() []prometheus.Collector { return p.metrics.all() }

// Wrap returns a sink that gives next what is left of each row. A row of which nothing is left is accepted.
func (p *Pipeline) Wrap(next series.Sink) series.Sink {
	if p.rules.empty() {
		return next
	}
	return func(r *series.Row) error { return p.Apply(r, next) }
}

// Apply gives next what is left of the row.
func (p *Pipeline) Apply(r *series.Row, next series.Sink) error {
	if p.rules.empty() {
		return next(r)
	}
	m := p.mapping(r)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.follow(r.Schema, p)
	if r.End {
		p.forget(r.Source.Key, m)
	}
	switch {
	case m.out == r.Schema && m.source == r.Source:
		return next(r)
	case m.out.Len() == 0:
		return nil
	}
	s := p.rows.Get().(*scratch)
	defer p.rows.Put(s)
	if out := s.translate(r, m); out != nil {
		return next(out)
	}
	return nil
}

// Verdict says what becomes of one series by itself: the labels it gets, or the reason why it is dropped.
func (p *Pipeline) Verdict(l labels.Labels) (labels.Labels, Reason) {
	return p.rules.apply(labels.NewBuilder(labels.EmptyLabels()), l)
}

// mapping finds or makes the mapping of the row's source.
func (p *Pipeline) mapping(r *series.Row) *mapping {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.sources[r.Source.Key]
	if m == nil || m.in != r.Source {
		if m == nil && len(p.sources) >= p.max {
			p.makeRoom(r.T)
		}
		m = newMapping(r.Source, &p.rules)
		p.sources[r.Source.Key] = m
	}
	m.last = max(m.last, r.T)
	if r.T-p.swept >= time.Minute.Milliseconds() {
		p.swept = r.T
		p.dropSilent(r.T)
	}
	return m
}

// dropSilent throws away the mappings of sources that are silent at t.
func (p *Pipeline) dropSilent(t int64) {
	for key, m := range p.sources {
		if silence := max(minSilence, 3*m.in.Interval); t-m.last > silence.Milliseconds() {
			delete(p.sources, key)
			p.metrics.forgotten.WithLabelValues("silent").Inc()
		}
	}
}

// makeRoom throws away at least one mapping. Which one does not matter much: it is worked out again when needed.
func (p *Pipeline) makeRoom(t int64) {
	p.dropSilent(t)
	for key := range p.sources {
		if len(p.sources) < p.max {
			return
		}
		delete(p.sources, key)
		p.metrics.forgotten.WithLabelValues("full").Inc()
	}
}

func (p *Pipeline) forget(key string, m *mapping) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sources[key] == m {
		delete(p.sources, key)
		p.metrics.forgotten.WithLabelValues("ended").Inc()
	}
}

func (p *Pipeline) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.sources)
}
