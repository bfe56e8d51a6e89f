package frame

import (
	"hash/maphash"

	"github.com/thalweg/thalweg/internal/series"
)

// Keyframes mostly say again what the last one said. What a decoder keeps for that has the extent of one keyframe.

// maxSeen bounds the schemas that are found again. A lane has a few, or as many as it has sources of different kinds.
const maxSeen = 10_000

// seenSchemas finds schemas by the bytes that define them, so that those are hashed rather than parsed. Two definitions
// with one hash of 64 bits, whose seed nobody outside knows, would give the lane of one site a wrong schema.
type seenSchemas struct {
	seed        maphash.Seed
	now, before map[seenKey]seenSchema // since the last keyframe, and since the one before
}

type seenKey struct {
	parent  *series.Schema
	hash    uint64
	size, n int
	version int
}

type seenSchema struct {
	schema *series.Schema
	charge int // that reading it made
}

func (s *seenSchemas) key(version int, parent *series.Schema, n int, definition []byte) seenKey {
	if s.now == nil {
		s.seed, s.now = maphash.MakeSeed(), map[seenKey]seenSchema{}
	}
	return seenKey{parent, maphash.Bytes(s.seed, definition), len(definition), n, version}
}

func (s *seenSchemas) find(k seenKey) (seenSchema, bool) {
	known, ok := s.now[k]
	if !ok {
		if known, ok = s.before[k]; ok {
			s.now[k] = known
		}
	}
	return known, ok
}

func (s *seenSchemas) add(k seenKey, known seenSchema) {
	if len(s.now) < maxSeen {
		s.now[k] = known
	}
}

// age begins the time of a keyframe.
func (s *seenSchemas) age() {
	if len(s.now) > 0 {
		s.before, s.now = s.now, map[seenKey]seenSchema{}
	}
}

// spareSources are those of the state before a keyframe, whose memory the same sources take over.
type spareSources struct {
	sources map[uint64]*decoderSource
	keys    map[string]uint64
}

// take returns the source with a key as if it were new, nil if there is none.
func (s *spareSources) take(key string) *decoderSource {
	id, ok := s.keys[key]
	if !ok {
		return nil
	}
	delete(s.keys, key)
	old := s.sources[id]
	old.coded.begin()
	*old = decoderSource{
		coded: old.coded, values: old.values[:0], present: old.present, list: old.list[:0], partial: old.partial[:0],
		row: series.Row{Histograms: old.row.Histograms[:0]},
	}
	return old
}
