package events

import (
	"slices"
	"time"
)

// deaths finds the series whose time is over: each is looked after in the second in which it may be, and no earlier.
type deaths struct {
	bySecond map[int64][]*member
	next     int64 // second that has not been looked at
}

// second in which the time of a series is over, if no event comes.
func (m *member) second() int64 { return (m.touched + m.ttl.Milliseconds() + 999) / 1000 }

// plan sees to it that a series is looked after when its time may be over.
func (d *deaths) plan(m *member) {
	if at := m.second(); m.death == 0 || at < m.death {
		if d.bySecond == nil {
			d.bySecond = map[int64][]*member{}
		}
		m.death = max(at, d.next)
		d.bySecond[m.death] = append(d.bySecond[m.death], m)
	}
}

// expire ends the series whose time is over. It returns how many.
func (a *aggregate) expire(now int64) (n int) {
	d := &a.deaths
	last := now / 1000
	for _, second := range d.due(last) {
		list := d.bySecond[second]
		delete(d.bySecond, second)
		for _, m := range list {
			if m.dead || m.death != second {
				continue
			}
			m.death = 0
			switch {
			case m.ttl == 0:
			case time.Duration(now-m.touched)*time.Millisecond >= m.ttl:
				a.remove(m)
				n++
			default:
				a.deaths.plan(m)
			}
		}
	}
	return n
}

// pass has time pass that does not count for the life of a series.
func (a *aggregate) pass(d time.Duration, now int64) {
	for _, f := range a.order {
		for _, m := range f.members {
			m.touched = min(m.touched+d.Milliseconds(), now) // the second in which it is looked after may be too early
		}
	}
}

// due returns the seconds up to the last one in which there is something to look after, in order.
func (d *deaths) due(last int64) (seconds []int64) {
	if last-d.next < int64(len(d.bySecond)) {
		for ; d.next <= last; d.next++ {
			if d.bySecond[d.next] != nil {
				seconds = append(seconds, d.next)
			}
		}
		return seconds
	}
	for second := range d.bySecond {
		if second <= last {
			seconds = append(seconds, second)
		}
	}
	slices.Sort(seconds)
	d.next = max(d.next, last+1)
	return seconds
}
