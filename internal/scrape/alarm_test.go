package scrape

import (
	"sync"
	"testing"
	"time"
)

func TestAlarm(t *testing.T) {
	for name, a := range map[string]alarm{"of the system": newAlarm(), "of the runtime": newTimerAlarm()} {
		t.Run(name, func(t *testing.T) {
			defer a.close()
			for _, d := range []time.Duration{-time.Second, 0, 1, time.Millisecond, 3 * time.Millisecond / 2} {
				begin := time.Now()
				if !a.wait(d) {
					t.Errorf("wait of %s: interrupted", d)
				}
				if passed := time.Since(begin); passed < d {
					t.Errorf("wait of %s took %s", d, passed)
				}
			}
			a.interrupt()
			a.interrupt()
			if a.wait(time.Hour) {
				t.Error("interrupted before the wait: the time has come")
			}
			if !a.wait(time.Millisecond) {
				t.Error("two interrupts ended two waits")
			}
			var waiting sync.WaitGroup
			waiting.Go(a.interrupt)
			if a.wait(time.Hour) {
				t.Error("interrupted during the wait: the time has come")
			}
			waiting.Wait()
		})
	}
}

// An alarm goes off however the time that it is set for and the beginning of the wait fall together.
func TestAlarmIsNeverMissed(t *testing.T) {
	a := newAlarm()
	defer a.close()
	for i := range 5_000 {
		if !a.wait(time.Duration(i % 3_000)) {
			t.Fatalf("wait %d: interrupted", i)
		}
	}
}
