package federate_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// What is rendered once is not taken for something else: with more columns and more sources than are kept, labels that
// are too long to be, and sources whose labels have other names.
func TestRenderedOnce(t *testing.T) {
	f := func(sources, columns int, padding, accept string) {
		t.Helper()
		h := newHub(t, nil)
		var cs []series.Column
		for c := range columns {
			cs = append(cs, series.Column{Labels: labels.FromStrings("__name__", fmt.Sprint("m", c%2), "i", padding+fmt.Sprint(c))})
		}
		row := &series.Row{Schema: h.catalog.Extend(h.catalog.Empty(), cs), T: now.UnixMilli(), Values: make([]float64, columns)}
		want := map[string]bool{}
		for s := range sources {
			own := [][]string{{"a", padding + fmt.Sprint(s)}, {"z", padding + fmt.Sprint(s)}, {"a", padding + fmt.Sprint(s), "instance", "x"}}[s%3]
			row.Source = &series.Source{Key: fmt.Sprint(s), Labels: labels.FromStrings(own...)}
			for c := range columns {
				row.Values[c] = float64(s*columns + c)
				pattern := [...]string{`m%d{a="%s",i="%s",instance=""} %v `, `m%d{i="%[3]s",z="%[2]s",instance=""} %[4]v `, `m%d{a="%s",i="%s",instance="x"} %v `}[s%3]
				want[fmt.Sprintf(pattern, c%2, padding+fmt.Sprint(s), padding+fmt.Sprint(c), row.Values[c])] = true
			}
			h.apply(row)
		}
		body := h.get("match[]={__name__=~'m.'}", "Accept", accept).Body.String()
		for line := range strings.Lines(body) {
			end := strings.LastIndexByte(line, ' ') + 1
			if line[0] == '#' {
				continue
			}
			if !want[strings.Replace(line[:end], ".0 ", " ", 1)] {
				t.Fatalf("unexpected or again: %s", line)
			}
			delete(want, strings.Replace(line[:end], ".0 ", " ", 1))
		}
		if len(want) > 0 {
			t.Errorf("%d lines are missing", len(want))
		}
	}
	f(7, 5000, "", acceptText)
	f(7, 5000, "", acceptOpenMetrics)
	f(66_000, 1, "", acceptText)
	f(5, 10, strings.Repeat("x", 2000), acceptText)
}

// The text formats allocate nothing for a series. What an answer allocates beside that, and what the race detector keeps
// pools from keeping, is far from an allocation for every tenth series.
func TestAnswersAllocateNothingForSeries(t *testing.T) {
	h := newHub(t, nil)
	const n = 400
	var columns []series.Column
	for c := range n {
		name := []string{"few", "many"}[min(c, 1)]
		columns = append(columns, series.Column{Labels: labels.FromStrings("__name__", name, "i", fmt.Sprint(c))})
	}
	row := &series.Row{Schema: h.catalog.Extend(h.catalog.Empty(), columns), T: now.UnixMilli(), Values: make([]float64, n)}
	for s := range 20 {
		row.Source = &series.Source{Key: fmt.Sprint(s), Labels: labels.FromStrings("job", "j", "instance", fmt.Sprint(s))}
		for c := range row.Values {
			row.Values[c] = float64(s) + float64(c)/7
		}
		h.apply(row)
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // what is used again would be collected
	for _, accept := range []string{acceptText, acceptOpenMetrics} {
		allocations := func(name string) float64 {
			r := httptest.NewRequest(http.MethodGet, "/federate?match[]="+name, nil)
			r.Header.Set("Accept", accept)
			return testing.AllocsPerRun(20, func() { h.handler.ServeHTTP(&discard{header: http.Header{}}, r) })
		}
		if few, many := allocations("few"), allocations("many"); many-few > 20*n/10 {
			t.Errorf("%s: %v allocations for 20 series, %v for %d", accept, few, many, 20*(n-1))
		}
	}
}
