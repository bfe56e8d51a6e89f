package federate

import (
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/expo"
	"github.com/thalweg/thalweg/internal/store"
)

// Bounds of what is kept rendered: beyond, it is rendered again. Families with more columns rarely have several sources.
const (
	maxSourceLines = 1 << 16
	maxColumnLines = 1 << 11
	maxRendered    = 1 << 10 // bytes of one; most have a hundred
	idleSources    = 1 << 12 // kept between answers
)

// lines renders name and labels of the series of an answer: the labels of a source once for all of its series, and what
// a series has of its own once for all sources of the same series. It is used again for other answers.
type lines struct {
	text       expo.Text
	appendTime func(dst []byte, ms int64) []byte // of the format
	extra      []labels.Label

	// By number, of those that share a place the one that came last.
	sources []sourceLine
	columns []columnLine
	family  int            // counts the families
	shapes  map[string]int // of label names of sources, to tell them apart
	key     []byte
}

type sourceLine struct {
	source int // -1: none
	shape  int // of the names of its labels
	base   expo.Base
	ms     int64 // the last time, which is that of a whole row
	time   []byte
}

type columnLine struct {
	family, column, shape int
	own                   expo.Own
}

func newLines() *lines { return &lines{shapes: map[string]int{}} }

// reset begins an answer, in whose series the labels of extra stand where they are absent.
func (l *lines) reset(text expo.Text, appendTime func([]byte, int64) []byte, extra []labels.Label) {
	l.text, l.appendTime, l.extra = text, appendTime, extra
	for i := range l.sources {
		l.sources[i].source = -1
	}
	l.family++
	clear(l.shapes)
}

// nextFamily begins a family.
func (l *lines) nextFamily() { l.family++ }

// release lets go of what is too large to keep.
func (l *lines) release() {
	if len(l.sources) > idleSources {
		l.sources, l.shapes = nil, map[string]int{}
	}
	l.extra, l.appendTime = nil, nil
}

// append appends name and labels of a series of a family that has halves. It returns its time beside them.
func (l *lines) append(dst []byte, family string, s *store.Series) (line, time []byte) {
	source := l.source(s)
	n := s.Column() & (maxColumnLines - 1)
	if n >= len(l.columns) {
		l.columns = grown(l.columns, n)
	}
	c := &l.columns[n]
	if c.column != s.Column() || c.family != l.family || c.shape != source.shape {
		name, suffix := split(s.Name(), family)
		l.text.RenderOwn(&c.own, name, suffix, s.Own(), s.Base(), l.extra)
		c.family, c.column, c.shape = l.family, s.Column(), source.shape
	}
	if source.ms != s.T || len(source.time) == 0 {
		source.ms, source.time = s.T, l.appendTime(source.time[:0], s.T)
	}
	dst, time = c.own.Append(dst, &source.base), source.time
	if c.own.Len() > maxRendered {
		*c = columnLine{}
	}
	if source.base.Len() > maxRendered {
		*source = sourceLine{source: -1}
	}
	return dst, time
}

// source returns the labels of a series' source.
func (l *lines) source(s *store.Series) *sourceLine {
	n := s.Source() & (maxSourceLines - 1)
	if n >= len(l.sources) {
		first := len(l.sources)
		l.sources = grown(l.sources, n)
		for i := first; i < len(l.sources); i++ {
			l.sources[i].source = -1
		}
	}
	source := &l.sources[n]
	if source.source == s.Source() {
		return source
	}
	l.text.RenderBase(&source.base, s.Base())
	l.key = l.key[:0]
	for _, label := range s.Base() {
		l.key = append(append(l.key, label.Name...), 0xff) // never in valid UTF-8
	}
	shape, known := l.shapes[string(l.key)]
	if !known {
		shape = len(l.shapes)
		l.shapes[string(l.key)] = shape
	}
	source.source, source.shape, source.time = s.Source(), shape, source.time[:0]
	return source
}

// grown returns b with an element n, and with as many again to come.
func grown[T any](b []T, n int) []T {
	larger := make([]T, max(64, 2*len(b), n+1))
	copy(larger, b)
	return larger
}
