package store

import (
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

// dedupe leaves one of identical label sets, the one with the newest sample.
func (sel *selection) dedupe() {
	if !sel.clash {
		return
	}
	if sel.byLabels == nil {
		sel.byLabels = map[uint64]int{}
	}
	clear(sel.byLabels)
	unique := sel.chunk[:0]
	var mine, theirs []labels.Label
	for i := range sel.chunk {
		r := sel.chunk[i]
		mine = r.AppendLabels(mine[:0])
		hash := hashLabels(r.Name(), mine)
		j, taken := sel.byLabels[hash]
		if taken {
			other := &unique[j]
			theirs = other.AppendLabels(theirs[:0])
			if other.Name() == r.Name() && slices.Equal(theirs, mine) {
				if r.T > other.T || r.T == other.T && r.from.key < other.from.key {
					*other = r
				}
				continue
			}
		}
		sel.byLabels[hash] = len(unique)
		unique = append(unique, r)
	}
	clear(sel.chunk[len(unique):])
	sel.chunk = unique
}

// settle gives the family the type of most of its series, and what goes with it.
func (sel *selection) settle() {
	f := &sel.family
	switch {
	case len(sel.types) == 1:
		f.Type = sel.types[0]
	case len(sel.types) > 1:
		votes := map[model.MetricType]int{}
		for i := range sel.chunk {
			votes[sel.chunk[i].pick.typ]++
		}
		delete(votes, model.MetricTypeUnknown)
		f.Conflict = len(votes) > 1
		slices.Sort(sel.types) // a draw has to be the same every time
		for _, t := range sel.types {
			if votes[t] > votes[f.Type] {
				f.Type = t
			}
		}
	}
	for i := range sel.parts {
		for j := range sel.parts[i].picks {
			pk := &sel.parts[i].picks[j]
			if pk.typ != f.Type {
				continue
			}
			if f.Help == "" {
				f.Help = pk.column.Family.Help
			}
			if f.Unit == "" {
				f.Unit = pk.column.Family.Unit
			}
			if f.Help != "" && f.Unit != "" {
				return
			}
		}
	}
}
