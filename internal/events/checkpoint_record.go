package events

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

// stateVersion is that of the contents of records. Another one is refused, as damage is.
const stateVersion = 1

// errState is a record that cannot be understood.
var errState = errors.New("a record cannot be understood")

// position is how far the events of the sources have been taken. It is written with what they came to.
type position struct {
	// Of the Redis list: claims before low are deleted, those before seq are done, and of seq itself offset elements.
	low, seq, offset uint64
	// streams have the last message that was looked at, by the name of the stream.
	streams map[string]StreamPosition
}

// state is everything that a restart does not forget.
type state struct {
	*aggregate
	position position
	ids      window
	clean    bool      // the process ended as it should
	number   uint64    // of the record in the journal of replicas; 0: there is none
	nextID   uint32    // of a series in the file
	byID     []*member // while records are read
}

const (
	recordClean = 1 << iota
	recordWhole
	recordNumbered
)

// appendRecord appends a record with everything, or with what has changed since the last one.
func (s *state) appendRecord(dst []byte, whole bool) []byte {
	first := len(dst)
	dst = append(dst, make([]byte, recordHeader)...)
	flags := byte(0)
	if s.clean {
		flags |= recordClean
	}
	if whole {
		flags |= recordWhole
	}
	if s.number > 0 {
		flags |= recordNumbered
	}
	dst = append(dst, stateVersion, flags)
	if s.number > 0 {
		dst = binary.AppendUvarint(dst, s.number)
	}
	dst = binary.AppendVarint(dst, s.started)
	dst = s.position.append(dst)
	dst = s.ids.append(dst, whole)
	if whole {
		dst = s.appendAll(dst)
	} else {
		dst = s.appendChanges(dst)
	}
	for _, m := range s.changed {
		m.changed = false
	}
	clear(s.changed)
	s.changed, s.removed = s.changed[:0], s.removed[:0]
	return seal(dst, first)
}

// seal fills in the header of a record that stands at the end, from first on.
func seal(dst []byte, first int) []byte {
	content := dst[first+recordHeader:]
	header := dst[first:]
	copy(header, recordMark)
	binary.LittleEndian.PutUint64(header[len(recordMark):], uint64(len(content)))
	binary.LittleEndian.PutUint32(header[len(recordMark)+8:], crc32.Checksum(content, castagnoli))
	return dst
}

func (p *position) append(dst []byte) []byte {
	for _, n := range []uint64{p.low, p.seq, p.offset, uint64(len(p.streams))} {
		dst = binary.AppendUvarint(dst, n)
	}
	for name, at := range p.streams {
		dst = binary.AppendVarint(appendString(dst, name), at.Created)
		dst = binary.AppendUvarint(dst, at.Sequence)
		dst = binary.AppendUvarint(dst, uint64(at.Checksum))
		dst = binary.AppendVarint(dst, at.Stored)
	}
	return dst
}

// appendAll appends all series, which get ids in the order in which they stand there.
func (s *state) appendAll(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, 0) // none is removed
	s.nextID = 0
	for _, f := range s.order {
		f.saved = false
		for _, m := range f.members {
			m.id = 0
		}
	}
	dst = binary.AppendUvarint(dst, uint64(s.size))
	for _, f := range s.order {
		for _, m := range f.members {
			if !m.dead {
				dst = s.appendMember(dst, m)
			}
		}
	}
	return dst
}

func (s *state) appendChanges(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s.removed)))
	for _, id := range s.removed {
		dst = binary.AppendUvarint(dst, uint64(id))
	}
	alive := 0
	for _, m := range s.changed {
		if !m.dead {
			alive++
		}
	}
	dst = binary.AppendUvarint(dst, uint64(alive))
	for _, m := range s.changed {
		if !m.dead {
			dst = s.appendMember(dst, m)
		}
	}
	return dst
}

// appendMember appends a series: its id, or 0 and what will not change; then what does.
func (s *state) appendMember(dst []byte, m *member) []byte {
	dst = binary.AppendUvarint(dst, uint64(m.id))
	if m.id == 0 {
		s.nextID++
		m.id = s.nextID
		dst = s.appendFamily(dst, m.family)
		dst = binary.AppendUvarint(dst, uint64(m.labels.Len()))
		m.labels.Range(func(l labels.Label) { dst = appendString(appendString(dst, l.Name), l.Value) })
		dst = binary.AppendVarint(dst, m.created)
	}
	dst = binary.AppendVarint(dst, m.touched)
	dst = binary.AppendVarint(dst, int64(m.ttl))
	dst = appendFloat(appendFloat(dst, m.sum.value), m.sum.rest)
	switch parts := m.parts.(type) {
	case distribution:
		dst = parts.appendState(dst)
	case *gauge:
		dst = parts.appendState(append(dst, 1))
	case nil:
		if m.family.typ == Gauge {
			dst = append(dst, 0)
		}
	}
	return dst
}

// appendFamily appends the name of a metric and, when it comes first, everything about it.
func (s *state) appendFamily(dst []byte, f *family) []byte {
	dst = appendString(dst, f.name)
	if f.saved {
		return append(dst, 0)
	}
	f.saved = true
	native := byte(0)
	if f.native {
		native = 1
	}
	dst = append(dst, 1, byte(f.typ), native)
	dst = appendString(appendString(dst, f.help), f.unit)
	dst = binary.AppendUvarint(dst, uint64(len(f.bounds)))
	for _, b := range f.bounds {
		dst = appendFloat(dst, b)
	}
	dst = binary.AppendUvarint(dst, uint64(len(f.objectives)))
	for _, o := range f.objectives {
		dst = appendFloat(appendFloat(dst, o.quantile), o.epsilon)
	}
	return dst
}

func (g *gauge) appendState(dst []byte) []byte {
	complete := byte(0)
	if g.complete {
		complete = 1
	}
	dst = append(dst, byte(g.op), complete)
	for _, n := range []int64{g.t, g.window, g.at} {
		dst = binary.AppendVarint(dst, n)
	}
	return appendFloat(dst, g.current)
}

func (g *gauge) decodeState(d *decoder) {
	g.op, g.complete = Op(d.byte()), d.byte() != 0
	g.t, g.window, g.at = d.varint(), d.varint(), d.varint()
	g.current = d.float()
	if g.op != Set && (g.op != Min && g.op != Max || g.window <= 0) {
		d.fail()
	}
}

// restore takes the content of a record that appendRecord made.
func (s *state) restore(content []byte) error {
	d := &decoder{rest: content}
	if d.byte() != stateVersion {
		return errState
	}
	flags := d.byte()
	s.clean = flags&recordClean != 0
	if s.number = 0; flags&recordNumbered != 0 {
		s.number = d.uvarint()
	}
	s.started = d.varint()
	s.position.decode(d)
	s.ids.decode(d)
	if flags&recordWhole != 0 && s.size > 0 {
		return errState // it is the first of its file
	}
	for range d.length(1) {
		id := d.uvarint()
		if id == 0 || id > uint64(len(s.byID)) || s.byID[id-1].dead {
			return errState
		}
		s.remove(s.byID[id-1])
	}
	for range d.length(1) {
		s.decodeMember(d)
	}
	s.removed = s.removed[:0]
	if d.failed || len(d.rest) > 0 {
		return errState
	}
	return nil
}

// restored is called when all records have been read. The time in which nobody took events does not count for the life of a
// series.
func (s *state) restored(now int64) {
	for _, m := range s.byID {
		if !m.dead && m.ttl > 0 {
			m.touched = max(m.touched, now)
			s.deaths.plan(m)
		}
	}
	s.byID = nil
}

func (p *position) decode(d *decoder) {
	p.low, p.seq, p.offset = d.uvarint(), d.uvarint(), d.uvarint()
	p.streams = map[string]StreamPosition{}
	for range d.length(5) {
		name := d.string()
		p.streams[name] = StreamPosition{
			Created: d.varint(), Sequence: d.uvarint(), Checksum: uint32(d.uvarint()), Stored: d.varint(),
		}
	}
}

func (s *state) decodeMember(d *decoder) {
	id := d.uvarint()
	var m *member
	switch {
	case d.failed:
		return
	case id == 0:
		if m = s.decodeNew(d); m == nil {
			d.fail()
			return
		}
		s.byID = append(s.byID, m)
		m.id = uint32(len(s.byID))
		s.nextID = m.id
	case id > uint64(len(s.byID)) || s.byID[id-1].dead:
		d.fail()
		return
	default:
		m = s.byID[id-1]
	}
	m.touched, m.ttl = d.varint(), time.Duration(d.varint())
	m.sum = sum{d.float(), d.float()}
	switch parts := m.parts.(type) {
	case distribution:
		parts.decodeState(d)
	default:
		if m.family.typ == Gauge && d.byte() != 0 {
			g := &gauge{}
			g.decodeState(d)
			m.parts = g
		}
	}
}

// decodeNew makes a series. It returns nil if there is something wrong.
func (s *state) decodeNew(d *decoder) *member {
	f := s.decodeFamily(d)
	b := labels.NewScratchBuilder(8)
	for range d.length(2) {
		b.Add(d.string(), d.string())
	}
	m := &member{labels: b.Labels(), family: f, created: d.varint(), column: -1}
	if d.failed || f == nil || m.labels.Get(model.MetricNameLabel) != f.name {
		return nil
	}
	hash := m.labels.Hash()
	s.own = m.labels
	if s.lookup(hash) != nil {
		return nil
	}
	s.own = labels.EmptyLabels()
	m.parts = f.newParts()
	s.insert(m, hash)
	return m
}

func (s *state) decodeFamily(d *decoder) *family {
	name := d.string()
	if d.byte() == 0 {
		return s.families[name]
	}
	f := &family{name: name, typ: Type(d.byte()), native: d.byte() != 0, help: d.string(), unit: d.string(), saved: true}
	for range d.length(8) {
		f.bounds = append(f.bounds, d.float())
	}
	for range d.length(16) {
		f.objectives = append(f.objectives, objective{d.float(), d.float()})
	}
	if d.failed || f.typ > Histogram || s.families[name] != nil || len(f.bounds) > maxBuckets || len(f.objectives) > maxObjectives {
		return nil
	}
	return f
}
