package frame

import (
	"encoding/binary"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// columnsWriter1 writes the columns of a schema block of version 1, each behind the other.
type columnsWriter1 struct{ list []byte }

func (w *columnsWriter1) reset()                     { w.list = w.list[:0] }
func (w *columnsWriter1) size() int                  { return len(w.list) }
func (w *columnsWriter1) append(dst []byte) []byte   { return append(dst, w.list...) }
func (w *columnsWriter1) add(c, prev *series.Column) { w.list = appendColumn1(w.list, c, prev) }

// appendColumn1 writes a column against the one before it in the same block; prev is nil for the first.
func appendColumn1(dst []byte, c, prev *series.Column) []byte {
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

// readColumns1 reads n column definitions and charges them. builder is scratch.
func readColumns1(r *reader, n int, builder *labels.ScratchBuilder) []series.Column {
	columns := make([]series.Column, 0, n)
	var family series.Family
	var pairs []labels.Label // of the column before
	for i := range n {
		flags := r.byte()
		if flags&^columnKnown1 != 0 || flags&columnKindMask > byte(series.GaugeHistogram) {
			r.failf("column %d has flags %#x", i, flags)
		}
		if flags&columnFamily != 0 {
			family = readFamily1(r)
		}
		switch {
		case flags&columnNames != 0:
			pairs = readLabelPairs(r, pairs[:0])
		case i == 0:
			r.failf("first column has no label names")
		default:
			readLabelValues1(r, pairs)
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

// readLabelValues1 reads label values against those in pairs, which are charged: it allocates no more than they and the
// bytes read.
func readLabelValues1(r *reader, pairs []labels.Label) {
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

func readFamily1(r *reader) series.Family {
	f := series.Family{Name: r.string()}
	f.Type = metricTypes[r.bounded(len(metricTypes), "metric type")]
	f.Help, f.Unit = r.string(), r.string()
	r.charge(len(f.Name) + len(f.Help) + len(f.Unit))
	return f
}
