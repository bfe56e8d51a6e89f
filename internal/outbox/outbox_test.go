package outbox

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/common/model"

	"github.com/thalweg/thalweg/internal/frame"
)

// fixture is an outbox in a real directory with an encoder in front of it.
type fixture struct {
	t     *testing.T
	dir   string
	clock time.Time
	conf  Config
	log   bytes.Buffer
	enc   *encoder
	box   *Outbox
	sent  [][]byte
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{t: t, dir: t.TempDir(), clock: time.UnixMilli(1_700_000_000_000), conf: DefaultConfig()}
	f.enc = newEncoder(rand.New(rand.NewPCG(1, 1)), &f.clock)
	f.open()
	return f
}

// open opens the outbox, again if need be, and begins an epoch.
func (f *fixture) open() {
	f.t.Helper()
	f.close()
	box, err := Open(Options{
		Dir: f.dir, Config: f.conf, Now: func() time.Time { return f.clock }, Logger: slog.New(slog.NewTextHandler(&f.log, nil)),
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.box = box
	f.t.Cleanup(func() { box.Close() })
	last, _ := box.Last()
	f.enc.begin(last)
}

func (f *fixture) close() {
	f.t.Helper()
	if f.box == nil {
		return
	}
	if err := f.box.Close(); err != nil {
		f.t.Fatal(err)
	}
}

// group appends a keyframe and deltas, n frames of size bytes in all.
func (f *fixture) group(n, size int) {
	f.t.Helper()
	for i := range n {
		kind := frame.Delta
		if i == 0 {
			kind = frame.Keyframe
		}
		f.clock = f.clock.Add(time.Second)
		data := f.enc.next(kind, size-frame.HeaderSize)
		if err := f.box.Append(data); err != nil {
			f.t.Fatal(err)
		}
		f.sent = append(f.sent, data)
	}
}

func (f *fixture) epoch() frame.Epoch { return f.enc.last.Epoch }

func (f *fixture) id(number uint64) frame.ID { return frame.ID{Epoch: f.epoch(), Number: number} }

// files lists the files of a suffix, in order.
func (f *fixture) files(suffix string) []string {
	f.t.Helper()
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		f.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), suffix) {
			names = append(names, e.Name())
		}
	}
	return names
}

func (f *fixture) wantSpans(got []Range, want ...span) {
	f.t.Helper()
	var spans []span
	for _, r := range got {
		spans = append(spans, span{r.From, r.To})
	}
	if fmt.Sprint(spans) != fmt.Sprint(want) {
		f.t.Fatalf("ranges are %v, want %v", spans, want)
	}
}

func lossRanges(losses []Loss) []Range {
	var ranges []Range
	for _, l := range losses {
		ranges = append(ranges, l.Range)
	}
	return ranges
}

func TestGroupName(t *testing.T) {
	name := groupName(7, frame.ID{Epoch: 0xabc, Number: 42})
	if want := "000000000007-0000000000000abc-00000000000000000042.frames"; name != want {
		t.Fatalf("name is %q, want %q", name, want)
	}
	ordinal, id, ok := parseGroupName(name)
	if !ok || ordinal != 7 || id != (frame.ID{Epoch: 0xabc, Number: 42}) {
		t.Fatalf("parsed %d, %s, %t", ordinal, id, ok)
	}
	for _, bad := range []string{
		"", ".frames", "lock", "state.json", name + ".corrupt", strings.ToUpper(name), "0" + name, name[1:],
		"000000000007-0000000000000abc-42.frames", "-00000000007-0000000000000abc-00000000000000000042.frames",
		"9999999999999-0000000000000abc-00000000000000000042.frames",
	} {
		if _, _, ok := parseGroupName(bad); ok {
			t.Errorf("%q is taken for a file of frames", bad)
		}
	}
}

func TestSpans(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	for range 2000 {
		var s spans
		var oracle [65]bool // numbers 1 to 64
		for range 20 {
			from := uint64(1 + rng.IntN(64))
			to := min(from+uint64(rng.IntN(8)), 64)
			set := rng.IntN(3) > 0
			if len(s) >= maxSpans {
				break
			}
			if set {
				s = s.add(from, to)
			} else {
				s = s.remove(from, to)
			}
			for i := from; i <= to; i++ {
				oracle[i] = set
			}
		}
		var got [65]bool
		for i, a := range s {
			if a.from > a.to || i > 0 && s[i-1].to+1 >= a.from {
				t.Fatalf("spans are not in order: %v", s)
			}
			for n := a.from; n <= a.to; n++ {
				got[n] = true
			}
		}
		if got != oracle {
			t.Fatalf("spans are %v, want %v", s, oracle)
		}
		all := got
		for _, a := range s.gaps(1, 64) {
			for n := a.from; n <= a.to; n++ {
				if all[n] {
					t.Fatalf("gaps of %v: %v", s, s.gaps(1, 64))
				}
				all[n] = true
			}
			if s.cover(a.from, a.to) {
				t.Fatalf("%v covers its gap %v", s, a)
			}
		}
		for _, a := range s {
			if !s.cover(a.from, a.to) {
				t.Fatalf("%v does not cover %v", s, a)
			}
		}
		for n, there := range all[1:] {
			if !there {
				t.Fatalf("%d is neither in %v nor in its gaps", n+1, s)
			}
		}
	}
	var s spans
	for n := range uint64(1000) {
		s = s.add(3*n+1, 3*n+1+n%2)
	}
	if len(s) > maxSpans {
		t.Fatalf("%d spans, want at most %d", len(s), maxSpans)
	}
}

func TestReader(t *testing.T) {
	f := newFixture(t)
	head := f.box.ReaderAtHead()
	defer head.Close()
	f.group(3, 100)
	f.group(4, 100)
	old := f.epoch()
	f.open() // another epoch
	f.group(2, 100)

	if got := contents(t, f.box, 1, false); !reflect.DeepEqual(got, f.sent) {
		t.Fatalf("read %d frames, want the %d appended", len(got), len(f.sent))
	}
	t.Run("max", func(t *testing.T) {
		r := f.box.Reader(frame.ID{Epoch: old, Number: 2})
		defer r.Close()
		for _, c := range []struct{ max, first, last int }{
			{1000, 2, 3}, // to the end of the file
			{200, 4, 5}, {199, 6, 6}, {0, 7, 7},
		} {
			data, first, last, err := r.Next(c.max)
			if err != nil || first.Number != uint64(c.first) || last.Number != uint64(c.last) || len(data) != 100*(c.last-c.first+1) {
				t.Fatalf("Next(%d) is %d bytes, %d to %d, %v; want %d to %d", c.max, len(data), first.Number, last.Number, err, c.first, c.last)
			}
		}
	})
	t.Run("places", func(t *testing.T) {
		for _, c := range []struct {
			from, want frame.ID
			gap        bool
		}{
			{frame.ID{}, frame.ID{Epoch: old, Number: 1}, false},
			{frame.ID{Epoch: old, Number: 5}, frame.ID{Epoch: old, Number: 5}, false},
			{frame.ID{Epoch: old, Number: 8}, f.id(1), false}, // the epoch ended
			{f.id(2), f.id(2), false},
			{frame.ID{Epoch: 1234, Number: 1}, frame.ID{Epoch: old, Number: 1}, true},
		} {
			r := f.box.Reader(c.from)
			_, first, _, err := r.Next(1)
			var gap *GapError
			if errors.As(err, &gap) != c.gap || gap != nil && (gap.Missing != c.from || gap.Resume != c.want) {
				t.Fatalf("read from %s: %v", c.from, err)
			}
			if c.gap {
				_, first, _, err = r.Next(1)
			}
			if err != nil || first.ID != c.want {
				t.Fatalf("read from %s: got %s, %v; want %s", c.from, first.ID, err, c.want)
			}
			r.Close()
		}
	})
	t.Run("head", func(t *testing.T) {
		r := f.box.Reader(f.id(3))
		defer r.Close()
		at := f.box.ReaderAtHead()
		defer at.Close()
		for range 2 {
			if _, _, _, err := r.Next(1); !errors.Is(err, ErrHead) {
				t.Fatalf("at the head: %v", err)
			}
		}
		if err := f.box.Append(f.enc.next(frame.Delta, 10)); err != nil {
			t.Fatal(err)
		}
		for _, r := range []*Reader{r, at} {
			if _, first, _, err := r.Next(1); err != nil || first.ID != f.id(3) {
				t.Fatalf("read %s, %v; want %s", first.ID, err, f.id(3))
			}
		}
	})
	for id, want := range map[frame.ID]frame.ID{
		{Epoch: old, Number: 1}: {Epoch: old, Number: 1},
		{Epoch: old, Number: 7}: {Epoch: old, Number: 4},
		f.id(2):                 f.id(1),
		f.id(9):                 {},
		{Epoch: 5, Number: 1}:   {},
	} {
		if got, ok := f.box.KeyframeBefore(id); got != want || ok != (want.Number != 0) {
			t.Errorf("keyframe before %s is %s, %t; want %s", id, got, ok, want)
		}
	}
}

func TestAppendRefuses(t *testing.T) {
	f := newFixture(t)
	refuse := func(what, want string, frames ...[]byte) {
		t.Helper()
		err := f.box.Append(frames...)
		if !errors.Is(err, ErrKeyframeNeeded) || !strings.Contains(err.Error(), want) {
			t.Fatalf("append %s: %v, want an error with %q", what, err, want)
		}
	}
	f.enc.next(frame.Keyframe, 10)
	refuse("a delta to nothing", "where a keyframe must stand", f.enc.next(frame.Delta, 10))
	f.group(3, 100)
	again := f.sent[0]
	refuse("a frame twice", "comes after", again)
	refuse("a delta after a refusal", "where a keyframe must stand", f.enc.next(frame.Delta, 10))
	f.group(2, 100)
	f.enc.next(frame.Delta, 10)
	refuse("a delta that skips one", "does not follow", f.enc.next(frame.Delta, 10))
	refuse("rubbish", "magic", bytes.Repeat([]byte("x"), 100))
	f.group(1, 100)
	refuse("half a frame", "cut short", f.enc.next(frame.Delta, 100)[:90])
	refuse("two frames in one", "behind its end", append(f.enc.next(frame.Keyframe, 10), 0))
	f.enc.rows = 1
	refuse("rows that are there", "of which", f.enc.next(frame.Keyframe, 10))
	old := *f.enc
	f.enc.begin(old.last)
	f.group(1, 100)
	f.enc.last, f.enc.rows = old.last, 1000
	refuse("an epoch of the past", "epoch of the past", f.enc.next(frame.Keyframe, 10))
	if got := contents(t, f.box, 1, false); !reflect.DeepEqual(got, f.sent) {
		t.Fatalf("read %d frames, want %d", len(got), len(f.sent))
	}
	f.close()
	if err := f.box.Append(again); !errors.Is(err, ErrClosed) {
		t.Fatalf("append after Close: %v", err)
	}
	if err := f.box.Expire(f.clock); !errors.Is(err, ErrClosed) {
		t.Fatalf("expire after Close: %v", err)
	}
}

func TestAckAndExpire(t *testing.T) {
	f := newFixture(t)
	f.group(10, 100)
	f.group(10, 100)
	f.wantSpans(f.box.Unacked(), span{1, 20})
	f.box.Ack(f.epoch(), 1, 4)
	f.box.Ack(f.epoch(), 8, 12)
	f.box.Ack(f.epoch(), 900, 1000)
	f.box.Ack(f.epoch()+1, 1, 20)
	f.wantSpans(f.box.Unacked(), span{5, 7}, span{13, 20})
	for i, r := range f.box.Unacked() {
		want := Range{Epoch: f.epoch(), From: r.From, To: r.To}
		for n := r.From; n <= r.To; n++ {
			h, err := frame.ParseHeader(f.sent[n-1])
			if err != nil {
				t.Fatal(err)
			}
			want.Rows += uint64(h.Rows)
			want.Bytes += int64(h.Size)
			want.LastSent = h.Sent
			if n == r.From {
				want.FirstSent = h.Sent
			}
		}
		if r != want {
			t.Fatalf("range %d is %+v, want %+v", i, r, want)
		}
	}

	epoch := f.epoch()
	f.open() // acknowledgements survive
	f.wantSpans(f.box.Unacked(), span{5, 7}, span{13, 20})
	f.box.Ack(epoch, 5, 7)
	f.box.Unack(epoch, 6, 15)
	f.wantSpans(f.box.Unacked(), span{6, 20})

	f.box.Ack(epoch, 6, 20)
	expire := func(files int) {
		t.Helper()
		if err := f.box.Expire(f.clock); err != nil {
			t.Fatal(err)
		}
		if got := f.files(groupSuffix); len(got) != files {
			t.Fatalf("files are %v, want %d", got, files)
		}
	}
	f.clock = f.clock.Add(time.Duration(f.conf.ResendWindow) - time.Second)
	expire(2)
	f.clock = f.clock.Add(time.Second)
	expire(0)
	if len(f.box.Losses()) > 0 {
		t.Fatalf("losses %v", f.box.Losses())
	}
	for range 2 { // the name of the last frame survives the frame
		last, ok := f.box.Last()
		if !ok || last.ID != (frame.ID{Epoch: epoch, Number: 20}) || last.RowsAfter() != f.enc.last.Predecessor.Rows {
			t.Fatalf("last frame is %+v, %t", last, ok)
		}
		f.open()
	}
	r := f.box.Reader(frame.ID{Epoch: epoch, Number: 21})
	if _, _, _, err := r.Next(1); !errors.Is(err, ErrHead) {
		t.Fatalf("read behind the last frame: %v", err)
	}
	f.group(1, 100)
	if _, first, _, err := r.Next(1); err != nil || first.ID != f.id(1) {
		t.Fatalf("read %s, %v", first.ID, err)
	}
	// A group that may still grow stays.
	f.box.Ack(f.epoch(), 1, 1)
	f.clock = f.clock.Add(time.Hour)
	expire(1)
	f.group(1, 100)
	expire(1)
}

// A kill between the deletion of files that are done and the next time that the state is saved is no loss.
func TestKilledAfterExpire(t *testing.T) {
	f := newFixture(t)
	f.group(4, 100)
	f.group(4, 100)
	f.group(4, 100)
	epoch := f.epoch()
	f.box.Ack(epoch, 1, 4)
	f.box.Ack(epoch, 5, 6)
	f.clock = f.clock.Add(time.Duration(f.conf.ResendWindow))
	if err := f.box.Expire(f.clock); err != nil {
		t.Fatal(err)
	}
	if got := f.files(groupSuffix); len(got) != 2 {
		t.Fatalf("files are %v, want two", got)
	}
	path := filepath.Join(f.dir, stateName)
	state, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	killed := func() {
		t.Helper()
		f.close()
		if err := os.WriteFile(path, state, 0o600); err != nil {
			t.Fatal(err)
		}
		f.open()
	}
	killed()
	if losses := f.box.Losses(); len(losses) > 0 || strings.Contains(f.log.String(), "level=ERROR") {
		t.Fatalf("losses %v, log %q", losses, f.log.String())
	}
	// Of a file that goes before it is done, what was not acknowledged is lost.
	if err := os.Remove(filepath.Join(f.dir, f.files(groupSuffix)[0])); err != nil {
		t.Fatal(err)
	}
	killed()
	losses := f.box.Losses()
	f.wantSpans(lossRanges(losses), span{7, 8})
	if line := fmt.Sprintf("rows=%d\n", losses[0].Rows); strings.Count(f.log.String(), "outbox file is missing") != 1 || !strings.Contains(f.log.String(), line) {
		t.Fatalf("log %q, want %q", f.log.String(), line)
	}
}

func TestEvict(t *testing.T) {
	f := newFixture(t)
	f.conf.MaxBytes = 10 * units.KiB
	f.conf.MaxAge = model.Duration(time.Hour)
	f.open()
	reader := f.box.Reader(frame.ID{})
	defer reader.Close()
	for range 5 {
		f.group(2, 1000)
	}
	if _, first, _, err := reader.Next(1); err != nil || first.ID != f.id(1) {
		t.Fatalf("read %s, %v", first.ID, err)
	}
	f.box.Ack(f.epoch(), 3, 4) // done: goes first
	f.box.Ack(f.epoch(), 1, 1)
	f.group(2, 1000)
	f.wantSpans(lossRanges(f.box.Losses()))
	f.group(2, 1000)
	f.wantSpans(lossRanges(f.box.Losses()), span{2, 2})
	if l := f.box.Losses()[0]; l.Cause != CauseSize || l.Rows == 0 || l.Bytes != 1000 || l.FirstSent != l.LastSent {
		t.Fatalf("loss is %+v", l)
	}
	var gap *GapError
	if _, _, _, err := reader.Next(1); !errors.As(err, &gap) || gap.Missing != f.id(2) || gap.Resume != f.id(5) {
		t.Fatalf("read on after eviction: %v", err)
	}
	f.group(4, 1000)
	f.wantSpans(lossRanges(f.box.Losses()), span{2, 2}, span{5, 8})

	epoch := f.epoch()
	f.open() // losses survive, as long as nobody announced them
	f.wantSpans(lossRanges(f.box.Losses()), span{2, 2}, span{5, 8})
	f.box.Announced(1)
	f.wantSpans(lossRanges(f.box.Losses()), span{5, 8})
	f.box.Announced(1)
	f.open()
	f.wantSpans(lossRanges(f.box.Losses()))

	f.group(1, 1000)
	f.box.Announced(len(f.box.Losses()))
	f.clock = f.clock.Add(time.Hour + time.Second)
	if err := f.box.Expire(f.clock); err != nil {
		t.Fatal(err)
	}
	if l := f.box.Losses(); len(l) != 3 || l[2].Cause != CauseAge || l[2].Epoch != epoch || l[2].From != 11 || l[2].To != 18 {
		t.Fatalf("losses are %+v", l)
	}
	if got := f.files(groupSuffix); len(got) != 1 {
		t.Fatalf("files are %v, want the one that may grow", got)
	}

	// One group that alone would fill the outbox, and says so in time.
	var err error
	warned := 0
	for n := 0; err == nil; n++ {
		if n > 10 {
			t.Fatal("a group grows beyond max_bytes")
		}
		if f.box.Crowded() {
			warned++
		}
		err = f.box.Append(f.enc.next(frame.Delta, 1000))
	}
	if warned < 2 {
		t.Fatalf("the outbox asked %d times for a keyframe before it needed one", warned)
	}
	if !errors.Is(err, ErrKeyframeNeeded) || !strings.Contains(err.Error(), "half of max_bytes") {
		t.Fatal(err)
	}
	if err := f.box.Append(f.enc.next(frame.Keyframe, 20_000)); !errors.Is(err, ErrKeyframeNeeded) || !strings.Contains(err.Error(), "more than max_bytes") {
		t.Fatal(err)
	}
	f.group(1, 1000)
	if f.box.Crowded() {
		t.Fatal("a keyframe is needed although one has just come")
	}
	f.group(1, 10_000)
}

// The clock of a machine may be years off until somebody sets it. Neither frames that were stamped with such a clock nor
// a restart under one make the outbox believe that a week has passed.
func TestAgeIsNotOfTheClock(t *testing.T) {
	f := newFixture(t)
	f.conf.MaxAge = model.Duration(time.Hour)
	f.open()
	steady := f.clock
	box := f.box
	box.now = func() time.Time { return steady }
	for _, stamp := range []time.Time{time.UnixMilli(0), steady, time.UnixMilli(4_000_000_000_000), steady} {
		f.clock = stamp
		f.group(2, 100)
	}
	expire := func(wantFiles int) {
		t.Helper()
		if err := box.Expire(steady); err != nil {
			t.Fatal(err)
		}
		if got := box.Stats().Files; got != wantFiles {
			t.Errorf("%d files, want %d", got, wantFiles)
		}
	}
	expire(4)
	steady = steady.Add(50 * time.Minute)
	expire(4)
	for _, restarted := range []time.Time{time.UnixMilli(1000), steady.AddDate(20, 0, 0)} {
		f.close()
		f.clock = restarted
		f.open()
		box, steady = f.box, restarted
		expire(4)
	}
	steady = steady.Add(9 * time.Minute)
	expire(4)
	steady = steady.Add(-30 * 24 * time.Hour)
	expire(4)
	steady = steady.Add(2 * time.Hour)
	expire(0)
}
