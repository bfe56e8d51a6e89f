package frame_test

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"slices"

	"github.com/prometheus/prometheus/model/value"

	"github.com/thalweg/thalweg/internal/frame"
)

// This file makes the vectors of version 1 by hand, from docs/frame-v1.md and without the encoder.

type (
	signed int    // a zigzag varint
	fixed  uint64 // eight bytes
)

// enc concatenates fields: int is a uvarint, byte itself, string with its length before it, float64 eight bytes.
func enc(fields ...any) []byte {
	var b []byte
	for _, f := range fields {
		switch f := f.(type) {
		case int:
			b = binary.AppendUvarint(b, uint64(f))
		case signed:
			b = binary.AppendVarint(b, int64(f))
		case fixed:
			b = binary.LittleEndian.AppendUint64(b, uint64(f))
		case byte:
			b = append(b, f)
		case string:
			b = append(binary.AppendUvarint(b, uint64(len(f))), f...)
		case float64:
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(f))
		case []byte:
			b = append(b, f...)
		default:
			panic(fmt.Sprintf("field of type %T", f))
		}
	}
	return b
}

func block(kind byte, fields ...any) []byte {
	payload := enc(fields...)
	return enc(kind, len(payload), payload)
}

// Flags of rows, columns, histograms and exemplars.
const (
	partial, presence, ranged, more, histograms, exemplars, starts = 1, 2, 4, 8, 16, 32, 64
	family, names                                                  = 4, 8
)

// Ways.
const (
	same = iota
	step
	like
	delta
	turn
	integer
	xor
)

func tok(way, n int) byte { return byte(way<<5 | n - 1) }

func labelList(pairs ...string) []byte {
	b := enc(len(pairs) / 2)
	for _, s := range pairs {
		b = append(b, enc(s)...)
	}
	return b
}

func source(id int, key string) []byte {
	return block(1, id, key, 15000, labelList("instance", "a:1", "job", "a"))
}

func column(name string) []byte { return enc(byte(names), labelList("__name__", name)) }

func histogramColumn(name string) []byte { return enc(byte(names|1), labelList("__name__", name)) }

func schema(id, parent int, columns ...[]byte) []byte {
	return block(2, id, parent, byte(0), len(columns), slices.Concat(columns...))
}

// columnsNamed returns float columns a, b, c, ...
func columnsNamed(n int) (cs [][]byte) {
	for i := range n {
		cs = append(cs, column(string(rune('a'+i))))
	}
	return cs
}

func row(source, schema, t int, flags byte, fields ...any) []byte {
	return block(3, source, schema, signed(t), flags, enc(fields...))
}

// values codes columns: the tokens, then what they need.
func values(tokens []byte, residue ...any) []byte { return enc(len(tokens), tokens, enc(residue...)) }

func toks(t ...byte) []byte { return t }

func num(power, scaled int) []byte { return enc(byte(power), signed(scaled)) }

const epoch = 0x0123456789abcdef

// key is the keyframe with which an epoch begins.
func key(rows int, blocks ...[]byte) []byte {
	return frame.Seal(nil, frame.Header{Version: 1, Kind: frame.Keyframe, Flags: frame.FlagFirst, ID: frame.ID{Epoch: epoch, Number: 1},
		Rows: uint32(rows), Sent: 1_800_000_000_000}, slices.Concat(blocks...))
}

// after is a later frame: a delta to the one before it.
func after(number, before, rows int, blocks ...[]byte) []byte {
	return frame.Seal(nil, header(number, before, rows), slices.Concat(blocks...))
}

func header(number, before, rows int) frame.Header {
	return frame.Header{Version: 1, Kind: frame.Delta, ID: frame.ID{Epoch: epoch, Number: uint64(number)}, Base: uint64(number) - 1,
		RowsBefore: uint64(before), Rows: uint32(rows), Sent: 1_800_000_000_000 + 1000*int64(number)}
}

// laterKey is a keyframe inside an epoch.
func laterKey(number, before, rows int, blocks ...[]byte) []byte {
	h := header(number, before, rows)
	h.Kind = frame.Keyframe
	return frame.Seal(nil, h, slices.Concat(blocks...))
}

// zstdKey is a first keyframe with the zstd flag.
func zstdKey(rows int, compressed []byte) []byte {
	return frame.Seal(nil, frame.Header{Version: 1, Kind: frame.Keyframe, Flags: frame.FlagFirst | frame.FlagZstd, ID: frame.ID{Epoch: epoch, Number: 1},
		Rows: uint32(rows), Sent: 1_800_000_000_000}, compressed)
}

// zstdRaw is a zstd frame of one segment with one raw block.
func zstdRaw(content []byte) []byte {
	b := zstdHeader(len(content))
	return append(append(b, byte(len(content)<<3|1), byte(len(content)>>5), byte(len(content)>>13)), content...)
}

// zstdHeader says that size bytes follow, in four bytes.
func zstdHeader(size int) []byte {
	return binary.LittleEndian.AppendUint32([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0}, uint32(size))
}

// zstdZeros is RLE blocks of zeros.
func zstdZeros(says, blocks int) []byte {
	const size = 128 << 10
	b := zstdHeader(says)
	for i := range blocks {
		h := size<<3 | 1<<1
		if i == blocks-1 {
			h |= 1
		}
		b = append(b, byte(h), byte(h>>8&0xff), byte(h>>16), 0)
	}
	return b
}

// change returns a copy with one byte replaced and, if fix is set, the checksum of the changed frame.
func change(f []byte, at int, to byte, fix bool) []byte {
	f = slices.Clone(f)
	f[at] = to
	if fix {
		reseal(f)
	}
	return f
}

// reseal sets the checksum of a frame.
func reseal(f []byte) {
	table := crc32.MakeTable(crc32.Castagnoli)
	binary.LittleEndian.PutUint32(f[4:], crc32.Update(crc32.Checksum(f[:4], table), table, f[8:]))
}

func ok(name, comment string, messages ...[]byte) vector {
	return vector{name: name, comment: comment, expect: "ok", messages: messages}
}

func bad(name, kind, comment string, messages ...[]byte) vector {
	return vector{name: name, comment: comment, expect: kind, messages: messages}
}

func (v vector) with(limits frame.DecoderConfig) vector {
	v.limits = limits
	return v
}

// one is a source and a schema of n columns a, b, ...
func one(n int) []byte { return slices.Concat(source(0, "s"), schema(1, 0, columnsNamed(n)...)) }

// simple is a whole valid first keyframe: column a is 1.
func simple() []byte {
	return key(1, one(1), row(0, 1, 1000, 0, values(toks(tok(delta, 1)), signed(1))))
}

func vectorList1() []vector {
	return slices.Concat(headerVectors(), valueVectors(), rowVectors(), schemaVectors(), extraVectors(), otherVectors(), hostileVectors())
}

func headerVectors() []vector {
	up := key(1,
		block(0x80, 1, "version", "1.0.0"),
		block(1, 0, "scrape/a", 15000, labelList("instance", "a:1", "job", "a")),
		block(2, 1, 0, byte(0), 1, byte(family|names), "up", byte(3), "Is it up.", "", labelList("__name__", "up")),
		row(0, 1, 1_800_000_000_000, 0, values(toks(tok(delta, 1)), signed(1))))
	predecessor := frame.Seal(nil, frame.Header{Version: 1, Kind: frame.Keyframe, Flags: frame.FlagFirst, ID: frame.ID{Epoch: epoch, Number: 1},
		Predecessor: frame.Predecessor{ID: frame.ID{Epoch: 0xfedcba9876543210, Number: 77}, Rows: 123}}, nil)
	second := row(0, 1, 2000, 0, values(toks(tok(step, 1))))
	third := row(0, 1, 3000, 0, values(toks(tok(same, 1))))
	elsewhere := header(2, 1, 1)
	elsewhere.Epoch++
	skipping := header(4, 2, 1)
	skipping.Base = 2
	keyWithBase := change(laterKey(2, 0, 0), 44, 1, true)
	firstDelta := header(1, 0, 0)
	firstDelta.Base = 0
	return []vector{
		ok("example", "the worked example of docs/frame-v1.md", up),
		ok("predecessor", "the first frame of an epoch names the last one of the epoch before; its body is empty", predecessor),
		ok("bundle", "a message of three frames", slices.Concat(simple(), after(2, 1, 1, second), after(3, 2, 1, third))),
		ok("number-gap", "the base need not be the number before: frame 4 applies to frame 2", simple(), after(2, 1, 1, second), frame.Seal(nil, skipping, third)),
		ok("keyframe-again", "a keyframe inside an epoch forgets everything: the same ids are defined anew and values begin at 0",
			simple(), laterKey(2, 1, 1, one(1), row(0, 1, 2000, 0, values(toks(tok(delta, 1)), signed(1))))),
		ok("mismatch", "a delta to another frame than the last is refused and changes nothing: the right one still applies",
			simple(), after(3, 2, 1, second), after(2, 1, 1, second)),
		bad("mismatch-epoch", "mismatch", "a delta of another epoch", simple(), frame.Seal(nil, elsewhere, second)),
		bad("mismatch-start", "mismatch", "a delta before any keyframe", after(2, 1, 1, second)),
		bad("unknown-version", "version", "version 255", change(simple(), 3, 255, true)),
		bad("unknown-flag", "malformed", "flag 0x04", change(simple(), 13, 5, true)),
		bad("unknown-frame-kind", "malformed", "kind 3", change(simple(), 12, 3, true)),
		bad("reserved-field", "malformed", "the two bytes behind the flags are not 0", change(simple(), 14, 1, true)),
		bad("keyframe-with-base", "malformed", "a keyframe with a distance to a base", keyWithBase),
		bad("delta-first", "malformed", "frame 1 is a delta", frame.Seal(nil, firstDelta, nil)),
		bad("bad-magic", "malformed", "the magic is TLX", change(simple(), 2, 'X', true)),
		bad("truncated", "short", "the last byte is missing", simple()[:len(simple())-1]),
		bad("truncated-header", "short", "the header is cut", simple()[:40]),
		bad("corrupted", "checksum", "one bit of the body is another", change(simple(), len(simple())-1, 3, false)),
		bad("corrupted-header", "checksum", "the send time is another", change(simple(), 48, 7, false)),
		bad("trailing-bytes", "malformed", "a frame, and three bytes behind it that are none", append(simple(), make([]byte, 56)...)),
		bad("after-error", "mismatch", "after a damaged frame the decoder waits for a keyframe, although the next delta would have applied",
			simple(), after(2, 1, 9, second), after(2, 1, 1, second)),
	}
}

func valueVectors() []vector {
	nan := math.Float64bits(math.NaN())
	xorBits := func(from, to float64) []byte {
		x := math.Float64bits(from) ^ math.Float64bits(to)
		var b []byte
		trailing := byte(0)
		for ; x&0xff == 0; x >>= 8 {
			trailing++
		}
		for ; x > 0; x >>= 8 {
			b = append(b, byte(x))
		}
		return enc(trailing<<4|byte(len(b)), b)
	}
	x := func(bits uint64) []byte { return xorBits(0, math.Float64frombits(bits)) }
	return []vector{
		ok("ways", "every way; the second row repeats the deltas of the first and corrects one of them",
			key(1, one(7), row(0, 1, 1000, 0, values(toks(tok(same, 1), tok(delta, 2), tok(like, 1), tok(integer, 2), tok(xor, 1)),
				signed(5), signed(-3), num(0, 1000), num(2, 314), xorBits(0, math.Pi)))),
			after(2, 1, 1, row(0, 1, 2000, 0, values(toks(tok(same, 1), tok(step, 1), tok(turn, 1), tok(step, 1), tok(delta, 2), tok(same, 1)),
				signed(-1), signed(50), signed(1)))),
			after(3, 2, 1, row(0, 1, 3000, 0, values(toks(tok(step, 6), tok(xor, 1)), xorBits(math.Pi, math.E))))),
		ok("powers", "scaled integers at powers of ten: 0.1, 0.25, -1.005, 1e-15, the largest; deltas keep the power",
			key(1, one(5), row(0, 1, 1000, 0, values(toks(tok(integer, 5)), num(1, 1), num(2, 25), num(3, -1005), num(15, 1), num(15, 1<<53-1)))),
			after(2, 1, 1, row(0, 1, 2000, 0, values(toks(tok(delta, 1), tok(like, 3), tok(delta, 1)), signed(2), signed(-1))))),
		ok("like-restarts", "like begins at 0 in every row block, and int, xor and same do not touch it",
			key(1, one(6), row(0, 1, 1000, 0, values(toks(tok(delta, 1), tok(same, 1), tok(like, 1), tok(integer, 1), tok(xor, 1), tok(like, 1)),
				signed(8), num(0, 100), xorBits(0, math.Pi)))),
			after(2, 1, 1, row(0, 1, 2000, 0, values(toks(tok(like, 1), tok(delta, 1), tok(like, 1), tok(same, 3)), signed(4))))),
		ok("same-keeps-delta", "same leaves the last delta for a later step",
			key(3, one(1), row(0, 1, 1000, 0, values(toks(tok(delta, 1)), signed(10))),
				row(0, 1, 2000, 0, values(toks(tok(same, 1)))),
				row(0, 1, 3000, 0, values(toks(tok(step, 1)))))),
		ok("int-clears-delta", "a step behind an int adds 0",
			key(2, one(1), row(0, 1, 1000, 0, values(toks(tok(integer, 1)), num(0, 7))), row(0, 1, 2000, 0, values(toks(tok(step, 1)))))),
		ok("bits", "negative zero, infinities, the least and the largest number, four NaNs with different payloads, the stale marker among them",
			key(1, one(9), row(0, 1, 1000, 0, values(toks(tok(xor, 9)), xorBits(0, math.Copysign(0, -1)), xorBits(0, math.Inf(1)), xorBits(0, math.Inf(-1)),
				xorBits(0, math.SmallestNonzeroFloat64), xorBits(0, math.MaxFloat64), x(nan), x(value.StaleNaN), x(0xfff8000000000000), x(0x7ff0000000000abc)))),
			after(2, 1, 1, row(0, 1, 2000, 0, values(toks(tok(xor, 2), tok(integer, 7)),
				xorBits(math.Copysign(0, -1), math.NaN()), xorBits(math.Inf(1), math.Inf(-1)),
				num(0, 1), num(0, 2), num(0, 3), num(0, 4), num(0, 5), num(0, 0), num(0, -7))))),
		ok("long-runs", "a run has at most 32 columns; 26 of them here, and tokens of one way may follow each other",
			key(1, one(26), row(0, 1, 1000, 0, values(toks(tok(delta, 1), tok(like, 12), tok(like, 13)), signed(1))))),
		bad("delta-without-number", "malformed", "a delta to a value that is only bits",
			key(1, one(1), row(0, 1, 1000, 0, values(toks(tok(xor, 1)), xorBits(0, math.Pi)))), after(2, 1, 1, row(0, 1, 2000, 0, values(toks(tok(step, 1)))))),
		bad("beyond-53-bits", "malformed", "a scaled integer of 2^53",
			key(1, one(1), row(0, 1, 1000, 0, values(toks(tok(integer, 1)), num(0, 1<<53))))),
		bad("power-16", "malformed", "a power of ten above 15", key(1, one(1), row(0, 1, 1000, 0, values(toks(tok(integer, 1)), num(16, 1))))),
		bad("way-7", "malformed", "the way that does not exist", key(1, one(1), row(0, 1, 1000, 0, values(toks(7<<5))))),
		bad("xor-zero-byte", "malformed", "differing bytes that end with one that does not differ",
			key(1, one(1), row(0, 1, 1000, 0, values(toks(tok(xor, 1)), byte(0x02), byte(1), byte(0))))),
		bad("xor-nine-bytes", "malformed", "eight differing bytes above one that does not differ",
			key(1, one(1), row(0, 1, 1000, 0, values(toks(tok(xor, 1)), byte(0x18), fixed(0x0101010101010101))))),
		bad("xor-cut", "malformed", "differing bytes that are not there", key(1, one(1), row(0, 1, 1000, 0, values(toks(tok(xor, 1)), byte(0x03), byte(1))))),
		bad("xor-nothing", "malformed", "no differing byte", key(1, one(1), row(0, 1, 1000, 0, values(toks(tok(xor, 1)), byte(0))))),
		bad("tokens-short", "malformed", "tokens for one column of two", key(1, one(2), row(0, 1, 1000, 0, values(toks(tok(same, 1)))))),
		bad("tokens-long", "malformed", "tokens for three columns of two", key(1, one(2), row(0, 1, 1000, 0, values(toks(tok(same, 3)))))),
	}
}

func rowVectors() []vector {
	d := func(n int) []byte { return values(toks(tok(delta, 1), tok(like, n-1)), signed(1)) }
	end := block(4, 0, signed(3000))
	return []vector{
		ok("presence", "runs of present and absent columns: the first run may be empty; all absent; flagged but all present; an absent column keeps its state",
			key(4, one(6),
				row(0, 1, 1000, presence, 2, 3, 1, values(toks(tok(delta, 1), tok(like, 2)), signed(1))),
				row(0, 1, 2000, presence, 0, 2, 4, values(toks(tok(delta, 1), tok(like, 3)), signed(1))),
				row(0, 1, 3000, presence, 0, 6, values(nil)),
				row(0, 1, 4000, presence, 6, values(toks(tok(step, 6)))))),
		ok("partial", "column lists; what a partial row lacks keeps its value and delta; an empty one",
			key(4, one(5),
				row(0, 1, 1000, 0, d(5)),
				row(0, 1, 2000, partial, 2, 1, 2, values(toks(tok(step, 2)))),
				row(0, 1, 3000, partial, 0, values(nil)),
				row(0, 1, 4000, 0, values(toks(tok(step, 5)))))),
		ok("partial-stale", "a stale marker in a partial row is a value",
			key(1, one(2), row(0, 1, 1000, partial, 1, 1, values(toks(tok(xor, 1)), byte(0x08), fixed(value.StaleNaN))))),
		ok("empty-schema", "a row of the schema without columns", key(1, source(0, "s"), row(0, 0, 1000, 0, values(nil)))),
		ok("ranges", "a row in three parts over two frames, which belongs to the second; presence in one part only; a row of another source between",
			key(1, one(6), source(1, "other"),
				row(0, 1, 1000, ranged|more, 0, 2, d(2)),
				row(0, 1, 1000, ranged|more|presence, 2, 3, 1, 1, 1, d(2)),
				row(1, 0, 1000, 0, values(nil))),
			after(2, 1, 1, row(0, 1, 1000, ranged, 5, 1, values(toks(tok(delta, 1)), signed(9))))),
		ok("ranges-partial", "a partial row in two parts: each lists its columns from 0 on, above those of the part before",
			key(1, one(6),
				row(0, 1, 1000, partial|ranged|more, 2, 0, 1, values(toks(tok(delta, 2)), signed(1), signed(2))),
				row(0, 1, 1000, partial|ranged, 1, 5, values(toks(tok(delta, 1)), signed(3))))),
		ok("end", "the source ends; its id and key may be defined anew",
			key(3, one(1), row(0, 1, 1000, 0, values(toks(tok(delta, 1)), signed(1))), end, source(0, "s"),
				row(0, 1, 4000, 0, values(toks(tok(delta, 1)), signed(1))))),
		ok("forget", "the state of a source is dropped; nothing ended, and no row is counted",
			key(1, one(1), row(0, 1, 1000, 0, values(toks(tok(delta, 1)), signed(1))), block(5, 0))),
		bad("range-gap", "malformed", "the second part begins one column too late",
			key(1, one(4), row(0, 1, 1000, ranged|more, 0, 2, d(2)), row(0, 1, 1000, ranged, 3, 1, values(toks(tok(same, 1)))))),
		bad("range-short", "malformed", "the last part ends before the row does",
			key(1, one(4), row(0, 1, 1000, ranged|more, 0, 2, d(2)), row(0, 1, 1000, ranged, 2, 1, values(toks(tok(same, 1)))))),
		bad("range-empty", "malformed", "a part without columns", key(0, one(4), row(0, 1, 1000, ranged|more, 0, 0, values(nil)))),
		bad("range-alone", "malformed", "a part that is the first and the last", key(1, one(2), row(0, 1, 1000, ranged, 0, 2, d(2)))),
		bad("range-other-row", "malformed", "the second part has another time",
			key(1, one(4), row(0, 1, 1000, ranged|more, 0, 2, d(2)), row(0, 1, 2000, ranged, 2, 2, d(2)))),
		bad("range-unfinished", "malformed", "the source ends between two parts of a row",
			key(1, one(4), row(0, 1, 1000, ranged|more, 0, 2, d(2)), end)),
		bad("partial-and-presence", "malformed", "flags that exclude each other", key(1, one(2), row(0, 1, 1000, partial|presence, 1, 0, 2, d(2)))),
		bad("row-flag-unknown", "malformed", "row flag 0x80", key(1, one(2), row(0, 1, 1000, 0x80, d(2)))),
		bad("presence-empty-run", "malformed", "an empty run that is not the first", key(1, one(4), row(0, 1, 1000, presence, 2, 0, 2, d(4)))),
		bad("column-list-beyond", "malformed", "a listed column beyond the schema", key(1, one(4), row(0, 1, 1000, partial, 1, 4, values(toks(tok(same, 1)))))),
		bad("row-count", "malformed", "the header counts two rows, the body has one; the row comes before the error",
			key(2, one(1), row(0, 1, 1000, 0, values(toks(tok(delta, 1)), signed(1))))),
		bad("unknown-source", "malformed", "a row of a source that is not defined", key(1, one(1), row(9, 1, 1000, 0, values(toks(tok(same, 1)))))),
		bad("unknown-schema", "malformed", "a row of a schema that is not defined", key(1, one(1), row(0, 9, 1000, 0, values(toks(tok(same, 1)))))),
	}
}

func schemaVectors() []vector {
	d := values(toks(tok(delta, 1)), signed(1))
	ab := enc(byte(family|names), "a_b", byte(2), "Help \\ \"me\"\nü", "s", labelList("__name__", "a_b_total", "le", "10", "path", "/api/v1/x"))
	return []vector{
		ok("schema-growth", "schema 2 grows from 1: the values of its columns go on, new ones begin at 0",
			key(2, one(1), row(0, 1, 1000, 0, d), schema(2, 1, column("b")), row(0, 2, 2000, 0, values(toks(tok(step, 1), tok(delta, 1)), signed(5))))),
		ok("schema-other", "a schema that did not grow from the last one: all columns begin at 0, even if they are the same",
			key(4, one(1), row(0, 1, 1000, 0, d), schema(2, 0, column("a")), row(0, 2, 2000, 0, d),
				schema(3, 1, column("b")), row(0, 3, 3000, 0, values(toks(tok(delta, 1), tok(same, 1)), signed(1))),
				row(0, 1, 4000, 0, d))),
		ok("schema-fork", "two schemas grow from one, and two sources share it",
			key(2, one(1), source(1, "t"), schema(2, 1, column("b")), schema(3, 1, column("c")),
				row(0, 2, 1000, 0, values(toks(tok(delta, 2)), signed(1), signed(2))), row(1, 3, 1000, 0, values(toks(tok(delta, 2)), signed(3), signed(4))))),
		ok("schema-parts", "a schema in three blocks over two frames",
			key(0, source(0, "s"), block(2, 1, 0, byte(1), 2, column("a"), column("b")), block(2, 1, 0, byte(1), 1, column("c"))),
			after(2, 0, 1, block(2, 1, 0, byte(0), 1, column("d")), row(0, 1, 1000, 0, values(toks(tok(delta, 4)), signed(1), signed(2), signed(3), signed(4))))),
		ok("columns", "columns against the one before: same family and names with shared prefixes, new names, a new family, none",
			key(1, source(0, "s"), schema(1, 0, ab,
				enc(byte(0), 9, "", 1, "00", 8, "y"), // le 100, path /api/v1/y
				enc(byte(names), labelList("__name__", "a_b_created")),
				enc(byte(family|names), "", byte(0), "", "", labelList("", "empty", "__name__", "")),
				enc(byte(family), "z", byte(8), "", "", 0, "", 0, "z")), row(0, 1, 1000, 0, values(toks(tok(same, 5)))))),
		ok("metric-types", "the nine types by number", key(1, source(0, "s"), schema(1, 0, types()...), row(0, 1, 1000, 0, values(toks(tok(same, 9)))))),
		ok("columns-no-labels", "columns of one byte: no labels but those of the source", key(1, source(0, "s"),
			schema(1, 0, enc(byte(names), 0), enc(byte(0)), enc(byte(0))), row(0, 1, 1000, 0, values(toks(tok(same, 3)))))),
		ok("source-labels", "a source without labels and interval, with an empty key", key(0, block(1, 7, "", 0, 0), block(5, 7))),
		bad("schema-again", "malformed", "a schema is defined twice", key(0, one(1), schema(1, 0, column("b")))),
		bad("schema-zero", "malformed", "schema 0 is the empty one and cannot be defined", key(0, schema(0, 0, column("a")))),
		bad("schema-unknown-parent", "malformed", "the parent is not defined", key(0, schema(2, 1, column("a")))),
		bad("schema-no-columns", "malformed", "a schema that grows by nothing", key(0, schema(1, 0))),
		bad("schema-incomplete", "malformed", "a row of a schema whose last part did not come", key(1, source(0, "s"),
			block(2, 1, 0, byte(1), 1, column("a")), row(0, 1, 1000, 0, d))),
		bad("column-first-without-names", "malformed", "the first column of a block has nothing before it", key(0, schema(1, 0, enc(byte(0), 0, "x")))),
		bad("column-kind-3", "malformed", "a column kind that does not exist", key(0, schema(1, 0, enc(byte(names|3), labelList("a", "b"))))),
		bad("column-prefix-long", "malformed", "a shared prefix longer than the value before", key(0, schema(1, 0, column("a"), enc(byte(0), 2, "b")))),
		bad("labels-twice", "malformed", "a label name stands twice", key(0, block(1, 0, "s", 0, labelList("a", "1", "a", "2")))),
		bad("labels-unsorted", "malformed", "label names must ascend", key(0, block(1, 0, "s", 0, labelList("b", "1", "a", "2")))),
		bad("source-again", "malformed", "a source id is defined twice", key(0, source(0, "s"), source(0, "t"))),
		bad("source-key-again", "malformed", "two sources with one key", key(0, source(0, "s"), source(1, "s"))),
	}
}

func types() (cs [][]byte) {
	for i := range 9 {
		cs = append(cs, enc(byte(family|names), "f", byte(i), "", "", labelList("__name__", fmt.Sprint("t", i))))
	}
	return cs
}

func extraVectors() []vector {
	hs := func(n int, cs ...[]byte) []byte { return enc(byte(0), n, slices.Concat(cs...)) } // no tokens, n histograms
	layout := func(schema int, threshold float64, rest ...any) []byte {
		return enc(signed(schema), threshold, enc(rest...))
	}
	// Spans 0:2 and 1:1, three positive buckets, no negative ones.
	three := layout(3, 0.001, 2, signed(0), 2, signed(1), 1, 0, 0, 3, 0)
	h0 := enc(0, byte(0), three, signed(11), signed(1), 12.5, signed(2), signed(1), signed(2)) // buckets 2, 3, 5
	native := slices.Concat(source(0, "s"), schema(1, 0, histogramColumn("h")))
	floats := enc(0, byte(1), three, 11.0, 1.0, 12.5, 2.0, 3.0, 5.0)
	custom := enc(0, byte(0), layout(-53, 0, 1, signed(0), 3, 0, 2, 0.5, 1.0, 3, 0), signed(6), signed(0), 4.0, signed(1), signed(1), signed(1))
	x := func(id string, v float64) []byte { return enc(byte(0), labelList("trace_id", id), v) }
	xt := func(id string, v float64, ms int) []byte {
		return enc(byte(2), labelList("trace_id", id), v, signed(ms))
	}
	two := values(toks(tok(same, 2)))
	return []vector{
		ok("histogram-integer", "an integer histogram; then the same layout, as differences; then another layout with negative buckets and hint reset",
			key(3, native, row(0, 1, 1000, histograms, hs(1, h0)),
				row(0, 1, 2000, histograms, hs(1, enc(0, byte(2), signed(2), signed(0), 20.0, signed(0), signed(1), signed(0)))), // 2, 4, 6
				row(0, 1, 3000, histograms, hs(1, enc(0, byte(1<<2), layout(0, 0.5, 0, 1, signed(-2), 1, 0, 0, 1), signed(4), signed(0), -8.0, signed(4)))))),
		ok("histogram-gauge", "a column of gauge histograms, with hint gauge; a column of counter histograms without one in this row",
			key(1, source(0, "s"), schema(1, 0, enc(byte(names|2), labelList("__name__", "g")), histogramColumn("h")),
				row(0, 1, 1000, histograms, hs(1, enc(0, byte(3<<2), three, signed(11), signed(1), 12.5, signed(2), signed(1), signed(2)))))),
		ok("histogram-float", "float counts; then the same layout without it; floats are written whole",
			key(2, native, row(0, 1, 1000, histograms, hs(1, floats)),
				row(0, 1, 2000, histograms, hs(1, enc(0, byte(1|2|2<<2), 12.5, 1.5, math.Inf(1), 2.0, 3.5, 5.5))))),
		ok("histogram-custom", "custom buckets: schema -53 with upper bounds",
			key(1, native, row(0, 1, 1000, histograms, hs(1, custom)))),
		ok("histogram-change", "integer, float and integer again: like refers to the last one of the column, whatever it was",
			key(3, native, row(0, 1, 1000, histograms, hs(1, h0)), row(0, 1, 2000, histograms, hs(1, floats)), row(0, 1, 3000, histograms, hs(1, h0)))),
		ok("histogram-stale", "a histogram whose sum is the stale marker",
			key(1, native, row(0, 1, 1000, histograms, hs(1, enc(0, byte(0), layout(0, 0, 0, 0, 0, 0, 0), signed(0), signed(0), fixed(value.StaleNaN)))))),
		ok("exemplars", "exemplars with and without time, several of a column, and the last one again",
			key(2, one(2), row(0, 1, 1000, exemplars, two, 3, 0, x("a", 1), 0, xt("b", 2, -5), 1, x("c", math.NaN())),
				row(0, 1, 2000, exemplars, two, 2, 0, byte(1), 1, byte(1)))),
		ok("starts", "start timestamps of a whole row stay until others replace them; those of a partial row are its own",
			key(5, one(2), row(0, 1, 1000, starts, two, 2, 0, signed(500), 0, signed(-100)),
				row(0, 1, 2000, 0, two),
				row(0, 1, 3000, partial|starts, 1, 1, values(toks(tok(same, 1))), 1, 1, signed(7)),
				row(0, 1, 4000, starts, two, 1, 1, signed(600)),
				row(0, 1, 5000, starts, two, 0))),
		ok("starts-ranges", "each part of a row replaces the start timestamps of its own columns",
			key(2, one(2), row(0, 1, 1000, starts, two, 2, 0, signed(500), 0, signed(100)),
				row(0, 1, 2000, ranged|more, 0, 1, values(toks(tok(same, 1)))),
				row(0, 1, 2000, ranged|starts, 1, 1, values(toks(tok(same, 1))), 1, 1, signed(700)))),
		ok("extras-together", "a float column between histograms, with exemplars and start timestamps, in two parts",
			key(1, source(0, "s"), schema(1, 0, histogramColumn("h"), column("f"), histogramColumn("i")),
				row(0, 1, 1000, ranged|more|histograms|exemplars, 0, 2, values(toks(tok(delta, 1)), signed(1)), 1, h0, 1, 1, x("a", 1)),
				row(0, 1, 1000, ranged|histograms|starts, 2, 1, values(nil), 1, 2, h0[1:], 1, 2, signed(1)))),
		bad("histogram-like-nothing", "malformed", "like without a histogram before", key(1, native, row(0, 1, 1000, histograms, hs(1, enc(0, byte(2), signed(3), signed(0), 20.0))))),
		bad("histogram-count", "malformed", "the buckets do not add up to the count",
			key(1, native, row(0, 1, 1000, histograms, hs(1, enc(0, byte(0), three, signed(99), signed(1), 12.5, signed(2), signed(1), signed(2)))))),
		bad("histogram-float-column", "malformed", "a histogram in a column of floats",
			key(1, one(1), row(0, 1, 1000, histograms, values(toks(tok(same, 1))), 1, h0))),
		bad("histogram-schema-33-bits", "malformed", "a histogram schema that does not fit 32 bits",
			key(1, native, row(0, 1, 1000, histograms, hs(1, enc(0, byte(0), layout(1<<32, 0, 0, 0, 0, 0, 0), signed(0), signed(0), 0.0))))),
		bad("histogram-like-other", "malformed", "like to a histogram with float counts, from one with integers",
			key(2, native, row(0, 1, 1000, histograms, hs(1, floats)), row(0, 1, 2000, histograms, hs(1, enc(0, byte(2), signed(0), signed(0), 1.0, 0, 0, 0))))),
		bad("histogram-span-33-bits", "malformed", "the length of a span does not fit 32 bits",
			key(1, native, row(0, 1, 1000, histograms, hs(1, enc(0, byte(0), layout(0, 0, 1, signed(0), 1<<32, 0, 0, 0, 0), signed(0), signed(0), 0.0))))),
		bad("histogram-flags", "malformed", "histogram flag 0x10", key(1, native, row(0, 1, 1000, histograms, hs(1, enc(0, byte(16), three, make([]byte, 20)))))),
		bad("exemplar-flags", "malformed", "an exemplar that is the last one and has a time", key(1, one(2), row(0, 1, 1000, exemplars, two, 1, 0, byte(3), 0))),
		bad("starts-not-listed", "malformed", "a start timestamp of a column that the partial row does not list",
			key(1, one(2), row(0, 1, 1000, partial|starts, 1, 0, values(toks(tok(same, 1))), 1, 1, signed(7)))),
		bad("exemplar-same-nothing", "malformed", "the last exemplar of a column that had none", key(1, one(2), row(0, 1, 1000, exemplars, two, 1, 0, byte(1)))),
		bad("exemplar-other-part", "malformed", "an exemplar of a column that another part of the row has",
			key(1, one(2), row(0, 1, 1000, ranged|more|exemplars, 0, 1, values(toks(tok(same, 1))), 1, 1, x("a", 1)), row(0, 1, 1000, ranged, 1, 1, values(toks(tok(same, 1)))))),
		bad("exemplar-absent", "malformed", "an exemplar of an absent column",
			key(1, one(2), row(0, 1, 1000, presence|exemplars, 1, 1, values(toks(tok(same, 1))), 1, 1, x("a", 1)))),
	}
}

func otherVectors() []vector {
	loss := block(6, fixed(epoch), 3, 9, 140, signed(1_799_999_000_000), signed(1_799_999_600_000), byte(1))
	refusals := block(0x81, 2, "series_limit", 3, 0, `http_requests_total{path="/"}`, "label_value_length", 0, 77, "")
	return []vector{
		ok("loss", "frames 3 to 9 of an epoch, 140 rows, were evicted", key(0, loss)),
		ok("loss-causes", "every cause", key(0, losses()...)),
		ok("origin", "facts about the edge", key(0, block(0x80, 2, "version", "1.0.0", "keyframe_interval_ms", "600000"))),
		ok("refusals", "what the edge's limits refused", key(0, refusals)),
		ok("unknown-skippable", "a block of the unknown kind 0xee is skipped", key(1, one(1), block(0xee, "whatever"), row(0, 1, 1000, 0, values(toks(tok(same, 1)))))),
		bad("unknown-critical", "malformed", "a block of the unknown kind 0x07 may not be skipped", key(0, block(7, "whatever"))),
		bad("origin-many", "malformed", "257 facts", key(0, block(0x80, 257, make([]byte, 514)))),
		bad("loss-backwards", "malformed", "a loss that ends before it begins", key(0, block(6, fixed(epoch), 9, 3, 140, signed(0), signed(0), byte(1)))),
		bad("loss-cause", "malformed", "a cause that does not exist", key(0, block(6, fixed(epoch), 3, 9, 140, signed(0), signed(0), byte(200)))),
		ok("zstd", "a body in a zstd frame", zstdKey(1, zstdRaw(slices.Concat(one(1), row(0, 1, 1000, 0, values(toks(tok(same, 1)))))))),
		bad("zstd-trailing", "malformed", "an empty second zstd frame behind the first", zstdKey(0, append(zstdRaw(block(0xee)), zstdRaw(nil)...))),
		bad("zstd-multiple-segments", "malformed", "a zstd frame that does not tell its size", zstdKey(0, []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0, 1, 0, 0})),
		bad("zstd-size-low", "malformed", "a zstd frame with 128 KiB that says 16 bytes", zstdKey(0, zstdZeros(16, 1))),
		bad("zstd-size-high", "malformed", "a zstd frame with 128 KiB that says one byte more", zstdKey(0, zstdZeros(128<<10+1, 1))),
		bad("zstd-cut", "malformed", "a zstd frame without its last byte", zstdKey(0, zstdRaw(block(0xee))[:10])),
		bad("zstd-garbage", "malformed", "a body that is not zstd", zstdKey(0, []byte("garbage"))),
		bad("zstd-bomb", "limit", "16 MiB in 521 bytes, against the default limit of 8 MiB", zstdKey(0, zstdZeros(16<<20, 128))),
		bad("zstd-bomb-hidden", "malformed", "16 MiB that say 1 MiB", zstdKey(0, zstdZeros(1<<20, 128))),
	}
}

func losses() (ls [][]byte) {
	for cause := byte(1); cause <= 6; cause++ {
		ls = append(ls, block(6, fixed(epoch), int(cause), int(cause), 0, signed(-1), signed(0), cause))
	}
	return ls
}

func hostileVectors() []vector {
	long := string(make([]byte, 1000))
	return []vector{
		bad("overlong-number", "malformed", "the source id 0 in two bytes", key(0, block(5, []byte{0x80, 0x00}))),
		bad("number-65-bits", "malformed", "a number that does not fit 64 bits", key(0, block(5, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02}))),
		bad("block-length", "malformed", "a block that is longer than the body", key(0, []byte{1, 200, 0})),
		bad("block-cut", "malformed", "a block that ends inside a field", key(0, block(1, 0, []byte{9, 'k'}))),
		bad("block-trailing", "malformed", "a byte behind the last field of a block", key(0, block(1, 0, "k", 0, 0, byte(0)))),
		bad("lying-labels", "malformed", "a billion labels in three bytes", key(0, block(1, 0, "k", 0, 1_000_000_000, []byte{0, 0, 0}))),
		bad("lying-columns", "malformed", "a billion columns in three bytes", key(0, block(2, 1, 0, byte(0), 1_000_000_000, []byte{0, 0, 0}))),
		bad("lying-buckets", "malformed", "2^60 buckets", key(1, source(0, "s"), schema(1, 0, histogramColumn("h")),
			row(0, 1, 1000, histograms, byte(0), 1, 0, byte(0), signed(0), 0.0, 0, 0, 0, 1<<60, 0, make([]byte, 40)))),
		bad("column-wrap", "malformed", "a distance of columns that wraps around to an earlier one", key(1, one(3),
			row(0, 1, 1000, starts, values(toks(tok(same, 3))), 2, 1, signed(5), -1, signed(5)))),
		bad("limit-body", "limit", "a body of 1,003 bytes, against a limit of 1,000", key(0, block(0xee, []byte(long)))).
			with(frame.DecoderConfig{MaxBody: 1000}),
		bad("limit-columns", "limit", "three columns in a schema and two sources with it, against a limit of 8", key(2, one(3), source(1, "t"),
			row(0, 1, 1000, 0, values(toks(tok(same, 3)))), row(1, 1, 1000, 0, values(toks(tok(same, 3)))))).with(frame.DecoderConfig{MaxColumns: 8}),
		bad("limit-fork", "limit", "a second schema that grows from one counts its columns again: 3+1 and 3+1, against a limit of 7",
			key(0, one(3), schema(2, 1, column("d")), schema(3, 1, column("e")))).with(frame.DecoderConfig{MaxColumns: 7}),
		bad("limit-sources", "limit", "two sources, against a limit of 1", key(0, source(0, "s"), source(1, "t"))).with(frame.DecoderConfig{MaxSources: 1}),
		bad("limit-state", "limit", "columns of four bytes that repeat a label of 1,000 bytes, against a limit of 10,000",
			key(0, schema(1, 0, repeat(long, 20)...))).with(frame.DecoderConfig{MaxState: 10_000}),
		bad("limit-work", "limit", "rows of few bytes that touch three columns each, more than 32 times the limit of 6",
			key(70, one(3), absent(70))).with(frame.DecoderConfig{MaxColumns: 6}),
	}
}

func repeat(long string, n int) [][]byte {
	cs := [][]byte{column(long)}
	for range n {
		cs = append(cs, enc(byte(0), len(long), ""))
	}
	return cs
}

func absent(n int) (rows []byte) {
	for t := range n {
		rows = append(rows, row(0, 1, t, presence, 0, 3, values(nil))...)
	}
	return rows
}
