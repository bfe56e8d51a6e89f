package events

import (
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
)

// relabelled is what relabel_configs make of the labels of an event.
type relabelled struct {
	labels labels.Labels // of the event
	member *member       // nil: it is dropped
	next   *relabelled
}

// maxRelabelled bounds what is remembered of relabelling, and maxRelabelledBytes how long its labels are together. When it is
// full it begins anew.
const (
	maxRelabelled      = 1 << 17
	maxRelabelledBytes = 64 << 20
)

// findRelabelled is find behind relabel_configs, which work once on each set of labels.
func (a *aggregate) findRelabelled(e *Event, hash uint64, now int64) (*member, Reason) {
	for r := a.relabelled[hash]; r != nil; r = r.next {
		if !labels.Equal(r.labels, a.own) || r.member != nil && r.member.dead {
			continue
		}
		switch {
		case r.member == nil:
			return nil, Relabelled
		case r.member.family.typ != e.Type:
			return nil, Conflict
		}
		return r.member, Taken
	}
	if reason := a.validate(e); reason != Taken { // what is not valid is not relabelled, and so not remembered
		return nil, reason
	}
	before := a.own.Copy()
	a.builder.Reset(before)
	var m *member
	if relabel.ProcessBuilder(a.builder, a.rules...) {
		a.own = a.builder.Labels()
		name := a.own.Get(model.MetricNameLabel)
		renamed := *e
		renamed.Name = name
		after := a.own.Hash()
		if m = a.lookup(after); m == nil {
			var reason Reason
			if m, reason = a.create(&renamed, after, now); reason != Taken {
				a.own = labels.EmptyLabels()
				return nil, reason
			}
		}
		a.own = labels.EmptyLabels() // which Overwrite would write to
	}
	length := int(before.ByteSize())
	if a.remembered += length; len(a.relabelled) >= maxRelabelled || a.remembered > maxRelabelledBytes {
		clear(a.relabelled)
		a.remembered = length
	}
	a.relabelled[hash] = &relabelled{labels: before, member: m, next: a.chain(hash)}
	switch {
	case m == nil:
		return nil, Relabelled
	case m.family.typ != e.Type:
		return nil, Conflict
	}
	return m, Taken
}

// chain is what is remembered under a hash of series that are still there.
func (a *aggregate) chain(hash uint64) *relabelled {
	r := a.relabelled[hash]
	for r != nil && r.member != nil && r.member.dead {
		r = r.next
	}
	return r
}
