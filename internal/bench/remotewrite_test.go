package bench

import (
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/prometheus/prometheus/util/compression"

	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/writeproto"
)

// BenchmarkRemoteWriteOut reports what a sample costs from the row to the finished request of 2,000 samples, in time and
// in bytes of its body, and how many times that is what Prometheus needs for the same samples. Of every round the
// shortest time counts, of either.
func BenchmarkRemoteWriteOut(b *testing.B) {
	for _, v := range []struct {
		name    string
		message writeproto.Message
		compare func() promWriter
	}{
		{"v1", writeproto.V1, newPromWriter1}, {"v2", writeproto.V2, newPromWriter2},
	} {
		for _, corpus := range []string{"node", "prometheus"} {
			b.Run(v.name+"/"+corpus, func(b *testing.B) {
				benchmarkOut(b, corpus, v.message, v.compare())
			})
		}
	}
}

func benchmarkOut(b *testing.B, corpus string, message writeproto.Message, compare promWriter) {
	final := func(site string, source *series.Source, column *series.Column, b *labels.Builder) bool {
		b.Reset(source.SeriesLabels(b, column))
		b.Set("site", site)
		return true
	}
	w := newWorkload(b, corpus, fleet)
	builder := labels.NewBuilder(labels.EmptyLabels())
	var rows [rounds][]*series.Row
	var batches [rounds][]promSeries
	var samples [rounds]int
	known := map[*series.Source]map[*series.Column]promSeries{}
	for w.round = range rounds {
		for i := range w.targets {
			row := *w.parse(b, i, w.targets[i].next())
			row.Values, row.Present = slices.Clone(row.Values), slices.Clone(row.Present)
			rows[w.round] = append(rows[w.round], &row)
			samples[w.round] += row.Samples()
			of := known[row.Source]
			if of == nil {
				of = map[*series.Column]promSeries{}
				known[row.Source] = of
			}
			for c, v := range row.Values {
				if !row.Has(c) {
					continue
				}
				s, ok := of[row.Schema.Column(c)]
				if !ok {
					f := row.Schema.Column(c).Family
					final("ams-1", row.Source, row.Schema.Column(c), builder)
					s = promSeries{labels: builder.Labels(), metadata: &metadata.Metadata{Type: f.Type, Help: f.Help, Unit: f.Unit}}
					of[row.Schema.Column(c)] = s
				}
				s.value, s.t = v, row.T
				batches[w.round] = append(batches[w.round], s)
			}
		}
	}
	e := writeproto.NewEncoder(writeproto.EncoderOptions{Message: message, MaxSamples: requestSamples, Labels: final})
	encode := func(round int) (bytes int) {
		for i, row := range rows[round] {
			e.Add("ams-1", i, row)
		}
		for _, r := range e.Close() {
			bytes += len(r.Body)
		}
		return bytes
	}
	encode(0) // names are made once
	var ours, theirs [rounds]time.Duration
	var bytes, theirBytes [rounds]int
	round := 0
	for b.Loop() {
		start := time.Now()
		bytes[round] = encode(round)
		shorter(&ours[round], time.Since(start))
		start = time.Now()
		theirBytes[round] = 0
		for batch := range slices.Chunk(batches[round], requestSamples) {
			theirBytes[round] += len(compare(b, batch))
		}
		shorter(&theirs[round], time.Since(start))
		round = (round + 1) % rounds
	}
	var our, their, total, size, theirSize float64
	for i := range rounds {
		if ours[i] > 0 { // not every round may have come
			our, their, total = our+float64(ours[i]), their+float64(theirs[i]), total+float64(samples[i])
			size, theirSize = size+float64(bytes[i]), theirSize+float64(theirBytes[i])
		}
	}
	b.ReportMetric(our/total, "ns/sample")
	b.ReportMetric(size/total, "B/sample")
	b.ReportMetric(their/our, "x-prometheus")
	b.ReportMetric(theirSize/total, "prometheus-B/sample")
	b.ReportMetric(0, "ns/op")
}

// promSeries is one element of Prometheus' queues.
type promSeries struct {
	labels   labels.Labels
	metadata *metadata.Metadata
	value    float64
	t        int64
}

// promWriter makes the body of a request, as the queue manager of Prometheus does (storage/remote of v0.315.0): labels to
// structs, these to bytes, these compressed, with all memory used again.
type promWriter func(b *testing.B, batch []promSeries) []byte

func newPromWriter1() promWriter {
	pending := make([]prompb.TimeSeries, requestSamples)
	var raw []byte
	packed := compression.NewSyncEncodeBuffer()
	return func(b *testing.B, batch []promSeries) []byte {
		for i, s := range batch {
			pending[i].Labels = prompb.FromLabels(s.labels, pending[i].Labels)
			pending[i].Samples = append(pending[i].Samples[:0], prompb.Sample{Value: s.value, Timestamp: s.t})
		}
		request := prompb.WriteRequest{Timeseries: pending[:len(batch)]}
		n := request.Size()
		raw = slices.Grow(raw[:0], n)[:n]
		if _, err := request.MarshalToSizedBuffer(raw); err != nil {
			b.Fatal(err)
		}
		return compress(b, raw, packed)
	}
}

func newPromWriter2() promWriter {
	pending := make([]writev2.TimeSeries, requestSamples)
	symbols := writev2.NewSymbolTable()
	var raw []byte
	packed := compression.NewSyncEncodeBuffer()
	return func(b *testing.B, batch []promSeries) []byte {
		symbols.Reset()
		for i, s := range batch {
			p := &pending[i]
			p.Metadata.Type = writev2.FromMetadataType(s.metadata.Type)
			p.Metadata.HelpRef = symbols.Symbolize(s.metadata.Help)
			p.Metadata.UnitRef = symbols.Symbolize(s.metadata.Unit)
			p.LabelsRefs = symbols.SymbolizeLabels(s.labels, p.LabelsRefs)
			p.Samples = append(p.Samples[:0], writev2.Sample{Value: s.value, Timestamp: s.t})
		}
		request := writev2.Request{Symbols: symbols.Symbols(), Timeseries: pending[:len(batch)]}
		var err error
		if raw, err = request.OptimizedMarshal(raw[:cap(raw)]); err != nil {
			b.Fatal(err)
		}
		return compress(b, raw, packed)
	}
}

func compress(b *testing.B, raw []byte, packed compression.EncodeBuffer) []byte {
	body, err := compression.Encode(compression.Snappy, raw, packed)
	if err != nil {
		b.Fatal(err)
	}
	return body
}
