package expo

import (
	"bytes"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// families follows the metadata of a body: the block of metadata lines that is being read, or was read last.
type families struct {
	name    []byte
	typ     model.MetricType
	help    []byte
	unit    []byte
	block   *series.Family // for these lines, nil until a sample asks for it
	resumed bool           // block says what the lines said
}

func (f *families) begin() {
	f.name, f.block, f.resumed = f.name[:0], nil, false
	f.typ, f.help, f.unit = "", f.help[:0], f.unit[:0]
}

// resume goes on behind a sample that stood under the metadata at.
func (f *families) resume(at *series.Family) {
	f.block = at
	if f.resumed = at != nil; !f.resumed {
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

// current returns the metadata above the current sample; nil if there is none. That is expected, which may be nil, if it
// says the same.
func (f *families) current(expected *series.Family) *series.Family {
	if f.block != nil || len(f.name) == 0 {
		return f.block
	}
	if f.block = expected; !f.say(expected) {
		f.block = &series.Family{Name: string(f.name), Type: f.typ, Help: string(f.help), Unit: string(f.unit)}
	}
	return f.block
}

// say reports whether the lines of the block say what k does.
func (f *families) say(k *series.Family) bool {
	return k != nil && k.Name == string(f.name) && k.Type == f.typ && k.Help == string(f.help) && k.Unit == string(f.unit)
}

// sameFamily reports whether two samples stand under the same metadata.
func sameFamily(a, b *series.Family) bool { return a == b || a != nil && b != nil && *a == *b }

// familyOf returns the family of a series that stands under the metadata f, which may be nil. It is the zero Family if
// the name says that the series is not of that family.
func familyOf(f *series.Family, l labels.Labels) series.Family {
	if f == nil || !partOf(l.Get(model.MetricNameLabel), f.Name, f.Type) {
		return series.Family{}
	}
	return *f
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
