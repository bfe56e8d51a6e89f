package expo

import (
	"bytes"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// families follows the metadata of a body. What it says about a family is one object as long as it does not change, so
// that a sample is compared with the metadata above it by address.
type families struct {
	known map[string]*family
	kept  int // length of known after the last good body
	round uint64

	// The block of metadata lines that is being read, or was read last.
	name    []byte
	typ     model.MetricType
	help    []byte
	unit    []byte
	block   *family // for these lines, nil until a sample asks for it
	resumed bool    // block says what the lines said
}

type family struct {
	series.Family
	seen uint64
}

func (f *families) begin(round uint64) {
	f.round = round
	f.name, f.block, f.resumed = f.name[:0], nil, false
	f.typ, f.help, f.unit = "", f.help[:0], f.unit[:0]
}

// resume goes on behind a sample that stood under the metadata at.
func (f *families) resume(at *family) {
	f.block = at
	if f.resumed = at != nil; f.resumed {
		at.seen = f.round
	} else {
		f.name = f.name[:0]
	}
}

func (f *families) setType(name []byte, t model.MetricType) {
	f.about(name)
	f.typ = t
}

func (f *families) setHelp(name, help []byte) {
	f.about(name)
	f.help = append(f.help[:0], help...)
}

func (f *families) setUnit(name, unit []byte) {
	f.about(name)
	f.unit = append(f.unit[:0], unit...)
}

func (f *families) about(name []byte) {
	if f.resumed {
		at := f.block
		f.name, f.typ = append(f.name[:0], at.Name...), at.Type
		f.help, f.unit = append(f.help[:0], at.Help...), append(f.unit[:0], at.Unit...)
	}
	f.block, f.resumed = nil, false
	if !bytes.Equal(name, f.name) {
		f.name = append(f.name[:0], name...)
		f.typ, f.help, f.unit = "", f.help[:0], f.unit[:0]
	}
}

// current returns the metadata above the current sample; nil if there is none. It is looked for in expected first, which
// may be nil.
func (f *families) current(expected *family) *family {
	if f.block != nil || len(f.name) == 0 {
		return f.block
	}
	k := expected
	if !f.say(k) {
		k = f.known[string(f.name)]
	}
	if !f.say(k) {
		k = &family{Family: series.Family{
			Name: string(f.name),
			Type: f.typ,
			Help: string(f.help),
			Unit: string(f.unit),
		}}
		f.known[k.Name] = k
	}
	k.seen = f.round
	f.block = k
	return k
}

// say reports whether the lines of the block say what k does.
func (f *families) say(k *family) bool {
	return k != nil && k.Name == string(f.name) && k.Type == f.typ && k.Help == string(f.help) && k.Unit == string(f.unit)
}

// forget drops the families that the current body does not have.
func (f *families) forget() {
	for name, k := range f.known {
		if k.seen != f.round {
			delete(f.known, name)
		}
	}
	f.kept = len(f.known)
}

// bound sees to it that bad bodies do not fill the memory.
func (f *families) bound() {
	if len(f.known) > 2*f.kept+1000 {
		clear(f.known)
	}
}

// of returns the family of a series that stands under the metadata f, which may be nil. It is the zero Family if the
// name says that the series is not of that family.
func (f *family) of(l labels.Labels) series.Family {
	if f == nil || !partOf(l.Get(model.MetricNameLabel), f.Name, f.Type) {
		return series.Family{}
	}
	return f.Family
}

// partOf reports whether a family of the given type has series of the given name. As in Prometheus
// (isSeriesPartOfFamily in scrape/scrape.go of v0.315.0) the suffix of counters and info metrics is optional on both
// sides.
func partOf(name, family string, t model.MetricType) bool {
	if !strings.HasPrefix(name, family) {
		return false
	}
	switch t {
	case model.MetricTypeCounter:
		return strings.TrimSuffix(name, "_total") == strings.TrimSuffix(family, "_total")
	case model.MetricTypeInfo:
		return strings.TrimSuffix(name, "_info") == strings.TrimSuffix(family, "_info")
	case model.MetricTypeHistogram:
		return oneOf(name, family, "_bucket", "_sum", "_count")
	case model.MetricTypeGaugeHistogram:
		return oneOf(name, family, "_bucket", "_gsum", "_gcount")
	case model.MetricTypeSummary:
		return oneOf(name, family, "_sum", "_count")
	}
	return name == family
}

func oneOf(name, family string, suffixes ...string) bool {
	rest := name[len(family):]
	return rest == "" || slices.Contains(suffixes, rest)
}
