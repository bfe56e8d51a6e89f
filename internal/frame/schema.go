package frame

import (
	"encoding/binary"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// Flags of a column definition (docs/frame.md, section 4.2).
const (
	columnKindMask = 3      // series.Kind
	columnFamily   = 1 << 2 // a family follows; otherwise it is that of the column before
	columnNames    = 1 << 3 // label names follow; otherwise they are those of the column before

	columnKnown1 = 1<<4 - 1
	columnType   = 4 // with columnFamily the type stands in the bits above, in version 2
)

// columnsWriter writes the columns of a schema block, in one version.
type columnsWriter interface {
	reset()
	// add writes a column against the one before it in the same block; prev is nil for the first.
	add(c, prev *series.Column)
	size() int
	append(dst []byte) []byte
}

// defineSchema emits what a decoder lacks of a schema's chain, oldest first. A large schema is cut into blocks, which
// may stand in several frames.
func (e *Encoder) defineSchema(dst [][]byte, schema *series.Schema, now int64) [][]byte {
	if schema.Parent() == nil {
		return dst
	}
	if _, ok := e.schemas[schema]; ok {
		return dst
	}
	var chain []*series.Schema
	for s := schema; s.Parent() != nil; s = s.Parent() {
		if _, ok := e.schemas[s]; ok {
			break
		}
		chain = append(chain, s)
	}
	for i := len(chain) - 1; i >= 0; i-- {
		s := chain[i]
		id := e.nextSchema
		e.nextSchema++
		e.schemas[s] = id
		dst = e.emitSchema(dst, id, e.schemas[s.Parent()], s.Columns()[s.Parent().Len():], now)
	}
	return dst
}

func (e *Encoder) emitSchema(dst [][]byte, id, parent uint64, columns []series.Column, now int64) [][]byte {
	for len(columns) > 0 {
		e.columns.reset()
		n := 0
		var prev *series.Column
		for n < len(columns) && e.columns.size() < e.cfg.MaxBody/4 {
			e.columns.add(&columns[n], prev)
			prev = &columns[n]
			n++
		}
		more := byte(0)
		if n < len(columns) {
			more = 1
		}
		p := binary.AppendUvarint(e.payload[:0], id)
		p = binary.AppendUvarint(p, parent)
		p = append(p, more)
		p = binary.AppendUvarint(p, uint64(n))
		dst = e.emit(dst, blockSchema, e.columns.append(p), now)
		columns = columns[n:]
	}
	return dst
}

// minColumn is the least number of bytes that a column definition takes.
const minColumn = 1

func commonPrefix(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// readLabelPairs reads labels, which must be sorted by name and unique.
func readLabelPairs(r *reader, dst []labels.Label) []labels.Label {
	for range r.count(2) {
		l := labels.Label{Name: r.string(), Value: r.string()}
		switch {
		case r.err != nil:
			return dst
		case len(l.Name) > maxLabel || len(l.Value) > maxLabel:
			r.failf("label of %d and %d bytes", len(l.Name), len(l.Value))
		case len(dst) > 0 && l.Name <= dst[len(dst)-1].Name:
			r.failf("label %q after %q", l.Name, dst[len(dst)-1].Name)
		}
		dst = append(dst, l)
	}
	return dst
}

func makeLabels(b *labels.ScratchBuilder, pairs []labels.Label) labels.Labels {
	b.Reset()
	for _, l := range pairs {
		b.Add(l.Name, l.Value)
	}
	return b.Labels()
}
