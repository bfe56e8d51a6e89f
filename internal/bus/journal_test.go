package bus_test

import (
	"errors"
	"testing"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
)

// TestJournal: entries are kept in order and appended by compare-and-set, and the first ones can be dropped.
func TestJournal(t *testing.T) {
	server := bustest.NewServer(t)
	c := bustest.Connected(t, bus.Options{Config: bustest.Config(server.URL()), Journals: "NOTES"})
	if r, err := c.EnsureStream(t.Context()); err != nil || !r.Created {
		t.Fatalf("%+v, %v", r, err)
	}
	if r, err := c.EnsureStream(t.Context()); err != nil || len(r.Differences) > 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	subject, other := c.JournalSubject("a.b"), c.JournalSubject("a.c")
	last := uint64(0)
	for _, entry := range []string{"one", "two", "three"} {
		var err error
		if last, err = c.Publish(t.Context(), subject, []byte(entry), last); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Publish(t.Context(), other, []byte("x"), 0); entry == "one" && err != nil {
			t.Fatal(err)
		}
	}
	_, err := c.Publish(t.Context(), subject, []byte("late"), last-1)
	if refused := (*bus.SequenceError)(nil); !errors.As(err, &refused) || refused.Last != last {
		t.Errorf("an entry behind another one: %v", err)
	}
	read := func(want string) {
		t.Helper()
		got := ""
		r, err := c.NewReader(bus.ReaderOptions{Name: "test", Subjects: []string{subject}, End: last, Handle: func(m bus.Message) error {
			got += string(m.Payload) + " "
			return nil
		}})
		if err == nil {
			err = r.Run(t.Context())
		}
		if err != nil || got != want {
			t.Errorf("entries are %q, want %q: %v", got, want, err)
		}
	}
	read("one two three ")
	if n, err := c.Purge(t.Context(), subject, last); n != 2 || err != nil {
		t.Errorf("%d entries were dropped: %v", n, err)
	}
	read("three ")
}
