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

	ops     []byte // without the values, and the copies beside them
	cuts    []cut  // one for each value, and one for the end
	spots   []spot
	size    int // before compression
	timeLen int // of the time of a row
}

// pattern has the columns of a template that are there, as bits.
type pattern [templateColumns / 64]uint64

// cut is what comes before a value: a copy, ops up to at, and another copy. The copies may be empty.
type cut struct {
	at          uint32
	distance    uint32 // from the last value, before compression; 0: there is none
	lead, trail copyOp
}

// copyOp is n bytes that stand so far back.
type copyOp struct{ distance, n uint32 }

// spot is where in ops the place of a symbol is written, or the time.
type spot struct{ at, id uint32 }

const timeSpot = math.MaxUint32

// addRow adds the samples of a row, by templates as far as they are there.
func (e *Encoder) addRow(s *source, row *series.Row) {
	left := e.extras(s, row)
	n := row.Schema.Len()
	for i, from := 0, 0; from < n; from += templateColumns {
		// The values from i on, up to end, are those of the columns from from on.
		end := min(from+templateColumns, n)
		special := left.within(uint32(from), uint32(end))
		if i = from; row.Columns != nil {
			i, end = row.Place(uint32(from)), row.Place(uint32(end))
		}
		if i == end {
			continue
		}
		p := patternOf(s, row, from, i, end)
		x, count := &s.templates[from/templateColumns], p.count()
		if special || count < leastTemplate || count > e.options.MaxSamples || !e.prepare(s, x, p, from) {
			e.addRange(s, row, &left, i, end)
			continue
		}
		if e.samples()+count > e.options.MaxSamples || e.bytes()+x.size > e.options.MaxBytes ||
			e.cache.symbols.n+uint32(len(x.spots)) > maxTemplateRef {
			e.close()
		}
		e.packRaw()
		e.useTemplate(x, row, p, from, i)
		e.request.Samples += count
		e.row.Samples += count
	}
}

// patternOf returns which columns of a template a row has, of the floats that are not dropped.
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
		if at := from/64 + k; at < len(s.floats) {
			p[k] &= s.floats[at]
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
	if x.pattern == p && x.timeLen == len(e.time) {
		return len(x.spots) <= maxTemplateRef/2
	}
	if x.next != p {
		x.next = p
		return false
	}
	before := x.bytes()
	e.maker.message, e.maker.metadata = e.options.Message, e.cache.metadata
	e.maker.makeTemplate(x, s, p, from, len(e.time))
	e.cache.charge(s, x.bytes()-before)
	return len(x.spots) <= maxTemplateRef/2
}

// bytes is what is counted for a template.
func (x *template) bytes() int { return len(x.ops) + 24*len(x.cuts) + 8*len(x.spots) }

// useTemplate adds the values of a row from i on.
func (e *Encoder) useTemplate(x *template, row *series.Row, p pattern, from, i int) {
	w := templateWriter{ops: e.ops}
	done, cuts, spots := 0, x.cuts, x.spots
	part := func() {
		c := &cuts[0]
		w.copy(c.lead)
		if to := int(c.at); to > done {
			w.endCopy()
			w.ops = append(w.ops, x.ops[done:to]...)
			for ; len(spots) > 0 && int(spots[0].at) < to; spots = spots[1:] {
				e.fill(w.ops[len(w.ops)-to+int(spots[0].at):], spots[0].id)
			}
			done = to
		}
		w.copy(c.trail)
		cuts = cuts[1:]
	}
	for word, bit := range p {
		for ; bit != 0; bit &= bit - 1 {
			c := from + word*64 + bits.TrailingZeros64(bit)
			if row.Columns == nil {
				i = c
			} else {
				for int(row.Columns[i]) != c { // what is between is no float, or dropped
					i++
				}
			}
			distance := int(cuts[0].distance)
			part()
			w.value(math.Float64bits(row.Values[i]), distance, cuts[0].lead)
		}
	}
	part()
	w.endCopy()
	e.ops, e.size = w.ops, e.size+x.size
}

// fill writes what stands at a spot.
func (e *Encoder) fill(b []byte, id uint32) {
	if id == timeSpot {
		copy(b, e.time)
		return
	}
	ref := e.cache.symbols.ref(id)
	b[0], b[1] = byte(ref)|0x80, byte(ref>>7) // a byte more than it needs, if it is small
}

// templateWriter writes values with what they have in common with others of the template.
type templateWriter struct {
	ops  []byte
	back copyOp // the copy under construction, which is not in ops yet
	last uint64
	at   int // of the last value, before compression
	// The last value with zeros in front, how many, and where: whole numbers have many.
	zeros, zerosAt int
}

// copy appends a copy. It is one with that before if it goes as far back.
func (w *templateWriter) copy(c copyOp) {
	switch {
	case c.n == 0:
	case w.back.n > 0 && w.back.distance == c.distance:
		w.back.n += c.n
	default:
		w.endCopy()
		w.back = c
	}
}

func (w *templateWriter) endCopy() {
	if w.back.n > 0 {
		w.ops = appendCopy(w.ops, int(w.back.distance), int(w.back.n))
		w.back.n = 0
	}
}

// value appends a value so far behind the last one, before a copy.
func (w *templateWriter) value(v uint64, distance int, next copyOp) {
	w.at += distance
	low, high := 0, 0
	if distance > 0 {
		x := v ^ w.last
		low, high = bits.TrailingZeros64(x)/8, bits.LeadingZeros64(x)/8
	}
	w.last = v
	like := func(n int) copyOp { return copyOp{uint32(distance), uint32(n)} }
	if low < leastMatch && (w.back.n == 0 || int(w.back.distance) != distance) {
		low = 0 // it would be a copy of its own
	}
	zeros, back := bits.TrailingZeros64(v)/8, w.at-w.zerosAt
	if n := min(zeros, w.zeros); n-2 > low && back < 1<<11 {
		low = n
		w.copy(copyOp{uint32(back), uint32(n)})
	} else {
		w.copy(like(low))
	}
	if zeros >= leastMatch && (zeros >= w.zeros || back >= 1<<11) {
		w.zeros, w.zerosAt = zeros, w.at
	}
	if low == 8 {
		return
	}
	w.endCopy()
	if high = min(high, 8-low); next.n == 0 || int(next.distance) != distance {
		high = 0
	}
	if n := 8 - low - high; n > 0 {
		w.ops = append(w.ops, byte(n-1)<<2|opLiteral)
		w.ops = binary.LittleEndian.AppendUint64(w.ops, v>>(8*low))[:len(w.ops)+n]
	}
	w.copy(like(high))
}
