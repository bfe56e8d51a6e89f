package outbox

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/thalweg/thalweg/internal/frame"
)

func TestCorruptFiles(t *testing.T) {
	flip := func(at int) func([]byte) []byte {
		return func(b []byte) []byte { b[at] ^= 0x10; return b }
	}
	tests := []struct {
		name   string
		file   int // of three, with four frames of 100 bytes each
		change func([]byte) []byte
		left   int // frames of that file
		kept   int // bytes of evidence, if the state file knows what was there
		guess  int // and if it does not, so that a crash may explain the damage
	}{
		{"first frame", 0, flip(90), 0, 400, 400},
		{"magic", 1, flip(0), 0, 400, 400},
		{"a body in the middle", 1, flip(280), 2, 200, 200},
		{"a header in the middle", 1, flip(100 + 14), 1, 300, 300},
		{"a length in the middle", 1, flip(100 + 10), 1, 300, 0},
		{"shorter", 1, func(b []byte) []byte { return b[:250] }, 2, 50, 0},
		{"shorter by whole frames", 1, func(b []byte) []byte { return b[:200] }, 2, 0, 0},
		{"empty", 1, func(b []byte) []byte { return nil }, 0, 0, 0},
		{"longer by zeros", 1, func(b []byte) []byte { return append(b, make([]byte, 5000)...) }, 4, 0, 0},
		{"longer by rubbish", 1, func(b []byte) []byte { return append(b, bytes.Repeat([]byte("y"), 60)...) }, 4, 60, 60},
		{"another frame", 1, func(b []byte) []byte { return append(b, b[:100]...) }, 4, 100, 100},
		{"newest, torn", 2, func(b []byte) []byte { return b[:333] }, 3, 33, 0},
		{"newest, last frame", 2, flip(390), 3, 100, 0},
		{"newest, middle", 2, flip(150), 1, 300, 300},
		{"newest, zeros", 2, func(b []byte) []byte { clear(b[200:]); return b }, 2, 200, 0},
		{"missing", 1, nil, 0, 0, 0},
		{"newest, missing", 2, nil, 0, 0, 0},
	}
	for _, tt := range tests {
		for _, saved := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/state=%t", tt.name, saved), func(t *testing.T) {
				f := newFixture(t)
				for range 3 {
					f.group(4, 100)
				}
				epoch := f.epoch()
				f.close()
				name := f.files(groupSuffix)[tt.file]
				path := filepath.Join(f.dir, name)
				data, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if tt.change == nil {
					err = os.Remove(path)
				} else {
					err = os.WriteFile(path, tt.change(data), 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
				if !saved {
					if err := os.Remove(filepath.Join(f.dir, stateName)); err != nil {
						t.Fatal(err)
					}
				}
				f.open()

				var want [][]byte
				want = append(want, f.sent[:4*tt.file+tt.left]...)
				want = append(want, f.sent[4*tt.file+4:]...)
				gaps := tt.left < 4
				if got := contents(t, f.box, 1000, gaps); !reflect.DeepEqual(got, want) {
					t.Fatalf("read %d frames, want %d", len(got), len(want))
				}
				if got := contents(t, f.box, 1000, gaps); !reflect.DeepEqual(got, want) {
					t.Fatalf("read %d frames the second time, want %d", len(got), len(want))
				}
				// Without the state file nobody knows of a file that is not there, of one that is whole but for its last
				// frames, or of the end of the newest.
				unseen := tt.file == 2 || tt.change == nil || tt.name == "shorter by whole frames"
				if tt.left < 4 && (saved || !unseen) {
					f.wantSpans(lossRanges(f.box.Losses()), span{uint64(4*tt.file + tt.left + 1), uint64(4*tt.file + 4)})
				} else {
					f.wantSpans(lossRanges(f.box.Losses()))
				}
				kept := 0
				for _, name := range f.files(corruptSuffix) {
					info, err := os.Stat(filepath.Join(f.dir, name))
					if err != nil {
						t.Fatal(err)
					}
					kept += int(info.Size())
				}
				wantKept := tt.kept
				if !saved {
					wantKept = tt.guess
				}
				if kept != wantKept {
					t.Fatalf("%d bytes of evidence in %v, want %d", kept, f.files(corruptSuffix), wantKept)
				}
				if kept > 0 && !strings.Contains(f.log.String(), "outbox file is corrupt") {
					t.Fatalf("log is %q", f.log.String())
				}
				if last, ok := f.box.Last(); !ok || last.Epoch != epoch || saved && last.Number != 12 {
					t.Fatalf("last frame is %+v, %t", last, ok)
				}
				f.group(2, 100)
				f.open()
				if got := contents(t, f.box, 1000, false); len(got) != len(want)+2 {
					t.Fatalf("read %d frames after going on, want %d", len(got), len(want)+2)
				}
			})
		}
	}
}

// TestDamageWhileOpen changes a file that Open took as it is, and the one that grows.
func TestDamageWhileOpen(t *testing.T) {
	for _, file := range []int{0, 1} {
		t.Run(fmt.Sprint("file=", file), func(t *testing.T) {
			f := newFixture(t)
			f.group(4, 100)
			f.group(4, 100)
			f.open()
			epoch := f.enc.last.Predecessor.Epoch
			if file == 1 {
				f.group(4, 100)
				epoch, file = f.epoch(), 2
			}
			r := f.box.Reader(frame.ID{Epoch: epoch, Number: 1})
			defer r.Close()
			if _, _, last, err := r.Next(100); err != nil || last.Number != 1 {
				t.Fatalf("read %s, %v", last.ID, err)
			}
			path := filepath.Join(f.dir, f.files(groupSuffix)[file])
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			data[270] ^= 1
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, _, last, err := r.Next(1000); err != nil || last.Number != 2 {
				t.Fatalf("read up to %s, %v; want what is before the damage", last.ID, err)
			}
			missing := frame.ID{Epoch: epoch, Number: 3}
			if file == 2 {
				if _, _, _, err := r.Next(1000); !errors.Is(err, ErrHead) {
					t.Fatal(err)
				}
				if err := f.box.Append(f.enc.next(frame.Delta, 10)); !errors.Is(err, ErrKeyframeNeeded) {
					t.Fatalf("append behind the damage: %v", err)
				}
				f.group(1, 100)
			}
			var gap *GapError
			if _, _, _, err := r.Next(1000); !errors.As(err, &gap) || gap.Missing != missing || gap.Resume.Number < 5 {
				t.Fatalf("read on: %v", err)
			}
			if _, first, _, err := r.Next(1); err != nil || first.ID != gap.Resume {
				t.Fatalf("read %s, %v; want %s", first.ID, err, gap.Resume)
			}
			f.wantSpans(lossRanges(f.box.Losses()), span{3, 4})
			if n := testutil.ToFloat64(f.box.m.corruptFiles); n != 1 {
				t.Fatalf("%v corrupt files counted, want 1", n)
			}
			if names := f.files(corruptSuffix); len(names) != 1 {
				t.Fatalf("evidence is %v", names)
			}
		})
	}
}

func TestCorruptFilesAreBounded(t *testing.T) {
	f := newFixture(t)
	for range 3 * maxCorruptFiles {
		f.group(2, 100)
	}
	f.close()
	for _, name := range f.files(groupSuffix) {
		if err := os.WriteFile(filepath.Join(f.dir, name), bytes.Repeat([]byte("z"), 200), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f.open()
	if got := contents(t, f.box, 1, true); len(got) > 0 {
		t.Fatalf("read %d frames from rubbish", len(got))
	}
	if names := f.files(corruptSuffix); len(names) == 0 || len(names) > maxCorruptFiles {
		t.Fatalf("%d corrupt files are kept, want 1 to %d", len(names), maxCorruptFiles)
	}
	if names := f.files(groupSuffix); len(names) > 0 {
		t.Fatalf("files %v are left", names)
	}
}

func TestStateIsChecked(t *testing.T) {
	f := newFixture(t)
	f.group(9, 100)
	f.box.Ack(f.epoch(), 1, 5)
	f.close()
	path := filepath.Join(f.dir, stateName)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Replace(data, []byte("[[1,5]]"), []byte("[[1,9]]"), 1)
	if bytes.Equal(data, changed) {
		t.Fatalf("no acknowledgement in %s", data)
	}
	if err := os.WriteFile(path, changed, 0o600); err != nil {
		t.Fatal(err)
	}
	f.open()
	f.wantSpans(f.box.Unacked(), span{1, 9})
	if !strings.Contains(f.log.String(), "outbox state is unreadable") {
		t.Fatalf("log is %q", f.log.String())
	}
}

func TestLossesAreBounded(t *testing.T) {
	f := newFixture(t)
	f.conf.MaxBytes = 4000
	f.open()
	for range 2 * maxLosses { // no two of them touch
		f.group(1, 1000)
		f.enc.last.Number++
	}
	if n := len(f.box.Losses()); n != maxLosses {
		t.Fatalf("%d losses, want %d", n, maxLosses)
	}
	if testutil.ToFloat64(f.box.m.lossesForgotten) == 0 {
		t.Fatal("forgotten losses are not counted")
	}
}

// TestTwoProcesses runs this test binary as the second one.
func TestTwoProcesses(t *testing.T) {
	const env = "THALWEG_TEST_OUTBOX"
	if dir := os.Getenv(env); dir != "" {
		_, err := Open(Options{Dir: dir, Config: DefaultConfig()})
		fmt.Printf("locked=%t %v\n", errors.Is(err, ErrLocked), err)
		return
	}
	f := newFixture(t)
	second := func() string {
		cmd := exec.Command(os.Args[0], "-test.run=^TestTwoProcesses$")
		cmd.Env = append(os.Environ(), env+"="+f.dir)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	if out := second(); !strings.Contains(out, "locked=true") || !strings.Contains(out, fmt.Sprintf("by process %d ", os.Getpid())) {
		t.Fatalf("second process says %q", out)
	}
	f.close()
	if out := second(); !strings.Contains(out, "locked=false <nil>") {
		t.Fatalf("second process says %q after Close", out)
	}
}

// TestConcurrent reads, acknowledges, expires and collects metrics while frames are appended and evicted.
func TestConcurrent(t *testing.T) {
	f := newFixture(t)
	f.conf.MaxBytes = 20 * units.KiB
	f.conf.Sync = SyncNone
	f.open()
	registry := prometheus.NewRegistry()
	registry.MustRegister(f.box.Metrics()...)
	const frames = 2000
	epoch := f.epoch()
	var wg sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		r := f.box.ReaderAtHead()
		wg.Go(func() {
			defer r.Close()
			last := uint64(0)
			for last < frames {
				data, first, to, err := r.Next(700)
				var gap *GapError
				switch {
				case errors.Is(err, ErrHead):
				case errors.As(err, &gap):
					if gap.Resume.Number <= last {
						t.Errorf("%v, after %d had been read", err, last)
						return
					}
				case err != nil:
					t.Errorf("read after %d: %v", last, err)
					return
				case first.Number <= last || len(data) == 0:
					t.Errorf("read %d to %d after %d", first.Number, to.Number, last)
					return
				default:
					last = to.Number
					f.box.Ack(epoch, first.Number, last)
				}
			}
		})
	}
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if _, err := registry.Gather(); err != nil {
				t.Error(err)
			}
			f.box.Announced(len(f.box.Losses()))
			if err := f.box.Expire(time.UnixMilli(1_700_000_000_000)); err != nil {
				t.Error(err)
			}
		}
	})
	for n := range frames {
		kind := frame.Delta
		if n%7 == 0 {
			kind = frame.Keyframe
		}
		if err := f.box.Append(f.enc.next(kind, 200)); err != nil {
			t.Fatal(err)
		}
	}
	close(done)
	wg.Wait()
}

func TestMetrics(t *testing.T) {
	f := newFixture(t)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(f.box.Metrics()...)
	f.group(4, 100)
	f.box.Ack(f.epoch(), 1, 3)
	err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP thalweg_outbox_bytes Bytes of frames in the outbox.
# TYPE thalweg_outbox_bytes gauge
thalweg_outbox_bytes 400
# HELP thalweg_outbox_appended_frames_total Frames accepted.
# TYPE thalweg_outbox_appended_frames_total counter
thalweg_outbox_appended_frames_total 4
# HELP thalweg_outbox_unacked_bytes Bytes that the server is not known to have stored.
# TYPE thalweg_outbox_unacked_bytes gauge
thalweg_outbox_unacked_bytes 100
# HELP thalweg_outbox_oldest_unacked_timestamp_seconds Send time of the oldest frame that the server is not known to have stored; absent if there is none.
# TYPE thalweg_outbox_oldest_unacked_timestamp_seconds gauge
thalweg_outbox_oldest_unacked_timestamp_seconds 1.700000004e+09
`), "thalweg_outbox_bytes", "thalweg_outbox_appended_frames_total", "thalweg_outbox_unacked_bytes", "thalweg_outbox_oldest_unacked_timestamp_seconds")
	if err != nil {
		t.Fatal(err)
	}
}

// FuzzOpen puts arbitrary bytes where files of frames and the state should be.
func FuzzOpen(f *testing.F) {
	clock := time.UnixMilli(1_700_000_000_000)
	enc := newEncoder(rand.New(rand.NewPCG(1, 1)), &clock)
	enc.begin(frame.Header{})
	first := append(enc.next(frame.Keyframe, 40), enc.next(frame.Delta, 20)...)
	name := groupName(3, frame.ID{Epoch: enc.last.Epoch, Number: 1})
	f.Add(name, first, []byte(nil), []byte(`{"checksum":"00000000","state":{}}`))
	f.Add(name, first[:100], first, []byte("{"))
	f.Fuzz(func(t *testing.T, name string, a, b, state []byte) {
		m := newMemFS()
		put := func(name string, data []byte) { m.files[name] = &memNode{data: data, synced: data} }
		put(name, a)
		put(groupName(4, frame.ID{Epoch: enc.last.Epoch, Number: 3}), b)
		put(stateName, fmt.Appendf(nil, `{"checksum":%q,"state":%s}`, stateChecksum(state), state))
		for range 2 {
			box, err := Open(Options{FS: m, Config: DefaultConfig()})
			if err != nil {
				t.Fatal(err)
			}
			box.Unacked()
			before := contents(t, box, 50, true)
			last, _ := box.Last()
			e := newEncoder(rand.New(rand.NewPCG(9, uint64(len(before)))), &clock)
			e.begin(last)
			if err := box.Append(e.next(frame.Keyframe, 5)); err != nil {
				t.Fatal(err)
			}
			if after := contents(t, box, 1, true); len(after) != len(before)+1 {
				t.Fatalf("%d frames after appending 1 to %d", len(after), len(before))
			}
			if err := box.Expire(clock); err != nil {
				t.Fatal(err)
			}
			if err := box.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
