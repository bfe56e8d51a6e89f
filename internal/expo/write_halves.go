package expo

import (
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

// Where many sources have the same series, name and labels of a line consist of two halves: the labels of its source,
// and what the series has of its own. Each is rendered once, by Text.RenderBase and Text.RenderOwn, and Own.Append puts
// them together. OpenMetrics writes both the same way. Their memory is used again by the next rendering.

// Base is the rendered labels of a source.
type Base struct {
	text []byte  // name="value", one behind the other
	ends []int32 // of each label in text
}

// Own is the rendered name and labels of a series, with places for the labels of its source between them.
type Own struct {
	text []byte
	gaps []gap
}

// Len is the length of the text.
func (b *Base) Len() int { return len(b.text) }

// Len is the length of the text.
func (o *Own) Len() int { return len(o.text) }

// gap is where labels of the source stand in the text of a series.
type gap struct {
	at          int32 // the end of the text before it
	first, last int32 // the labels, last not included
}

// RenderBase renders the labels of a source.
func (t Text) RenderBase(b *Base, ls []labels.Label) {
	b.text, b.ends = b.text[:0], b.ends[:0]
	for i := range ls {
		b.text = t.appendLabel(b.text, ls[i])
		b.ends = append(b.ends, int32(len(b.text)))
	}
}

// RenderOwn renders a series of a family, whose name is escaped, with a suffix, which is not. Its own labels, of which
// __name__ is passed over, stand in the order of their names among those of the source. Of these only the names matter,
// and they have to be those of the Base that it is appended with. An own label replaces one of the source, and an empty
// one removes it. Behind all of them come the labels of extra that are not there yet, even empty ones. Everything has
// to be sorted by name.
func (t Text) RenderOwn(o *Own, family, suffix string, own labels.Labels, base, extra []labels.Label) {
	o.text, o.gaps = o.text[:0], o.gaps[:0]
	if t.outside(family) {
		o.text = append(t.appendName(o.text, family, suffix), '{')
	} else {
		o.text = append(o.text, '{')
		o.text = append(t.appendName(o.text, family, suffix), ',')
	}
	opening := len(o.text)
	i := 0
	until := func(n int) {
		if i < n {
			o.gaps = append(o.gaps, gap{at: int32(len(o.text)), first: int32(i), last: int32(n)})
		}
		i = n
	}
	own.Range(func(l labels.Label) {
		if l.Name == model.MetricNameLabel {
			return
		}
		n := i
		for n < len(base) && base[n].Name < l.Name {
			n++
		}
		until(n)
		if i < len(base) && base[i].Name == l.Name {
			i++
		}
		if l.Value != "" {
			o.text = t.appendLabel(o.text, l)
		}
	})
	until(len(base))
	for _, l := range extra {
		if !has(own, base, l.Name) {
			o.text = t.appendLabel(o.text, l)
		}
	}
	if len(o.gaps) == 0 && len(o.text) == opening && o.text[opening-1] == '{' {
		o.text = o.text[:opening-1] // no labels, no braces
	}
}

// has reports whether a label is there when own stands over base.
func has(own labels.Labels, base []labels.Label, name string) bool {
	if own.Has(name) {
		return own.Get(name) != ""
	}
	for i := range base {
		if base[i].Name == name {
			return true
		}
	}
	return false
}

// Append appends name and labels of the series that o is in the source with the labels b.
func (o *Own) Append(dst []byte, b *Base) []byte {
	from := int32(0)
	for i := range o.gaps {
		g := &o.gaps[i]
		dst = append(dst, o.text[from:g.at]...)
		from = g.at
		start := int32(0)
		if g.first > 0 {
			start = b.ends[g.first-1]
		}
		dst = append(dst, b.text[start:b.ends[g.last-1]]...)
	}
	dst = append(dst, o.text[from:]...)
	if dst[len(dst)-1] == ',' {
		dst[len(dst)-1] = '}'
	}
	return dst
}
