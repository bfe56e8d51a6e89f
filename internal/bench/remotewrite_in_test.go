package bench

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/prometheus/prometheus/util/compression"

	"github.com/thalweg/thalweg/internal/remotewrite"
	"github.com/thalweg/thalweg/internal/series"
)

// BenchmarkRemoteWriteIn reports what a sample costs from the body of a request of 2,000, as Prometheus makes it, to rows
// that are committed to nowhere, and how many times that is what Prometheus needs until it has the labels and values in
// hand, before anything is looked up or stored. Of every round the shortest time counts, of either.
func BenchmarkRemoteWriteIn(b *testing.B) {
	for _, v := range []struct {
		name        string
		contentType string
		writer      func() promWriter
		read        func(*testing.B, []byte, *labels.ScratchBuilder) int
	}{
		{"v1", "application/x-protobuf", newPromWriter1, promRead1},
		{"v2", "application/x-protobuf;proto=io.prometheus.write.v2.Request", newPromWriter2, promRead2},
	} {
		for _, corpus := range []string{"node", "prometheus"} {
			b.Run(v.name+"/"+corpus, func(b *testing.B) {
				benchmarkIn(b, requestBodies(b, corpus, v.writer()), v.contentType, v.read)
			})
		}
	}
}

// requestBodies are the requests of each round of a fleet.
func requestBodies(b *testing.B, corpus string, write promWriter) (bodies [rounds][][]byte) {
	w := newWorkload(b, corpus, fleet)
	for w.round = range rounds {
		var batch []promSeries
		for i := range w.targets {
			row := w.parse(b, i, w.targets[i].next())
			builder := labels.NewBuilder(labels.EmptyLabels())
			for c, v := range row.Values {
				if row.Has(c) {
					f := row.Schema.Column(c).Family
					batch = append(batch, promSeries{
						row.Source.SeriesLabels(builder, row.Schema.Column(c)), &metadata.Metadata{Type: f.Type, Help: f.Help, Unit: f.Unit}, v, row.T,
					})
				}
			}
		}
		for part := range slices.Chunk(batch, requestSamples) {
			bodies[w.round] = append(bodies[w.round], slices.Clone(write(b, part)))
		}
	}
	return bodies
}

func benchmarkIn(b *testing.B, bodies [rounds][][]byte, contentType string, promRead func(*testing.B, []byte, *labels.ScratchBuilder) int) {
	var samples int
	var receiver *remotewrite.Receiver
	now := time.UnixMilli(begin)
	commit := func(_ context.Context, _ string, rows []*series.Row) error {
		for _, row := range rows {
			samples += row.Samples()
		}
		return nil
	}
	var request http.Request
	var answer discarded
	receive := func(round int) {
		now = time.UnixMilli(begin).Add(time.Duration(round+1) * interval)
		for _, body := range bodies[round] {
			request = http.Request{Method: http.MethodPost, Header: http.Header{"Content-Type": {contentType}, "Content-Encoding": {"snappy"}}}
			request.Body = io.NopCloser(bytes.NewReader(body))
			answer = discarded{header: http.Header{}}
			receiver.ServeHTTP(&answer, &request)
			if answer.status != http.StatusNoContent {
				b.Fatalf("the answer is %d", answer.status)
			}
		}
	}
	builder := labels.NewScratchBuilder(0)
	var ours, theirs [rounds]time.Duration
	var taken [rounds]int
	round := rounds
	for b.Loop() {
		if round == rounds { // samples have to be newer each time
			receiver = remotewrite.NewReceiver(remotewrite.ReceiverOptions{
				Catalog: series.NewCatalog(), Logger: slog.New(slog.DiscardHandler), Commit: commit,
				Site: func(*http.Request) string { return "ams-1" }, Now: func() time.Time { return now },
			})
			receive(0)
			round = 1
		}
		samples = 0
		start := time.Now()
		receive(round)
		shorter(&ours[round], time.Since(start))
		taken[round] = samples
		start = time.Now()
		n := 0
		for _, body := range bodies[round] {
			n += promRead(b, body, &builder)
		}
		shorter(&theirs[round], time.Since(start))
		if n != samples {
			b.Fatalf("%d samples are taken of %d", samples, n)
		}
		round++
	}
	var our, their, total float64
	for i := range rounds {
		our, their, total = our+float64(ours[i]), their+float64(theirs[i]), total+float64(taken[i])
	}
	b.ReportMetric(our/total, "ns/sample")
	b.ReportMetric(their/our, "x-prometheus")
	b.ReportMetric(0, "ns/op")
}

// discarded is an answer that nobody reads.
type discarded struct {
	header http.Header
	status int
}

func (d *discarded) Header() http.Header         { return d.header }
func (d *discarded) Write(p []byte) (int, error) { return len(p), nil }
func (d *discarded) WriteHeader(status int)      { d.status = status }

// promRead1 makes labels and values of a request, as the write handler of Prometheus does (storage/remote of v0.315.0).
func promRead1(b *testing.B, body []byte, builder *labels.ScratchBuilder) (samples int) {
	var r prompb.WriteRequest
	if err := r.Unmarshal(promDecompress(b, body)); err != nil {
		b.Fatal(err)
	}
	for _, s := range r.Timeseries {
		if s.ToLabels(builder, nil).IsEmpty() {
			b.Fatal("no labels")
		}
		samples += len(s.Samples)
	}
	return samples
}

func promRead2(b *testing.B, body []byte, builder *labels.ScratchBuilder) (samples int) {
	var r writev2.Request
	if err := r.Unmarshal(promDecompress(b, body)); err != nil {
		b.Fatal(err)
	}
	for _, s := range r.Timeseries {
		if l, err := s.ToLabels(builder, r.Symbols); err != nil || l.IsEmpty() {
			b.Fatal("no labels", err)
		}
		if _, err := s.ToMetadata(r.Symbols); err != nil {
			b.Fatal(err)
		}
		samples += len(s.Samples)
	}
	return samples
}

func promDecompress(b *testing.B, body []byte) []byte {
	raw, err := compression.Decode(compression.Snappy, body, nil)
	if err != nil {
		b.Fatal(err)
	}
	return raw
}
