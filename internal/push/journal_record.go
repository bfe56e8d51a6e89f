package push

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/prometheus/model/labels"
)

// A record of the journal:
//
//	mark     4 bytes, where to go on behind damage
//	length   4 bytes, little endian, of the content
//	CRC-32C  4 bytes, little endian, of the content
//	content  kind, 1 byte; and, but for a reset, the site and the labels of a group; and, if it holds one, the group
//
// Strings have their length before them, lists their number of elements; numbers are varints, times nanoseconds.
const (
	recordMark   = "TWpj"
	recordHeader = len(recordMark) + 8
)

// recordKind says what is to be made of what came before.
type recordKind byte

const (
	recordReset  recordKind = 1 // there is nothing
	recordGroup  recordKind = 2 // this is what the group holds now
	recordDelete recordKind = 3 // there is no such group
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// record is one of the journal.
type record struct {
	kind     recordKind
	site     string
	grouping grouping
	state    *state // of a recordGroup; a decoded one has families without names, types and hashes
}

var errRecord = errors.New("record is damaged")

// appendRecord appends what is to be said of a group, which is nothing more if it has no state.
func appendRecord(dst []byte, site string, by grouping, s *state) []byte {
	first := len(dst)
	dst = append(dst, make([]byte, recordHeader)...)
	kind := recordDelete
	if s != nil {
		kind = recordGroup
	}
	dst = appendString(append(dst, byte(kind)), site)
	dst = binary.AppendUvarint(dst, uint64(len(by)))
	for _, l := range by {
		dst = appendString(appendString(dst, l.Name), l.Value)
	}
	if s != nil {
		dst = appendState(dst, s)
	}
	return seal(dst, first)
}

func appendReset(dst []byte) []byte {
	first := len(dst)
	dst = append(dst, make([]byte, recordHeader)...)
	return seal(append(dst, byte(recordReset)), first)
}

func appendState(dst []byte, s *state) []byte {
	dst = binary.AppendVarint(dst, s.pushed.UnixNano())
	ttl := int64(-1)
	if s.ttl != nil {
		ttl = int64(*s.ttl)
	}
	dst = binary.AppendVarint(dst, ttl)
	dst = binary.AppendUvarint(dst, uint64(len(s.families)))
	for i := range s.families {
		dst = binary.AppendVarint(dst, s.families[i].at.UnixNano())
		dst = binary.AppendUvarint(dst, uint64(len(s.families[i].data)))
		dst = append(dst, s.families[i].data...)
	}
	return dst
}

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// seal fills in the header of a record that stands at the end, from first on.
func seal(dst []byte, first int) []byte {
	content := dst[first+recordHeader:]
	if len(content) > math.MaxUint32 {
		panic("push: BUG: a group is beyond its limits")
	}
	header := dst[first:]
	copy(header, recordMark)
	binary.LittleEndian.PutUint32(header[len(recordMark):], uint32(len(content)))
	binary.LittleEndian.PutUint32(header[len(recordMark)+4:], crc32.Checksum(content, castagnoli))
	return dst
}

// nextRecord decodes the record at the begin of data and says how long it is. What it returns does not refer to data.
func nextRecord(data []byte) (r record, n int, err error) {
	if len(data) < recordHeader || string(data[:len(recordMark)]) != recordMark {
		return r, 0, errRecord
	}
	size := uint64(binary.LittleEndian.Uint32(data[len(recordMark):]))
	if size > uint64(len(data)-recordHeader) {
		return r, 0, errRecord
	}
	content := data[recordHeader : recordHeader+int(size)]
	if crc32.Checksum(content, castagnoli) != binary.LittleEndian.Uint32(data[len(recordMark)+4:]) {
		return r, 0, errRecord
	}
	r, err = decodeRecord(content)
	return r, recordHeader + int(size), err
}

// resync returns where the next good record begins behind the first byte of data; not ok if there is none.
func resync(data []byte) (at int, ok bool) {
	for at = 1; at < len(data); at++ {
		i := bytes.Index(data[at:], []byte(recordMark))
		if i < 0 {
			return 0, false
		}
		at += i
		if _, _, err := nextRecord(data[at:]); err == nil {
			return at, true
		}
	}
	return 0, false
}

func decodeRecord(content []byte) (record, error) {
	d := recordDecoder{rest: content}
	r := record{kind: recordKind(d.byte())}
	switch r.kind {
	case recordReset:
		return r, d.end()
	case recordGroup, recordDelete:
	default:
		return r, errRecord
	}
	r.site = d.string()
	for range d.length(2) {
		r.grouping = append(r.grouping, labels.Label{Name: d.string(), Value: d.string()})
	}
	if r.kind == recordGroup {
		r.state = d.state()
	}
	return r, d.end()
}

// recordDecoder takes a content apart. After the first error everything is zero.
type recordDecoder struct {
	rest   []byte
	failed bool
}

func (d *recordDecoder) end() error {
	if d.failed || len(d.rest) > 0 {
		return errRecord
	}
	return nil
}

func (d *recordDecoder) fail() { d.failed, d.rest = true, nil }

func (d *recordDecoder) byte() byte {
	if len(d.rest) == 0 {
		d.fail()
		return 0
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b
}

func (d *recordDecoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// length reads the number of elements of a list, each of which takes at least some bytes.
func (d *recordDecoder) length(each int) int {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 || v > uint64(len(d.rest)-n)/uint64(each) {
		d.fail()
		return 0
	}
	d.rest = d.rest[n:]
	return int(v)
}

func (d *recordDecoder) bytes() []byte {
	n := d.length(1)
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *recordDecoder) string() string { return string(d.bytes()) }

func (d *recordDecoder) state() *state {
	s := &state{pushed: time.Unix(0, d.varint())}
	if ttl := time.Duration(d.varint()); ttl >= 0 {
		s.ttl = &ttl
	}
	n := d.length(2)
	s.families = make([]family, 0, n)
	for range n {
		s.families = append(s.families, family{at: time.Unix(0, d.varint()), data: bytes.Clone(d.bytes())})
	}
	return s
}

// restored makes a state of one that was decoded.
func (by grouping) restored(s *state) (*state, error) {
	families := make(map[string]family, len(s.families))
	for _, f := range s.families {
		var m dto.MetricFamily
		if err := known.Unmarshal(f.data, &m); err != nil {
			return nil, err
		}
		if err := f.describe(&m); err != nil {
			return nil, err
		}
		families[f.name] = f
	}
	next := by.state(families)
	next.pushed, next.ttl = s.pushed, s.ttl
	return next, nil
}
