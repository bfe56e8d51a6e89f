package bus_test

import (
	"errors"
	"testing"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
)

// TestEvents: a site appends to its subject, once for each id, and a reader of all gets a position with each message.
func TestEvents(t *testing.T) {
	server := bustest.NewServer(t)
	c := bustest.Connected(t, bus.Options{Config: bustest.Config(server.URL()), Events: "THALWEG_EVENTS"})
	site := bustest.Connected(t, bus.Options{Config: bustest.Config(server.URL()), Site: "ams-1"})
	subject := site.Root().Events("ams-1")
	if _, err := site.Append(t.Context(), subject, []byte("early"), ""); !errors.Is(err, bus.ErrNotStored) || !errors.Is(err, bus.ErrNoListener) {
		t.Errorf("without a stream: %v", err)
	}
	for _, created := range []bool{true, false} {
		if r, err := c.EnsureStream(t.Context()); err != nil || r.Created != created || len(r.Differences) > 0 {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	for i, want := range []uint64{1, 2, 2, 3} {
		payload := []string{"one", "two", "two", "three"}[i]
		if got, err := site.Append(t.Context(), subject, []byte(payload), payload); got != want || err != nil {
			t.Errorf("%s is message %d, want %d: %v", payload, got, want, err)
		}
	}
	read, last := "", bus.Position{}
	reader, err := c.NewReader(bus.ReaderOptions{Name: "test", Subjects: []string{c.Root().AllEvents()}, End: 3, Handle: func(m bus.Message) error {
		read += string(m.Payload) + " "
		last = m.Position
		return nil
	}})
	if err == nil {
		err = reader.Run(t.Context())
	}
	if err != nil || read != "one two three " || last != reader.Position() || last.Sequence != 3 {
		t.Errorf("read %q up to %v: %v", read, last, err)
	}
}

func TestParseEvents(t *testing.T) {
	root := bus.Root("acme")
	for subject, want := range map[string]string{root.Events("a"): "a", root.AllEvents(): ""} {
		if site, err := root.ParseEvents(subject); site != want || err != nil {
			t.Errorf("%s: %q, %v", subject, site, err)
		}
	}
	for _, subject := range []string{"", "acme.v1.events.", "acme.v1.events.>", "acme.v1.events.a.b", "thalweg.v1.events.a"} {
		if site, err := root.ParseEvents(subject); err == nil {
			t.Errorf("%s: %q", subject, site)
		}
	}
}
