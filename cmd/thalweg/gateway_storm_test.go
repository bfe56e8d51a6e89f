package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// stormTime is how long things go wrong in TestGatewayStorm.
const stormTime = 12 * time.Second

// TestGatewayStorm kills a gateway beside an edge, its Redis (which syncs every command) and the hub again and again, at
// any moment, while senders push to that Redis and post by HTTP. What the senders and the gateway ask Redis goes through a
// proxy that now and then lets a command pass but not its answer. No page ever shows less than an earlier one, and in the
// end the sums at the gateway and at the hub are exact.
func TestGatewayStorm(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	s := newGatewayStorm(t, seed)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var senders, watchers sync.WaitGroup
	for i := range uint64(3) {
		senders.Go(func() { s.send(ctx, fmt.Sprint("redis", i), rand.New(rand.NewPCG(seed, 1+i)), s.push) })
	}
	senders.Go(func() { s.send(ctx, "http", rand.New(rand.NewPCG(seed, 4)), s.post) })
	watchers.Go(func() { s.watch(ctx, s.page()) })
	watchers.Go(func() { s.watch(ctx, s.federate()) })
	rng := rand.New(rand.NewPCG(seed, 0))
	victims := []*stormProcess{s.gateway, s.gateway, s.redis, s.hub}
	for end := time.Now().Add(stormTime); time.Now().Before(end); {
		<-time.After(time.Duration(rng.IntN(800)) * time.Millisecond)
		victim := victims[rng.IntN(len(victims))]
		victim.kill()
		victim.start()
	}
	s.calm.Store(true)
	senders.Wait()
	eventuallyTrue(t, s.queueEmpty)
	if got := s.shown(s.page()); !maps.Equal(got, s.sent) {
		t.Errorf("the gateway shows %v, sent were %v", got, s.sent)
	}
	eventuallyTrue(t, func() bool { return maps.Equal(s.shown(s.federate()), s.sent) })
	s.gateway.kill()
	s.gateway.start()
	eventuallyTrue(t, func() bool { return maps.Equal(s.shown(s.page()), s.sent) })
	stop()
	watchers.Wait()
	t.Logf("%v; %d answers of Redis were dropped, processes were killed %d, %d and %d times", s.sent, s.dropped.Load(), s.gateway.kills, s.redis.kills, s.hub.kills)
	if s.dropped.Load() == 0 {
		t.Error("no answer was dropped")
	}
}

// gatewayStorm is all that is in it.
type gatewayStorm struct {
	t                   *testing.T
	redis, gateway, hub *stormProcess
	// addresses of Redis itself, of the proxy before it, and of the web listeners
	redisAddress, proxyAddress, gatewayAddress, hubAddress string

	dropped atomic.Int64 // answers of Redis
	calm    atomic.Bool  // nothing goes wrong any more, and senders end

	mu   sync.Mutex
	sent map[string]string // sums by series, as pages have them
}

func newGatewayStorm(t *testing.T, seed uint64) *gatewayStorm {
	s := &gatewayStorm{t: t, sent: map[string]string{}}
	dir, ports := t.TempDir(), newPorts()
	address := func() string {
		l, err := ports.listen()
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}
	file := func(name, content string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	nats := address()
	s.redisAddress, s.gatewayAddress, s.hubAddress = address(), address(), address()
	s.proxyAddress = s.proxy(seed)
	_, port, _ := net.SplitHostPort(s.redisAddress)
	hub := file("hub.yml", fmt.Sprintf("{site: hub, data_dir: hub, nats: {embedded: {listen: %q}}, hub: {}}", nats))
	gateway := file("gateway.yml", fmt.Sprintf("{site: s, data_dir: edge, global: {scrape_interval: 1s, scrape_timeout: 1s}, "+
		"nats: {urls: [%q]}, edge: {flush_interval: 100ms}, gateway: {redis: {address: %q}}}", "nats://"+nats, s.proxyAddress+",syncTimeout=500"))
	start := func(name string, program ...string) *stormProcess {
		p := &stormProcess{t: t, name: filepath.Join(dir, name), program: program}
		p.start()
		t.Cleanup(p.kill)
		return p
	}
	s.redis = start("redis", "redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", dir, "--save", "", "--appendonly", "yes", "--appendfsync", "always")
	s.hub = start("hub", "thalweg", "run", "--config.file="+hub, "--web.listen-address="+s.hubAddress)
	s.gateway = start("gateway", "thalweg", "run", "--config.file="+gateway, "--web.listen-address="+s.gatewayAddress)
	return s
}

// stormProcess is a process over all its lives. Only one goroutine at a time uses it.
type stormProcess struct {
	t       *testing.T
	name    string // of its log, and its directory
	program []string
	cmd     *exec.Cmd
	kills   int
}

func (p *stormProcess) start() {
	log, err := os.OpenFile(p.name+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.cmd = exec.Command(p.program[0], p.program[1:]...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = filepath.Dir(p.name), log, log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
}

// kill ends it as kill -9 does.
func (p *stormProcess) kill() {
	_ = p.cmd.Process.Kill()
	if err := p.cmd.Wait(); p.cmd.ProcessState.ExitCode() >= 0 {
		p.t.Errorf("%s ended by itself: %v", p.name, err)
	}
	p.kills++
	if text, err := os.ReadFile(p.name + ".log"); p.t.Failed() && err == nil {
		p.t.Logf("%s:\n%s", p.name, text[max(0, len(text)-4000):])
	}
}

// proxy passes on what comes and goes, until it drops an answer. It returns its address.
func (s *gatewayStorm) proxy(seed uint64) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(seed, 5))
	var open sync.WaitGroup
	s.t.Cleanup(func() {
		l.Close()
		open.Wait()
	})
	open.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			answers := rng.IntN(50)
			open.Go(func() { s.pass(client, answers) })
		}
	})
	return l.Addr().String()
}

// pass passes on so many answers, and drops the next one.
func (s *gatewayStorm) pass(client net.Conn, answers int) {
	defer client.Close()
	server, err := net.Dial("tcp", s.redisAddress)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		_, _ = io.Copy(server, client)
		server.Close()
	}()
	buf := make([]byte, 64<<10)
	for ; answers > 0 || s.calm.Load(); answers-- {
		n, err := server.Read(buf)
		if err != nil {
			return
		}
		if _, err := client.Write(buf[:n]); err != nil {
			return
		}
	}
	if n, err := server.Read(buf); err == nil && n > 0 { // carried out, and nobody learns of it
		s.dropped.Add(1)
	}
}

// send sends lists of events, each until it is known to be taken, as long as things go wrong.
func (s *gatewayStorm) send(ctx context.Context, sender string, rng *rand.Rand, deliver func(payload string) error) {
	counters, observations, n := [3]int{}, 0, 0
	for !s.calm.Load() {
		var events []string
		for range 1 + rng.IntN(20) {
			n++
			if rng.IntN(4) == 0 {
				observations++
				events = append(events, fmt.Sprintf(`{"type":"histogram","name":"storm_seconds","value":1,"buckets":[2],"labels":{"sender":"%s"},"id":"%s/%d"}`, sender, sender, n))
				continue
			}
			i, v := rng.IntN(len(counters)), 1+rng.IntN(9)
			counters[i] += v
			events = append(events, fmt.Sprintf(`{"name":"storm_total","value":%d,"labels":{"sender":"%s","i":"%d"},"id":"%s/%d"}`, v, sender, i, sender, n))
		}
		payload := "[" + strings.Join(events, ",") + "]"
		for end := time.Now().Add(patience); ; {
			err := deliver(payload)
			if err == nil {
				break
			}
			if ctx.Err() != nil || time.Now().After(end) {
				s.t.Errorf("%s cannot send: %v", sender, err)
				return
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, sum := range counters {
		s.sent[fmt.Sprintf(`{__name__="storm_total", i="%d", sender="%s"}`, i, sender)] = strconv.Itoa(sum)
	}
	s.sent[fmt.Sprintf(`{__name__="storm_seconds_count", sender="%s"}`, sender)] = strconv.Itoa(observations)
}

const stormQueue = "prom-stream-gateway:metric-queue"

// stormTimeout bounds what senders wait for.
const stormTimeout = time.Second

// push has Redis take a payload over a connection of its own.
func (s *gatewayStorm) push(payload string) error {
	answer, err := askRedis(s.proxyAddress, "LPUSH", stormQueue, payload)
	if err == nil && !strings.HasPrefix(answer, ":") {
		err = errors.New(answer)
	}
	return err
}

// askRedis returns the first line of an answer.
func askRedis(address string, args ...string) (string, error) {
	conn, err := net.DialTimeout("tcp", address, stormTimeout)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(stormTimeout)); err != nil {
		return "", err
	}
	var command bytes.Buffer
	fmt.Fprintf(&command, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&command, "$%d\r\n%s\r\n", len(a), a)
	}
	if _, err := conn.Write(command.Bytes()); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimRight(line, "\r\n"), err
}

func (s *gatewayStorm) post(payload string) error {
	client := http.Client{Timeout: 5 * stormTimeout}
	answer, err := client.Post("http://"+s.gatewayAddress+"/api/v1/events", "application/json", strings.NewReader(payload))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status)
	}
	return nil
}

// queueEmpty reports whether neither events nor claims are left in Redis.
func (s *gatewayStorm) queueEmpty() bool {
	answer, err := askRedis(s.redisAddress, "EVAL", "return redis.call('llen', ARGV[1]) + #redis.call('keys', '*:claim:*:[0-9]*')", "0", stormQueue)
	return err == nil && answer == ":0"
}

func (s *gatewayStorm) page() string     { return "http://" + s.gatewayAddress + "/gateway/metrics" }
func (s *gatewayStorm) federate() string { return federateURL(s.hubAddress, `{__name__=~"storm_.*"}`) }

// shown returns the sums that a page shows, nil if there is none.
func (s *gatewayStorm) shown(url string) map[string]string {
	code, body, err := request("GET", url)
	if err != nil || code != http.StatusOK {
		return nil
	}
	values, err := exposition(body)
	if err != nil {
		s.t.Error(err)
	}
	maps.DeleteFunc(values, func(series, _ string) bool {
		return !strings.Contains(series, `"storm_total"`) && !strings.Contains(series, `"storm_seconds_count"`)
	})
	return values
}

// watch sees to it that no sum on a page becomes less.
func (s *gatewayStorm) watch(ctx context.Context, url string) {
	most := map[string]float64{}
	for ctx.Err() == nil {
		for series, value := range s.shown(url) {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil || v < most[series] {
				s.t.Errorf("%s of %s is %s, and was %g", series, url, value, most[series])
			}
			most[series] = v
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}
