package expo

import (
	"bytes"
	"hash/maphash"
	"math"
	"runtime"
	"slices"
	"sync"
	"weak"

	"github.com/thalweg/thalweg/internal/series"
)

// script is a body without its values: what the next bodies of a target say again, but for a few lines. It is immutable
// once it is kept, and targets that say the same have one together. What its series are for a target stands in a cast.
type script struct {
	format   format
	text     []byte           // the segments of the lines, then what stands behind the last sample
	lines    []line           // one for each sample, in the order of the body
	families []*series.Family // where a schema says the same: as it stands there

	indexed sync.Once
	index   *index // of the lines by their keys, once somebody has asked for it
	seed    maphash.Seed
}

// line is one sample of a script. In a text format its segment is all between the sample before and its own value:
// comments, the series, a space. In others it is the bytes that textparse gives for the series.
type line struct {
	end    uint32 // of the segment in the text; the next one follows
	key    uint32 // where the bytes that expose the series begin in the text
	family uint32 // number in families of the metadata under which it stands, plus 1; 0: there is none
	gap    uint8  // length of what stands between the series and the value
	typ    typ    // of the type line above, whatever its family
	repeat bool   // the series stands above already
}

// begin is where the segment of line i begins.
func (s *script) begin(i int) uint32 {
	if i == 0 {
		return 0
	}
	return s.lines[i-1].end
}

func (s *script) key(i int) []byte {
	l := &s.lines[i]
	return s.text[l.key : l.end-uint32(l.gap)]
}

// family is the metadata under which line i stands; nil if there is none.
func (s *script) family(i int) *series.Family {
	if f := s.lines[i].family; f > 0 {
		return s.families[f-1]
	}
	return nil
}

// tail is what stands behind the last sample.
func (s *script) tail() []byte { return s.text[s.begin(len(s.lines)):] }

// find returns the first line of the series that the bytes of key expose.
func (s *script) find(key []byte) (int, bool) {
	s.indexed.Do(func() {
		s.index, s.seed = newIndex(len(s.lines)), maphash.MakeSeed()
		for i := range s.lines {
			if !s.lines[i].repeat {
				s.index.enter(i, s.hash)
			}
		}
	})
	return s.index.find(maphash.Bytes(s.seed, key), func(i int) bool { return bytes.Equal(s.key(i), key) })
}

func (s *script) hash(i int) uint64 { return maphash.Bytes(s.seed, s.key(i)) }

// segment is the segment of a line while it is read.
type segment struct {
	text []byte
	key  int // where the series begins in text
	gap  int // length of what stands behind the series
}

func (s *script) segment(i int) segment {
	begin, l := s.begin(i), &s.lines[i]
	return segment{text: s.text[begin:l.end], key: int(l.key - begin), gap: int(l.gap)}
}

// append adds a line that stands under the given metadata, which may be nil.
func (s *script) append(g segment, f *series.Family, t typ, repeat bool) error {
	begin := len(s.text)
	if begin+len(g.text) > math.MaxInt32 {
		return &LimitError{Limit: "body_size_limit", Max: math.MaxInt32, Detail: "names of all series"}
	}
	s.text = append(s.text, g.text...)
	s.lines = append(s.lines, line{
		key: uint32(begin + g.key), end: uint32(len(s.text)), gap: uint8(g.gap), family: s.under(f), typ: t, repeat: repeat,
	})
	return nil
}

// under returns the number for metadata under which the next line stands. The numbers follow from the lines alone, so
// that equal bodies make equal scripts.
func (s *script) under(f *series.Family) uint32 {
	if f == nil {
		return 0
	}
	if n := len(s.families); n == 0 || !sameFamily(s.families[n-1], f) {
		s.families = append(s.families, f)
	}
	return uint32(len(s.families))
}

// copy adds the lines [first, last) of another script, with their segments.
func (s *script) copy(from *script, first, last int) {
	begin := from.begin(first)
	shift := uint32(len(s.text)) - begin
	s.text = append(s.text, from.text[begin:from.begin(last)]...)
	theirs, ours := uint32(0), uint32(0)
	for i := first; i < last; i++ {
		l := from.lines[i]
		if l.family != theirs {
			theirs, ours = l.family, s.under(from.family(i))
		}
		l.key, l.end, l.family = l.key+shift, l.end+shift, ours
		s.lines = append(s.lines, l)
	}
}

func (s *script) equal(o *script) bool {
	return s.format == o.format && bytes.Equal(s.text, o.text) && slices.Equal(s.lines, o.lines) &&
		slices.EqualFunc(s.families, o.families, sameFamily)
}

// Scripts holds what the bodies of targets say besides their values, once for all parsers whose targets say the same. It
// keeps nothing alive. Safe for concurrent use.
type Scripts struct {
	seed  maphash.Seed
	mu    sync.Mutex
	known map[uint64]weak.Pointer[script]
}

// NewScripts returns an empty collection.
func NewScripts() *Scripts {
	return &Scripts{seed: maphash.MakeSeed(), known: map[uint64]weak.Pointer[script]{}}
}

// shared returns the script that all have who say what s does: s itself if nobody said it before. s does not change any
// more.
func (c *Scripts) shared(s *script) *script {
	hash := maphash.Bytes(c.seed, s.text)
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.known[hash].Value(); known != nil {
		if known.equal(s) {
			return known
		}
		return s // the same text under other metadata, or another one with the same hash
	}
	p := weak.Make(s)
	c.known[hash] = p
	runtime.AddCleanup(s, func(hash uint64) { c.forget(hash, p) }, hash)
	return s
}

func (c *Scripts) forget(hash uint64, p weak.Pointer[script]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known[hash] == p {
		delete(c.known, hash)
	}
}

// fit returns s in little more memory than it needs.
func fit[E any](s []E) []E {
	if n := len(s); n+n/32+16 < cap(s) {
		return append(make([]E, 0, n), s...)
	}
	return s
}
