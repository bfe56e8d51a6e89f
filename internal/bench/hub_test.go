package bench

import (
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/store"
)

// BenchmarkHub reports what a sample costs a hub from the frame to the store, and how many times that is what decoding
// the same rows as remote write 2.0 needs (requests of 2,000 samples, snappy and Unmarshal into a reused struct, no
// labels).
func BenchmarkHub(b *testing.B) {
	each(b, func(b *testing.B, name string, targets int) {
		w := newWorkload(b, name, targets)
		enc := frame.NewEncoder(frame.EncoderConfig{Epoch: 1})
		var frames [rounds][][]byte
		var requests [rounds][][]byte
		var samples [rounds]float64
		for w.round = range rounds {
			compare := newRemoteWrite()
			for i := range w.targets {
				row := w.parse(b, i, w.targets[i].next())
				samples[w.round] += float64(row.Samples())
				before := compare.v2
				compare.add(row)
				if compare.v2 != before {
					requests[w.round] = append(requests[w.round], compare.last)
				}
				var err error
				if frames[w.round], err = enc.Append(frames[w.round], row, row.T); err != nil {
					b.Fatal(err)
				}
			}
			frames[w.round] = enc.Close(frames[w.round], w.time(targets))
			before := compare.v2
			if compare.flush(); compare.v2 != before {
				requests[w.round] = append(requests[w.round], compare.last)
			}
		}
		s, err := store.New(store.Options{Config: store.DefaultConfig()})
		if err != nil {
			b.Fatal(err)
		}
		dec := frame.NewDecoder(frame.DecoderConfig{Catalog: series.NewCatalog()})
		var ours, theirs, total float64
		var raw []byte
		var request writev2.Request
		round, rank := 0, uint64(0)
		for b.Loop() {
			total += samples[round]
			start := time.Now()
			for _, f := range frames[round] {
				rank++
				_, err := dec.Decode(f, frame.Handler{Row: func(row *series.Row) {
					if err := s.Apply("ams-1", store.Rank{Frame: rank}, row, row.T); err != nil {
						b.Fatal(err)
					}
				}})
				if err != nil {
					b.Fatal(err)
				}
			}
			ours += float64(time.Since(start))
			start = time.Now()
			for _, q := range requests[round] {
				if raw, err = snappy.Decode(raw[:cap(raw)], q); err != nil {
					b.Fatal(err)
				}
				request.Symbols, request.Timeseries = request.Symbols[:0], request.Timeseries[:0]
				if err := request.Unmarshal(raw); err != nil {
					b.Fatal(err)
				}
			}
			theirs += float64(time.Since(start))
			round = (round + 1) % rounds
		}
		b.ReportMetric(ours/total, "ns/sample")
		b.ReportMetric(theirs/total, "rw2-ns/sample")
		b.ReportMetric(theirs/ours, "x-rw2")
		b.ReportMetric(0, "ns/op")
	})
}
