package frame

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// DefaultMaxBody is where an encoder closes a frame unless it is told less, in bytes before compression.
const DefaultMaxBody = 512 << 10

// minMaxBody leaves room for one block of each kind.
const minMaxBody = 4 << 10

// EncoderConfig is what an encoder needs to know at birth.
type EncoderConfig struct {
	// Epoch must be random and new.
	Epoch Epoch
	// Predecessor is the last frame in the outbox when the epoch began; zero if there is none.
	Predecessor Predecessor
	// MaxBody closes a frame before its uncompressed body grows beyond it, in bytes; rows are split by columns where
	// they do not fit. Only a single series whose labels or histogram alone are larger makes a larger frame.
	// 0 means DefaultMaxBody.
	MaxBody int
	// Facts stand in every keyframe.
	Facts []Fact
	// Version of the frames, one of Versions. 0 means the newest.
	Version int
	// Compressor to use; nil makes one. Many encoders can share one, which takes more memory than a small encoder.
	Compressor *Compressor
}

// Compressor compresses the bodies of frames. It is safe for concurrent use.
type Compressor struct{ zstd *zstd.Encoder }

// NewCompressor returns a compressor that works for so many encoders at a time; others wait.
func NewCompressor(atOnce int) *Compressor {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(atOnce), zstd.WithEncoderLevel(zstd.SpeedDefault),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(512<<10), zstd.WithLowerEncoderMem(true), zstd.WithSingleSegment(true))
	if err != nil {
		panic("BUG: frame.NewCompressor: " + err.Error())
	}
	return &Compressor{z}
}

// Encoder makes the frames of one epoch. It is not safe for concurrent use. Frames that it returns are new memory and
// belong to the caller.
type Encoder struct {
	cfg EncoderConfig

	last         Header // of the last sealed frame; its zero value before the first
	kind         Kind   // of the frame under construction
	version      int    // of it; cfg.Version from the next keyframe on
	wantKeyframe bool
	body         []byte
	rows         uint32
	pending      []byte // blocks for the next frame that is closed: losses, refusals

	sources    map[*series.Source]*encoderSource
	spare      map[*series.Source]*encoderSource // of the state before a keyframe, whose memory the same sources take over
	keys       map[string]*series.Source         // of sources, which have different keys
	nextSource uint64
	nextRow    uint64                    // the source that the next row is expected of
	schemas    map[*series.Schema]uint64 // ids start at 1; 0 is the empty schema
	nextSchema uint64

	bits    []byte // of the frame under construction, behind its blocks
	columns columnsWriter

	payload, residue, tokens, compressed []byte // scratch
	row                                  rowWriter
	rowBits                              []byte // of the row block that is about to be emitted
}

// encoderSource is what a decoder will know of a source too.
type encoderSource struct {
	id         uint64
	schema     *series.Schema
	values     rowEncoder
	starts     []series.StartAt
	histograms map[uint32]*histogramState
	exemplars  map[uint32]exemplarState
	lastT      int64 // of the last row, by the encoder's clock
}

// rowEncoder writes what rows of a source hold beside their sparse parts, in one version.
type rowEncoder interface {
	// resize makes state for n columns, and drops what there is if they begin anew.
	resize(n int, anew bool)
	// begin forgets everything but its memory.
	begin()
	count() int
	// changesPresence reports whether a decoder must be told which columns of a range of a whole row are present.
	changesPresence(row *series.Row, first, end int) bool
	// appendHead appends what the block of a row of the source begins with, up to its flags. A block may continue the row.
	appendHead(dst []byte, e *Encoder, id uint64, row *series.Row, flags byte, continued bool) []byte
	// appendValues appends the float columns of a range to the block dst; what stands outside of it to e.rowBits.
	appendValues(dst []byte, e *Encoder, row *series.Row, first, end int) []byte
}

// NewEncoder begins an epoch; its first frame is a keyframe.
func NewEncoder(cfg EncoderConfig) *Encoder {
	if cfg.Epoch == 0 {
		panic("BUG: frame.NewEncoder: epoch is 0")
	}
	if cfg.Version == 0 {
		cfg.Version = Version
	}
	if !slices.Contains(Versions(), cfg.Version) {
		panic(fmt.Sprintf("BUG: frame.NewEncoder: version is %d", cfg.Version))
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = DefaultMaxBody
	}
	cfg.MaxBody = max(cfg.MaxBody, minMaxBody)
	cfg.Facts = cfg.Facts[:min(len(cfg.Facts), maxFacts)]
	if cfg.Compressor == nil {
		cfg.Compressor = NewCompressor(1)
	}
	e := &Encoder{cfg: cfg, last: Header{ID: ID{Epoch: cfg.Epoch}}, wantKeyframe: true}
	e.reset()
	return e
}

// Last is the identity and row count of the newest frame; Number 0 before the first.
func (e *Encoder) Last() Header { return e.last }

// SetFacts changes EncoderConfig.Facts for the keyframes that are begun from now on.
func (e *Encoder) SetFacts(facts []Fact) { e.cfg.Facts = facts[:min(len(facts), maxFacts)] }

// SetMaxBody changes EncoderConfig.MaxBody for what follows.
func (e *Encoder) SetMaxBody(n int) { e.cfg.MaxBody = max(n, minMaxBody) }

// SetVersion changes the version of the frames, one of Versions, with a keyframe: the next frame that is begun. The
// version that is set already changes nothing.
func (e *Encoder) SetVersion(v int) {
	if !slices.Contains(Versions(), v) {
		panic(fmt.Sprintf("BUG: frame.Encoder.SetVersion: version is %d", v))
	}
	if v != e.cfg.Version {
		e.cfg.Version, e.wantKeyframe = v, true
	}
}

// RequestKeyframe makes the next frame that is begun a keyframe.
func (e *Encoder) RequestKeyframe() { e.wantKeyframe = true }

// Sources counts the sources with state, Columns the columns of all of them.
func (e *Encoder) Sources() int { return len(e.sources) }

// Columns counts the columns with state over all sources; absent ones count until the next keyframe.
func (e *Encoder) Columns() int {
	n := 0
	for _, s := range e.sources {
		n += s.values.count()
	}
	return n
}

// Loss announces rows that will never come, in the next frame that is closed.
func (e *Encoder) Loss(l Loss) { e.pending = appendBlock(e.pending, blockLoss, appendLoss(nil, &l)) }

// Refusals reports what limits refused, in the next frame that is closed.
func (e *Encoder) Refusals(r []Refusal) {
	r = r[:min(len(r), maxRefusals)]
	e.pending = appendBlock(e.pending, blockRefusals, appendRefusals(nil, r))
}

// reset forgets everything that a decoder does not know at the start of a keyframe.
func (e *Encoder) reset() {
	e.spare = e.sources
	e.sources = make(map[*series.Source]*encoderSource, len(e.sources))
	e.keys = make(map[string]*series.Source, len(e.keys))
	e.schemas = make(map[*series.Schema]uint64, len(e.schemas))
	e.nextSource, e.nextSchema, e.nextRow = 0, 1, 0
}

// Append adds a row. It appends to dst the frames that this closed, most often none: the frame under construction
// takes further rows until Close. now is the clock in milliseconds since 1970.
func (e *Encoder) Append(dst [][]byte, row *series.Row, now int64) ([][]byte, error) {
	if err := CheckRow(row); err != nil {
		return dst, err
	}
	e.begin()
	if row.End {
		s := e.sources[row.Source]
		if s == nil {
			dst, s = e.defineSource(dst, row.Source, now)
		}
		payload := appendVarint(binary.AppendUvarint(e.payload[:0], s.id), row.T)
		dst = e.emit(dst, blockEnd, payload, now)
		e.drop(row.Source)
		e.rows++
		return dst, nil
	}
	s := e.sources[row.Source]
	if s == nil {
		dst, s = e.defineSource(dst, row.Source, now)
	}
	dst = e.defineSchema(dst, row.Schema, now)
	s.follow(row.Schema)
	s.lastT = now
	dst = e.appendRow(dst, s, row, now)
	e.rows++
	return dst, nil
}

// Close appends the frame under construction to dst, if there is anything in it.
func (e *Encoder) Close(dst [][]byte, now int64) [][]byte {
	if e.Empty() {
		return dst
	}
	e.begin()
	return append(dst, e.seal(now))
}

// Empty reports whether Close would make no frame.
func (e *Encoder) Empty() bool { return len(e.body) == 0 && len(e.pending) == 0 }

// ForgetSilent drops the state of the sources whose last row was appended before the time, in milliseconds.
func (e *Encoder) ForgetSilent(dst [][]byte, before func(*series.Source) int64, now int64) [][]byte {
	for source, s := range e.sources {
		if s.lastT < before(source) {
			e.begin()
			if e.sources[source] != s {
				return dst // begin made a keyframe, and all is forgotten anyway
			}
			dst = e.forget(dst, source, now)
		}
	}
	return dst
}

// begin sees to it that a frame is under construction.
func (e *Encoder) begin() {
	if len(e.body) > 0 {
		return
	}
	e.kind = Delta
	if e.wantKeyframe {
		if e.kind, e.wantKeyframe = Keyframe, false; e.version != e.cfg.Version {
			e.version = e.cfg.Version
			e.columns = e.newColumns()
			e.sources = nil // of no use to another version
		}
		e.reset()
		e.body = appendBlock(e.body, blockOrigin, appendOrigin(nil, e.cfg.Facts))
	}
}

// emit adds a block, closing the frame before it if it does not fit any more.
func (e *Encoder) emit(dst [][]byte, kind blockKind, payload []byte, now int64) [][]byte {
	if len(e.body) > 0 && len(e.body)+len(e.bits)+len(payload)+len(e.rowBits)+8 > e.cfg.MaxBody {
		dst = append(dst, e.seal(now))
		e.kind = Delta // a keyframe asked for meanwhile waits for the next row
	}
	e.body = appendBlock(e.body, kind, payload)
	e.bits = append(e.bits, e.rowBits...)
	e.payload, e.rowBits = payload[:0], e.rowBits[:0]
	return dst
}

// seal makes a frame of the blocks so far.
func (e *Encoder) seal(now int64) []byte {
	h := Header{
		Version:    e.version,
		Kind:       e.kind,
		ID:         ID{Epoch: e.cfg.Epoch, Number: e.last.Number + 1},
		RowsBefore: e.last.RowsAfter(),
		Rows:       e.rows,
		Sent:       now,
	}
	if h.Kind == Delta {
		h.Base = e.last.Number
	}
	if h.Number == 1 {
		h.Flags |= FlagFirst
		h.Predecessor = e.cfg.Predecessor
	}
	e.body = append(e.body, e.pending...)
	e.pending = e.pending[:0]
	body := e.sealBody(&h)
	h.Size = h.bodyOffset() + len(body)
	sealed := Seal(make([]byte, 0, h.Size), h, body)
	e.last, e.rows, e.body, e.bits = h, 0, e.body[:0], e.bits[:0]
	if h.Kind == Keyframe { // deltas need less memory, for a long time
		e.body, e.bits, e.compressed, e.residue = nil, nil, nil, nil
		e.columns = e.newColumns()
	}
	return sealed
}

func (e *Encoder) forget(dst [][]byte, source *series.Source, now int64) [][]byte {
	dst = e.emit(dst, blockForget, binary.AppendUvarint(e.payload[:0], e.sources[source].id), now)
	e.drop(source)
	return dst
}

func (e *Encoder) drop(source *series.Source) {
	delete(e.sources, source)
	delete(e.keys, source.Key)
}

// defineSource gives a source an id. One of the same key, which has other labels or another interval then, is
// forgotten: for a decoder the key is the identity.
func (e *Encoder) defineSource(dst [][]byte, source *series.Source, now int64) ([][]byte, *encoderSource) {
	if old := e.keys[source.Key]; old != nil {
		dst = e.forget(dst, old, now)
	}
	e.keys[source.Key] = source
	s := &encoderSource{id: e.nextSource}
	if old := e.spare[source]; old != nil {
		delete(e.spare, source)
		s.values = old.values
		s.values.begin()
	} else {
		s.values = e.newValues()
	}
	e.nextSource++
	e.sources[source] = s
	p := binary.AppendUvarint(e.payload[:0], s.id)
	p = appendString(p, source.Key)
	p = binary.AppendUvarint(p, uint64(intervalMs(source)))
	p = appendLabels(p, source.Labels)
	return e.emit(dst, blockSource, p, now), s
}

func intervalMs(source *series.Source) int64 { return max(source.Interval.Milliseconds(), 0) }

func appendLabels(dst []byte, ls labels.Labels) []byte {
	dst = binary.AppendUvarint(dst, uint64(ls.Len()))
	ls.Range(func(l labels.Label) { dst = appendString(appendString(dst, l.Name), l.Value) })
	return dst
}

// follow brings the state to another schema: new columns begin at zero, and all do when the schema is not a
// descendant of the last.
func (s *encoderSource) follow(schema *series.Schema) {
	if s.schema == schema {
		return
	}
	anew := s.schema == nil || !schema.Extends(s.schema)
	if anew {
		s.starts, s.histograms, s.exemplars = nil, nil, nil
	}
	s.schema = schema
	s.values.resize(schema.Len(), anew)
}

// growColumns appends fresh columns up to n.
func growColumns[T any](c []T, n int) []T {
	if old := len(c); n <= cap(c) {
		c = c[:n]
		clear(c[old:])
		return c
	}
	return append(c, make([]T, n-len(c))...)
}

// CheckRow returns the error with which an encoder refuses a row, and with none else: broken invariants of the code that
// made the row, reported rather than sent.
func CheckRow(row *series.Row) error {
	if err := checkRow(row); err != nil {
		return fmt.Errorf("encode row of source %q at %d: %w", row.Source.Key, row.T, err)
	}
	return nil
}

func checkRow(row *series.Row) error {
	if row.End {
		return nil
	}
	n := row.Schema.Len()
	if row.Columns == nil {
		if len(row.Values) != n {
			return fmt.Errorf("%d values for %d columns", len(row.Values), n)
		}
		if row.Present != nil && len(row.Present) < (n+63)/64 {
			return fmt.Errorf("presence of %d columns for %d", len(row.Present)*64, n)
		}
	} else {
		if len(row.Values) != len(row.Columns) {
			return fmt.Errorf("%d values for %d listed columns", len(row.Values), len(row.Columns))
		}
		for i, c := range row.Columns {
			if int(c) >= n || i > 0 && c <= row.Columns[i-1] {
				return fmt.Errorf("column %d at place %d of a list for %d columns", c, i, n)
			}
		}
	}
	if err := checkExtras(row, n); err != nil {
		return err
	}
	if uint64(n) > math.MaxUint32 {
		return fmt.Errorf("%d columns", n)
	}
	return nil
}
