package events

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

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
	claim := "{" + queueKey + "}:claim:" + strings.TrimSpace(string(id)) + ":77"
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
	claim := fmt.Sprintf("{%s}:claim:%s:%d", queueKey, strings.TrimSpace(string(id)), seq)
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

// Of two gateways with copies of one directory one takes events, and the other says why it does not.
func TestRedisCopiedDirectory(t *testing.T) {
	s := startRedis(t)
	c := s.client()
	dir, other := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	r := runGateway(t, dir, s.addr(), nil)
	push(t, c, `{"name":"a","value":1}`)
	r.waitFor("a", 1)
	if err := os.CopyFS(other, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	w := runGateway(t, other, s.addr(), nil)
	until(t, func() string {
		if list := w.health.Conditions(); list[0].Ready || !strings.Contains(list[0].Reason, "a copy of this data directory") {
			return fmt.Sprintf("%+v", list)
		}
		return ""
	})
	before := w.value("a")
	push(t, c, `{"name":"a","value":1}`, `{"name":"b","value":1}`)
	r.waitFor("b", 1)
	r.waitFor("a", 2)
	if got := w.value("a"); got != before || w.value("b") != -1 {
		t.Errorf("both take events: a is %g, b is %g", got, w.value("b"))
	}
	r.stop() // then it may go on
	push(t, c, `{"name":"b","value":7}`)
	w.waitFor("b", 7)
}

// An end in order leaves nothing in Redis of what counts.
func TestRedisStopLeavesNothing(t *testing.T) {
	s := startRedis(t)
	c := s.client()
	r := runGateway(t, t.TempDir(), s.addr(), nil)
	for i := range 5 {
		push(t, c, `{"name":"a","value":1}`)
		r.waitFor("a", float64(i+1))
	}
	r.stop()
	a, err := c.do("KEYS", "*")
	if err != nil || len(a.list) > 0 {
		t.Errorf("%d keys are left: %v", len(a.list), err)
	}
}

// A node of a cluster that has not the key is an error that says which one has.
func TestRedisCluster(t *testing.T) {
	bus := freePort(t)
	s := startRedis(t, "--cluster-enabled", "yes", "--cluster-port", bus)
	c := s.client()
	// It has all slots but that of the queue, which another node has.
	slot, err := c.do("CLUSTER", "KEYSLOT", queueKey)
	if err != nil {
		t.Fatal(err)
	}
	other := startRedis(t, "--cluster-enabled", "yes", "--cluster-port", freePort(t))
	for _, command := range [][]string{
		{"CLUSTER", "MEET", "127.0.0.1", s.port, bus},
		{"CLUSTER", "ADDSLOTS", strconv.FormatInt(slot.n, 10)},
	} {
		if _, err := other.client().do(command...); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.do("CLUSTER", "ADDSLOTSRANGE", "0", strconv.FormatInt(slot.n-1, 10), strconv.FormatInt(slot.n+1, 10), "16383"); err != nil {
		t.Fatal(err)
	}
	for _, node := range []*redisServer{s, other} { // which have to agree on who has what
		client := node.client()
		until(t, func() string {
			a, err := client.do("CLUSTER", "INFO")
			if err != nil || !strings.Contains(string(a.text), "cluster_state:ok") {
				return fmt.Sprintf("%s, %v", a.text, err)
			}
			return ""
		})
	}
	r := runGateway(t, t.TempDir(), s.addr(), nil)
	until(t, func() string {
		if list := r.health.Conditions(); !strings.Contains(list[0].Reason, "belongs to node 127.0.0.1:"+other.port) {
			return fmt.Sprintf("%+v", list)
		}
		return ""
	})
	r.stop()
	r = runGateway(t, t.TempDir(), other.addr(), nil)
	push(t, other.client(), `{"name":"a","value":1}`)
	r.waitFor("a", 1)
	r.stop()
	r = runGateway(t, t.TempDir(), other.addr(), asReplica)
	push(t, other.client(), `{"name":"b","value":1}`)
	r.waitForPage("b", 1)
}
