package series

import (
	"fmt"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

func TestBitmap(t *testing.T) {
	for _, n := range []int{0, 1, 63, 64, 65, 128, 1000} {
		b := Bitmap(nil, n)
		if len(b) != (n+63)/64 {
			t.Errorf("%d columns in %d words", n, len(b))
		}
		for i := 0; i < n; i += 3 {
			SetBit(b, i)
		}
		r := Row{Present: b, Values: make([]float64, n)}
		count := 0
		for i := range n {
			if r.Has(i) != (i%3 == 0) {
				t.Errorf("bit %d of %d is %t", i, n, r.Has(i))
			}
			if got := CountBits(b, i); got != count {
				t.Errorf("%d bits are set among the first %d of %d, want %d", got, i, n, count)
			}
			if i%3 == 0 {
				count++
			}
		}
		if got := r.Samples(); got != count {
			t.Errorf("%d samples, want %d", got, count)
		}
	}
	old := []uint64{^uint64(0), ^uint64(0), ^uint64(0)}
	b := Bitmap(old, 65)
	if len(b) != 2 || &b[0] != &old[0] || b[0] != 0 || b[1] != 0 {
		t.Errorf("reused bitmap is %x", b)
	}
	if b := Bitmap(old[:1], 1000); len(b) != 16 {
		t.Errorf("grown bitmap has %d words", len(b))
	}
}

func TestRow(t *testing.T) {
	whole := Row{Values: []float64{1, 2, 3}}
	partial := Row{Columns: []uint32{1, 5, 9}, Values: []float64{1, 2, 3}}
	empty := Row{Columns: []uint32{}}
	end := Row{End: true}
	f := func(what string, got, want any) {
		t.Helper()
		if got != want {
			t.Errorf("%s is %v, want %v", what, got, want)
		}
	}
	f("whole", whole.Whole(), true)
	f("partial", partial.Whole(), false)
	f("empty", empty.Whole(), false)
	f("samples of a whole row", whole.Samples(), 3)
	f("samples of a partial row", partial.Samples(), 3)
	f("samples of an empty row", empty.Samples(), 0)
	f("samples of an end", end.Samples(), 0)
	f("presence without bitmap", whole.Has(2), true)
	f("place in a whole row", whole.Place(2), 2)
	f("place of a listed column", partial.Place(5), 1)
	f("place of a column between", partial.Place(6), 2)
	f("place of a column behind", partial.Place(10), 3)
}

func TestSeriesLabels(t *testing.T) {
	s := Source{Labels: labels.FromStrings("job", "node", "instance", "a:9100", "zone", "b")}
	column := Column{Labels: labels.FromStrings(model.MetricNameLabel, "up", "instance", "own", "zone", "")}
	want := labels.FromStrings(model.MetricNameLabel, "up", "instance", "own", "job", "node")
	if got := s.SeriesLabels(labels.NewBuilder(labels.EmptyLabels()), &column); !labels.Equal(got, want) {
		t.Errorf("labels are %s, want %s", got, want)
	}
}

func TestKind(t *testing.T) {
	if got := fmt.Sprint(Float, Histogram, GaugeHistogram, Kind(3)); got != "float histogram gaugehistogram unknown" {
		t.Errorf("got %s", got)
	}
}

// Every series can be told relative to every source, and is the same series again afterwards.
func TestRelative(t *testing.T) {
	var sets []labels.Labels
	for i := range 27 {
		b := labels.NewBuilder(labels.EmptyLabels())
		for n, name := range []string{"a", "b", "c"} {
			b.Set(name, []string{"", "1", "2"}[i/[]int{1, 3, 9}[n]%3])
		}
		sets = append(sets, b.Labels())
	}
	b := labels.NewBuilder(labels.EmptyLabels())
	for _, full := range sets {
		for _, base := range sets {
			relative := Relative(full, base)
			source := Source{Labels: base}
			if got := source.SeriesLabels(b, &Column{Labels: relative}); !labels.Equal(got, full) {
				t.Errorf("%s relative to %s is %s, and that is %s", full, base, relative, got)
			}
			relative.Range(func(l labels.Label) {
				if base.Get(l.Name) == l.Value {
					t.Errorf("%s relative to %s repeats %s", full, base, l.Name)
				}
			})
		}
	}
}
