package bench

import (
	"errors"
	"io"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"

	"github.com/thalweg/thalweg/internal/frame"
)

// BenchmarkEdge reports what a sample costs an edge from the body in memory to the frame, and how many times that is
// what textparse with Labels needs for the same bodies.
func BenchmarkEdge(b *testing.B) {
	each(b, func(b *testing.B, name string, targets int) {
		w := newWorkload(b, name, targets)
		enc := frame.NewEncoder(frame.EncoderConfig{Epoch: 1})
		var bodies [rounds][][]byte
		for round := range bodies {
			for _, t := range w.targets {
				bodies[round] = append(bodies[round], t.next())
			}
		}
		var ours, theirs, samples float64
		for b.Loop() {
			round := w.round % rounds
			if round == 0 {
				enc.RequestKeyframe()
			}
			start := time.Now()
			var frames [][]byte
			for i, body := range bodies[round] {
				row := w.parse(b, i, body)
				samples += float64(row.Samples())
				var err error
				if frames, err = enc.Append(frames, row, row.T); err != nil {
					b.Fatal(err)
				}
			}
			enc.Close(frames, w.time(targets))
			ours += float64(time.Since(start))
			start = time.Now()
			for _, body := range bodies[round] {
				textparseAll(b, body)
			}
			theirs += float64(time.Since(start))
			w.round++
		}
		b.ReportMetric(ours/samples, "ns/sample")
		b.ReportMetric(theirs/samples, "textparse-ns/sample")
		b.ReportMetric(theirs/ours, "x-textparse")
		b.ReportMetric(0, "ns/op")
	})
}

func textparseAll(b *testing.B, body []byte) {
	p := textparse.NewPromParser(body, labels.NewSymbolTable(), false)
	var ls labels.Labels
	for {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			b.Fatal(err)
		}
		if entry == textparse.EntrySeries {
			p.Labels(&ls)
			_, _, v := p.Series()
			consume(v)
		}
	}
}
