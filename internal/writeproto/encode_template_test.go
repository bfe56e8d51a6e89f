package writeproto_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/writeproto"
)

// floats makes rows of floats alone, as most inputs do: series after series of the same families, the same ones in every
// row, and now and then others.
type floats struct {
	*rand.Rand
	catalog *series.Catalog
	sources []*floatSource
	t       int64
	calm    bool // values are the same and stay so
}

type floatSource struct {
	source  *series.Source
	schema  *series.Schema
	present []uint64 // nil: all
	list    []uint32 // of partial rows
	values  []float64
}

func newFloats(seed uint64, columns int) *floats {
	f := &floats{Rand: rand.New(rand.NewPCG(seed, 5)), catalog: series.NewCatalog(), t: 1_700_000_000_000, calm: seed%3 == 2}
	if f.IntN(4) == 0 {
		f.t = int64(f.IntN(5))
	}
	for i := range 1 + f.IntN(3) {
		s := &floatSource{source: &series.Source{Key: fmt.Sprint(i), Labels: labels.FromStrings("instance", fmt.Sprint("host-", i), "job", "node")}}
		s.schema = f.catalog.Extend(f.catalog.Empty(), f.columns(1+f.IntN(columns)))
		f.sources = append(f.sources, s)
		f.pick(s)
	}
	return f
}

func (f *floats) columns(n int) []series.Column {
	list := make([]series.Column, n)
	for i := range list {
		name := fmt.Sprint("metric_", f.IntN(50), "_total")
		ls := []string{"__name__", name, "le", fmt.Sprint(f.IntN(100)), "zone", "z" + strings.Repeat("y", f.IntN(5))}
		if f.IntN(200) == 0 {
			ls[5] = strings.Repeat("long", f.IntN(30_000))
		}
		list[i].Labels = labels.FromStrings(ls...)
		if f.IntN(3) > 0 {
			list[i].Family = series.Family{Name: name, Type: model.MetricTypeCounter, Help: "Help of " + name}
		}
		if f.IntN(10) == 0 {
			list[i].Family.Unit = "s"
		}
	}
	return list
}

// pick chooses the columns that the rows have from now on.
func (f *floats) pick(s *floatSource) {
	n := s.schema.Len()
	s.present, s.list = nil, nil
	switch f.IntN(3) {
	case 0:
		s.present = series.Bitmap(nil, n)
		for i := range s.present {
			s.present[i] = f.Uint64() | f.Uint64() // also behind the last column, where it means nothing
		}
	case 1:
		s.list = []uint32{}
		for c := range n {
			if f.IntN(3) > 0 {
				s.list = append(s.list, uint32(c))
			}
		}
	}
}

func (f *floats) row() *series.Row {
	s := f.sources[f.IntN(len(f.sources))]
	f.t += int64(f.IntN(20_000))
	switch f.IntN(20) {
	case 0:
		s.schema = f.catalog.Extend(s.schema, f.columns(1+f.IntN(300)))
		f.pick(s)
	case 1:
		s.schema = f.catalog.Extend(f.catalog.Empty(), f.columns(1+f.IntN(600)))
		f.pick(s)
	case 2, 3:
		f.pick(s)
	}
	n := s.schema.Len()
	for len(s.values) < n {
		s.values = append(s.values, 0)
	}
	for i := range s.values {
		if f.calm {
			break
		}
		switch f.IntN(12) {
		case 0:
			s.values[i] = float64(f.IntN(100))
		case 1:
			s.values[i] += f.Float64()
		case 2:
			s.values[i] = math.Float64frombits(f.Uint64())
		case 3:
			s.values[i] = s.values[max(i-1, 0)]
		case 4:
			s.values[i] = math.Copysign(0, -1)
		}
	}
	row := &series.Row{Source: s.source, Schema: s.schema, T: f.t, Columns: s.list, Present: s.present}
	if s.list == nil {
		row.Values = s.values[:n]
	} else {
		for _, c := range s.list {
			row.Values = append(row.Values, s.values[c])
		}
	}
	if f.IntN(15) == 0 && row.Samples() > 0 { // one with more than floats
		c := uint32(0)
		for row.Columns == nil && !row.Has(int(c)) {
			c++
		}
		if row.Columns != nil {
			c = row.Columns[0]
		}
		row.Starts = []series.StartAt{{Column: c, Ms: 17}}
	}
	return row
}

// encodeFloats encodes such rows and compares them.
func encodeFloats(t testing.TB, o writeproto.EncoderOptions, seed uint64, columns, rows int) {
	f, e, oracle := newFloats(seed, columns), writeproto.NewEncoder(o), newOracle(o)
	var want [][]entry
	for i := range rows {
		row := f.row()
		want = append(want, oracle.row("s", row))
		e.Add("s", len(want)-1, row)
		if f.IntN(5) == 0 || i == rows-1 {
			expect(t, o, e.Close(), want)
			want = nil
		}
	}
}

func TestEncoderTemplates(t *testing.T) {
	for _, message := range []writeproto.Message{writeproto.V1, writeproto.V2} {
		for _, samples := range []int{100, 600, 2000} {
			o := writeproto.EncoderOptions{Message: message, MaxSamples: samples, Labels: final}
			t.Run(fmt.Sprint("v", message, "/", samples), func(t *testing.T) {
				for seed := range uint64(3) {
					encodeFloats(t, o, seed, 900, 25)
				}
			})
		}
	}
}

// TestDowngradeOfTemplates: what templates write differently is understood.
func TestDowngradeOfTemplates(t *testing.T) {
	one := writeproto.NewEncoder(writeproto.EncoderOptions{Message: writeproto.V1, Labels: final})
	two := writeproto.NewEncoder(writeproto.EncoderOptions{Message: writeproto.V2, Labels: final})
	f := newFloats(3, 900)
	for i := range 20 {
		row := f.row()
		one.Add("s", i, row)
		two.Add("s", i, row)
	}
	var down []writeproto.Request
	for _, r := range two.Close() {
		d, _, err := r.Downgrade(true, true)
		if err != nil {
			t.Fatal(err)
		}
		down = append(down, d)
	}
	if got, want := decodeAll(t, down), decodeAll(t, one.Close()); !slices.Equal(got, want) {
		t.Errorf("%d entries instead of %d, or others", len(got), len(want))
	}
}

func FuzzEncoderTemplates(f *testing.F) {
	f.Add(uint64(1), uint16(500), uint16(600), true)
	f.Fuzz(func(t *testing.T, seed uint64, columns, samples uint16, v2 bool) {
		o := writeproto.EncoderOptions{Message: writeproto.V1, MaxSamples: 1 + int(samples)%3000, Labels: final}
		if v2 {
			o.Message = writeproto.V2
		}
		encodeFloats(t, o, seed, 1+int(columns)%1000, 15)
	})
}
