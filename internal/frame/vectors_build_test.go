package frame_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/bits"
	"slices"

	"github.com/thalweg/thalweg/internal/frame"
)

// This file makes the vectors of version 2 by hand, from docs/frame.md and without the encoder. Where the bytes are
// those of version 1 it uses what makes them.

// bitString is bits in the order in which they are written.
type bitString []bool

// low is the lower n bits of v, the least significant first.
func low(v uint64, n int) (b bitString) {
	for i := range n {
		b = append(b, v>>i&1 == 1)
	}
	return b
}

// number is section 5.2.
func number(u uint64, k int) bitString {
	ones, first := 0, uint64(0)
	for n := 0; ; ones++ {
		n = max(ones-2, 0)
		first = uint64(min(ones, 2)) + 1<<n - 1
		if ones == 31 {
			return slices.Concat(low(1<<31-1, 31), low(u, 64))
		}
		if (u>>k)-first < 1<<n {
			return slices.Concat(low(1<<ones-1, ones+1), low(u-first<<k, n+k))
		}
	}
}

func packed(b bitString) []byte {
	out := make([]byte, (len(b)+7)/8)
	for i, one := range b {
		if one {
			out[i/8] |= 1 << (i % 8)
		}
	}
	return out
}

// Ways of version 2.
const (
	vSame = iota
	vCode
	vNear
	vLike
	vMaybe
	vMaybeNear
	vSet
	vScale
)

// tokens2 makes the tokens of a block: pairs of a gap and a way behind it, and the last gap.
func tokens2(last int, pairs ...[3]int) bitString {
	mean, next := int64(8*16), [8]int{vCode}
	var b bitString
	gap := func(n int) {
		b = append(b, number(uint64(n), bits.Len64(uint64(mean)>>5))...)
		mean += (int64(n)*16 - mean) >> 2
	}
	for _, p := range pairs {
		gap(p[0])
		if from, to := p[1], p[2]; next[from] == to {
			b = append(b, false)
		} else {
			next[from] = to
			b = slices.Concat(b, low(1, 1), low(uint64(to), 3))
		}
	}
	gap(last)
	return b
}

// expectation is a column as section 5.1 tells it.
type expectation struct {
	trend, spread int64
	age           int
}

func set(scaled int64) expectation {
	return expectation{spread: 16 << (bits.Len64(uint64(scaled)<<1^uint64(scaled>>63)) / 2)}
}

// code is the number for a difference.
func (m *expectation) code(d int64) bitString {
	r := d - (m.trend+8)>>4
	u := uint64(r)<<1 ^ uint64(r>>63)
	b := number(u, bits.Len64(uint64(m.spread)>>5))
	m.step(d, int64(min(u, 1<<54)))
	return b
}

func (m *expectation) step(d, u int64) {
	m.trend += (d*16 - m.trend) >> m.age
	m.spread += (u*16 - m.spread) >> min(m.age, 1)
	m.age = min(m.age+1, 2)
}

// near is the number of representable numbers between a value and its integer.
func near(ulps int64) bitString {
	u := uint64(ulps)<<1 ^ uint64(ulps>>63)
	n := bits.Len64(u)
	return slices.Concat(number(uint64(n), 0), low(u, max(n-1, 0)))
}

// part is a block with what it has behind all blocks.
type part struct{ block, bits []byte }

func plain(block []byte) part { return part{block: block} }

// newSchema is the flag of rows that name their schema.
const newSchema = 128

// row2 is a block of a row that names its schema: source and dt are those that the format writes, against what is
// expected; fields come before the size of the tokens.
func row2(source, schema, dt int, flags byte, tokens, bits bitString, sets []byte, before ...any) part {
	return rowPart(tokens, bits, sets, signed(source), flags|newSchema, schema, signed(dt), enc(before...))
}

// next2 is a block of a row of the source, and of the schema, that the row before it has.
func next2(dt int, flags byte, tokens, bits bitString, sets []byte, before ...any) part {
	return rowPart(tokens, bits, sets, signed(-1), flags, signed(dt), enc(before...))
}

// rest2 is a block that continues the row before it.
func rest2(flags byte, tokens, bits bitString, sets []byte, before ...any) part {
	return rowPart(tokens, bits, sets, signed(-1), flags, enc(before...))
}

func rowPart(tokens, bits bitString, sets []byte, head ...any) part {
	t := packed(tokens)
	return part{block(3, enc(head...), len(t), sets), append(t, packed(bits)...)}
}

// with appends further fields to the block of a part.
func (p part) with(fields ...any) part {
	r := bytes.NewReader(p.block[1:])
	size, _ := binary.ReadUvarint(r)
	payload := p.block[len(p.block)-int(size):]
	return part{block(p.block[0], payload, enc(fields...)), p.bits}
}

func body2(parts ...part) []byte {
	var blocks, rest []byte
	for _, p := range parts {
		blocks, rest = append(blocks, p.block...), append(rest, p.bits...)
	}
	return enc(len(blocks), blocks, rest)
}

func key2(rows int, parts ...part) []byte { return keyOf(rows, 0, body2(parts...)) }

func keyOf(rows int, flags frame.Flags, body []byte) []byte {
	return frame.Seal(nil, frame.Header{Kind: frame.Keyframe, Flags: frame.FlagFirst | flags, ID: frame.ID{Epoch: epoch, Number: 1},
		Rows: uint32(rows), Sent: 1_800_000_000_000}, body)
}

func after2(number, before, rows int, parts ...part) []byte {
	h := header(number, before, rows)
	h.Version = 2
	return frame.Seal(nil, h, body2(parts...))
}

// lists are those of a schema block, in its order.
type lists struct{ help, units, families, values, names, numbers, flags []byte }

func (l lists) schema(id, parent, more, n int) part {
	var b []byte
	for _, list := range [][]byte{l.help, l.units, l.families, l.values, l.names, l.numbers, l.flags} {
		b = append(b, enc(len(list), list)...)
	}
	return plain(block(2, id, parent, byte(more), n, b))
}

// floats is a schema of float columns a, b, ... without families.
func floats(n int) part { return named(n, 0) }

func named(n int, kind byte) part {
	l := lists{names: []byte("__name__\x00"), numbers: []byte{1}}
	for i := range n {
		l.values = append(l.values, byte('a'+i), 0)
		l.numbers = append(l.numbers, 0)
		l.flags = append(l.flags, kind)
	}
	l.flags[0] |= names
	return l.schema(1, 0, 0, n)
}

func one2(n int) []part { return []part{plain(source(0, "s")), floats(n)} }

// first2 is a keyframe with one row of n columns.
func first2(n int, tokens, bits bitString, sets ...any) []byte {
	return key2(1, append(one2(n), row2(0, 1, 1000, 0, tokens, bits, enc(sets...)))...)
}

// seven is a keyframe in which column a is 7, and the expectation of that column.
func seven() ([]byte, expectation) {
	return first2(1, tokens2(0, [3]int{0, vSame, vSet}), nil, byte(0), signed(7)), set(7)
}

func vectorList() []vector {
	return slices.Concat(bodyVectors2(), valueVectors2(), modeVectors2(), rowVectors2(), schemaVectors2())
}

func bodyVectors2() []vector {
	sets := tokens2(0, [3]int{0, vSame, vSet})
	up := lists{help: []byte("Is it up.\x00"), units: []byte{0}, families: []byte("up\x00"), values: []byte{0},
		names: []byte("__name__\x00"), numbers: []byte{1, 0}, flags: []byte{family | names | 3<<4}}
	example := key2(1, plain(block(0x80, 1, "version", "1.0.0")), plain(source(0, "scrape/a")), up.schema(1, 0, 0, 1),
		row2(0, 1, 1_800_000_000_000, 0, sets, nil, enc(byte(0), signed(1))))
	simple, _ := seven()
	content := body2(append(one2(1), row2(0, 1, 1000, 0, sets, nil, enc(byte(0), signed(7))))...)
	blocks, rest := content[1:1+content[0]], content[1+content[0]:]
	z := zstdRaw(blocks)
	unfinished := header(2, 1, 1)
	unfinished.Version = 2
	return []vector{
		ok("example", "the worked example of docs/frame.md", example),
		ok("empty", "a delta without blocks", simple, after2(2, 1, 0)),
		ok("bundle", "a message of two frames", slices.Concat(simple, after2(2, 1, 1, next2(0, 0, tokens2(1), nil, nil)))),
		ok("versions", "a keyframe of version 1 after one of version 2, and the reverse",
			simple, laterKey(2, 1, 1, one(1), row(0, 1, 2000, 0, values(toks(tok(delta, 1)), signed(1)))),
			after(3, 2, 1, row(0, 1, 3000, 0, values(toks(tok(step, 1)))))),
		ok("zstd", "blocks that are compressed, bits that are not", keyOf(1, frame.FlagZstd, enc(len(z), z, rest))),
		ok("notices", "blocks of all kinds that hold no values", key2(1, plain(source(0, "a")), plain(source(1, "b")), plain(block(4, 0, signed(3000))), plain(block(5, 1)),
			plain(block(6, fixed(5), 1, 2, 3, signed(1), signed(2), byte(1))), plain(block(0x81, 1, "limit", 1, 2, "x")), plain(block(0xff, "later")))),
		bad("version-changes", "malformed", "a delta of version 1 to a frame of version 2", simple, after(2, 1, 0)),
		bad("unknown-version", "version", "version 255", change(simple, 3, 255, true)),
		bad("mismatch", "mismatch", "a delta to another frame than the last", simple, after2(3, 1, 0)),
		bad("zstd-trailing", "malformed", "a byte behind the zstd frame, inside of its size", keyOf(1, frame.FlagZstd, enc(len(z)+1, z, byte(0), rest))),
		bad("no-size", "malformed", "a body without the size of its blocks", keyOf(0, 0, nil)),
		bad("size-long", "malformed", "blocks that are longer than the body", keyOf(0, 0, enc(3, byte(0)))),
		bad("bits-left", "malformed", "a byte behind the bits of the only row", keyOf(1, 0, append(slices.Clone(content), 0))),
		bad("bits-missing", "malformed", "the tokens end behind the body", keyOf(1, 0, content[:len(content)-1])),
		bad("limit-body", "limit", "blocks and bits together are beyond the limit", simple).with(frame.DecoderConfig{MaxBody: len(blocks) + len(rest) - 1}),
	}
}

func valueVectors2() []vector {
	simple, _ := seven()
	row := func(tokens, bits bitString) part { return next2(0, 0, tokens, bits, nil) }
	follow := func(m expectation, ds ...int64) (frames [][]byte) {
		tokens := tokens2(0, [3]int{0, vSame, vCode})
		for i, d := range ds {
			frames = append(frames, after2(i+2, i+1, 1, row(tokens, m.code(d))))
			tokens = tokens2(1)
		}
		return frames
	}
	frames := func(name, comment string, ds ...int64) vector {
		first, m := seven()
		return ok(name, comment, append([][]byte{first}, follow(m, ds...)...)...)
	}
	// All ways of one row: five columns are set to 100, the others are 0.
	all := tokens2(1, [3]int{0, vSame, vSet}, [3]int{0, vSame, vSet}, [3]int{0, vSame, vSet}, [3]int{0, vSame, vSet}, [3]int{0, vSame, vSet})
	hundreds := enc(byte(0), signed(100), byte(0), signed(100), byte(0), signed(100), byte(0), signed(100), byte(0), signed(100))
	a, c, d, e := set(100), set(100), set(100), set(100)
	b := set(100)
	second := slices.Concat(a.code(5), c.code(-3), near(0), low(1, 1), d.code(1), low(1, 1), e.code(2), near(-1))
	b.step(5, int64(5-(b.trend+8)>>4)*2)
	third := slices.Concat(a.code(6), c.code(-3), near(2), low(0, 1), low(0, 1))
	b.step(-3, int64((3+(b.trend+8)>>4)*2-1))
	long := tokens2(26)
	many, last := tokens2(0, [3]int{20, vSame, vSet}, [3]int{4, vSame, vSet}), tokens2(26)
	return []vector{
		ok("ways", "every way that codes values: code, like, near, maybe, maybe near, same; then all as expected",
			first2(6, all, nil, hundreds),
			after2(2, 1, 1, row(tokens2(1, [3]int{0, vSame, vCode}, [3]int{0, vSame, vLike}, [3]int{0, vSame, vNear}, [3]int{0, vSame, vMaybe}, [3]int{0, vSame, vMaybeNear}), second)),
			after2(3, 2, 1, row(tokens2(6), third))),
		frames("means", "differences against their running mean", 10, 10, 12, 9, -4, 0, 1000),
		frames("numbers", "numbers of every length", 1, 3, 9, 100, 1<<20, -1<<30, 1<<51, 5, 5, 5, -1<<50, 1<<52, -1<<52),
		ok("gaps", "columns between tokens", first2(26, many, nil, byte(0), signed(1), byte(0), signed(2)), after2(2, 1, 1, row(long, nil)), after2(3, 2, 1, row(last, nil))),
		bad("gap-long", "malformed", "a gap beyond the last column", simple, after2(2, 1, 1, row(tokens2(2), nil))),
		bad("gap-short", "malformed", "tokens that end before the columns: what follows is read as another of gap 0, and the bits end", simple, after2(2, 1, 1, row(number(0, 3), nil))),
		bad("tokens-padding", "malformed", "bits behind the last token that are not 0", simple, after2(2, 1, 1, row(slices.Concat(tokens2(1), low(1, 1)), nil))),
		bad("tokens-trailing", "malformed", "a byte behind the last token", simple, after2(2, 1, 1, row(slices.Concat(tokens2(1), low(0, 8)), nil))),
		bad("bits-padding", "malformed", "bits behind the last value that are not 0", simple, after2(2, 1, 1, row(tokens2(0, [3]int{0, vSame, vMaybe}), low(2, 2)))),
		bad("bits-short", "malformed", "bits that end before the last value", simple, after2(2, 1, 1, row(tokens2(0, [3]int{0, vSame, vCode}), nil))),
		bad("number-long", "malformed", "a number that does not fit 64 bits: its range begins beyond", first2(1, tokens2(0, [3]int{0, vSame, vSet}), nil, byte(16), fixed(math.MaxUint64>>1)),
			after2(2, 1, 1, row(tokens2(0, [3]int{0, vSame, vCode}), slices.Concat(number(1<<62, 32)))),
			after2(3, 2, 1, row(tokens2(1), slices.Concat(low(1<<30-1, 31), low(0, 64), low(0, 40))))),
		bad("ulps-65", "malformed", "a distance of 65 bits", simple, after2(2, 1, 1, row(tokens2(0, [3]int{0, vSame, vNear}), slices.Concat(number(0, 2), number(65, 0), low(0, 64))))),
		bad("beyond-53-bits", "malformed", "a difference that leads to 2^53", simple, after2(2, 1, 1, row(tokens2(0, [3]int{0, vSame, vCode}), number(2*(1<<53-7), 2)))),
	}
}

func modeVectors2() []vector {
	sets := func(n int) bitString {
		return tokens2(0, slices.Repeat([][3]int{{0, vSame, vSet}}, n)...)
	}
	simple, seven := seven()
	row := func(tokens, bits bitString, sets ...any) []byte {
		return after2(2, 1, 1, next2(0, 0, tokens, bits, enc(sets...)))
	}
	one := func(name, kind, comment string, fields ...any) vector {
		return bad(name, kind, comment, first2(1, sets(1), nil, fields...))
	}
	scale := func(m expectation, mode, shift byte, bits bitString) []byte {
		return row(tokens2(0, [3]int{0, vSame, vScale}), bits, mode, shift)
	}
	finer := seven // 7 becomes 7000 at a thousandth
	finer.spread *= 1000
	pages := set(3) // of 4096
	halves := pages
	halves.spread *= 1 << 12
	return []vector{
		ok("modes", "powers of ten and of two, distances, and bits: the largest integer, -0, infinities, NaNs, the stale marker",
			first2(12, sets(12), nil, byte(0), signed(1<<53-1), byte(15), signed(-1), byte(1), signed(1), byte(32), byte(12), signed(3), byte(32|3), byte(2), signed(1),
				byte(64|9), signed(862969175), signed(-1),
				byte(16), fixed(1<<63), byte(16), math.Inf(1), byte(16), math.Inf(-1), byte(16), fixed(0x7ff8000000000001), byte(16), fixed(0x7ff0000000000002), byte(16), math.Pi)),
		ok("bits", "differences of the bits, which wrap around", first2(2, sets(2), nil, byte(16), math.Pi, byte(16), fixed(math.MaxUint64)),
			row(tokens2(1, [3]int{0, vSame, vCode}), func() bitString { m := set(int64(math.Float64bits(math.Pi))); return m.code(1 << 33) }())),
		ok("scale-ten", "a column gets three decimals: what it expects grows with it; it is near then, or code if it was no distance",
			simple, scale(seven, 32|3, 0, slices.Concat(finer.code(25), near(0))), after2(3, 2, 1, next2(0, 0, tokens2(1), finer.code(25), nil))),
		ok("scale-two", "multiples of 4096 become multiples of 1",
			first2(1, sets(1), nil, byte(32), byte(12), signed(3)), scale(pages, 32, 0, slices.Concat(halves.code(1), near(1))),
			after2(3, 2, 1, next2(0, 0, tokens2(1), slices.Concat(halves.code(1), near(0)), nil))),
		ok("set-again", "a set takes the place of everything known of a column",
			simple, row(sets(1), nil, byte(1), signed(5)), after2(3, 2, 1, next2(0, 0, sets(1), nil, enc(byte(0), signed(0))))),
		one("mode-unknown", "malformed", "mode 0x80", byte(0x80), signed(1)),
		one("mode-bits-power", "malformed", "bits with a power of ten", byte(17), fixed(1)),
		one("mode-bits-shift", "malformed", "bits with a power of two", byte(48), byte(1), signed(1)),
		one("shift-0", "malformed", "a power of two that is 1", byte(32), byte(0), signed(1)),
		one("shift-53", "malformed", "a power of two beyond 52", byte(32), byte(53), signed(0)),
		one("set-beyond", "malformed", "an integer of 2^53", byte(0), signed(1<<53)),
		one("set-shift-beyond", "malformed", "an integer of 2^41 times 2^12", byte(32), byte(12), signed(1<<41)),
		one("set-cut", "malformed", "bits of six bytes", byte(16), []byte("abcdef")),
		bad("scale-same", "malformed", "a scale to the mode that there is", simple, scale(seven, 32, 0, finer.code(1))),
		bad("scale-shift", "malformed", "a scale to a larger power of two", simple, scale(seven, 32|3, 1, finer.code(1))),
		bad("scale-down", "malformed", "a scale to a smaller power of ten", first2(1, sets(1), nil, byte(2), signed(1)), scale(seven, 32|1, 0, finer.code(1))),
		bad("scale-mode", "malformed", "a scale without a power of two", simple, scale(seven, 3, 0, finer.code(1))),
		bad("scale-beyond", "malformed", "an integer that is 2^53 at the new power", first2(1, sets(1), nil, byte(0), signed(1<<52)), scale(seven, 32|1, 0, finer.code(1))),
		bad("scale-bits", "malformed", "a scale of bits", first2(1, sets(1), nil, byte(16), math.Pi), scale(seven, 32|3, 0, finer.code(1))),
		bad("near-bits", "malformed", "a distance from bits", first2(1, sets(1), nil, byte(16), math.Pi), row(tokens2(0, [3]int{0, vSame, vNear}), slices.Concat(number(0, 33), near(0)))),
	}
}

func rowVectors2() []vector {
	sets := func(n int) bitString { return tokens2(0, slices.Repeat([][3]int{{0, vSame, vSet}}, n)...) }
	ints := func(vs ...int) []byte {
		var b []byte
		for _, v := range vs {
			b = append(b, enc(byte(0), signed(v))...)
		}
		return b
	}
	grown := lists{values: []byte("c\x00"), names: []byte("__name__\x00"), numbers: []byte{1, 0}, flags: []byte{names}}.schema(2, 1, 0, 1)
	exemplar := enc(1, 0, byte(2), labelList("id", "x"), 2.5, signed(-7))
	histogram := enc(1, 0, byte(0), signed(0), 0.5, 1, signed(0), 1, 0, 0, 1, 0, signed(3), signed(1), 2.0, signed(2))
	return []vector{
		ok("times", "a row's time against that of the source's last row and its interval; of a row in parts only the first has one",
			key2(2, append(one2(2), row2(0, 1, 1000, 0, sets(2), nil, ints(1, 2)),
				next2(5000, ranged|more, sets(1), nil, ints(3), 0, 1), rest2(ranged, sets(1), nil, ints(4), 1, 1))...),
			after2(2, 2, 2, next2(-1, 0, tokens2(2), nil, nil), next2(0, 0, tokens2(2), nil, nil))),
		ok("sources", "a row's source against the one behind that of the row before",
			key2(2, plain(source(0, "a")), plain(source(1, "b")), plain(source(9, "c")), floats(1), row2(0, 1, 1000, 0, sets(1), nil, ints(1)),
				row2(8, 1, 1000, 0, sets(1), nil, ints(2))),
			after2(2, 2, 3, row2(-9, 1, 1000, 0, sets(1), nil, ints(3)), next2(0, 0, tokens2(1), nil, nil),
				rowPart(tokens2(1), nil, nil, signed(7), byte(0), signed(0)))),
		ok("schemas", "a row of a grown schema, whose columns keep their state, and one of the schema before, whose columns begin anew",
			key2(1, append(one2(2), row2(0, 1, 1000, 0, sets(2), nil, ints(1, 2)))...),
			after2(2, 1, 2, grown, row2(-1, 2, 0, 0, tokens2(0, [3]int{2, vSame, vSet}), nil, ints(3)), next2(0, 0, tokens2(3), nil, nil)),
			after2(3, 3, 2, row2(-1, 1, 0, 0, tokens2(2), nil, nil), next2(0, 0, tokens2(2), nil, nil))),
		ok("presence", "absent columns take no part and keep their state; without runs they stay absent",
			key2(1, append(one2(3), row2(0, 1, 1000, presence, sets(2), nil, ints(1, 3), 1, 1, 1))...),
			after2(2, 1, 3, next2(0, 0, tokens2(2), nil, nil), next2(0, partial, tokens2(1), nil, nil, 1, 1), next2(0, 0, tokens2(2), nil, nil)),
			after2(3, 4, 2, next2(0, presence, tokens2(3), nil, nil, 3), next2(0, 0, tokens2(3), nil, nil))),
		ok("presence-grows", "new columns are present; columns that begin anew are",
			key2(1, append(one2(2), row2(0, 1, 1000, presence, sets(1), nil, ints(1), 1, 1))...),
			after2(2, 1, 2, grown, row2(-1, 2, 0, 0, tokens2(0, [3]int{1, vSame, vSet}), nil, ints(3)), next2(0, 0, tokens2(2), nil, nil)),
			after2(3, 3, 1, row2(-1, 1, 0, 0, tokens2(2), nil, nil))),
		ok("presence-parts", "parts with runs take the place of those of their columns, others leave them",
			key2(1, append(one2(3), row2(0, 1, 1000, presence, sets(1), nil, ints(1), 0, 2, 1))...),
			after2(2, 1, 1, next2(0, ranged|more, tokens2(0), nil, nil, 0, 1), rest2(ranged|presence, tokens2(1), nil, nil, 1, 2, 1, 1)),
			after2(3, 2, 1, next2(0, 0, tokens2(1), nil, nil))),
		ok("partial", "a list of columns; what it lacks keeps its state; an empty one",
			key2(3, append(one2(3), row2(0, 1, 1000, 0, sets(3), nil, ints(1, 2, 3)), next2(0, partial, sets(2), nil, ints(8, 9), 2, 0, 1),
				next2(0, partial, tokens2(0), nil, nil, 0))...)),
		ok("exemplars", "sparse parts stand behind the sets", key2(1, append(one2(1), row2(0, 1, 1000, exemplars|starts, sets(1), nil, ints(7)).with(exemplar, 1, 0, signed(500)))...)),
		ok("histograms", "histogram columns have no token", key2(1, plain(source(0, "s")), named(1, 1), row2(0, 1, 1000, histograms, tokens2(0), nil, nil).with(histogram))),
		bad("part-schema", "malformed", "a part that names the schema of the row that it continues",
			key2(1, append(one2(2), row2(0, 1, 1000, ranged|more, sets(1), nil, ints(3), 0, 1), rest2(ranged|newSchema, sets(1), nil, ints(4), 1, 1, 1))...)),
		bad("row-source", "malformed", "the source behind the only one", key2(1, append(one2(1), row2(1, 1, 1000, 0, sets(1), nil, ints(7)))...)),
		bad("row-schema", "malformed", "a schema that is not there", key2(1, append(one2(1), row2(0, 2, 1000, 0, sets(1), nil, ints(7)))...)),
		bad("row-trailing", "malformed", "a byte behind the sets", key2(1, append(one2(1), row2(0, 1, 1000, 0, sets(1), nil, append(ints(7), 0)))...)),
	}
}

func schemaVectors2() []vector {
	good := lists{help: []byte("Requests.\x00"), units: []byte{0}, families: []byte("req\x00"), values: []byte("5xx\x00_total\x00" + "4\x00\x00"),
		names: []byte("__name__\x00code\x00"), numbers: []byte{2, 0, 0, 0, 2}, flags: []byte{family | names | 2<<4, 0}}
	good.values = []byte("_total\x005xx\x00_total\x004\x00")
	good.numbers = []byte{2, 0, 0, 0, 3}
	schema := func(name, kind, comment string, change func(l *lists)) vector {
		l := good
		l.values, l.numbers, l.flags = slices.Clone(l.values), slices.Clone(l.numbers), slices.Clone(l.flags)
		n := 2
		change(&l)
		return vector{name: name, comment: comment, expect: kind, messages: [][]byte{key2(1, plain(source(0, "s")), l.schema(1, 0, 0, n),
			row2(0, 1, 1000, 0, tokens2(2), nil, nil))}}
	}
	return []vector{
		schema("columns", "ok", "names against the family's, values against those of the column before", func(*lists) {}),
		schema("columns-prefix", "ok", "a value that shares its beginning, and a name that shares less than the family's", func(l *lists) {
			l.values, l.numbers = []byte("_total\x005xx\x00sponses\x0003\x00"), []byte{2, 0, 0, 1, 2}
		}),
		schema("columns-escapes", "ok", "texts with bytes 0 and 1", func(l *lists) {
			l.help, l.values = []byte("a\x01\x01b\x01\x02\x00"), []byte("_total\x00\x01\x01\x00_total\x00\x01\x02\x00")
			l.numbers = []byte{2, 0, 0, 0, 1}
		}),
		schema("columns-family-again", "ok", "another family with the same names", func(l *lists) {
			l.flags[1] |= family | 3<<4
			l.help, l.units, l.families = []byte("Requests.\x00\x00"), []byte("\x00s\x00"), []byte("req\x00other\x00")
		}),
		schema("columns-long-cut", "malformed", "a cut that is longer than the value", func(l *lists) { l.numbers[4] = 4 }),
		schema("columns-flags", "malformed", "three flags of two columns", func(l *lists) { l.flags = append(l.flags, 0) }),
		schema("columns-kind-3", "malformed", "value kind 3", func(l *lists) { l.flags[1] |= 3 }),
		schema("columns-type-9", "malformed", "metric type 9", func(l *lists) { l.flags[0] = family | names | 9<<4 }),
		schema("columns-type-alone", "malformed", "a type without a family", func(l *lists) { l.flags[1] |= 1 << 4 }),
		schema("columns-first-without-names", "malformed", "the first column has no names", func(l *lists) { l.flags[0] = family | 2<<4 }),
		schema("columns-unsorted", "malformed", "label names that do not ascend", func(l *lists) { l.names = []byte("code\x00__name__\x00") }),
		schema("columns-text-end", "malformed", "a text without its end", func(l *lists) { l.help = []byte("Requests.") }),
		schema("columns-escape-3", "malformed", "an escape of what needs none", func(l *lists) { l.help = []byte("\x01\x03\x00") }),
		schema("columns-escape-end", "malformed", "an escape at the end of a text", func(l *lists) { l.help = []byte("a\x01\x00") }),
		schema("columns-list-left", "malformed", "a value more than columns have", func(l *lists) { l.values = append(l.values, 0) }),
		schema("columns-names-many", "malformed", "more labels than numbers that follow", func(l *lists) { l.numbers[0] = 9 }),
	}
}
