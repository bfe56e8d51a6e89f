package frame

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// Handler takes what a frame holds, in its order. Nil functions ignore. Rows are valid until Row returns.
type Handler struct {
	Row      func(*series.Row)
	Forget   func(*series.Source)
	Loss     func(Loss)
	Origin   func([]Fact)
	Refusals func([]Refusal)
	// Trace is told of every block before it is decoded, and at last of the bits of all rows as "bits", for dump.
	Trace func(kind string, bytes int)
}

// MismatchError means that a delta applies to another state than the decoder's. Nothing was decoded and the state is
// unchanged; a keyframe helps.
type MismatchError struct {
	Frame ID
	Base  uint64
	// Have is the frame the decoder is behind; its zero value before any.
	Have ID
}

func (e *MismatchError) Error() string {
	if e.Have == (ID{}) {
		return fmt.Sprintf("decode frame %s: it applies to frame %d and no keyframe came before", e.Frame, e.Base)
	}
	return fmt.Sprintf("decode frame %s: it applies to frame %d, this state is after %s", e.Frame, e.Base, e.Have)
}

// Decoder follows the frames of one lane. It is not safe for concurrent use.
type Decoder struct {
	cfg     DecoderConfig
	have    ID
	builder labels.ScratchBuilder

	sources map[uint64]*decoderSource
	schemas map[uint64]*decoderSchema
	// known outlives keyframes, so that what did not change keeps its address.
	known   map[string]*series.Source
	keys    map[string]uint64 // of sources
	seen    seenSchemas
	spare   spareSources
	columns int    // over sources and schemas, against MaxColumns
	nextRow uint64 // the source that the next row is expected of
	room    room

	// Of the frame that is being decoded:
	version int
	work    int    // see touch
	bits    []byte // behind its blocks, as far as rows have not read them
	reader  reader // of its blocks, one after the other
}

type decoderSource struct {
	source     *series.Source
	schema     *decoderSchema
	bytes      int // charged for it, and
	extra      int // for its histograms and exemplars
	values     []float64
	coded      rowDecoder
	present    []uint64 // in the last whole row, unless allPresent
	allPresent bool
	starts     []series.StartAt
	histograms map[uint32]*histogramState
	exemplars  map[uint32]exemplarState

	nextT int64 // time that the next row is expected to have, in version 2

	// next is where the next range of an unfinished row begins; -1 between rows.
	next     int
	list     []uint32  // columns of a partial row
	partial  []float64 // its values
	row      series.Row
	flagsRow byte // rowPartial of the unfinished row
}

// rowDecoder is the reverse of rowEncoder.
type rowDecoder interface {
	// begin forgets everything but its memory.
	begin()
	resize(n int, anew bool)
	// readValues brings the values of a range forward, and appends those of a partial row to s.partial.
	readValues(d *Decoder, s *decoderSource, r *reader, first, end int)
}

type decoderSchema struct {
	schema  *series.Schema  // nil until the last block of it came
	parent  *decoderSchema  // nil for the empty one
	columns []series.Column // own ones, while it is incomplete
	forked  bool            // it has a child already
}

// extends reports whether s is old or grew from it on the wire. That two schemas have the same columns, and so are one
// object, is not enough: an encoder goes by its chain.
func (s *decoderSchema) extends(old *decoderSchema) bool {
	for s != nil && s.schema.Len() >= old.schema.Len() {
		if s == old {
			return true
		}
		s = s.parent
	}
	return false
}

// NewDecoder returns a decoder that waits for a keyframe.
func NewDecoder(cfg DecoderConfig) *Decoder {
	if cfg.Catalog == nil {
		panic("BUG: frame.NewDecoder: no catalog")
	}
	setDefault(&cfg.MaxBody, 8<<20)
	setDefault(&cfg.MaxColumns, 4_000_000)
	setDefault(&cfg.MaxSources, 100_000)
	setDefault(&cfg.MaxState, 512<<20)
	if cfg.Scratch == nil {
		cfg.Scratch = &Scratch{}
	}
	d := &Decoder{cfg: cfg, builder: labels.NewScratchBuilder(16), known: map[string]*series.Source{}}
	d.reset()
	return d
}

func setDefault(v *int, to int) {
	if *v == 0 {
		*v = to
	}
}

// Have is the frame whose state the decoder is in; its zero value means that it needs a keyframe.
func (d *Decoder) Have() ID { return d.have }

// Applies reports whether Decode would take a frame with this header.
func (d *Decoder) Applies(h *Header) bool {
	return h.Kind == Keyframe || d.have == ID{h.Epoch, h.Base}
}

// Sources counts the sources with state.
func (d *Decoder) Sources() int { return len(d.sources) }

func (d *Decoder) reset() {
	// Addresses survive one keyframe without a row, and are forgotten then.
	known := make(map[string]*series.Source, len(d.sources))
	for _, s := range d.sources {
		known[s.source.Key] = s.source
	}
	if len(known) > 0 {
		d.known = known
	}
	d.have = ID{}
	d.sources = make(map[uint64]*decoderSource, len(d.sources))
	d.keys = make(map[string]uint64, len(d.keys))
	d.schemas = map[uint64]*decoderSchema{0: {schema: d.cfg.Catalog.Empty(), forked: true}}
	d.columns, d.nextRow = 0, 0
	d.room = room{d.cfg.MaxState, d.cfg.MaxState}
}

// Reset makes the decoder wait for a keyframe.
func (d *Decoder) Reset() { d.reset() }

// Decode verifies a frame, applies it, and hands what it holds to h. A *MismatchError leaves the state as it was. Any
// other error means that the frame is damaged, hostile or beyond the limits: the decoder waits for a keyframe then,
// and rows handed out before the error are valid.
func (d *Decoder) Decode(b []byte, h Handler) (Header, error) {
	header, err := Verify(b)
	if err != nil {
		d.reset()
		return header, err
	}
	if !d.Applies(&header) {
		return header, &MismatchError{Frame: header.ID, Base: header.Base, Have: d.have}
	}
	version := d.version
	if header.Kind == Delta && header.Version != version {
		d.reset()
		return header, fmt.Errorf("decode frame %s: it is of version %d, the frame it applies to of version %d", header.ID, header.Version, version)
	}
	unpacked := d.cfg.Scratch.take()
	defer d.cfg.Scratch.give(unpacked)
	body, err := d.open(b[header.bodyOffset():], &header, unpacked)
	if err != nil {
		d.reset()
		return header, fmt.Errorf("decode frame %s: %w", header.ID, err)
	}
	if header.Kind == Keyframe {
		spare := spareSources{d.sources, d.keys}
		d.reset()
		d.seen.age()
		if header.Version == version {
			d.spare = spare
			defer func() { d.spare = spareSources{} }()
		}
	}
	if err := d.blocks(body, &header, &h); err != nil {
		d.reset()
		d.seen = seenSchemas{}
		return header, fmt.Errorf("decode frame %s: %w", header.ID, err)
	}
	d.have = header.ID
	return header, nil
}

// blocks applies the blocks of a body.
func (d *Decoder) blocks(body []byte, header *Header, h *Handler) error {
	d.work = 0
	rows, bits := uint32(0), len(d.bits)
	outer := reader{b: body}
	for len(outer.b) > 0 {
		offset := len(body) - len(outer.b)
		kind := blockKind(outer.byte())
		r := &d.reader
		*r = reader{b: outer.bytes(), room: &d.room}
		if outer.err != nil {
			return fmt.Errorf("%s block at offset %d: %w", kind, offset, outer.err)
		}
		if h.Trace != nil {
			h.Trace(kind.String(), len(r.b))
		}
		done, err := d.block(kind, r, h)
		if err == nil {
			err = r.end()
		}
		if err != nil {
			return fmt.Errorf("%s block at offset %d: %w", kind, offset, err)
		}
		if done {
			rows++
		}
	}
	if h.Trace != nil && bits > 0 {
		h.Trace("bits", bits)
	}
	if len(d.bits) > 0 {
		return fmt.Errorf("%d bytes of bits are left over", len(d.bits))
	}
	if rows != header.Rows {
		return fmt.Errorf("it completes %d rows, its header says %d", rows, header.Rows)
	}
	return nil
}

// block applies one block and reports whether it completed a row.
func (d *Decoder) block(kind blockKind, r *reader, h *Handler) (bool, error) {
	switch kind {
	case blockSource:
		return false, d.source(r)
	case blockSchema:
		return false, d.schema(r)
	case blockRow:
		return d.row(r, h)
	case blockEnd:
		return true, d.endSource(r, h)
	case blockForget:
		s := d.take(r)
		if r.err == nil && h.Forget != nil {
			h.Forget(s.source)
		}
	case blockLoss:
		if l := readLoss(r); r.err == nil && h.Loss != nil {
			h.Loss(l)
		}
	case blockOrigin:
		if facts := readOrigin(r); r.err == nil && h.Origin != nil {
			h.Origin(facts)
		}
	case blockRefusals:
		if refusals := readRefusals(r); r.err == nil && h.Refusals != nil {
			h.Refusals(refusals)
		}
	default:
		if kind&skippable == 0 {
			return false, errors.New("this version does not know it and may not skip it")
		}
		r.b = nil
	}
	return false, nil
}

func (d *Decoder) source(r *reader) error {
	id := r.uvarint()
	key := r.string()
	interval := r.uvarint()
	ls := makeLabels(&d.builder, readLabelPairs(r, nil))
	size := entryCost + labelsCost + len(key) + int(ls.ByteSize())
	r.charge(size)
	if r.err != nil {
		return r.err
	}
	if _, ok := d.sources[id]; ok {
		return fmt.Errorf("source %d is defined already", id)
	}
	if other, ok := d.keys[key]; ok {
		return fmt.Errorf("source %d has the key %q of source %d", id, key, other)
	}
	if len(d.sources) >= d.cfg.MaxSources {
		return &LimitError{"sources", d.cfg.MaxSources}
	}
	if interval > math.MaxInt64/uint64(time.Millisecond) {
		return fmt.Errorf("interval of source %q is %d ms", key, interval)
	}
	source := d.known[key]
	if source == nil || source.Interval.Milliseconds() != int64(interval) || !labels.Equal(source.Labels, ls) {
		source = newSource(key, ls, interval)
	}
	d.keys[key] = id
	s := d.spare.take(key)
	if s == nil {
		s = &decoderSource{coded: d.newValues()}
	}
	s.source, s.schema, s.bytes, s.next, s.allPresent = source, d.schemas[0], size, -1, true
	d.sources[id] = s
	return nil
}

func (d *Decoder) schema(r *reader) error {
	id, parentID := r.uvarint(), r.uvarint()
	more := r.bounded(2, "continuation")
	n := r.count(minColumn)
	if r.err == nil && (n == 0 || id == 0) {
		r.failf("schema %d grows by %d columns", id, n)
	}
	if r.err != nil {
		return r.err
	}
	parent := d.schemas[parentID]
	if parent == nil || parent.schema == nil {
		return fmt.Errorf("schema %d grows from %d, which is not there", id, parentID)
	}
	s := d.schemas[id]
	charge := n
	switch {
	case s == nil:
		r.charge(entryCost)
		s = &decoderSchema{parent: parent}
		if parent.forked { // a second child takes a copy of all columns
			charge += parent.schema.Len()
		}
		parent.forked = true
		d.schemas[id] = s
	case s.schema != nil || s.parent != parent:
		return fmt.Errorf("schema %d is defined already", id)
	}
	if d.columns += charge; d.columns > d.cfg.MaxColumns {
		return &LimitError{"columns", d.cfg.MaxColumns}
	}
	var key seenKey
	whole := more == 0 && len(s.columns) == 0
	if whole {
		key = d.seen.key(d.version, parent.schema, n, r.b)
		if known, ok := d.seen.find(key); ok {
			if r.charge(known.charge); r.err == nil {
				r.b, s.schema = nil, known.schema
			}
			return r.err
		}
	}
	left := r.room.left
	read := readColumns
	if d.version == 1 {
		read = readColumns1
	}
	columns := read(r, n, &d.builder)
	if r.err == nil {
		r.err = r.end()
	}
	if r.err != nil {
		return r.err
	}
	if whole {
		s.schema = d.cfg.Catalog.Extend(parent.schema, columns)
		d.seen.add(key, seenSchema{s.schema, left - r.room.left})
		return nil
	}
	s.columns = append(s.columns, columns...)
	if more == 0 {
		s.schema = d.cfg.Catalog.Extend(parent.schema, s.columns)
		s.columns = nil
	}
	return nil
}

// take removes the source that a block names from the state.
func (d *Decoder) take(r *reader) *decoderSource {
	id := r.uvarint()
	s := d.sources[id]
	if s == nil {
		r.failf("source %d is not there", id)
		return nil
	}
	if s.next >= 0 {
		r.failf("source %q: the row at %d is not complete", s.source.Key, s.row.T)
		return nil
	}
	d.columns -= len(s.values)
	r.charge(-s.bytes - s.extra)
	delete(d.sources, id)
	delete(d.keys, s.source.Key)
	return s
}

func (d *Decoder) endSource(r *reader, h *Handler) error {
	s := d.take(r)
	t := r.varint()
	if r.err != nil {
		return r.err
	}
	delete(d.known, s.source.Key)
	if h.Row != nil {
		h.Row(&series.Row{Source: s.source, Schema: s.schema.schema, T: t, End: true})
	}
	return nil
}
