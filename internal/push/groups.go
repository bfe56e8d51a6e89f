package push

import (
	"container/heap"
	"fmt"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
	dto "github.com/prometheus/client_model/go"

	"github.com/thalweg/thalweg/internal/series"
)

// group is what was pushed under one grouping.
type group struct {
	site     *site
	key      string
	grouping grouping

	// changing is held while a push, a deletion or a sample of the group is under way, until its row is durable: rows of a
	// source have to come in order. What only its holder uses:
	changing sync.Mutex
	source   *series.Source // of the last row
	lastT    int64          // of the last row, ms
	gone     bool           // this is no group any more, there may be another one of the same key

	// Both changing and site.mu are held to write it, one of them to read it.
	state *state // nil: there is nothing in the group, yet or any more

	// Guarded by site.mu.
	place    int       // in site.order
	deadline time.Time // when the group expires; zero: never
	turn     int       // in site.deadlines; negative if it is not there
}

// state is what a group holds between two pushes. It is immutable but for row.
type state struct {
	families []family // sorted by name
	pushed   time.Time
	ttl      *time.Duration // of the last push; nil: the one for all, 0: none
	series   int            // metrics in families
	bytes    int

	// row is made when it is needed first, by the holder of the group's changing.
	row *series.Row
}

// family is a metric family of a group.
type family struct {
	name   string
	typ    dto.MetricType
	at     time.Time // when it was pushed
	data   []byte    // the message, in which metrics have all their labels
	hashes []uint64  // of name and labels of each metric
}

// deadline is when the group with this state expires; zero: never.
func (s *state) deadline(ttl time.Duration) time.Time {
	if s.ttl != nil {
		ttl = *s.ttl
	}
	if ttl == 0 {
		return time.Time{}
	}
	return s.pushed.Add(ttl)
}

// site are the groups of one site. A group is in groups and locked by somebody before it has a state, but counts and is
// sampled only with one.
type site struct {
	name   string
	limits Limits

	changes  chan struct{} // has a token for each request under way that changes a group
	reading  chan struct{} // for each body that is read
	decoding chan struct{} // for each body that is decoded

	mu        sync.Mutex
	groups    map[string]*group
	order     []*group // in which they are sampled; nil where one is gone
	index     index
	deadlines deadlines
	stats     Stats
	lastEnd   int64 // newest time of a row that ended a group, ms

	cycle cycle // of Run
}

func newSite(name string, limits Limits) *site {
	return &site{
		name: name, limits: limits, groups: map[string]*group{}, index: newIndex(),
		changes: make(chan struct{}, maxChanges), reading: make(chan struct{}, maxReading), decoding: make(chan struct{}, maxDecoding),
	}
}

// phase spreads sites over the interval, as scrapes of a site do: rows of both stand in one frame.
func (s *site) phase(interval time.Duration) time.Duration {
	return time.Duration(xxhash.Sum64String(s.name) % uint64(interval))
}

// acquire returns the group of a grouping, locked. It may be empty, and has to be released.
func (s *site) acquire(by grouping) *group {
	key := by.key()
	for {
		s.mu.Lock()
		g := s.groups[key]
		if g == nil {
			g = &group{site: s, key: key, grouping: by, place: -1, turn: -1}
			s.groups[key] = g
		}
		s.mu.Unlock()
		g.changing.Lock()
		if !g.gone {
			return g
		}
		g.changing.Unlock()
	}
}

// tryAcquire returns the group of a grouping, locked, or nil if there is none or somebody has locked it.
func (s *site) tryAcquire(by grouping) *group {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.groups[by.key()]; g != nil && g.changing.TryLock() {
		return g
	}
	return nil
}

// release unlocks a group, and forgets it if there is nothing in it.
func (g *group) release() {
	if g.state == nil {
		g.gone = true
		g.site.mu.Lock()
		delete(g.site.groups, g.key)
		g.site.mu.Unlock()
	}
	g.changing.Unlock()
}

// limitError means that there is no room for a push.
type limitError struct {
	what  string
	limit int
}

func (e *limitError) Error() string { return fmt.Sprintf("more than %d %s", e.limit, e.what) }

// replace puts a state in the place of that of a locked group, nil for none. It is refused if it contradicts other groups
// or, with a *limitError, if there is no room for it.
func (s *site) replace(g *group, next *state, ttl time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if next != nil {
		s.count(g.state, -1)
		err := s.index.check(next)
		if err == nil {
			err = s.room(next)
		}
		s.count(g.state, 1)
		if err != nil {
			return err
		}
	}
	s.swap(g, next, ttl)
	return nil
}

// put does so without asking, to begin with or to put back what was there.
func (s *site) put(g *group, next *state, ttl time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.swap(g, next, ttl)
}

func (s *site) swap(g *group, next *state, ttl time.Duration) {
	before := g.state
	s.count(before, -1)
	s.count(next, 1)
	g.state = next
	var deadline time.Time
	if next != nil {
		deadline = next.deadline(ttl)
	}
	s.deadlines.set(g, deadline)
	switch {
	case before == nil && next != nil:
		g.place = len(s.order)
		s.order = append(s.order, g)
	case before != nil && next == nil:
		s.order[g.place], g.place = nil, -1
	}
}

// count adds a state to the sums and the index, or takes it out of them.
func (s *site) count(st *state, n int) {
	if st == nil {
		return
	}
	s.stats.Groups += n
	s.stats.Series += n * st.series
	s.stats.Bytes += n * st.bytes
	s.index.count(st, n)
}

func (s *site) room(next *state) error {
	switch l := &s.limits; {
	case s.stats.Groups+1 > l.Groups:
		return &limitError{"groups", l.Groups}
	case s.stats.Series+next.series > l.Series:
		return &limitError{"metrics", l.Series}
	case s.stats.Bytes+next.bytes > l.Bytes:
		return &limitError{"bytes of metrics", l.Bytes}
	}
	return nil
}

// reschedule works the deadlines out anew.
func (s *site) reschedule(ttl time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.order {
		if g != nil {
			s.deadlines.set(g, g.state.deadline(ttl))
		}
	}
}

// expireAll makes all groups expire now.
func (s *site) expireAll(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.order {
		if g != nil {
			s.deadlines.set(g, now)
		}
	}
}

// content is a group as it was at one moment.
type content struct {
	grouping grouping
	state    *state
}

// contents returns all groups as they are.
func (s *site) contents() []content {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]content, 0, s.stats.Groups)
	for _, g := range s.order {
		if g != nil {
			all = append(all, content{g.grouping, g.state})
		}
	}
	return all
}

// deadlines is a heap of the groups that expire.
type deadlines []*group

func (d *deadlines) set(g *group, at time.Time) {
	g.deadline = at
	switch in := g.turn >= 0; {
	case at.IsZero() && in:
		heap.Remove(d, g.turn)
	case at.IsZero():
	case in:
		heap.Fix(d, g.turn)
	default:
		heap.Push(d, g)
	}
}

func (d deadlines) Len() int { return len(d) }

func (d deadlines) Less(i, j int) bool { return d[i].deadline.Before(d[j].deadline) }

func (d deadlines) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].turn, d[j].turn = i, j
}

func (d *deadlines) Push(x any) {
	g := x.(*group)
	g.turn = len(*d)
	*d = append(*d, g)
}

func (d *deadlines) Pop() any {
	n := len(*d) - 1
	g := (*d)[n]
	(*d)[n] = nil
	*d = (*d)[:n]
	g.turn = -1
	return g
}

// afterEnd is the first time, in ms, at which a group may begin.
func (s *site) afterEnd() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lastEnd + 1
}

// ended notes when a group ended.
func (s *site) ended(t int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastEnd = max(s.lastEnd, t)
}
