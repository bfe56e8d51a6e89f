package bench

import (
	"math"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/series"
)

// perMessage is what a message takes beside its frame: the subject, and the header with the expected sequence.
var perMessage = len(bus.Root("thalweg").Lane("ams-1", bus.Live)) + len("NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: 1234567\r\n\r\n")

// BenchmarkWire reports what a sample costs on the wire, all in: the bytes of a keyframe and of the deltas until the
// next one, with subject and headers, per sample; beside it the bytes of the keyframe, per series. rw1 and rw2 are remote write 1.0 and 2.0 on the same rows.
func BenchmarkWire(b *testing.B) {
	each(b, func(b *testing.B, name string, targets int) {
		var bytes, samples, rw1, rw2, spent, keyframes, columns float64
		for b.Loop() {
			w := newWorkload(b, name, targets)
			enc := frame.NewEncoder(frame.EncoderConfig{Epoch: 1})
			compare := newRemoteWrite()
			for w.round = range rounds {
				var frames [][]byte
				for i := range w.targets {
					row := w.parse(b, i, w.targets[i].next())
					compare.add(row)
					start := time.Now()
					var err error
					if frames, err = enc.Append(frames, row, row.T); err != nil {
						b.Fatal(err)
					}
					spent += float64(time.Since(start))
					samples += float64(row.Samples())
				}
				start := time.Now()
				frames = enc.Close(frames, w.time(targets))
				spent += float64(time.Since(start))
				for _, f := range frames {
					bytes += float64(len(f) + perMessage)
					if w.round == 0 {
						keyframes += float64(len(f))
					}
				}
				if w.round == 0 {
					columns += float64(enc.Columns())
				}
				compare.flush()
			}
			rw1 += float64(compare.v1)
			rw2 += float64(compare.v2)
		}
		b.ReportMetric(bytes/samples, "B/sample")
		b.ReportMetric(keyframes/columns, "keyframe-B/series")
		b.ReportMetric(spent/samples, "encode-ns/sample")
		b.ReportMetric(rw1/samples, "rw1-B/sample")
		b.ReportMetric(rw2/samples, "rw2-B/sample")
		b.ReportMetric(0, "ns/op")
	})
}

// requestSamples is the size of a remote write request, as Prometheus sends it.
const requestSamples = 2000

// httpHeaders is what a request takes beside its body: method, path, host and the headers that Prometheus sends.
const httpHeaders = 280

// remoteWrite counts the bytes that remote write needs for the same samples.
type remoteWrite struct {
	builder *labels.Builder
	series  []labels.Labels
	family  []series.Family
	values  []float64
	times   []int64
	v1, v2  int
	last    []byte // the last request of 2.0, compressed
}

func newRemoteWrite() *remoteWrite {
	return &remoteWrite{builder: labels.NewBuilder(labels.EmptyLabels())}
}

func (r *remoteWrite) add(row *series.Row) {
	for i, v := range row.Values {
		if !row.Has(i) {
			continue
		}
		c := row.Schema.Column(i)
		r.series = append(r.series, row.Source.SeriesLabels(r.builder, c))
		r.family = append(r.family, c.Family)
		r.values, r.times = append(r.values, v), append(r.times, row.T)
		if len(r.values) == requestSamples {
			r.flush()
		}
	}
}

func (r *remoteWrite) flush() {
	if len(r.values) == 0 {
		return
	}
	var v1 prompb.WriteRequest
	symbols := writev2.NewSymbolTable()
	var v2 writev2.Request
	for i, ls := range r.series {
		v1.Timeseries = append(v1.Timeseries, prompb.TimeSeries{
			Labels: prompb.FromLabels(ls, nil), Samples: []prompb.Sample{{Value: r.values[i], Timestamp: r.times[i]}},
		})
		ts := writev2.TimeSeries{Samples: []writev2.Sample{{Value: r.values[i], Timestamp: r.times[i]}}}
		ts.LabelsRefs = symbols.SymbolizeLabels(ls, nil)
		ts.Metadata = writev2.Metadata{Type: writeType(r.family[i].Type), HelpRef: symbols.Symbolize(r.family[i].Help)}
		v2.Timeseries = append(v2.Timeseries, ts)
	}
	v2.Symbols = symbols.Symbols()
	one, err := v1.Marshal()
	if err != nil {
		panic(err)
	}
	two, err := v2.Marshal()
	if err != nil {
		panic(err)
	}
	r.last = snappy.Encode(nil, two)
	r.v1 += len(snappy.Encode(nil, one)) + httpHeaders
	r.v2 += len(r.last) + httpHeaders
	r.series, r.family, r.values, r.times = r.series[:0], r.family[:0], r.values[:0], r.times[:0]
}

func writeType(t model.MetricType) writev2.Metadata_MetricType {
	switch t {
	case model.MetricTypeCounter:
		return writev2.Metadata_METRIC_TYPE_COUNTER
	case model.MetricTypeGauge:
		return writev2.Metadata_METRIC_TYPE_GAUGE
	case model.MetricTypeHistogram:
		return writev2.Metadata_METRIC_TYPE_HISTOGRAM
	case model.MetricTypeSummary:
		return writev2.Metadata_METRIC_TYPE_SUMMARY
	}
	return writev2.Metadata_METRIC_TYPE_UNSPECIFIED
}

// sink keeps the compiler from dropping what is only computed for its cost.
var sink float64

func consume(v float64) { sink += math.Abs(v) }
