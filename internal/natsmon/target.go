package natsmon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"sync"
	"time"

	"github.com/thalweg/thalweg/internal/telemetry"
)

// target is what one Reader reads, and how that went.
type target struct {
	reader Reader
	limits limits
	compat bool
	wire   func(*Server) *Wire
	log    *telemetry.Repeats

	mu     sync.Mutex
	flight *flight // the reading that is under way, or nil
	errors map[Endpoint]uint64
	down   bool
}

// flight is a reading that is under way. All who ask meanwhile get its result, but those who have more time, if it did not
// have enough: for them there is another one.
type flight struct {
	deadline time.Time
	done     chan struct{}
	reading  reading // once done is closed
	next     *flight // nil if nobody has more time
}

func newFlight(deadline time.Time) *flight {
	return &flight{deadline: deadline, done: make(chan struct{})}
}

// land gives those who wait the reading.
func (f *flight) land(r reading) {
	f.reading = r
	close(f.done)
}

// reading is what became of asking a target once. It is shared, and not changed any more.
type reading struct {
	servers []*Server // none if the target did not answer
	took    time.Duration
	errors  map[Endpoint]uint64 // of all readings so far
	omitted map[object]int
}

// answered counts the servers that did.
func (r *reading) answered() (n int) {
	for _, s := range r.servers {
		if s.Varz != nil {
			n++
		}
	}
	return n
}

func newTarget(r Reader, compat bool, l limits, wire func(*Server) *Wire, log *telemetry.Repeats) *target {
	t := &target{reader: r, compat: compat, limits: l, wire: wire, log: log, errors: map[Endpoint]uint64{}}
	for _, e := range endpoints(compat) {
		t.errors[e] = 0
	}
	return t
}

// errSlow is why there is nothing of a target whose reader does not return.
var errSlow = errors.New("no answer within the time of the scrape")

// read returns what the target says, by the time that ctx ends: what is there then, if its reader keeps to its
// contract, else nothing. Ctx has a deadline.
func (t *target) read(ctx context.Context) reading {
	begin := time.Now()
	f := t.board(ctx)
	select {
	case <-f.done:
		return f.reading
	case <-ctx.Done():
		t.mu.Lock()
		defer t.mu.Unlock()
		if errors.Is(ctx.Err(), context.DeadlineExceeded) { // else it is the scraper that went away
			t.fail(Varz, errSlow)
		}
		return reading{took: time.Since(begin), errors: maps.Clone(t.errors)}
	}
}

// board returns the flight whose reading is for somebody who waits until ctx ends.
func (t *target) board(ctx context.Context) *flight {
	deadline, _ := ctx.Deadline()
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.flight
	switch {
	case f == nil:
		f = newFlight(deadline)
		t.flight = f
		go t.fly(f)
	case deadline.After(f.deadline):
		if f.next == nil {
			f.next = newFlight(deadline)
		}
		f = f.next
		if deadline.After(f.deadline) {
			f.deadline = deadline
		}
	}
	return f
}

// fly makes a reading. Whoever asked first may go away, but its deadline holds: the reader gets less time than that, so
// that there is some left for an answer in part.
func (t *target) fly(f *flight) {
	begin := time.Now()
	given := f.deadline.Sub(begin)
	ctx, cancel := context.WithDeadline(context.Background(), f.deadline.Add(-margin(given)))
	defer cancel()
	r, err := t.ask(ctx)
	short := ctx.Err() != nil

	t.mu.Lock()
	defer t.mu.Unlock()
	name := t.reader.Name()
	if err != nil {
		t.fail(Varz, err)
	}
	for _, s := range r.servers {
		for endpoint, err := range s.Errors {
			t.fail(endpoint, err, slog.String("server", s.Name))
		}
	}
	for what, n := range r.omitted {
		if n > 0 {
			t.log.Log(slog.LevelWarn, name+" omitted "+string(what), "more of a NATS server than is exported",
				slog.String("target", name), slog.String("kind", string(what)), slog.Int("omitted", n))
		}
	}
	if t.down && err == nil {
		t.log.Log(slog.LevelInfo, name+" up", "NATS server answers again", slog.String("target", name))
		t.log.Forget(name + " " + string(Varz))
	}
	t.down = err != nil
	r.errors = maps.Clone(t.errors)
	r.took = time.Since(begin)
	f.land(r)
	t.flight = nil
	if next := f.next; next != nil {
		if short && time.Until(next.deadline) > given {
			t.flight = next
			go t.fly(next)
			return
		}
		next.land(r) // another one would not have more time than this
	}
}

// ask asks the reader and completes what it returns. A panic on the way is an error: what servers answer must not end the
// process.
func (t *target) ask(ctx context.Context) (r reading, err error) {
	defer func() {
		if p := recover(); p != nil {
			r, err = reading{}, fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	servers, err := t.reader.Read(ctx)
	if err != nil {
		return reading{}, err
	}
	r = reading{servers: servers, omitted: map[object]int{}}
	for _, s := range servers {
		t.limits.bound(s, t.compat, r.omitted)
		if s.Varz != nil {
			s.Wire = t.wire(s)
		}
	}
	return r, nil
}

// fail counts an endpoint that did not answer.
func (t *target) fail(endpoint Endpoint, err error, attrs ...slog.Attr) {
	t.errors[endpoint]++
	name := t.reader.Name()
	t.log.Log(slog.LevelWarn, name+" "+string(endpoint), "NATS server does not answer", append(attrs,
		slog.String("target", name), slog.String("endpoint", string(endpoint)), slog.Any("err", err))...)
}

// margin of a timeout is for what comes after.
func margin(timeout time.Duration) time.Duration { return min(500*time.Millisecond, timeout/10) }
