package events

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// board is a value that gateways share, whose answers can get lost.
type board struct {
	value    []byte
	revision uint64
	random   *rand.Rand // nil: nothing fails
}

var errLostAnswer = errors.New("no answer")

func (b *board) Load(context.Context) ([]byte, uint64, error) {
	if b.random != nil && b.random.IntN(10) == 0 {
		return nil, 0, errLostAnswer
	}
	return b.value, b.revision, nil
}

func (b *board) Store(_ context.Context, value []byte, revision uint64) (uint64, error) {
	failure := 9
	if b.random != nil {
		failure = b.random.IntN(10)
	}
	if failure == 0 { // nothing was done
		return 0, errLostAnswer
	}
	if revision != b.revision {
		return 0, fmt.Errorf("%w: revision %d", ErrChanged, b.revision)
	}
	b.value, b.revision = value, b.revision+1
	if failure == 1 { // it was, and nobody says so
		return 0, errLostAnswer
	}
	return b.revision, nil
}

// modelStream is what a server stores. Every message has a number of its own, whatever becomes of its sequence.
type modelStream struct {
	created, clock int64
	first          uint64 // sequence of the first message
	messages       []Message
	numbers        int
}

func (s *modelStream) publish() {
	s.clock++
	s.numbers++
	at := StreamPosition{Created: s.created, Sequence: s.first + uint64(len(s.messages)), Checksum: uint32(s.numbers), Stored: s.clock}
	s.messages = append(s.messages, Message{Position: at, Payload: fmt.Appendf(nil, `{"name":"a","value":1,"labels":{"n":"%d"}}`, s.numbers)})
}

func (s *modelStream) recreate() {
	s.clock++
	s.created, s.first, s.messages = s.clock, 1, nil
}

// modelGateway reads a modelStream as a bus.Reader does.
type modelGateway struct {
	*opened
	dir    string
	stream *Stream
	at     StreamPosition
	read   []item // and not taken
}

func (m *modelGateway) start(t *testing.T, shared Shared) {
	m.opened = open(t, m.dir, func(o *Options) { o.Config.NATS = &NATSConfig{} })
	var err error
	if m.stream, err = m.NewStream(StreamOptions{Name: "events", Whole: true, Shared: shared}); err != nil {
		t.Fatal(err)
	}
	m.at, m.read = m.stream.Position(), nil
}

// fetch reads at most n messages.
func (m *modelGateway) fetch(s *modelStream, n int) {
	if at := m.at; at.Sequence > 0 {
		last := s.first + uint64(len(s.messages)) - 1
		switch {
		case at.Created != s.created:
			m.at = StreamPosition{}
			m.read = append(m.read, item{mark: markRecreated})
		case at.Sequence > last, at.Sequence >= s.first && s.messages[at.Sequence-s.first].Position != at:
			m.at = StreamPosition{}
			m.read = append(m.read, item{mark: markRewound})
		}
	}
	for _, message := range s.messages {
		if message.Position.Sequence > m.at.Sequence && n > 0 {
			m.read = append(m.read, item{Message: message})
			m.at = message.Position
			n--
		}
	}
}

// take takes what was read.
func (m *modelGateway) take(t *testing.T) {
	t.Helper()
	if err := m.stream.takeAll(t.Context(), m.read); err != nil {
		t.Fatal(err)
	}
	m.read = nil
}

// counts adds what a gateway has counted, by the numbers of messages.
func (m *modelGateway) counts(into map[string]float64) {
	for _, f := range m.state.order {
		for _, member := range f.members {
			into[member.labels.Get("n")] += member.sum.value
		}
	}
}

// TestStreamModel lets gateways share a stream, be killed, lose answers, and see the stream recreated and rewound. No event
// ever counts twice, and all count in the end that the stream still has.
func TestStreamModel(t *testing.T) {
	for seed := range uint64(70) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testStreamModel(t, rand.New(rand.NewPCG(seed, 0))) })
		})
	}
}

func testStreamModel(t *testing.T, random *rand.Rand) {
	shared := &board{random: random}
	older := *shared
	s := &modelStream{}
	s.recreate()
	gateways := make([]*modelGateway, 1+random.IntN(3))
	for i := range gateways {
		gateways[i] = &modelGateway{dir: filepath.Join(t.TempDir(), fmt.Sprint(i))}
		gateways[i].start(t, shared)
	}
	for range 150 {
		m := gateways[random.IntN(len(gateways))]
		switch n := random.IntN(100); {
		case n < 35:
			for range random.IntN(10) {
				s.publish()
			}
		case n < 70:
			m.fetch(s, 1+random.IntN(12))
			if random.IntN(4) > 0 {
				m.take(t)
			}
		case n < 83:
			m.save()
		case n < 85:
			older = *shared
		case n < 95:
			m.crash()
			m.start(t, shared)
		case n < 96:
			s.recreate()
		case n < 97 && len(gateways) == 1: // it was lost, or an older copy is restored
			*shared = []board{older, {random: random}}[random.IntN(2)]
		default: // as after a loss of power
			s.messages = s.messages[:len(s.messages)-random.IntN(1+min(len(s.messages), 5))]
		}
	}
	for range 3 { // who found the stream rewound may have left some to others
		for _, m := range gateways {
			m.fetch(s, len(s.messages))
			m.take(t)
		}
	}
	counts := map[string]float64{}
	for _, m := range gateways {
		m.counts(counts)
		m.crash()
	}
	for n, count := range counts {
		if count > 1 {
			t.Errorf("message %s counts %v times", n, count)
		}
	}
	for _, message := range s.messages {
		if n := fmt.Sprint(message.Position.Checksum); counts[n] != 1 {
			t.Errorf("message %s, which the stream has as %d, counts %v times", n, message.Position.Sequence, counts[n])
		}
	}
}

// TestStreamLoss: messages that the stream dropped unread are counted by those to whom they belong.
func TestStreamLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared, s := &board{}, &modelStream{}
		s.recreate()
		a, b := &modelGateway{dir: t.TempDir()}, &modelGateway{dir: t.TempDir()}
		a.start(t, shared)
		b.start(t, shared)
		for range 10 {
			s.publish()
		}
		read := func(m *modelGateway, n int) {
			m.fetch(s, n)
			m.take(t)
		}
		read(a, 4)
		read(b, 10)
		for range 10 {
			s.publish()
		}
		s.first, s.messages = 16, s.messages[15:] // eleven to fifteen are gone
		read(a, 10)
		read(b, 10)
		if lost := testutil.ToFloat64(a.metrics.streamLost); lost != 5 {
			t.Errorf("%v are lost to who claims what follows", lost)
		}
		if lost := testutil.ToFloat64(b.metrics.streamLost); lost != 0 {
			t.Errorf("%v are lost to who finds the rest claimed", lost)
		}
		counts := map[string]float64{}
		a.counts(counts)
		b.counts(counts)
		if len(counts) != 15 {
			t.Errorf("%d count", len(counts))
		}
		a.crash()
		b.crash()
	})
}

// TestStreamCaughtUp: after a crash the page waits until everything is read that the stream holds.
func TestStreamCaughtUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared, s := &board{}, &modelStream{}
		s.recreate()
		m := &modelGateway{dir: t.TempDir()}
		m.start(t, shared)
		s.publish()
		m.fetch(s, 1)
		m.take(t)
		m.save()
		s.publish()
		m.fetch(s, 1)
		m.take(t)
		m.crash()
		m.start(t, shared)
		if !m.behind() {
			t.Error("what counts is less than before")
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- m.Run(ctx) }()
		if err := m.stream.Add(ctx, s.messages[1]); err != nil {
			t.Fatal(err)
		}
		if err := m.stream.CaughtUp(ctx); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if m.behind() || m.dump() != "a{n=\"1\"} 1\na{n=\"2\"} 1" {
			t.Errorf("behind: %t, %s", m.behind(), m.dump())
		}
		stop()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		m.crash()
		if m.start(t, shared); m.behind() {
			t.Error("after an orderly end there is nothing to read again")
		}
		m.crash()
	})
}

// TestStreamQueue: who reads waits when much is not yet taken.
func TestStreamQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newStreamQueue()
		ctx, stop := context.WithCancel(t.Context())
		added := make(chan error)
		add := func() { added <- q.add(ctx, item{Message: Message{Payload: make([]byte, queuedBytes)}}) }
		go add()
		if err := <-added; err != nil {
			t.Fatal(err)
		}
		go add()
		synctest.Wait()
		if len(q.items) != 1 {
			t.Errorf("%d wait", len(q.items))
		}
		if items, err := q.take(ctx); len(items) != 1 || err != nil {
			t.Errorf("%d taken: %v", len(items), err)
		}
		if err := <-added; err != nil {
			t.Fatal(err)
		}
		go add()
		synctest.Wait()
		stop()
		if err := <-added; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestClaims(t *testing.T) {
	at := func(sequence uint64) StreamPosition {
		return StreamPosition{Created: 7, Sequence: sequence, Stored: int64(sequence)}
	}
	c := claims{Stream: 7, Next: 1}
	c = c.add("a", 10, 10, at(0))
	c = c.add("a", 20, 20, at(5))
	c = c.add("b", 30, 30, at(0))
	c = c.add("a", 31, 31, at(20))
	want := []claim{{"b", 21, 30, 30}, {"a", 31, 31, 31}}
	if !slices.Equal(c.Open, want) || c.Next != 32 {
		t.Errorf("%+v", c)
	}
	value, err := c.encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := parseClaims(value)
	if err != nil || !back.of("b", at(30)) || back.of("b", at(31)) || back.of("a", at(30)) || back.free(at(31)) || !back.free(at(32)) {
		t.Errorf("%+v: %v", back, err)
	}
	again := StreamPosition{Created: 7, Sequence: 25, Stored: 32} // stands where another one had been
	if left := c.before(again); c.of("b", again) || !c.free(again) || left.Next != 25 || !slices.Equal(left.Open, []claim{{"b", 21, 24, 30}}) {
		t.Errorf("%+v", left)
	}
	for range 2 * maxClaims {
		c = c.add("a", c.Next, 32, at(0))
		c = c.add("b", c.Next, 32, at(0))
	}
	if len(c.Open) != maxClaims || c.open("a", at(0)) != maxClaims/2 {
		t.Errorf("%d are open", len(c.Open))
	}
	// What nobody comes back for is not kept.
	c = c.add("d", c.Next, 32+claimAge, at(0))
	if c.open("a", at(0)) != maxClaims/2-1 || c.open("d", at(0)) != 1 { // the oldest had to make room
		t.Errorf("of a %d and of d %d are open", c.open("a", at(0)), c.open("d", at(0)))
	}
	c = c.add("e", c.Next, 33+claimAge, at(0))
	if len(c.Open) != 2 || !c.of("d", at(c.Open[0].To)) {
		t.Errorf("%d are open, %+v", len(c.Open), c.Open[0])
	}
	for _, bad := range []string{`x`, `{"open":[{"from":2,"to":1}],"next":9}`, `{"open":[{"from":1,"to":9}],"next":9}`, `{"open":[{"from":0,"to":1}],"next":9}`} {
		if c, err := parseClaims([]byte(bad)); err == nil || c.Next != 0 || !strings.HasPrefix(err.Error(), "parse claims: ") {
			t.Errorf("%s: %+v, %v", bad, c, err)
		}
	}
}
