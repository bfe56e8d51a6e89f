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

	columnKnown = 1<<4 - 1
)

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
		list := e.residue[:0]
		n := 0
		var prev *series.Column
		for n < len(columns) && len(list) < e.cfg.MaxBody/4 {
			list = appendColumn(list, &columns[n], prev)
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
		dst = e.emit(dst, blockSchema, append(p, list...), now)
		e.residue, columns = list[:0], columns[n:]
	}
	return dst
}

// appendColumn writes a column against the one before it in the same block; prev is nil for the first.
func appendColumn(dst []byte, c, prev *series.Column) []byte {
	flags := byte(c.Kind)
	newFamily := prev == nil && c.Family != series.Family{} || prev != nil && c.Family != prev.Family
	newNames := prev == nil || !sameNames(c.Labels, prev.Labels)
	if newFamily {
		flags |= columnFamily
	}
	if newNames {
		flags |= columnNames
	}
	dst = append(dst, flags)
	if newFamily {
		f := &c.Family
		dst = append(appendString(dst, f.Name), metricTypeNumber(f.Type))
		dst = appendString(appendString(dst, f.Help), f.Unit)
	}
	if newNames {
		return appendLabels(dst, c.Labels)
	}
	values := make([]string, 0, 8)
	prev.Labels.Range(func(l labels.Label) { values = append(values, l.Value) })
	i := 0
	c.Labels.Range(func(l labels.Label) {
		shared := commonPrefix(l.Value, values[i])
		dst = binary.AppendUvarint(dst, uint64(shared))
		dst = appendString(dst, l.Value[shared:])
		i++
	})
	return dst
}

func sameNames(a, b labels.Labels) bool {
	if a.Len() != b.Len() {
		return false
	}
	names := make([]string, 0, 8)
	a.Range(func(l labels.Label) { names = append(names, l.Name) })
	i, same := 0, true
	b.Range(func(l labels.Label) {
		same = same && names[i] == l.Name
		i++
	})
	return same
}

func commonPrefix(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// minColumn is the least number of bytes that a column definition takes.
const minColumn = 1

// readColumns reads n column definitions and charges them. builder is scratch.
func readColumns(r *reader, n int, builder *labels.ScratchBuilder) []series.Column {
	columns := make([]series.Column, 0, n)
	var family series.Family
	var pairs []labels.Label // of the column before
	for i := range n {
		flags := r.byte()
		if flags&^columnKnown != 0 || flags&columnKindMask > byte(series.GaugeHistogram) {
			r.failf("column %d has flags %#x", i, flags)
		}
		if flags&columnFamily != 0 {
			family = readFamily(r)
		}
		switch {
		case flags&columnNames != 0:
			pairs = readLabelPairs(r, pairs[:0])
		case i == 0:
			r.failf("first column has no label names")
		default:
			readLabelValues(r, pairs)
		}
		size := labelsCost
		for _, l := range pairs {
			size += labelsCost + len(l.Name) + len(l.Value)
		}
		r.charge(size) // before it is built: a few bytes may repeat megabytes of the column before
		if r.err != nil {
			return nil
		}
		columns = append(columns, series.Column{
			Labels: makeLabels(builder, pairs), Family: family, Kind: series.Kind(flags & columnKindMask),
		})
	}
	return columns
}

// readLabelValues reads label values against those in pairs, which are charged: it allocates no more than they and the
// bytes read.
func readLabelValues(r *reader, pairs []labels.Label) {
	for i := range pairs {
		last := pairs[i].Value
		shared := r.bounded(len(last)+1, "shared prefix")
		rest := r.bytes()
		switch {
		case r.err != nil:
			return
		case shared+len(rest) > maxLabel:
			r.failf("label %q of %d bytes", pairs[i].Name, shared+len(rest))
			return
		}
		if len(rest) > 0 || shared < len(last) {
			pairs[i].Value = last[:shared] + string(rest)
		}
	}
}

func readFamily(r *reader) series.Family {
	f := series.Family{Name: r.string()}
	f.Type = metricTypes[r.bounded(len(metricTypes), "metric type")]
	f.Help, f.Unit = r.string(), r.string()
	r.charge(len(f.Name) + len(f.Help) + len(f.Unit))
	return f
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
