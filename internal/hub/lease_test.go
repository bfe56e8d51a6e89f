package hub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
)

const journals = "THALWEG_OUTPUTS"

// quick are times for tests; patient is who takes over only what was let go.
var (
	quick   = leaseTimes{poll: 10 * time.Millisecond, beat: 100 * time.Millisecond, bound: time.Second, silence: 2 * time.Second}
	patient = leaseTimes{poll: 10 * time.Millisecond, beat: 100 * time.Millisecond, bound: time.Hour, silence: time.Hour}
)

// replicas are the outputs of hubs that share a journal.
type replicas struct {
	t      *testing.T
	server *bustest.Server
	w      *writer
	d      *collector // of all of them
}

func newReplicas(t *testing.T) *replicas {
	server := bustest.NewServer(t)
	r := &replicas{t: t, server: server, d: newCollector()}
	bustest.EnsureStream(t, bustest.Hub(t, server))
	r.w = newWriter(t, server.URL(), "ams-1", 1, 5)
	return r
}

// replica is one of them.
type replica struct {
	*Output
	c    *center
	stop func()
	done chan error
}

// start runs an output of a hub. Its way to the journal is that of a URL; "" is the server's.
func (r *replicas) start(name, dir, url string, times leaseTimes) *replica {
	r.t.Helper()
	c := newHub(r.t, bustest.Hub(r.t, r.server))
	c.name = name
	config := bustest.Config(r.server.URL())
	if url != "" {
		config = bustest.Config(url)
	}
	shared := bustest.Connected(r.t, bus.Options{Config: config, Journals: journals})
	bustest.EnsureStream(r.t, shared)
	return r.run(c, shared, dir, times)
}

func (r *replicas) run(c *center, shared *bus.Conn, dir string, times leaseTimes) *replica {
	r.t.Helper()
	return r.runTo(c, shared, OutputOptions{Dir: dir, Live: r.d.live(), Backfill: r.d.later()}, times)
}

// runTo runs an output to destinations of its own.
func (r *replicas) runTo(c *center, shared *bus.Conn, options OutputOptions, times leaseTimes) *replica {
	r.t.Helper()
	options.Name, options.Hub, options.Shared, options.Oldest = "out", c.Hub, shared, true
	o, err := NewOutput(options)
	if err != nil {
		r.t.Fatal(err)
	}
	o.lease.times = times
	ctx, cancel := context.WithCancel(context.Background())
	x := &replica{Output: o, c: c, stop: cancel, done: make(chan error, 1)}
	go func() { x.done <- errors.Join(o.Run(ctx), o.Close()) }()
	r.t.Cleanup(func() {
		cancel()
		bustest.WaitFor(r.t, "the end of an output", func() bool { return !c.output().Running })
	})
	return x
}

// kill ends an output as kill -9 would: nobody is told.
func (x *replica) kill(t *testing.T) {
	t.Helper()
	x.lease.finish(errors.New("killed"))
	x.stop()
	<-x.done
}

// noted waits until so many rows were delivered, and noted.
func (x *replica) noted(t *testing.T, rows uint64) {
	t.Helper()
	bustest.WaitFor(t, "the batch to be noted", func() bool { return x.c.output().Live.Rows == rows })
}

func (x *replica) holds(t *testing.T) {
	t.Helper()
	bustest.WaitFor(t, "hub "+x.c.name+" to deliver", func() bool { return x.c.output().Holder })
}

// waits until a replica waits for its turn, behind another.
func (x *replica) waits(t *testing.T, holder string) {
	t.Helper()
	bustest.WaitFor(t, "hub "+x.c.name+" to wait", func() bool { s := x.c.output(); return !s.Holder && s.HeldBy == holder })
}

// One of two hubs delivers, and when it is killed the other one goes on: everything once.
func TestLeaseOfKilledHub(t *testing.T) {
	r := newReplicas(t)
	a := r.start("a", t.TempDir(), "", quick)
	a.holds(t)
	b := r.start("b", t.TempDir(), "", quick)
	b.waits(t, "a")
	r.w.live(5)
	a.noted(t, 5)
	a.kill(t)
	r.w.encoder.RequestKeyframe()
	r.w.live(2)
	r.d.wait(t, 7)
	b.holds(t)
	r.w.live(1)
	r.d.wait(t, 8)
	b.noted(t, 3)
	if s := b.c.output(); s.HeldBy != "b" || s.Takeovers != 1 {
		t.Errorf("status of the other is %+v", s)
	}
}

// Several hubs wait, one takes over, and the others go on waiting: as often as it takes.
func TestLeaseThatSeveralWant(t *testing.T) {
	r := newReplicas(t)
	hubs := map[string]*replica{}
	for _, name := range []string{"a", "b", "c"} {
		hubs[name] = r.start(name, t.TempDir(), "", quick)
	}
	before := 0
	for len(hubs) > 0 {
		var holder *replica
		bustest.WaitFor(t, "one of them to deliver, and the others to know it", func() bool {
			holders, waiting := 0, 0
			for _, x := range hubs {
				switch s := x.c.output(); {
				case s.Holder:
					holders++
					holder = x
				case holder != nil && s.HeldBy == holder.c.name:
					waiting++
				}
			}
			return holders == 1 && waiting >= len(hubs)-1
		})
		r.w.encoder.RequestKeyframe()
		r.w.live(2)
		before += 2
		r.d.wait(t, before)
		holder.noted(t, 2)
		holder.kill(t)
		delete(hubs, holder.c.name)
	}
}

// What was in flight when a hub was killed comes again, from the other one.
func TestLeaseOfHubKilledInFlight(t *testing.T) {
	r := newReplicas(t)
	a := r.start("a", t.TempDir(), "", quick)
	r.w.live(3)
	r.d.wait(t, 3)
	a.noted(t, 3)
	release := r.d.hold(false)
	r.w.live(2)
	bustest.WaitFor(t, "rows in flight", func() bool { return a.c.output().Live.Waiting > 0 })
	a.kill(t)
	release()
	b := r.start("b", t.TempDir(), "", quick)
	r.d.wait(t, 5)
	b.noted(t, 2)
}

// A hub that ends lets go, and the next one need not wait. One that was killed and comes again need not either.
func TestLeaseIsLetGo(t *testing.T) {
	r := newReplicas(t)
	dir := t.TempDir()
	a := r.start("a", dir, "", patient)
	a.holds(t)
	b := r.start("b", t.TempDir(), "", patient)
	b.waits(t, "a")
	r.w.live(2)
	r.d.wait(t, 2)
	a.stop()
	if err := <-a.done; err != nil {
		t.Fatal(err)
	}
	b.holds(t)
	again := r.start("a", dir, "", patient)
	again.waits(t, "b")
	r.w.live(2)
	r.d.wait(t, 4)
	b.stop()
	if err := <-b.done; err != nil {
		t.Fatal(err)
	}
	again.holds(t)
	r.w.live(1)
	r.d.wait(t, 5)
	again.noted(t, 1)
	again.kill(t)
	r.w.live(1)
	r.start("a", dir, "", patient).holds(t)
	r.d.wait(t, 6)
}

// A holder that is cut off from the journal stops in time, the other one goes on, and when the first one is back it finds
// that out before it delivers anything.
func TestLeaseOfHubThatIsCutOff(t *testing.T) {
	for _, busy := range []bool{false, true} {
		t.Run(fmt.Sprintf("with a flush under way %v", busy), func(t *testing.T) {
			r := newReplicas(t)
			proxy := bustest.NewProxy(t, r.server.Addr())
			a := r.start("a", t.TempDir(), proxy.URL(), quick)
			a.holds(t)
			b := r.start("b", t.TempDir(), "", quick)
			b.waits(t, "a")
			r.w.live(2)
			a.noted(t, 2)
			release := func() {}
			if busy {
				release = r.d.hold(false)
				r.w.live(1)
				bustest.WaitFor(t, "rows in flight", func() bool { return a.c.output().Live.Waiting > 0 })
			}
			proxy.Stall(true)
			if busy {
				if err := <-a.done; !errors.Is(err, errLeaseExpired) {
					t.Errorf("it ended with %v", err)
				}
			}
			release() // the batch is the other's by now
			b.holds(t)
			r.w.live(2)
			proxy.Stall(false)
			if !busy {
				taken := (*TakenOverError)(nil)
				if err := <-a.done; !errors.As(err, &taken) || taken.Hub != "b" {
					t.Errorf("it ended with %v", err)
				}
			}
			r.w.live(1)
			n := 5
			if busy {
				n = 6
			}
			r.d.wait(t, n)
		})
	}
}

// The stream of journals is deleted, and an older copy of it comes back: what the holder knows is written anew.
func TestJournalThatIsLost(t *testing.T) {
	r := newReplicas(t)
	a := r.start("a", t.TempDir(), "", quick)
	r.w.live(3)
	r.d.wait(t, 3)
	shared := bustest.Connected(t, bus.Options{Config: bustest.Config(r.server.URL()), Journals: journals})
	if _, err := shared.Purge(t.Context(), shared.JournalSubject(">"), 1<<40); err != nil {
		t.Fatal(err)
	}
	r.w.live(1)
	a.noted(t, 4)
	bustest.WaitFor(t, "the journal", func() bool { return a.c.logs.count("was lost, or an older copy restored") > 0 })
	a.kill(t)
	b := r.start("b", t.TempDir(), "", quick)
	b.holds(t)
	r.w.live(1)
	r.d.wait(t, 5)
}

// The hub that comes first after the journal was lost with everything knows from its own file what it delivered.
func TestJournalThatIsLostWhileNobodyRuns(t *testing.T) {
	r := newReplicas(t)
	dir := t.TempDir()
	a := r.start("a", dir, "", quick)
	r.w.live(3)
	r.d.wait(t, 3)
	a.stop()
	if err := <-a.done; err != nil {
		t.Fatal(err)
	}
	shared := bustest.Connected(t, bus.Options{Config: bustest.Config(r.server.URL()), Journals: journals})
	if _, err := shared.Purge(t.Context(), shared.JournalSubject(">"), 1<<40); err != nil {
		t.Fatal(err)
	}
	b := r.start("a", dir, "", quick)
	b.holds(t)
	r.w.live(1)
	r.d.wait(t, 4)
}

// Answers of the server that are lost neither double entries nor cost the lease.
func TestJournalWhoseAnswersAreLost(t *testing.T) {
	r := newReplicas(t)
	proxy := bustest.NewProxy(t, r.server.Addr())
	times := quick
	times.bound, times.silence = time.Hour, time.Hour
	a := r.start("a", t.TempDir(), proxy.URL(), times)
	r.w.live(2)
	a.noted(t, 2)
	proxy.LoseAnswers(true)
	r.w.live(1)
	r.d.wait(t, 3)
	bustest.WaitFor(t, "an entry without an answer", func() bool {
		return a.c.logs.count("other hubs cannot be told") > 0
	})
	proxy.LoseAnswers(false)
	r.w.live(1)
	r.d.wait(t, 4)
	a.noted(t, 4)
	if s := a.c.output(); !s.Holder || s.Errors != 0 {
		t.Errorf("status is %+v", s)
	}
}

// A journal that is longer than its entries may be, and is written anew, says the same to who reads it.
func TestJournalOfManySites(t *testing.T) {
	server := bustest.NewServer(t)
	shared := bustest.Connected(t, bus.Options{Config: bustest.Config(server.URL()), Journals: journals})
	bustest.EnsureStream(t, shared)
	o := &Output{lease: newLease(shared, AllParts, "host:9090", "a", bustest.Logger(t)), log: bustest.Logger(t)}
	var err error
	if o.cursor, err = openCursor(t.TempDir(), "out", 5); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = o.cursor.close() }()
	if err := o.lease.take(t.Context(), bus.Message{}, 0); err != nil {
		t.Fatal(err)
	}
	if err := o.tellAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := map[string]lane.LedgerState{}
	for i := range 5000 {
		site := fmt.Sprintf("site-%d", i)
		h := frame.Header{Kind: frame.Keyframe, ID: frame.ID{Epoch: frame.Epoch(i + 1), Number: 1}, Rows: 1, Sent: int64(i)}
		if err := o.tell(t.Context(), o.cursor.note([]delivered{{site: site, header: h, whole: true}}, false, bus.Position{})); err != nil {
			t.Fatal(err)
		}
		want[site] = o.cursor.ledger(site).State()
	}
	read := func() *replay {
		t.Helper()
		last, err := shared.Last(t.Context(), o.lease.subject)
		if err != nil {
			t.Fatal(err)
		}
		known, err := o.lease.read(t.Context(), last)
		if err != nil {
			t.Fatal(err)
		}
		return known
	}
	check := func(known *replay) {
		t.Helper()
		if !known.whole || known.since != 5 || len(known.ledgers) != len(want) {
			t.Fatalf("it has %d sites, want %d; since %d", len(known.ledgers), len(want), known.since)
		}
		for site, state := range want {
			if got := fmt.Sprint(known.ledger(site).State()); got != fmt.Sprint(state) {
				t.Fatalf("site %s: %s, want %v", site, got, state)
			}
		}
	}
	check(read())
	if o.lease.entries >= snapshotEvery {
		t.Errorf("it has %d entries, and was not written anew", o.lease.entries)
	}
	// A snapshot that was broken off changes nothing.
	snapshot := o.cursor.snapshot()
	if len(snapshot) < 2*entryBytes {
		t.Fatalf("a snapshot of %d bytes is too small for this test", len(snapshot))
	}
	if _, err := o.lease.append(t.Context(), snapshot[:bytes.LastIndexByte(snapshot[:len(snapshot)-1], '\n')+1], false); err != nil {
		t.Fatal(err)
	}
	check(read())
	// Nor does a line that cannot be read, but for what stands behind it.
	if _, err := o.lease.append(t.Context(), []byte("{\n"+strings.Repeat("x", 10)+"\n"), false); err != nil {
		t.Fatal(err)
	}
	check(read())
	if _, err := o.lease.append(t.Context(), o.cursor.note(nil, false, bus.Position{Sequence: 9, Checksum: 1}), false); err != nil {
		t.Fatal(err)
	}
	if known := read(); known.live.Sequence == 9 {
		t.Error("what stands behind an unreadable line counts")
	}
}

// A flush that begins when the time of the lease is over, and its timer has gone off, is cancelled.
func TestFlushBehindTheLease(t *testing.T) {
	server := bustest.NewServer(t)
	l := newLease(bustest.Connected(t, bus.Options{Config: bustest.Config(server.URL()), Journals: journals}), AllParts, "out", "a", bustest.Logger(t))
	began := func() context.Context {
		ctx, cancel := context.WithCancelCause(t.Context())
		t.Cleanup(l.onEnd(cancel))
		return ctx
	}
	l.renew(time.Now())
	defer l.stop()
	if err := context.Cause(began()); err != nil {
		t.Errorf("within its time a flush ends with %v", err)
	}
	l.renewed = time.Now().Add(-l.times.bound)
	if err := context.Cause(began()); !errors.Is(err, errLeaseExpired) {
		t.Errorf("behind its time a flush ends with %v", err)
	}
}

// A journal of which nothing can be read, though it goes further than what a hub knows: the hub says so, and goes on with
// what it knows.
func TestJournalThatCannotBeRead(t *testing.T) {
	r := newReplicas(t)
	dir := t.TempDir()
	a := r.start("a", dir, "", quick)
	r.w.live(3)
	r.d.wait(t, 3)
	a.stop()
	if err := <-a.done; err != nil {
		t.Fatal(err)
	}
	shared := bustest.Connected(t, bus.Options{Config: bustest.Config(r.server.URL()), Journals: journals})
	if _, err := shared.Purge(t.Context(), shared.JournalSubject(">"), 1<<40); err != nil {
		t.Fatal(err)
	}
	if _, err := shared.Publish(t.Context(), a.lease.subject, []byte(`{"number":1000,"hub":"b","instance":"x","free":true}`+"\nno line\n"), 0); err != nil {
		t.Fatal(err)
	}
	b := r.start("a", dir, "", quick)
	b.holds(t)
	r.w.live(1)
	r.d.wait(t, 4)
	if b.c.logs.count("cannot be read", "known") != 1 || b.c.logs.count("is older than what this one knows") != 0 {
		t.Error("the log does not say what is wrong with the journal")
	}
}

// What kept an output from its turn is no error any more when it holds; what ended it stays.
func TestTroubleIsOverWithTheTurn(t *testing.T) {
	server := bustest.NewServer(t)
	c := newHub(t, bustest.Hub(t, server))
	o, err := NewOutput(OutputOptions{Name: "out", Dir: t.TempDir(), Hub: c.Hub, Live: newCollector().live()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = o.Close() }()
	want := func(message string) {
		t.Helper()
		if s := c.output(); s.LastError != message || s.LastErrorAt.IsZero() != (message == "") {
			t.Errorf("the last error is %q at %v, want %q", s.LastError, s.LastErrorAt, message)
		}
	}
	o.record.standby("", errors.New("nobody listens"), c.now())
	want("nobody listens")
	o.record.hold("a")
	want("")
	o.record.standby("a", errors.New("it is cut off"), c.now())
	want("it is cut off")
	o.record.ended(errors.New("it is full"), c.now())
	o.record.hold("a")
	want("it is full")
}
