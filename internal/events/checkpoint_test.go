package events

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"
)

// opened is a gateway of a directory, with a clock of its own.
type opened struct {
	*Gateway
	t   testing.TB
	now time.Time
}

func open(t testing.TB, dir string, change func(*Options)) *opened {
	t.Helper()
	x := &opened{t: t, now: time.UnixMilli(1_700_000_000_000)}
	o := Options{Config: DefaultConfig(), Dir: dir, Site: "s", Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Now: func() time.Time { return x.now }}
	if change != nil {
		change(&o)
	}
	if err := o.Config.Validate(); err != nil {
		t.Fatal(err)
	}
	g, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	x.Gateway = g
	return x
}

// feed applies payloads.
func (x *opened) feed(payloads ...string) {
	for _, p := range payloads {
		x.mu.Lock()
		var o Outcome
		x.account(x.apply([]byte(p), maxBody, x.now.UnixMilli(), &o), &o)
		x.mu.Unlock()
	}
}

func (x *opened) save() {
	x.t.Helper()
	if err := x.checkpoint(); err != nil {
		x.t.Fatal(err)
	}
}

// crash leaves the directory to others, as it is.
func (x *opened) crash() {
	x.t.Helper()
	if err := x.Close(); err != nil {
		x.t.Fatal(err)
	}
}

func (x *opened) dump() string {
	d := newDesk(x.t, nil)
	for _, f := range x.state.order {
		for _, m := range f.members {
			m.column = -1
		}
	}
	d.aggregate, d.now = x.state.aggregate, x.now.UnixMilli()
	return d.dump()
}

func (x *opened) stateFile() string {
	x.t.Helper()
	names, err := filepath.Glob(filepath.Join(x.options.Dir, "*"+stateSuffix))
	if err != nil || len(names) != 1 {
		x.t.Fatalf("files are %v: %v", names, err)
	}
	return names[0]
}

var everyKind = []string{
	`{"name":"c","value":0.1,"labels":{"a":"b"},"help":"C.","unit":"x"}`,
	`{"name":"c","value":0.2,"labels":{"a":"b"}}`,
	`{"name":"g","type":"gauge","value":-5,"ts":1700000000}`,
	`{"name":"m","type":"gauge","op":"max","value":7,"window":3600}`,
	`{"name":"h","type":"histogram","buckets":[1,5],"value":3}`,
	`{"name":"n","type":"histogram","buckets":"native","values":[0,1,-1,1e6]}`,
	`{"name":"s","type":"summary","value":3}`,
	`{"name":"t","ttl":5}`,
	`{"name":"i","id":"once","value":1}`,
}

func TestCheckpointRestores(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir, nil)
	x.feed(everyKind...)
	x.save() // a whole record
	x.feed(everyKind...)
	x.feed(`{"name":"new","labels":{"a":"b"},"value":4}`)
	x.save() // changes
	want := x.dump()
	x.feed(`{"name":"lost"}`)
	x.crash()

	x = open(t, dir, nil)
	if got := x.dump(); got != want || !strings.Contains(got, "i 1") {
		t.Errorf("restored is\n%s\nwant\n%s", got, want)
	}
	if f := x.state.families["c"]; f.help != "C." || f.unit != "x" || f.members[0].created != x.now.UnixMilli() {
		t.Errorf("restored family is %+v", f)
	}
	x.feed(`{"name":"g","type":"gauge","value":9,"ts":1699999999}`, `{"name":"c","type":"gauge","value":9}`, everyKind[8])
	if got := x.dump(); got != want {
		t.Errorf("behind events that are late, of another type or known, there is\n%s", got)
	}
	x.now = x.now.Add(6 * time.Second)
	x.trouble = "no events can come"
	if x.expire(x.now); !strings.Contains(x.dump(), "\nt ") {
		t.Errorf("a series has ended while no events could come:\n%s", x.dump())
	}
	x.trouble = ""
	x.expire(x.now)
	if got := x.dump(); strings.Contains(got, "\nt ") {
		t.Errorf("a series whose time was over lives on:\n%s", got)
	}
	x.crash()
}

// Whatever happens in whatever order, what is read again is what was last written.
func TestCheckpointRandom(t *testing.T) {
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(1, 2))
	x := open(t, dir, func(o *Options) { o.Config.TTL = model.Duration(20 * time.Second) })
	want, now := "", x.now
	for round := range 300 {
		for range rng.IntN(20) {
			x.feed(fmt.Sprintf(`{"name":"c%d","value":%d,"labels":{"l":"%d"}}`, rng.IntN(5), rng.IntN(9), rng.IntN(9)),
				fmt.Sprintf(`{"name":"h%d","type":"histogram","buckets":[1,4],"value":%d,"labels":{"l":"%d"},"ttl":%d}`, rng.IntN(3), rng.IntN(9), rng.IntN(9), 1+rng.IntN(30)),
				fmt.Sprintf(`{"name":"i","id":"%d"}`, rng.IntN(1000)))
		}
		x.now = x.now.Add(time.Duration(rng.IntN(5000)) * time.Millisecond)
		x.state.expire(x.now.UnixMilli())
		x.state.position.offset = uint64(round)
		x.changed = true
		if rng.IntN(3) > 0 {
			x.save()
			want, now = x.dump(), x.now
			if rng.IntN(20) == 0 {
				x.checkpoints.size = 1 << 40 // the next one is whole
			}
		}
		if rng.IntN(10) == 0 {
			at := x.durable.offset
			x.crash()
			x = open(t, dir, func(o *Options) { o.Config.TTL = model.Duration(20 * time.Second) })
			x.now = now
			if got := x.dump(); got != want || x.state.position.offset != at {
				t.Fatalf("round %d: restored is at %d\n%s\nwant %d\n%s", round, x.state.position.offset, got, at, want)
			}
		}
	}
	x.crash()
}

func TestCheckpointTornEnd(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir, nil)
	x.feed(`{"name":"a","value":1}`)
	x.save()
	name := x.stateFile()
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	x.feed(`{"name":"a","value":1}`, `{"name":"b"}`)
	x.save()
	x.crash()
	full, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for size := len(whole); size <= len(full); size++ {
		if err := os.WriteFile(name, full[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		x := open(t, dir, nil)
		want := "a 1"
		if size == len(full) {
			want = "a 2\nb 0"
		}
		if got := x.dump(); got != want || x.damaged {
			t.Fatalf("of %d bytes: %s, damaged: %t", size, got, x.damaged)
		}
		x.crash()
	}
}

func TestCheckpointDamaged(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir, nil)
	x.feed(`{"name":"a","value":1}`)
	x.save()
	x.feed(`{"name":"a","value":1}`)
	x.save()
	name := x.stateFile()
	x.crash()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	data[30] ^= 1
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	x = open(t, dir, func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	if got := x.dump(); got != "" || !x.damaged || !strings.Contains(log.String(), "damaged") {
		t.Errorf("there is %q, log %s", got, log.String())
	}
	if kept, err := os.ReadFile(name + damagedSuffix); err != nil || !bytes.Equal(kept, data) {
		t.Errorf("the file is not put aside: %v", err)
	}
	x.feed(`{"name":"a","value":5}`)
	x.save()
	x.crash()
	if x = open(t, dir, nil); x.dump() != "a 5" || x.damaged {
		t.Errorf("behind damage there is %s", x.dump())
	}
	x.crash()
}

// A disk that fails costs nothing once it works again.
func TestCheckpointDiskFails(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir, nil)
	x.feed(`{"name":"a","value":1}`)
	x.save()
	x.feed(`{"name":"b","value":1}`)
	if err := x.checkpoints.file.Close(); err != nil { // what is written to it fails
		t.Fatal(err)
	}
	if err := x.checkpoint(); err == nil {
		t.Fatal("written to a file that is closed")
	}
	if _, err := x.Take(t.Context(), []byte(`{"name":"c"}`)); !errors.Is(err, errNotDurable) {
		t.Errorf("an event that cannot be made durable: %v", err)
	}
	x.save()
	x.crash()
	if x = open(t, dir, nil); x.dump() != "a 1\nb 1" {
		t.Errorf("there is %s", x.dump())
	}
	x.crash()
}

// As long as the state cannot be written, it is not made again and again, however many want to know that it is.
func TestCheckpointDiskFailsForLong(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		x := open(t, dir, nil)
		defer x.crash()
		x.checkpoints.dir = filepath.Join(dir, "gone")
		ctx, cancel := context.WithCancel(t.Context())
		var tasks sync.WaitGroup
		tasks.Go(func() { x.write(ctx) })
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(claimPause) { // of the bubble
			if x.await(ctx) == nil {
				t.Fatal("written to a directory that is not there")
			}
		}
		if n := testutil.ToFloat64(x.checkpoints.metrics.errors); n < 10 || n > 20 {
			t.Errorf("tried %g times in a minute", n)
		}
		x.mu.Lock() // which who writes looks at first
		x.checkpoints.dir = dir
		x.mu.Unlock()
		time.Sleep(failedAtMost + time.Second)
		if err := x.await(ctx); err != nil {
			t.Errorf("behind that: %v", err)
		}
		cancel()
		tasks.Wait()
	})
}

func TestOpenTwice(t *testing.T) {
	x := open(t, t.TempDir(), nil)
	defer x.crash()
	if _, err := Open(x.options); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second gateway of the directory: %v", err)
	}
}

func TestWindowForgets(t *testing.T) {
	var w window
	for i := range maxIDs + 10 {
		w.add(fmt.Sprint(i))
	}
	if len(w.known) != maxIDs || w.has("9") || !w.has("10") || !w.has(fmt.Sprint(maxIDs+9)) {
		t.Errorf("%d ids are known", len(w.known))
	}
	var again window
	d := &decoder{rest: w.append(nil, true)}
	again.decode(d)
	again.add("new")
	if d.failed || again.has("10") || !again.has("11") {
		t.Error("the oldest id is another one after a restart")
	}
}

// What is remembered for the next record is bounded, however many ids come before it; with that record, the window is what it
// was, also where an id was forgotten and came again.
func TestWindowWithoutRecords(t *testing.T) {
	var w, again window
	w.add("old")
	again.decode(&decoder{rest: w.append(nil, false)})
	for i := range 3 * maxIDs {
		w.add(fmt.Sprint(i))
	}
	w.add("old")
	record := w.append(nil, false)
	if d := (&decoder{rest: slices.Clone(record)}); d.length(1) != maxIDs {
		t.Errorf("a record of %d bytes does not have the last %d ids", len(record), maxIDs)
	}
	w.add("new")
	for _, r := range [][]byte{record, w.append(nil, false)} {
		again.decode(&decoder{rest: r})
	}
	inOrder := func(w *window) []string { return slices.Concat(w.order[w.next:], w.order[:w.next]) }
	if len(again.known) != maxIDs || !maps.Equal(again.known, w.known) || !slices.Equal(inOrder(&again), inOrder(&w)) {
		t.Errorf("%d ids are known behind the records", len(again.known))
	}
}

// What Take answers is on disk.
func TestTakeIsDurable(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir, nil)
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- x.Run(ctx) }()
	for range 20 {
		if o, err := x.Take(ctx, []byte(`{"name":"a","value":1}`)); err != nil || o.Taken != 1 {
			t.Fatalf("%+v: %v", o, err)
		}
	}
	copied := filepath.Join(t.TempDir(), "copy") // what a kill would leave
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if y := open(t, copied, nil); y.dump() != "a 20" {
		t.Errorf("on disk is %s", y.dump())
	}
	cancel()
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	x.crash()
	if x = open(t, dir, nil); x.dump() != "a 20" {
		t.Errorf("there is %s", x.dump())
	}
	x.crash()
}

func FuzzRestore(f *testing.F) {
	x := open(f, f.TempDir(), nil)
	x.feed(everyKind...)
	whole := x.state.appendRecord(nil, true)
	x.feed(everyKind...)
	x.feed(`{"name":"z"}`)
	f.Add(whole[recordHeader:], x.state.appendRecord(nil, false)[recordHeader:])
	f.Fuzz(func(t *testing.T, first, second []byte) {
		c := DefaultConfig()
		s := &state{aggregate: newAggregate(&c, nil, 0)}
		if s.restore(first) != nil {
			return
		}
		if s.restore(second) == nil {
			s.restored(0)
			s.expire(1 << 42)
			for _, f := range s.order {
				f.snapshot(1 << 42)
			}
		}
	})
}

func BenchmarkCheckpoint(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		for _, kind := range []string{"whole", "changes"} {
			b.Run(fmt.Sprint(n, "/", kind), func(b *testing.B) {
				x := open(b, b.TempDir(), nil)
				for i := range n {
					x.feed(fmt.Sprintf(`{"name":"http_requests_total","value":1,"labels":{"instance":"web-%d","job":"shop","region":"eu-west-1","method":"GET","status":"200"}}`, i))
				}
				x.save()
				var size, encode time.Duration
				for i := 0; b.Loop(); i++ {
					b.StopTimer()
					for j := range 1000 {
						x.feed(fmt.Sprintf(`{"name":"http_requests_total","value":1,"labels":{"instance":"web-%d","job":"shop","region":"eu-west-1","method":"GET","status":"200"}}`, j))
					}
					b.StartTimer()
					start := time.Now()
					record := x.state.appendRecord(nil, kind == "whole")
					encode += time.Since(start)
					size += time.Duration(len(record))
					if err := x.checkpoints.write(record, kind == "whole"); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(size)/float64(b.N), "B/record")
				b.ReportMetric(float64(encode)/float64(b.N)/1e6, "encode-ms")
			})
		}
	}
}
