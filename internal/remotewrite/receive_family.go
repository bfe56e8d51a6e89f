package remotewrite

import (
	"strings"
	"time"

	"github.com/prometheus/common/model"

	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/writeproto"
)

const (
	// maxFamilies bounds the families of a site of which metadata is remembered, maxMetadata what is said of one, in bytes,
	// and maxFamilyBytes what is said of all.
	maxFamilies    = 50_000
	maxMetadata    = 4 << 10
	maxFamilyBytes = 16 << 20
	// metadataAfter is when metadata that was not said again gives way to other metadata. Targets that disagree are
	// common, and a sender tells what each of them says, every minute.
	metadataAfter = 5 * time.Minute
)

// families is what requests of 1.0 say of the families of a site. There it comes apart from the samples, and later.
type families struct {
	byName  map[string]*metadata
	bytes   int
	version int   // counts changes
	changed int64 // when the last one was, in ms
	swept   int64 // when it was last looked for what can be forgotten
}

type metadata struct {
	typ        model.MetricType
	help, unit string
	said       int64 // in ms
}

func newFamilies() families { return families{byName: map[string]*metadata{}} }

// learn takes over what a request says, and returns how much of it there is no room for.
func (f *families) learn(list []writeproto.Metadata, now int64) (refused int) {
	for i := range list {
		m := &list[i]
		if len(m.Family) == 0 || len(m.Family)+len(m.Help)+len(m.Unit) > maxMetadata {
			refused++
			continue
		}
		known := f.byName[string(m.Family)]
		switch {
		case known == nil && !f.hasRoom() && !f.makeRoom(now):
			refused++
			continue
		case known == nil:
			known = &metadata{}
			f.byName[string(m.Family)] = known
			f.bytes += len(m.Family)
		case known.typ == m.Type && known.help == string(m.Help) && known.unit == string(m.Unit):
			known.said = now
			continue
		case now-known.said < metadataAfter.Milliseconds():
			continue
		}
		f.bytes += len(m.Help) + len(m.Unit) - len(known.help) - len(known.unit)
		*known = metadata{m.Type, string(m.Help), string(m.Unit), now}
		f.version++
		f.changed = now
	}
	return refused
}

// makeRoom forgets what was not said again for long. It looks for that once a minute.
func (f *families) makeRoom(now int64) bool {
	if now-f.swept < time.Minute.Milliseconds() {
		return false
	}
	f.swept = now
	for name, m := range f.byName {
		if now-m.said >= time.Hour.Milliseconds() {
			delete(f.byName, name)
			f.bytes -= len(name) + len(m.help) + len(m.unit)
		}
	}
	return f.hasRoom()
}

func (f *families) hasRoom() bool { return len(f.byName) < maxFamilies && f.bytes < maxFamilyBytes }

// suffixes are those that series have beyond the name of their family.
var suffixes = [...]string{"_bucket", "_count", "_sum", "_total", "_info", "_gcount", "_gsum"}

// of returns the family of a series, the zero one if nothing is known of it.
func (f *families) of(name string, kind series.Kind) series.Family {
	if len(f.byName) == 0 {
		return series.Family{}
	}
	if m := f.byName[name]; m != nil {
		return familyOf(name, kind, m.typ, m.help, m.unit)
	}
	for _, suffix := range suffixes {
		stem, ok := strings.CutSuffix(name, suffix)
		if !ok {
			continue
		}
		if m := f.byName[stem]; m != nil {
			// A suffix that does not go with the type is part of the name of another family.
			family := familyOf(name, kind, m.typ, m.help, m.unit)
			counts := m.typ == model.MetricTypeCounter && suffix == "_total" || m.typ == model.MetricTypeInfo && suffix == "_info"
			if family.Name == stem || counts {
				return family
			}
		}
	}
	return series.Family{}
}

// familyOf returns the family of a series under metadata of that family. The names of families are those that they have
// in the text format: one of a counter ends in _total.
func familyOf(name string, kind series.Kind, typ model.MetricType, help, unit string) series.Family {
	family := series.Family{Name: name, Type: typ, Help: help, Unit: unit}
	if kind != series.Float {
		return family
	}
	switch typ {
	case model.MetricTypeHistogram:
		family.Name = cutOne(name, "_bucket", "_count", "_sum")
	case model.MetricTypeGaugeHistogram:
		family.Name = cutOne(name, "_bucket", "_gcount", "_gsum")
	case model.MetricTypeSummary:
		family.Name = cutOne(name, "_count", "_sum")
	}
	return family
}

// cutOne takes the first of the suffixes that a name has off it.
func cutOne(name string, suffixes ...string) string {
	for _, suffix := range suffixes {
		if stem, ok := strings.CutSuffix(name, suffix); ok && stem != "" {
			return stem
		}
	}
	return name
}
