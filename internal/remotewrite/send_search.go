package remotewrite

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/thalweg/thalweg/internal/writeproto"
)

const (
	// maxSuspects bounds the sources that a shard remembers as refused. More of them are looked for anew in each request.
	maxSuspects = 10_000
	// suspectFor is how long they are remembered if nothing of them comes.
	suspectFor = 10 * time.Minute
	// hopelessAfter is how many rows of a source are refused one by one, with none taken, before its rows of a request
	// are refused all at once.
	hopelessAfter = 100
	// lateSpan is how exactly the boundary is looked for beyond which a receiver refuses what is late.
	lateSpan = time.Minute
)

// sentRow is where a row of the batch is from.
type sentRow struct {
	site   string
	source uint64 // by hash of site and source
	t      int64  // in ms
}

// suspect is a source of which the receiver has refused rows. Its rows go out behind those of the others, until some are
// taken.
type suspect struct {
	rows int // refused since one was taken
	at   time.Time
}

// settle sends a request until all of it is answered for good. What is refused of one source never costs another one its
// rows, though a receiver of 1.0 refuses a whole request for the sake of one sample.
func (sh *shard) settle(ctx context.Context, r writeproto.Request) error {
	good, bad, _ := r.Split(func(i int) bool { return sh.suspects[sh.of(&r, i).source] == nil })
	for _, part := range []writeproto.Request{good, bad} {
		if _, err := sh.search(ctx, part); err != nil {
			return err
		}
	}
	return nil
}

// search sends a request. If it is refused its halves are searched, down to the rows that cannot be taken. It makes at
// most two requests for each source, and for each row of those that are refused.
func (sh *shard) search(ctx context.Context, r writeproto.Request) (took bool, err error) {
	if sh.sender.backfill {
		r = sh.leave(r)
	}
	if len(r.Rows) == 0 {
		return false, nil
	}
	a, err := sh.deliver(ctx, &r)
	if err != nil {
		return false, err
	}
	if a.verdict == verdictTaken || a.confirmed && !a.written.none() {
		sh.taken(&r, &a)
		return true, nil
	}
	tooLate := sh.sender.backfill && isLate(&a)
	if first, second, ok := sh.halve(&r, &a, tooLate); ok {
		for _, half := range []writeproto.Request{first, second} {
			t, err := sh.search(ctx, half)
			if err != nil {
				return took, err
			}
			took = took || t
		}
	} else {
		sh.refuse(&r, &a)
	}
	if tooLate && !took && sh.withinLateSpan(&r) {
		sh.sender.w.refusesLate(sh.newest(&r), a.words)
	}
	return took, nil
}

// of returns where the row of a part of a request is from.
func (sh *shard) of(r *writeproto.Request, part int) *sentRow {
	return &sh.sender.origins[r.Rows[part].Row]
}

// newest returns where the newest row of a request is from.
func (sh *shard) newest(r *writeproto.Request) *sentRow {
	newest := sh.of(r, 0)
	for i := range r.Rows {
		if o := sh.of(r, i); o.t > newest.t {
			newest = o
		}
	}
	return newest
}

// halve cuts a request that was refused in two, with all rows of a source in one of them, or those of one source in their
// order. It is false if there is nothing more to find out.
func (sh *shard) halve(r *writeproto.Request, a *answer, tooLate bool) (first, second writeproto.Request, ok bool) {
	if len(r.Rows) < 2 || !worthSplitting(a) {
		return first, second, false
	}
	n := len(r.Rows)
	if tooLate {
		sites := sh.numbered(r, func(o *sentRow) any { return o.site })
		if last := slices.Max(sites); last > 0 {
			return r.Split(func(i int) bool { return sites[i] <= last/2 })
		}
		if !sh.withinLateSpan(r) {
			middle := r.Oldest + (r.Newest-r.Oldest)/2
			return r.Split(func(i int) bool { return sh.of(r, i).t <= middle })
		}
		if sh.sender.w.isLate(sh.of(r, 0).site) {
			return first, second, false // as expected
		}
	}
	sources := sh.numbered(r, func(o *sentRow) any { return o.source })
	if last := slices.Max(sources); last > 0 {
		return r.Split(func(i int) bool { return sources[i] <= last/2 })
	}
	if s := sh.suspects[sh.of(r, 0).source]; s != nil && s.rows >= hopelessAfter && !sh.sender.mayRepeat() {
		return first, second, false
	}
	return r.Split(func(i int) bool { return i < n/2 })
}

// numbered numbers what the rows of a request have in common, in the order in which it appears.
func (sh *shard) numbered(r *writeproto.Request, key func(*sentRow) any) []int {
	numbers := make([]int, len(r.Rows))
	known := map[any]int{}
	for i := range r.Rows {
		k := key(sh.of(r, i))
		n, ok := known[k]
		if !ok {
			n = len(known)
			known[k] = n
		}
		numbers[i] = n
	}
	return numbers
}

// withinLateSpan reports whether all rows of a request are of one site, and of about one time.
func (sh *shard) withinLateSpan(r *writeproto.Request) bool {
	site := sh.of(r, 0).site
	for i := range r.Rows {
		if sh.of(r, i).site != site {
			return false
		}
	}
	return r.Newest-r.Oldest < lateSpan.Milliseconds()
}

// leave gives up, without sending them, rows of which is known that they come too late, and returns the rest of a request.
func (sh *shard) leave(r writeproto.Request) writeproto.Request {
	why := ""
	late, rest, _ := r.Split(func(i int) bool {
		words, late := sh.sender.w.tooLate(sh.of(&r, i))
		if late {
			why = words
		}
		return late
	})
	for _, part := range late.Rows {
		sh.refusals = append(sh.refusals, refusal{part.Row, part.Samples, LossLate, why})
	}
	return rest
}

// taken notes what was taken of a request: all of it, or what the receiver says.
func (sh *shard) taken(r *writeproto.Request, a *answer) {
	got := written{r.Samples, r.Histograms, r.Exemplars}
	if a.confirmed {
		got = written{min(got.samples, a.written.samples), min(got.histograms, a.written.histograms), min(got.exemplars, a.written.exemplars)}
	}
	m := sh.sender.metrics
	m.samples.Add(float64(got.samples))
	m.histograms.Add(float64(got.histograms))
	m.exemplars.Add(float64(got.exemplars))
	sh.sender.newestTaken(r.Newest)
	for i := range r.Rows {
		delete(sh.suspects, sh.of(r, i).source)
	}
	if sh.sender.backfill {
		sh.sender.w.takesLate(func(yield func(*sentRow) bool) {
			for i := 0; i < len(r.Rows) && yield(sh.of(r, i)); i++ {
			}
		})
	}
	lost := r.Samples + r.Histograms - got.samples - got.histograms
	reason, why := reasonOf(a), a.words
	if a.verdict == verdictTaken {
		why = fmt.Sprintf("answered %d, and wrote less than it was sent", a.code)
	}
	// The receiver says how many it did not take, not of which rows: those that come first stand for them.
	for _, part := range r.Rows {
		if lost == 0 {
			break
		}
		n := min(lost, part.Samples)
		lost -= n
		if sh.repeats(n, a) {
			continue
		}
		sh.refusals = append(sh.refusals, refusal{part.Row, n, reason, why})
	}
}

// refuse notes that all rows of a request are lost.
func (sh *shard) refuse(r *writeproto.Request, a *answer) {
	reason := reasonOf(a)
	for i, part := range r.Rows {
		if sh.repeats(part.Samples, a) {
			continue
		}
		sh.refusals = append(sh.refusals, refusal{part.Row, part.Samples, reason, a.words})
		if worthSplitting(a) && !(sh.sender.backfill && reason == LossLate) {
			sh.suspect(sh.of(r, i).source)
		}
	}
}

// repetition counts samples that were refused and may have arrived before.
type repetition struct {
	samples int
	words   string // of the receiver
}

// repeats notes samples that were refused and may have arrived before. It is false if they are others.
func (sh *shard) repeats(samples int, a *answer) bool {
	if !sh.sender.mayRepeat() || !isRepetition(a) {
		return false
	}
	sh.repeated.samples += samples
	sh.repeated.words = a.words
	return true
}

// suspect notes that a row of a source was refused.
func (sh *shard) suspect(source uint64) {
	s := sh.suspects[source]
	if s == nil {
		if len(sh.suspects) >= maxSuspects {
			return
		}
		s = &suspect{}
		sh.suspects[source] = s
	}
	s.rows, s.at = s.rows+1, sh.sender.w.now()
}

// forgetSuspects forgets those of which nothing came for a while.
func (sh *shard) forgetSuspects(now time.Time) {
	for source, s := range sh.suspects {
		if now.Sub(s.at) > suspectFor {
			delete(sh.suspects, source)
		}
	}
}

// What receivers say of samples that come too late, and of those among them that may have come before: Prometheus, Thanos,
// Mimir and their kin.
var (
	lateness = regexp.MustCompile(`(?i)out[ -]of[ -](order|bounds)|too[ -]old|too far behind`)
	again    = regexp.MustCompile(`(?i)out[ -]of[ -]order|duplicate sample`)
)

// isLate reports whether rows were refused because newer ones of their series are there already.
func isLate(a *answer) bool { return ofSome(a) && lateness.MatchString(a.words) }

// isRepetition reports whether an answer is what a receiver says of samples that it has, and says nothing else.
func isRepetition(a *answer) bool {
	if !ofSome(a) || a.words == "" {
		return false
	}
	for line := range strings.Lines(a.words) {
		if !again.MatchString(line) {
			return false
		}
	}
	return true
}

// reasonOf returns why what an answer is about is lost.
func reasonOf(a *answer) Loss {
	switch {
	case a.verdict == verdictExpired:
		return LossTooOld
	case isLate(a):
		return LossLate
	}
	return LossRefused
}

// ofSome reports whether an answer may be about some of the samples.
func ofSome(a *answer) bool {
	return a.code == http.StatusBadRequest || a.code == http.StatusConflict || a.code == http.StatusUnprocessableEntity
}

// worthSplitting reports whether an answer may be about some of the samples only, or about the size.
func worthSplitting(a *answer) bool {
	return ofSome(a) || a.code == http.StatusRequestEntityTooLarge
}
