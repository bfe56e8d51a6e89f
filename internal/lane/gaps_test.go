package lane_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
)

// Causes that a site announces have the names that they have on the wire.
func TestCauseNames(t *testing.T) {
	for c := frame.CauseEvicted; c <= frame.CauseUnwritten; c++ {
		if lane.Cause(c).String() != c.String() {
			t.Errorf("cause %d is %s, on the wire %s", c, lane.Cause(c), c)
		}
	}
	seen := map[string]bool{}
	for _, c := range lane.Causes() {
		var back lane.Cause
		if err := back.UnmarshalText([]byte(c.String())); err != nil || back != c || seen[c.String()] {
			t.Errorf("cause %s: %v, %v", c, back, err)
		}
		seen[c.String()] = true
	}
}

// What hubs keep of losses, and what they kept before all of its names were in small letters.
func TestLossJSON(t *testing.T) {
	loss := lane.Loss{Epoch: 0xabc, From: 1, To: 2, Rows: 3, First: 4, Last: 5, Cause: lane.Oversize, Known: 6}
	b, err := json.Marshal(loss)
	if err != nil {
		t.Fatal(err)
	}
	var names map[string]any
	if err := json.Unmarshal(b, &names); err != nil {
		t.Fatal(err)
	}
	got := slices.Sorted(maps.Keys(names))
	if want := []string{"cause", "epoch", "first", "from", "known", "last", "rows", "to"}; !slices.Equal(got, want) {
		t.Errorf("names are %q, want %q", got, want)
	}
	older := strings.NewReplacer(`"first"`, `"First"`, `"last"`, `"Last"`).Replace(string(b))
	for _, text := range []string{string(b), older} {
		var again lane.Loss
		if err := json.Unmarshal([]byte(text), &again); err != nil || again != loss {
			t.Errorf("%s: read %+v, %v", text, again, err)
		}
	}
}

// pending is what a keyframe says of the oldest frame that the site still holds.
func pending(id frame.ID) []frame.Fact {
	value := ""
	if id.Number != 0 {
		value = id.String()
	}
	return []frame.Fact{{Name: "version", Value: "1"}, {Name: lane.FactPending, Value: value}}
}

func TestLedgerCauses(t *testing.T) {
	f := func(name, want string, play func(*script)) {
		t.Run(name, func(t *testing.T) {
			s := &script{}
			play(s)
			if got := s.gaps(); got != want {
				t.Errorf("gaps are %q, want %q", got, want)
			}
			missing := s.ledger.Missing()
			rows := map[lane.Cause]uint64{}
			for _, g := range s.ledger.Gaps() {
				rows[g.Cause] += g.Rows
			}
			for _, c := range lane.Causes() {
				if missing.Rows[c] != rows[c] {
					t.Errorf("%d rows are missing as %s, the gaps have %d", missing.Rows[c], c, rows[c])
				}
			}
			b, err := json.Marshal(s.ledger.State())
			if err != nil {
				t.Fatal(err)
			}
			var state lane.LedgerState
			if err := json.Unmarshal(b, &state); err != nil {
				t.Fatal(err)
			}
			if again := lane.LedgerFrom(state); !reflect.DeepEqual(again.Gaps(), s.ledger.Gaps()) {
				t.Errorf("gaps of the state that was stored are %v, want %v", again.Gaps(), s.ledger.Gaps())
			}
		})
	}
	miss := func(s *script, e frame.Epoch, from, to uint64, cause lane.Cause) {
		for n := from; n <= to; n++ {
			s.ledger.Place(header(e, n, 0), false)
			s.ledger.Miss(header(e, n, 0), false, cause, 0)
		}
	}
	f("frames that cannot be decoded, and none behind them yet", "1/4-6:30 undecodable", func(s *script) {
		s.live(1, 1, 3, 0)
		miss(s, 1, 4, 6, lane.Undecodable)
	})
	f("the same, with more behind them", "1/4-6:30 undecodable", func(s *script) {
		s.live(1, 1, 3, 0)
		miss(s, 1, 4, 6, lane.Undecodable)
		s.live(1, 7, 9, 0)
	})
	f("they come again, and can be decoded", "", func(s *script) {
		s.live(1, 1, 3, 0)
		miss(s, 1, 4, 6, lane.Undecodable)
		s.backfill(1, 4, 6, 0)
	})
	f("frames beyond the limits behind a hole", "1/4-4:10, 1/5-6:20 rejected", func(s *script) {
		s.live(1, 1, 3, 0)
		miss(s, 1, 5, 5, lane.Rejected)
		miss(s, 1, 6, 6, lane.Rejected)
	})
	f("an epoch that begins with frames that cannot be decoded", "1/4-4:10, 2/1-2:20 undecodable", func(s *script) {
		s.live(1, 1, 3, 0)
		s.ledger.Miss(header(2, 1, 4), false, lane.Undecodable, 0)
		s.ledger.Miss(header(2, 2, 4), false, lane.Undecodable, 0)
	})
	f("what cannot be taken before anything was is the horizon", "1/6-7:20 rejected", func(s *script) { miss(s, 1, 5, 7, lane.Rejected) })
	f("damage, and a frame that can be read behind it", "1/4-5:20 undecodable", func(s *script) {
		s.live(1, 1, 3, 0)
		s.ledger.Damage()
		s.live(1, 6, 7, 0)
	})
	f("damage, and a delta that applies to it", "1/4-5:20 undecodable", func(s *script) {
		s.live(1, 1, 3, 0)
		s.ledger.Damage()
		miss(s, 1, 5, 5, lane.Undecodable)
	})
	f("damage that hid nothing explains nothing later", "1/6-6:10", func(s *script) {
		s.live(1, 1, 3, 0)
		s.ledger.Damage()
		s.live(1, 4, 5, 0)
		s.live(1, 7, 7, 0)
	})
	f("rows of a frame that came", "1/2-2:3 rejected", func(s *script) {
		s.ledger.Reject(header(1, 2, 0), 3, 5)
		s.live(1, 1, 3, 0)
	})
	f("rows that are rejected all the time are one gap", "1/2-60:59 rejected", func(s *script) {
		for n := uint64(2); n <= 60; n++ {
			s.ledger.Reject(header(1, n, 0), 1, int64(n))
		}
	})
	f("the site holds what is missing", "1/4-6:30", func(s *script) {
		s.live(1, 1, 3, 0)
		s.live(1, 7, 7, 0)
		s.ledger.Settle(header(1, 7, 0), pending(frame.ID{Epoch: 1, Number: 4}))
	})
	f("the site holds nothing any more", "1/4-6:30 expired", func(s *script) {
		s.live(1, 1, 3, 0)
		s.live(1, 7, 9, 0)
		s.ledger.Settle(header(1, 7, 0), pending(frame.ID{}))
	})
	f("the site holds the end of what is missing", "1/3-3:10 expired, 1/5-6:20", func(s *script) {
		s.live(1, 1, 2, 0)
		s.live(1, 4, 4, 0)
		s.live(1, 7, 9, 0)
		s.ledger.Settle(header(1, 7, 0), pending(frame.ID{Epoch: 1, Number: 6}))
	})
	f("what is pending in an earlier epoch", "1/4-8:50 expired, 2/3-6:40", func(s *script) {
		s.live(1, 1, 3, 0)
		s.live(2, 1, 2, 8)
		s.live(3, 1, 1, 6)
		s.ledger.Settle(header(3, 1, 6), pending(frame.ID{Epoch: 2, Number: 3}))
	})
	f("an older keyframe that comes later says nothing new", "1/4-6:30 expired", func(s *script) {
		s.live(1, 1, 3, 0)
		s.live(1, 7, 9, 0)
		s.ledger.Settle(header(1, 9, 0), pending(frame.ID{}))
		s.ledger.Settle(header(1, 7, 0), pending(frame.ID{Epoch: 1, Number: 4}))
	})
	f("what a site announced is not called expired", "1/4-5:20 evicted, 1/6-6:10 expired", func(s *script) {
		s.live(1, 1, 3, 0)
		s.live(1, 7, 9, 0)
		s.ledger.Lose(frame.Loss{Epoch: 1, From: 4, To: 5, Rows: 20, Cause: frame.CauseEvicted})
		s.ledger.Settle(header(1, 7, 0), pending(frame.ID{}))
	})
	f("a loss of which a part came, and another behind it", "1/4-8:50 evicted", func(s *script) {
		s.live(1, 1, 3, 0)
		s.ledger.Lose(frame.Loss{Epoch: 1, From: 1, To: 5, Rows: 50, Cause: frame.CauseEvicted})
		s.ledger.Lose(frame.Loss{Epoch: 1, From: 6, To: 8, Rows: 30, Cause: frame.CauseEvicted})
		s.live(1, 9, 9, 0)
	})
	f("losses behind all that came of an epoch", "1/4-8:50 evicted, 2/1-6:60", func(s *script) {
		s.live(1, 1, 3, 0)
		s.live(2, 7, 7, 8)
		s.ledger.Lose(frame.Loss{Epoch: 1, From: 1, To: 5, Rows: 50, Cause: frame.CauseEvicted})
		s.ledger.Lose(frame.Loss{Epoch: 1, From: 6, To: 8, Rows: 30, Cause: frame.CauseEvicted})
	})
	f("losses that touch are one gap, in whichever order they come, and known ones say nothing new", "1/4-12:90 evicted, 1/13-13:10 corrupt", func(s *script) {
		s.live(1, 1, 3, 0)
		lose := func(from, to, rows uint64, cause frame.Cause) {
			s.ledger.Lose(frame.Loss{Epoch: 1, From: from, To: to, Rows: rows, Cause: cause})
		}
		lose(4, 6, 30, frame.CauseEvicted)
		lose(10, 12, 30, frame.CauseEvicted)
		lose(13, 13, 10, frame.CauseCorrupt)
		lose(7, 9, 30, frame.CauseEvicted)
		lose(10, 12, 30, frame.CauseEvicted)
		lose(8, 11, 40, frame.CauseEvicted)
		s.live(1, 14, 14, 0)
		if n := len(s.ledger.State().Losses); n != 2 {
			t.Errorf("%d losses are held, want 2", n)
		}
	})
	f("a loss that says more than one before it", "1/4-9:60 evicted", func(s *script) {
		s.live(2, 1, 1, 0)
		s.ledger.Lose(frame.Loss{Epoch: 1, From: 6, To: 7, Rows: 20, Cause: frame.CauseEvicted})
		s.ledger.Lose(frame.Loss{Epoch: 1, From: 5, To: 9, Rows: 50, Cause: frame.CauseEvicted})
		s.ledger.Lose(frame.Loss{Epoch: 1, From: 4, To: 6, Rows: 30, Cause: frame.CauseEvicted})
	})
	f("a loss that begins among what came of an epoch", "1/6-9:40 corrupt, 2/1-6:60", func(s *script) {
		s.live(1, 1, 5, 0)
		s.live(2, 7, 7, 8)
		s.ledger.Lose(frame.Loss{Epoch: 1, From: 3, To: 9, Rows: 70, Cause: frame.CauseCorrupt})
	})
	f("a loss far behind all that came of an epoch", "1/7-9:30 evicted, 2/1-6:60", func(s *script) {
		s.live(1, 1, 3, 0)
		s.live(2, 7, 7, 8)
		s.ledger.Lose(frame.Loss{Epoch: 1, From: 7, To: 9, Rows: 30, Cause: frame.CauseEvicted})
	})
	f("losses behind all that came of an epoch, the last one first", "1/4-6:20 corrupt, 1/7-9:30 evicted, 2/1-6:60", func(s *script) {
		s.live(1, 1, 3, 0)
		s.live(2, 7, 7, 8)
		s.ledger.Lose(frame.Loss{Epoch: 1, From: 7, To: 9, Rows: 30, Cause: frame.CauseEvicted})
		s.ledger.Lose(frame.Loss{Epoch: 1, From: 4, To: 6, Rows: 20, Cause: frame.CauseCorrupt})
	})
	f("an edge that does not say what it holds", "1/4-6:30", func(s *script) {
		s.live(1, 1, 3, 0)
		s.live(1, 7, 9, 0)
		s.ledger.Settle(header(1, 7, 0), []frame.Fact{{Name: "version", Value: "0"}})
		s.ledger.Settle(header(1, 7, 0), []frame.Fact{{Name: lane.FactPending, Value: "nonsense"}})
	})
}

// Notices that are exact are taken at their word, wherever holes begin and end, and what is left has no cause.
func TestLedgerCausesAreExact(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 3))
		var l lane.Ledger
		var notices []frame.Loss
		want := map[lane.Cause]uint64{}
		rows, number := uint64(0), uint64(0)
		add := func(h *frame.Header) {
			l.Place(h, false)
			l.Add(h, int64(h.Number))
		}
		for file := range 40 {
			frames, first := 1+r.IntN(5), number+1
			fate := r.IntN(4)
			before := rows
			for range frames {
				number++
				h := &frame.Header{Kind: frame.Delta, ID: frame.ID{Epoch: 1, Number: number}, RowsBefore: rows, Rows: uint32(r.IntN(20)), Sent: int64(number)}
				rows += uint64(h.Rows)
				if fate == 0 || file == 0 || file == 39 {
					add(h)
				}
			}
			lost := rows - before
			switch {
			case fate == 0 || file == 0 || file == 39:
			case fate == 1:
				want[lane.NotArrived] += lost
			default:
				cause := frame.CauseEvicted
				if fate == 2 {
					cause = frame.CauseCorrupt
				}
				want[lane.Cause(cause)] += lost
				notices = append(notices, frame.Loss{Epoch: 1, From: first, To: number, Rows: lost, First: int64(first), Last: int64(number), Cause: cause})
			}
		}
		r.Shuffle(len(notices), func(i, j int) { notices[i], notices[j] = notices[j], notices[i] })
		for _, x := range notices {
			l.Lose(x)
		}
		missing := l.Missing()
		for _, c := range lane.Causes() {
			if missing.Rows[c] != want[c] {
				t.Fatalf("seed %d: %d rows are missing as %s, want %d: %v", seed, missing.Rows[c], c, want[c], l.Gaps())
			}
		}
	}
}

// An outbox that is full for a day makes a notice a minute.
func TestLedgerLossesOfADay(t *testing.T) {
	const files, frames = 1440, 4
	lose := func(l *lane.Ledger, e frame.Epoch, every uint64) {
		for n := range uint64(files) {
			l.Lose(frame.Loss{Epoch: e, From: every*frames*n + 2, To: every*frames*n + 1 + frames, Rows: 10 * frames, Cause: frame.CauseEvicted})
		}
	}
	f := func(name string, gaps int, play func(l *lane.Ledger)) {
		t.Run(name, func(t *testing.T) {
			var l lane.Ledger
			h := header(5, 1, 0)
			l.Place(h, false)
			l.Add(h, 0)
			play(&l)
			missing := l.Missing()
			if lost := missing.Rows[lane.Evicted] + missing.Rows[lane.Forgotten]; missing.Gaps != gaps || lost != 10*files*frames || missing.Total() != lost {
				t.Errorf("%d rows in %d gaps are missing, %v by cause, want %d in %d", missing.Total(), missing.Gaps, missing.Rows, 10*files*frames, gaps)
			}
		})
	}
	f("in a hole", 1, func(l *lane.Ledger) {
		lose(l, 5, 1)
		h := header(5, files*frames+2, 0)
		l.Place(h, false)
		l.Add(h, 0)
	})
	f("before all that came", 1, func(l *lane.Ledger) { lose(l, 4, 1) })
	f("apart from each other, before all that came", 256, func(l *lane.Ledger) { lose(l, 4, 2) })
}

// Final gaps go after a while; what may still come stays, and frames that come late do not count twice.
func TestLedgerForgets(t *testing.T) {
	l := lane.Ledger{}
	add := func(at int64, e frame.Epoch, framesBefore uint64, numbers ...uint64) {
		for _, n := range numbers {
			h := header(e, n, framesBefore)
			l.Place(h, false)
			l.Add(h, at)
		}
	}
	add(1, 1, 0, 1, 2, 5, 6) // 3 and 4 are evicted
	add(2, 1, 0, 9)          // 7 and 8 may come
	add(3, 2, 12, 1)         // 10 to 12 are corrupt
	add(4, 2, 12, 3)         // 2 is evicted
	l.Reject(header(2, 3, 12), 4, 4)
	l.RefuseByOutput(header(2, 3, 12), 2, 4) // which is another matter
	l.RefuseByOutput(header(2, 3, 12), 1, 4)
	for _, x := range []frame.Loss{
		{Epoch: 1, From: 3, To: 4, Rows: 20, Cause: frame.CauseEvicted}, {Epoch: 1, From: 10, To: 12, Rows: 30, Cause: frame.CauseCorrupt},
		{Epoch: 2, From: 2, To: 2, Rows: 10, Cause: frame.CauseEvicted},
	} {
		l.Lose(x)
	}
	want := func(before int64, want string) {
		t.Helper()
		l.Forget(before)
		text := ""
		for _, g := range l.Gaps() {
			text += fmt.Sprintf("%d/%d-%d:%d %s, ", g.Epoch, g.From, g.To, g.Rows, g.Cause)
		}
		if text != want {
			t.Errorf("before %d there are %q, want %q", before, text, want)
		}
		fresh := lane.LedgerFrom(l.State())
		if l.Missing() != fresh.Missing() {
			t.Errorf("before %d %v are counted, want %v", before, l.Missing(), fresh.Missing())
		}
	}
	want(1, "1/3-4:20 evicted, 1/7-8:20 not_arrived, 1/10-12:30 corrupt, 2/2-2:10 evicted, 2/3-3:4 rejected, 2/3-3:3 refused_by_output, ")
	want(3, "1/7-8:20 not_arrived, 1/10-12:30 corrupt, 2/2-2:10 evicted, 2/3-3:4 rejected, 2/3-3:3 refused_by_output, ")
	want(4, "1/7-8:20 not_arrived, 2/2-2:10 evicted, 2/3-3:4 rejected, 2/3-3:3 refused_by_output, ")
	want(100, "1/7-8:20 not_arrived, ")
	add(101, 1, 0, 3, 7, 8, 11)
	want(100, "")
}
