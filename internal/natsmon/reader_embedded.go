package natsmon

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// embeddedReader reads the server in this process: it calls what the monitoring port would call.
type embeddedReader struct {
	server   *server.Server
	storeDir string
	compat   bool
	limits   limits
	now      func() time.Time

	// busy has a lock for each endpoint, held while it is asked. A call cannot be interrupted, and may hang with the disk.
	busy map[Endpoint]*sync.Mutex

	own ownConnections
}

func newEmbeddedReader(s *server.Server, storeDir string, compat bool, l limits, now func() time.Time) *embeddedReader {
	r := &embeddedReader{server: s, storeDir: storeDir, compat: compat, limits: l, now: now, busy: map[Endpoint]*sync.Mutex{}}
	for _, e := range endpoints(compat) {
		r.busy[e] = &sync.Mutex{}
	}
	return r
}

// Name implements Reader.
func (r *embeddedReader) Name() string { return "embedded" }

var (
	errStopped = errors.New("the server is not running")
	errBusy    = errors.New("the question before is still without an answer")
)

// embeddedParallel is how many calls are made at a time. More would only take the cores from the server.
const embeddedParallel = 2

// Read implements Reader.
func (r *embeddedReader) Read(ctx context.Context) ([]*Server, error) {
	if !r.server.Running() {
		return nil, errStopped
	}
	s := &Server{At: r.now()}
	askAll(ctx, s, 1, []question{embedded(r, Varz, func() (*server.Varz, error) { return r.server.Varz(nil) }, (*Server).identify)})
	if s.Varz == nil {
		return nil, s.Errors[Varz]
	}
	questions := []question{
		embedded(r, Healthz, r.health, func(s *Server, h map[string]*server.HealthStatus) { s.Health = h }),
		embedded(r, Connz, r.clients, r.sum),
		embedded(r, Routez, func() (*server.Routez, error) { return r.server.Routez(nil) }, func(s *Server, v *server.Routez) { s.Routes = v }),
		embedded(r, Gatewayz, func() (*server.Gatewayz, error) { return r.server.Gatewayz(nil) }, func(s *Server, v *server.Gatewayz) { s.Gateways = v }),
		embedded(r, Leafz, func() (*server.Leafz, error) { return r.server.Leafz(nil) }, func(s *Server, v *server.Leafz) { s.Leafs = v }),
		embedded(r, Subsz, func() (*server.Subsz, error) { return r.server.Subsz(nil) }, func(s *Server, v *server.Subsz) { s.Subscriptions = v }),
		embedded(r, Accstatz, func() (*server.AccountStatz, error) {
			return r.server.AccountStatz(&server.AccountStatzOptions{IncludeUnused: true})
		}, func(s *Server, v *server.AccountStatz) { s.Accounts = v }),
		embedded(r, Jsz, r.jetStream, func(s *Server, v *server.JSInfo) { s.JetStream = v }),
	}
	if r.compat {
		questions = append(questions, embedded(r, Accountz, r.accountLimits, func(s *Server, v map[string]*server.AccountInfo) { s.AccountLimits = v }))
	}
	askAll(ctx, s, embeddedParallel, questions)
	s.Own, s.OwnTotal = r.own.open, r.own.of(s.Varz.TotalConnections)
	if r.storeDir != "" {
		s.Disk = diskOf(r.storeDir)
	}
	return []*Server{s}, nil
}

// embedded makes a question of a call of the server.
func embedded[T any](r *embeddedReader, endpoint Endpoint, call func() (T, error), fill func(*Server, T)) question {
	return question{endpoint, func(context.Context) (func(*Server), error) {
		busy := r.busy[endpoint]
		if !busy.TryLock() {
			return nil, errBusy
		}
		defer busy.Unlock()
		v, err := call()
		if err != nil {
			return nil, err
		}
		return func(s *Server) { fill(s, v) }, nil
	}}
}

func (r *embeddedReader) health() (map[string]*server.HealthStatus, error) {
	h := make(map[string]*server.HealthStatus, len(HealthChecks))
	for name, options := range HealthChecks {
		h[name] = r.server.Healthz(&options)
	}
	return h, nil
}

func (r *embeddedReader) jetStream() (*server.JSInfo, error) {
	return readJetStream(r.limits.accounts, func(o server.JSzOptions) (*server.JSInfo, error) { return r.server.Jsz(&o) })
}

func (r *embeddedReader) accountLimits() (map[string]*server.AccountInfo, error) {
	return readAccountLimits(r.limits.accounts, func(account string) (*server.Accountz, error) {
		return r.server.Accountz(&server.AccountzOptions{Account: account})
	})
}

// clients are the connections of a moment, and the last ones that were closed.
type clients struct{ open, closed *server.Connz }

func (r *embeddedReader) clients() (c clients, err error) {
	// In this order one that closes meanwhile is in both lists, and not in none.
	if c.open, err = r.server.Connz(&server.ConnzOptions{Limit: math.MaxInt}); err != nil {
		return c, err
	}
	c.closed, err = r.server.Connz(&server.ConnzOptions{Limit: math.MaxInt, State: server.ConnClosed})
	return c, err
}

// sum adds up the connections but those of this program, and counts these.
func (r *embeddedReader) sum(s *Server, c clients) {
	sum := newConnections()
	var own []uint64
	for _, info := range c.open.Conns {
		one := connectionOf(info)
		if one.kind() == InProcess {
			own = append(own, info.Cid)
			continue
		}
		sum.add(&one)
	}
	sum.Total = c.open.Total - len(own)
	s.Connections = sum
	r.own.open = len(own)
	for _, info := range c.closed.Conns {
		if one := connectionOf(info); one.kind() == InProcess {
			own = append(own, info.Cid)
		}
	}
	r.own.count(own)
}

// ownConnections counts the in-process connections that there have been. The server has no such count, but counts them
// among all connections and remembers the last 10,000 that were closed.
type ownConnections struct {
	open   int
	total  uint64
	known  map[uint64]bool // their ids, of those that the server told of last
	others uint64          // how many connections there had been beside them
}

// count takes the ids of those that the server tells of.
func (o *ownConnections) count(ids []uint64) {
	known := make(map[uint64]bool, len(ids))
	for _, id := range ids {
		if !o.known[id] && !known[id] {
			o.total++
		}
		known[id] = true
	}
	o.known = known
}

// of returns how many there have been among all connections that the server has counted. The difference of the two never
// goes back: an in-process connection that came between two readings waits for the next one.
func (o *ownConnections) of(all uint64) uint64 {
	o.others = max(o.others, all-min(all, o.total))
	return all - min(all, o.others)
}
