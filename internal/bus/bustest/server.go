package bustest

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/units"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/natsd"
)

// deadline of everything that is waited for.
const deadline = 30 * time.Second

// WaitFor polls until the condition holds, and fails the test if it does not within half a minute.
func WaitFor(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("timed out waiting for %s", what)
		}
	}
}

// Server is an embedded server that can be stopped and started again on the same port and directory.
type Server struct {
	*natsd.Server
	Options natsd.Options
	t       testing.TB
	stop    func() // nil while it does not run
}

// NewServer starts a server; the functions change its options before.
func NewServer(t testing.TB, change ...func(*natsd.Options)) *Server {
	t.Helper()
	s := &Server{t: t, Options: options(t)}
	for _, f := range change {
		f(&s.Options)
	}
	s.Start()
	t.Cleanup(s.Stop)
	return s
}

func options(t testing.TB) natsd.Options {
	cfg := natsd.DefaultConfig()
	cfg.Listen = "127.0.0.1:0"
	return natsd.Options{
		Config:   cfg,
		StoreDir: filepath.Join(t.TempDir(), "nats"),
		Root:     bus.DefaultRoot,
		Stream:   StreamConfig(),
		Logger:   Logger(t),
	}
}

// StreamConfig is small enough for tests.
func StreamConfig() bus.StreamConfig {
	c := bus.DefaultStreamConfig()
	c.MaxBytes = 64 * units.MiB
	return c
}

// Config is that of a client of the given servers.
func Config(urls ...string) bus.Config {
	c := bus.DefaultConfig()
	c.URLs = urls
	c.Stream = StreamConfig()
	return c
}

// Logger writes to the test's output, debug messages included.
func Logger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// Addr is the host and port of the server, the same over restarts.
func (s *Server) Addr() string { return s.Options.Config.Listen }

// URL of the server, the same over restarts.
func (s *Server) URL() string { return "nats://" + s.Addr() }

// Start starts a stopped server.
func (s *Server) Start() {
	s.t.Helper()
	server, err := natsd.Start(s.Options)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	s.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			s.t.Error(err)
		}
	}
	s.Server = server
	s.Options.Config.Listen = server.Addr().String()
}

// Stop stops the server if it runs.
func (s *Server) Stop() {
	if s.stop != nil {
		s.stop()
		s.stop = nil
	}
}

// CopyStore copies the directory of a stopped server.
func (s *Server) CopyStore() (dir string) {
	s.t.Helper()
	dir = filepath.Join(s.t.TempDir(), "copy")
	if err := os.CopyFS(dir, os.DirFS(s.Options.StoreDir)); err != nil {
		s.t.Fatal(err)
	}
	return dir
}

// RestoreStore puts a copy in the place of a stopped server's directory.
func (s *Server) RestoreStore(dir string) {
	s.t.Helper()
	if err := os.RemoveAll(s.Options.StoreDir); err != nil {
		s.t.Fatal(err)
	}
	if err := os.CopyFS(s.Options.StoreDir, os.DirFS(dir)); err != nil {
		s.t.Fatal(err)
	}
}

// NewCluster starts three servers that form a cluster; the functions change the options of the server with that index.
func NewCluster(t testing.TB, change ...func(i int, o *natsd.Options)) []*Server {
	t.Helper()
	const size = 3
	addresses := freeAddresses(t, size)
	routes := "nats://" + strings.Join(addresses, ", nats://")
	servers := make([]*Server, size)
	for i, address := range addresses {
		s := &Server{t: t, Options: options(t)}
		file := filepath.Join(t.TempDir(), "nats.conf")
		text := fmt.Sprintf("server_name: n%d\ncluster {name: test, listen: %q, routes: [%s]}\n", i+1, address, routes)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s.Options.Config.ConfigFile = file
		for _, f := range change {
			f(i, &s.Options)
		}
		s.Start()
		t.Cleanup(s.Stop)
		servers[i] = s
	}
	return servers
}

// freeAddresses finds some that servers must know of each other before they run. They are of a loopback address that
// nothing else uses, where there are many: nobody takes them while a server is down.
func freeAddresses(t testing.TB, n int) (addresses []string) {
	t.Helper()
	host := "127.0.0.1"
	if runtime.GOOS == "linux" {
		host = fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	}
	for range n {
		l, err := net.Listen("tcp", host+":0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		addresses = append(addresses, l.Addr().String())
	}
	return addresses
}

// Connect makes a connection that ends with the test, and does not wait for it.
func Connect(t testing.TB, o bus.Options) *bus.Conn {
	t.Helper()
	if o.Logger == nil {
		o.Logger = Logger(t)
	}
	if o.Name == "" {
		o.Name = "test"
	}
	c, err := bus.Connect(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// Connected is Connect, and waits for the connection.
func Connected(t testing.TB, o bus.Options) *bus.Conn {
	t.Helper()
	c := Connect(t, o)
	WaitFor(t, "connection", func() bool { return c.State().Connected })
	return c
}

// Hub is a connection with the rights of a hub to a server without tokens, and the stream made.
func Hub(t testing.TB, s *Server) *bus.Conn {
	t.Helper()
	c := Connected(t, bus.Options{Config: Config(s.URL())})
	EnsureStream(t, c)
	return c
}

// EnsureStream repeats until the stream is there.
func EnsureStream(t testing.TB, c *bus.Conn) {
	t.Helper()
	WaitFor(t, "stream", func() bool {
		_, err := c.EnsureStream(t.Context())
		return err == nil
	})
}

// LeadsCluster reports whether the server runs and leads its cluster.
func (s *Server) LeadsCluster() bool { return s.stop != nil && s.Server.LeadsCluster() }

// LeadsStream reports whether the server runs and leads the stream.
func (s *Server) LeadsStream(name string) bool { return s.stop != nil && s.Server.LeadsStream(name) }
