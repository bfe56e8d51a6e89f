package frame

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// The lists of a schema block (docs/frame.md, section 4.2): what is alike stands together, so that it compresses.
const (
	listHelp = iota
	listUnits
	listFamilies
	listValues  // of labels
	listNames   // of labels
	listNumbers // how many labels there are, how much of values is cut
	listFlags   // a byte a column

	columnLists
)

// columnLister writes the columns of a schema block.
type columnLister struct {
	lists          [columnLists][]byte
	labels, before []labels.Label // of the column that was added last, and of the one before it
}

func (w *columnLister) reset() {
	for i := range w.lists {
		w.lists[i] = w.lists[i][:0]
	}
}

func (w *columnLister) size() (n int) {
	for i := range w.lists {
		n += len(w.lists[i])
	}
	return n
}

func (w *columnLister) append(dst []byte) []byte {
	for i := range w.lists {
		dst = append(binary.AppendUvarint(dst, uint64(len(w.lists[i]))), w.lists[i]...)
	}
	return dst
}

func (w *columnLister) text(list int, s string) { w.lists[list] = appendText(w.lists[list], s) }

func (w *columnLister) number(n int) {
	w.lists[listNumbers] = binary.AppendUvarint(w.lists[listNumbers], uint64(n))
}

func (w *columnLister) add(c, prev *series.Column) {
	flags := byte(c.Kind)
	f := &c.Family
	if prev == nil && *f != (series.Family{}) || prev != nil && *f != prev.Family {
		flags |= columnFamily | metricTypeNumber(f.Type)<<columnType
		w.text(listFamilies, f.Name)
		w.text(listHelp, f.Help)
		w.text(listUnits, f.Unit)
	}
	w.before, w.labels = w.labels, w.before[:0]
	c.Labels.Range(func(l labels.Label) { w.labels = append(w.labels, l) })
	if prev == nil || !slices.EqualFunc(w.labels, w.before, func(a, b labels.Label) bool { return a.Name == b.Name }) {
		flags |= columnNames
		w.number(len(w.labels))
		for i := range w.labels {
			w.text(listNames, w.labels[i].Name)
		}
	}
	w.lists[listFlags] = append(w.lists[listFlags], flags)
	for i := range w.labels {
		l, base := &w.labels[i], ""
		if l.Name == model.MetricNameLabel {
			base = f.Name
		} else if flags&columnNames == 0 {
			base = w.before[i].Value
		}
		shared := commonPrefix(l.Value, base)
		w.number(len(base) - shared)
		w.text(listValues, l.Value[shared:])
	}
}

// readColumns reads n columns and charges them. builder is scratch.
func readColumns(r *reader, n int, builder *labels.ScratchBuilder) []series.Column {
	var lists [columnLists]reader
	for i := range lists {
		lists[i] = reader{b: r.bytes(), room: r.room}
	}
	if r.err == nil && len(lists[listFlags].b) != n {
		r.failf("%d flags of %d columns", len(lists[listFlags].b), n)
	}
	if r.err != nil {
		return nil
	}
	columns := make([]series.Column, 0, n)
	var family series.Family
	var pairs []labels.Label // of the column before
	for i, flags := range lists[listFlags].b {
		if err := readColumn(&lists, flags, i == 0, &family, &pairs); err != nil {
			r.failf("column %d: %w", i, err)
			return nil
		}
		size := labelsCost
		for _, l := range pairs {
			size += labelsCost + len(l.Name) + len(l.Value)
		}
		if r.charge(size); r.err != nil { // before it is built: a few bytes may repeat megabytes of the column before
			return nil
		}
		columns = append(columns, series.Column{
			Labels: makeLabels(builder, pairs), Family: family, Kind: series.Kind(flags & columnKindMask),
		})
	}
	lists[listFlags].b = nil
	for i := range lists {
		if err := lists[i].end(); err != nil {
			r.failf("list %d of columns: %w", i, err)
		}
	}
	return columns
}

// readColumn reads a column against the one before it, whose family and labels are given.
func readColumn(lists *[columnLists]reader, flags byte, first bool, family *series.Family, pairs *[]labels.Label) error {
	if flags&columnKindMask > byte(series.GaugeHistogram) {
		return fmt.Errorf("flags %#x", flags)
	}
	if typ := int(flags >> columnType); flags&columnFamily != 0 {
		names, help, units := &lists[listFamilies], &lists[listHelp], &lists[listUnits]
		if typ >= len(metricTypes) {
			return fmt.Errorf("metric type %d", typ)
		}
		*family = series.Family{Name: names.text(), Type: metricTypes[typ], Help: help.text(), Unit: units.text()}
		names.charge(len(family.Name) + len(family.Help) + len(family.Unit))
		if err := cmp.Or(names.err, help.err, units.err); err != nil {
			return err
		}
	} else if typ != 0 {
		return fmt.Errorf("flags %#x", flags)
	}
	numbers, names, values := &lists[listNumbers], &lists[listNames], &lists[listValues]
	if flags&columnNames != 0 {
		*pairs = (*pairs)[:0]
		for range numbers.count(1) {
			l := labels.Label{Name: names.text()}
			switch at := len(*pairs); {
			case names.err != nil:
				return names.err
			case len(l.Name) > maxLabel:
				return fmt.Errorf("label name of %d bytes", len(l.Name))
			case at > 0 && l.Name <= (*pairs)[at-1].Name:
				return fmt.Errorf("label %q after %q", l.Name, (*pairs)[at-1].Name)
			}
			*pairs = append(*pairs, l)
		}
	} else if first {
		return errors.New("first column has no label names")
	}
	for i := range *pairs {
		l := &(*pairs)[i]
		base := l.Value
		if l.Name == model.MetricNameLabel {
			base = family.Name
		}
		shared := len(base) - numbers.bounded(len(base)+1, "cut of a value")
		rest := values.text()
		if err := cmp.Or(numbers.err, values.err); err != nil {
			return err
		}
		if shared+len(rest) > maxLabel {
			return fmt.Errorf("label %q of %d bytes", l.Name, shared+len(rest))
		}
		if len(rest) > 0 || shared < len(base) || l.Name == model.MetricNameLabel {
			l.Value = base[:shared] + rest
		}
	}
	return nil
}

// A text ends with a byte 0, so that texts compress better than behind their lengths; textEscape stands before what
// would be one.
const (
	textEnd    = 0
	textEscape = 1
)

func appendText(dst []byte, s string) []byte {
	for i := range len(s) {
		if s[i] <= textEscape {
			return appendEscaped(dst, s)
		}
	}
	return append(append(dst, s...), textEnd)
}

func appendEscaped(dst []byte, s string) []byte {
	for i := range len(s) {
		if s[i] <= textEscape {
			dst = append(dst, textEscape, textEscape+s[i])
		} else {
			dst = append(dst, s[i])
		}
	}
	return append(dst, textEnd)
}

func (r *reader) text() string {
	end := bytes.IndexByte(r.b, textEnd)
	if end < 0 {
		r.fail(errTruncated)
		return ""
	}
	b := r.b[:end]
	r.b = r.b[end+1:]
	if bytes.IndexByte(b, textEscape) < 0 {
		return string(b)
	}
	var s []byte
	for i := 0; i < len(b); i++ {
		if b[i] != textEscape {
			s = append(s, b[i])
			continue
		}
		if i++; i == len(b) || b[i] != textEscape && b[i] != textEscape+textEscape {
			r.failf("escape in a text")
			return ""
		}
		s = append(s, b[i]-textEscape)
	}
	return string(s)
}
