package outbox

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/units"

	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/frame"
)

// How long the outbox lasts is bounded by the disk too, and is nothing while frames are refused. Open warns if the disk
// cannot hold max_bytes.
func TestLeftOnSmallDisk(t *testing.T) {
	bustest.OnSmallDisk(t, 4<<20, func(t *testing.T, disk *bustest.Disk) {
		f := &fixture{t: t, dir: disk.Dir, clock: time.UnixMilli(1_700_000_000_000), conf: DefaultConfig()}
		f.conf.MaxBytes = units.PiB
		f.enc = newEncoder(rand.New(rand.NewPCG(1, 1)), &f.clock)
		f.open()
		if !strings.Contains(f.log.String(), "disk will be full before the outbox is") {
			t.Error("nothing is said about a disk that is too small")
		}
		f.clock = f.clock.Add(99 * time.Second)
		f.group(1, 200_000) // 2,000 bytes a second
		f.box.Ack(f.epoch(), 1, 1)
		s := f.box.Stats()
		byDisk := time.Duration(s.Free+200_000) * time.Second / 2000
		if want := min(byDisk, time.Duration(f.conf.MaxAge)); (s.Left - want).Abs() > time.Minute {
			t.Errorf("%s left with %d bytes free, want %s", s.Left, s.Free, want)
		}
		disk.Fill()
		if err := f.box.Append(f.enc.next(frame.Keyframe, 400_000)); err == nil {
			t.Fatal("a frame was stored on a full disk")
		}
		if left := f.box.Stats().Left; left != 0 {
			t.Errorf("%s left while frames are refused", left)
		}
		disk.Free()
		f.group(1, 1000)
		if left := f.box.Stats().Left; left < time.Minute {
			t.Errorf("%s left when there is room again", left)
		}
	})
}
