package outbox

import "time"

const (
	historyMinutes = 60
	// historyLeast is the least history that a rate is told of: the first frames of a process are keyframes.
	historyLeast = time.Minute
)

// history counts the bytes of the last hour, by the minute. Times are since some moment in the past, and do not go back.
type history struct {
	minutes [historyMinutes]int64
	newest  int64 // the minute up to which minutes are counted
}

func (h *history) add(at time.Duration, bytes int64) {
	h.forget(at)
	h.minutes[h.newest%historyMinutes] += bytes
}

// forget makes room for a time.
func (h *history) forget(at time.Duration) {
	minute := max(int64(at/time.Minute), h.newest)
	for n := max(h.newest+1, minute-historyMinutes+1); n <= minute; n++ {
		h.minutes[n%historyMinutes] = 0
	}
	h.newest = minute
}

// rate is in bytes per second; false if there is too little history.
func (h *history) rate(at time.Duration) (float64, bool) {
	if at < historyLeast {
		return 0, false
	}
	h.forget(at)
	total := int64(0)
	for _, n := range h.minutes {
		total += n
	}
	// The minutes before the running one, and what has passed of that.
	seconds := min(at, (historyMinutes-1)*time.Minute+at%time.Minute).Seconds()
	return float64(total) / seconds, true
}
