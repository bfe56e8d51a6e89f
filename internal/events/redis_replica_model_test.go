package events

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"testing"
)

// actor is a replica that does a thing at a time, when it is told to.
type actor struct {
	*opened
	dir    string
	source *redisSource // nil: it does not take it that it has the lease
}

// replicaModel is replicas of a queue and what has to hold for them.
type replicaModel struct {
	t      *testing.T
	server *redisServer
	conn   *redisConn
	rng    *rand.Rand
	actors []*actor
	sent   uint64
	shown  float64
	done   map[string]int // how often each thing was
}

func (m *replicaModel) prefix() string { return "{" + queueKey + "}:claim:" + replicas + ":" }

func (m *replicaModel) ask(args ...string) answer {
	m.t.Helper()
	a, err := m.conn.do(args...)
	if err != nil {
		m.t.Fatal(err)
	}
	return a
}

// open makes an actor of what is on disk.
func (m *replicaModel) open(a *actor) {
	a.opened = open(m.t, a.dir, func(o *Options) {
		redis := DefaultRedisConfig()
		redis.Address, redis.Replicas = m.server.addr(), true
		o.Config.Redis = &redis
		o.Logger = slog.New(slog.DiscardHandler)
	})
	a.source = nil
}

// take takes the lease, whoever has it: everybody has been patient.
func (m *replicaModel) take(a *actor) error {
	l := a.replica.lease
	before, err := l.look(m.t.Context())
	if err != nil {
		return err
	}
	if held, err := l.take(m.t.Context(), before); err != nil || !held {
		return fmt.Errorf("the lease is not to be had: %w", err)
	}
	if err := a.replica.inherit(m.t.Context(), before); err != nil {
		return err
	}
	a.source = newRedisSource(a.Gateway, a.options.Config.Redis, l)
	a.source.conn = m.conn
	return nil
}

// turn does what the source does next, if it need not wait for that.
func (m *replicaModel) turn(a *actor) error {
	at := a.source.at()
	claim := uint64(m.ask("LLEN", a.source.lease.claim(at.seq)).n)
	if claim <= at.offset && m.ask("LLEN", queueKey).n == 0 {
		a.replaying.Store(false)
		return nil
	}
	if claim > at.offset && m.rng.IntN(2) == 0 { // a part of a claim only
		n := 1 + m.rng.Uint64N(claim-at.offset)
		a.source.conn.send("LRANGE", a.source.lease.claim(at.seq), "-"+strconv.FormatUint(at.offset+n, 10), "-"+strconv.FormatUint(at.offset+1, 10))
		if err := a.source.conn.flush(0); err != nil {
			return err
		}
		var p page
		if err := a.source.conn.receivePage(&p, a.source.limit); err != nil {
			return err
		}
		return a.source.takePage(&read{page: &p, size: n}, &at, claim)
	}
	worked := false
	return a.source.turn(m.t.Context(), &worked)
}

// stop ends an actor in order, as far as somebody can who may have lost the lease.
func (m *replicaModel) stop(a *actor) error {
	a.stopped, a.state.clean, a.changed = true, !a.replaying.Load(), true
	err := a.checkpoint()
	a.replica.lease.release(m.t.Context())
	a.crash()
	m.open(a)
	return err
}

func (m *replicaModel) step() {
	m.t.Helper()
	a := m.actors[m.rng.IntN(len(m.actors))]
	name, err := "", error(nil)
	switch n := m.rng.IntN(100); {
	case n < 20:
		name = "push"
		for range 1 + m.rng.IntN(5) {
			m.ask("LPUSH", queueKey, `{"name":"a","value":1}`)
			m.sent++
		}
	case a.source == nil:
		if n < 30 {
			name, err = "take", m.take(a)
		} else if n < 33 {
			name = "crash"
			a.crash()
			m.open(a)
		}
	case n < 65:
		name, err = "turn", m.turn(a)
	case n < 85:
		name, err = "commit", a.checkpoint()
	case n < 94:
		name, err = "forget", a.source.forget()
	case n < 97:
		name = "crash"
		a.crash()
		m.open(a)
	default:
		name, err = "stop", m.stop(a)
	}
	if errors.Is(err, errHolder) {
		err = errors.Join(err, a.source.lease.renew(m.t.Context()))
	}
	switch {
	case errors.Is(err, errLost):
		name += " too late"
		if err := a.replica.resign(); err != nil {
			m.t.Fatal(err)
		}
		a.source = nil
	case err != nil && a.source != nil && err.Error() == "a claimed list has changed": // it was deleted for another one
		name += " too late"
	case err != nil:
		m.t.Fatalf("%s: %v", name, err)
	}
	m.done[name]++
}

// check sees to it that what Redis says counts each event once, whoever reads it, and that no page tells less than another.
func (m *replicaModel) check() {
	m.t.Helper()
	c := DefaultConfig()
	s := &state{aggregate: newAggregate(&c, nil, 0)}
	var data []byte
	for _, part := range m.ask("LRANGE", m.prefix()+"journal", "0", "-1").list {
		data = append(data, part.text...)
	}
	if _, err := restoreRecords(data, s.restore); err != nil {
		m.t.Fatal(err)
	}
	total := uint64(sumOf(s.aggregate)) + uint64(m.ask("LLEN", queueKey).n)
	numbers, err := findClaims(m.conn, m.prefix())
	if err != nil {
		m.t.Fatal(err)
	}
	for _, n := range numbers {
		length := uint64(m.ask("LLEN", m.prefix()+strconv.FormatUint(n, 10)).n)
		switch {
		case n == s.position.seq:
			total += length - s.position.offset
		case n > s.position.seq:
			total += length
		}
	}
	if total != m.sent {
		m.t.Fatalf("%d of %d events count or will: the journal is at %d:%d, claims are %v", total, m.sent, s.position.seq, s.position.offset, numbers)
	}
	holder := string(m.ask("HGET", m.prefix()+"head", "token").text)
	for _, a := range m.actors {
		if a.replica.lease.token != holder || a.standby || a.replaying.Load() {
			continue
		}
		v := sumOf(a.state.aggregate)
		if v < m.shown {
			m.t.Fatalf("a page has %g, and one before had %g", v, m.shown)
		}
		m.shown = v
	}
}

func sumOf(a *aggregate) (total float64) {
	for _, f := range a.order {
		for _, m := range f.members {
			total += m.sum.total()
		}
	}
	return total
}

// Whatever replicas do in whatever order, those that do not know that they have lost the lease included, each event counts
// once.
func TestReplicasModel(t *testing.T) {
	s := startRedis(t)
	done := map[string]int{}
	for seed := range uint64(12) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			m := &replicaModel{t: t, server: s, conn: s.client(), rng: rand.New(rand.NewPCG(seed, 3)), done: done}
			m.ask("FLUSHALL")
			for range 3 {
				a := &actor{dir: t.TempDir()}
				m.open(a)
				m.actors = append(m.actors, a)
				defer func() { a.crash() }()
			}
			for range 400 {
				m.step()
				m.check()
			}
			last := m.actors[0]
			last.crash()
			m.open(last)
			if err := m.take(last); err != nil {
				t.Fatal(err)
			}
			for m.ask("LLEN", queueKey).n > 0 || sumOf(last.state.aggregate) < float64(m.sent) {
				if err := m.turn(last); err != nil {
					t.Fatal(err)
				}
			}
			if got := sumOf(last.state.aggregate); got != float64(m.sent) {
				t.Errorf("%g of %d events count", got, m.sent)
			}
		})
	}
	for _, name := range []string{"take", "turn too late", "commit too late", "stop", "crash"} {
		if done[name] == 0 {
			t.Errorf("there was no %q: %v", name, done)
		}
	}
}
