package lane_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/series"
)

// A site, a stream and a hub without any I/O: rows go through Sender, an outbox in memory, two Publishers and PlanStart
// onto a stream that loses and repeats answers, lags, is rewound and is emptied, and out of a Receiver. The edge is
// driven as package edge does it, the hub as an output of package hub does it.

// boxed is a frame in the outbox.
type boxed struct {
	header frame.Header
	data   []byte
	acked  bool
}

// box is the outbox.
type box []boxed

func (b box) index(id frame.ID) int {
	return slices.IndexFunc(b, func(x boxed) bool { return x.header.ID == id })
}

func (b box) knows(e frame.Epoch) bool {
	return slices.ContainsFunc(b, func(x boxed) bool { return x.header.Epoch == e })
}

// group is the index of the keyframe before index i.
func (b box) group(i int) int {
	for b[i].header.Kind != frame.Keyframe {
		i--
	}
	return i
}

// unacked is the index of the oldest frame that is not known to be stored; len(b) if all are.
func (b box) unacked() int {
	if i := slices.IndexFunc(b, func(x boxed) bool { return !x.acked }); i >= 0 {
		return i
	}
	return len(b)
}

func (b box) ack(from, to int) {
	for i := from; i <= to; i++ {
		b[i].acked = true
	}
}

func (b box) unackAll() {
	for i := range b {
		b[i].acked = false
	}
}

// simMessage is a message of the stream.
type simMessage struct {
	sequence uint64
	backfill bool
	payload  []byte
	stamp    int // of every message another
}

// way is a lane of the edge.
type way struct {
	backfill  bool
	publisher *lane.Publisher
	from, to  int // what is in flight, by index in the outbox
	flying    bool
	next, end int // what follows, up to before end
	sent      int // messages stored, for the record
}

// saved is the outbox's state file: what a process that begins knows of the stream.
type saved struct {
	acked []bool
	tips  [2]tip
}

type tip struct {
	id       frame.ID
	sequence uint64
	doubtful bool
}

type simulation struct {
	*rand.Rand
	t      *testing.T
	faults bool
	now    int64

	// edge
	box      box
	sender   *lane.Sender
	epoch    frame.Epoch
	schema   *series.Schema
	sources  []*series.Source
	ways     [2]*way // live, backfill
	session  bool
	start    int // where the live lane began in this session
	saved    saved
	accepted map[string]bool
	inOrder  bool

	// stream
	messages    []simMessage
	next        uint64
	life, stamp int

	// hub
	receiver  *lane.Receiver
	catalog   *series.Catalog
	position  int // messages read
	readLife  int // of the stream
	last      int // stamp of the last one
	delivered map[string]int
	problems  int
}

func newSimulation(t *testing.T, seed uint64) *simulation {
	s := &simulation{
		Rand: rand.New(rand.NewPCG(seed, 7)), t: t, faults: true, now: 1_700_000_000_000, next: 1, inOrder: seed%5 == 0,
		accepted: map[string]bool{}, delivered: map[string]int{}, catalog: series.NewCatalog(),
	}
	m := newMaker(t, 1, 3)
	s.schema = m.schema
	for i := range 3 {
		s.sources = append(s.sources, &series.Source{
			Key: fmt.Sprintf("static/%d", i), Labels: labels.FromStrings("instance", fmt.Sprint(i), "job", "j"), Interval: time.Second,
		})
	}
	s.beginEpoch()
	s.startHub(nil)
	return s
}

// beginEpoch starts the edge's process.
func (s *simulation) beginEpoch() {
	s.epoch++
	var before frame.Predecessor
	if len(s.box) > 0 {
		h := s.box[len(s.box)-1].header
		before = frame.Predecessor{ID: h.ID, Rows: h.RowsAfter()}
	}
	s.sender = lane.NewSender(lane.SenderConfig{
		Encoder: frame.EncoderConfig{Epoch: s.epoch, Predecessor: before}, KeyframeInterval: 20 * time.Second, Lookback: time.Minute,
		Jitter: s.Float64,
	})
	mine := func(e frame.Epoch) bool { return e == s.epoch || s.box.knows(e) }
	s.ways = [2]*way{{publisher: lane.NewPublisher(s.epoch, mine)}, {backfill: true, publisher: lane.NewPublisher(s.epoch, mine)}}
	for i := range s.box {
		s.box[i].acked = i < len(s.saved.acked) && s.saved.acked[i]
	}
	for i, w := range s.ways {
		x := s.saved.tips[i]
		w.publisher.Resume(x.id, x.sequence, x.doubtful)
	}
	s.session = false
}

// save writes the state file.
func (s *simulation) save() {
	s.saved.acked = s.saved.acked[:0]
	for _, x := range s.box {
		s.saved.acked = append(s.saved.acked, x.acked)
	}
	for i, w := range s.ways {
		x := &s.saved.tips[i]
		x.id, x.sequence = w.publisher.Newest()
		x.doubtful = w.publisher.Doubtful()
	}
}

func (s *simulation) rows(n int) {
	var frames [][]byte
	for range n {
		s.now += 100 + s.Int64N(2000)
		row := series.Row{Source: s.sources[s.IntN(3)], Schema: s.schema, T: s.now, Values: []float64{s.Float64(), 1, float64(s.now)}}
		var err error
		if frames, err = s.sender.Append(frames, &row, s.now); err != nil {
			s.t.Fatal(err)
		}
		s.accepted[simKey(&row)] = true
	}
	s.store(s.sender.Flush(frames, s.now))
}

func (s *simulation) store(frames [][]byte) {
	for _, f := range frames {
		h, err := frame.Verify(f)
		if err != nil {
			s.t.Fatal(err)
		}
		s.box = append(s.box, boxed{header: h, data: f})
	}
}

func simKey(r *series.Row) string { return fmt.Sprintf("%s %d %x", r.Source.Key, r.T, r.Values) }

func (s *simulation) unlucky(percent int) bool { return s.faults && s.IntN(100) < percent }

// look asks for the last message of a lane. It reports whether an answer was taken, and the last frame if it is ours.
func (s *simulation) look(w *way) (id frame.ID, taken bool) {
	if s.unlucky(10) {
		return id, false
	}
	i := len(s.messages) - 1
	for ; i >= 0; i-- {
		if s.messages[i].backfill == w.backfill && !s.unlucky(10) { // or a replica is behind
			break
		}
	}
	if i < 0 {
		return id, w.publisher.FoundNone()
	}
	var first frame.Header
	for rest := s.messages[i].payload; len(rest) > 0; {
		h, _, behind, err := frame.Split(rest)
		if err != nil {
			s.t.Fatal(err)
		}
		if first.Number == 0 {
			first = h
		}
		id, rest = h.ID, behind
	}
	if !w.publisher.Found(s.messages[i].sequence, first.ID, id) {
		return frame.ID{}, false
	}
	if first.Kind == frame.Keyframe {
		s.box.ack(s.box.index(first.ID), s.box.index(id))
	}
	return id, true
}

// resolve begins a session.
func (s *simulation) resolve() {
	var last [2]frame.ID
	for i, w := range s.ways {
		w.publisher.Relook()
		id, taken := s.look(w)
		if !taken {
			return
		}
		if last[i] = id; w.publisher.InFlight() {
			w.publisher.Drop()
		} else if w.flying {
			s.box.ack(w.from, w.to)
		}
		w.flying, w.next, w.end = false, 0, 0
	}
	if liveLost, backfillLost := s.ways[0].publisher.Lost(), s.ways[1].publisher.Lost(); liveLost || backfillLost {
		s.box.unackAll()
	}
	if id, ok := s.ways[1].publisher.Missing(); ok {
		s.box[s.box.index(id)].acked = false
	}
	s.plan(last[0])
}

func (s *simulation) plan(last frame.ID) {
	x := lane.Standing{Last: last, InOrder: s.inOrder}
	if pending := s.box.unacked(); pending < len(s.box) {
		x.Oldest, x.OldestSent = s.box[pending].header.ID, s.box[pending].header.Sent
		x.Group = s.box[s.box.group(pending)].header.ID
	}
	if n := len(s.box); n > 0 {
		newest := s.box[s.box.group(n-1)].header
		x.Head, x.Newest, x.NewestSent = s.box[n-1].header.ID, newest.ID, newest.Sent
	}
	start := lane.PlanStart(x, s.now)
	if start.Keyframe {
		s.store(s.sender.Flush(nil, s.now))
		s.sender.RequestKeyframe(s.now, false)
		s.start = len(s.box)
	} else if s.start = s.box.index(start.From); s.start < 0 {
		s.start = len(s.box) // the one behind the head
	}
	s.ways[0].next, s.session = s.start, true
}

// step goes on with a lane.
func (s *simulation) step(w *way) {
	if !s.session {
		s.resolve()
		return
	}
	switch w.publisher.Next() {
	case lane.Yield:
		s.t.Fatalf("yields to %s", w.publisher.Owner())
	case lane.Part:
		s.session = false
	case lane.Look:
		s.look(w)
	case lane.Publish:
		s.publish(w)
	case lane.Done:
		if !w.flying {
			s.begin(w)
		}
	}
	if w.flying && !w.publisher.InFlight() {
		s.box.ack(w.from, w.to)
		w.flying = false
		w.sent++
	}
	if w.publisher.Lost() {
		s.box.unackAll()
		s.session = false
	}
}

// begin puts the next frames of a lane in flight.
func (s *simulation) begin(w *way) {
	end := len(s.box)
	if w.backfill {
		if w.next == w.end { // the next run that is not stored, from its keyframe
			from := s.box.unacked()
			if from >= s.start {
				return
			}
			w.next, w.end = s.box.group(from), from
			for w.end < s.start && !s.box[w.end].acked && s.box[w.end].header.Epoch == s.box[from].header.Epoch {
				w.end++
			}
		}
		end = w.end
	}
	if w.next >= end {
		return
	}
	w.from, w.to = w.next, w.next
	for n := s.IntN(4); n > 0 && w.to+1 < end && s.box[w.to+1].header.Kind == frame.Delta; n-- {
		w.to++
	}
	first, last := s.box[w.from].header, s.box[w.to].header
	if !w.backfill && !s.inOrder && lane.Old(first.Sent, s.now) {
		s.session = false
		return
	}
	w.next, w.flying = w.to+1, true
	w.publisher.Begin(first.ID, last.ID)
}

func (s *simulation) publish(w *way) {
	if w.publisher.Doubtful() {
		s.save()
	}
	if s.unlucky(5) {
		w.publisher.Unanswered()
		return
	}
	last := uint64(0)
	for _, m := range s.messages {
		if m.backfill == w.backfill {
			last = m.sequence
		}
	}
	if last != w.publisher.Expect() {
		if s.unlucky(5) {
			w.publisher.Unanswered()
			return
		}
		w.publisher.Refused(last)
		return
	}
	var payload []byte
	for _, x := range s.box[w.from : w.to+1] {
		payload = append(payload, x.data...)
	}
	s.stamp++
	s.messages = append(s.messages, simMessage{s.next, w.backfill, payload, s.stamp})
	s.next++
	if s.unlucky(5) {
		w.publisher.Unanswered()
		return
	}
	w.publisher.Stored(s.next - 1)
}

// startHub begins a process of the hub, with the ledger that an earlier one had written down.
func (s *simulation) startHub(ledger *lane.LedgerState) {
	s.receiver = lane.NewReceiver(lane.ReceiverConfig{Decoder: func(string) (frame.DecoderConfig, bool) {
		return frame.DecoderConfig{Catalog: s.catalog}, true
	}})
	if ledger != nil {
		s.receiver.Adopt("s", lane.LedgerFrom(*ledger), 0)
	}
	s.position = 0
}

// read takes the next message of the stream, or notices that it is another one.
func (s *simulation) read() {
	if s.position > 0 && (s.readLife != s.life || len(s.messages) < s.position || s.messages[s.position-1].stamp != s.last) {
		s.receiver.Restart()
		s.position = 0
		return
	}
	if s.position == len(s.messages) {
		return
	}
	m := s.messages[s.position]
	s.position++
	s.last, s.readLife = m.stamp, s.life
	s.receiver.Step(lane.Message{Site: "s", Backfill: m.backfill, Sequence: m.sequence, Payload: m.payload}, lane.Handler{
		Row: func(_ *lane.Delivery, r *series.Row) {
			key := simKey(r)
			if s.delivered[key]++; s.delivered[key] > 1 || !s.accepted[key] {
				s.t.Fatalf("row %s is delivered, accepted %t, %d times", key, s.accepted[key], s.delivered[key])
			}
		},
		Problem: func(lane.Problem) { s.problems++ },
	})
}

// harm lets something go wrong.
func (s *simulation) harm() {
	switch s.IntN(7) {
	case 0: // an older copy of the stream
		keep := max(0, len(s.messages)-1-s.IntN(8))
		for _, m := range s.messages[keep:] {
			s.next = min(s.next, m.sequence)
		}
		s.messages, s.session = s.messages[:keep:keep], false
	case 1: // another stream
		s.messages, s.next, s.life = nil, 1, s.life+1
	case 2: // other sites
		s.next += s.Uint64N(20)
	case 3:
		s.session = false
	case 4: // the edge is killed
		s.beginEpoch()
	case 5:
		if site := s.receiver.Site("s"); site != nil {
			state := site.Ledger.State()
			s.startHub(&state)
		}
	case 6: // an outage as far as anybody can tell
		s.now += 90_000
	}
}

// check holds the ledger against what was delivered.
func (s *simulation) check() {
	site := s.receiver.Site("s")
	if site == nil {
		return
	}
	have, lacking := site.Ledger.Rows()
	if have != uint64(len(s.delivered)) || have+lacking > uint64(len(s.accepted)) {
		s.t.Fatalf("ledger has %d rows and lacks %d; %d were accepted and %d delivered", have, lacking, len(s.accepted), len(s.delivered))
	}
}

func (s *simulation) play(steps int) {
	for range steps {
		switch k := s.IntN(20); {
		case k < 3:
			s.rows(1 + s.IntN(3))
		case k < 10:
			s.step(s.ways[0])
		case k < 15:
			s.step(s.ways[1])
		case k < 19:
			s.read()
			if s.IntN(8) == 0 {
				s.save()
			}
		default:
			if s.faults && s.IntN(4) == 0 {
				s.harm()
			}
		}
		s.check()
	}
}

func TestSimulation(t *testing.T) {
	seeds := uint64(150)
	if testing.Short() {
		seeds = 20
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			s := newSimulation(t, seed)
			s.play(1500)
			s.faults = false
			for rounds := 0; len(s.delivered) < len(s.accepted) || s.box.unacked() < len(s.box); rounds++ {
				if rounds > 2000 {
					t.Fatalf("%d rows of %d were delivered, frame %d of %d is not stored; gaps %+v", len(s.delivered), len(s.accepted),
						s.box.unacked(), len(s.box), s.receiver.Site("s").Ledger.Gaps())
				}
				if rounds < 200 {
					s.rows(1) // a publish brings to light what was lost
				}
				for range 12 {
					s.step(s.ways[0])
					s.step(s.ways[1])
					s.read()
				}
			}
			s.check()
			if gaps := s.receiver.Site("s").Ledger.Gaps(); len(gaps) > 0 {
				t.Errorf("gaps %+v", gaps)
			}
		})
	}
}
