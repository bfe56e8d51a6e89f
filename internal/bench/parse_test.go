package bench

import (
	"bytes"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
)

// BenchmarkParse reports what a sample costs from the body in memory to the row, in each format that targets speak, and
// how many times that is what textparse with Labels needs for the same bodies. The parsers know their targets. Of
// every round the shortest time counts, of either.
func BenchmarkParse(b *testing.B) {
	for _, f := range []struct {
		name   string
		format expfmt.Format
	}{
		{"text", expfmt.NewFormat(expfmt.TypeTextPlain)},
		{"openmetrics", expfmt.NewFormat(expfmt.TypeOpenMetrics)},
		{"protobuf", expfmt.NewFormat(expfmt.TypeProtoDelim)},
	} {
		b.Run(f.name, func(b *testing.B) {
			each(b, func(b *testing.B, name string, targets int) { benchmarkParse(b, name, targets, f.format) })
		})
	}
}

func benchmarkParse(b *testing.B, name string, targets int, format expfmt.Format) {
	w := newWorkload(b, name, targets)
	bodies := replay(w, func(body []byte) []byte {
		if format.FormatType() == expfmt.TypeTextPlain {
			return body
		}
		return convert(b, body, format)
	})
	var ours, theirs [rounds]time.Duration
	var samples [rounds]float64
	step := func() {
		round := w.round % rounds
		samples[round] = 0
		start := time.Now()
		for i, body := range bodies[round] {
			r, err := w.parsers[i].Parse(body, string(format), w.time(i))
			if err != nil {
				b.Fatal(err)
			}
			samples[round] += float64(r.Samples)
		}
		shorter(&ours[round], time.Since(start))
		start = time.Now()
		for _, body := range bodies[round] {
			p, err := textparse.New(body, string(format), labels.NewSymbolTable(), textparse.ParserOptions{IgnoreNativeHistograms: true})
			if err != nil {
				b.Fatal(err)
			}
			textparseAll(b, p)
		}
		shorter(&theirs[round], time.Since(start))
		w.round++
	}
	for range rounds {
		step()
	}
	clear(ours[:])
	clear(theirs[:])
	for b.Loop() {
		step()
	}
	var our, their, total float64
	for i := range rounds {
		if ours[i] > 0 { // not every round may have come
			our, their, total = our+float64(ours[i]), their+float64(theirs[i]), total+samples[i]
		}
	}
	b.ReportMetric(our/total, "ns/sample")
	b.ReportMetric(their/total, "textparse-ns/sample")
	b.ReportMetric(their/our, "x-textparse")
	b.ReportMetric(0, "ns/op")
}

// convert returns a body of the text format in another one.
func convert(b testing.TB, body []byte, format expfmt.Format) []byte {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	var to bytes.Buffer
	enc := expfmt.NewEncoder(&to, format)
	for _, name := range slices.Sorted(maps.Keys(families)) {
		if err := enc.Encode(families[name]); err != nil {
			b.Fatal(err)
		}
	}
	if c, ok := enc.(expfmt.Closer); ok {
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
	}
	return to.Bytes()
}
