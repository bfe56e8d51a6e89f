package natsmon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// discoverMax is how long a reading waits for servers to answer at all. Meanwhile it reads those that did.
	discoverMax = 2 * time.Second
	// discoverQuiet is how long nobody may have answered until all have, for a reading that does not know for whom to
	// wait. Servers that are farther away than that are known to the next one.
	discoverQuiet = 250 * time.Millisecond
)

var (
	errNoConnection = errors.New("not connected")
	errNobody       = errors.New("no server answers")
	errNotSystem    = errors.New("nobody listens to requests for servers: is the user one of the system account?")
)

// discovery is a request to all servers, and who has answered it so far. It goes on hearing those that are late until
// the next one begins. Its fields are guarded by the mutex of the reader.
type discovery struct {
	began    time.Time
	listener *nats.Subscription
	// awaited are the ids of those that answered the discovery before. It is certain if they are all that answer.
	awaited map[string]bool
	certain bool

	answered map[string]*systemServer // by id
	arrivals chan *systemServer       // the same; has room for all
	refused  chan struct{}            // says that nobody listens
}

// discover asks all servers who is there.
func (r *systemReader) discover() (*discovery, error) {
	// No method of the connection is called with the lock held: its callbacks take it while they hold the connection's.
	r.mu.Lock()
	nc, trouble := r.nc, r.trouble
	r.mu.Unlock()
	if nc == nil || !nc.IsConnected() {
		if trouble == nil {
			return nil, errNoConnection
		}
		return nil, fmt.Errorf("%w: %w", errNoConnection, trouble)
	}
	d := &discovery{
		began:    time.Now(),
		answered: map[string]*systemServer{},
		arrivals: make(chan *systemServer, systemServersMax),
		refused:  make(chan struct{}, 1),
	}
	request := nats.NewMsg(subjectServers)
	request.Reply = nc.NewInbox()
	acceptCompressed(request)
	var err error
	if d.listener, err = nc.Subscribe(request.Reply, func(m *nats.Msg) { r.hear(d, nc, m) }); err != nil {
		return nil, fmt.Errorf("ask who is there: %w", err)
	}

	r.mu.Lock()
	before := r.last
	r.last = d
	d.awaited = make(map[string]bool, len(before.answered))
	for id := range before.answered {
		d.awaited[id] = true
	}
	// One that has only begun has not heard all of them.
	d.certain = r.config.Expect > 0 || len(d.awaited) > 0 && d.began.Sub(before.began) > discoverMax
	r.mu.Unlock()

	if before.listener != nil {
		before.listener.Unsubscribe() // fails only if the connection is closed
	}
	if err := nc.PublishMsg(request); err != nil {
		return nil, fmt.Errorf("ask who is there: %w", err)
	}
	return d, nil
}

// hear takes an answer of a server.
func (r *systemReader) hear(d *discovery, nc *nats.Conn, m *nats.Msg) {
	if m.Header.Get("Status") == "503" {
		select {
		case d.refused <- struct{}{}:
		default:
		}
		return
	}
	s := &systemServer{nc: nc, limit: r.limits.responseBytes, hello: m}
	var err error
	if s.info, err = decodeAnswer(m, s.limit, nil); err != nil {
		r.log.Log(slog.LevelWarn, "answer", "NATS server answers what cannot be read",
			slog.String("target", r.Name()), slog.String("server", s.info.Name), slog.Any("err", err))
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if d.answered[s.info.ID] != nil {
		return
	}
	if len(d.answered) >= systemServersMax {
		r.log.Log(slog.LevelWarn, "many", "more NATS servers than are read",
			slog.String("target", r.Name()), slog.Int("limit", systemServersMax))
		return
	}
	d.answered[s.info.ID] = s
	if _, before := r.known[s.name()]; !before && s.info.Name == s.info.ID {
		r.log.Log(slog.LevelWarn, "nameless", "NATS server has no server_name: all its series are new ones with each start",
			slog.String("target", r.Name()), slog.String("id", s.info.ID), slog.String("host", s.info.Host))
	}
	r.known[s.name()] = knownServer{id: s.info.ID, answered: d.began}
	d.arrivals <- s
}

// each calls do for each server that answers, until all have that can be expected to, for discoverMax at most.
func (r *systemReader) each(ctx context.Context, d *discovery, do func(*systemServer)) error {
	ctx, cancel := context.WithTimeout(ctx, discoverMax)
	defer cancel()
	quiet := time.NewTimer(discoverMax)
	defer quiet.Stop()
	heard := 0
	for settled := d.certain; !settled || !r.complete(d, heard); {
		select {
		case s := <-d.arrivals:
			heard++
			do(s)
			quiet.Reset(discoverQuiet)
		case <-quiet.C:
			settled = true
		case <-d.refused:
			return errNotSystem
		case <-ctx.Done():
			if heard > 0 {
				return nil
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.trouble != nil {
				return fmt.Errorf("%w: %w", errNobody, r.trouble)
			}
			return errNobody
		}
	}
	return nil
}

// complete tells whether all have been heard that can be expected to answer.
func (r *systemReader) complete(d *discovery, heard int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if heard < max(1, len(d.answered), r.config.Expect) {
		return false
	}
	for id := range d.awaited {
		if d.answered[id] == nil {
			return false
		}
	}
	return true
}

// silent returns those that answered once and have not been heard this time. It forgets those that another has replaced.
func (r *systemReader) silent(heard map[serverName]bool, at time.Time) []*Server {
	r.mu.Lock()
	defer r.mu.Unlock()
	full := r.config.Expect > 0 && len(heard) >= r.config.Expect
	var silent []*Server
	for name, k := range r.known {
		switch {
		case heard[name]:
		case name.name == k.id: // which its next life will not have
			delete(r.known, name)
		case full, r.config.Expect == 0 && at.Sub(k.answered) > forgetAfter, len(r.known) > systemServersMax:
			delete(r.known, name)
		default:
			silent = append(silent, &Server{
				Cluster: name.cluster, Name: name.name, ID: k.id, At: at, Errors: map[Endpoint]error{Varz: errSilent},
			})
		}
	}
	return silent
}
