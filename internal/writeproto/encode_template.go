package writeproto

import (
	"encoding/binary"
	"math"
	"math/bits"

	"github.com/thalweg/thalweg/internal/series"
)

// templateColumns is of how many columns a template is made, if all are there.
const templateColumns = 256

// leastTemplate is how many samples are worth a template.
const leastTemplate = 16

// template is how the samples of some columns of a source look in a compressed request: all but the values, the time and
// the places of symbols, which have the same sizes in every row. What stands before, in the request, it does not refer to.
type template struct {
	pattern pattern // the columns that it has
	next    pattern // those that came last instead; it is made anew when they come again

	ops  []byte  // without the values
	time timeAt  // where the time of the row is written
	size int     // before compression
	cuts []cut   // one for each value
	refs []refAt // of 2.0
}

// pattern has the columns of a template that are there, as bits.
type pattern [templateColumns / 64]uint64

// cut is where in ops a value comes, and how far back, before compression, the last one is.
type cut struct{ at, distance uint32 }

// refAt is where in ops the place of a symbol is written.
type refAt struct{ at, id uint32 }

// timeAt is where in ops the time stands, and how many bytes it has.
type timeAt struct{ at, n int }

// addTemplates adds a row of floats, by templates as far as they are there.
func (e *Encoder) addTemplates(s *source, row *series.Row) {
	n := row.Schema.Len()
	for i, from := 0, 0; from < n; from += templateColumns {
		// The values from i on, up to end, are those of the columns from from on.
		end := min(from+templateColumns, n)
		if i = from; row.Columns != nil {
			i, end = row.Place(uint32(from)), row.Place(uint32(end))
		}
		if i == end {
			continue
		}
		p := patternOf(s, row, from, i, end)
		x := &s.templates[from/templateColumns]
		count := p.count()
		if count < leastTemplate || count > e.options.MaxSamples || !e.prepare(s, x, p, from) || len(x.refs) > maxTemplateRef/2 {
			e.addRange(s, row, i, end)
			continue
		}
		if e.request.Samples+e.request.Histograms+e.request.Exemplars+count > e.options.MaxSamples ||
			e.size+len(e.raw)+len(e.cache.symbols.section)+x.size > e.options.MaxBytes || e.cache.symbols.n+uint32(len(x.refs)) > maxTemplateRef {
			e.close()
		}
		e.packRaw()
		e.useTemplate(x, row, p, from, i)
		e.request.Samples += count
		e.row.Samples += count
	}
}

// addRange adds the values from i up to end one by one.
func (e *Encoder) addRange(s *source, row *series.Row, i, end int) {
	for ; i < end; i++ {
		c := i
		if row.Columns != nil {
			c = int(row.Columns[i])
		} else if !row.Has(i) {
			continue
		}
		if s.columns[c].n > 0 {
			e.putFloat(s, &s.columns[c], row.Values[i])
		}
	}
}

// patternOf returns which columns of a template a row has, of those that are not dropped.
func patternOf(s *source, row *series.Row, from, i, end int) (p pattern) {
	if row.Columns != nil {
		for _, c := range row.Columns[i:end] {
			series.SetBit(p[:], int(c)-from)
		}
	} else {
		for k := range (end - from + 63) / 64 {
			if p[k] = ^uint64(0); row.Present != nil {
				p[k] = row.Present[from/64+k]
			}
		}
		if rest := (end - from) & 63; rest != 0 {
			p[(end-from)/64] &= 1<<rest - 1
		}
	}
	for k := range p {
		if at := from/64 + k; at < len(s.kept) {
			p[k] &= s.kept[at]
		}
	}
	return p
}

func (p *pattern) count() (n int) {
	for _, w := range p {
		n += bits.OnesCount64(w)
	}
	return n
}

// prepare sees to it that a template is there. It is made when columns come for the second time.
func (e *Encoder) prepare(s *source, x *template, p pattern, from int) bool {
	if x.pattern == p && x.time.n == len(e.time) {
		return true
	}
	if x.next != p {
		x.next = p
		return false
	}
	before := x.bytes()
	e.maker.message, e.maker.metadata = e.options.Message, e.cache.metadata
	e.maker.makeTemplate(x, s, p, from, len(e.time))
	e.cache.charge(s, x.bytes()-before)
	return true
}

// bytes is what is counted for a template.
func (x *template) bytes() int { return len(x.ops) + 8*len(x.cuts) + 8*len(x.refs) }

// useTemplate adds the values of a row from i on.
func (e *Encoder) useTemplate(x *template, row *series.Row, p pattern, from, i int) {
	ops, start := e.ops, len(e.ops)
	done, cuts, refs := 0, x.cuts, x.refs
	var values valueWriter
	for word, w := range p {
		for ; w != 0; w &= w - 1 {
			c := from + word*64 + bits.TrailingZeros64(w)
			if row.Columns == nil {
				i = c
			} else {
				for int(row.Columns[i]) != c { // what is between is dropped
					i++
				}
			}
			to := int(cuts[0].at)
			ops = append(ops, x.ops[done:to]...)
			for len(refs) > 0 && int(refs[0].at) < to {
				putRef(ops[len(ops)-to+int(refs[0].at):], e.cache.symbols.ref(refs[0].id))
				refs = refs[1:]
			}
			ops = values.append(ops, math.Float64bits(row.Values[i]), int(cuts[0].distance))
			done, cuts = to, cuts[1:]
		}
	}
	ops = append(ops, x.ops[done:]...)
	for _, r := range refs {
		putRef(ops[len(ops)-len(x.ops)+int(r.at):], e.cache.symbols.ref(r.id))
	}
	copy(ops[start+x.time.at+literalValue:], e.time) // it stands behind the first value
	e.ops, e.size = ops, e.size+x.size
}

// putRef writes the place of a symbol, with a byte more than it needs if it is small.
func putRef(b []byte, ref uint32) { b[0], b[1] = byte(ref)|0x80, byte(ref>>7) }

// literalValue is how long the operation is for a value that has nothing in common with another one, as the first.
const literalValue = 1 + 8

// valueWriter writes values with what they have in common with those before in the template.
type valueWriter struct {
	last uint64
	at   int // of the last value, before compression
	// The last value with zeros in front, and how many: whole numbers have many.
	zeros, zerosAt int
}

// append appends the operations for a value so far behind the last one.
func (w *valueWriter) append(dst []byte, v uint64, distance int) []byte {
	w.at += distance
	common, back := bits.TrailingZeros64(v^w.last)/8, distance
	zeros := bits.TrailingZeros64(v) / 8
	if n := min(zeros, w.zeros); n > common {
		common, back = n, w.at-w.zerosAt
	}
	if distance == 0 {
		common = 0
	}
	w.last = v
	if zeros >= leastMatch && (zeros >= w.zeros || w.at-w.zerosAt >= 1<<11) {
		w.zeros, w.zerosAt = zeros, w.at
	}
	switch {
	case common < leastMatch || back >= 1<<16:
		return binary.LittleEndian.AppendUint64(append(dst, 7<<2|opLiteral), v)
	case back >= 1<<11:
		dst = append(dst, byte(common-1)<<2|opCopy2, byte(back), byte(back>>8))
	default:
		dst = append(dst, byte(back>>8)<<5|byte(common-4)<<2|opCopy1, byte(back))
	}
	if common == 8 {
		return dst
	}
	dst = append(dst, byte(7-common)<<2|opLiteral)
	return binary.LittleEndian.AppendUint64(dst, v>>(8*common))[:len(dst)+8-common]
}
