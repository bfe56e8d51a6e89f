package lane_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/series"
)

var (
	simulationSeeds = flag.Uint64("lane.seeds", 500, "how many seeds TestSimulation tries, a tenth with -short")
	simulationSeed  = flag.Uint64("lane.seed", 0, "the only seed of TestSimulation, with a trace")
	simulationHarms = flag.String("lane.harms", "", "what may go wrong in it, separated by spaces; default: what the seed says")
)

// A site, a stream and a hub without any I/O: rows go through Sender, an outbox in memory, two Publishers and PlanStart
// onto a stream that loses and repeats answers, lags, is rewound, restored, emptied and cut in front, and out of a
// Receiver. Edges are driven as package edge does it, the hub as an output of package hub does it.

// harm is a kind of fault beside the bad luck of every request.
type harm uint

const (
	truncated  harm = 1 << iota // the stream ends earlier
	restored                    // an older copy of the stream
	deleted                     // another stream
	expired                     // the oldest messages are gone
	others                      // other sites publish
	cutOff                      // the edge's session ends
	edgeKilled                  // what the edge had not written down is gone
	powerCut                    // so are its newest frames, which were not synced
	evicted                     // the oldest file of the outbox goes
	unwritten                   // the outbox takes no frames for a moment
	outage                      // nothing is heard for more than a minute
	reversion                   // the next process writes frames of another version
	twin                        // a second process with a copy of the outbox; or one of the two goes
	hubKilled                   // after or before it wrote down the last message
	delayed                     // a publish arrives long after it was given up

	allHarm = delayed<<1 - 1
)

var harmNames = []string{
	"truncated", "restored", "deleted", "expired", "others", "cutOff", "edgeKilled", "powerCut", "evicted", "unwritten", "outage",
	"reversion", "twin", "hubKilled", "delayed",
}

func (h harm) String() (s string) {
	for i, name := range harmNames {
		if h&(1<<i) != 0 {
			s += " " + name
		}
	}
	return s
}

func parseHarms(t *testing.T, text string) (h harm) {
	for _, name := range strings.Fields(text) {
		i := slices.Index(harmNames, name)
		if i < 0 {
			t.Fatalf("no harm is called %q; there are %s", name, allHarm)
		}
		h |= 1 << i
	}
	return h
}

// simRow is a row that an edge made.
type simRow struct {
	id       frame.ID // of its frame
	accepted bool     // and must be delivered
	// excused: it may stand in a gap instead.
	excused   bool
	delivered int
	repeats   int // how often it may be delivered again
}

// simFrame is what is known of a frame from outside.
type simFrame struct {
	order int // of all frames of its line of processes
	line  int
	sent  bool // it was on the stream once
	rows  []*simRow
}

type simulation struct {
	*rand.Rand
	harms harm // that may happen
	calm  bool // nothing goes wrong any more
	now   int64
	trace func(format string, args ...any)

	edges []*simEdge
	epoch frame.Epoch // the newest
	lines int
	// forked: two processes had the same outbox, or one of which the newest part was lost that had been sent.
	forked bool
	rows   map[string]*simRow
	// pending are the rows of an epoch, in order, that stand in no frame yet.
	frames  map[frame.ID]*simFrame
	sources []*series.Source
	schema  *series.Schema

	stream simStream
	hub    simHub
}

// simFailure is what went wrong in a simulation.
type simFailure string

func failf(format string, args ...any) { panic(simFailure(fmt.Sprintf(format, args...))) }

func newSimulation(seed uint64, harms harm, trace func(string, ...any)) *simulation {
	s := &simulation{
		Rand: rand.New(rand.NewPCG(seed, 7)), harms: harms, now: 1_700_000_000_000, trace: trace,
		rows: map[string]*simRow{}, frames: map[frame.ID]*simFrame{},
	}
	catalog := series.NewCatalog()
	var columns []series.Column
	for i := range 3 {
		columns = append(columns, series.Synthetic(fmt.Sprintf("metric_%d", i), "A metric."))
	}
	s.schema = catalog.Extend(catalog.Empty(), columns)
	for i := range 3 {
		s.sources = append(s.sources, &series.Source{
			Key: fmt.Sprintf("static/%d", i), Labels: labels.FromStrings("instance", fmt.Sprint(i), "job", "j"), Interval: time.Second,
		})
	}
	s.stream.next = 1
	s.hub.init(s)
	e := &simEdge{s: s, inOrder: seed%5 == 0}
	e.begin()
	s.edges = []*simEdge{e}
	return s
}

// unlucky reports whether something goes wrong now.
func (s *simulation) unlucky(percent int) bool { return !s.calm && s.IntN(100) < percent }

func simKey(r *series.Row) string { return fmt.Sprintf("%s %d %x", r.Source.Key, r.T, r.Values) }

// play does one thing.
func (s *simulation) play() {
	e := s.edges[s.IntN(len(s.edges))]
	switch k := s.IntN(20); {
	case k < 3:
		e.makeRows(1 + s.IntN(3))
	case k < 10:
		e.step(e.ways[0])
	case k < 15:
		e.step(e.ways[1])
	case k < 19:
		s.hub.read()
		if s.IntN(8) == 0 {
			e.save()
		}
	default:
		s.arrive()
		if s.IntN(4) == 0 {
			s.harm(1 << s.IntN(len(harmNames)))
		}
	}
	s.check()
}

// harm lets something go wrong.
func (s *simulation) harm(h harm) {
	e := s.edges[s.IntN(len(s.edges))]
	amount := s.IntN(8) // whatever happens: the same seed with fewer harms is nearly the same story
	if s.harms&h == 0 {
		return
	}
	s.trace("harm:%s", h)
	if h&(truncated|restored|deleted) != 0 {
		for _, e := range s.edges {
			e.session = e.session && h == deleted // the server was away for the others
			// Who owned the lane is lost with it.
			e.ways[0].owned, e.ways[1].owned = false, false
		}
	}
	switch h {
	case truncated:
		s.stream.truncate(amount)
	case restored:
		s.stream.restore(s, amount)
	case deleted:
		s.stream.messages, s.stream.next, s.stream.life = nil, 1, s.stream.life+1
	case expired:
		s.expire(amount)
	case others:
		s.stream.next += uint64(amount)
	case cutOff:
		e.session = false
	case edgeKilled:
		e.begin()
	case powerCut:
		e.forgetNewest(amount)
		e.begin()
	case evicted:
		e.evict()
	case unwritten:
		e.unwritten = 1 + amount/2
	case outage: // as far as anybody can tell
		s.now += 90_000
	case reversion:
		e.version = frame.Versions()[amount%len(frame.Versions())]
		e.begin()
	case twin:
		s.twin(e)
	case hubKilled:
		s.hub.kill(amount%2 == 0)
	case delayed:
		s.stream.lateness = 20
	}
}

// expire discards the oldest messages. What the hub did not read of them, and cannot decode without them, may be lost;
// that there is something must be known to it already.
func (s *simulation) expire(n int) {
	if s.hub.position == 0 {
		return
	}
	n = min(n, len(s.stream.messages))
	for _, m := range s.stream.messages[min(n, s.hub.position):n] {
		for _, id := range frameIDs(m.payload) {
			s.frames[id].excuse()
		}
	}
	s.stream.messages = slices.Clone(s.stream.messages[n:])
	s.hub.position = max(s.hub.position-n, 0)
	s.hub.expired = true
}

func (f *simFrame) excuse() {
	for _, r := range f.rows {
		r.excused = true
	}
}

// twin starts a second process with a copy of the outbox, or ends one of the two for ever. What it had not brought onto
// the stream is lost with it.
func (s *simulation) twin(e *simEdge) {
	if len(s.edges) == 1 {
		other := &simEdge{s: s, box: e.box.clone(), saved: e.saved.clone(), inOrder: e.inOrder, copied: s.epoch}
		s.lines++
		other.line = s.lines
		s.forked = true
		other.begin()
		s.edges = append(s.edges, other)
		return
	}
	i := slices.Index(s.edges, e)
	s.edges = slices.Delete(s.edges, i, i+1)
	survivor := s.edges[0]
	for id, f := range s.frames {
		if survivor.box.index(id) < 0 {
			f.excuse()
			if f.line == e.line {
				for _, r := range f.rows {
					r.accepted = false
				}
			}
		}
	}
}

// check holds the ledger against what was delivered.
func (s *simulation) check() {
	site := s.hub.receiver.Site("s")
	if site == nil {
		return
	}
	have, lacking := site.Ledger.Rows()
	if have != uint64(s.hub.delivered) || have+lacking > uint64(len(s.rows)) {
		failf("ledger has %d rows and lacks %d; %d were made and %d delivered", have, lacking, len(s.rows), s.hub.delivered)
	}
}

// finish lets nothing go wrong any more, and expects the promise to hold soon.
func (s *simulation) finish() {
	s.calm = true
	for len(s.edges) > 1 {
		s.harms |= twin
		s.harm(twin)
	}
	s.stream.late = nil
	if s.forked && s.harms&(truncated|restored|deleted) != 0 {
		// What one process knows to be stored, the server may lose without the other's noticing it.
		for _, f := range s.frames {
			f.excuse()
		}
	}
	e := s.edges[0]
	for rounds := 0; ; rounds++ {
		missing := s.missing()
		if rounds > 0 && missing == 0 && e.box.unacked() == e.box.end() {
			break
		}
		if rounds > 2000 {
			failf("%d accepted rows were not delivered, frame %d of %d is not stored; gaps %+v", missing, e.box.unacked(), e.box.end(), s.hub.gaps())
		}
		if rounds < 200 {
			e.makeRows(1) // a publish brings to light what was lost
		}
		for range 12 {
			e.step(e.ways[0])
			e.step(e.ways[1])
			s.hub.read()
		}
	}
	s.check()
	if !s.forked {
		s.judgeGaps()
	}
}

// missing counts the rows that must be delivered and are not.
func (s *simulation) missing() (n int) {
	for _, r := range s.rows {
		if r.accepted && !r.excused && r.delivered == 0 {
			n++
		}
	}
	return n
}

// judgeGaps expects that every accepted row that was not delivered stands in a gap that says why, and that no gap is made
// up.
func (s *simulation) judgeGaps() {
	gaps := s.hub.gaps()
	inGaps := uint64(0)
	for _, g := range gaps {
		inGaps += g.Rows
	}
	lost := uint64(0)
	for key, r := range s.rows {
		if r.delivered > 0 || r.id.Number == 0 {
			continue
		}
		lost++
		if r.accepted && !slices.ContainsFunc(gaps, func(g lane.Gap) bool {
			return g.Epoch == r.id.Epoch && g.From <= r.id.Number && r.id.Number <= g.To && g.Cause != lane.NotArrived
		}) {
			failf("row %s of frame %s was accepted, not delivered, and stands in no gap that has a cause: %+v", key, r.id, gaps)
		}
	}
	if inGaps > lost {
		failf("gaps have %d rows, %d were not delivered: %+v", inGaps, lost, gaps)
	}
}

// simulate plays a seed and returns what went wrong.
func simulate(seed uint64, harms harm, steps int, trace func(string, ...any)) (failure error) {
	step := 0
	defer func() {
		switch x := recover().(type) {
		case nil:
		case simFailure:
			failure = fmt.Errorf("step %d: %s", step, x)
		default:
			panic(x)
		}
	}()
	s := newSimulation(seed, harms, trace)
	for ; step < steps; step++ {
		s.play()
	}
	s.finish()
	return nil
}

// harmsOf is what goes wrong in a seed: everything in some of them, less in most, so that each thing is also met alone.
func harmsOf(seed uint64) harm {
	if seed%4 == 0 {
		return allHarm
	}
	r := rand.New(rand.NewPCG(seed, 8))
	return harm(r.Uint64()&r.Uint64()) & allHarm
}

// TestSimulation plays a million steps, or more by -lane.seeds.
func TestSimulation(t *testing.T) {
	const steps = 2000
	seeds, silent := *simulationSeeds, func(string, ...any) {}
	if testing.Short() {
		seeds /= 10
	}
	if seed := *simulationSeed; seed != 0 {
		harms := harmsOf(seed)
		if *simulationHarms != "" {
			harms = parseHarms(t, *simulationHarms)
		}
		if err := simulate(seed, harms, steps, t.Logf); err != nil {
			t.Fatal(err)
		}
		return
	}
	for seed := uint64(1); seed <= seeds; seed++ {
		harms := harmsOf(seed)
		err := simulate(seed, harms, steps, silent)
		if err == nil {
			continue
		}
		for i := range harmNames { // what is needed for it
			if less := harms &^ (1 << i); less != harms {
				if e := simulate(seed, less, steps, silent); e != nil {
					harms, err = less, e
				}
			}
		}
		t.Errorf("seed %d with%s: %v", seed, harms, err)
	}
}
