package writeproto

import (
	"encoding/binary"
	"strings"
)

// symbols are the strings of requests of 2.0. Those of series have a number for as long as the encoder remembers them, and
// a place in the table of each request that needs them.
type symbols struct {
	ids   map[string]uint32
	names []string // by number; 0: ""
	refs  []uint32 // by number: the place in the request under construction; 0: none, or the empty string

	used []uint32 // numbers with a place

	// section is the table of the request, as fields of it, and n how many it has, the empty string included.
	section []byte
	n       uint32
	// passing has the strings of this request alone.
	passing map[string]uint32
}

// symbolBytes is what is counted for a symbol beside its name.
const symbolBytes = 64

func newSymbols() symbols {
	s := symbols{ids: map[string]uint32{"": 0}, names: []string{""}, refs: []uint32{0}, passing: map[string]uint32{}}
	s.reset()
	return s
}

// reset begins the table of a request.
func (s *symbols) reset() {
	for _, id := range s.used {
		s.refs[id] = 0
	}
	s.used = s.used[:0]
	clear(s.passing)
	s.section, s.n = appendString(s.section[:0], fieldSymbols2, ""), 1
}

// intern returns the number of a string of a series.
func (s *symbols) intern(name string) (id uint32, isNew bool) {
	if id, ok := s.ids[name]; ok {
		return id, false
	}
	name = strings.Clone(name)
	id = uint32(len(s.names))
	s.names = append(s.names, name)
	s.refs = append(s.refs, s.passing[name])
	s.used = append(s.used, id)
	s.ids[name] = id
	return id, true
}

// ref returns the place of a symbol in the table.
func (s *symbols) ref(id uint32) uint32 {
	if ref := s.refs[id]; ref != 0 || id == 0 {
		return ref
	}
	return s.place(id)
}

func (s *symbols) place(id uint32) uint32 {
	s.refs[id] = s.add(s.names[id])
	s.used = append(s.used, id)
	return s.refs[id]
}

func (s *symbols) add(name string) uint32 {
	s.section = appendString(s.section, fieldSymbols2, name)
	s.n++
	return s.n - 1
}

// pass returns the place of a string that no series has, as far as is known.
func (s *symbols) pass(name string) uint32 {
	if id, ok := s.ids[name]; ok {
		return s.ref(id)
	}
	ref, ok := s.passing[name]
	if !ok {
		name = strings.Clone(name)
		ref = s.add(name)
		s.passing[name] = ref
	}
	return ref
}

// appendRefs appends the places of symbols as a packed field.
func (s *symbols) appendRefs(dst []byte, field int, ids []uint32) []byte {
	dst = append(appendTag(dst, field, wireBytes), 0)
	from := len(dst)
	for _, id := range ids {
		ref := s.refs[id]
		if ref == 0 {
			ref = s.ref(id)
		}
		for ; ref >= 0x80; ref >>= 7 {
			dst = append(dst, byte(ref)|0x80)
		}
		dst = append(dst, byte(ref))
	}
	return closeLength(dst, from)
}

// closeLength writes how many bytes there are from an index on into the byte before it, or makes room for more.
func closeLength(dst []byte, from int) []byte {
	n := len(dst) - from
	if n < 0x80 {
		dst[from-1] = byte(n)
		return dst
	}
	more := uvarintLen(uint64(n)) - 1
	dst = append(dst, make([]byte, more)...)
	copy(dst[from+more:], dst[from:from+n])
	binary.PutUvarint(dst[from-1:], uint64(n))
	return dst
}
