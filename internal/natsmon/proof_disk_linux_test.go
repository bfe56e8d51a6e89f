package natsmon

import (
	"fmt"
	"log/slog"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/thalweg/thalweg/internal/bus/bustest"
)

// TestFullDisk has a server that cannot write any more.
func TestFullDisk(t *testing.T) {
	const size = 8 << 20
	bustest.OnSmallDisk(t, size, func(t *testing.T, disk *bustest.Disk) {
		s := startServer(t, fmt.Sprintf("jetstream: {store_dir: %q, max_file_store: 1GB}\n", disk.Dir))
		e, err := New(Options{
			Config: Config{Embedded: true}, Embedded: s, StoreDir: s.StoreDir(), Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		js := jetStreamOf(t, s)
		streamOf(t, js, jetstream.StreamConfig{Name: "LARGE", Subjects: []string{"large"}})
		got := scrape(t, e.Handler())
		expectLines(t, got, `nats_server_healthy{check="all",server="test"} 1`)
		before := number(t, got, series(t, got, "nats_jetstream_filesystem_free_bytes"))
		disk.Fill()
		fill(t, js, "large", 100<<10)
		got = scrape(t, e.Handler())
		// A disk that is but a limit to the size of files has as much left as ever.
		if after := number(t, got, series(t, got, "nats_jetstream_filesystem_free_bytes")); before <= size && after > 0 {
			t.Errorf("%v bytes are left of %v", after, before)
		}
		expectLines(t, got, `nats_server_healthy{check="all",server="test"} 0`)
		if v := only(got, "nats_stream_write_error"); v != "1" {
			t.Errorf("write error: %s", v)
		}
	})
}
