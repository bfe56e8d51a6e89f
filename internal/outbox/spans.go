package outbox

import "slices"

// maxSpans bounds the acknowledged spans of one group. Acknowledgements come in two ordered runs (live, backfill), so
// that there are one or two; beyond the bound the shortest is forgotten and its frames are sent again.
const maxSpans = 16

// span is an inclusive range of frame numbers.
type span struct{ from, to uint64 }

// spans are disjoint, ascending, and do not touch.
type spans []span

// add returns s with from to to.
func (s spans) add(from, to uint64) spans {
	i := 0
	for i < len(s) && s[i].to < from && s[i].to+1 != from {
		i++
	}
	j := i
	for ; j < len(s) && (s[j].from <= to || s[j].from == to+1); j++ {
		from, to = min(from, s[j].from), max(to, s[j].to)
	}
	return slices.Replace(s, i, j, span{from, to}).bound()
}

func (s spans) bound() spans {
	for len(s) > maxSpans {
		shortest := 0
		for k := range s {
			if s[k].to-s[k].from < s[shortest].to-s[shortest].from {
				shortest = k
			}
		}
		s = slices.Delete(s, shortest, shortest+1)
	}
	return s
}

// remove returns s without from to to.
func (s spans) remove(from, to uint64) spans {
	var out spans
	for _, a := range s {
		if a.to < from || a.from > to {
			out = append(out, a)
			continue
		}
		if a.from < from {
			out = append(out, span{a.from, from - 1})
		}
		if a.to > to {
			out = append(out, span{to + 1, a.to})
		}
	}
	return out.bound()
}

// gaps returns what of from to to is not in s.
func (s spans) gaps(from, to uint64) spans {
	all := spans{{from, to}}
	for _, a := range s {
		all = all.remove(a.from, a.to)
	}
	return all
}

// cover reports whether all of from to to is in s.
func (s spans) cover(from, to uint64) bool {
	return slices.ContainsFunc(s, func(a span) bool { return a.from <= from && to <= a.to })
}
