package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	client "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/push"

	"github.com/thalweg/thalweg/internal/events"
)

// typicalEvent is one of 160 bytes with five labels.
const typicalEvent = `{"type":"counter","name":"http_requests_total","value":3,"labels":{"instance":"web-17","job":"shop","region":"eu-west-1","method":"GET","status":"200"}}`

// BenchmarkEventParse reports what it takes to read an event (ns/event), without any allocation.
func BenchmarkEventParse(b *testing.B) {
	var p events.Parser
	payload := []byte(typicalEvent)
	p.Parse(payload) // what it needs is there
	b.ReportAllocs()
	for b.Loop() {
		if list, ok := p.Parse(payload); !ok || len(list) != 1 {
			b.Fatal("it is not read")
		}
	}
	b.ReportMetric(float64(b.Elapsed())/float64(b.N), "ns/event")
	b.ReportMetric(0, "ns/op")
}

const eventsQueued = 300_000

// BenchmarkEvents reports how many events a second a core of the gateway's process takes out of a Redis list (events/s),
// the CPU time of everything but Redis counted, and how many times that is what a straightforward port of
// prom-stream-gateway's loop takes from the same server (x-original). mixed: of each four events one of each type, with
// values that differ, of 1000 series. repeating: counters by 1, of 1000 series. many: counters of 100,000 series.
func BenchmarkEvents(b *testing.B) {
	for _, w := range []struct {
		name string
		make func(rng *rand.Rand) string
	}{
		{"mixed", mixedEvent},
		{"repeating", func(rng *rand.Rand) string { return counterEvent(rng.IntN(1000), 1) }},
		{"many", func(rng *rand.Rand) string { return counterEvent(rng.IntN(100_000), rng.IntN(100)) }},
	} {
		b.Run(w.name, func(b *testing.B) {
			addr := startRedis(b)
			rng := rand.New(rand.NewPCG(1, 2))
			payloads := make([]string, eventsQueued)
			for i := range payloads {
				payloads[i] = w.make(rng)
			}
			c := dialRedis(b, addr)
			defer c.conn.Close()
			fill := func() {
				for part := range slices.Chunk(payloads, 1000) {
					c.do(append([]string{"LPUSH", "staging"}, part...)...)
				}
			}
			take := func(how func()) time.Duration {
				before := cpu(b)
				c.do("RENAME", "staging", eventQueue)
				how()
				return cpu(b) - before
			}
			var ours, theirs []time.Duration
			for range b.N {
				stop, wait := startGateway(b, addr, false)
				fill()
				take(func() { wait(eventsQueued) }) // series appear
				fill()
				ours = append(ours, take(func() { wait(2 * eventsQueued) }))
				stop()
				fill()
				theirs = append(theirs, take(func() { original(b, addr, eventsQueued) }))
			}
			own, other := slices.Min(ours), slices.Min(theirs)
			b.ReportMetric(eventsQueued/own.Seconds(), "events/s")
			b.ReportMetric(float64(other)/float64(own), "x-original")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func counterEvent(series, value int) string {
	return fmt.Sprintf(`{"type":"counter","name":"http_requests_total","value":%d,"labels":{"instance":"web-%d","job":"shop","region":"eu-west-1","method":"GET","status":"200"}}`, value, series)
}

// mixedEvent is one of the original's performance tool.
func mixedEvent(rng *rand.Rand) string {
	n := rng.IntN(28)
	rest := [...]string{
		`"type":"counter","name":"counter_%d"`,
		`"type":"gauge","name":"gauge_%d"`,
		`"type":"histogram","name":"histogram_%d","buckets":[0.1,1,5,10,50]`,
		`"type":"summary","name":"summary_%d","quantiles":[0.5,0.9,0.99],"epsilons":[0.05,0.01,0.001]`,
	}[n%4]
	return fmt.Sprintf(`{`+rest+`,"value":%.2f,"labels":{"instance":"instance-%d","job":"performance","region":"region-%d"}}`, n/4, rng.Float64()*100, rng.IntN(9), rng.IntN(4))
}

// cpu is what the process has used.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// startGateway runs a gateway. wait returns when so many events have been aggregated.
func startGateway(b *testing.B, addr string, replicas bool) (stop func(), wait func(n float64)) {
	c := events.DefaultConfig()
	redis := events.DefaultRedisConfig()
	redis.Address, redis.Replicas = addr, replicas
	c.Redis = &redis
	if err := c.Validate(); err != nil {
		b.Fatal(err)
	}
	gateway, err := events.Open(events.Options{Config: c, Dir: b.TempDir(), Site: "bench", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	registry := client.NewRegistry()
	registry.MustRegister(gateway.Metrics()...)
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- errors.Join(gateway.Run(ctx), gateway.Close()) }()
	stop = func() {
		cancel()
		if err := <-stopped; err != nil {
			b.Error(err)
		}
	}
	wait = func(n float64) {
		for {
			families, err := registry.Gather()
			if err != nil {
				b.Fatal(err)
			}
			for _, f := range families {
				if f.GetName() == "thalweg_events_taken_total" && f.Metric[0].GetCounter().GetValue() == n {
					return
				}
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	return stop, wait
}

const eventQueue = "prom-stream-gateway:metric-queue"

// original takes n events as prom-stream-gateway does: two workers, 25 at a time, encoding/json, the vectors of a client
// library.
func original(b *testing.B, addr string, n int64) {
	var workers sync.WaitGroup
	var left atomic.Int64
	left.Store(n)
	r := &originalMetrics{registry: client.NewRegistry(), counters: map[string]*client.CounterVec{}, gauges: map[string]*client.GaugeVec{},
		histograms: map[string]*client.HistogramVec{}, summaries: map[string]*client.SummaryVec{}}
	for range 2 {
		workers.Go(func() {
			c := dialRedis(b, addr)
			defer c.conn.Close()
			for left.Load() > 0 {
				for _, payload := range c.do("RPOP", eventQueue, "25") {
					var e originalEvent
					if err := json.Unmarshal([]byte(payload), &e); err != nil {
						b.Error(err)
					}
					r.apply(&e)
					left.Add(-1)
				}
			}
		})
	}
	workers.Wait()
}

type originalEvent struct {
	Type      string            `json:"type"`
	Name      string            `json:"name"`
	Value     float64           `json:"value"`
	Labels    map[string]string `json:"labels"`
	Help      string            `json:"help,omitempty"`
	Buckets   []float64         `json:"buckets,omitempty"`
	Quantiles []float64         `json:"quantiles,omitempty"`
	Epsilons  []float64         `json:"epsilons,omitempty"`
}

type originalMetrics struct {
	registry   *client.Registry
	mu         sync.Mutex
	counters   map[string]*client.CounterVec
	gauges     map[string]*client.GaugeVec
	histograms map[string]*client.HistogramVec
	summaries  map[string]*client.SummaryVec
}

func (m *originalMetrics) apply(e *originalEvent) {
	names := make([]string, 0, len(e.Labels))
	for name := range e.Labels {
		names = append(names, name)
	}
	slices.Sort(names)
	values := make([]string, len(names))
	for i, name := range names {
		values[i] = e.Labels[name]
	}
	switch e.Type {
	case "counter":
		vector(m, m.counters, e.Name, func() *client.CounterVec {
			return client.NewCounterVec(client.CounterOpts{Name: e.Name, Help: e.Help}, names)
		}).WithLabelValues(values...).Add(e.Value)
	case "gauge":
		vector(m, m.gauges, e.Name, func() *client.GaugeVec {
			return client.NewGaugeVec(client.GaugeOpts{Name: e.Name, Help: e.Help}, names)
		}).WithLabelValues(values...).Set(e.Value)
	case "histogram":
		vector(m, m.histograms, e.Name, func() *client.HistogramVec {
			return client.NewHistogramVec(client.HistogramOpts{Name: e.Name, Help: e.Help, Buckets: e.Buckets}, names)
		}).WithLabelValues(values...).Observe(e.Value)
	case "summary":
		vector(m, m.summaries, e.Name, func() *client.SummaryVec {
			objectives := map[float64]float64{}
			for i, q := range e.Quantiles {
				objectives[q] = e.Epsilons[i]
			}
			return client.NewSummaryVec(client.SummaryOpts{Name: e.Name, Help: e.Help, Objectives: objectives}, names)
		}).WithLabelValues(values...).Observe(e.Value)
	}
}

// vector returns the collector of a name, which it makes when it comes first.
func vector[V client.Collector](m *originalMetrics, all map[string]V, name string, make func() V) V {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := all[name]
	if !ok {
		v = make()
		m.registry.MustRegister(v)
		all[name] = v
	}
	return v
}

// startRedis starts a real server without persistence, and returns its address.
func startRedis(b *testing.B) string {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		b.Fatalf("%v; scripts/tools.sh installs it into .cache/tools/bin", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	addr := l.Addr().String()
	_, port, _ := net.SplitHostPort(addr)
	l.Close()
	cmd := exec.Command(program, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it is killed
	})
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return addr
		}
		if time.Now().After(end) {
			b.Fatal("redis-server does not start")
		}
	}
}

// redisClient is a connection of a sender.
type redisClient struct {
	b    *testing.B
	conn net.Conn
	in   *bufio.Reader
}

func dialRedis(b *testing.B, addr string) *redisClient {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	return &redisClient{b: b, conn: conn, in: bufio.NewReaderSize(conn, 64<<10)}
}

// do sends a command, and returns the strings of its answer.
func (c *redisClient) do(args ...string) []string {
	out := bytes.NewBuffer(make([]byte, 0, 256))
	fmt.Fprintf(out, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(out, "$%d\r\n%s\r\n", len(a), a)
	}
	if _, err := c.conn.Write(out.Bytes()); err != nil {
		c.b.Error(err)
		return nil
	}
	line := c.line()
	if !strings.HasPrefix(line, "*") {
		return nil
	}
	n, _ := strconv.Atoi(line[1:])
	var list []string
	for range n {
		size, err := strconv.Atoi(strings.TrimPrefix(c.line(), "$"))
		if err != nil {
			c.b.Error(err)
			return nil
		}
		text := make([]byte, size+2)
		if _, err := io.ReadFull(c.in, text); err != nil {
			c.b.Error(err)
		}
		list = append(list, string(text[:size]))
	}
	return list
}

func (c *redisClient) line() string {
	line, err := c.in.ReadString('\n')
	if err != nil || line[0] == '-' {
		c.b.Errorf("redis answers %q: %v", line, err)
	}
	return strings.TrimSuffix(line, "\r\n")
}

// BenchmarkSender reports what an event costs a process that sends it and forgets (us/event): one LPUSH over a connection
// that is there, against counting with a client library and pushing that over HTTP, over a connection that is there, to a
// server that does nothing with it (us/push, and how many times as much that is: x-push). The median of all rounds counts.
func BenchmarkSender(b *testing.B) {
	c := dialRedis(b, startRedis(b))
	defer c.conn.Close()
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	defer server.Close()
	event := originalEvent{Type: "counter", Name: "http_requests_total", Value: 1, Labels: map[string]string{
		"instance": "web-17", "job": "shop", "region": "eu-west-1", "method": "GET", "status": "200",
	}}
	var sending, pushing []time.Duration
	for b.Loop() {
		start := time.Now()
		payload, err := json.Marshal(&event)
		if err != nil {
			b.Fatal(err)
		}
		c.do("LPUSH", eventQueue, string(payload))
		sending = append(sending, time.Since(start))

		start = time.Now()
		counter := client.NewCounterVec(client.CounterOpts{Name: "http_requests_total", Help: "Requests."}, []string{"region", "method", "status"})
		counter.WithLabelValues("eu-west-1", "GET", "200").Inc()
		if err := push.New(server.URL, "shop").Grouping("instance", "web-17").Collector(counter).Add(); err != nil {
			b.Fatal(err)
		}
		pushing = append(pushing, time.Since(start))
	}
	median := func(list []time.Duration) float64 {
		slices.Sort(list)
		return float64(list[len(list)/2]) / float64(time.Microsecond)
	}
	sent, pushed := median(sending), median(pushing)
	b.ReportMetric(sent, "us/event")
	b.ReportMetric(pushed, "us/push")
	b.ReportMetric(pushed/sent, "x-push")
	b.ReportMetric(0, "ns/op")
}
