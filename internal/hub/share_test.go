package hub

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/alecthomas/units"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
)

func TestShares(t *testing.T) {
	s := newShares(1600, time.Hour)
	sequence, now := uint64(0), int64(1_000_000)
	add := func(site string, bytes int, want uint64) {
		t.Helper()
		sequence++
		if got := s.add(site, sequence, now, bytes); got != want {
			t.Errorf("message %d of %s with %d bytes: delete before %d, want %d", sequence, site, bytes, got, want)
		}
	}
	// Alone a site has the whole stream; the server deletes what is too much.
	for range 16 {
		add("a", 100, 0)
	}
	// With another one each has half, and what is there already counts.
	add("b", 10, 0)
	if s.expire(now); s.bytes != 1610 {
		t.Errorf("all hold %d bytes", s.bytes)
	}
	add("a", 100, 10)
	add("a", 100, 0) // there is room again
	add("b", 700, 0)
	add("a", 100, 12)
	// Messages that are read again do not count again.
	if got := s.add("a", 5, now, 5000); got != 0 {
		t.Errorf("a message that is read again counts: %d", got)
	}
	// What the stream's max_age has deleted does not count.
	now += 2 * time.Hour.Milliseconds()
	for range 7 {
		add("a", 90, 0)
	}
	// While the stream has room nothing is deleted.
	before := s.bytes
	if s.expire(now); len(s.sites) != 1 || before-s.bytes != 710 {
		t.Errorf("%d sites hold %d bytes, %d before", len(s.sites), s.bytes, before)
	}
	add("a", 170, 0)
	add("c", 10, 0)
	// A tenth is everybody's, however many there are.
	for i := range 100 {
		add(fmt.Sprint("site-", i), 100, 0)
	}
	if s.share() != 160 {
		t.Errorf("the share is %d", s.share())
	}
	off := newShares(0, time.Hour)
	if got := off.add("a", 1, now, 1<<40); got != 0 || len(off.sites) != 0 {
		t.Error("shares are counted where they are off")
	}
}

// A site that fills the stream loses its own oldest messages, never those of another, and goes on.
func TestSiteCannotEvictOthers(t *testing.T) {
	server := bustest.NewServer(t)
	conn := bustest.Hub(t, server)
	c := newHub(t, conn)
	c.shares = newShares(1<<20, time.Hour)
	runHub(t, c)
	evil, good := newWriter(t, server.URL(), "evil", 1, 500), newWriter(t, server.URL(), "good", 2, 5)
	good.live(3)
	c.rows(t, good.name, 3)
	evil.live(1)
	for range 40 {
		evil.publish(bus.Live, make([]byte, 32*units.KiB))
		evil.publish(bus.Backfill, make([]byte, 1*units.KiB))
	}
	evil.live(2)
	c.rows(t, evil.name, 3)
	held := func(site string) (messages int, bytes int) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		root := conn.Root()
		reader, err := conn.NewReader(bus.ReaderOptions{
			Name: "count", Subjects: []string{root.Lane(site, bus.Live), root.Lane(site, bus.Backfill)},
			Handle: func(m bus.Message) error {
				messages++
				bytes += len(m.Payload)
				return nil
			},
			CaughtUp: cancel,
		})
		if err != nil {
			t.Fatal(err)
		}
		_ = reader.Run(ctx) // ends with the context
		return messages, bytes
	}
	bustest.WaitFor(t, "the excess to be deleted", func() bool {
		_, bytes := held(evil.name)
		return bytes <= 1<<20/4*3+1<<16
	})
	if n, _ := held(evil.name); n < 10 {
		t.Errorf("%d messages of the site are left", n)
	}
	if n, _ := held(good.name); n != 3 {
		t.Errorf("%d messages of the other site are left, want 3", n)
	}
	if n := c.logs.count("site holds more than its share of the stream", "site=evil"); n == 0 {
		t.Error("it is not in the log")
	}
	evil.live(1)
	evil.publish(bus.Backfill, []byte("garbage")) // its place is still there
}
