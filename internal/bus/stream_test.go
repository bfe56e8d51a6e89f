package bus_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/units"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/common/model"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
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
	if err := js.DeleteStream(t.Context(), "THALWEG"); err != nil {
		t.Fatal(err)
	}
	other := jetstream.StreamConfig{Name: "THALWEG", Subjects: []string{"ships.>"}, Storage: jetstream.MemoryStorage, MaxBytes: 1 << 20}
	if _, err := js.CreateStream(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if _, err = ensure(unmanaged); err == nil || !strings.Contains(err.Error(), "captures ships.>") {
		t.Errorf("other subjects and not managed: %v", err)
	}
	if _, err = ensure(func(*bus.StreamConfig) {}); err == nil || !strings.Contains(err.Error(), "storage is Memory, want File") {
		t.Errorf("other storage: %v", err)
	}

	// A stream made by others may capture more.
	if err := js.DeleteStream(t.Context(), "THALWEG"); err != nil {
		t.Fatal(err)
	}
	wider := jetstream.StreamConfig{Name: "THALWEG", Subjects: []string{"ships.>", "thalweg.*.lane.>"}, MaxBytes: 1 << 20}
	if _, err := js.CreateStream(t.Context(), wider); err != nil {
		t.Fatal(err)
	}
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
