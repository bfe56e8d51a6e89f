package bus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
)

// tape is a running reader and everything it said.
type tape struct {
	t      *testing.T
	reader *bus.Reader
	stop   context.CancelFunc
	done   chan error

	mu       sync.Mutex
	payloads []string // "caught up" and "reset: reason" among them
	messages []bus.Message
	fail     error
}

// caughtUp is what a tape holds for the event.
const caughtUp = "caught up"

func read(t *testing.T, c *bus.Conn, o bus.ReaderOptions) *tape {
	t.Helper()
	r := &tape{t: t, done: make(chan error, 1)}
	if o.Subjects == nil {
		o.Subjects = []string{c.Root().AllLanes()}
	}
	o.Name = t.Name()
	o.Handle = func(m bus.Message) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.fail != nil {
			return r.fail
		}
		r.payloads = append(r.payloads, string(m.Payload))
		r.messages = append(r.messages, m)
		return nil
	}
	o.CaughtUp = func() { r.note(caughtUp) }
	o.Reset = func(reset bus.Reset) { r.note("reset: " + string(reset.Reason)) }
	var err error
	if r.reader, err = c.NewReader(o); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	go func() { r.done <- r.reader.Run(ctx) }()
	t.Cleanup(r.end)
	return r
}

func (r *tape) note(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.payloads = append(r.payloads, s)
}

func (r *tape) end() {
	r.stop()
	if err, ok := <-r.done; ok {
		close(r.done)
		if !errors.Is(err, context.Canceled) && r.fail == nil && err != nil {
			r.t.Errorf("reader ended: %v", err)
		}
	}
}

func (r *tape) seen() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.payloads)
}

// payloadsOnly leaves the events out.
func (r *tape) payloadsOnly() []string {
	return slices.DeleteFunc(r.seen(), func(s string) bool { return s == caughtUp || strings.HasPrefix(s, "reset: ") })
}

// expect waits until the tape holds exactly this.
func (r *tape) expect(want ...string) {
	r.t.Helper()
	var got []string
	bustest.WaitFor(r.t, fmt.Sprintf("%q", want), func() bool {
		got = r.seen()
		if len(got) > len(want) || !slices.Equal(got, want[:len(got)]) {
			r.t.Fatalf("reader said %q, want %q", got, want)
		}
		return len(got) == len(want)
	})
}

// publisher appends to a lane of a site, with the rights of a hub.
type publisher struct {
	t       *testing.T
	conn    *bus.Conn
	subject string
	last    uint64
}

func newPublisher(t *testing.T, c *bus.Conn, site string, lane bus.Lane) *publisher {
	return &publisher{t: t, conn: c, subject: c.Root().Lane(site, lane)}
}

// send publishes until it is known to be stored.
func (p *publisher) send(payloads ...string) {
	p.t.Helper()
	for _, payload := range payloads {
		bustest.WaitFor(p.t, "publish of "+payload, func() bool {
			sequence, err := p.conn.Publish(p.t.Context(), p.subject, []byte(payload), p.last)
			if conflict := (*bus.SequenceError)(nil); errors.As(err, &conflict) {
				m, err := p.conn.Last(p.t.Context(), p.subject)
				switch {
				case err == nil && m.Sequence == conflict.Last && string(m.Payload) == payload:
					p.last = m.Sequence
					return true
				case errors.Is(err, bus.ErrNoMessage) || err == nil && string(m.Payload) != payload:
					p.last = conflict.Last
				}
				return false
			}
			if err != nil {
				return false
			}
			p.last = sequence
			return true
		})
	}
}

func TestReaderFollows(t *testing.T) {
	server := bustest.NewServer(t)
	hub := bustest.Hub(t, server)
	a, b := newPublisher(t, hub, "a", bus.Live), newPublisher(t, hub, "b", bus.Backfill)
	r := read(t, hub, bus.ReaderOptions{})
	r.expect(caughtUp) // the stream is empty
	a.send("a1")
	b.send("b1")
	a.send("a2")
	r.expect(caughtUp, "a1", "b1", "a2")
	for i, m := range r.messages {
		if m.Sequence != uint64(i+1) || m.Time.IsZero() || m.Subject != []string{a.subject, b.subject, a.subject}[i] {
			t.Errorf("message %d is %+v", i, m)
		}
	}
	later := read(t, hub, bus.ReaderOptions{})
	later.expect("a1", "b1", "a2", caughtUp)
	var pending []uint64
	for _, m := range later.messages {
		pending = append(pending, m.Pending)
	}
	if !slices.Equal(pending, []uint64{2, 1, 0}) {
		t.Errorf("pending is %d", pending)
	}
	only := read(t, hub, bus.ReaderOptions{Subjects: []string{hub.Root().LanesOfPart(bus.PartOf("b"), bus.Backfill), a.subject + "x"}})
	only.expect("b1", caughtUp)
}

func TestReaderStart(t *testing.T) {
	server := bustest.NewServer(t)
	hub := bustest.Hub(t, server)
	a := newPublisher(t, hub, "a", bus.Live)
	a.send("1", "2", "3")
	all := read(t, hub, bus.ReaderOptions{})
	all.expect("1", "2", "3", caughtUp)
	second := all.messages[1]

	r := read(t, hub, bus.ReaderOptions{Start: bus.Start{Time: second.Time}})
	r.expect("2", "3", caughtUp)
	r = read(t, hub, bus.ReaderOptions{Start: bus.Start{Time: all.messages[2].Time.Add(time.Nanosecond)}})
	r.expect(caughtUp)
	p := all.reader.Position()
	a.send("4")
	r.expect(caughtUp, "4")
	all.expect("1", "2", "3", caughtUp, "4")
	r = read(t, hub, bus.ReaderOptions{Start: bus.Start{Position: p, Time: second.Time}})
	r.expect("4", caughtUp)
	saved, err := bus.ParsePosition(r.reader.Position().String())
	if err != nil || saved != r.reader.Position() {
		t.Errorf("position %v is read back as %v, %v", r.reader.Position(), saved, err)
	}
	r = read(t, hub, bus.ReaderOptions{Start: bus.Start{Position: saved}})
	r.expect(caughtUp)
}

func TestReaderEnd(t *testing.T) {
	server := bustest.NewServer(t)
	hub := bustest.Hub(t, server)
	a, b := newPublisher(t, hub, "a", bus.Live), newPublisher(t, hub, "b", bus.Live)
	a.send("1", "2")
	b.send("x")
	a.send("4")

	finish := func(r *tape, want ...string) {
		t.Helper()
		select {
		case err := <-r.done:
			close(r.done)
			if err != nil {
				t.Errorf("reader ended with %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("reader has not ended, it said %q", r.seen())
		}
		if got := r.payloadsOnly(); !slices.Equal(got, want) {
			t.Errorf("reader said %q, want %q", got, want)
		}
	}
	finish(read(t, hub, bus.ReaderOptions{End: 2}), "1", "2")
	finish(read(t, hub, bus.ReaderOptions{End: 4}), "1", "2", "x", "4")
	// The end is not one of the subject's messages: before its last, and after.
	finish(read(t, hub, bus.ReaderOptions{End: 3, Subjects: []string{a.subject}}), "1", "2")
	finish(read(t, hub, bus.ReaderOptions{End: 4, Subjects: []string{b.subject}}), "x")
	finish(read(t, hub, bus.ReaderOptions{End: 4, Subjects: []string{b.subject + "x"}}))
	first := read(t, hub, bus.ReaderOptions{End: 4})
	finish(first, "1", "2", "x", "4")
	finish(read(t, hub, bus.ReaderOptions{End: 4, Start: bus.Start{Position: first.reader.Position()}}))

	// The end is still to come, on another subject.
	waiting := read(t, hub, bus.ReaderOptions{End: 6, Subjects: []string{a.subject}})
	waiting.expect("1", "2", "4", caughtUp)
	b.send("y", "z")
	finish(waiting, "1", "2", "4")
}

func TestReaderHandlerError(t *testing.T) {
	server := bustest.NewServer(t)
	hub := bustest.Hub(t, server)
	a := newPublisher(t, hub, "a", bus.Live)
	a.send("1")
	r := read(t, hub, bus.ReaderOptions{})
	r.expect("1", caughtUp)
	before := r.reader.Position()
	r.mu.Lock()
	r.fail = errors.New("disk on fire")
	r.mu.Unlock()
	a.send("2")
	err := <-r.done
	close(r.done)
	if !errors.Is(err, r.fail) || !strings.Contains(err.Error(), "message 2") {
		t.Errorf("reader ended with %v", err)
	}
	if r.reader.Position() != before {
		t.Errorf("position moved over a message that was not handled: %v", r.reader.Position())
	}
}

func TestReaderBatches(t *testing.T) {
	server := bustest.NewServer(t)
	hub := bustest.Hub(t, server)
	nc := rawHub(t, server)
	const messages = 3000 // many pulls
	var want []string
	for i := range messages {
		want = append(want, fmt.Sprint(i))
		if err := nc.Publish(hub.Root().Lane("a", bus.Live), []byte(want[i])); err != nil {
			t.Fatal(err)
		}
	}
	r := read(t, hub, bus.ReaderOptions{})
	bustest.WaitFor(t, "all messages", func() bool { return len(r.payloadsOnly()) == messages })
	if got := r.payloadsOnly(); !slices.Equal(got, want) {
		t.Error("messages are not in order")
	}
}

func rawHub(t *testing.T, s *bustest.Server) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(s.URL(), nats.UserInfo("@hub", ""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func stream(t *testing.T, nc *nats.Conn) jetstream.Stream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), "THALWEG")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestReaderSurvivesCutsAndRestarts(t *testing.T) {
	server := bustest.NewServer(t)
	hub := bustest.Hub(t, server)
	proxy := bustest.NewProxy(t, server.Addr())
	far := bustest.Connected(t, bus.Options{Config: bustest.Config(proxy.URL())})
	a := newPublisher(t, hub, "a", bus.Live)
	r := read(t, far, bus.ReaderOptions{})
	var want []string
	send := func(s string) {
		a.send(s)
		want = append(want, s)
	}
	settled := func() {
		t.Helper()
		bustest.WaitFor(t, "messages", func() bool { return len(r.payloadsOnly()) >= len(want) })
	}
	for i := range 3 {
		send(fmt.Sprintf("cut %d before", i))
		if i == 1 {
			settled()
		}
		proxy.Cut()
		send(fmt.Sprintf("cut %d after", i))
	}
	settled()
	for i := range 3 {
		send(fmt.Sprintf("restart %d before", i))
		server.Stop()
		server.Start()
		send(fmt.Sprintf("restart %d after", i))
	}
	settled()
	if got := r.payloadsOnly(); !slices.Equal(got, want) {
		t.Errorf("reader said %q, want %q", got, want)
	}
	if got := r.seen(); slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "reset") }) {
		t.Errorf("reader said %q, want no reset", got)
	}
}

func TestReaderSurvivesDeletedConsumer(t *testing.T) {
	server := bustest.NewServer(t)
	hub := bustest.Hub(t, server)
	a := newPublisher(t, hub, "a", bus.Live)
	r := read(t, hub, bus.ReaderOptions{})
	r.expect(caughtUp)
	a.send("1")
	r.expect(caughtUp, "1")
	s := stream(t, rawHub(t, server))
	names := s.ConsumerNames(t.Context())
	count := 0
	for name := range names.Name() {
		count++
		if err := s.DeleteConsumer(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if count != 1 {
		t.Fatalf("deleted %d consumers, want 1", count)
	}
	a.send("2")
	r.expect(caughtUp, "1", "2", caughtUp)
	r.end()
	bustest.WaitFor(t, "no consumer left behind", func() bool {
		info, err := s.Info(t.Context())
		return err == nil && info.State.Consumers == 0
	})
}

// TestReaderOfStalledConsumer: a consumer that sends heartbeats and nothing else, as one does on a server of a cluster
// whose copy of the stream follows no more, is replaced by another. One that has nothing to deliver is not.
func TestReaderOfStalledConsumer(t *testing.T) {
	t.Parallel()
	server := bustest.NewServer(t)
	hub := bustest.Hub(t, server)
	a, b := newPublisher(t, hub, "a", bus.Live), newPublisher(t, hub, "b", bus.Live)
	reader := bustest.Connected(t, bus.Options{Config: bustest.Config(server.URL())})
	idle := bustest.Connected(t, bus.Options{Config: bustest.Config(server.URL())})
	other := read(t, idle, bus.ReaderOptions{Subjects: []string{b.subject}})
	other.expect(caughtUp)
	a.send("1")
	r := read(t, reader, bus.ReaderOptions{Subjects: []string{a.subject}})
	r.expect("1", caughtUp)
	s := stream(t, rawHub(t, server))
	for info := range s.ListConsumers(t.Context()).Info() {
		if !slices.Contains(info.Config.FilterSubjects, a.subject) && info.Config.FilterSubject != a.subject {
			continue
		}
		if _, err := s.PauseConsumer(t.Context(), info.Name, time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	a.send("2", "3")
	r.expect("1", caughtUp, "2", "3", caughtUp)
	for conn, want := range map[*bus.Conn]float64{reader: 1, idle: 0} {
		if got := stalls(t, conn); got != want {
			t.Errorf("%v stalls are counted, want %v", got, want)
		}
	}
	other.expect(caughtUp)
}

func stalls(t *testing.T, c *bus.Conn) float64 {
	t.Helper()
	for _, collector := range c.Metrics() {
		if testutil.CollectAndCount(collector, "thalweg_bus_reader_stalls_total") > 0 {
			return testutil.ToFloat64(collector)
		}
	}
	t.Fatal("stalls are not counted")
	return 0
}

func TestReaderOfRecreatedStream(t *testing.T) {
	server := bustest.NewServer(t)
	hub := bustest.Hub(t, server)
	a := newPublisher(t, hub, "a", bus.Live)
	a.send("1", "2")
	r := read(t, hub, bus.ReaderOptions{})
	r.expect("1", "2", caughtUp)
	js, err := jetstream.New(rawHub(t, server))
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(t.Context(), "THALWEG"); err != nil {
		t.Fatal(err)
	}
	if _, err := hub.Publish(t.Context(), a.subject, []byte("nowhere"), 0); !errors.Is(err, bus.ErrNotStored) || !errors.Is(err, bus.ErrNoListener) {
		t.Errorf("publish without a stream: %v", err)
	}
	bustest.EnsureStream(t, hub)
	a.last = 0
	a.send("one", "two", "three") // longer than before, so that only the creation time tells
	r.expect("1", "2", caughtUp, "reset: recreated", "one", "two", "three", caughtUp)

	saved := r.reader.Position()
	r.end()
	if err := js.DeleteStream(t.Context(), "THALWEG"); err != nil {
		t.Fatal(err)
	}
	bustest.EnsureStream(t, hub)
	again := read(t, hub, bus.ReaderOptions{Start: bus.Start{Position: saved}})
	again.expect("reset: recreated", caughtUp)
}

// TestReaderOfOlderCopy restores the store directory as it was before some messages, as a power loss or a backup does.
func TestReaderOfOlderCopy(t *testing.T) {
	for _, test := range []struct {
		name   string
		before []string // stored when the copy was made
		lost   []string // stored afterwards, and read
		since  []string // stored after the restore, before the reader is back
		want   []string
	}{
		{"shorter", []string{"1"}, []string{"2", "3"}, nil, []string{"reset: rewound", "1", caughtUp}},
		{"grown again with the same", []string{"1"}, []string{"2", "3"}, []string{"2", "3", "4"}, []string{"reset: replaced", "1", "2", "3", "4", caughtUp}},
		{"grown again", []string{"1"}, []string{"2", "3"}, []string{"two", "three", "four"}, []string{"reset: replaced", "1", "two", "three", "four", caughtUp}},
		{"same", []string{"1", "2"}, nil, []string{"3"}, []string{"3", caughtUp}},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := bustest.NewServer(t)
			hub := bustest.Hub(t, server)
			proxy := bustest.NewProxy(t, server.Addr())
			far := bustest.Connected(t, bus.Options{Config: bustest.Config(proxy.URL())})
			a := newPublisher(t, hub, "a", bus.Live)
			a.send(test.before...)
			server.Stop()
			older := server.CopyStore()
			server.Start()
			a.send(test.lost...)
			r := read(t, far, bus.ReaderOptions{})
			heard := slices.Concat(test.before, test.lost, []string{caughtUp})
			r.expect(heard...)
			proxy.Refuse(true)
			server.Stop()
			server.RestoreStore(older)
			server.Start()
			a.last = uint64(len(test.before))
			a.send(test.since...)
			proxy.Refuse(false)
			r.expect(slices.Concat(heard, test.want)...)
		})
	}
}

func TestReaderPurges(t *testing.T) {
	server := bustest.NewServer(t)
	hub := bustest.Hub(t, server)
	a, b := newPublisher(t, hub, "a", bus.Live), newPublisher(t, hub, "b", bus.Live)
	s := stream(t, rawHub(t, server))
	a.send("1", "2")
	b.send("3")
	r := read(t, hub, bus.ReaderOptions{})
	r.expect("1", "2", "3", caughtUp)
	third := r.reader.Position()
	a.send("4")
	b.send("5")
	r.expect("1", "2", "3", caughtUp, "4", "5")
	r.end()

	// A hole ahead of the position is none of the reader's business.
	if err := s.DeleteMsg(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	read(t, hub, bus.ReaderOptions{Start: bus.Start{Position: third}}).expect("5", caughtUp)

	// One that is known from earlier changes nothing as long as it is valid.
	read(t, hub, bus.ReaderOptions{Start: bus.Start{Known: third}}).expect("1", "2", "3", "5", caughtUp)

	// Nor is one at the position, with older ones still there, as when a hub deletes what a site has too much.
	if err := s.DeleteMsg(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	read(t, hub, bus.ReaderOptions{Start: bus.Start{Position: third}}).expect("5", caughtUp)
	read(t, hub, bus.ReaderOptions{Start: bus.Start{Known: third}}).expect("1", "2", "5", caughtUp)

	// It is gone because it is too old.
	if err := s.Purge(t.Context(), jetstream.WithPurgeSequence(5)); err != nil {
		t.Fatal(err)
	}
	read(t, hub, bus.ReaderOptions{Start: bus.Start{Position: third}}).expect("5", caughtUp)
	if err := s.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	read(t, hub, bus.ReaderOptions{Start: bus.Start{Position: third}}).expect(caughtUp)
}
