package series

import (
	"runtime"
	"sync"
	"sync/atomic"
	"weak"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

// Schema is an ordered list of columns, immutable and shared. A schema grows by Catalog.Extend, which returns another
// schema whose first columns are this one's: column numbers are stable along such a chain.
type Schema struct {
	parent  *Schema // nil for the empty schema
	columns atomic.Pointer[[]Column]
	array   *array // holds columns, shared along the chain
	hash    uint64 // of all columns, by way of the parent's
	mixed   bool   // some columns are not floats
}

// array is the memory of a chain of schemas. A schema sees its own prefix of it; only the longest may append. When that
// takes other memory the whole chain moves there, or the old one would live as long as the longest schema.
type array struct{ columns []Column }

// Len is the number of columns.
func (s *Schema) Len() int { return len(s.Columns()) }

// Column returns column i. It is shared and read-only.
func (s *Schema) Column(i int) *Column { return &s.Columns()[i] }

// Columns returns all columns. They are shared and read-only.
func (s *Schema) Columns() []Column { return *s.columns.Load() }

// setColumns makes the first n of the array the columns of the schema.
func (s *Schema) setColumns(n int) {
	columns := s.array.columns[:n:n]
	s.columns.Store(&columns)
}

// FloatsOnly reports whether no column holds histograms.
func (s *Schema) FloatsOnly() bool { return !s.mixed }

// Parent is the schema this one grew from; nil for the empty schema.
func (s *Schema) Parent() *Schema { return s.parent }

// Extends reports whether s is old or grew from it, so that old's column numbers hold in s.
func (s *Schema) Extends(old *Schema) bool {
	for s != nil && s.Len() >= old.Len() {
		if s == old {
			return true
		}
		s = s.parent
	}
	return false
}

// Catalog makes schemas and sees to it that equal ones are the same one, however many sources have it. It keeps
// nothing alive: a schema lives as long as somebody holds it. Safe for concurrent use.
type Catalog struct {
	mu      sync.Mutex
	empty   *Schema
	schemas map[uint64]weak.Pointer[Schema]
}

// NewCatalog returns a catalog that knows only the empty schema.
func NewCatalog() *Catalog {
	empty := &Schema{array: &array{}}
	empty.setColumns(0)
	return &Catalog{empty: empty, schemas: map[uint64]weak.Pointer[Schema]{}}
}

// Empty is the schema without columns from which all others grow.
func (c *Catalog) Empty() *Schema { return c.empty }

// Schemas counts the distinct schemas that are alive.
func (c *Catalog) Schemas() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.schemas)
}

// Extend returns the schema that has the columns of parent and then the given ones. The caller may reuse columns.
func (c *Catalog) Extend(parent *Schema, columns []Column) *Schema {
	if len(columns) == 0 {
		return parent
	}
	hash := hashColumns(parent.hash, columns)
	c.mu.Lock()
	defer c.mu.Unlock()
	known, taken := c.schemas[hash]
	if s := known.Value(); s != nil {
		if s.parent == parent && equalColumns(s.Columns()[parent.Len():], columns) {
			return s
		}
	} else {
		taken = false
	}
	s := &Schema{parent: parent, hash: hash, mixed: parent.mixed || mixed(columns)}
	n := parent.Len()
	if len(parent.array.columns) == n && parent != c.empty {
		s.array = parent.array
	} else {
		s.array = &array{columns: append(make([]Column, 0, n+len(columns)), parent.Columns()...)}
	}
	total := n + len(columns)
	moved := total > cap(s.array.columns)
	if moved {
		s.array.columns = append(make([]Column, 0, total+total/8), s.array.columns...)
	}
	s.array.columns = append(s.array.columns, columns...)
	s.setColumns(total)
	for p := parent; moved && p.array == s.array; p = p.parent {
		p.setColumns(p.Len())
	}
	if !taken {
		p := weak.Make(s)
		c.schemas[hash] = p
		runtime.AddCleanup(s, func(hash uint64) { c.forget(hash, p) }, hash)
	}
	return s
}

func (c *Catalog) forget(hash uint64, p weak.Pointer[Schema]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.schemas[hash] == p {
		delete(c.schemas, hash)
	}
}

func mixed(columns []Column) bool {
	for i := range columns {
		if columns[i].Kind != Float {
			return true
		}
	}
	return false
}

func equalColumns(a, b []Column) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !a[i].Equal(&b[i]) {
			return false
		}
	}
	return true
}

func hashColumns(seed uint64, columns []Column) uint64 {
	d := xxhash.NewWithSeed(seed)
	var buf []byte
	for i := range columns {
		c := &columns[i]
		buf = c.Labels.Bytes(buf[:0])
		buf = append(buf, 0xfe, byte(c.Kind))
		buf = append(buf, c.Family.Type...)
		for _, s := range [...]string{c.Family.Name, c.Family.Help, c.Family.Unit} {
			buf = append(append(buf, 0xfe), s...)
		}
		d.Write(append(buf, 0xfd))
	}
	return d.Sum64()
}

// Synthetic returns the column of a gauge that the program itself makes, such as up.
func Synthetic(name, help string) Column {
	return Column{
		Labels: labels.FromStrings(model.MetricNameLabel, name),
		Family: Family{Name: name, Type: model.MetricTypeGauge, Help: help},
	}
}
