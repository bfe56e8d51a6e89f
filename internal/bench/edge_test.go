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

// BenchmarkEdge reports what a sample costs an edge from the body in memory to the frame, how much of that is parsing,
// and how many times that is what textparse with Labels needs for the same bodies. The edge knows its targets: one
// keyframe interval has gone by.
func BenchmarkEdge(b *testing.B) {
	each(b, func(b *testing.B, name string, targets int) {
		w := newWorkload(b, name, targets)
		bodies := replay(w, func(body []byte) []byte { return body })
		enc := frame.NewEncoder(frame.EncoderConfig{Epoch: 1})
		var parsing, encoding, theirs time.Duration
		var samples int
		step := func() {
			round := w.round % rounds
			if round == 0 {
				enc.RequestKeyframe()
			}
			samples = 0
			var frames [][]byte
			now := time.Now()
			lap := func(sum *time.Duration) {
				before := now
				now = time.Now()
				*sum += now.Sub(before)
			}
			for i, body := range bodies[round] {
				row := w.parse(b, i, body)
				lap(&parsing)
				samples += row.Samples()
				var err error
				if frames, err = enc.Append(frames, row, row.T); err != nil {
					b.Fatal(err)
				}
				lap(&encoding)
			}
			enc.Close(frames, w.time(targets))
			lap(&encoding)
			for _, body := range bodies[round] {
				textparseAll(b, textparse.NewPromParser(body, labels.NewSymbolTable(), false))
			}
			lap(&theirs)
			w.round++
		}
		for range rounds {
			step()
		}
		parsing, encoding, theirs = 0, 0, 0
		total := 0
		for b.Loop() {
			step()
			total += samples
		}
		each := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / float64(total) }
		b.ReportMetric(each(parsing+encoding), "ns/sample")
		b.ReportMetric(each(parsing), "parse-ns/sample")
		b.ReportMetric(each(theirs), "textparse-ns/sample")
		b.ReportMetric(float64(theirs)/float64(parsing+encoding), "x-textparse")
		b.ReportMetric(0, "ns/op")
	})
}

// replay returns the bodies of all targets, round by round, as f makes them.
func replay(w *workload, f func(body []byte) []byte) (bodies [rounds][][]byte) {
	for round := range bodies {
		for _, t := range w.targets {
			bodies[round] = append(bodies[round], f(t.next()))
		}
	}
	return bodies
}

// textparseAll reads a body with all labels.
func textparseAll(b *testing.B, p textparse.Parser) {
	var ls labels.Labels
	for {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			b.Fatal(err)
		}
		switch entry {
		case textparse.EntrySeries:
			p.Labels(&ls)
			_, _, v := p.Series()
			consume(v)
		case textparse.EntryHistogram:
			p.Labels(&ls)
			p.Histogram()
		}
	}
}
