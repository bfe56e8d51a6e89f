package frame_test

import (
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/series/seriestest"
)

// TestRoundTrip sends generated rows of every kind through encoder and decoder and compares bit for bit, with bodies
// small enough that rows and schemas are cut into ranges and large ones. Most encoders begin with the newest version,
// and all change it.
func TestRoundTrip(t *testing.T) {
	for seed := range uint64(80) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := seriestest.New(seed)
			enc := frame.NewEncoder(frame.EncoderConfig{Epoch: 7, Version: int(seed % 4 / 3), MaxBody: []int{4 << 10, 64 << 10, 0}[seed%3]})
			dec := frame.NewDecoder(frame.DecoderConfig{Catalog: series.NewCatalog()})
			var want []string
			rows := 0
			handler := frame.Handler{Row: func(r *series.Row) {
				if rows >= len(want) {
					t.Fatalf("row %d came, only %d were sent:\n%s", rows, len(want), seriestest.Show(r))
				}
				if got := seriestest.Show(r); got != want[rows] {
					t.Fatalf("row %d\ngot\n%s\nwant\n%s", rows, got, want[rows])
				}
				rows++
			}}
			decode := func(frames [][]byte) {
				for _, f := range frames {
					h, err := dec.Decode(f, handler)
					if err != nil {
						t.Fatal(err)
					}
					if uint64(rows) != h.RowsAfter() {
						t.Fatalf("after frame %s: %d rows came, its header says %d", h.ID, rows, h.RowsAfter())
					}
				}
			}
			for range 300 {
				row := w.Row()
				want = append(want, seriestest.Show(row))
				frames, err := enc.Append(nil, row, w.T)
				if err != nil {
					t.Fatal(err)
				}
				if w.IntN(6) == 0 {
					frames = enc.Close(frames, w.T)
				}
				switch w.IntN(120) {
				case 0:
					enc.RequestKeyframe()
				case 1:
					enc.SetVersion(frame.Versions()[w.IntN(2)])
				}
				decode(frames)
			}
			decode(enc.Close(nil, w.T))
			if rows != len(want) {
				t.Fatalf("%d rows came, %d were sent", rows, len(want))
			}
		})
	}
}

func corpus(t testing.TB, name string) (bodies [][]byte) {
	files, err := filepath.Glob("testdata/corpus/" + name + "/*.txt.gz")
	if err != nil || len(files) == 0 {
		t.Fatalf("no corpus files for %s: %v", name, err)
	}
	for _, f := range files {
		r, err := os.Open(f)
		if err != nil {
			t.Fatal(err)
		}
		z, err := gzip.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		bodies = append(bodies, b)
	}
	return bodies
}

// corpusRows are the scrapes of the corpus as rows of one source; its schema grows where series are added.
func corpusRows(t testing.TB, name string) (rows []*series.Row) {
	catalog := series.NewCatalog()
	source := &series.Source{Key: "scrape/" + name, Labels: labels.FromStrings("job", name, "instance", "localhost:1")}
	schema := catalog.Empty()
	index := map[string]int{}
	for i, body := range corpus(t, name) {
		var fresh []series.Column
		values := map[int]float64{}
		p := textparse.NewPromParser(body, labels.NewSymbolTable(), false)
		var family series.Family
		for {
			e, err := p.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			switch e {
			case textparse.EntryHelp:
				n, help := p.Help()
				family = series.Family{Name: string(n), Help: string(help)}
			case textparse.EntryType:
				n, typ := p.Type()
				if family.Name != string(n) {
					family = series.Family{Name: string(n)}
				}
				family.Type = typ
			}
			if e != textparse.EntrySeries {
				continue
			}
			m, _, v := p.Series()
			at, ok := index[string(m)]
			if !ok {
				at = schema.Len() + len(fresh)
				index[string(m)] = at
				var ls labels.Labels
				p.Labels(&ls)
				fresh = append(fresh, series.Column{Labels: ls, Family: family})
			}
			values[at] = v
		}
		schema = catalog.Extend(schema, fresh)
		row := &series.Row{Source: source, Schema: schema, T: int64(i) * 5000, Values: make([]float64, schema.Len()), Present: series.Bitmap(nil, schema.Len())}
		for at, v := range values {
			row.Values[at] = v
			series.SetBit(row.Present, at)
		}
		rows = append(rows, row)
	}
	return rows
}

// TestCorpusSize reports what the corpus costs, one target alone: a figure to watch, and a check that real scrapes
// survive.
func TestCorpusSize(t *testing.T) {
	for _, name := range []string{"node", "prometheus"} {
		enc := frame.NewEncoder(frame.EncoderConfig{Epoch: 1})
		dec := frame.NewDecoder(frame.DecoderConfig{Catalog: series.NewCatalog()})
		var first, rest, columns, samples int
		for i, row := range corpusRows(t, name) {
			want := seriestest.Show(row)
			frames, err := enc.Append(nil, row, row.T)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range enc.Close(frames, row.T) {
				if i == 0 {
					first += len(f)
					columns = row.Schema.Len()
				} else {
					rest += len(f)
					samples += row.Samples()
				}
				if _, err := dec.Decode(f, frame.Handler{Row: func(r *series.Row) {
					r.Present = row.Present // nil and all ones are the same
					if got := seriestest.Show(r); got != want {
						t.Fatalf("scrape %d\ngot\n%s\nwant\n%s", i, got, want)
					}
				}}); err != nil {
					t.Fatal(err)
				}
			}
		}
		t.Logf("%s: keyframe %d bytes (%.1f a series), deltas %.2f bytes a sample", name, first, float64(first)/float64(columns), float64(rest)/float64(samples))
	}
}
