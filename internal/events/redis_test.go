package events

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
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
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	s := &redisServer{t: t, dir: t.TempDir(), port: port, args: args}
	s.start()
	t.Cleanup(s.kill)
	return s
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

const queue = "prom-stream-gateway:metric-queue"

// push sends events as senders do.
func push(t testing.TB, c *redisConn, payloads ...string) {
	t.Helper()
	if _, err := c.do(append([]string{"LPUSH", queue}, payloads...)...); err != nil {
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
}

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
	g, err := Open(Options{Config: c, Dir: dir, Site: "s", Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), Condition: health.Condition("redis")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Gateway: g, t: t, cancel: cancel, stopped: make(chan error, 1), health: health}
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

// waitForNoClaims waits until claims are deleted, which they are when they are in a checkpoint.
func waitForNoClaims(t *testing.T, c *redisConn) {
	t.Helper()
	until(t, func() string {
		a, err := c.do("KEYS", "*claim*")
		if err != nil || len(a.list) > 0 {
			return fmt.Sprintf("%d claims are left: %v", len(a.list), err)
		}
		return ""
	})
}

func TestRedis(t *testing.T) {
	s := startRedis(t)
	c := s.client()
	push(t, c, `{"name":"before","value":2}`, `not json`, `{"name":"g","type":"gauge","value":1}`, `{"name":"g","type":"gauge","value":2}`)
	r := runGateway(t, t.TempDir(), s.addr(), func(c *Config) { c.Redis.DeadLetterKey = "dead" })
	r.waitFor("before", 2)
	r.waitFor("g", 2) // in the order in which they were sent
	until(t, func() string {
		if !r.health.Ready() {
			return "not ready"
		}
		return ""
	})
	for i := range 20 { // out of an idle wait
		push(t, c, `{"name":"after","value":1}`)
		r.waitFor("after", float64(i+1))
	}
	until(t, func() string {
		a, err := c.do("LRANGE", "dead", "0", "-1")
		if err != nil || len(a.list) != 1 || string(a.list[0].text) != "not json" {
			return fmt.Sprintf("dead letters are %v, %v", a.list, err)
		}
		return ""
	})
	waitForNoClaims(t, c)
	r.mu.Lock()
	defer r.mu.Unlock()
	processed, dropped := 0.0, 0.0
	for _, w := range r.meta.workers {
		processed, dropped = processed+w.processed, dropped+w.dropped
	}
	if len(r.meta.workers) != 2 || processed != 23 || dropped != 1 {
		t.Errorf("%d workers processed %g and dropped %g", len(r.meta.workers), processed, dropped)
	}
}

// An idle gateway asks little, and counts waits that end without an event.
func TestRedisIdle(t *testing.T) {
	s := startRedis(t)
	c := s.client()
	r := runGateway(t, t.TempDir(), s.addr(), nil)
	pops := func() (n float64) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, w := range r.meta.workers {
			n += w.emptyPops
		}
		return n
	}
	until(t, func() string {
		if pops() == 0 {
			return "no empty pop"
		}
		return ""
	})
	a, err := c.do("INFO", "commandstats")
	if err != nil {
		t.Fatal(err)
	}
	calls := 0
	for line := range strings.SplitSeq(string(a.text), "\r\n") {
		if _, rest, ok := strings.Cut(line, "calls="); ok && !strings.Contains(line, "info") && !strings.Contains(line, "ping") {
			n, _, _ := strings.Cut(rest, ",")
			k, err := strconv.Atoi(n)
			if err != nil {
				t.Fatal(err)
			}
			calls += k
		}
	}
	// Connecting, of two connections, and one wait of 5 s.
	if calls > 16 {
		t.Errorf("%d commands: %s", calls, a.text)
	}
}

func TestRedisDownAndUp(t *testing.T) {
	s := startRedis(t, "--appendonly", "yes", "--appendfsync", "always")
	s.kill()
	dir := t.TempDir()
	r := runGateway(t, dir, s.addr(), nil)
	until(t, func() string {
		if list := r.health.Conditions(); list[0].Ready || !strings.Contains(list[0].Reason, "no events can be taken from Redis") {
			return fmt.Sprintf("%+v", list)
		}
		return ""
	})
	s.start()
	push(t, s.client(), `{"name":"a","value":1}`)
	r.waitFor("a", 1)
	s.kill()
	s.start()
	push(t, s.client(), `{"name":"a","value":1}`)
	r.waitFor("a", 2)
}

func TestRedisRefusesOtherKeys(t *testing.T) {
	s := startRedis(t)
	c := s.client()
	if _, err := c.do("SET", queue, "precious"); err != nil {
		t.Fatal(err)
	}
	r := runGateway(t, t.TempDir(), s.addr(), nil)
	until(t, func() string {
		if list := r.health.Conditions(); !strings.Contains(list[0].Reason, "is a string, not a list") {
			return fmt.Sprintf("%+v", list)
		}
		return ""
	})
	if a, err := c.do("GET", queue); err != nil || string(a.text) != "precious" {
		t.Errorf("the key holds %q: %v", a.text, err)
	}
}

func TestRedisPassword(t *testing.T) {
	s := startRedis(t, "--requirepass", "secret")
	r := runGateway(t, t.TempDir(), s.addr()+",password=secret,abortConnect=false,defaultDatabase=3", nil)
	until(t, func() string {
		if !r.health.Ready() {
			return fmt.Sprintf("%+v", r.health.Conditions())
		}
		return ""
	})
	w := runGateway(t, t.TempDir(), s.addr()+",password=wrong", nil)
	until(t, func() string {
		if list := w.health.Conditions(); !strings.Contains(list[0].Reason, "log in") {
			return fmt.Sprintf("%+v", list)
		}
		return ""
	})
}

// Two gateways of one queue together have everything once.
func TestRedisSeveralGateways(t *testing.T) {
	s := startRedis(t)
	c := s.client()
	a, b := runGateway(t, t.TempDir(), s.addr(), nil), runGateway(t, t.TempDir(), s.addr(), nil)
	const n = 3000
	for range n {
		push(t, c, `{"name":"a","value":1}`)
	}
	until(t, func() string {
		if got := max(a.value("a"), 0) + max(b.value("a"), 0); got != n {
			return fmt.Sprintf("together they have %g", got)
		}
		return ""
	})
}

// A state that is lost or damaged does not lose what had been claimed.
func TestRedisAdoptsClaims(t *testing.T) {
	s := startRedis(t)
	c := s.client()
	dir := t.TempDir()
	r := runGateway(t, dir, s.addr(), nil)
	push(t, c, `{"name":"a","value":1}`)
	r.waitFor("a", 1)
	waitForNoClaims(t, c)
	r.stop()
	id, err := os.ReadFile(filepath.Join(dir, "id"))
	if err != nil {
		t.Fatal(err)
	}
	claim := "{" + queue + "}:claim:" + strings.TrimSpace(string(id)) + ":77"
	if _, err := c.do("LPUSH", claim, `{"name":"claimed","value":5}`); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"+stateSuffix))
	if err != nil || len(files) != 1 {
		t.Fatalf("files are %v: %v", files, err)
	}
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	push(t, c, `{"name":"a","value":1}`)
	r = runGateway(t, dir, s.addr(), nil)
	r.waitFor("claimed", 5)
	r.waitFor("a", 1)
}

// Redis may lose what was claimed, but that stops nothing.
func TestRedisLosesClaims(t *testing.T) {
	s := startRedis(t)
	c := s.client()
	dir := t.TempDir()
	r := runGateway(t, dir, s.addr(), nil)
	push(t, c, `{"name":"a","value":1}`)
	r.waitFor("a", 1)
	waitForNoClaims(t, c)
	r.stop()

	x := open(t, dir, withRedis) // as if it had been stopped within a claim, of which less is left
	x.state.position.offset, x.changed = 5, true
	seq := x.state.position.seq
	x.save()
	x.crash()
	id, err := os.ReadFile(filepath.Join(dir, "id"))
	if err != nil {
		t.Fatal(err)
	}
	claim := fmt.Sprintf("{%s}:claim:%s:%d", queue, strings.TrimSpace(string(id)), seq)
	if _, err := c.do("LPUSH", claim, `{"name":"a","value":1}`, `{"name":"a","value":1}`); err != nil {
		t.Fatal(err)
	}
	push(t, c, `{"name":"b","value":1}`)
	r = runGateway(t, dir, s.addr(), nil)
	r.waitFor("b", 1)
	r.waitFor("a", 1)
	waitForNoClaims(t, c)
	if r.replaying.Load() {
		t.Error("the replay has no end")
	}
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

func TestRedisDroppedAnswers(t *testing.T) {
	s := startRedis(t)
	c := s.client()
	p := startLossy(t, s.addr(), 7)
	r := runGateway(t, t.TempDir(), p.addr, nil)
	const n = 20_000
	rng := rand.New(rand.NewPCG(1, 2))
	for sent := 0; sent < n; {
		k := min(1+rng.IntN(200), n-sent)
		var payloads []string
		for range k {
			payloads = append(payloads, `{"name":"a","value":1}`)
		}
		push(t, c, payloads...)
		sent += k
	}
	push(t, c, `{"name":"end"}`)
	r.waitFor("end", 0)
	for i := range 30 { // out of idle waits
		push(t, c, `{"name":"a","value":1}`)
		r.waitFor("a", n+float64(i)+1)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dropped == 0 {
		t.Error("no answer was dropped")
	}
}

// TestRedisKilled kills a process with a gateway again and again, at any moment, while events are sent.
func TestRedisKilled(t *testing.T) {
	if dir := os.Getenv("THALWEG_TEST_EVENTS_DIR"); dir != "" {
		runGateway(t, dir, os.Getenv("THALWEG_TEST_EVENTS_REDIS"), nil)
		<-t.Context().Done() // until it is killed
		return
	}
	kills := 25
	if testing.Short() {
		kills = 5
	}
	s := startRedis(t)
	c := s.client()
	dir := t.TempDir()
	sent := 0
	rng := rand.New(rand.NewPCG(5, 6))
	for range kills {
		cmd := exec.Command(os.Args[0], "-test.run=^TestRedisKilled$")
		cmd.Env = append(os.Environ(), "THALWEG_TEST_EVENTS_DIR="+dir, "THALWEG_TEST_EVENTS_REDIS="+s.addr())
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		end := time.Now().Add(time.Duration(50+rng.IntN(900)) * time.Millisecond)
		for time.Now().Before(end) {
			payloads := make([]string, 1+rng.IntN(500))
			for i := range payloads {
				payloads[i] = fmt.Sprintf(`{"name":"a","value":1,"labels":{"i":"%d"}}`, rng.IntN(50))
			}
			push(t, c, payloads...)
			sent += len(payloads)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the gateway ended by itself")
		}
	}
	push(t, c, `{"name":"end"}`)
	r := runGateway(t, dir, s.addr(), nil)
	r.waitFor("end", 0)
	if got := r.value("a"); got != float64(sent) {
		t.Errorf("%g of %d events count", got, sent)
	}
	if r.replaying.Load() {
		t.Error("the replay has no end")
	}
}

func TestConnectionStrings(t *testing.T) {
	f := func(s, want string) {
		t.Helper()
		c, err := parseConnection(s)
		got := fmt.Sprint(err)
		if err == nil {
			got = fmt.Sprintf("%v %s/%s tls:%t%s db:%d %s %s", c.endpoints, c.user, c.password, c.tls, c.tlsHost, c.database, c.timeout, c.connectTimeout)
		}
		if got != want {
			t.Errorf("%q is %s, want %s", s, got, want)
		}
	}
	f("localhost:6379", "[localhost:6379] / tls:false db:0 5s 5s")
	f("a, b:7000", "[a:6379 b:7000] / tls:false db:0 5s 5s")
	f("a,Ssl=True,password=x=y,user=u,sslHost=h", "[a:6380] u/x=y tls:trueh db:0 5s 5s")
	f("a:1,abortConnect=false,defaultDatabase=2,syncTimeout=100,connectTimeout=50,name=n", "[a:1] / tls:false db:2 100ms 50ms")
	f("[::1]:6379,::1", "[[::1]:6379 [::1]:6379] / tls:false db:0 5s 5s")
	f("", "names no HOST:PORT")
	f("a:b", `"a:b" is not HOST:PORT`)
	f("redis://a", "is a URL; write HOST:PORT")
	f("a,serviceName=mymaster", "option servicename of StackExchange.Redis is not there")
	f("a,ssl=maybe", `option ssl: "maybe" is neither true nor false`)
	f("a,syncTimeout=x", `option synctimeout: "x" is no number of milliseconds`)
}

func TestRedisProtocol(t *testing.T) {
	f := func(text string) error {
		a, b := net.Pipe()
		defer a.Close()
		go func() {
			defer b.Close()
			_, _ = io.WriteString(b, text)
		}()
		c := newRedisConn(a, time.Second)
		return c.receivePage(&page{}, 100)
	}
	for _, bad := range []string{"*1\r\n$3\r\nab", "*1\r\n:3\r\n", "+OK\r\n", "*x\r\n", "*1\r\n$3\r\nabcde", "*1\r\n$9999999999\r\n", "\n"} {
		if err := f(bad); err == nil {
			t.Errorf("%q is a page", bad)
		}
	}
	if err := f("-ERR no\r\n"); !isRedisError(err) || err.Error() != "ERR no" {
		t.Errorf("an error is %v", err)
	}
	if err := f("*2\r\n$2\r\nab\r\n$0\r\n\r\n"); err != nil {
		t.Error(err)
	}
	long := "*2\r\n$150\r\n" + strings.Repeat("x", 150) + "\r\n$2\r\nab\r\n"
	a, b := net.Pipe()
	defer a.Close()
	go func() {
		defer b.Close()
		_, _ = io.WriteString(b, long)
	}()
	var p page
	if err := newRedisConn(a, time.Second).receivePage(&p, 100); err != nil || len(p.at(0)) != 101 || string(p.at(1)) != "ab" {
		t.Errorf("%v, %d bytes and %q", err, len(p.at(0)), p.at(1))
	}
	if !errors.Is(f("*1\r\n$2\r\nabcd"), errRESP) {
		t.Error("a string without an end is taken")
	}
}
