package outbox

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/alecthomas/units"

	"github.com/thalweg/thalweg/internal/frame"
)

// encoder makes frames as an edge's does, with bodies that mean nothing.
type encoder struct {
	rng   *rand.Rand
	clock *time.Time
	last  frame.Header
	rows  uint64 // of the epoch so far
}

func newEncoder(rng *rand.Rand, clock *time.Time) *encoder { return &encoder{rng: rng, clock: clock} }

// begin starts a new epoch after the last frame of an outbox.
func (e *encoder) begin(last frame.Header) {
	e.last = frame.Header{ID: frame.ID{Epoch: frame.Epoch(e.rng.Uint64() | 1)}}
	e.last.Predecessor = frame.Predecessor{ID: last.ID, Rows: last.RowsAfter()}
	e.rows = 0
}

// next returns the next frame, of a body of size bytes.
func (e *encoder) next(kind frame.Kind, size int) []byte {
	h := frame.Header{Kind: kind, ID: e.last.ID, RowsBefore: e.rows, Rows: uint32(1 + e.rng.IntN(5)), Sent: e.clock.UnixMilli()}
	h.Number++
	if h.Number == 1 {
		h.Flags, h.Predecessor = frame.FlagFirst, e.last.Predecessor
		size = max(0, size-frame.PredecessorSize)
	}
	if kind == frame.Delta {
		h.Base = h.Number - 1
	}
	body := make([]byte, size)
	for i := range body {
		body[i] = byte(e.rng.Uint32())
	}
	e.last = h
	e.rows = h.RowsAfter()
	return frame.Seal(nil, h, body)
}

// attempt is a frame that was given to Append.
type attempt struct {
	id       frame.ID
	data     []byte
	accepted bool // Append said so
	refused  bool // Append said no; neither: it did not return
	acked    bool
}

// world drives an outbox at random and remembers what it promised.
type world struct {
	rng      *rand.Rand
	fs       *memFS
	config   Config
	clock    time.Time
	enc      *encoder
	box      *Outbox
	keyframe bool // the next one must be
	attempts []attempt
	lost     []Loss // announced
	faults   bool   // the disk lies
	unsynced bool   // a power cut took what sync: none did not force to disk
}

func newWorld(seed uint64) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 1)), fs: newMemFS(), config: DefaultConfig(), clock: time.UnixMilli(1_700_000_000_000)}
	w.enc = newEncoder(w.rng, &w.clock)
	return w
}

func (w *world) open() error {
	box, err := Open(Options{FS: w.fs, Config: w.config, Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return w.clock }})
	if err != nil {
		return err
	}
	w.box = box
	last, _ := box.Last()
	w.enc.begin(last)
	w.keyframe = true
	return nil
}

// act does one thing. An error is one of the file system.
func (w *world) act() error {
	w.clock = w.clock.Add(time.Duration(w.rng.IntN(2000)) * time.Millisecond)
	switch n := w.rng.IntN(20); {
	case n < 12:
		return w.append(1 + w.rng.IntN(3))
	case n < 16:
		w.ack()
		return nil
	case n < 17:
		w.clock = w.clock.Add(time.Duration(w.rng.IntN(8)) * time.Minute)
		return w.box.Expire(w.clock)
	case n < 18:
		losses := w.box.Losses()
		w.lost = append(w.lost, losses...)
		w.box.Announced(len(losses))
		return nil
	case n < 19:
		w.box.Unacked()
		return nil
	}
	w.close()
	return w.open()
}

// close gives the lock back even if the outbox could not.
func (w *world) close() {
	losses := w.box.Losses()
	if w.box.Close() != nil {
		w.lost = append(w.lost, losses...) // there was no saying it to the state file
	}
	w.fs.locked = false
}

func (w *world) append(n int) error {
	rows := w.enc.rows
	var frames [][]byte
	start := len(w.attempts)
	for range n {
		kind := frame.Delta
		if w.keyframe || w.rng.IntN(10) == 0 {
			kind = frame.Keyframe
		}
		w.keyframe = false
		data := w.enc.next(kind, w.rng.IntN(300))
		frames = append(frames, data)
		w.attempts = append(w.attempts, attempt{id: w.enc.last.ID, data: data})
	}
	err := w.box.Append(frames...)
	for i := start; i < len(w.attempts); i++ {
		w.attempts[i].accepted, w.attempts[i].refused = err == nil, err != nil
	}
	if err != nil {
		w.keyframe = true
		w.enc.rows = rows // the same rows again, in other frames
		if !errors.Is(err, ErrKeyframeNeeded) {
			return fmt.Errorf("append error that asks for no keyframe: %w", err)
		}
	}
	return err
}

func (w *world) ack() {
	if len(w.attempts) == 0 {
		return
	}
	from := w.rng.IntN(len(w.attempts))
	for i := from; i < min(from+20, len(w.attempts)); i++ {
		if a := &w.attempts[i]; a.accepted {
			a.acked = true
			w.box.Ack(a.id.Epoch, a.id.Number, a.id.Number)
		}
	}
}

// contents reads everything, over gaps if there may be some.
func contents(t *testing.T, box *Outbox, max int, gaps bool) [][]byte {
	t.Helper()
	r := box.Reader(frame.ID{})
	defer r.Close()
	var frames [][]byte
	for {
		data, first, last, err := r.Next(max)
		if errors.Is(err, ErrHead) {
			return frames
		}
		var gap *GapError
		if gaps && errors.As(err, &gap) {
			continue
		}
		if err != nil {
			t.Fatalf("read outbox: %v", err)
		}
		var ids []frame.ID
		for len(data) > 0 {
			h, one, rest, err := frame.Split(data)
			if err != nil {
				t.Fatalf("split what Next returned: %v", err)
			}
			ids = append(ids, h.ID)
			frames = append(frames, bytes.Clone(one))
			data = rest
		}
		if ids[0] != first.ID || ids[len(ids)-1] != last.ID {
			t.Fatalf("Next returned frames %v and says %s to %s", ids, first.ID, last.ID)
		}
	}
}

func covered(losses []Loss, id frame.ID) bool {
	for _, l := range losses {
		if l.Epoch == id.Epoch && l.From <= id.Number && id.Number <= l.To {
			return true
		}
	}
	return false
}

// check compares an outbox, opened after whatever happened, with what was promised.
func (w *world) check(t *testing.T) {
	t.Helper()
	frames := contents(t, w.box, 1+w.rng.IntN(2000), w.faults)
	lost := append(w.lost, w.box.Losses()...)
	i := 0
	rows := map[frame.Epoch]uint64{}
	for n := range w.attempts {
		a := &w.attempts[n]
		if i < len(frames) && bytes.Equal(frames[i], a.data) {
			i++
			h, _ := frame.ParseHeader(a.data)
			if h.RowsBefore < rows[h.Epoch] {
				t.Fatalf("frame %s holds rows from %d, of which an earlier frame holds some up to %d", h.ID, h.RowsBefore, rows[h.Epoch])
			}
			rows[h.Epoch] = h.RowsAfter()
			continue
		}
		if a.accepted && !a.acked && !w.unsynced && !covered(lost, a.id) {
			t.Fatalf("frame %s was accepted, and is neither there nor reported as lost (%v)", a.id, lost)
		}
	}
	if i < len(frames) {
		h, _ := frame.ParseHeader(frames[i])
		t.Fatalf("frame %s is there (%d of %d), which nobody appended there", h.ID, i, len(frames))
	}
	for _, l := range lost {
		// A file that was deleted although the disk said that it could not be is missing later.
		if (l.Cause == CauseCorrupt || l.Cause == CauseMissing && !w.faults) && !w.unsynced {
			t.Fatalf("loss %+v, although the disk is sound", l)
		}
	}
	if last, ok := w.box.Last(); ok {
		known := -1
		for n := range w.attempts {
			if w.attempts[n].id == last.ID {
				known = n
			}
		}
		for _, a := range w.attempts[known+1:] {
			if a.accepted && !w.unsynced {
				t.Fatalf("last frame is %s, but %s was accepted later", last.ID, a.id)
			}
		}
	}
	// The encoder goes on.
	last, _ := w.box.Last()
	w.enc.begin(last)
	r := w.box.ReaderAtHead()
	defer r.Close()
	more := [][]byte{w.enc.next(frame.Keyframe, 10), w.enc.next(frame.Delta, 10)}
	if err := w.box.Append(more...); err != nil {
		t.Fatalf("append after recovery: %v", err)
	}
	if data, _, _, err := r.Next(1 << 20); err != nil || !bytes.Equal(data, bytes.Join(more, nil)) {
		t.Fatalf("read %d bytes after recovery (%v), want the two frames appended", len(data), err)
	}
}

// TestCrash stops the same run at every single operation on the directory and keeps what a crash may leave. Without
// fsync that may be anything of what was written, and frames may be gone without a trace; but what is there is what was
// appended, in order, each row once, and the edge goes on.
func TestCrash(t *testing.T) {
	for seed := range uint64(seeds(4)) {
		for _, sync := range []Sync{SyncFlush, SyncNone} {
			t.Run(fmt.Sprintf("sync=%s/seed=%d", sync, seed), func(t *testing.T) {
				t.Parallel()
				crashEverywhere(t, seed, sync)
			})
		}
	}
}

func crashEverywhere(t *testing.T, seed uint64, sync Sync) {
	for at := 1; ; at++ {
		w := newWorld(seed)
		w.config.Sync = sync
		w.fs.inject = func(op int, _ string) (fault, error) {
			if op >= at {
				return crashed, errInjected
			}
			return noFault, nil
		}
		err := w.open()
		for i := 0; i < 100 && err == nil && w.fs.ops < at; i++ {
			err = w.act()
		}
		if err != nil && w.fs.ops < at {
			t.Fatalf("error without a fault: %v", err)
		}
		if w.fs.ops < at {
			if at < 100 {
				t.Fatalf("the run has only %d operations", at)
			}
			return
		}
		// A refusal that a crash cut short is an Append that did not return.
		for i := range w.attempts {
			w.attempts[i].refused = false
		}
		if w.box != nil {
			w.lost = append(w.lost, w.box.Losses()...) // may have been saved, and then Announced in vain
		}
		w.fs = w.fs.crash(w.rng)
		w.unsynced = sync == SyncNone
		if err := w.open(); err != nil {
			t.Fatalf("open after a crash at operation %d: %v", at, err)
		}
		w.check(t)
		if t.Failed() {
			return
		}
	}
}

// TestFaults lets single operations fail in every way, goes on as an edge does, and reopens.
func TestFaults(t *testing.T) {
	kinds := []struct {
		name string
		how  fault
		err  error
	}{
		{"not applied", notApplied, errInjected},
		{"applied", applied, errInjected},
		{"short write", shortWrite, errInjected},
		{"disk full", shortWrite, syscall.ENOSPC},
	}
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(seeds(2)) {
				for at := 1; ; at++ {
					if !runWithFaults(t, seed, func(op int, _ string) (fault, error) {
						if op == at {
							return k.how, k.err
						}
						return noFault, nil
					}, at) {
						break
					}
				}
			}
		})
	}
	t.Run("many", func(t *testing.T) {
		t.Parallel()
		for seed := range uint64(seeds(150)) {
			t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, 2))
				runWithFaults(t, seed, func(_ int, call string) (fault, error) {
					if call == "open "+stateName || call == "read "+stateName || rng.IntN(8) > 0 {
						// A state file that cannot be read takes the losses with it.
						return noFault, nil
					}
					k := kinds[rng.IntN(len(kinds))]
					if strings.HasPrefix(call, "remove ") && k.how == applied {
						// What is deleted in secret before any state file knew of it is gone without a trace.
						return notApplied, k.err
					}
					return k.how, k.err
				}, 0)
			})
		}
	})
}

// runWithFaults reports whether the run got as far as operation at.
func runWithFaults(t *testing.T, seed uint64, inject func(int, string) (fault, error), at int) bool {
	t.Helper()
	w := newWorld(seed)
	w.fs.inject, w.faults = inject, true
	open := func() {
		for w.open() != nil { // a lock or a list that failed: the supervisor starts the edge again
			w.fs.locked = false
		}
	}
	open()
	for range 80 {
		// Errors are expected. An outbox that is closed because opening it again failed is opened once more.
		if err := w.act(); errors.Is(err, ErrClosed) || w.box.closed {
			open()
		}
	}
	reached := w.fs.ops >= at
	w.fs.inject = nil
	w.close()
	if err := w.open(); err != nil {
		t.Fatalf("seed %d, fault at %d: open: %v", seed, at, err)
	}
	w.check(t)
	if t.Failed() {
		t.Fatalf("seed %d, fault at %d", seed, at)
	}
	return reached
}

// TestPressure does the same with hardly any room.
func TestPressure(t *testing.T) {
	for seed := range uint64(seeds(30)) {
		w := newWorld(seed)
		w.config.MaxBytes = 4 * units.KiB
		if err := w.open(); err != nil {
			t.Fatal(err)
		}
		for range 300 {
			if err := w.act(); err != nil && !errors.Is(err, ErrKeyframeNeeded) {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if s := w.box.Stats(); s.Bytes > 4096 {
				t.Fatalf("seed %d: %d bytes, want at most 4096", seed, s.Bytes)
			}
		}
		if err := errors.Join(w.box.Close(), w.open()); err != nil {
			t.Fatal(err)
		}
		w.check(t)
		if len(w.lost)+len(w.box.Losses()) == 0 {
			t.Fatalf("seed %d: nothing was evicted", seed)
		}
	}
}

func seeds(n int) int {
	if testing.Short() {
		return (n + 2) / 3
	}
	return n
}
