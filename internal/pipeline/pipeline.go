package pipeline

import (
	"cmp"
	"errors"
	"fmt"
	"math"
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
	// Match are lists of selectors: a series passes if one of each selects it. An empty one selects everything.
	Match []Selection
	// Always selects what passes whatever Match says, see AlwaysPass.
	Always Selection
	// ExternalLabels are added to every series that has no label of the same name.
	ExternalLabels labels.Labels
	// Relabel has rules that were validated.
	Relabel []*relabel.Config
	// RequiredLabels are values that every series must have then; one without is dropped, whatever Always says.
	RequiredLabels map[string]string
	// Limits of all sources together.
	Limits Limits
	// Burst is how long samples may be saved up for, below Limits.SamplesPerSecond. It is not reloaded. Zero: DefaultBurst.
	Burst time.Duration
	// MaxSources bounds the sources. The rows of further ones are refused. Zero: DefaultMaxSources.
	MaxSources int
	// Anonymize, if not nil, makes the pseudonyms that leave. Pseudonymized, if not nil, is called with the values that it
	// replaces when a series appears, with locks held.
	Anonymize     *Anonymizer
	Pseudonymized func(label, value string)
	// OnDrop, if not nil, is called for each series when it is refused, with one of Reasons and with locks held. It is
	// for those who have many pipelines and count for all of them; this one has no metrics then.
	OnDrop func(Reason)
}

const (
	// DefaultMaxSources is more than a site is expected to have.
	DefaultMaxSources = 100_000
	// minSilence is how long a source is silent, at least, before it counts as ended.
	minSilence = 5 * time.Minute
	// maxInterval bounds the interval that a source is believed to have.
	maxInterval = 8 * time.Hour
)

// AlwaysPass selects what match never holds back: up, scrape_* and the metrics of job.
func AlwaysPass(job string) Selection {
	return Selection{
		{labels.MustNewMatcher(labels.MatchRegexp, model.MetricNameLabel, "up|scrape_.+")},
		{labels.MustNewMatcher(labels.MatchEqual, "job", job)},
	}
}

// Pipeline maps rows. It is safe for concurrent use.
type Pipeline struct {
	catalog *series.Catalog
	metrics *metrics // nil if somebody else counts
	onDrop  func(Reason)
	limiter *limiter

	mu      sync.Mutex
	max     int
	rules   *rules
	sources map[string]*mapping // by the key of the incoming source
	swept   int64               // when it was last looked for silent sources

	rows sync.Pool // of *[2]scratch
}

// New returns a pipeline.
func New(o Options) (*Pipeline, error) {
	if o.Catalog == nil {
		return nil, errors.New("new pipeline: no catalog")
	}
	p := &Pipeline{catalog: o.Catalog, limiter: newLimiter(o.Limits, cmp.Or(o.Burst, DefaultBurst)), sources: map[string]*mapping{}}
	if p.onDrop = o.OnDrop; p.onDrop == nil {
		p.metrics = newMetrics(p)
		p.onDrop = func(r Reason) { p.metrics.dropped.WithLabelValues(string(r)).Inc() }
	}
	p.rows.New = func() any { return &[2]scratch{} }
	p.Reload(o)
	return p, nil
}

// Reload puts other rules and limits in force, for the next row of each source. What is counted goes on: who has more
// than a lower limit allows loses the excess. Catalog and OnDrop stay as they are.
func (p *Pipeline) Reload(o Options) {
	p.limiter.setLimits(o.Limits)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules = newRules(&o)
	if p.max = o.MaxSources; p.max == 0 {
		p.max = DefaultMaxSources
	}
}

// Metrics returns the collectors of a pipeline without OnDrop.
func (p *Pipeline) Metrics() []prometheus.Collector { return p.metrics.all() }

// RefusedError says that a row was refused as a whole.
type RefusedError struct {
	Source string // its key, on the way in
	Reason Reason // one of RowReasons
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("row of source %q is beyond the limit %q", e.Source, e.Reason)
}

// EarlyError says that rows came faster than limits.samples_per_second allows. Nothing of them was taken.
type EarlyError struct {
	Wait time.Duration // until there is room
}

func (e *EarlyError) Error() string {
	return fmt.Sprintf("more samples than the limit %q allows; there is room in %s", OverSamples, e.Wait)
}

// Refused is told of a sample that limits or required labels refuse, by the column of its row on the way in. What other
// rules leave out is not lost, but not wanted; the end of a series that was not let in is no loss either. It is called
// with locks held.
type Refused func(row *series.Row, column uint32, why Reason)

// Apply gives next what is left of the row, which came now, in milliseconds since 1970. A row of which nothing is left is
// accepted. Its own error is a *RefusedError, others are of next.
func (p *Pipeline) Apply(r *series.Row, now int64, next series.Sink) error {
	return p.apply(r, now, next, nil)
}

// ApplyAll does so with rows of which somebody wants to know what became of each sample, and who can come again: rows
// beyond the rate of samples are refused all together, with an *EarlyError, or not at all. Other errors are of next.
func (p *Pipeline) ApplyAll(rows []*series.Row, now int64, next series.Sink, refused Refused) error {
	newest := int64(math.MinInt64)
	for _, r := range rows {
		newest = max(newest, r.T)
	}
	if wait := p.limiter.early(newest, now); wait > 0 {
		for _, r := range rows {
			p.refuse(&RefusedError{Source: r.Source.Key, Reason: OverSamples})
		}
		return &EarlyError{wait}
	}
	for _, r := range rows {
		err := p.apply(r, now, next, refused)
		if no, ok := errors.AsType[*RefusedError](err); ok {
			eachSample(r, func(column uint32) { refused(r, column, no.Reason) })
		} else if err != nil {
			return err
		}
	}
	return nil
}

// apply does so for one row. If refused is not nil, the rate of samples has been looked at.
func (p *Pipeline) apply(r *series.Row, now int64, next series.Sink, refused Refused) error {
	m, err := p.enter(r, now)
	if err != nil {
		p.refuse(err)
		return err
	}
	if m == nil {
		return nil
	}
	defer m.mu.Unlock()
	if !r.End || m.schema.Len() == 0 {
		m.follow(r.Schema, p)
	}
	if r.End {
		p.forget(r.Source.Key, m)
	}
	s := p.rows.Get().(*[2]scratch)
	defer p.rows.Put(s)
	out := m.apply(r, &s[0])
	if out != nil && !out.End && !p.limiter.takeSamples(out.Samples(), out.T, now, refused != nil) {
		err := &RefusedError{Source: r.Source.Key, Reason: OverSamples}
		p.refuse(err)
		return err
	}
	if out != nil && (m.rules.limits.counted() || m.gate.schema != nil) {
		out = m.gate.pass(p, out, &s[1])
	}
	if refused != nil {
		m.tell(r, p.limiter, refused)
	}
	if out == nil {
		return nil
	}
	return next(out)
}

// Verdict says what becomes of one series by itself: the labels it gets, or the reason why it is dropped.
func (p *Pipeline) Verdict(l labels.Labels) (labels.Labels, Reason) {
	p.mu.Lock()
	rules := p.rules
	p.mu.Unlock()
	return rules.apply(labels.NewBuilder(labels.EmptyLabels()), l)
}

// enter returns the mapping of the row's source, locked; nil if the row ends a source for which there is no room.
func (p *Pipeline) enter(r *series.Row, now int64) (*mapping, *RefusedError) {
	for {
		m, rules, silent := p.find(r, now)
		for _, s := range silent {
			p.drain(s)
		}
		if m == nil {
			if r.End {
				return nil, nil
			}
			return nil, &RefusedError{Source: r.Source.Key, Reason: OverSources}
		}
		m.mu.Lock()
		if m.gone {
			m.mu.Unlock()
			continue
		}
		if m.in != r.Source || m.rules != rules {
			m.begin(r.Source, rules, p.catalog)
		}
		return m, nil
	}
}

// find finds or makes a mapping, nil where there is no room for one. The silent ones have been taken out and are to be
// drained.
func (p *Pipeline) find(r *series.Row, now int64) (m *mapping, rules *rules, silent []*mapping) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m = p.sources[r.Source.Key]
	full := m == nil && len(p.sources) >= p.max
	if now < p.swept || now-p.swept >= time.Minute.Milliseconds() || full && now > p.swept {
		p.swept = now
		silent = p.takeSilent(now)
		m = p.sources[r.Source.Key]
	}
	if m == nil {
		if len(p.sources) >= p.max {
			return nil, nil, silent
		}
		m = &mapping{}
		p.sources[r.Source.Key] = m
	}
	m.last, m.patience = now, max(minSilence, 3*min(r.Source.Interval, maxInterval))
	return m, p.rules, silent
}

// takeSilent takes out the mappings of sources that are silent now.
func (p *Pipeline) takeSilent(now int64) (silent []*mapping) {
	for key, m := range p.sources {
		if now-m.last > m.patience.Milliseconds() {
			delete(p.sources, key)
			silent = append(silent, m)
			p.metrics.forget("silent")
		}
	}
	return silent
}

// forget takes out the mapping of a source that ended. The caller holds its lock.
func (p *Pipeline) forget(key string, m *mapping) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m.gone = true
	if p.sources[key] == m {
		delete(p.sources, key)
		p.metrics.forget("ended")
	}
}

// drain takes the series of a source that is silent off the account.
func (p *Pipeline) drain(m *mapping) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gone = true
	p.limiter.mu.Lock()
	defer p.limiter.mu.Unlock()
	m.gate.leave(p.limiter)
}

// drop counts a series that the rules drop.
func (p *Pipeline) drop(r Reason, name string) {
	p.onDrop(r)
	p.limiter.mu.Lock()
	defer p.limiter.mu.Unlock()
	p.limiter.count(r, name)
}

// refuse counts a row.
func (p *Pipeline) refuse(e *RefusedError) {
	p.metrics.refuseRow(e.Reason)
	p.limiter.mu.Lock()
	defer p.limiter.mu.Unlock()
	p.limiter.count(e.Reason, e.Source)
}

func (p *Pipeline) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.sources)
}
