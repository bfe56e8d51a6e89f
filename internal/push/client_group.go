package push

import (
	"iter"
	"math"
	"slices"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/value"

	"github.com/thalweg/thalweg/internal/series"
)

// outgoingKey says which group a source belongs to. Sites are told apart even where their groups are one at the gateway.
type outgoingKey struct{ site, job, instance string }

// keyOf returns the group of a source.
func keyOf(site string, s *series.Source) outgoingKey {
	return outgoingKey{site: site, job: s.Labels.Get(model.JobLabel), instance: s.Labels.Get(model.InstanceLabel)}
}

// outgoing is what a site has under one job and instance: mostly one source. A scrape target has a second one for series
// that carry timestamps of their own, and so has one that is both scraped and federated; together they are one body.
type outgoing struct {
	outgoingKey
	members []*lastRow // the one with the newest row first; none: the group is to be deleted
	waiting bool       // in Client.waiting
	ended   *lastRow   // the row that ended the last member that did, until another row comes
	heard   time.Time  // when the last row came
}

// lastRow is the last row of a source, or what partial rows have made of it.
type lastRow struct {
	source *series.Source
	since  time.Time // nothing is known of what partial rows said before
	whole  bool
	t      int64

	schema     *series.Schema
	values     []float64
	present    []uint64
	histograms map[uint32]series.HistogramAt

	number  int // of the last row, -1 once its fate is known
	samples int // in it
}

// settled says that the fate of a row is known.
const settled = -1

// memberOf returns the member of a source, a new one if there is none.
func (g *outgoing) memberOf(s *series.Source, now time.Time) *lastRow {
	i := slices.IndexFunc(g.members, func(m *lastRow) bool { return m.source.Key == s.Key })
	if i < 0 {
		i = len(g.members)
		g.members = append(g.members, &lastRow{since: now, number: settled})
	}
	m := g.members[i]
	m.source = s
	return m
}

// rows are the rows that make it what it is.
func (g *outgoing) rows() iter.Seq[*lastRow] {
	return func(yield func(*lastRow) bool) {
		for _, m := range g.members {
			if !yield(m) {
				return
			}
		}
		if g.ended != nil {
			yield(g.ended)
		}
	}
}

// remove takes the member of a source out, if there is one.
func (g *outgoing) remove(key string) {
	g.members = slices.DeleteFunc(g.members, func(m *lastRow) bool { return m.source.Key == key })
}

// order brings the member with the newest row to the front, and takes out those that have been silent while it was
// not: a source that has another key after a restart of its edge did not end.
func (g *outgoing) order() {
	slices.SortStableFunc(g.members, func(a, b *lastRow) int { return int(min(max(b.t-a.t, -1), 1)) })
	for i, m := range g.members {
		if g.members[0].t-m.t > silence(m.source).Milliseconds() {
			clear(g.members[i:])
			g.members = g.members[:i]
			return
		}
	}
}

// silence is how long nothing has to come of a source until it counts as gone.
func silence(s *series.Source) time.Duration { return max(leastSilence, 3*s.Interval) }

// leastSilence is Prometheus' lookback, after which no query shows a series any more.
const leastSilence = 5 * time.Minute

// complete reports whether all that the group has is known, so that what is not has ended. Partial rows have to tell
// for a while after they were not followed.
func (g *outgoing) complete(now time.Time) bool {
	return !slices.ContainsFunc(g.members, func(m *lastRow) bool { return !m.whole && now.Sub(m.since) < silence(m.source) })
}

// newest is the time of the newest row, in ms.
func (g *outgoing) newest() int64 {
	t := int64(math.MinInt64)
	for _, m := range g.members {
		t = max(t, m.t)
	}
	return t
}

// take makes a row the last one.
func (m *lastRow) take(row *series.Row, now time.Time) {
	if row.Whole() {
		m.takeWhole(row)
	} else {
		m.takePartial(row, now)
	}
	for i := range row.Histograms {
		m.takeHistogram(&row.Histograms[i])
	}
	m.whole, m.t = row.Whole(), row.T
}

func (m *lastRow) takeWhole(row *series.Row) {
	m.schema = row.Schema
	m.values = append(m.values[:0], row.Values...)
	m.present = append(m.present[:0], row.Present...)
	if row.Present == nil {
		for range (len(row.Values) + 63) / 64 {
			m.present = append(m.present, math.MaxUint64)
		}
	}
	clear(m.histograms)
}

func (m *lastRow) takePartial(row *series.Row, now time.Time) {
	switch {
	case m.schema != nil && !m.whole && m.schema.Extends(row.Schema):
	case m.schema != nil && !m.whole && row.Schema.Extends(m.schema):
		m.schema = row.Schema
	default: // columns have other numbers now, which happens rarely enough to begin anew
		m.schema, m.since = row.Schema, now
		m.values, m.present = m.values[:0], m.present[:0]
		clear(m.histograms)
	}
	n := m.schema.Len()
	m.values = append(m.values, make([]float64, n-len(m.values))...)
	m.present = append(m.present, make([]uint64, (n+63)/64-len(m.present))...)
	for i, column := range row.Columns {
		if m.values[column] = row.Values[i]; value.IsStaleNaN(row.Values[i]) {
			m.end(column)
		} else {
			series.SetBit(m.present, int(column))
		}
	}
}

func (m *lastRow) takeHistogram(at *series.HistogramAt) {
	kept := series.HistogramAt{Column: at.Column}
	switch { // a copy shares its bounds with the original
	case at.H != nil && !value.IsStaleNaN(at.H.Sum):
		kept.H = at.H.Copy()
		kept.H.CustomValues = slices.Clone(at.H.CustomValues)
	case at.FH != nil && !value.IsStaleNaN(at.FH.Sum):
		kept.FH = at.FH.Copy()
		kept.FH.CustomValues = slices.Clone(at.FH.CustomValues)
	default:
		m.end(at.Column)
		return
	}
	if m.histograms == nil {
		m.histograms = map[uint32]series.HistogramAt{}
	}
	m.histograms[at.Column] = kept
}

// end takes a series out.
func (m *lastRow) end(column uint32) {
	m.present[column>>6] &^= 1 << (column & 63)
	delete(m.histograms, column)
}

// has reports whether a series is there.
func (m *lastRow) has(column int) bool { return m.present[column>>6]&(1<<(column&63)) != 0 }
