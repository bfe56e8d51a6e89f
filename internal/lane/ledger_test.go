package lane_test

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
)

// script makes the headers of a site's life and feeds a ledger with some of them.
type script struct {
	ledger lane.Ledger
	rank   map[frame.ID]lane.Rank
}

// header of frame n of an epoch in which every frame completes ten rows and is sent a second after the one before. The
// epoch follows the one with the next lower number, which has the given count of frames; 0: it names none.
func header(e frame.Epoch, n, framesBefore uint64) *frame.Header {
	h := &frame.Header{
		Kind: frame.Delta, ID: frame.ID{Epoch: e, Number: n}, Base: n - 1, RowsBefore: 10 * (n - 1), Rows: 10,
		Sent: int64(e)*1_000_000 + int64(n)*1000,
	}
	if n == 1 {
		h.Kind, h.Base, h.Flags = frame.Keyframe, 0, frame.FlagFirst
		if framesBefore > 0 {
			h.Predecessor = frame.Predecessor{ID: frame.ID{Epoch: e - 1, Number: framesBefore}, Rows: 10 * framesBefore}
		}
	}
	return h
}

func (s *script) add(h *frame.Header, backfill bool) {
	if s.rank == nil {
		s.rank = map[frame.ID]lane.Rank{}
	}
	s.rank[h.ID] = s.ledger.Place(h, backfill)
	s.ledger.Add(h, 0)
}

// live and backfill add the frames from first to last of an epoch; framesBefore as in header.
func (s *script) live(e frame.Epoch, first, last, framesBefore uint64) {
	for n := first; n <= last; n++ {
		s.add(header(e, n, framesBefore), false)
	}
}

func (s *script) backfill(e frame.Epoch, first, last, framesBefore uint64) {
	for n := first; n <= last; n++ {
		s.add(header(e, n, framesBefore), true)
	}
}

// gaps as epoch/from-to:rows, with the cause where there is one.
func (s *script) gaps() string {
	var list []string
	for _, g := range s.ledger.Gaps() {
		text := fmt.Sprintf("%d/%d-%d:%d", g.Epoch, g.From, g.To, g.Rows)
		if g.Cause != 0 {
			text += " " + g.Cause.String()
		}
		list = append(list, text)
	}
	return strings.Join(list, ", ")
}

func TestLedgerGaps(t *testing.T) {
	f := func(name, want string, play func(*script)) {
		t.Run(name, func(t *testing.T) {
			s := &script{}
			play(s)
			if got := s.gaps(); got != want {
				t.Errorf("gaps are %q, want %q", got, want)
			}
			sum := uint64(0)
			for _, g := range s.ledger.Gaps() {
				sum += g.Rows
			}
			if _, lacking := s.ledger.Rows(); lacking != sum {
				t.Errorf("%d rows are lacking, the gaps have %d", lacking, sum)
			}
		})
	}
	loss := func(e frame.Epoch, from, to, rows uint64, cause frame.Cause) frame.Loss {
		return frame.Loss{Epoch: e, From: from, To: to, Rows: rows, Cause: cause}
	}
	f("none", "", func(s *script) { s.live(1, 1, 9, 0) })
	f("what was before the first frame seen is beyond the horizon", "", func(s *script) { s.live(1, 5, 9, 0) })
	f("between frames", "1/4-6:30", func(s *script) { s.live(1, 1, 3, 0); s.live(1, 7, 9, 0) })
	f("filled", "", func(s *script) { s.live(1, 1, 3, 0); s.live(1, 7, 9, 0); s.backfill(1, 3, 7, 0) })
	f("filled in part", "1/5-6:20", func(s *script) { s.live(1, 1, 3, 0); s.live(1, 7, 9, 0); s.backfill(1, 3, 4, 0) })
	f("end of an epoch", "1/7-8:20", func(s *script) { s.live(1, 5, 6, 0); s.live(2, 1, 3, 8) })
	f("start of an epoch whose first frame did not come", "2/1-4:40", func(s *script) { s.live(1, 1, 8, 0); s.live(2, 5, 6, 8) })
	f("an epoch of which nothing came", "2/1-6:60", func(s *script) { s.live(1, 1, 8, 0); s.live(3, 1, 2, 6) })
	f("of which all came later, on the backfill lane", "", func(s *script) {
		s.live(1, 1, 8, 0)
		s.live(3, 1, 2, 6)
		s.backfill(2, 1, 6, 8)
	})
	f("the epoch before the horizon does not count", "", func(s *script) { s.live(3, 1, 2, 6) })
	f("an epoch of which nothing came, and what was before it", "1/9-9:10, 2/1-6:60", func(s *script) {
		s.live(1, 1, 8, 0)
		s.live(3, 1, 2, 6)
		s.backfill(2, 1, 1, 9)
		s.ledger = lane.LedgerFrom(s.ledger.State())
		s.ledger = withoutFrames(s.ledger, 2)
	})
	f("frames without rows are no gap", "", func(s *script) {
		s.live(1, 1, 2, 0)
		s.add(&frame.Header{Kind: frame.Delta, ID: frame.ID{Epoch: 1, Number: 5}, Base: 4, RowsBefore: 20, Rows: 1}, false)
	})
	f("a loss explains a gap", "1/4-6:30 evicted", func(s *script) {
		s.live(1, 1, 3, 0)
		s.live(1, 7, 9, 0)
		s.ledger.Lose(loss(1, 4, 6, 7, frame.CauseEvicted))
	})
	f("a loss in the middle", "1/4-4:10, 1/5-5:10 corrupt, 1/6-6:10", func(s *script) {
		s.live(1, 1, 3, 0)
		s.live(1, 7, 9, 0)
		s.ledger.Lose(loss(1, 5, 5, 10, frame.CauseCorrupt))
	})
	f("a loss at the beginning, another at the end", "1/4-4:10 evicted, 1/5-5:10, 1/6-6:10 corrupt", func(s *script) {
		s.live(1, 1, 3, 0)
		s.live(1, 7, 9, 0)
		s.ledger.Lose(loss(1, 2, 4, 10, frame.CauseEvicted))
		s.ledger.Lose(loss(1, 6, 8, 10, frame.CauseCorrupt))
	})
	f("a loss of other frames", "2/4-6:10 evicted, 1/4-6:30", func(s *script) {
		s.live(1, 1, 3, 0)
		s.live(1, 7, 9, 0)
		s.ledger.Lose(loss(1, 9, 20, 10, frame.CauseEvicted))
		s.ledger.Lose(loss(2, 4, 6, 10, frame.CauseEvicted))
		s.ledger.Lose(loss(1, 6, 4, 10, frame.CauseEvicted))
	})
	f("a loss before all that came", "1/1-3:30 evicted, 1/5-5:10", func(s *script) {
		s.live(1, 4, 4, 0)
		s.live(1, 6, 9, 0)
		s.ledger.Lose(loss(1, 1, 3, 30, frame.CauseEvicted))
	})
	f("a loss before all that came, which came later in part", "1/1-1:10 evicted", func(s *script) {
		s.live(1, 4, 9, 0)
		s.ledger.Lose(loss(1, 1, 3, 30, frame.CauseEvicted))
		s.backfill(1, 2, 3, 0)
	})
	f("a loss in an epoch before all that came", "1/1-30:300 unwritten", func(s *script) {
		s.live(2, 1, 4, 30)
		s.ledger.Lose(loss(1, 1, 30, 300, frame.CauseUnwritten))
		s.ledger.Lose(loss(1, 1, 30, 300, frame.CauseUnwritten))
	})
	f("a loss that came nevertheless", "", func(s *script) {
		s.live(1, 1, 9, 0)
		s.ledger.Lose(loss(1, 4, 6, 30, frame.CauseEvicted))
	})
	f("a loss that lies about its rows", "1/5-6:30", func(s *script) {
		s.live(1, 1, 3, 0)
		s.live(1, 7, 9, 0)
		s.ledger.Lose(loss(1, 4, 4, 0, frame.CauseEvicted))
	})
	f("two processes that began with copies of one outbox", "1/9-9:10", func(s *script) {
		s.live(1, 1, 8, 0)
		s.live(2, 1, 3, 8)
		h := header(3, 1, 0)
		h.Predecessor = frame.Predecessor{ID: frame.ID{Epoch: 1, Number: 9}, Rows: 90}
		s.add(h, false)
	})
	f("headers that lie about rows", "", func(s *script) {
		s.live(1, 1, 3, 0)
		s.add(&frame.Header{Kind: frame.Delta, ID: frame.ID{Epoch: 1, Number: 9}, RowsBefore: 2, Rows: 1}, false)
		h := header(2, 1, 20)
		h.Predecessor.Rows = 1
		s.add(h, false)
	})
	f("the greatest numbers", "1/4-18446744073709551613:18446744073709551584", func(s *script) {
		s.live(1, 1, 3, 0)
		s.add(&frame.Header{Kind: frame.Delta, ID: frame.ID{Epoch: 1, Number: math.MaxUint64 - 1}, RowsBefore: math.MaxUint64 - 1, Rows: 1}, false)
	})
}

// withoutFrames is what a ledger would be if no frame of an epoch had come but those that name it.
func withoutFrames(l lane.Ledger, e frame.Epoch) lane.Ledger {
	s := l.State()
	for i := range s.Epochs {
		if s.Epochs[i].Epoch == e {
			s.Epochs[i].Spans = nil
		}
	}
	return lane.LedgerFrom(s)
}

// Ranks order frames as they were made, whichever way they come.
func TestLedgerRanks(t *testing.T) {
	s := &script{}
	s.live(3, 1, 2, 6)
	s.live(4, 1, 1, 2)
	s.backfill(2, 1, 6, 4)
	s.backfill(1, 3, 4, 0)
	s.live(6, 1, 1, 3)
	s.backfill(5, 1, 3, 1)
	order := []frame.ID{{Epoch: 1, Number: 3}, {Epoch: 1, Number: 4}, {Epoch: 2, Number: 1}, {Epoch: 2, Number: 6}, {Epoch: 3, Number: 1}, {Epoch: 3, Number: 2},
		{Epoch: 4, Number: 1}, {Epoch: 5, Number: 1}, {Epoch: 5, Number: 3}, {Epoch: 6, Number: 1}}
	for i := 1; i < len(order); i++ {
		if !s.rank[order[i-1]].Less(s.rank[order[i]]) {
			t.Errorf("%s has rank %v, %s after it %v", order[i-1], s.rank[order[i-1]], order[i], s.rank[order[i]])
		}
	}
}

// Where an epoch stands that the backfill lane brought first is a guess until frames of it come on the live lane.
// An edge that crashes again and again during an outage leaves a backlog of many epochs, more than a ledger holds.
func TestLedgerRanksOfALongBacklog(t *testing.T) {
	const newest = 1000
	for _, history := range []bool{false, true} {
		var s script
		s.live(1, 1, 2, 0)
		s.live(newest, 1, 2, 2)
		for e := frame.Epoch(2); e < newest; e++ {
			if history { // read by a hub that saw the newest ones first
				s.ledger.PlaceBefore(header(e, 1, 2), newest)
			}
			s.backfill(e, 1, 2, 2)
		}
		for e := frame.Epoch(2); e <= newest; e++ {
			before, after := s.rank[frame.ID{Epoch: e - 1, Number: 2}], s.rank[frame.ID{Epoch: e, Number: 1}]
			if before.Epoch >= after.Epoch {
				t.Fatalf("history %t: epoch %d has rank %d, the one before it %d", history, e, after.Epoch, before.Epoch)
			}
		}
	}
}

func TestLedgerRanksOfLiveFrames(t *testing.T) {
	s := &script{}
	s.live(1, 1, 8, 0)
	s.backfill(2, 10, 11, 0) // nobody knows what is before it
	s.live(2, 12, 12, 0)
	if old, live := s.rank[frame.ID{Epoch: 1, Number: 8}], s.rank[frame.ID{Epoch: 2, Number: 12}]; !old.Less(live) {
		t.Errorf("the live frame has rank %v, the one of the epoch before %v", live, old)
	}
	s.live(3, 1, 1, 12)
	s.live(2, 9, 9, 0) // the server lost it, and it comes again
	if again, live := s.rank[frame.ID{Epoch: 2, Number: 9}], s.rank[frame.ID{Epoch: 3, Number: 1}]; !again.Less(live) {
		t.Errorf("a frame that came late has rank %v, one of the next epoch %v", again, live)
	}
}

// After a loss of the server an epoch may come for the first time behind the one that names it.
func TestLedgerRanksOfEpochsThatComeAgain(t *testing.T) {
	s := &script{}
	s.live(4, 1, 2, 6)
	s.live(3, 2, 6, 5)
	s.live(3, 1, 1, 5)
	s.live(2, 1, 5, 3)
	order := []frame.ID{{Epoch: 2, Number: 5}, {Epoch: 3, Number: 1}, {Epoch: 3, Number: 6}, {Epoch: 4, Number: 1}}
	for i := 1; i < len(order); i++ {
		if !s.rank[order[i-1]].Less(s.rank[order[i]]) {
			t.Errorf("%s has rank %v, %s after it %v", order[i-1], s.rank[order[i-1]], order[i], s.rank[order[i]])
		}
	}
}

// A process that takes over with a copy of an older outbox is the newest nevertheless: lane order decides.
func TestLedgerRanksTakeover(t *testing.T) {
	s := &script{}
	s.live(1, 1, 8, 0)
	s.live(2, 1, 3, 8)
	h := header(3, 1, 0)
	h.Predecessor = frame.Predecessor{ID: frame.ID{Epoch: 1, Number: 9}, Rows: 90}
	s.add(h, false)
	if !s.rank[frame.ID{Epoch: 2, Number: 3}].Less(s.rank[h.ID]) {
		t.Errorf("the live row has rank %v, the one before it %v", s.rank[h.ID], s.rank[frame.ID{Epoch: 2, Number: 3}])
	}
}

// Random lives, in which frames are lost, come late and come twice: what came and what is missing is all there is.
func TestLedgerAddsUp(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 2))
		s := &script{}
		total, come := uint64(0), uint64(0)
		known := seed%2 == 0 // all first frames come at once: then everything is known at once
		var late []*frame.Header
		framesBefore := uint64(0)
		for e := frame.Epoch(1); e <= frame.Epoch(1+r.IntN(5)); e++ {
			frames := uint64(1 + r.IntN(30))
			for n := uint64(1); n <= frames; n++ {
				h := header(e, n, framesBefore)
				total += 10
				switch {
				case n == 1 && (e == 1 || known), r.IntN(3) > 0:
					s.add(h, false)
					s.ledger.Missing() // now and at each step: what is counted must not outlive a change
					come += 10
					if r.IntN(5) == 0 {
						s.add(h, false)
					}
				default:
					late = append(late, h)
				}
			}
			framesBefore = frames
		}
		end := header(99, 1, 0)
		end.Predecessor = frame.Predecessor{ID: frame.ID{Epoch: lastEpoch(s, late), Number: framesBefore}, Rows: 10 * framesBefore}
		s.add(end, false)
		total, come = total+10, come+10
		check := func(when string) {
			have, lacking := s.ledger.Rows()
			fresh := lane.LedgerFrom(s.ledger.State())
			if m := s.ledger.Missing(); m.Gaps != len(fresh.Gaps()) || m.Total() != lacking {
				t.Fatalf("seed %d, %s: %d rows in %d gaps are counted, want %d in %d", seed, when, m.Total(), m.Gaps, lacking, len(fresh.Gaps()))
			}
			if have != come || have+lacking > total || have+lacking < total && !(when == "before the backfill" && !known) {
				t.Fatalf("seed %d, %s: has %d rows and lacks %d, want %d and %d: %s", seed, when, have, lacking, come, total-come, s.gaps())
			}
		}
		check("before the backfill")
		r.Shuffle(len(late), func(i, j int) { late[i], late[j] = late[j], late[i] })
		for _, h := range late {
			s.add(h, true)
			s.ledger.Missing()
			come += 10
		}
		check("after the backfill")
		if s.gaps() != "" {
			t.Fatalf("seed %d: %s", seed, s.gaps())
		}
		b, err := json.Marshal(s.ledger.State())
		if err != nil {
			t.Fatal(err)
		}
		var state lane.LedgerState
		if err := json.Unmarshal(b, &state); err != nil {
			t.Fatal(err)
		}
		if again := lane.LedgerFrom(state); !reflect.DeepEqual(again.State(), s.ledger.State()) {
			t.Fatalf("seed %d: the state that was stored is another one", seed)
		}
	}
}

func lastEpoch(s *script, late []*frame.Header) (e frame.Epoch) {
	for id := range s.rank {
		e = max(e, id.Epoch)
	}
	for _, h := range late {
		e = max(e, h.Epoch)
	}
	return e
}

// A hostile site cannot make a ledger grow without end, and what goes stays counted.
func TestLedgerBounds(t *testing.T) {
	t.Run("epochs", func(t *testing.T) {
		s := &script{}
		for e := frame.Epoch(1); e < 2000; e++ {
			h := header(2*e, 1, 0)
			h.Predecessor = frame.Predecessor{ID: frame.ID{Epoch: 2*e - 1, Number: 5}, Rows: 50}
			s.add(h, e%3 == 0)
		}
		if n := len(s.ledger.State().Epochs); n > 128 {
			t.Errorf("%d epochs are held", n)
		}
	})
	t.Run("spans", func(t *testing.T) {
		s := &script{}
		for n := uint64(1); n <= 5000; n += 2 {
			s.live(1, n, n, 0)
		}
		if n := len(s.ledger.State().Epochs[0].Spans); n > 1024 {
			t.Errorf("%d spans are held", n)
		}
		if _, lacking := s.ledger.Rows(); lacking != 24990 {
			t.Errorf("%d rows are lacking, want 24990", lacking)
		}
	})
	t.Run("spans of all epochs", func(t *testing.T) {
		s := &script{}
		for e := frame.Epoch(1); e <= 10; e++ {
			for n := uint64(1); n < 2000; n += 2 {
				s.live(e, n, n, 0)
			}
		}
		const lacking = 10 * 999 * 10
		check := func(when string) {
			t.Helper()
			spans := 0
			for _, e := range s.ledger.State().Epochs {
				spans += len(e.Spans)
			}
			if spans > 4096 {
				t.Errorf("%s: %d spans are held", when, spans)
			}
			if m := s.ledger.Missing(); m.Total() != lacking || m.Gaps != len(s.ledger.Gaps()) || m.Gaps > 4096 {
				t.Errorf("%s: %d rows are lacking in %d gaps, want %d in %d", when, m.Total(), m.Gaps, lacking, len(s.ledger.Gaps()))
			}
		}
		check("with more holes than a ledger holds")
		s.backfill(1, 1, 1990, 0) // beyond the horizon by now
		check("after frames of knowledge that went")
	})
	t.Run("losses", func(t *testing.T) {
		var l lane.Ledger
		for n := range uint64(2000) {
			l.Lose(frame.Loss{Epoch: 1, From: 2*n + 1, To: 2*n + 1, Rows: 1, Cause: frame.CauseEvicted})
		}
		if n := len(l.State().Losses); n > 256 {
			t.Errorf("%d losses are held", n)
		}
	})
}

// hostile is the largest ledger that a site can make: as many holes and losses as are held, over all epochs.
func hostile() *script {
	s := &script{}
	for e := frame.Epoch(1); e <= 128; e++ {
		for n := uint64(2); n <= 2*40; n += 2 {
			s.add(header(e, n, 0), false)
		}
	}
	for n := range uint64(300) {
		s.ledger.Lose(frame.Loss{Epoch: frame.Epoch(128 - n%8), From: n, To: 2 * n, Rows: n, Cause: frame.CauseEvicted})
	}
	return s
}

// A look at a site costs nothing while frames come in order, however many holes there are.
func TestLedgerMissingIsKept(t *testing.T) {
	s := hostile()
	before := s.ledger.Missing().Gaps
	n := uint64(80)
	allocs := testing.AllocsPerRun(100, func() {
		n++
		s.ledger.Add(&frame.Header{Kind: frame.Delta, ID: frame.ID{Epoch: 128, Number: n}, RowsBefore: 10 * (n - 1), Rows: 10}, 0)
		if m := s.ledger.Missing(); m.Gaps != before {
			t.Fatalf("%d gaps, want %d", m.Gaps, before)
		}
	})
	if allocs > 0 {
		t.Errorf("%v allocations for a frame in order and a look", allocs)
	}
}

func BenchmarkLedgerMissing(b *testing.B) {
	s := hostile()
	loss := frame.Loss{Epoch: 1, Cause: frame.CauseEvicted}
	b.Run("kept", func(b *testing.B) {
		for b.Loop() {
			s.ledger.Missing()
		}
	})
	b.Run("changed", func(b *testing.B) {
		for b.Loop() {
			loss.From, loss.To = loss.From+1, loss.To+1
			s.ledger.Lose(loss)
			s.ledger.Missing()
		}
	})
}
