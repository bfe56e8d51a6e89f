package remotewrite

import (
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

const (
	// calmAfter is for how long a source has to stay as it is before its schema is made anew: the series of a target
	// come over many requests.
	calmAfter = time.Minute
	// deadAfter is when a series without samples is dead; at least as long is between two schemas of a source.
	deadAfter = 10 * time.Minute
	// minNames is how many names the series of a source have to have before what they have in common says anything.
	minNames = 3
	// maxHeld bounds the series of a source with exemplars that wait for a sample, maxWaiting those of one.
	maxHeld, maxWaiting = 1000, 10
)

// intakeSource is a source with its series, by column. Its schema grows with them, and is made anew when it has come to
// rest: what all series have in common moves to the source, the columns are sorted, so that targets of one kind share a
// schema, dead series are left out, and metadata that came later is put in.
type intakeSource struct {
	source *series.Source
	schema *series.Schema
	series []*intakeSeries
	added  []series.Column // behind the schema, of the request that is planned

	seen    int64 // when a sample came last, here and below in ms
	grown   int64 // when a series came last
	tended  int64 // when it was looked whether the schema should be made anew
	made    int64 // when that was last done, 0 if never
	turned  int64 // when that was done last because a series turned into another kind
	fresh   int   // series since then
	version int   // of families, which the columns have

	// news is what 2.0 says of series otherwise than their columns do.
	news map[*intakeSeries]series.Family
	// held are exemplars that came without a sample, for the next one of their series.
	held map[*intakeSeries][]exemplar.Exemplar

	flight  *flight // of the request that is planned
	portion uint32  // of that request
}

// add adds a series as the last column. grow has to be called before rows are made.
func (s *intakeSource) add(m *intakeSeries, c series.Column, now int64) {
	m.column = uint32(len(s.series))
	s.series = append(s.series, m)
	s.added = append(s.added, c)
	s.grown = now
	s.fresh++
}

// grow makes the columns that were added part of the schema.
func (s *intakeSource) grow(catalog *series.Catalog) {
	s.schema = catalog.Extend(s.schema, s.added)
	s.added = nil
}

func (s *intakeSource) columnOf(m *intakeSeries) *series.Column {
	if n := s.schema.Len(); int(m.column) >= n {
		return &s.added[int(m.column)-n]
	}
	return s.schema.Column(int(m.column))
}

// hold keeps exemplars for the next sample of a series, in place of those that wait already, and returns how many.
func (s *intakeSource) hold(m *intakeSeries, list []exemplar.Exemplar) int {
	if s.held == nil {
		s.held = map[*intakeSeries][]exemplar.Exemplar{}
	}
	if len(s.held) >= maxHeld {
		return 0
	}
	list = list[max(len(list)-maxWaiting, 0):]
	s.held[m] = list
	return len(list)
}

// tell notes what 2.0 says of a series. A series without a sample so far gets it at once.
func (in *intake) tell(m *intakeSeries, typ model.MetricType, help, unit string) {
	s := m.source
	c := s.columnOf(m)
	f := familyOf(c.Labels.Get(model.MetricNameLabel), c.Kind, typ, help, unit)
	switch n := s.schema.Len(); {
	case c.Family == f:
		delete(s.news, m)
	case int(m.column) >= n:
		c.Family = f
	default:
		if s.news == nil {
			s.news = map[*intakeSeries]series.Family{}
		}
		s.news[m] = f
	}
}

// tend makes the schema of a source anew if it is time. The source has no samples in the current request yet.
func (in *intake) tend(s *intakeSource, now int64) {
	if now-s.tended < calmAfter.Milliseconds() {
		return
	}
	s.tended = now
	calm := now - max(s.grown, in.families.changed)
	if calm < calmAfter.Milliseconds() || s.made != 0 && now-s.made < deadAfter.Milliseconds() {
		return
	}
	if s.made == 0 || 4*s.dead(now) >= len(s.series) || 2*s.fresh > len(s.series) || in.hasNews(s) {
		in.remake(s, now)
	}
}

func (s *intakeSource) dead(now int64) int {
	n := 0
	for _, m := range s.series {
		if now-m.seen >= deadAfter.Milliseconds() {
			n++
		}
	}
	return n
}

// hasNews reports whether metadata is known that the columns do not have.
func (in *intake) hasNews(s *intakeSource) bool {
	if len(s.news) > 0 {
		return true
	}
	if s.version == in.families.version {
		return false
	}
	s.version = in.families.version
	return slices.ContainsFunc(s.series, func(m *intakeSeries) bool {
		return in.familyOf(m, s.columnOf(m)) != s.columnOf(m).Family
	})
}

// familyOf is the family that the column of a series should have.
func (in *intake) familyOf(m *intakeSeries, c *series.Column) series.Family {
	if f, ok := m.source.news[m]; ok {
		return f
	}
	if m.metadata == 0 {
		if f := in.families.of(c.Labels.Get(model.MetricNameLabel), c.Kind); f != (series.Family{}) {
			return f
		}
	}
	return c.Family
}

// remake makes the schema of a source anew.
func (in *intake) remake(s *intakeSource, now int64) {
	kept := s.series[:0:0]
	for _, m := range s.series {
		if now-m.seen < deadAfter.Milliseconds() || m.busy() {
			kept = append(kept, m)
		} else {
			delete(s.held, m)
			in.forget(m)
		}
	}
	slices.SortFunc(kept, func(a, b *intakeSeries) int { return strings.Compare(a.key, b.key) })
	full := make([]labels.Labels, len(kept))
	for i, m := range kept {
		full[i] = in.labelsOf(m)
	}
	source := s.source
	if base := common(full, s.source.Labels); !labels.Equal(base, source.Labels) {
		source = &series.Source{Key: source.Key, Labels: base}
	}
	columns := make([]series.Column, len(kept))
	for i, m := range kept {
		columns[i] = series.Column{Labels: series.Relative(full[i], source.Labels), Family: in.familyOf(m, s.columnOf(m)), Kind: m.kind}
	}
	s.source, s.schema = source, in.options.Catalog.Extend(in.options.Catalog.Empty(), columns)
	s.series, s.added, s.news = kept, nil, nil
	for i, m := range kept {
		m.column = uint32(i)
	}
	s.made, s.fresh, s.version = now, 0, in.families.version
}

// turn makes a series one of another kind, with a schema made anew, for one schema has a series once. It reports false if
// that was done a moment ago.
func (in *intake) turn(m *intakeSeries, kind series.Kind, now int64) bool {
	s := m.source
	if s.turned != 0 && now-s.turned < calmAfter.Milliseconds() {
		return false
	}
	s.turned = now
	m.kind = kind
	in.remake(s, now)
	return true
}

// common returns the labels that all series have but for their name, or base if there are too few to tell.
func common(full []labels.Labels, base labels.Labels) labels.Labels {
	names := map[string]bool{}
	for _, l := range full {
		if names[l.Get(model.MetricNameLabel)] = true; len(names) == minNames {
			break
		}
	}
	if len(names) < minNames {
		return base
	}
	b := labels.NewBuilder(full[0])
	b.Del(model.MetricNameLabel)
	for _, l := range full[1:] {
		b.Range(func(c labels.Label) {
			if l.Get(c.Name) != c.Value {
				b.Del(c.Name)
			}
		})
	}
	return b.Labels()
}
