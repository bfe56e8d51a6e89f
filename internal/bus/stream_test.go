package bus_test

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alecthomas/units"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/common/model"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/natsd"
)

func TestEnsureStream(t *testing.T) {
	server := bustest.NewServer(t)
	nc := rawHub(t, server)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ensure := func(change func(*bus.StreamConfig)) (bus.StreamResult, error) {
		t.Helper()
		config := bustest.Config(server.URL())
		change(&config.Stream)
		hub := bustest.Connected(t, bus.Options{Config: config})
		defer hub.Close()
		return hub.EnsureStream(t.Context())
	}
	unmanaged := func(c *bus.StreamConfig) { c.Manage = false }
	// replace repeats, as hubs do: nats-server removes the empty directory above a deleted stream after it has answered,
	// and the next stream may be made in between.
	replace := func(config jetstream.StreamConfig) {
		t.Helper()
		if err := js.DeleteStream(t.Context(), config.Name); err != nil {
			t.Fatal(err)
		}
		bustest.WaitFor(t, "stream to be replaced", func() bool {
			_, err := js.CreateStream(t.Context(), config)
			if err != nil {
				t.Log(err)
			}
			return err == nil
		})
	}

	if _, err := ensure(unmanaged); !errors.Is(err, bus.ErrNoStream) {
		t.Errorf("absent and not managed: %v", err)
	}
	r, err := ensure(func(*bus.StreamConfig) {})
	if err != nil || !r.Created || r.Updated || len(r.Differences) > 0 {
		t.Errorf("absent: %+v, %v", r, err)
	}
	info, err := stream(t, nc).Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if c := info.Config; c.Subjects[0] != "thalweg.v1.lane.>" || c.Storage != jetstream.FileStorage || c.Discard != jetstream.DiscardOld ||
		c.MaxAge != 24*time.Hour || c.MaxBytes != int64(64*units.MiB) || !c.AllowDirect {
		t.Errorf("stream is made as %+v", c)
	}
	r, err = ensure(func(*bus.StreamConfig) {})
	if err != nil || r.Created || r.Updated || len(r.Differences) > 0 {
		t.Errorf("present: %+v, %v", r, err)
	}

	smaller := func(c *bus.StreamConfig) {
		c.MaxAge = model.Duration(time.Hour)
		c.MaxBytes = 32 * units.MiB
	}
	r, err = ensure(func(c *bus.StreamConfig) { smaller(c); c.Manage = false })
	if err != nil || r.Updated || strings.Join(r.Differences, "; ") != "max_age is 24h0m0s, want 1h0m0s; max_bytes is 67108864, want 33554432" {
		t.Errorf("different and not managed: %+v, %v", r, err)
	}
	r, err = ensure(smaller)
	if err != nil || !r.Updated || len(r.Differences) != 2 {
		t.Errorf("different: %+v, %v", r, err)
	}
	if r, err = ensure(smaller); err != nil || r.Updated || len(r.Differences) > 0 {
		t.Errorf("brought into line: %+v, %v", r, err)
	}
	if info, err := stream(t, nc).Info(t.Context()); err != nil || info.Config.MaxAge != time.Hour {
		t.Errorf("stream is %+v, %v", info, err)
	}

	// What cannot be changed is an error that says what it is.
	other := jetstream.StreamConfig{Name: "THALWEG", Subjects: []string{"ships.>"}, Storage: jetstream.MemoryStorage, MaxBytes: 1 << 20}
	replace(other)
	if _, err = ensure(unmanaged); err == nil || !strings.Contains(err.Error(), "captures ships.>") {
		t.Errorf("other subjects and not managed: %v", err)
	}
	if _, err = ensure(func(*bus.StreamConfig) {}); err == nil || !strings.Contains(err.Error(), "storage is Memory, want File") {
		t.Errorf("other storage: %v", err)
	}

	// A copy of another stream captures nothing itself, and sites do not talk to it.
	copied := jetstream.StreamConfig{
		Name: "THALWEG", MaxAge: 24 * time.Hour, MaxBytes: int64(32 * units.MiB), Sources: []*jetstream.StreamSource{{Name: "REGION"}},
	}
	replace(copied)
	r, err = ensure(unmanaged)
	if err != nil || r.Updated || strings.Join(r.Differences, "; ") != "max_bytes is 33554432, want 67108864" {
		t.Errorf("copy: %+v, %v", r, err)
	}

	// A stream made by others may capture more.
	wider := jetstream.StreamConfig{Name: "THALWEG", Subjects: []string{"ships.>", "thalweg.*.lane.>"}, MaxBytes: 1 << 20}
	replace(wider)
	if _, err = ensure(unmanaged); err == nil || !strings.Contains(err.Error(), "allow_direct") {
		t.Errorf("without direct get and not managed: %v", err)
	}
	r, err = ensure(func(*bus.StreamConfig) {})
	if err != nil || !r.Updated || strings.Contains(strings.Join(r.Differences, "; "), "subjects") {
		t.Errorf("wider: %+v, %v", r, err)
	}
	if info, err := stream(t, nc).Info(t.Context()); err != nil || len(info.Config.Subjects) != 2 || !info.Config.AllowDirect {
		t.Errorf("stream is %+v, %v", info, err)
	}
}

// TestHubsStartTogether: the server has room for one stream of this size, which all hubs try to make.
func TestHubsStartTogether(t *testing.T) {
	big := func(c *bus.StreamConfig) { c.MaxBytes = 4 * units.GiB }
	server := bustest.NewServer(t, func(o *natsd.Options) { big(&o.Stream) })
	config := bustest.Config(server.URL())
	big(&config.Stream)
	var hubs []*bus.Conn
	for range 8 {
		hubs = append(hubs, bustest.Connected(t, bus.Options{Config: config}))
	}
	var created atomic.Int64
	var all sync.WaitGroup
	for _, hub := range hubs {
		all.Go(func() {
			r, err := hub.EnsureStream(t.Context())
			if err != nil || r.Updated || len(r.Differences) > 0 {
				t.Errorf("result is %+v, %v", r, err)
			}
			if r.Created {
				created.Add(1)
			}
		})
	}
	all.Wait()
	if created.Load() == 0 {
		t.Error("nobody created the stream")
	}
}
