package bus_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
)

// TestBucket: a bucket is one for other clients of NATS too, sets values by compare-and-set, and can be watched.
func TestBucket(t *testing.T) {
	server := bustest.NewServer(t)
	c := bustest.Connected(t, bus.Options{Config: bustest.Config(server.URL()), Bucket: "PEOPLE"})
	bustest.EnsureStream(t, c)
	if result, err := c.EnsureStream(t.Context()); err != nil || result.Created || len(result.Differences) > 0 {
		t.Errorf("bucket that was just made: %+v, %v", result, err)
	}
	ctx := t.Context()
	first, err := c.Publish(ctx, c.KeySubject("ada"), []byte("1815"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Publish(ctx, c.KeySubject("ada"), []byte("1816"), 0); !errors.As(err, new(*bus.SequenceError)) {
		t.Errorf("value of somebody else is replaced: %v", err)
	}
	if _, err := c.Publish(ctx, c.KeySubject("ada"), []byte("1852"), first); err != nil {
		t.Fatal(err)
	}
	if m, err := c.Last(ctx, c.KeySubject("ada")); err != nil || string(m.Payload) != "1852" {
		t.Errorf("value is %q, %v", m.Payload, err)
	}
	if _, err := c.Last(ctx, c.KeySubject("eve")); !errors.Is(err, bus.ErrNoMessage) {
		t.Errorf("key that is not there: %v", err)
	}

	nc, err := nats.Connect(server.URL(), nats.UserInfo("@hub", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(ctx, "PEOPLE")
	if err != nil {
		t.Fatal(err)
	}
	if entry, err := kv.Get(ctx, "ada"); err != nil || string(entry.Value()) != "1852" {
		t.Errorf("another client reads %v, %v", entry, err)
	}
}

// TestServeShared: of several that serve a subject together one answers each request.
func TestServeShared(t *testing.T) {
	server := bustest.NewServer(t)
	site := bustest.Connected(t, bus.Options{Config: bustest.Config(server.URL()), Site: "a"})
	var answers atomic.Int64
	for range 3 {
		hub := bustest.Connected(t, bus.Options{Config: bustest.Config(server.URL())})
		stop, err := hub.ServeShared(hub.Root().Enrols(), func(string, []byte) []byte {
			answers.Add(1)
			return []byte("done")
		})
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		bustest.WaitFor(t, "server to know the listener", func() bool {
			before := answers.Load()
			_, err := site.Request(t.Context(), site.Root().Enrol("a"), nil)
			return err == nil && answers.Load() == before+1
		})
	}
}

// TestLogin: who a client is is asked for anew at each connect, and the state says why that cannot be answered, or that
// the answer is not good enough.
func TestLogin(t *testing.T) {
	server := bustest.NewServer(t)
	var fails atomic.Bool
	fails.Store(true)
	c := bustest.Connect(t, bus.Options{
		Config: bustest.Config(server.URL()), Site: "a", LoginSource: "memory",
		Login: func() (bus.Login, error) {
			if fails.Load() {
				return bus.Login{}, errors.New("it has slipped my mind")
			}
			return bus.Login{Token: "a guess"}, nil
		},
	})
	bustest.WaitFor(t, "reason", func() bool { return strings.Contains(c.State().Reason, "slipped my mind") })
	fails.Store(false)
	bustest.WaitFor(t, "refusal", func() bool {
		s := c.State()
		return s.Refused && strings.Contains(s.Reason, "server refused the credential (memory)")
	})
}
