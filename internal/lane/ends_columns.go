package lane

import (
	"math/bits"
	"slices"

	"github.com/thalweg/thalweg/internal/series"
)

// columnSet is a set of columns of a schema; without a schema it is empty.
type columnSet struct {
	schema *series.Schema
	bits   []uint64
}

func (s *columnSet) has(c int) bool { return c>>6 < len(s.bits) && s.bits[c>>6]&(1<<(c&63)) != 0 }

func (s *columnSet) put(c int, in bool) {
	if s.bits[c>>6] |= 1 << (c & 63); !in {
		s.bits[c>>6] &^= 1 << (c & 63)
	}
}

// fill makes it what a whole row has, nothing if the source ended.
func (s *columnSet) fill(row *series.Row) {
	n := row.Schema.Len()
	s.schema, s.bits = row.Schema, series.Bitmap(s.bits, n)
	switch {
	case row.End:
	case row.Present != nil:
		copy(s.bits, row.Present)
	default:
		for i := range s.bits {
			s.bits[i] = ^uint64(0)
		}
	}
	if rest := n & 63; rest != 0 { // what stands behind the last column means nothing
		s.bits[n>>6] &= 1<<rest - 1
	}
}

func (s *columnSet) clone() columnSet { return columnSet{s.schema, slices.Clone(s.bits)} }

func (s *columnSet) copyFrom(o *columnSet) {
	s.schema, s.bits = o.schema, append(s.bits[:0], o.bits...)
}

// change makes it one of another schema. Where that did not grow from its own, series are found by their labels, and
// those that it does not have are dropped.
func (s *columnSet) change(schema *series.Schema) {
	switch {
	case s.schema == schema:
		return
	case s.schema != nil && s.schema.Extends(schema):
		return // its numbers are the same
	case s.schema == nil || schema.Extends(s.schema):
		s.bits = slices.Grow(s.bits, (schema.Len()+63)/64-len(s.bits))
		for len(s.bits) < (schema.Len()+63)/64 {
			s.bits = append(s.bits, 0)
		}
	default:
		old := s.names()
		bits := series.Bitmap(nil, schema.Len())
		for i := range schema.Columns() {
			if _, ok := old[nameOf(schema, i)]; ok {
				series.SetBit(bits, i)
			}
		}
		s.bits = bits
	}
	s.schema = schema
}

// names are the labels of its series.
func (s *columnSet) names() map[string]struct{} {
	names := map[string]struct{}{}
	s.each(func(c int) { names[nameOf(s.schema, c)] = struct{}{} })
	return names
}

// nameOf is what a series is recognised by in another schema of the source.
func nameOf(schema *series.Schema, c int) string {
	return string(schema.Column(c).Labels.Bytes(nil))
}

func (s *columnSet) each(f func(c int)) {
	for i, w := range s.bits {
		for ; w != 0; w &= w - 1 {
			f(i*64 + bits.TrailingZeros64(w))
		}
	}
}

// without appends the columns that are in it and not in another set of the source.
func (s *columnSet) without(o *columnSet, dst []uint32) []uint32 {
	if s.schema != o.schema && o.schema != nil && !o.schema.Extends(s.schema) && !s.schema.Extends(o.schema) {
		others := o.names()
		s.each(func(c int) {
			if _, ok := others[nameOf(s.schema, c)]; !ok {
				dst = append(dst, uint32(c))
			}
		})
		return dst
	}
	for i, w := range s.bits {
		if i < len(o.bits) {
			w &^= o.bits[i]
		}
		for ; w != 0; w &= w - 1 {
			dst = append(dst, uint32(i*64+bits.TrailingZeros64(w)))
		}
	}
	return dst
}

// remove takes the columns of another set out of it.
func (s *columnSet) remove(o *columnSet) {
	if s.schema == nil || o.schema == nil {
		return
	}
	s.change(o.schema)
	for i, w := range o.bits {
		s.bits[i] &^= w
	}
}

// add puts the columns of another set in.
func (s *columnSet) add(o *columnSet) {
	if o.schema == nil {
		return
	}
	s.change(o.schema)
	for i, w := range o.bits {
		s.bits[i] |= w
	}
}
