package events

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// leftClaims is a directory of a gateway that was killed within a claim of three events, of which one counts; and its claims:
// there is another one behind it, and one before it which counts and comes from an older copy of the server.
func leftClaims(t *testing.T, s *redisServer, change func(*Config)) (dir, prefix string, seq uint64) {
	t.Helper()
	c := s.client()
	dir = t.TempDir()
	r := runGateway(t, dir, s.addr(), change)
	push(t, c, `{"name":"a","value":1}`)
	r.waitForPage("a", 1)
	waitForNoClaims(t, c)
	r.stop()
	x := open(t, dir, withRedis)
	x.state.position.offset, x.changed = 1, true
	seq = x.state.position.seq
	x.save()
	x.crash()
	note, err := os.ReadFile(filepath.Join(dir, claimsFile))
	if err != nil {
		t.Fatal(err)
	}
	prefix = strings.TrimPrefix(strings.TrimSpace(string(note)), "0 ")
	for _, command := range [][]string{
		{"LPUSH", prefix + strconv.FormatUint(seq-1, 10), `{"name":"a","value":1000}`},
		{"LPUSH", prefix + strconv.FormatUint(seq, 10), `{"name":"a","value":100}`, `{"name":"a","value":10}`, `{"name":"a","value":20}`},
		{"LPUSH", prefix + strconv.FormatUint(seq+1, 10), `{"name":"b","value":5}`},
	} {
		if _, err := c.do(command...); err != nil {
			t.Fatal(err)
		}
	}
	return dir, prefix, seq
}

// A gateway with another key goes on with the claims of the one before.
func TestRedisKeyChanges(t *testing.T) {
	s := startRedis(t)
	c := s.client()
	dir, prefix, seq := leftClaims(t, s, nil)
	for round, key := range []string{"other", "third"} {
		if _, err := c.do("LPUSH", key, `{"name":"c","value":1}`); err != nil {
			t.Fatal(err)
		}
		r := runGateway(t, dir, s.addr(), func(c *Config) { c.Redis.Key = key })
		r.waitFor("c", float64(round+1))
		r.waitFor("b", 5)
		r.waitForPage("a", 1+10+20) // the oldest is on the right
		until(t, func() string {
			if at := r.at(); at.low < at.seq {
				return fmt.Sprintf("claims are not deleted: %+v", at)
			}
			return ""
		})
		r.stop()
		if text := r.log.String(); strings.Contains(text, "level=WARN") || strings.Contains(text, "go on under the one of now") != (round == 0) {
			t.Errorf("the log is\n%s", text)
		}
	}
	a, err := c.do("KEYS", "*")
	if err != nil || len(a.list) != 1 || string(a.list[0].text) != prefix+strconv.FormatUint(seq-1, 10) {
		t.Errorf("what is left is %v, %v", a.list, err)
	}
}

// What cannot be brought from where claims were is said, and nothing waits for it.
func TestRedisClaimsStay(t *testing.T) {
	run := func(t *testing.T, s *redisServer, dir string, change func(*Config)) (log string) {
		t.Helper()
		r := runGateway(t, dir, s.addr(), change)
		c := s.client()
		for _, command := range [][]string{{"SELECT", strconv.Itoa(r.options.Config.Redis.Database)}, {"LPUSH", r.options.Config.Redis.Key, `{"name":"c","value":1}`}} {
			if _, err := c.do(command...); err != nil {
				t.Fatal(err)
			}
		}
		r.waitForPage("c", 1)
		r.stop()
		return r.log.String()
	}
	const warning = `level=WARN msg="claims of an earlier key or database may be there`
	f := func(name, why string, prepare func(prefix string) []string, change func(*Config)) {
		t.Run(name, func(t *testing.T) {
			s := startRedis(t)
			c := s.client()
			dir, prefix, seq := leftClaims(t, s, nil)
			if prepare != nil {
				if _, err := c.do(prepare(prefix)...); err != nil {
					t.Fatal(err)
				}
			}
			log := run(t, s, dir, change)
			for _, want := range []string{
				warning, `database=0 keys=` + prefix + `N numbers="[` + fmt.Sprintf("%d %d", seq, seq+1) + `]"`,
				fmt.Sprintf("number_in_hand=%d counted_of_it=1", seq), why,
			} {
				if !strings.Contains(log, want) {
					t.Errorf("the log lacks %s:\n%s", want, log)
				}
			}
			if strings.Contains(log, "has lost events") {
				t.Errorf("it says that events are lost:\n%s", log)
			}
			if a, err := c.do("LLEN", prefix+strconv.FormatUint(seq, 10)); err != nil || a.n != 3 {
				t.Errorf("the claim has %d events: %v", a.n, err)
			}
		})
	}
	otherKey := func(c *Config) { c.Redis.Key = "other" }
	f("database", "it is another database", nil, func(c *Config) { c.Redis.Database = 1 })
	f("holder", "gateway x on y", func(prefix string) []string {
		return []string{"HSET", prefix + "head", "token", "t", "place", "p", "holder", "x on y"}
	}, otherKey)
	f("replicas", "they belong to replicas", func(prefix string) []string { return []string{"HSET", prefix + "head", "number", "7"} }, otherKey)
	f("rights", "NOPERM", func(string) []string {
		return []string{"ACL", "SETUSER", "narrow", "on", ">secret", "~other", "~{other}:*", "+@all"}
	}, func(c *Config) { otherKey(c); c.Redis.Username, c.Redis.Password = "narrow", "secret" })

	t.Run("number", func(t *testing.T) { // is taken, of the second claim; the first one goes on
		s := startRedis(t)
		dir, prefix, seq := leftClaims(t, s, nil)
		_, id, _ := strings.Cut(prefix, ":claim:")
		if _, err := s.client().do("LPUSH", "{other}:claim:"+id+strconv.FormatUint(seq+1, 10), `{"name":"d","value":1}`); err != nil {
			t.Fatal(err)
		}
		r := runGateway(t, dir, s.addr(), otherKey)
		r.waitFor("d", 1)
		r.waitForPage("a", 1+10+20)
		r.stop()
		if log := r.log.String(); !strings.Contains(log, warning) || !strings.Contains(log, fmt.Sprintf(" numbers=[%d] ", seq+1)) {
			t.Errorf("the log is\n%s", log)
		}
	})
	t.Run("none", func(t *testing.T) { // to say anything about
		s := startRedis(t)
		dir := t.TempDir()
		r := runGateway(t, dir, s.addr(), nil)
		push(t, s.client(), `{"name":"a","value":1}`)
		r.waitForPage("a", 1)
		r.stop()
		if log := run(t, s, dir, func(c *Config) { c.Redis.Database = 1 }); strings.Contains(log, "level=WARN") {
			t.Errorf("the log is\n%s", log)
		}
	})
}

// What is wrong with a file is not said of Redis.
func TestRedisFileTrouble(t *testing.T) {
	s := startRedis(t)
	f := func(name string, change func(*Config)) {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, claimsFile)
			if err := os.Mkdir(file, 0o700); err != nil {
				t.Fatal(err)
			}
			r := runGateway(t, dir, s.addr(), change)
			until(t, func() string {
				reason := r.health.Conditions()[0].Reason
				if !strings.HasPrefix(reason, "no events can be taken: ") || !strings.Contains(reason, file) {
					return fmt.Sprintf("it says %q", reason)
				}
				return ""
			})
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			push(t, s.client(), `{"name":"a","value":1}`)
			r.waitForPage("a", 1)
			r.stop()
			if log := r.log.String(); strings.Contains(log, "from redis; trying again") || !strings.Contains(log, "for a file cannot be read or written") {
				t.Errorf("the log is\n%s", log)
			}
		})
	}
	f("alone", nil)
	f("replica", asReplica)
	x := open(t, t.TempDir(), nil)
	defer x.crash()
	x.checkpoints.dir = filepath.Join(x.options.Dir, "gone")
	x.feed(`{"name":"a","value":1}`)
	if err := x.checkpoint(); err == nil || !isFileError(err) {
		t.Errorf("what a checkpoint says is taken for an error of redis: %v", err)
	}
}
