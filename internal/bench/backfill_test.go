package bench

import (
	"testing"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/store"
)

// bundleBytes is about what an edge puts into one message on a fast link.
const bundleBytes = 256 << 10

// BenchmarkBackfill reports how many samples a second one core brings from stored messages into the store: bundles, as
// they stand in the stream, through ledger and decoder to the store.
func BenchmarkBackfill(b *testing.B) {
	each(b, func(b *testing.B, name string, targets int) {
		bundles, samples := backlog(b, name, targets)
		limits := frame.DecoderConfig{Catalog: series.NewCatalog(), Scratch: &frame.Scratch{}}
		var total float64
		for b.Loop() {
			receiver := lane.NewReceiver(lane.ReceiverConfig{Decoder: func(string) (frame.DecoderConfig, bool) { return limits, true }})
			s, err := store.New(store.Options{Config: store.DefaultConfig()})
			if err != nil {
				b.Fatal(err)
			}
			handler := lane.Handler{
				Row: func(d *lane.Delivery, row *series.Row) {
					if err := s.Apply(d.Site, store.Rank{Epoch: d.Rank.Epoch, Frame: d.Rank.Number}, row, row.T); err != nil {
						b.Fatal(err)
					}
				},
				Problem: func(p lane.Problem) { b.Fatal(p.Err) },
			}
			for i, payload := range bundles {
				receiver.Step(lane.Message{Site: "ams-1", Backfill: true, Sequence: uint64(i + 1), Received: begin, Payload: payload}, handler)
			}
			total += samples
		}
		b.ReportMetric(total/b.Elapsed().Seconds(), "samples/s")
		b.ReportMetric(0, "ns/op")
	})
}

// backlog is an outage of a site, in bundles: its frames, with a keyframe every 40 rows of a target.
func backlog(b *testing.B, name string, targets int) (bundles [][]byte, samples float64) {
	const keyframes = 5
	w := newWorkload(b, name, targets)
	enc := frame.NewEncoder(frame.EncoderConfig{Epoch: 1})
	var frames [][]byte
	for w.round = range keyframes * rounds {
		if w.round%rounds == 0 {
			enc.RequestKeyframe()
		}
		for i := range w.targets {
			row := w.parse(b, i, w.targets[i].next())
			samples += float64(row.Samples())
			var err error
			if frames, err = enc.Append(frames, row, row.T); err != nil {
				b.Fatal(err)
			}
		}
		frames = enc.Close(frames, w.time(targets))
	}
	var bundle []byte
	for _, f := range frames {
		if len(bundle) > 0 && len(bundle)+len(f) > bundleBytes {
			bundles, bundle = append(bundles, bundle), nil
		}
		bundle = append(bundle, f...)
	}
	return append(bundles, bundle), samples
}
