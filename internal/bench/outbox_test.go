package bench

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/outbox"
)

// BenchmarkOutbox reports what a sample costs in the outbox: written and synced as its frame is flushed, with every
// choice of sync (ns/sample); read again, as a backlog is (read-ns/sample); and on disk, the state file included
// (B/sample). Each flush is one frame of all targets.
func BenchmarkOutbox(b *testing.B) {
	each(b, func(b *testing.B, name string, targets int) {
		frames, samples := flushes(b, name, targets)
		for _, sync := range []outbox.Sync{outbox.SyncFlush, outbox.SyncNone} {
			b.Run(string(sync), func(b *testing.B) {
				var written, read time.Duration
				var disk int64
				for b.Loop() {
					dir := b.TempDir()
					config := outbox.DefaultConfig()
					config.Sync = sync
					box, err := outbox.Open(outbox.Options{Dir: dir, Config: config})
					if err != nil {
						b.Fatal(err)
					}
					start := time.Now()
					for _, flush := range frames {
						if err := box.Append(flush...); err != nil {
							b.Fatal(err)
						}
					}
					written += time.Since(start)
					start = time.Now()
					readAll(b, box)
					read += time.Since(start)
					if err := box.Close(); err != nil {
						b.Fatal(err)
					}
					disk += size(b, dir)
				}
				n := samples * float64(b.N)
				b.ReportMetric(float64(written)/n, "ns/sample")
				b.ReportMetric(float64(read)/n, "read-ns/sample")
				b.ReportMetric(float64(disk)/n, "B/sample")
				b.ReportMetric(0, "ns/op")
			})
		}
	})
}

// flushes returns the frames of all rounds, and how many samples are in them.
func flushes(b *testing.B, name string, targets int) (frames [][][]byte, samples float64) {
	w := newWorkload(b, name, targets)
	enc := frame.NewEncoder(frame.EncoderConfig{Epoch: 1})
	for w.round = range rounds {
		var flush [][]byte
		for i := range w.targets {
			row := w.parse(b, i, w.targets[i].next())
			samples += float64(row.Samples())
			var err error
			if flush, err = enc.Append(flush, row, row.T); err != nil {
				b.Fatal(err)
			}
		}
		frames = append(frames, enc.Close(flush, w.time(targets)))
	}
	return frames, samples
}

func readAll(b *testing.B, box *outbox.Outbox) {
	r := box.Reader(frame.ID{})
	defer r.Close()
	for {
		_, _, _, err := r.Next(512 << 10)
		if errors.Is(err, outbox.ErrHead) {
			return
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// size is what the files of a directory hold.
func size(b *testing.B, dir string) (n int64) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		b.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			b.Fatal(err)
		}
		n += info.Size()
	}
	return n
}
