package pipeline

import (
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
)

// Reason why a series is dropped.
type Reason string

const (
	Pass         Reason = ""          // it is not
	NoMatch      Reason = "match"     // no selector selects it
	ByRelabeling Reason = "relabel"   // a rule drops it
	NoName       Reason = "name"      // relabelling took its name away
	Collision    Reason = "collision" // another series of the same row has these labels
)

// Reasons are all reasons to drop a series.
func Reasons() []Reason { return []Reason{NoMatch, ByRelabeling, NoName, Collision} }

// rules are what decides about one series by itself.
type rules struct {
	match, always [][]*labels.Matcher
	external      labels.Labels
	relabel       []*relabel.Config
}

func (r *rules) empty() bool {
	return len(r.match) == 0 && r.external.IsEmpty() && len(r.relabel) == 0
}

// merges reports whether the rules can give two series the same labels.
func (r *rules) merges() bool { return !r.external.IsEmpty() || len(r.relabel) > 0 }

// apply returns the labels that a series gets, or why it is dropped.
func (r *rules) apply(b *labels.Builder, l labels.Labels) (labels.Labels, Reason) {
	if len(r.match) > 0 && !selected(r.match, l) && !selected(r.always, l) {
		return labels.EmptyLabels(), NoMatch
	}
	if !r.merges() {
		return l, Pass
	}
	b.Reset(l)
	r.addExternal(b)
	if !relabel.ProcessBuilder(b, r.relabel...) {
		return labels.EmptyLabels(), ByRelabeling
	}
	if b.Get(model.MetricNameLabel) == "" {
		return labels.EmptyLabels(), NoName
	}
	return b.Labels(), Pass
}

func (r *rules) addExternal(b *labels.Builder) {
	r.external.Range(func(l labels.Label) {
		if b.Get(l.Name) == "" {
			b.Set(l.Name, l.Value)
		}
	})
}

func selected(sets [][]*labels.Matcher, l labels.Labels) bool {
	for _, set := range sets {
		if matches(set, l) {
			return true
		}
	}
	return false
}

func matches(set []*labels.Matcher, l labels.Labels) bool {
	for _, m := range set {
		if !m.Matches(l.Get(m.Name)) {
			return false
		}
	}
	return true
}
