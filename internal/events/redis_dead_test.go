package events

import (
	"context"
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// A list of dead letters that cannot be changed keeps no events from being taken, and breaks no connection.
func TestRedisRefusesDeadLetters(t *testing.T) {
	s := startRedis(t)
	c := s.client()
	if _, err := c.do("SET", "dead", "of another type"); err != nil {
		t.Fatal(err)
	}
	r := runGateway(t, t.TempDir(), s.addr(), func(c *Config) { c.Redis.DeadLetterKey = "dead" })
	r.waitForReady()
	before := testutil.ToFloat64(r.metrics.redisFails)
	for i := range 3 {
		push(t, c, `not json`, `{"name":"a","value":1}`)
		r.waitFor("a", float64(i+1))
	}
	until(t, func() string {
		if lost := testutil.ToFloat64(r.metrics.unburied); lost != 3 {
			return fmt.Sprintf("%g elements are not in the list", lost)
		}
		return ""
	})
	if n := testutil.ToFloat64(r.metrics.redisFails) - before; n != 0 {
		t.Errorf("the connection broke %g times", n)
	}
}

// The list has the last elements, those before a stop, too, and no more than it should.
func TestRedisDeadLetters(t *testing.T) {
	s := startRedis(t)
	c := s.client()
	x := open(t, t.TempDir(), func(o *Options) {
		withRedis(o)
		o.Config.Redis.Address, o.Config.Redis.DeadLetterKey = s.addr(), "dead"
	})
	defer x.crash()
	source := newRedisSource(x.Gateway, x.options.Config.Redis, newLease(x.Gateway, x.options.Config.Redis, "claims:"))
	source.conn = c
	for i := range 2 * deadLetters {
		source.keepDead(fmt.Append(nil, i))
		if i%100 == 99 {
			if err := source.bury(c); err != nil {
				t.Fatal(err)
			}
		}
	}
	source.keepDead([]byte("last"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	source.sessions(ctx)
	a, err := c.do("LRANGE", "dead", "0", "-1")
	if err != nil || len(a.list) != deadLetters || string(a.list[0].text) != "last" || string(a.list[1].text) != fmt.Sprint(2*deadLetters-1) {
		t.Errorf("the list has %d elements: %v", len(a.list), err)
	}
	source.lease.drop()
	for range deadLetters {
		source.keepDead(nil)
	}
	if len(source.dead) != deadAtOnce || testutil.ToFloat64(x.metrics.unburied) != deadLetters-deadAtOnce {
		t.Errorf("%d elements wait, and %g are lost", len(source.dead), testutil.ToFloat64(x.metrics.unburied))
	}
}
