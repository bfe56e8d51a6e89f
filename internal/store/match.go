package store

import (
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

// matching is a union of sets of matchers, prepared so that a matcher is evaluated once per column or once per source
// and never per series. A matcher of the metric name is settled by the column alone. Each other one has a bit, and
// equal ones have the same: a source has the bits of those that it satisfies, and a column needs, for each set that
// it does not refute, the bits of those that it does not settle.
type matching struct {
	sets     []matcherSet
	matchers []*labels.Matcher // by bit
	words    int               // that hold the bits; at least one
}

type matcherSet struct {
	names  []*labels.Matcher
	others []int // bits
}

// newMatching leaves out empty sets: as in Prometheus they select nothing.
func newMatching(sets [][]*labels.Matcher) matching {
	var m matching
	bits := map[string]int{}
	for _, matchers := range sets {
		if len(matchers) == 0 {
			continue
		}
		var set matcherSet
		for _, matcher := range matchers {
			if matcher.Name == model.MetricNameLabel {
				set.names = append(set.names, matcher)
				continue
			}
			key := matcher.String()
			bit, known := bits[key]
			if !known {
				bit = len(m.matchers)
				bits[key] = bit
				m.matchers = append(m.matchers, matcher)
			}
			set.others = append(set.others, bit)
		}
		m.sets = append(m.sets, set)
	}
	m.words = len(m.matchers)/64 + 1
	return m
}

// appendNeeds appends, for each set that the column does not refute, the bits that a source has to have. Nothing is
// appended if no source can make it match. What stands in a label of the column counts even if it is empty.
func (m *matching) appendNeeds(dst []uint64, name string, column labels.Labels) []uint64 {
	first := len(dst)
	for i := range m.sets {
		set := &m.sets[i]
		if !set.matchesName(name) {
			continue
		}
		start := len(dst)
		dst = append(dst, make([]uint64, m.words)...)
		open, refuted := false, false
		for _, bit := range set.others {
			value, settled := columnValue(column, m.matchers[bit].Name)
			switch {
			case !settled:
				dst[start+bit>>6] |= 1 << (bit & 63)
				open = true
			case !m.matchers[bit].Matches(value):
				refuted = true
			}
		}
		switch {
		case refuted:
			dst = dst[:start]
		case !open: // whatever the source, so the other sets do not matter
			return append(dst[:first], dst[start:]...)
		}
	}
	return dst
}

// columnValue returns the value that stands in a label, if there is one.
func columnValue(column labels.Labels, name string) (string, bool) {
	value := column.Get(name)
	return value, value != "" || column.Has(name)
}

// appendHas appends the bits of the matchers that a source satisfies.
func (m *matching) appendHas(dst []uint64, base []labels.Label) []uint64 {
	start := len(dst)
	dst = append(dst, make([]uint64, m.words)...)
	for bit, matcher := range m.matchers {
		if value, _ := findValue(base, matcher.Name); matcher.Matches(value) {
			dst[start+bit>>6] |= 1 << (bit & 63)
		}
	}
	return dst
}

// selects reports whether a source has all that a column needs, for one of the sets.
func (m *matching) selects(needs, has []uint64) bool {
	for ; len(needs) > 0; needs = needs[m.words:] {
		missing := uint64(0)
		for w := range m.words {
			missing |= needs[w] &^ has[w]
		}
		if missing == 0 {
			return true
		}
	}
	return false
}

// selectsLabels is the same for a series whose labels are known.
func (m *matching) selectsLabels(name string, ls []labels.Label) bool {
	has := m.appendHas(nil, ls)
	return m.selects(m.appendNeeds(nil, name, labels.EmptyLabels()), has)
}

// mayName reports whether a metric of one of the names may be selected.
func (m *matching) mayName(names []string) bool {
	for _, name := range names {
		for i := range m.sets {
			if m.sets[i].matchesName(name) {
				return true
			}
		}
	}
	return false
}

func (s *matcherSet) matchesName(name string) bool {
	for _, matcher := range s.names {
		if !matcher.Matches(name) {
			return false
		}
	}
	return true
}
