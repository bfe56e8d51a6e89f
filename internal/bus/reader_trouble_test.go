package bus_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
)

// TestReaderTellsTrouble: a stream that is gone is trouble until there is one again, a connection that is gone is not.
func TestReaderTellsTrouble(t *testing.T) {
	server := bustest.NewServer(t)
	hub := bustest.Hub(t, server)
	proxy := bustest.NewProxy(t, server.Addr())
	trouble := make(chan error, 1000)
	r := read(t, bustest.Connected(t, bus.Options{Config: bustest.Config(proxy.URL())}),
		bus.ReaderOptions{Trouble: func(err error) { trouble <- err }})
	r.expect(caughtUp)
	proxy.Cut()
	r.expect(caughtUp, caughtUp)
	if len(trouble) > 0 {
		t.Errorf("lost connection is told as %v", <-trouble)
	}
	js, err := jetstream.New(rawHub(t, server))
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(t.Context(), "THALWEG"); err != nil {
		t.Fatal(err)
	}
	next := func() error {
		t.Helper()
		select {
		case err := <-trouble:
			return err
		case <-time.After(30 * time.Second):
			t.Fatal("nothing is told")
			return nil
		}
	}
	for err := next(); !errors.Is(err, bus.ErrNoStream); err = next() {
		if err == nil {
			t.Fatal("trouble is over without a stream")
		}
	}
	bustest.EnsureStream(t, hub)
	for next() != nil {
	}
	r.expect(caughtUp, caughtUp, caughtUp)
}

// TestReaderAwaitsStream: nobody is warned of a stream that is about to be made, as at each first start, but of one that
// others have to make.
func TestReaderAwaitsStream(t *testing.T) {
	server := bustest.NewServer(t)
	start := func(manage bool) (c *bus.Conn, r *tape, missed chan error, log func() string) {
		file, err := os.Create(filepath.Join(t.TempDir(), "log"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { file.Close() })
		missed = make(chan error, 1000)
		config := bustest.Config(server.URL())
		config.Stream.Manage = manage
		c = bustest.Connected(t, bus.Options{Config: config, Logger: slog.New(slog.NewTextHandler(file, nil))})
		r = read(t, c, bus.ReaderOptions{Trouble: func(err error) { missed <- err }})
		return c, r, missed, func() string {
			text, err := os.ReadFile(file.Name())
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
	}
	const warning = `msg="reader subscribes again"`
	_, _, _, log := start(false)
	bustest.WaitFor(t, "warning", func() bool { return strings.Contains(log(), warning) })

	c, r, missed, log := start(true)
	if err := <-missed; !errors.Is(err, bus.ErrNoStream) {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var keeper sync.WaitGroup
	keeper.Go(func() { c.KeepStream(ctx, func(string) {}) })
	r.expect(caughtUp)
	cancel()
	keeper.Wait()
	if text := log(); strings.Contains(text, warning) || !strings.Contains(text, "stream created") {
		t.Errorf("the log is\n%s", text)
	}
}

func TestReaderBeforeServerAndStream(t *testing.T) {
	server := bustest.NewServer(t)
	server.Stop()
	hub := bustest.Connect(t, bus.Options{Config: bustest.Config(server.URL())})
	r := read(t, hub, bus.ReaderOptions{})
	bustest.WaitFor(t, "failed attempt", func() bool { return strings.Contains(hub.State().Reason, "refused") })
	server.Start()
	bustest.WaitFor(t, "connection", func() bool { return hub.State().Connected })
	bustest.EnsureStream(t, hub)
	newPublisher(t, hub, "a", bus.Live).send("1")
	bustest.WaitFor(t, "message", func() bool { return slices.Equal(r.payloadsOnly(), []string{"1"}) })
	if _, err := os.Stat(server.Options.StoreDir); err != nil {
		t.Error(err)
	}
}
