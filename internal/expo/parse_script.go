package expo

import (
	"bytes"
	"hash/maphash"
	"math"

	"github.com/thalweg/thalweg/internal/series"
)

// script is the last good body of a target without its values: what the next body says again, but for a few lines. With
// each line stands what is known of its series. A body that says something else makes another script; the lines that it
// repeats are copied.
type script struct {
	format format
	text   []byte // the segments of the lines, then what stands behind the last sample
	lines  []line // one for each sample, in the order of the body
	index  *index // of the lines by their keys; nil until it is asked for
	seed   maphash.Seed
}

// line is one sample of a script. In a text format its segment is all between the sample before and its own value:
// comments, the series, a space. In others it is the bytes that textparse gives for the series. The newest value of a
// series is held behind its segment, so that both together are compared when it has not changed.
type line struct {
	end     uint32 // of the segment in the text
	key     uint32 // where the bytes that expose the series begin in the text
	gap     uint8  // length of what stands between them and the value
	room    uint8  // bytes behind the segment that are free to hold the value; the next segment follows
	held    uint8  // bytes of them that hold it, with a newline; 0 if they do not
	typ     typ    // of the type line above, whatever its family
	kind    series.Kind
	repeat  bool // the series stands above already; all below is known there
	dropped bool // by Options.Map
	counted bool // as added
	column  uint32
	table   *table  // nil if dropped
	family  *family // the metadata under which it stands
	value   float64 // that is held
	seen    uint64  // round that had it last
}

// hold keeps a value and its spelling, with the newline, if there is room for it.
func (l *line) hold(text, spelling []byte, v float64) {
	if l.held = 0; len(spelling) <= int(l.room) {
		l.held, l.value = uint8(copy(text[l.end:], spelling)), v
	}
}

// begin is where the segment of line i begins.
func (s *script) begin(i int) uint32 {
	if i == 0 {
		return 0
	}
	l := &s.lines[i-1]
	return l.end + uint32(l.room)
}

func (s *script) key(i int) []byte {
	l := &s.lines[i]
	return s.text[l.key : l.end-uint32(l.gap)]
}

// tail is what stands behind the last sample.
func (s *script) tail() []byte { return s.text[s.begin(len(s.lines)):] }

// find returns the first line of the series that the bytes of key expose.
func (s *script) find(key []byte) (int, bool) {
	if s.index == nil {
		s.index, s.seed = newIndex(len(s.lines)), maphash.MakeSeed()
		for i := range s.lines {
			if !s.lines[i].repeat {
				s.enter(i)
			}
		}
	}
	return s.index.find(maphash.Bytes(s.seed, key), func(i int) bool { return bytes.Equal(s.key(i), key) })
}

// enter puts line i into the index.
func (s *script) enter(i int) {
	s.index.enter(i, func(i int) uint64 { return maphash.Bytes(s.seed, s.key(i)) })
}

// segment is the segment of a line while it is read.
type segment struct {
	text []byte
	key  int // where the series begins in text
	gap  int // length of what stands behind the series
	room int // for the value
}

func (s *script) segment(i int) segment {
	begin, l := s.begin(i), &s.lines[i]
	return segment{text: s.text[begin:l.end], key: int(l.key - begin), gap: int(l.gap), room: int(l.room)}
}

// append adds l with another segment.
func (s *script) append(l line, g segment) error {
	begin := len(s.text)
	if begin+len(g.text)+g.room > math.MaxUint32 {
		return &LimitError{Limit: "body_size_limit", Max: math.MaxUint32, Detail: "names of all series"}
	}
	s.text = append(s.text, g.text...)
	l.key, l.end, l.gap = uint32(begin+g.key), uint32(len(s.text)), uint8(g.gap)
	l.room, l.held = uint8(g.room), 0
	s.text = append(s.text, make([]byte, g.room)...)
	s.lines = append(s.lines, l)
	return nil
}

// copy adds the lines [from, to) of another script, with their segments.
func (s *script) copy(from *script, first, last int) {
	if first == last {
		return
	}
	begin := from.begin(first)
	shift := uint32(len(s.text)) - begin
	s.text = append(s.text, from.text[begin:from.begin(last)]...)
	n := len(s.lines)
	s.lines = append(s.lines, from.lines[first:last]...)
	for i := range s.lines[n:] {
		l := &s.lines[n+i]
		l.key, l.end = l.key+shift, l.end+shift
	}
}

// settled returns s as it is kept: without an index, in little more memory than it needs.
func (s *script) settled() *script {
	s.index, s.text, s.lines = nil, fit(s.text), fit(s.lines)
	return s
}

// fit returns s in little more memory than it needs.
func fit[E any](s []E) []E {
	if n := len(s); n+n/8+64 < cap(s) {
		return append(make([]E, 0, n), s...)
	}
	return s
}
