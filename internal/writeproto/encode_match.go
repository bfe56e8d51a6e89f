package writeproto

import (
	"encoding/binary"
	"math/bits"
)

// Operations of a snappy block: the low bits of their first byte.
const (
	opLiteral = 0
	opCopy1   = 1 // 4 to 11 bytes, up to 2,047 back
	opCopy2   = 2 // 1 to 64 bytes, up to 65,535 back
	opCopy4   = 3 // 1 to 64 bytes, any distance
)

// A glyph is a byte of the records of a template, or stands for one that is not known yet.
type glyph uint32

const (
	timeGlyph   glyph = 1 << 8  // and those behind: the bytes of the time, of which all records have the same
	symbolGlyph glyph = 1 << 16 // and those behind: two for each symbol, the bytes of its place in the table
	valueGlyph  glyph = 1 << 31
)

// refBytes is how many bytes the place of a symbol has in a template, however small it is, maxTemplateRef the largest.
const (
	refBytes       = 2
	maxTemplateRef = 1<<(7*refBytes) - 1
)

// templateMaker makes templates.
type templateMaker struct {
	message  Message
	metadata []metadata // by family
	glyphs   []glyph
	table    [1 << 12]int32 // places, plus one, by hash of the glyphs there
	parts    []part         // since the last value
	trail    copyOp         // right before the last value, whose operations have trailLen bytes; empty if there is none
	trailLen int
	buf      []byte
}

// part is glyphs that are new, or a copy.
type part struct {
	from, to int
	copy     copyOp
}

// makeTemplate makes the template for columns from a column on, for times of so many bytes.
func (m *templateMaker) makeTemplate(x *template, s *source, p pattern, from, timeLen int) {
	m.glyphs = m.glyphs[:0]
	for word, w := range p {
		for ; w != 0; w &= w - 1 {
			c := &s.columns[from+word*64+bits.TrailingZeros64(w)]
			if m.message == V1 {
				m.appendRecord1(s.text[c.at:c.at+c.n], timeLen)
			} else {
				m.appendRecord2(s.ids[c.at:c.at+c.n], &m.metadata[c.family], timeLen)
			}
		}
	}
	*x = template{pattern: p, ops: x.ops[:0], cuts: x.cuts[:0], joined: x.joined[:0], spots: x.spots[:0], size: len(m.glyphs), timeLen: timeLen}
	m.compress(x)
}

// appendRecord1 appends a sample of 1.0.
func (m *templateMaker) appendRecord1(text []byte, timeLen int) {
	m.head(fieldSeries1, len(text)+sampleHead+8+timeLen)
	m.bytes(text...)
	m.sample(timeLen)
}

// appendRecord2 appends a sample of 2.0.
func (m *templateMaker) appendRecord2(ids []uint32, meta *metadata, timeLen int) {
	refs := refBytes * len(ids)
	labels := 1 + uvarintLen(uint64(refs)) + refs
	size := 0 // of the metadata
	if meta.kind != 0 {
		size += 2
	}
	for _, id := range [2]uint32{meta.help, meta.unit} {
		if id != 0 {
			size += 1 + refBytes
		}
	}
	total := labels + sampleHead + 8 + timeLen
	if size > 0 {
		total += 2 + size
	}
	m.head(fieldSeries2, total)
	m.head(fieldRefs2, refs)
	for _, id := range ids {
		m.symbol(id)
	}
	m.sample(timeLen)
	if size == 0 {
		return
	}
	m.bytes(fieldMetadata2<<3|wireBytes, byte(size))
	if meta.kind != 0 {
		m.bytes(fieldMetadataType<<3|wireVarint, meta.kind)
	}
	if meta.help != 0 {
		m.bytes(fieldMetadataHelp<<3 | wireVarint)
		m.symbol(meta.help)
	}
	if meta.unit != 0 {
		m.bytes(fieldMetadataUnit<<3 | wireVarint)
		m.symbol(meta.unit)
	}
}

func (m *templateMaker) bytes(list ...byte) {
	for _, b := range list {
		m.glyphs = append(m.glyphs, glyph(b))
	}
}

// head appends the tag and the size of a field.
func (m *templateMaker) head(field, size int) {
	m.buf = binary.AppendUvarint(appendTag(m.buf[:0], field, wireBytes), uint64(size))
	m.bytes(m.buf...)
}

func (m *templateMaker) symbol(id uint32) {
	for i := range refBytes {
		m.glyphs = append(m.glyphs, symbolGlyph+glyph(id)*refBytes+glyph(i))
	}
}

// sample appends the field of a float.
func (m *templateMaker) sample(timeLen int) {
	m.bytes(fieldSample<<3|wireBytes, byte(sampleHead-2+8+timeLen), fieldSampleValue<<3|wireFixed)
	for range 8 {
		m.glyphs = append(m.glyphs, valueGlyph)
	}
	for i := range timeLen {
		m.glyphs = append(m.glyphs, timeGlyph+glyph(i))
	}
}

// leastMatch is how many glyphs a copy has at least.
const leastMatch = 4

func hashGlyphs(g []glyph) uint32 {
	return uint32((uint64(g[0]) | uint64(g[1])<<16 | uint64(g[2])<<32 | uint64(g[3])<<48) * 0x9e3779b97f4a7c15 >> 52)
}

// compress finds what repeats, and writes the operations of a template.
func (m *templateMaker) compress(x *template) {
	clear(m.table[:])
	m.parts = m.parts[:0]
	g := m.glyphs
	done, back := 0, 0 // what is written, and how far back the last copy went
	value := -1        // where the last value is
	for i := 0; i+leastMatch <= len(g); {
		if g[i] == valueGlyph {
			m.literal(done, i)
			distance := 0
			if value >= 0 {
				distance = i - value
			}
			m.cut(x, distance)
			value, done, i = i, i+8, i+8
			continue
		}
		slot := &m.table[hashGlyphs(g[i:])]
		from, n := int(*slot)-1, 0
		if from >= 0 {
			n = m.common(from, i)
		}
		if back > 0 {
			if k := m.common(i-back, i); k >= n {
				from, n = i-back, k
			}
		}
		*slot = int32(i) + 1
		if n < leastMatch {
			i++
			continue
		}
		for i > done && from > 0 && g[i-1] == g[from-1] {
			i, from, n = i-1, from-1, n+1
		}
		m.literal(done, i)
		back = i - from
		m.parts = append(m.parts, part{copy: copyOp{uint32(back), uint32(n)}})
		for k := i + 1; k < i+n && k+leastMatch <= len(g); k++ {
			m.table[hashGlyphs(g[k:])] = int32(k) + 1
		}
		i += n
		done = i
	}
	m.literal(done, len(g))
	m.cut(x, 0)
}

func (m *templateMaker) literal(from, to int) {
	if from < to {
		m.parts = append(m.parts, part{from: from, to: to})
	}
}

// cut writes what is before a value, or at the end.
func (m *templateMaker) cut(x *template, distance int) {
	var lead, trail copyOp
	leadLen, trailLen := 0, 0
	for i, p := range m.parts {
		before := len(x.ops)
		if p.copy.n == 0 {
			m.writeLiteral(x, p.from, p.to)
			continue
		}
		x.ops = appendCopy(x.ops, int(p.copy.distance), int(p.copy.n))
		if i == 0 {
			lead, leadLen = p.copy, len(x.ops)-before
		} else if i == len(m.parts)-1 {
			trail, trailLen = p.copy, len(x.ops)-before
		}
	}
	m.join(x, lead, leadLen)
	x.cuts = append(x.cuts, cut{at: uint32(len(x.ops)), distance: uint32(distance)})
	m.trail, m.trailLen, m.parts = trail, trailLen, m.parts[:0]
}

// join makes one copy of the last value, for when it repeats the one before, and those beside it that go as far back.
func (m *templateMaker) join(x *template, lead copyOp, leadLen int) {
	if len(x.cuts) == 0 {
		return
	}
	c := &x.cuts[len(x.cuts)-1]
	joined := copyOp{c.distance, 8}
	if m.trail.distance == c.distance && m.trailLen < 1<<8 {
		joined.n, c.trail = joined.n+m.trail.n, uint8(m.trailLen)
	}
	if lead.distance == c.distance && leadLen < 1<<8 {
		joined.n, c.lead = joined.n+lead.n, uint8(leadLen)
	}
	if c.distance > 0 && joined.n < 1<<12 {
		before := len(x.joined)
		x.joined = appendCopy(x.joined, int(joined.distance), int(joined.n))
		c.joined, c.size = uint32(before), uint8(len(x.joined)-before)
	}
}

// common is how many glyphs at two places are the same and known.
func (m *templateMaker) common(a, b int) (n int) {
	for b+n < len(m.glyphs) && m.glyphs[a+n] == m.glyphs[b+n] && m.glyphs[b+n] != valueGlyph {
		n++
	}
	return n
}

// writeLiteral writes glyphs that are new. What they stand for is filled in when the template is used: the time, which
// only the first record does not copy, and symbols.
func (m *templateMaker) writeLiteral(x *template, from, to int) {
	x.ops = appendLiteralHead(x.ops, to-from)
	for _, b := range m.glyphs[from:to] {
		switch {
		case b == timeGlyph:
			x.spots = append(x.spots, spot{uint32(len(x.ops)), timeSpot})
		case b >= symbolGlyph && (b-symbolGlyph)%refBytes == 0:
			x.spots = append(x.spots, spot{uint32(len(x.ops)), uint32(b-symbolGlyph) / refBytes})
		}
		x.ops = append(x.ops, byte(b))
	}
}

// appendLiteralHead appends what stands before n new bytes.
func appendLiteralHead(dst []byte, n int) []byte {
	switch {
	case n <= 60:
		return append(dst, byte(n-1)<<2|opLiteral)
	case n <= 1<<8:
		return append(dst, 60<<2|opLiteral, byte(n-1))
	case n <= 1<<16:
		return append(dst, 61<<2|opLiteral, byte(n-1), byte((n-1)>>8))
	}
	return binary.LittleEndian.AppendUint32(append(dst, 63<<2|opLiteral), uint32(n-1))
}

// appendCopy appends the operations for n bytes that stand so far back.
func appendCopy(dst []byte, d, n int) []byte {
	if d >= 1<<16 {
		for ; n > 0; n -= 64 {
			dst = binary.LittleEndian.AppendUint32(append(dst, byte(min(n, 64)-1)<<2|opCopy4), uint32(d))
		}
		return dst
	}
	for n >= 68 {
		dst = append(dst, 63<<2|opCopy2, byte(d), byte(d>>8))
		n -= 64
	}
	if n > 64 { // so that enough is left for a short one
		dst = append(dst, 59<<2|opCopy2, byte(d), byte(d>>8))
		n -= 60
	}
	if n >= 12 || n < 4 || d >= 1<<11 {
		return append(dst, byte(n-1)<<2|opCopy2, byte(d), byte(d>>8))
	}
	return append(dst, byte(d>>8)<<5|byte(n-4)<<2|opCopy1, byte(d))
}
