package bench

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// BenchmarkEventsReplicas reports how many events of 100,000 counters a second a core of a replica takes (events/s), and how
// many times the CPU time of a gateway alone that is (x-alone), until they are on disk and, of the replica, in Redis.
func BenchmarkEventsReplicas(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	payloads := make([]string, eventsQueued)
	for i := range payloads {
		payloads[i] = counterEvent(rng.IntN(100_000), 1)
	}
	addr := startRedis(b)
	c := dialRedis(b, addr)
	defer c.conn.Close()
	fill := func() {
		for part := range slices.Chunk(payloads, 1000) {
			c.do(append([]string{"LPUSH", "staging"}, part...)...)
		}
	}
	run := func(replicas bool) time.Duration {
		stop, wait := startGateway(b, addr, replicas)
		fill()
		c.do("RENAME", "staging", eventQueue)
		wait(eventsQueued) // series appear
		fill()
		before := cpu(b)
		c.do("RENAME", "staging", eventQueue)
		wait(2 * eventsQueued)
		stop()
		return cpu(b) - before
	}
	run(true) // the first replica of all waits for others
	var alone, replica []time.Duration
	for range b.N {
		alone = append(alone, run(false))
		replica = append(replica, run(true))
	}
	b.ReportMetric(eventsQueued/slices.Min(replica).Seconds(), "events/s")
	b.ReportMetric(float64(slices.Min(replica))/float64(slices.Min(alone)), "x-alone")
	b.ReportMetric(0, "ns/op")
}
