package pipeline

import (
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
)

// Reason why a series, or a whole row, is refused.
type Reason string

const (
	Pass Reason = "" // it is not

	// What a series by itself is refused for, once, when it appears.

	NoMatch       Reason = "match"              // no selector selects it
	ByRelabeling  Reason = "relabel"            // a rule drops it
	NoName        Reason = "name"               // relabelling took its name away
	RequiredLabel Reason = "required_label"     // it lacks one of required_labels, or has another value
	TooManyLabels Reason = "labels"             // more than limits.labels
	LongName      Reason = "label_name_length"  // a label name is longer than limits.label_name_length
	LongValue     Reason = "label_value_length" // a label value is longer than limits.label_value_length
	Collision     Reason = "collision"          // another series of the same source has these labels

	// What a series is refused for until there is room.

	OverSeries Reason = "series"              // limits.series
	OverSource Reason = "series_per_source"   // limits.series_per_source
	OverNew    Reason = "new_series_per_hour" // limits.new_series_per_hour

	// What whole rows are refused for.

	OverSamples Reason = "samples_per_second" // limits.samples_per_second
	OverSources Reason = "sources"            // more sources than the site may have
)

// Reasons are all reasons to refuse a series.
func Reasons() []Reason {
	return []Reason{
		NoMatch, ByRelabeling, NoName, RequiredLabel, TooManyLabels, LongName, LongValue, Collision, OverSeries, OverSource, OverNew,
	}
}

// RowReasons are all reasons to refuse a row as a whole.
func RowReasons() []Reason { return []Reason{OverSamples, OverSources} }

// onPurpose reports whether it is what somebody configured so that series are dropped.
func (r Reason) onPurpose() bool { return r == NoMatch || r == ByRelabeling }

// loses reports whether what is refused for it was wanted. Relabelling may take names away, or make one of two series.
func (r Reason) loses() bool {
	switch r {
	case Pass, NoMatch, ByRelabeling, NoName, Collision:
		return false
	}
	return true
}

// Selection is a list of series selectors, of which one has to select a series; see ParseMatch.
type Selection [][]*labels.Matcher

// Selects reports whether one of the selectors selects the series.
func (s Selection) Selects(l labels.Labels) bool {
	return slices.ContainsFunc(s, func(set []*labels.Matcher) bool {
		return !slices.ContainsFunc(set, func(m *labels.Matcher) bool { return !m.Matches(l.Get(m.Name)) })
	})
}

// rules are what decides about one series by itself. They are not changed: another configuration has others.
type rules struct {
	match     []Selection // none of them empty
	always    Selection
	external  labels.Labels
	relabel   []*relabel.Config
	required  labels.Labels
	limits    Limits
	anonymize *Anonymizer // nil: nothing
	seen      func(label, value string)
}

func newRules(o *Options) *rules {
	r := &rules{
		always: o.Always, external: o.ExternalLabels, relabel: o.Relabel, required: labels.FromMap(o.RequiredLabels),
		limits: o.Limits, anonymize: o.Anonymize, seen: o.Pseudonymized,
	}
	for _, s := range o.Match {
		if len(s) > 0 {
			r.match = append(r.match, s)
		}
	}
	return r
}

// changes reports whether the rules can change labels, and so give two series the same.
func (r *rules) changes() bool {
	return !r.external.IsEmpty() || len(r.relabel) > 0 || r.anonymize != nil
}

func (r *rules) measured() bool {
	return r.limits.Labels > 0 || r.limits.LabelNameLength > 0 || r.limits.LabelValueLength > 0
}

// apply returns the labels that a series gets, or why it is dropped.
func (r *rules) apply(b *labels.Builder, l labels.Labels) (labels.Labels, Reason) {
	for _, s := range r.match {
		if !s.Selects(l) && !r.always.Selects(l) {
			return labels.EmptyLabels(), NoMatch
		}
	}
	if r.changes() {
		b.Reset(l)
		r.addExternal(b)
		if !relabel.ProcessBuilder(b, r.relabel...) {
			return labels.EmptyLabels(), ByRelabeling
		}
		if b.Get(model.MetricNameLabel) == "" {
			return labels.EmptyLabels(), NoName
		}
		l = b.Labels()
	}
	if reason := r.check(l); reason != Pass {
		return labels.EmptyLabels(), reason
	}
	if r.anonymize != nil {
		b.Reset(l)
		r.anonymize.replace(b, r.seen)
		l = b.Labels()
	}
	return l, Pass
}

// check looks for required labels, and for labels beyond the limits.
func (r *rules) check(l labels.Labels) (reason Reason) {
	r.required.Range(func(want labels.Label) {
		if l.Get(want.Name) != want.Value {
			reason = RequiredLabel
		}
	})
	if reason != Pass || !r.measured() {
		return reason
	}
	if most := r.limits.Labels; most > 0 && l.Len() > most {
		return TooManyLabels
	}
	l.Range(func(l labels.Label) {
		switch {
		case r.limits.LabelNameLength > 0 && len(l.Name) > r.limits.LabelNameLength:
			reason = LongName
		case r.limits.LabelValueLength > 0 && len(l.Value) > r.limits.LabelValueLength && reason == Pass:
			reason = LongValue
		}
	})
	return reason
}

func (r *rules) addExternal(b *labels.Builder) {
	r.external.Range(func(l labels.Label) {
		if b.Get(l.Name) == "" {
			b.Set(l.Name, l.Value)
		}
	})
}
