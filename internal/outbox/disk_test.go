package outbox

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/thalweg/thalweg/internal/frame"
)

// Somebody else fills the disk, again and again: the oldest file goes, also where it is the only one, and not even the
// state file can be written before it is gone.
func TestDiskFilledByOthers(t *testing.T) {
	disk := newMemFS()
	clock := time.UnixMilli(1_700_000_000_000)
	open := func() *Outbox {
		t.Helper()
		box, err := Open(Options{FS: disk, Config: DefaultConfig(), Now: func() time.Time { return clock }})
		if err != nil {
			t.Fatal(err)
		}
		return box
	}
	enc := newEncoder(rand.New(rand.NewPCG(1, 1)), &clock)
	box := open()
	enc.begin(frame.Header{})
	for i := range 40 {
		kind := frame.Delta
		if i == 0 {
			kind = frame.Keyframe
		}
		if err := box.Append(enc.next(kind, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	box.Ack(enc.last.Epoch, 1, enc.last.Number)
	refused := 0
	kind := frame.Delta
	for i := range 60 {
		if i%20 == 0 {
			disk.mu.Lock()
			disk.room = disk.bytes() // all that is free goes
			disk.mu.Unlock()
		}
		clock = clock.Add(time.Second)
		if err := box.Append(enc.next(kind, 1000)); err == nil {
			box.Ack(enc.last.Epoch, 1, enc.last.Number)
			kind = frame.Delta
		} else {
			refused++
			kind = frame.Keyframe
		}
	}
	if refused > 4 {
		t.Errorf("%d frames of 60 were refused, want one for each time that a file had to go", refused)
	}
	last, ok := box.Last()
	disk.mu.Lock()
	disk.room = 0
	disk.mu.Unlock()
	if err := box.Close(); err != nil {
		t.Fatal(err)
	}
	box = open()
	defer box.Close()
	if got, _ := box.Last(); !ok || got.ID != last.ID {
		t.Errorf("the next process goes on behind %s, want %s", got.ID, last.ID)
	}
	if losses := box.Losses(); len(losses) > 0 {
		t.Errorf("losses of what was acknowledged: %+v", losses)
	}
}

// A disk that fills up slowly costs no frame, although there is only one file, and that one is about to grow.
func TestDiskFillsUp(t *testing.T) {
	disk := newMemFS()
	clock := time.UnixMilli(1_700_000_000_000)
	box, err := Open(Options{FS: disk, Config: DefaultConfig(), Now: func() time.Time { return clock }})
	if err != nil {
		t.Fatal(err)
	}
	defer box.Close()
	enc := newEncoder(rand.New(rand.NewPCG(1, 1)), &clock)
	enc.begin(frame.Header{})
	disk.room = 300_000 + reserveBytes
	keyframes := 0
	for i := range 500 {
		clock = clock.Add(time.Second)
		disk.mu.Lock()
		disk.room -= min(500, disk.room-disk.bytes()) // somebody else's log
		disk.mu.Unlock()
		kind, size := frame.Delta, 1000
		if i == 0 || box.Crowded() {
			kind, size = frame.Keyframe, 5000
			keyframes++
		}
		if err := box.Append(enc.next(kind, size)); err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
		box.Ack(enc.last.Epoch, 1, enc.last.Number)
	}
	if keyframes < 2 || keyframes > 20 {
		t.Errorf("%d keyframes for 500 frames on a disk that fills up", keyframes)
	}
}

// The only file goes on a full disk, and the process is killed at once: the next one knows what is gone.
func TestReserve(t *testing.T) {
	disk := newMemFS()
	clock := time.UnixMilli(1_700_000_000_000)
	open := func() *Outbox {
		t.Helper()
		box, err := Open(Options{FS: disk, Config: DefaultConfig(), Now: func() time.Time { return clock }})
		if err != nil {
			t.Fatal(err)
		}
		return box
	}
	full := func() {
		disk.mu.Lock()
		defer disk.mu.Unlock()
		disk.room = disk.bytes()
	}
	reserve := func(when string, want bool) {
		t.Helper()
		disk.mu.Lock()
		defer disk.mu.Unlock()
		if _, is := disk.files[reserveName]; is != want {
			t.Errorf("%s: there is a reserve: %t, want %t", when, is, want)
		}
	}
	box := open()
	enc := newEncoder(rand.New(rand.NewPCG(1, 1)), &clock)
	enc.begin(frame.Header{})
	for i := range 40 {
		kind := frame.Delta
		if i == 0 {
			kind = frame.Keyframe
		}
		if err := box.Append(enc.next(kind, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	last, _ := box.Last()
	reserve("at first", true)
	full()
	disk.inject = func(_ int, call string) (fault, error) {
		if name, ok := strings.CutPrefix(call, "remove "); ok && name != reserveName {
			disk.room -= len(disk.files[name].data) // whoever filled it takes what becomes free, too
		}
		return noFault, nil
	}
	if err := box.Append(enc.next(frame.Keyframe, 100_000)); err == nil {
		t.Fatal("a frame was taken for which there is no room")
	}
	disk.inject = nil
	reserve("on a full disk", false)

	disk.locked = false // as of a process that was killed
	box = open()
	if got, ok := box.Last(); !ok || got.ID != last.ID {
		t.Errorf("after the kill the last frame is %s, want %s", got.ID, last.ID)
	}
	losses := box.Losses()
	if len(losses) != 1 || losses[0].From != 1 || losses[0].To != last.Number || losses[0].Rows != last.RowsBefore+uint64(last.Rows) {
		t.Errorf("losses after the kill are %+v, want one of 1 to %d with its rows", losses, last.Number)
	}
	disk.mu.Lock()
	disk.room = 0
	disk.mu.Unlock()
	if err := box.Expire(clock.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	reserve("when there is room again", true)
}
