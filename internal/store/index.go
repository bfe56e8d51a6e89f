package store

import (
	"maps"
	"slices"
	"strings"

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
	// Columns with the site label or with a name that it may be renamed to, ascending: what a reader sees of them
	// depends on the source's labels too, and is worked out one by one.
	contested []uint32
}

// setSchema gives the source the schema of the row, and an index that covers it.
func (s *Store) setSchema(src *source, row *series.Row) {
	old, schema := src.schema, row.Schema
	extends := old != nil && schema.Extends(old)
	if old != nil && !extends {
		if row.Whole() {
			src.times, src.histograms, src.exemplars, src.starts = nil, nil, nil, nil
		} else {
			src.transfer(schema)
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
		x = &index{schema: schema}
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
	x.findContested(s.config.SiteLabel, first)
	for _, c := range s.catalogues {
		if c != nil {
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

// findContested looks for contested columns from first on.
func (x *index) findContested(siteLabel string, first int) {
	if siteLabel == "" {
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

// Grouping says what makes a family.
type Grouping int

const (
	// ByFamily groups as the exposition did that the series come from: the buckets, sum and count of a classic
	// histogram are one family, sorted under the name they have in common.
	ByFamily Grouping = iota
	// ByName makes a family of each metric name, and another one of its native histograms, as Prometheus does when
	// it is federated. Such families have no metadata.
	ByName

	groupings
)

// catalogue lists all families in one grouping, each with the columns that belong to it.
type catalogue struct {
	grouping Grouping
	families map[familyKey]*family
	order    []familyKey // sorted; nil when out of date. Selections keep it: it is replaced, never changed
	changes  int         // of the set of families
}

// changed notes that the set of families is another one.
func (c *catalogue) changed() {
	c.order = nil
	c.changes++
}

type familyKey struct {
	name string
	kind series.Kind // Float if grouped ByFamily
}

func (k familyKey) compare(o familyKey) int {
	if c := strings.Compare(k.name, o.name); c != 0 {
		return c
	}
	return int(k.kind) - int(o.kind)
}

// family is all series of one family, by index.
type family struct {
	names    []string // of metrics, in no order; a handful at most
	kinds    uint8    // of columns, as bits
	postings []posting
}

// posting lists columns of one index that belong to a family, ascending. There may be several for one index.
type posting struct {
	index   *index
	columns []uint32
}

// order lists the families of a grouping by name. The list is not to be changed.
func (s *Store) order(g Grouping) []familyKey {
	s.mu.RLock()
	c := s.catalogues[g]
	s.mu.RUnlock()
	if c == nil {
		c = s.catalogued(g)
	}
	s.mu.RLock()
	order, changes := c.order, c.changes
	if order != nil {
		s.mu.RUnlock()
		return order
	}
	order = slices.Collect(maps.Keys(c.families))
	s.mu.RUnlock()

	slices.SortFunc(order, familyKey.compare) // there may be many: nobody has to wait for it
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.changes == changes {
		c.order = order
	}
	return order
}

// catalogued builds the catalogue of a grouping, which lasts as long as the store.
func (s *Store) catalogued(g Grouping) *catalogue {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.catalogues[g] == nil {
		c := &catalogue{grouping: g, families: map[familyKey]*family{}}
		for _, x := range s.indexes {
			c.add(x, 0)
		}
		s.catalogues[g] = c
	}
	return s.catalogues[g]
}

// add lists the columns of x from first on.
func (c *catalogue) add(x *index, first int) {
	for i := first; i < x.schema.Len(); i++ {
		if x.isHidden(i) {
			continue
		}
		column := x.schema.Column(i)
		name := column.Labels.Get(model.MetricNameLabel)
		key := familyKey{name, column.Kind}
		if c.grouping == ByFamily {
			key = familyKey{name: familyName(&column.Family, name)}
		}
		f := c.families[key]
		if f == nil {
			f = &family{}
			c.families[key] = f
			c.changed()
		}
		f.kinds |= 1 << column.Kind
		if !slices.Contains(f.names, name) {
			f.names = append(f.names, name)
		}
		if n := len(f.postings); n > 0 && f.postings[n-1].index == x {
			f.postings[n-1].columns = append(f.postings[n-1].columns, uint32(i))
		} else {
			f.postings = append(f.postings, posting{index: x, columns: []uint32{uint32(i)}})
		}
	}
}

// sweep drops the columns of indexes that have no sources, and the families that are empty then.
func (c *catalogue) sweep() {
	for key, f := range c.families {
		f.postings = slices.DeleteFunc(f.postings, func(p posting) bool { return len(p.index.sources) == 0 })
		if len(f.postings) == 0 {
			delete(c.families, key)
			c.changed()
		}
	}
}

// familyName is the name under which a series stands in the text format: the family's if the series is a part of a
// histogram or summary, else its own.
func familyName(f *series.Family, name string) string {
	suffix, ok := strings.CutPrefix(name, f.Name)
	if !ok || f.Name == "" {
		return name
	}
	switch f.Type {
	case model.MetricTypeHistogram:
		ok = suffix == "_bucket" || suffix == "_count" || suffix == "_sum"
	case model.MetricTypeGaugeHistogram:
		ok = suffix == "_bucket" || suffix == "_gcount" || suffix == "_gsum"
	case model.MetricTypeSummary:
		ok = suffix == "_count" || suffix == "_sum"
	default:
		ok = false
	}
	if ok {
		return f.Name
	}
	return name
}

// familyType is the type of the family that familyName has put a series into. Nobody has to say what a native
// histogram is.
func familyType(c *series.Column, name, family string) model.MetricType {
	switch c.Kind {
	case series.Histogram:
		return model.MetricTypeHistogram
	case series.GaugeHistogram:
		return model.MetricTypeGaugeHistogram
	}
	f := &c.Family
	switch f.Type {
	case "":
		return model.MetricTypeUnknown
	case model.MetricTypeHistogram, model.MetricTypeGaugeHistogram, model.MetricTypeSummary:
		if family != f.Name {
			return model.MetricTypeUnknown // _created, or renamed
		}
	case model.MetricTypeCounter:
		if name == f.Name+"_created" {
			return model.MetricTypeUnknown
		}
	}
	return f.Type
}
