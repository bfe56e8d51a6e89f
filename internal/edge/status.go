package edge

import (
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/outbox"
)

const (
	// PartHello is the part whose problems do not keep an edge from its work: no hub answers.
	PartHello = "hello"
	// PartOutbox is the part whose problem is that frames cannot be stored: the rows that come now are lost.
	PartOutbox = "outbox"
	// PartBacklog is the part whose problem is that the outbox does not hold all that waits.
	PartBacklog = "backlog"
)

// statusBoard holds what is wrong at the moment, by part.
type statusBoard struct {
	mu       sync.Mutex
	problems map[string]string
	changed  chan struct{}
}

func newStatusBoard() *statusBoard {
	return &statusBoard{problems: map[string]string{}, changed: make(chan struct{})}
}

func (b *statusBoard) set(part, reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if old, ok := b.problems[part]; !ok || old != reason {
		b.problems[part] = reason
		b.wake()
	}
}

func (b *statusBoard) clear(part string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.problems[part]; ok {
		delete(b.problems, part)
		b.wake()
	}
}

// wake tells who waits for a change. The caller holds mu.
func (b *statusBoard) wake() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// patience is how many attempts may fail before the log says so: the stream may be about to be made.
const patience = 5

// complain is set for a lane, and says so in the log, once a minute, when it is not over soon. While there is no
// connection that is said already.
func (e *Edge) complain(l bus.Lane, attempt int, err error) {
	e.status.set(string(l), err.Error())
	if attempt >= patience && e.conn.State().Connected {
		e.repeats.Log(slog.LevelWarn, "lane "+string(l), "frames cannot be sent; they stay in the outbox", slog.String("site", e.site),
			slog.String("lane", string(l)), slog.Any("err", err))
	}
}

// Problem is something that keeps the edge from its work at the moment.
type Problem struct {
	Part   string // outbox, link, live, backfill, hello, backlog
	Reason string
}

// Problems lists what is wrong at the moment, by part.
func (e *Edge) Problems() []Problem {
	ps, _ := e.WatchProblems()
	return ps
}

// WatchProblems returns Problems and a channel that is closed when they are no longer these.
func (e *Edge) WatchProblems() (ps []Problem, changed <-chan struct{}) {
	e.status.mu.Lock()
	defer e.status.mu.Unlock()
	for _, part := range slices.Sorted(maps.Keys(e.status.problems)) {
		ps = append(ps, Problem{part, e.status.problems[part]})
	}
	return ps, e.status.changed
}

// LaneStatus is what a lane did last.
type LaneStatus struct {
	Lane string
	// Last frame known to be stored on the lane, its sequence in the stream, and when that was learnt; zero if there is
	// none.
	Last     frame.ID
	Sequence uint64
	At       time.Time
	// ReplacedBy is the epoch of the process that took the lane over, or zero.
	ReplacedBy frame.Epoch
}

// Status is a picture of the edge for pages and the API.
type Status struct {
	Site     string
	Epoch    frame.Epoch
	Link     bus.State
	Newest   frame.ID // in the outbox
	Outbox   outbox.Stats
	Lanes    []LaneStatus
	Problems []Problem
	// Skew is how far this clock is ahead of the hub's that answered last, and Greeted when that was; zero if none did.
	Skew    time.Duration
	Greeted time.Time
}

// Status takes a picture. It waits for nothing that a slow disk could hold up, but reads files of the outbox that are
// acknowledged in part.
func (e *Edge) Status() Status {
	s := Status{Site: e.site, Epoch: e.Epoch(), Link: e.conn.State(), Outbox: e.outbox.Stats(), Problems: e.Problems()}
	last, _ := e.outbox.Last()
	s.Newest = last.ID
	s.Lanes = e.Lanes()
	e.mu.Lock()
	defer e.mu.Unlock()
	s.Skew, s.Greeted = e.skew, e.greeted
	return s
}

// Lanes tells what the live and the backfill lane did last.
func (e *Edge) Lanes() (list []LaneStatus) {
	for _, w := range []*wire{e.live, e.backfill} {
		w.mu.Lock()
		list = append(list, LaneStatus{Lane: string(w.lane), Last: w.last, Sequence: w.sequence, At: w.lastAt, ReplacedBy: w.taken})
		w.mu.Unlock()
	}
	return list
}

// unreadable notes that the outbox could not be read for a lane, which waits and tries again.
func (e *Edge) unreadable(l bus.Lane, err error) {
	e.metrics.readErrors.Inc()
	e.status.set(string(l), err.Error())
	e.repeats.Log(slog.LevelError, "unreadable "+string(l), "outbox cannot be read", slog.String("site", e.site),
		slog.String("lane", string(l)), slog.Any("err", err))
}
