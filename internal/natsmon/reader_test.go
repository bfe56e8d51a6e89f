package natsmon

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// startServer runs a server of a configuration, besides free ports of loopback for clients and monitoring.
func startServer(t testing.TB, text string) *server.Server {
	t.Helper()
	o := &server.Options{}
	if err := o.ProcessConfigString("server_name: test\n" + text); err != nil {
		t.Fatal(err)
	}
	if o.Port == 0 {
		o.Port = server.RANDOM_PORT
	}
	o.Host, o.NoLog, o.NoSigs = "127.0.0.1", true, true
	if o.HTTPPort == 0 && o.HTTPSPort == 0 {
		o.HTTPHost, o.HTTPPort = "127.0.0.1", server.RANDOM_PORT
	}
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server is not ready")
	}
	return s
}

// storeOf is the configuration of JetStream with a directory of the test.
func storeOf(t testing.TB) string { return fmt.Sprintf("jetstream: {store_dir: %q}\n", t.TempDir()) }

func monitorURL(s *server.Server) string { return "http://" + s.MonitorAddr().String() }

// connect connects n clients.
func connect(t testing.TB, s *server.Server, n int, options ...nats.Option) []*nats.Conn {
	t.Helper()
	list := make([]*nats.Conn, n)
	for i := range list {
		nc, err := nats.Connect(s.ClientURL(), options...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		list[i] = nc
	}
	return list
}

// connectInProcess connects as this program does to its own server.
func connectInProcess(t testing.TB, s *server.Server) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func embeddedOf(s *server.Server) *embeddedReader {
	return newEmbeddedReader(s, "", false, defaultLimits(), time.Now)
}

func httpOf(t testing.TB, c ServerConfig) *httpReader {
	t.Helper()
	r, err := newHTTPReader(c, false, defaultLimits(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.client.CloseIdleConnections)
	return r
}

// readOne reads a target of one server, all of which has to answer.
func readOne(t testing.TB, r Reader) *Server {
	t.Helper()
	servers, err := r.Read(t.Context())
	if err != nil || len(servers) != 1 {
		t.Fatalf("read %d servers, %v", len(servers), err)
	}
	for endpoint, err := range servers[0].Errors {
		t.Errorf("%s: %v", endpoint, err)
	}
	return servers[0]
}

// exporterFor runs an Exporter as a user would configure it.
func exporterFor(t testing.TB, embedded *server.Server, c Config) *Exporter {
	t.Helper()
	e, err := New(Options{Config: c, Embedded: embedded, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = e.Run(ctx) }) // has no errors
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return e
}
