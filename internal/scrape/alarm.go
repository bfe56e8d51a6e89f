package scrape

import "time"

// alarm wakes the goroutine of a loop.
type alarm interface {
	// wait blocks for d and reports true, or reports false as soon as it is interrupted. It is for one goroutine.
	wait(d time.Duration) bool
	// interrupt ends the wait that is under way, or else the next one. It is safe for concurrent use.
	interrupt()
	// close frees what the alarm has. It is called by who waits, behind the last wait.
	close()
}

// timerAlarm is an alarm for every system.
type timerAlarm struct{ interrupted chan struct{} }

func newTimerAlarm() timerAlarm { return timerAlarm{make(chan struct{}, 1)} }

func (a timerAlarm) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-a.interrupted:
		return false
	}
}

func (a timerAlarm) interrupt() {
	select {
	case a.interrupted <- struct{}{}:
	default:
	}
}

func (a timerAlarm) close() {}
