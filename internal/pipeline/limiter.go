package pipeline

import (
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// DefaultBurst is how long a site may have saved up samples for: a few rounds of scrapes.
	DefaultBurst = 2 * time.Minute
	// newFor is how long a series must have been away to count as new again, at least, and how long a pipeline takes
	// everything for known that limits.series has room for.
	newFor = time.Hour
)

// counted reports whether the series that are alive have to be counted.
func (l *Limits) counted() bool {
	return l.Series > 0 || l.SeriesPerSource > 0 || l.NewSeriesPerHour > 0
}

// limiter counts what all sources of a site use together.
type limiter struct {
	mu     sync.Mutex
	limits Limits
	burst  time.Duration
	clock  clock

	active  int // series alive
	refused int // series that are there and refused
	counts  map[Reason]uint64
	worst   offenders

	samples bucket
	fresh   bucket // new series
	// Hashes of series that ended within this period of newFor, and the one before.
	left, leftBefore map[uint64]struct{}
	period           int64 // number of the period
}

func newLimiter(l Limits, burst time.Duration) *limiter {
	x := &limiter{limits: l, burst: burst, counts: map[Reason]uint64{}, left: map[uint64]struct{}{}}
	x.samples.level = x.sampleCapacity()
	x.fresh.level = x.freshCapacity()
	return x
}

// setLimits puts others in force, from the next row on.
func (x *limiter) setLimits(l Limits) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.limits.SamplesPerSecond == 0 {
		x.samples.level = float64(l.SamplesPerSecond) * x.burst.Seconds()
	}
	if x.limits.NewSeriesPerHour == 0 {
		x.fresh.level = float64(l.NewSeriesPerHour)
	}
	x.limits = l
	x.worst = offenders{}
}

func (x *limiter) sampleCapacity() float64 {
	return float64(x.limits.SamplesPerSecond) * x.burst.Seconds()
}

// freshCapacity is how many new series may come at once.
func (x *limiter) freshCapacity() float64 {
	if x.clock.elapsed < newFor.Milliseconds() {
		return float64(max(x.limits.Series, x.limits.NewSeriesPerHour))
	}
	return float64(x.limits.NewSeriesPerHour)
}

// takeSamples reports whether there is room for a row of n samples made at t, or makes some. A row is let in as a whole,
// so that the next ones may have to pay for it.
func (x *limiter) takeSamples(n int, t, now int64, always bool) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.refillSamples(t, now) == 0 {
		return true
	}
	if x.samples.level <= 0 && !always {
		return false
	}
	x.samples.level -= float64(n)
	return true
}

// early says how long it is until there is room for rows, the newest of which was made at t; 0 if there is.
func (x *limiter) early(t, now int64) time.Duration {
	x.mu.Lock()
	defer x.mu.Unlock()
	rate := x.refillSamples(t, now)
	if rate == 0 || x.samples.level > 0 {
		return 0
	}
	return max(time.Duration(-x.samples.level/rate*float64(time.Second)), time.Second)
}

// refillSamples returns the rate of samples, in 1/s; 0 is none. The caller holds mu.
func (x *limiter) refillSamples(t, now int64) float64 {
	x.advance(t, now)
	rate := float64(x.limits.SamplesPerSecond)
	if rate > 0 {
		x.samples.refill(x.clock.elapsed, rate/1000, x.sampleCapacity())
	}
	return rate
}

// advance brings the clock forward. The caller holds mu.
func (x *limiter) advance(t, now int64) {
	x.clock.advance(t, now)
	if period := x.clock.elapsed / newFor.Milliseconds(); period != x.period {
		x.period = period
		x.turn()
		x.worst.fade()
	}
}

// turn forgets the older half of the series that ended.
func (x *limiter) turn() { x.left, x.leftBefore = map[uint64]struct{}{}, x.left }

// remembers reports whether it matters which series ended.
func (x *limiter) remembers() bool { return x.limits.NewSeriesPerHour > 0 }

// release takes n series of a source off the account.
func (x *limiter) release(n int) { x.active -= n }

// remember notes a series that ended.
func (x *limiter) remember(hash uint64) {
	if len(x.left) >= max(x.limits.Series, x.limits.NewSeriesPerHour) {
		x.turn()
	}
	x.left[hash] = struct{}{}
}

// admit takes a series up, or says why not. ofSource counts those that the source has alive; hash is asked for only if
// it matters. The caller holds mu.
func (x *limiter) admit(ofSource int, hash func() uint64) Reason {
	if reason := x.full(ofSource); reason != Pass {
		return reason
	}
	if x.remembers() && !x.known(hash()) {
		x.fresh.refill(x.clock.elapsed, float64(x.limits.NewSeriesPerHour)/float64(newFor.Milliseconds()), x.freshCapacity())
		if x.fresh.level < 1 {
			return OverNew
		}
		x.fresh.level--
	}
	x.active++
	return Pass
}

// full tells which limit leaves no room for another series; Pass if it is at most that of new ones.
func (x *limiter) full(ofSource int) Reason {
	switch {
	case x.limits.SeriesPerSource > 0 && ofSource >= x.limits.SeriesPerSource:
		return OverSource
	case x.limits.Series > 0 && x.active >= x.limits.Series:
		return OverSeries
	}
	return Pass
}

// over tells which limit a source exceeds that has so many series alive, or all sources together; Pass if none.
func (x *limiter) over(ofSource int) Reason {
	switch {
	case x.limits.SeriesPerSource > 0 && ofSource > x.limits.SeriesPerSource:
		return OverSource
	case x.limits.Series > 0 && x.active > x.limits.Series:
		return OverSeries
	}
	return Pass
}

func (x *limiter) known(hash uint64) bool {
	_, now := x.left[hash]
	_, before := x.leftBefore[hash]
	return now || before
}

// room reports whether it is worth while to ask again for series that were refused. The caller holds mu.
func (x *limiter) room(ofSource int) bool {
	if x.full(ofSource) != Pass {
		return false
	}
	if !x.remembers() {
		return true
	}
	x.fresh.refill(x.clock.elapsed, float64(x.limits.NewSeriesPerHour)/float64(newFor.Milliseconds()), x.freshCapacity())
	return x.fresh.level >= 1
}

// count notes that something was refused. The caller holds mu.
func (x *limiter) count(r Reason, name string) {
	x.counts[r]++
	if !r.onPurpose() {
		x.worst.add(r, name)
	}
}

// clock tells how much time has passed: by the clock of who calls, or by the timestamps of rows, whichever goes faster.
// So a backlog that is sent at once counts by the time in which it was made. Nobody gains by timestamps more than the
// time that they span once: they count only where they are newer than all before.
type clock struct {
	elapsed     int64 // ms since the first row
	now, newest int64
	begun       bool
}

// maxAhead bounds how far ahead of the caller's clock timestamps count.
const maxAhead = 10 * time.Minute

func (c *clock) advance(t, now int64) {
	t = min(t, now+maxAhead.Milliseconds())
	if !c.begun {
		c.begun, c.now, c.newest = true, now, t
		return
	}
	c.elapsed += max(now-c.now, t-c.newest, 0)
	c.now, c.newest = now, max(c.newest, t)
}

// bucket is filled at a rate. Its level may be negative.
type bucket struct {
	level float64
	at    int64 // ms of a clock
}

func (b *bucket) refill(at int64, perMs, capacity float64) {
	b.level = min(b.level+float64(at-b.at)*perMs, capacity)
	b.at = at
}

// Offender is what was refused often: the name of a metric, or the key of a source where whole rows were refused.
type Offender struct {
	Reason Reason
	Name   string
	// Count of series, or of rows. What happened hours ago counts less.
	Count uint64
}

// maxOffenders bounds those that are counted at a time.
const maxOffenders = 32

// offenders counts the worst of an unbounded set in bounded memory: who finds no room takes the place of the least, with
// its count, as in the space-saving algorithm. Who really is among the worst is in it.
type offenders struct{ list []Offender }

func (o *offenders) add(r Reason, name string) {
	least := 0
	for i := range o.list {
		if x := &o.list[i]; x.Reason == r && x.Name == name {
			x.Count++
			return
		}
		if o.list[i].Count < o.list[least].Count {
			least = i
		}
	}
	if len(o.list) < maxOffenders {
		o.list = append(o.list, Offender{r, strings.Clone(name), 1})
		return
	}
	o.list[least] = Offender{r, strings.Clone(name), o.list[least].Count + 1}
}

// fade halves all counts.
func (o *offenders) fade() {
	for i := range o.list {
		o.list[i].Count /= 2
	}
	o.list = slices.DeleteFunc(o.list, func(x Offender) bool { return x.Count == 0 })
}

// worst returns at most n of them, the worst first.
func (o *offenders) worst(n int) []Offender {
	list := slices.Clone(o.list)
	slices.SortFunc(list, func(a, b Offender) int {
		if a.Count != b.Count {
			return int(int64(b.Count) - int64(a.Count))
		}
		return strings.Compare(a.Name, b.Name)
	})
	return list[:min(n, len(list))]
}
