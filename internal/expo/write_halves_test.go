package expo_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/expo"
)

// A line of two halves is the line of the labels that they make together.
func TestHalves(t *testing.T) {
	names := []string{"a", "b", "c", "d", "温度", "instance"}
	values := []string{"x", "1.0", "two\nlines", `say "hi"`, ","}
	rnd := rand.New(rand.NewPCG(3, 4))
	set := func(values []string) []labels.Label {
		chosen := map[string]string{}
		for range rnd.IntN(5) {
			chosen[names[rnd.IntN(len(names))]] = values[rnd.IntN(len(values))]
		}
		var ls []labels.Label
		for name, value := range chosen {
			ls = append(ls, labels.Label{Name: name, Value: value})
		}
		slices.SortFunc(ls, func(a, b labels.Label) int { return strings.Compare(a.Name, b.Name) })
		return ls
	}
	var own expo.Own
	var base expo.Base
	for range 20_000 {
		text := expo.Text{Escaping: model.EscapingScheme(rnd.IntN(4))}
		family, suffix := []string{"up", "my.utf8.metric"}[rnd.IntN(2)], []string{"", "_bucket"}[rnd.IntN(2)]
		source, mine, extra := set(values), set(append(values, "")), set(append(values, ""))

		merged := map[string]string{}
		for _, l := range slices.Concat(source, mine) {
			merged[l.Name] = l.Value
		}
		var all []labels.Label
		for name, value := range merged {
			if value != "" {
				all = append(all, labels.Label{Name: name, Value: value})
			}
		}
		slices.SortFunc(all, func(a, b labels.Label) int { return strings.Compare(a.Name, b.Name) })
		for _, l := range extra {
			if merged[l.Name] == "" {
				all = append(all, l)
			}
		}
		want := text.AppendSample(nil, family, suffix, all, 1.5, 1000)

		text.RenderBase(&base, source)
		text.RenderOwn(&own, family, suffix, labels.New(append(mine, labels.Label{Name: "__name__", Value: family + suffix})...), source, extra)
		if got := text.AppendSampleEnd(own.Append(nil, &base), 1.5, text.AppendTime(nil, 1000)); string(got) != string(want) {
			t.Fatalf("own labels %v, base %v, extra %v:\n got %s\nwant %s", mine, source, extra, got, want)
		}
	}
}
