package node

import (
	"context"
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
)

// TestReadyTellsOfFullDisk: /-/ready says that the disk of the embedded server is full, until it is not any more.
func TestReadyTellsOfFullDisk(t *testing.T) {
	bustest.OnSmallDisk(t, 16<<20, func(t *testing.T, disk *bustest.Disk) {
		n := start(t, fmt.Sprintf("site: centre\ndata_dir: %q\nnats: {embedded: {listen: '127.0.0.1:0'}}\nhub: {}\n",
			filepath.Join(disk.Dir, "data")))
		ready := func() (code int, text string) {
			w := httptest.NewRecorder()
			n.health.ServeHTTP(w, httptest.NewRequest("GET", "/-/ready", nil))
			return w.Code, w.Body.String()
		}
		isReady := func() bool { code, _ := ready(); return code == 200 }
		await(t, "readiness", isReady)
		edge := bustest.Connected(t, bus.Options{Config: bustest.Config(n.NATSURL()), Site: "ams-1"})
		disk.Fill()
		ctx, cancel := context.WithCancel(t.Context())
		refused := make(chan struct{}) // closed when a message could not be stored, which is how the server finds out
		go func() {
			defer close(refused)
			for err, last := error(nil), uint64(0); err == nil; {
				last, err = edge.Publish(ctx, edge.Root().Lane("ams-1", bus.Live), make([]byte, 64<<10), last)
			}
		}()
		await(t, "the reason", func() bool {
			code, text := ready()
			return code == 503 && strings.Contains(text, "waiting for nats: ")
		})
		disk.Free()
		await(t, "readiness", isReady)
		cancel()
		<-refused
	})
}
