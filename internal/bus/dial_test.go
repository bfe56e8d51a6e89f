package bus

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// TestReconnectDelay: a link that returns is found within a second, however long nothing answered; who is answered, and
// not let in, comes ever more rarely. No two clients wait for the same time.
func TestReconnectDelay(t *testing.T) {
	f := func(reached bool, rounds int, least, most time.Duration) {
		t.Helper()
		c := &Conn{nc: &nats.Conn{}, dialed: true, reached: reached}
		different := map[time.Duration]bool{}
		for range 100 {
			d := c.reconnectDelay(rounds)
			if d < least || d > most {
				t.Fatalf("pause %d is %s, want %s to %s", rounds, d, least, most)
			}
			different[d] = true
		}
		if len(different) < 50 {
			t.Errorf("pause %d has %d values in 100", rounds, len(different))
		}
	}
	for _, rounds := range []int{1, 2, 3, 20, 100_000} {
		f(false, rounds, 250*time.Millisecond, 750*time.Millisecond)
	}
	f(true, 1, 250*time.Millisecond, 500*time.Millisecond)
	f(true, 3, 250*time.Millisecond, 2*time.Second)
	f(true, 100_000, 250*time.Millisecond, 5*time.Second)
	if d := (&Conn{nc: &nats.Conn{}}).reconnectDelay(1); d > 10*time.Millisecond {
		t.Errorf("the first attempt of all waits for %s", d)
	}
}
