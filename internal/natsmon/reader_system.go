package natsmon

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/thalweg/thalweg/internal/telemetry"
)

const (
	// systemServersMax of a target are read; further ones are left out.
	systemServersMax = 1000
	// systemServersAtOnce are read, and the others after them: answers can be long.
	systemServersAtOnce = 8
	// systemParallel is how many questions a server is asked at a time. It answers one after the other.
	systemParallel = 2
	// systemConnectionsPerPage make a message of some 3 MiB, a tenth of that as it is sent. The server goes through all
	// connections for each page, but unlike HTTP, NATS carries it in one piece.
	systemConnectionsPerPage = 4096
	// forgetAfter is how long a server that is silent is reported as such, where nobody said how many there should be.
	forgetAfter = 24 * time.Hour
)

// systemReader reads all servers that a connection of a system account sees: those of its cluster, and of the clusters
// that gateways join to it. All are asked who is there; each that answers is then asked for the rest.
//
// A server that answered once and is silent now is returned with an error in place of its values, until one of its name
// answers.
type systemReader struct {
	config             SystemConfig
	compat             bool
	limits             limits
	connectionsPerPage int
	log                *telemetry.Repeats
	now                func() time.Time

	mu      sync.Mutex
	nc      *nats.Conn // nil until there was a connection
	trouble error      // of the connection, the last
	last    *discovery // the last one hears who is late
	known   map[serverName]knownServer
}

// serverName stays the same when a server is started anew, which its ID does not.
type serverName struct{ cluster, name string }

// knownServer has answered once.
type knownServer struct {
	id       string
	answered time.Time
}

func newSystemReader(c SystemConfig, compat bool, l limits, log *slog.Logger, now func() time.Time) *systemReader {
	return &systemReader{
		config:             c,
		compat:             compat,
		limits:             l,
		connectionsPerPage: systemConnectionsPerPage,
		log:                telemetry.NewRepeats(log, time.Minute),
		now:                now,
		last:               &discovery{},
		known:              map[serverName]knownServer{},
	}
}

// Name implements Reader. No two targets share a URL.
func (r *systemReader) Name() string { return r.config.URLs[0] }

// Read implements Reader. It reads servers while it waits for others to answer at all.
func (r *systemReader) Read(ctx context.Context) ([]*Server, error) {
	at := r.now()
	d, err := r.discover()
	if err != nil {
		return nil, err
	}
	var (
		readers sync.WaitGroup
		servers = make(chan *Server, systemServersMax)
		slots   = make(chan struct{}, systemServersAtOnce)
		heard   = map[serverName]bool{} // in time
	)
	err = r.each(ctx, d, func(s *systemServer) {
		heard[s.name()] = true
		readers.Go(func() {
			slots <- struct{}{} // free before long, for nobody reads after ctx
			servers <- r.read(ctx, s, at)
			<-slots
		})
	})
	readers.Wait()
	close(servers)
	if err != nil {
		return nil, err
	}
	read := r.silent(heard, at)
	for s := range servers {
		read = append(read, s)
	}
	return read, nil
}

// read asks one server for everything.
func (r *systemReader) read(ctx context.Context, from *systemServer, at time.Time) *Server {
	s := &Server{At: at, Cluster: from.info.Cluster, Name: from.info.Name, ID: from.info.ID, Domain: from.info.Domain}
	questions := []question{
		{Varz, func(context.Context) (func(*Server), error) {
			v := &server.Varz{}
			_, err := decodeAnswer(from.hello, from.limit, v)
			return func(s *Server) { s.identify(v) }, err
		}},
		{Healthz, func(ctx context.Context) (func(*Server), error) {
			h, err := from.health(ctx)
			return func(s *Server) { s.Health = h }, err
		}},
		{Connz, func(ctx context.Context) (func(*Server), error) {
			c, err := r.connections(ctx, from)
			return func(s *Server) { s.Connections = c }, err
		}},
		system(from, Routez, nil, func(s *Server, v *server.Routez) { s.Routes = v }),
		system(from, Gatewayz, nil, func(s *Server, v *server.Gatewayz) { s.Gateways = v }),
		system(from, Leafz, nil, func(s *Server, v *server.Leafz) { s.Leafs = v }),
		system(from, Subsz, nil, func(s *Server, v *server.Subsz) { s.Subscriptions = v }),
		system(from, Accstatz, nil, func(s *Server, v *server.AccountStatz) { s.Accounts = v }),
		{Jsz, func(ctx context.Context) (func(*Server), error) {
			j, err := readJetStream(r.limits.accounts, func(o server.JSzOptions) (*server.JSInfo, error) {
				return ask[server.JSInfo](ctx, from, Jsz, o)
			})
			return func(s *Server) { s.JetStream = j }, err
		}},
	}
	if r.compat {
		questions = append(questions, question{Accountz, func(ctx context.Context) (func(*Server), error) {
			a, err := readAccountLimits(r.limits.accounts, func(account string) (*server.Accountz, error) {
				return ask[server.Accountz](ctx, from, Accountz, server.AccountzOptions{Account: account})
			})
			return func(s *Server) { s.AccountLimits = a }, err
		}})
	}
	askAll(ctx, s, systemParallel, questions)
	return s
}

// system makes a question of a request to a server.
func system[T any](from *systemServer, endpoint Endpoint, options any, fill func(*Server, *T)) question {
	return question{endpoint, func(ctx context.Context) (func(*Server), error) {
		v, err := ask[T](ctx, from, endpoint, options)
		return func(s *Server) { fill(s, v) }, err
	}}
}

// connections sums up the connections of a server.
func (r *systemReader) connections(ctx context.Context, from *systemServer) (*Connections, error) {
	return readConnections(r.connectionsPerPage, func(sum *Connections, offset, limit int) (int, error) {
		page := connectionsPage{sum: sum}
		err := from.ask(ctx, Connz, server.ConnzOptions{Offset: offset, Limit: limit}, &page)
		return page.n, err
	})
}

// connectionsPage adds a page to a sum when it is decoded.
type connectionsPage struct {
	sum *Connections
	n   int // connections of the page
}

// UnmarshalJSON implements json.Unmarshaler.
func (p *connectionsPage) UnmarshalJSON(b []byte) (err error) {
	p.n, err = p.sum.decode(bytes.NewReader(b))
	return err
}
