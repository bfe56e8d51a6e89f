package events

import "time"

const (
	// defaultWindow of the least and the greatest value.
	defaultWindow = time.Minute
	// maxAhead is how far the clock of a sender may be ahead. A value of a time beyond would keep all later ones out.
	maxAhead = time.Hour
)

// gauge is what a gauge has beside its value if its events have times or ask for extremes.
type gauge struct {
	t int64 // time of the last Set that had one, in ms

	// Of extremes:
	op       Op    // Min or Max; Set if it is a plain gauge
	window   int64 // length, in ms
	at       int64 // number of the window that runs
	current  float64
	complete bool // a window before it is over, and its extreme the value of the series
}

// update applies an event to a gauge.
func (m *member) update(e *Event, v float64, now int64) Reason {
	g, _ := m.parts.(*gauge)
	if g == nil {
		g = &gauge{}
		if e.T != 0 || e.Op == Min || e.Op == Max {
			m.parts = g
		}
	}
	switch e.Op {
	case Min, Max:
		return m.extreme(g, e, v, now)
	case Inc, Dec:
		if e.Op == Dec {
			v = -v
		}
		if g.op != Set {
			m.sum = sum{value: m.valueAt(now)}
		}
		m.sum.add(v)
	case Set:
		if e.T != 0 {
			if e.T < g.t {
				return Stale
			}
			g.t = e.T
		}
		m.sum = sum{value: v}
	}
	g.op = Set
	return Taken
}

// extreme takes a value into the window of its time.
func (m *member) extreme(g *gauge, e *Event, v float64, now int64) Reason {
	window := e.Window
	if window == 0 {
		window = defaultWindow
	}
	t := e.T
	if t == 0 {
		t = now
	}
	size := max(window.Milliseconds(), 1)
	at := t / size
	switch {
	case g.op != e.Op || g.window != size:
		g.op, g.window, g.at, g.current, g.complete = e.Op, size, at, v, false
	case at < g.at:
		return Stale
	case at > g.at:
		m.sum, g.complete = sum{value: g.current}, true
		g.at, g.current = at, v
	case e.Op == Min:
		g.current = min(g.current, v)
	default:
		g.current = max(g.current, v)
	}
	return Taken
}

// valueAt is the value of a gauge: of extremes that of the last window that is over, or, until there is one, of the one
// that runs.
func (m *member) valueAt(now int64) float64 {
	g, _ := m.parts.(*gauge)
	if g == nil || g.op == Set {
		return m.sum.total()
	}
	if !g.complete || now/g.window > g.at {
		return g.current
	}
	return m.sum.value
}
