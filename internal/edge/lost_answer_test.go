package edge

import (
	"testing"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
)

// The server stores a message and its answer is lost: in each state of a lane, on one server, on three, and with the
// server that leads the stream restarted before the edge can ask. Every row comes once, and nobody takes the edge's own
// message for a loss or for another process's.
func TestLostAnswers(t *testing.T) {
	// situation brings an edge to the point where what publish does is lost.
	type situation struct {
		name    string
		lane    bus.Lane
		prepare func(t *testing.T, p *place, dir string) (s *sender, others []*sender)
		publish func(s *sender)
	}
	one := func(s *sender) { s.sink(1) }
	fresh := func(t *testing.T, p *place, dir string) (*sender, []*sender) {
		s := start(t, p.proxy.URL(), dir)
		s.plannedTimes(1)
		return s, nil
	}
	situations := []situation{
		{"first publish", bus.Live, fresh, one},
		{"live", bus.Live, func(t *testing.T, p *place, dir string) (*sender, []*sender) {
			s, _ := fresh(t, p, dir)
			s.sink(3)
			s.allStored()
			return s, nil
		}, one},
		{"after reconnect", bus.Live, func(t *testing.T, p *place, dir string) (*sender, []*sender) {
			s, _ := fresh(t, p, dir)
			s.sink(3)
			s.allStored()
			p.proxy.Cut()
			s.plannedTimes(2)
			return s, nil
		}, one},
		{"takeover", bus.Live, func(t *testing.T, p *place, dir string) (*sender, []*sender) {
			other := start(t, p.proxy.URL(), t.TempDir())
			other.sink(3)
			other.allStored()
			other.stop()
			s, _ := fresh(t, p, dir)
			return s, []*sender{other}
		}, one},
		{"backfill", bus.Backfill, func(t *testing.T, p *place, dir string) (*sender, []*sender) {
			// A backlog that takes a while to send.
			s := prepare(t, p.proxy.URL(), dir, func(o *Options) { o.Config.Outbox.BackfillBytesPerSecond = 16 << 10 })
			s.edge.tailBytes = 0
			for range 1500 {
				s.sink(1)
			}
			s.ahead.Store(int64(2 * time.Minute))
			s.run()
			bustest.WaitFor(t, "backfill", func() bool { return p.reading.count(bus.Backfill) > 0 })
			return s, nil
		}, func(*sender) {}},
	}
	f := func(name string, where func(*testing.T) *place, restart bool) {
		for _, x := range situations {
			t.Run(name+"/"+x.name, func(t *testing.T) {
				t.Parallel()
				p := where(t)
				s, others := x.prepare(t, p, t.TempDir())
				sessions := s.logs.count(planned)
				before := p.reading.count(x.lane) // first: a message may be on its way already
				p.proxy.LoseAnswers(true)
				x.publish(s)
				bustest.WaitFor(t, "the message in the stream", func() bool {
					// Of a backlog, the answer that is lost may be that of a message counted before.
					return p.reading.count(x.lane) > before || x.lane == bus.Backfill && p.proxy.LostBytes() > 0
				})
				bustest.WaitFor(t, "the answer on its way", func() bool { return p.proxy.LostBytes() > 0 })
				if restart {
					leader := p.leader()
					leader.Stop()
					leader.Start()
				}
				p.proxy.LoseAnswers(false)
				s.plannedTimes(sessions + 1)
				s.sink(2)
				s.allStored()
				p.reading.expect(append(others, s)...)
				p.reading.once(bus.Live)
				s.noLoss()
				if n := s.logs.count("another process publishes as this site"); n > 0 {
					t.Error("the edge believes that it was replaced")
				}
			})
		}
	}
	f("one server", single, false)
	f("one server, restarted", single, true)
	f("three servers", cluster, false)
	f("three servers, leader restarted", cluster, true)
}
