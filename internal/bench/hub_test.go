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
// labels). Of every round the shortest time counts, of either: what else the machine does takes none of it.
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
		var ours, theirs [rounds]time.Duration
		var raw []byte
		var request writev2.Request
		round, rank := 0, uint64(0)
		for b.Loop() {
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
			shorter(&ours[round], time.Since(start))
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
			shorter(&theirs[round], time.Since(start))
			round = (round + 1) % rounds
		}
		var our, their, total float64
		for i := range rounds {
			if ours[i] > 0 { // not every round may have come
				our, their, total = our+float64(ours[i]), their+float64(theirs[i]), total+samples[i]
			}
		}
		b.ReportMetric(our/total, "ns/sample")
		b.ReportMetric(their/total, "rw2-ns/sample")
		b.ReportMetric(their/our, "x-rw2")
		b.ReportMetric(0, "ns/op")
	})
}

// shorter keeps the shortest time that is not 0.
func shorter(best *time.Duration, d time.Duration) {
	if *best == 0 || d < *best {
		*best = d
	}
}
