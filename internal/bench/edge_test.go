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
// keyframe interval has gone by. Of every round the shortest time counts, of each: what else the machine does takes none
// of it.
func BenchmarkEdge(b *testing.B) {
	each(b, func(b *testing.B, name string, targets int) {
		w := newWorkload(b, name, targets)
		bodies := replay(w, func(body []byte) []byte { return body })
		enc := frame.NewEncoder(frame.EncoderConfig{Epoch: 1})
		var parsing, whole, theirs [rounds]time.Duration
		var samples [rounds]float64
		step := func() {
			round := w.round % rounds
			if round == 0 {
				enc.RequestKeyframe()
			}
			samples[round] = 0
			var frames [][]byte
			var parsed time.Duration
			start := time.Now()
			for i, body := range bodies[round] {
				begin := time.Now()
				row := w.parse(b, i, body)
				parsed += time.Since(begin)
				samples[round] += float64(row.Samples())
				var err error
				if frames, err = enc.Append(frames, row, row.T); err != nil {
					b.Fatal(err)
				}
			}
			enc.Close(frames, w.time(targets))
			shorter(&whole[round], time.Since(start))
			shorter(&parsing[round], parsed)
			start = time.Now()
			for _, body := range bodies[round] {
				textparseAll(b, textparse.NewPromParser(body, labels.NewSymbolTable(), false))
			}
			shorter(&theirs[round], time.Since(start))
			w.round++
		}
		for range rounds {
			step()
		}
		clear(parsing[:])
		clear(whole[:])
		clear(theirs[:])
		for b.Loop() {
			step()
		}
		var parse, our, their, total float64
		for i := range rounds {
			if whole[i] > 0 { // not every round may have come
				parse, our, their = parse+float64(parsing[i]), our+float64(whole[i]), their+float64(theirs[i])
				total += samples[i]
			}
		}
		b.ReportMetric(our/total, "ns/sample")
		b.ReportMetric(parse/total, "parse-ns/sample")
		b.ReportMetric(their/total, "textparse-ns/sample")
		b.ReportMetric(their/our, "x-textparse")
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
