package events

import (
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func asReplica(c *Config) { c.Redis.Replicas = true }

// replicaOf is a gateway of a directory, which runs.
func replicaOf(t *testing.T, s *redisServer, dir string) *running {
	t.Helper()
	return runGateway(t, dir, s.addr(), asReplica)
}

// holder returns which of some replicas takes the events, once one does.
func holder(t *testing.T, list ...*running) (found *running) {
	t.Helper()
	until(t, func() string {
		for _, r := range list {
			r.mu.Lock()
			standby := r.standby
			r.mu.Unlock()
			if !standby && r.replica.lease.valid() {
				found = r
				return ""
			}
		}
		return "nobody takes events"
	})
	return found
}

// page returns what a scrape gets of a metric without labels: -1 if the page has none, -2 if there is no page.
func (r *running) page(name string) float64 { return pageValue(r.t, r.scrape(), name) }

func (r *running) scrape() *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	func() {
		defer func() { // the connection would be closed
			if recover() != nil {
				w.Code = 503
			}
		}()
		r.ServeMetrics(w, httptest.NewRequest("GET", "/metrics", nil))
	}()
	return w
}

func pageValue(t testing.TB, w *httptest.ResponseRecorder, name string) float64 {
	t.Helper()
	if w.Code != 200 {
		return -2
	}
	body, err := io.ReadAll(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	return sampleOf(t, string(body), name)
}

func sampleOf(t testing.TB, page, name string) float64 {
	t.Helper()
	for line := range strings.Lines(page) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				t.Error(err)
			}
			return v
		}
	}
	return -1
}

func (r *running) waitForPage(name string, want float64) {
	r.t.Helper()
	until(r.t, func() string {
		if got := r.page(name); got != want {
			return fmt.Sprintf("%s is %g on the page, want %g", name, got, want)
		}
		return ""
	})
}

// One of several replicas has all sums. When it ends, another one goes on with them.
func TestReplicas(t *testing.T) {
	s := startRedis(t)
	c := s.client()
	dirs := []string{t.TempDir(), t.TempDir()}
	list := []*running{replicaOf(t, s, dirs[0]), replicaOf(t, s, dirs[1])}
	sent := 0.0
	for round := range 4 {
		r := holder(t, list...)
		other := list[0]
		if r == other {
			other = list[1]
		}
		for range 50 {
			push(t, c, `{"name":"a","value":1}`, `{"name":"h","type":"histogram","buckets":[1,5],"value":3}`, `{"name":"g","type":"gauge","value":`+strconv.Itoa(round)+`}`)
			sent++
		}
		r.waitForPage("a", sent)
		r.waitForPage("g", float64(round))
		r.waitForPage("h_count", sent)
		other.waitForReady()
		if got := other.page("a"); got != -1 {
			t.Errorf("the replica that waits shows %g", got)
		}
		if got := other.page(metaInfo); got != 1 {
			t.Errorf("the info metric of the replica that waits is %g", got)
		}
		if _, err := other.Take(t.Context(), []byte(`{"name":"a","value":1}`)); err == nil {
			t.Error("the replica that waits takes what is posted")
		}
		if o, err := r.Take(t.Context(), []byte(`{"name":"a","value":1,"id":"`+strconv.Itoa(round)+`"}`)); err != nil || o.Taken != 1 {
			t.Errorf("a post is %v, %v", o, err)
		}
		sent++
		push(t, c, `{"name":"h","type":"histogram","buckets":[1,5],"value":3}`)
		r.stop()
		other.waitForPage("a", sent)
		i := 0
		if r == list[1] {
			i = 1
		}
		list[i] = replicaOf(t, s, dirs[i])
	}
	// An id counts once, whoever sees it.
	if o, err := holder(t, list...).Take(t.Context(), []byte(`{"name":"a","value":1,"id":"0"}`)); err != nil || o.Dropped[Duplicate] != 1 {
		t.Errorf("a post that is sent again is %v, %v", o, err)
	}
}

// A server that has forgotten everything gets it back from whoever holds the lease, as long as that one lives.
func TestReplicasRedisForgets(t *testing.T) {
	s := startRedis(t)
	a, b := replicaOf(t, s, t.TempDir()), replicaOf(t, s, t.TempDir())
	push(t, s.client(), `{"name":"a","value":5}`)
	r := holder(t, a, b)
	r.waitForPage("a", 5)
	s.kill()
	until(t, func() string {
		if r.page("a") != -2 {
			return "sums are shown though nobody knows who takes the events"
		}
		return ""
	})
	s.start()
	push(t, s.client(), `{"name":"a","value":1}`)
	r.waitForPage("a", 6)
	other := a
	if r == a {
		other = b
	}
	r.stop()
	other.waitForPage("a", 6)
	// The holder and the journal are lost together: what is begun then is not what a file of long ago says.
	r = replicaOf(t, s, r.options.Dir)
	r.waitForReady()
	s.kill()
	other.stop()
	s.start()
	push(t, s.client(), `{"name":"a","value":1}`)
	r.waitForPage("a", 1)
}

// What the last holder knows survives its end and that of the server.
func TestReplicasStop(t *testing.T) {
	s := startRedis(t)
	dir := t.TempDir()
	r := replicaOf(t, s, dir)
	push(t, s.client(), `{"name":"a","value":5}`)
	r.waitForPage("a", 5)
	s.kill()
	r.stop()
	s.start()
	r = replicaOf(t, s, dir)
	r.waitForPage("a", 5)
}

// The first replica brings what it has counted by itself, and claims that were open. Another one cannot.
func TestReplicasBegin(t *testing.T) {
	s := startRedis(t)
	c := s.client()
	dirs := []string{t.TempDir(), t.TempDir()}
	for _, dir := range dirs {
		r := runGateway(t, dir, s.addr(), nil)
		push(t, c, `{"name":"a","value":5}`)
		r.waitFor("a", 5)
		r.stop()
	}
	x := open(t, dirs[0], withRedis)
	seq := x.state.position.seq
	x.crash()
	id, err := os.ReadFile(filepath.Join(dirs[0], "id"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.do("LPUSH", fmt.Sprintf("{%s}:claim:%s:%d", queueKey, strings.TrimSpace(string(id)), seq), `{"name":"a","value":2}`); err != nil {
		t.Fatal(err)
	}
	first := replicaOf(t, s, dirs[0])
	first.waitForPage("a", 7)
	second := replicaOf(t, s, dirs[1])
	until(t, func() string {
		if list := second.health.Conditions(); !strings.Contains(list[0].Reason, "delete file id") {
			return fmt.Sprintf("%+v", list)
		}
		return ""
	})
	second.stop()
	if err := os.Remove(filepath.Join(dirs[1], "id")); err != nil {
		t.Fatal(err)
	}
	second = replicaOf(t, s, dirs[1])
	second.waitForReady()
	first.stop()
	second.waitForPage("a", 7)
}

// A server that comes back with a copy of the time before a takeover gets everything from whoever holds the lease now.
func TestReplicasOlderCopy(t *testing.T) {
	s := startRedis(t)
	c := s.client()
	first := replicaOf(t, s, t.TempDir())
	push(t, c, `{"name":"a","value":5}`)
	first.waitForPage("a", 5)
	second := replicaOf(t, s, t.TempDir())
	second.waitForReady()
	waitForNoClaims(t, c)
	if _, err := c.do("SAVE"); err != nil {
		t.Fatal(err)
	}
	first.stop()
	push(t, c, `{"name":"a","value":300}`)
	second.waitForPage("a", 305)
	third := replicaOf(t, s, t.TempDir()) // which knows nothing of the first one
	third.waitForReady()
	s.kill()
	s.start()
	push(t, s.client(), `{"name":"a","value":1}`)
	second.waitForPage("a", 306)
	second.stop()
	third.waitForPage("a", 306)
}
