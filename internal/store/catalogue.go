package store

import (
	"maps"
	"slices"
	"strings"

	"github.com/prometheus/common/model"

	"github.com/thalweg/thalweg/internal/series"
)

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
	order    []familyKey     // sorted; nil when out of date. Selections keep it: it is replaced, never changed
	changes  int             // of the set of families
	pending  map[*index]bool // indexes that were there before the catalogue, and are not in it yet
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
	complete := c != nil && len(c.pending) == 0
	s.mu.RUnlock()
	if !complete {
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

// chunkCatalogue is how many columns are added to a catalogue under one hold of the lock, or those of one index.
const chunkCatalogue = 4096

// catalogued builds the catalogue of a grouping, which lasts as long as the store. Rows may be applied meanwhile.
func (s *Store) catalogued(g Grouping) *catalogue {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.catalogues[g]
	if c == nil {
		c = &catalogue{grouping: g, families: map[familyKey]*family{}, pending: map[*index]bool{}}
		s.catalogues[g] = c
		for _, x := range s.indexes {
			c.pending[x] = true
		}
	}
	for len(c.pending) > 0 {
		added := 0
		for x := range c.pending {
			c.add(x, 0)
			delete(c.pending, x)
			if added += x.schema.Len(); added >= chunkCatalogue {
				break
			}
		}
		s.mu.Unlock()
		s.mu.Lock()
	}
	return c
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
	maps.DeleteFunc(c.pending, func(x *index, _ bool) bool { return len(x.sources) == 0 })
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
