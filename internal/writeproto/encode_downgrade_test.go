package writeproto_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/klauspost/compress/s2"

	"github.com/thalweg/thalweg/internal/series/seriestest"
	"github.com/thalweg/thalweg/internal/writeproto"
)

// TestDowngrade: a request of 2.0 says as 1.0 what one of 1.0 says.
func TestDowngrade(t *testing.T) {
	for _, all := range []bool{false, true} {
		o := optionsOf["v2"]
		e := writeproto.NewEncoder(o)
		o.Message, o.Exemplars, o.NativeHistograms = writeproto.V1, all, all
		oracle := newOracle(o)
		w := seriestest.New(5)
		var want []string
		for i := range 300 {
			row := w.Row()
			for _, x := range oracle.row("s", row) {
				want = append(want, x.String())
			}
			e.Add("s", i, row)
		}
		var got []string
		skipped := 0
		for _, r := range e.Close() {
			down, n, err := r.Downgrade(all, all)
			if err != nil {
				t.Fatal(err)
			}
			entries := decode(t, &down)
			skipped += n
			left := 0
			for _, part := range down.Rows {
				left += part.Samples
			}
			if left != len(entries) {
				t.Errorf("rows have %d samples, the request %d", left, len(entries))
			}
			if down.Message != writeproto.V1 || down.Samples+down.Histograms != len(entries) || down.Samples+down.Histograms+n != r.Samples+r.Histograms {
				t.Errorf("%d and %d of %d and %d samples are left, and %d skipped", down.Samples, down.Histograms, r.Samples, r.Histograms, n)
			}
			for _, x := range entries {
				got = append(got, x.String())
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("with all %t: %d entries, %d are expected", all, len(got), len(want))
		}
		if skipped == 0 {
			t.Error("no histogram was skipped")
		}
	}
}

func TestDowngradeOfOtherBytes(t *testing.T) {
	e := writeproto.NewEncoder(optionsOf["v2"])
	w := seriestest.New(9)
	for i := range 20 {
		e.Add("s", i, w.Row())
	}
	raw := unpack(t, e.Close()[0].Body)
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		b := slices.Clone(raw)
		for range 1 + r.IntN(4) {
			b[r.IntN(len(b))] = byte(r.Uint32())
		}
		q := writeproto.Request{Message: writeproto.V2, Body: s2.EncodeSnappy(nil, b[:r.IntN(len(b)+1)])}
		q.Downgrade(true, true) // it does not panic
	}
}
