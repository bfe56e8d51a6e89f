package events

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/thalweg/thalweg/internal/telemetry"
)

// redisServer is a real one, on a free port.
type redisServer struct {
	t    testing.TB
	dir  string
	port string
	args []string
	cmd  *exec.Cmd
	done chan struct{}
}

func startRedis(t testing.TB, args ...string) *redisServer {
	t.Helper()
	s := &redisServer{t: t, dir: t.TempDir(), port: freePort(t), args: args}
	s.start()
	t.Cleanup(s.kill)
	return s
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func (s *redisServer) start() {
	s.t.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		s.t.Fatalf("%v; scripts/tools.sh installs it into .cache/tools/bin", err)
	}
	args := append([]string{"--port", s.port, "--bind", "127.0.0.1", "--dir", s.dir, "--save", "", "--loglevel", "warning"}, s.args...)
	s.cmd = exec.Command(program, args...)
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.done = make(chan struct{})
	go func() {
		defer close(s.done)
		_ = s.cmd.Wait() // it is killed
	}()
	until(s.t, func() string {
		c, err := net.Dial("tcp", s.addr())
		if err != nil {
			return err.Error()
		}
		defer c.Close()
		fmt.Fprint(c, "PING\r\n")
		line := make([]byte, 64)
		n, err := c.Read(line)
		if err != nil || !bytes.HasPrefix(line[:n], []byte("+PONG")) && !bytes.HasPrefix(line[:n], []byte("-NOAUTH")) {
			return fmt.Sprintf("PING answers %q, %v", line[:n], err)
		}
		return ""
	})
}

func (s *redisServer) addr() string { return "127.0.0.1:" + s.port }

// kill ends it as kill -9 does.
func (s *redisServer) kill() {
	_ = s.cmd.Process.Kill()
	<-s.done
}

// client is a connection of a sender.
func (s *redisServer) client() *redisConn {
	s.t.Helper()
	o, err := parseConnection(s.addr())
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := dialRedis(s.t.Context(), o, s.addr(), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.close() })
	return c
}

const queueKey = "prom-stream-gateway:metric-queue"

// push sends events as senders do.
func push(t testing.TB, c *redisConn, payloads ...string) {
	t.Helper()
	if _, err := c.do(append([]string{"LPUSH", queueKey}, payloads...)...); err != nil {
		t.Fatal(err)
	}
}

// until waits for a condition, which returns what is missing.
func until(t testing.TB, missing func() string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		why := missing()
		if why == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatal(why)
		}
	}
}

// running is a gateway that runs.
type running struct {
	*Gateway
	t       testing.TB
	cancel  context.CancelFunc
	stopped chan error
	health  *telemetry.Health
	log     bytes.Buffer // to be read behind stop
}

// quickTerms are those of replicas in tests.
var quickTerms = terms{beat: 50 * time.Millisecond, valid: 300 * time.Millisecond, patience: 500 * time.Millisecond}

func runGateway(t testing.TB, dir, address string, change func(*Config)) *running {
	t.Helper()
	c := DefaultConfig()
	redis := DefaultRedisConfig()
	redis.Address = address
	c.Redis = &redis
	if change != nil {
		change(&c)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	health := telemetry.NewHealth()
	r := &running{t: t, stopped: make(chan error, 1), health: health}
	logger := slog.New(slog.NewTextHandler(io.MultiWriter(t.Output(), &r.log), nil))
	g, err := Open(Options{Config: c, Dir: dir, Site: "s", Logger: logger, Condition: health.Condition("redis")})
	if err != nil {
		t.Fatal(err)
	}
	if redis.Replicas {
		g.terms = quickTerms
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.Gateway, r.cancel = g, cancel
	go func() { r.stopped <- g.Run(ctx) }()
	t.Cleanup(r.stop)
	return r
}

// stop ends it as SIGTERM does.
func (r *running) stop() {
	r.cancel()
	if r.stopped == nil {
		return
	}
	if err := <-r.stopped; err != nil {
		r.t.Error(err)
	}
	r.stopped = nil
	if err := r.Close(); err != nil {
		r.t.Error(err)
	}
}

// value is that of a counter without labels, -1 if there is none.
func (r *running) value(name string) float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.state.families[name]
	if f == nil {
		return -1
	}
	total := 0.0
	for _, m := range f.members {
		total += m.sum.total()
	}
	return total
}

func (r *running) waitFor(name string, want float64) {
	r.t.Helper()
	until(r.t, func() string {
		if got := r.value(name); got != want {
			return fmt.Sprintf("%s is %g, want %g", name, got, want)
		}
		return ""
	})
}

// waitForReady waits until events can be taken, or are by another replica.
func (r *running) waitForReady() {
	r.t.Helper()
	until(r.t, func() string {
		if !r.health.Ready() {
			return fmt.Sprintf("%+v", r.health.Conditions())
		}
		return ""
	})
}

// asked is how many commands the server has carried out, those of scripts included, but for those that tests send.
func (s *redisServer) asked(c *redisConn) (n int) {
	s.t.Helper()
	a, err := c.do("INFO", "commandstats")
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(a.text), "\r\n") {
		name, rest, ok := strings.Cut(line, ":calls=")
		switch strings.TrimPrefix(name, "cmdstat_") {
		case "info", "ping":
			continue
		}
		if !ok {
			continue
		}
		calls, _, _ := strings.Cut(rest, ",")
		k, err := strconv.Atoi(calls)
		if err != nil {
			s.t.Fatal(err)
		}
		n += k
	}
	return n
}

// waitForNoClaims waits until claims are deleted, which they are when they are in a checkpoint.
func waitForNoClaims(t *testing.T, c *redisConn) {
	t.Helper()
	until(t, func() string {
		a, err := c.do("KEYS", "*claim*[0-9]") // the lease stays
		if err != nil || len(a.list) > 0 {
			return fmt.Sprintf("%d claims are left: %v", len(a.list), err)
		}
		return ""
	})
}

// lossy is a proxy that sometimes lets a command through, but not its answer.
type lossy struct {
	addr    string
	dropped int
	mu      sync.Mutex
}

func startLossy(t *testing.T, server string, seed uint64) *lossy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &lossy{addr: l.Addr().String()}
	rng := rand.New(rand.NewPCG(seed, 1))
	var open sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		open.Wait()
	})
	open.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			after := 1 + rng.IntN(60)
			p.mu.Unlock()
			open.Go(func() { p.serve(c, server, after) })
		}
	})
	return p
}

// serve passes on answers until one is to be dropped.
func (p *lossy) serve(c net.Conn, server string, answers int) {
	defer c.Close()
	s, err := net.Dial("tcp", server)
	if err != nil {
		return
	}
	defer s.Close()
	go func() {
		_, _ = io.Copy(s, c)
		s.Close()
	}()
	buf := make([]byte, 64<<10)
	for range answers {
		n, err := s.Read(buf)
		if err != nil {
			return
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return
		}
	}
	if n, err := s.Read(buf); err == nil && n > 0 { // carried out, and nobody learns of it
		p.mu.Lock()
		p.dropped++
		p.mu.Unlock()
	}
}
