package store

import (
	"maps"
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// index is what the store knows of one schema, once for all sources that have it. Schemas that grew from each other
// share an index, which follows the longest; a source on a shorter one ends where its values end.
type index struct {
	schema  *series.Schema
	sources []*source // each knows its slot
	hidden  []bool    // columns that no reader can be given; nil if there are none
	seen    columnSet // all columns; empty if the schema has never grown
	// Label names of all columns, and whether any of the labels is empty: what may be taken for a source's label.
	names map[string]struct{}
	empty bool
	// Columns with the site label or with a name that it may be renamed to, ascending: what a reader sees of them
	// depends on the source's labels too, and is worked out one by one.
	contested []uint32
}

// setSchema gives the source the schema of the row, and an index that covers it. The schema before was of origin.
func (s *Store) setSchema(src *source, row *series.Row, origin *series.Source) {
	old, schema := src.schema, row.Schema
	extends := old != nil && schema.Extends(old)
	if old != nil && !extends {
		if row.Whole() {
			src.times, src.histograms, src.exemplars, src.starts = nil, nil, nil, nil
		} else {
			src.transfer(schema, origin)
		}
	}
	src.resize(schema.Len())
	src.schema = schema

	x := s.indexes[schema]
	switch {
	case x != nil:
	case extends && src.index.schema.Extends(schema):
		x = src.index
	case extends && schema.Extends(src.index.schema):
		x = src.index
		delete(s.indexes, x.schema)
		s.indexes[schema] = x
		s.grow(x, schema)
	default:
		x = &index{schema: schema, names: map[string]struct{}{}}
		s.indexes[schema] = x
		s.grow(x, schema)
	}
	if x != src.index {
		from, slot := src.index, src.slot
		src.index, src.slot = x, len(x.sources)
		x.sources = append(x.sources, src)
		if from != nil {
			s.unindex(from, slot)
		}
	}
}

// idleColumns is how many columns of indexes without sources are kept before Expire sweeps them.
const idleColumns = 1 << 16

// unindex takes the source in a slot out of an index. The index goes with its last source, at the next sweep.
func (s *Store) unindex(x *index, slot int) {
	last := len(x.sources) - 1
	if slot != last {
		x.sources[slot] = x.sources[last]
		x.sources[slot].slot = slot
	}
	x.sources[last] = nil
	x.sources = x.sources[:last]
	if last > 0 {
		return
	}
	// A site that changes its schemas with every row must not fill the memory until then.
	if s.idle += x.schema.Len(); s.idle > idleColumns {
		s.sweep()
	}
}

// grow makes the index cover schema, which is its own one or extends it.
func (s *Store) grow(x *index, schema *series.Schema) {
	first := x.schema.Len()
	if x.schema == schema {
		first = 0
	}
	x.schema = schema
	s.hide(x, first)
	x.findNames(first)
	x.findContested(s.config.SiteLabel, first)
	for _, c := range s.catalogues {
		if c != nil && !c.pending[x] {
			c.add(x, first)
		}
	}
}

// hide marks the columns from first on that are not fit to be served: without a metric name, not valid, or there
// already. One of them in an answer would make its reader reject the whole of it, other sites' series included.
func (s *Store) hide(x *index, first int) {
	columns := x.schema.Columns()
	seen := x.seen
	if first > 0 && seen.n == 0 {
		for i := range first {
			seen.add(columns, i)
		}
	}
	for i := first; i < len(columns); i++ {
		c := &columns[i]
		if isNew := seen.add(columns, i); isNew && c.Labels.Get(model.MetricNameLabel) != "" && checkLabels(c.Labels) == nil {
			continue
		}
		s.metrics.hidden.Inc()
		x.hidden = resized(x.hidden, len(columns))
		x.hidden[i] = true
	}
	if first > 0 { // will grow again
		x.seen = seen
	}
}

func (x *index) isHidden(column int) bool { return column < len(x.hidden) && x.hidden[column] }

// findNames notes the label names of the columns from first on.
func (x *index) findNames(first int) {
	for _, c := range x.schema.Columns()[first:] {
		c.Labels.Range(func(l labels.Label) {
			x.empty = x.empty || l.Value == ""
			if _, known := x.names[l.Name]; !known {
				x.names[l.Name] = struct{}{}
			}
		})
	}
}

// findContested looks for contested columns from first on.
func (x *index) findContested(siteLabel string, first int) {
	possible := false
	for name := range x.names {
		possible = possible || isContested(name, siteLabel)
	}
	if siteLabel == "" || !possible {
		return
	}
	for i := first; i < x.schema.Len(); i++ {
		x.schema.Column(i).Labels.Range(func(l labels.Label) {
			if n := len(x.contested); isContested(l.Name, siteLabel) && (n == 0 || x.contested[n-1] != uint32(i)) {
				x.contested = append(x.contested, uint32(i))
			}
		})
	}
}

func (x *index) isContested(column uint32) bool {
	_, ok := slices.BinarySearch(x.contested, column)
	return ok
}

// sweep drops the indexes that have lost their last source.
func (s *Store) sweep() {
	s.idle = 0
	swept := false
	maps.DeleteFunc(s.indexes, func(_ *series.Schema, x *index) bool {
		swept = swept || len(x.sources) == 0
		return len(x.sources) == 0
	})
	if !swept {
		return
	}
	for _, c := range s.catalogues {
		if c != nil {
			c.sweep()
		}
	}
}
