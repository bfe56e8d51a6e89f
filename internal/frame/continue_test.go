package frame_test

import (
	"testing"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/series/seriestest"
)

// TestContinue makes every frame of an epoch with an encoder of its own.
func TestContinue(t *testing.T) {
	w := seriestest.New(5)
	dec := frame.NewDecoder(frame.DecoderConfig{Catalog: series.NewCatalog()})
	var newest frame.Header
	for i := range 20 {
		enc := frame.NewEncoder(frame.EncoderConfig{Epoch: 9, MaxBody: 4 << 10})
		if i > 0 {
			enc.Continue(&newest)
		}
		row := w.Row()
		want := seriestest.Show(row)
		frames, err := enc.Append(nil, row, w.T)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for k, b := range enc.Close(frames, w.T) {
			h, err := dec.Decode(b, frame.Handler{Row: func(r *series.Row) { got = seriestest.Show(r) }})
			if err != nil {
				t.Fatal(err)
			}
			if k == 0 && h.Kind != frame.Keyframe || h.Number != newest.Number+1 || h.RowsBefore != newest.RowsAfter() {
				t.Fatalf("frame %+v follows %+v", h, newest)
			}
			newest = h
		}
		if got != want {
			t.Fatalf("row %d: got %s\nwant %s", i, got, want)
		}
	}
	if newest.RowsAfter() != 20 || newest.Number < 20 {
		t.Errorf("the last frame is %+v", newest)
	}
}
