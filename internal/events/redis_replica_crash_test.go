package events

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

// replicaProcess is a replica in a process of its own, which sees Redis through a proxy that loses answers.
type replicaProcess struct {
	t            *testing.T
	dir          string
	redis, pages string // addresses
	cmd          *exec.Cmd
}

func (p *replicaProcess) start() {
	p.t.Helper()
	p.cmd = exec.Command(os.Args[0], "-test.run=^TestReplicasKilled$")
	p.cmd.Env = append(os.Environ(), "THALWEG_TEST_EVENTS_DIR="+p.dir, "THALWEG_TEST_EVENTS_REDIS="+p.redis, "THALWEG_TEST_EVENTS_LISTEN="+p.pages)
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
}

func (p *replicaProcess) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	_ = p.cmd.Wait() // it was killed
}

func (p *replicaProcess) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// scrape returns what the page says of a metric, -1 if nothing, -2 if there is no page.
func (p *replicaProcess) scrape(client *http.Client, name string) float64 {
	answer, err := client.Get("http://" + p.pages + "/gateway/metrics")
	if err != nil {
		return -2
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		return -2
	}
	return sampleOf(p.t, string(body), name)
}

// shown is the greatest value that any page has told, and how many pages have told one.
type shown struct {
	mu    sync.Mutex
	most  float64
	pages int
}

func (s *shown) value() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.most
}

// watch scrapes a replica until done. What a page tells is never less than what any page told before it was asked for.
func (s *shown) watch(p *replicaProcess, done <-chan struct{}) {
	client := &http.Client{Timeout: 5 * time.Second}
	for {
		select {
		case <-done:
			return
		case <-time.After(5 * time.Millisecond):
		}
		before := s.value()
		v := p.scrape(client, "a")
		if v < 0 {
			continue
		}
		if v < before {
			p.t.Errorf("the page of %s has %g, and one before had %g", p.dir, v, before)
		}
		s.mu.Lock()
		s.most, s.pages = max(s.most, v), s.pages+1
		s.mu.Unlock()
	}
}

// TestReplicasKilled kills and stops replicas, and the server, at any moment, while events are sent and answers are lost.
// Everything counts once, and no page ever tells less than another one did before.
func TestReplicasKilled(t *testing.T) {
	if dir := os.Getenv("THALWEG_TEST_EVENTS_DIR"); dir != "" {
		r := runGateway(t, dir, os.Getenv("THALWEG_TEST_EVENTS_REDIS"), asReplica)
		t.Error(http.ListenAndServe(os.Getenv("THALWEG_TEST_EVENTS_LISTEN"), r.Handlers()["/gateway/metrics"]))
		return
	}
	rounds := 25
	if testing.Short() {
		rounds = 6
	}
	const seed = 11
	s := startRedis(t, "--appendonly", "yes", "--appendfsync", "always")
	rng := rand.New(rand.NewPCG(seed, 1))
	var list []*replicaProcess
	var pages shown
	var scrapers sync.WaitGroup
	done := make(chan struct{})
	for i := range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		p := &replicaProcess{t: t, dir: t.TempDir(), redis: startLossy(t, s.addr(), seed+uint64(i)).addr, pages: l.Addr().String()}
		l.Close()
		p.start()
		defer p.kill()
		list = append(list, p)
		scrapers.Go(func() { pages.watch(p, done) })
	}
	c := s.client()
	sent := 0
	for range rounds {
		p := list[rng.IntN(len(list))]
		var undo func()
		switch rng.IntN(6) {
		case 0, 1, 2:
			p.kill()
			undo = p.start
		case 3, 4:
			p.signal(syscall.SIGSTOP)
			undo = func() { p.signal(syscall.SIGCONT) }
		case 5:
			s.kill()
			s.start()
			c = s.client()
			undo = func() {}
		}
		for end := time.Now().Add(time.Duration(rng.IntN(1200)) * time.Millisecond); time.Now().Before(end); {
			payloads := make([]string, 1+rng.IntN(300))
			for i := range payloads {
				payloads[i] = `{"name":"a","value":1}`
			}
			push(t, c, payloads...)
			sent += len(payloads)
		}
		undo()
		// Now and then somebody gets that far.
		if rng.IntN(3) == 0 {
			before := pages.value()
			push(t, c, `{"name":"a","value":1}`)
			sent++
			until(t, func() string {
				if pages.value() <= before {
					return fmt.Sprintf("no page tells more than %g", before)
				}
				return ""
			})
		}
	}
	until(t, func() string {
		if got := pages.value(); got != float64(sent) {
			return fmt.Sprintf("%g of %d events count", got, sent)
		}
		return ""
	})
	waitForNoClaims(t, c)
	close(done)
	scrapers.Wait()
	t.Logf("%d events, %d pages with a sum", sent, pages.pages)
}
