package store

import (
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

// matching is the union of sets of matchers, laid out in bits so that a matcher is evaluated once per column or once
// per source and never per series. Each set owns some words; matcher i of it has bit i+1, and bit 0 is one that no
// source has: a column needs it that the set can not match at all.
type matching struct {
	sets  []matcherSet
	words int // of all sets
}

type matcherSet struct {
	matchers []*labels.Matcher
	first    int // word
	words    int
}

// newMatching leaves out empty sets: as in Prometheus they select nothing.
func newMatching(sets [][]*labels.Matcher) matching {
	var m matching
	for _, matchers := range sets {
		if len(matchers) == 0 {
			continue
		}
		set := matcherSet{matchers: matchers, first: m.words, words: len(matchers)/64 + 1}
		m.sets = append(m.sets, set)
		m.words += set.words
	}
	return m
}

func (s *matcherSet) setBit(words []uint64, bit int) { words[s.first+bit>>6] |= 1 << (bit & 63) }

// need sets the bits of what a source has to have for the column to be selected, and reports whether that is possible
// at all. A matcher whose label the column has is settled here, with the value that stands there even if it is empty.
func (m *matching) need(words []uint64, name string, column []labels.Label) bool {
	possible := false
	for i := range m.sets {
		set := &m.sets[i]
		refuted := false
		for j, matcher := range set.matchers {
			value, ok := name, matcher.Name == model.MetricNameLabel
			for k := 0; k < len(column) && !ok; k++ {
				value, ok = column[k].Value, column[k].Name == matcher.Name
			}
			switch {
			case !ok:
				set.setBit(words, j+1)
			case !matcher.Matches(value):
				refuted = true
			}
		}
		if refuted {
			set.setBit(words, 0)
		}
		possible = possible || !refuted
	}
	return possible
}

// have sets the bits of the matchers that a source satisfies for the columns that do not settle them.
func (m *matching) have(words []uint64, base []labels.Label) {
	for i := range m.sets {
		set := &m.sets[i]
		for j, matcher := range set.matchers {
			if matcher.Name == model.MetricNameLabel {
				continue // every column has one
			}
			if value, _ := findValue(base, matcher.Name); matcher.Matches(value) {
				set.setBit(words, j+1)
			}
		}
	}
}

// selects reports whether a source has all that a column needs, for one of the sets.
func (m *matching) selects(need, have []uint64) bool {
	for i := range m.sets {
		set := &m.sets[i]
		missing := uint64(0)
		for w := set.first; w < set.first+set.words; w++ {
			missing |= need[w] &^ have[w]
		}
		if missing == 0 {
			return true
		}
	}
	return false
}

// selectsLabels is the same for a series whose labels are known.
func (m *matching) selectsLabels(name string, ls []labels.Label) bool {
	for i := range m.sets {
		if matchesLabels(m.sets[i].matchers, name, ls) {
			return true
		}
	}
	return false
}

func matchesLabels(matchers []*labels.Matcher, name string, ls []labels.Label) bool {
	for _, matcher := range matchers {
		value := name
		if matcher.Name != model.MetricNameLabel {
			value, _ = findValue(ls, matcher.Name)
		}
		if !matcher.Matches(value) {
			return false
		}
	}
	return true
}

// mayName reports whether a metric of one of the names may be selected.
func (m *matching) mayName(names []string) bool {
	for _, name := range names {
		for i := range m.sets {
			if matchesName(m.sets[i].matchers, name) {
				return true
			}
		}
	}
	return false
}

func matchesName(matchers []*labels.Matcher, name string) bool {
	for _, matcher := range matchers {
		if matcher.Name == model.MetricNameLabel && !matcher.Matches(name) {
			return false
		}
	}
	return true
}
