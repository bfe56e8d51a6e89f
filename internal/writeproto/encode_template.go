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
	next    pattern // those that came instead, the last time; it is made anew when they come again

	ops     []byte // without the values
	cuts    []cut  // one for each value, and one for the end
	joined  []byte // copies, see cut
	spots   []spot
	size    int // before compression
	timeLen int // of the time of a row
}

// pattern has the columns of a template that are there, as bits.
type pattern [templateColumns / 64]uint64

// cut is where in ops a value comes. If it repeats the last one, a copy in joined, from an index on and of so many bytes,
// stands for it and for what is beside it in ops: bytes at the end of what is before, and at the beginning of what follows.
type cut struct {
	at       uint32
	distance uint32 // from the last value, before compression; 0: there is none
	joined   uint32
	size     uint8 // 0: there is no such copy
	trail    uint8
	lead     uint8
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

// prepare sees to it that a template is there. It is made when columns come for the second time in a row.
func (e *Encoder) prepare(s *source, x *template, p pattern, from int) bool {
	if x.pattern == p && x.timeLen == len(e.time) {
		x.next = pattern{}
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
func (x *template) bytes() int {
	return len(x.ops) + len(x.joined) + 16*len(x.cuts) + 8*len(x.spots)
}

// useTemplate adds the values of a row from i on.
func (e *Encoder) useTemplate(x *template, row *series.Row, p pattern, from, i int) {
	ops, spots, cuts := e.ops, x.spots, x.cuts
	var values valueWriter
	done := 0
	for word, bit := range p {
		for ; bit != 0; bit &= bit - 1 {
			column := from + word*64 + bits.TrailingZeros64(bit)
			if row.Columns == nil {
				i = column
			} else {
				for int(row.Columns[i]) != column { // what is between is no float, or dropped
					i++
				}
			}
			c := &cuts[0]
			cuts = cuts[1:]
			ops = append(ops, x.ops[done:c.at]...)
			if len(spots) > 0 && spots[0].at < c.at {
				spots = e.fill(ops, len(ops)-int(c.at), spots, c.at)
			}
			done = int(c.at)
			v := math.Float64bits(row.Values[i])
			if v == values.last && c.size > 0 {
				ops = append(ops[:len(ops)-int(c.trail)], x.joined[c.joined:][:c.size]...)
				done += int(c.lead)
				values.again(c.distance)
			} else {
				ops = values.append(ops, v, int(c.distance))
			}
		}
	}
	ops = append(ops, x.ops[done:]...)
	e.fill(ops, len(ops)-len(x.ops), spots, math.MaxUint32)
	e.ops, e.size = ops, e.size+x.size
}

// fill writes what stands at the spots before an end, so much further on than in the template, and returns the others.
func (e *Encoder) fill(ops []byte, further int, spots []spot, end uint32) []spot {
	for ; len(spots) > 0 && spots[0].at < end; spots = spots[1:] {
		b := ops[int(spots[0].at)+further:]
		if spots[0].id == timeSpot {
			copy(b, e.time)
			continue
		}
		ref := e.cache.symbols.ref(spots[0].id)
		b[0], b[1] = byte(ref)|0x80, byte(ref>>7) // a byte more than it needs, if it is small
	}
	return spots
}

// valueWriter writes values with what they have in common with those before in the template.
type valueWriter struct {
	last uint64
	at   int // of the last value, before compression
	// The last value with zeros in front, how many, and where: whole numbers have many.
	zeros, zerosAt int
}

// again notes that the last value came again.
func (w *valueWriter) again(distance uint32) { w.at += int(distance) }

// append appends the operations for a value so far behind the last one.
func (w *valueWriter) append(dst []byte, v uint64, distance int) []byte {
	w.at += distance
	common, back := 0, distance
	if distance > 0 {
		common = bits.TrailingZeros64(v^w.last) / 8
	}
	zeros := bits.TrailingZeros64(v) / 8
	if n := min(zeros, w.zeros); n > common {
		common, back = n, w.at-w.zerosAt
	}
	w.last = v
	if zeros >= leastMatch && (zeros >= w.zeros || w.at-w.zerosAt >= 1<<11) {
		w.zeros, w.zerosAt = zeros, w.at
	}
	if common < leastMatch || back >= 1<<11 {
		return binary.LittleEndian.AppendUint64(append(dst, 7<<2|opLiteral), v)
	}
	dst = append(dst, byte(back>>8)<<5|byte(common-4)<<2|opCopy1, byte(back))
	if common == 8 {
		return dst
	}
	dst = append(dst, byte(7-common)<<2|opLiteral)
	return binary.LittleEndian.AppendUint64(dst, v>>(8*common))[:len(dst)+8-common]
}
