package push

import (
	"fmt"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
)

// index says of each site what the consistency check asks, so that a push costs what it has itself.
type index struct {
	families map[string]*types
	metrics  map[uint64]uint32 // groups that have the metric, by its hash; one, but for what was put back by force
}

// types counts the groups that have a family, by type.
type types [6]int32

func newIndex() index {
	return index{families: map[string]*types{}, metrics: map[uint64]uint32{}}
}

// count adds what a state holds n times, or takes it out.
func (x *index) count(s *state, n int) {
	for i := range s.families {
		f := &s.families[i]
		if len(f.hashes) == 0 {
			continue // a family without metrics is of no type
		}
		t := x.families[f.name]
		if t == nil {
			t = new(types)
			x.families[f.name] = t
		}
		if t[f.typ] += int32(n); *t == (types{}) {
			delete(x.families, f.name)
		}
		for _, h := range f.hashes {
			if c := x.metrics[h] + uint32(n); c == 0 {
				delete(x.metrics, h)
			} else {
				x.metrics[h] = c
			}
		}
	}
}

// has reports whether a group has a family of one of the types, of any if there are none.
func (x *index) has(name string, of ...dto.MetricType) bool {
	t := x.families[name]
	if t == nil || len(of) == 0 {
		return t != nil
	}
	return slices.ContainsFunc(of, func(typ dto.MetricType) bool { return t[typ] > 0 })
}

// check says why a state, which is not in the index, cannot stand beside what is.
func (x *index) check(s *state) error {
	own := make(map[string]dto.MetricType, len(s.families))
	for i := range s.families {
		if f := &s.families[i]; len(f.hashes) > 0 {
			own[f.name] = f.typ
		}
	}
	is := func(name string, of ...dto.MetricType) bool {
		typ, ok := own[name]
		return ok && (len(of) == 0 || slices.Contains(of, typ)) || x.has(name, of...)
	}
	for name, typ := range own {
		if t := x.families[name]; t != nil {
			for other, n := range t {
				if other := dto.MetricType(other); n > 0 && other != typ {
					return fmt.Errorf("metric family %q is a %s, but another group has it as a %s", name, typ, other)
				}
			}
		}
		if err := collides(name, typ, is); err != nil {
			return err
		}
	}
	for i := range s.families {
		f := &s.families[i]
		for _, h := range f.hashes {
			if x.metrics[h] > 0 {
				return fmt.Errorf("a metric of family %q is in another group with the same label values", f.name)
			}
		}
	}
	return nil
}

// collides says whether a family has the name of a part of a histogram or summary, or a part of it that of a family.
func collides(name string, typ dto.MetricType, is func(name string, of ...dto.MetricType) bool) error {
	const histogram, summary = dto.MetricType_HISTOGRAM, dto.MetricType_SUMMARY
	for _, suffix := range []string{"_count", "_sum", "_bucket"} {
		of := []dto.MetricType{histogram, summary}
		if suffix == "_bucket" {
			of = of[:1]
		}
		if base, ok := strings.CutSuffix(name, suffix); ok && base != "" && is(base, of...) {
			return fmt.Errorf("metric family %q collides with the histogram or summary %q", name, base)
		}
		for _, t := range of {
			if t == typ && is(name+suffix) {
				return fmt.Errorf("histogram or summary %q collides with metric family %q", name, name+suffix)
			}
		}
	}
	return nil
}
