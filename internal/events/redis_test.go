package events

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
)

func TestRedis(t *testing.T) {
	s := startRedis(t)
	c := s.client()
	push(t, c, `{"name":"before","value":2}`, `not json`, `{"name":"g","type":"gauge","value":1}`, `{"name":"g","type":"gauge","value":2}`)
	r := runGateway(t, t.TempDir(), s.addr(), func(c *Config) { c.Redis.DeadLetterKey = "dead" })
	r.waitFor("before", 2)
	r.waitFor("g", 2) // in the order in which they were sent
	r.waitForReady()
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

// An idle gateway has Redis do at most two things a second, and counts waits that end without an event.
func TestRedisIdle(t *testing.T) {
	s := startRedis(t)
	c := s.client()
	r := runGateway(t, t.TempDir(), s.addr(), nil)
	until(t, func() string {
		a, err := c.do("INFO", "clients")
		if err != nil || !strings.Contains(string(a.text), "\r\nblocked_clients:1\r\n") {
			return fmt.Sprintf("it does not wait: %v", err)
		}
		return ""
	})
	before := s.asked(c)
	const waits = 2
	until(t, func() string {
		r.mu.Lock()
		defer r.mu.Unlock()
		pops := 0.0
		for _, w := range r.meta.workers {
			pops += w.emptyPops
		}
		if pops < waits {
			return fmt.Sprintf("%g empty pops", pops)
		}
		return ""
	})
	if n, most := s.asked(c)-before, 2*waits*int(idleWait.Seconds()); n > most {
		t.Errorf("%d commands in %d waits, want at most %d", n, waits, most)
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
	if _, err := c.do("SET", queueKey, "precious"); err != nil {
		t.Fatal(err)
	}
	r := runGateway(t, t.TempDir(), s.addr(), nil)
	until(t, func() string {
		if list := r.health.Conditions(); !strings.Contains(list[0].Reason, "is a string, not a list") {
			return fmt.Sprintf("%+v", list)
		}
		return ""
	})
	if a, err := c.do("GET", queueKey); err != nil || string(a.text) != "precious" {
		t.Errorf("the key holds %q: %v", a.text, err)
	}
}

func TestRedisPassword(t *testing.T) {
	s := startRedis(t, "--requirepass", "secret")
	r := runGateway(t, t.TempDir(), s.addr()+",password=secret,abortConnect=false,defaultDatabase=3", nil)
	r.waitForReady()
	w := runGateway(t, t.TempDir(), s.addr()+",password=wrong", nil)
	until(t, func() string {
		if list := w.health.Conditions(); !strings.Contains(list[0].Reason, "log in") {
			return fmt.Sprintf("%+v", list)
		}
		return ""
	})
}

// Behind a crash nothing is shown as long as Redis is away, and both the page and the condition say why.
func TestRedisDownAfterCrash(t *testing.T) {
	s := startRedis(t)
	dir := t.TempDir()
	x := open(t, dir, withRedis)
	x.feed(`{"name":"a","value":1}`)
	x.save()
	x.crash()
	s.kill()
	r := runGateway(t, dir, s.addr(), nil)
	until(t, func() string {
		if list := r.health.Conditions(); list[0].Ready || !strings.Contains(list[0].Reason, "refused; until then nothing is shown") {
			return fmt.Sprintf("%+v", list)
		}
		return ""
	})
	if w := r.scrape(); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "cannot be read again yet: no events can be taken from Redis: ") {
		t.Errorf("the page is %d, %s", w.Code, w.Body)
	}
	s.start()
	r.waitForPage("a", 1)
}

// rights are those that docs/events.md asks for.
var rights = []string{
	"~" + queueKey, "~{" + queueKey + "}:claim:*", "resetchannels", "+select", "+client|setname", "+type", "+llen", "+lrange", "+blmove", "+scan",
	"+renamenx", "+rename", "+unlink", "+del", "+rpush", "+hget", "+hmget", "+hset", "+hdel", "+hincrby", "+evalsha", "+eval",
}

func TestRedisRights(t *testing.T) {
	page, err := os.ReadFile("../../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(rights, " "); !strings.Contains(strings.Join(strings.Fields(string(page)), " "), text) {
		t.Errorf("docs/events.md does not ask for %s", text)
	}
	s := startRedis(t)
	c := s.client()
	if _, err := c.do(append([]string{"ACL", "SETUSER", "gateway", "on", ">secret"}, rights...)...); err != nil {
		t.Fatal(err)
	}
	login := func(c *Config) { c.Redis.Username, c.Redis.Password = "gateway", "secret" }
	dir := t.TempDir()
	r := runGateway(t, dir, s.addr(), login)
	push(t, c, `{"name":"a","value":1}`)
	r.waitFor("a", 1)
	waitForNoClaims(t, c)
	r.stop()
	r = runGateway(t, dir, s.addr(), func(c *Config) {
		login(c)
		asReplica(c)
	})
	push(t, c, `{"name":"a","value":1}`)
	r.waitForPage("a", 2)
	waitForNoClaims(t, c)
	r.stop()
	log, err := c.do("ACL", "LOG")
	if err != nil || len(log.list) > 0 {
		t.Errorf("Redis refused %d commands: %v", len(log.list), err)
	}
}

// A server whose memory is full of events gets rid of them, and one that is full of something else does as well as it can.
func TestRedisFull(t *testing.T) {
	for name, change := range map[string]func(*Config){"alone": nil, "replica": asReplica} {
		t.Run(name, func(t *testing.T) {
			s := startRedis(t)
			c := s.client()
			full := func(bytes string) {
				t.Helper()
				if _, err := c.do("CONFIG", "SET", "maxmemory", bytes); err != nil {
					t.Fatal(err)
				}
			}
			push(t, c, `{"name":"a","value":1}`)
			full("1")
			r := runGateway(t, t.TempDir(), s.addr(), change)
			r.waitForPage("a", 1)
			r.waitForReady()
			for i := range 3 {
				full("0")
				push(t, c, `{"name":"a","value":1}`)
				full("1")
				r.waitForPage("a", float64(i+2))
			}
			waitForNoClaims(t, c)
			r.stop()
			if n, err := c.do("EXISTS", "{"+queueKey+"}:claim:"+replicas+":head"); err != nil || n.n == 1 != (change != nil) {
				t.Errorf("%d, %v", n.n, err)
			}
		})
	}
}

// What is no list is not taken for one; when it is gone, events are taken again.
func TestRedisQueueOverwritten(t *testing.T) {
	s := startRedis(t)
	c := s.client()
	r := runGateway(t, t.TempDir(), s.addr(), nil)
	push(t, c, `{"name":"a","value":1}`)
	r.waitFor("a", 1)
	if _, err := c.do("SET", queueKey, "oops"); err != nil {
		t.Fatal(err)
	}
	until(t, func() string {
		if list := r.health.Conditions(); !strings.Contains(list[0].Reason, fmt.Sprintf("key %q is a string, not a list", queueKey)) {
			return fmt.Sprintf("%+v", list)
		}
		return ""
	})
	if _, err := c.do("DEL", queueKey); err != nil {
		t.Fatal(err)
	}
	push(t, c, `{"name":"a","value":1}`)
	r.waitFor("a", 2)
}
