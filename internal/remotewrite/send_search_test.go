package remotewrite

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
)

// strict is a receiver that takes all of a request or nothing, as Prometheus does with 1.0: it refuses samples that are
// not newer than those it has of their series, those of before a time, and those of bad sources.
type strict struct {
	mu     sync.Mutex
	newest map[string]int64
	from   int64
	taken  int
	// requests since the last look.
	requests int
}

func (x *strict) answer(_ int, r *peerRequest, w http.ResponseWriter) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.requests++
	newest := map[string]int64{}
	for _, s := range r.samples {
		switch last := max(x.newest[s.labels], newest[s.labels]); {
		case strings.Contains(s.labels, `instance="bad`):
			x.refuse(r, w, "label bad is bad")
			return
		case s.t < x.from:
			x.refuse(r, w, "out of bounds")
			return
		case s.t <= last:
			x.refuse(r, w, "out of order sample")
			return
		}
		newest[s.labels] = s.t
	}
	for l, at := range newest {
		x.newest[l] = at
	}
	x.taken += len(r.samples)
	take(r, w)
}

// refuse says, of 2.0, that nothing was written, as a receiver must.
func (x *strict) refuse(r *peerRequest, w http.ResponseWriter, why string) {
	if r.v2 {
		w.Header().Set("X-Prometheus-Remote-Write-Samples-Written", "0")
	}
	http.Error(w, why, http.StatusBadRequest)
}

// look returns what came since the last look.
func (x *strict) look() (requests, taken int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	requests, taken, x.requests, x.taken = x.requests, x.taken, 0, 0
	return requests, taken
}

// TestBadRows has a receiver that refuses everything for the sake of some sources: only theirs is lost, however many they
// are, and once they are known a request for each of them finds out whether it is still so.
func TestBadRows(t *testing.T) {
	const sources = 100
	for _, config := range []string{"", "protobuf_message: io.prometheus.write.v2.Request\n"} {
		for _, bad := range []int{0, 1, 2, 3, 5, 10, 50, 99, 100} {
			t.Run(fmt.Sprintf("%.10s%d", config, bad), func(t *testing.T) {
				x := &strict{newest: map[string]int64{}}
				p := newPeer(t, x.answer)
				o := newOut(t, p.url, config+"queue_config: {max_shards: 1}")
				s := o.NewSender(false)
				for round := range 3 {
					var want []loss
					for k := range sources {
						key := fmt.Sprint("k", k)
						if k*bad/sources != (k+1)*bad/sources { // spread
							key = "bad" + key
							want = append(want, loss{k, 2, "label bad is bad"})
						}
						s.Row(fmt.Sprint("site", k), o.row(key, sendStart+int64(round), 1, 2))
					}
					expect(t, "lost", fmt.Sprint(o.flush(s)), fmt.Sprint(want))
					requests, taken := x.look()
					expect(t, "taken", taken, 2*(sources-bad))
					most := 1 + 2*bad*8
					if round > 0 {
						most = 1 + 2*bad
					}
					if requests > min(most, 2*sources) {
						t.Errorf("round %d has %d requests", round, requests)
					}
				}
			})
		}
	}
}

// TestBadSourceRecovers: a source that was refused is one like the others once it is taken.
func TestBadSourceRecovers(t *testing.T) {
	x := &strict{newest: map[string]int64{}, from: sendStart + 10}
	p := newPeer(t, x.answer)
	o := newOut(t, p.url, "queue_config: {max_shards: 1}")
	s := o.NewSender(false)
	round := func(at int64, lost, requests int) {
		t.Helper()
		s.Row("a", o.row("late", at, 1))
		for k := range 3 {
			s.Row("a", o.row(fmt.Sprint(k), sendStart+100+at, 1))
		}
		expect(t, "lost", len(o.flush(s)), lost)
		n, _ := x.look()
		expect(t, "requests", n, requests)
	}
	round(sendStart, 1, 5) // all, a half, the two of it, the other half
	round(sendStart+1, 1, 2)
	round(sendStart+10, 0, 2)
	round(sendStart+11, 0, 1)
}

// TestHopelessSource bounds what is done for rows of a source that is refused again and again.
func TestHopelessSource(t *testing.T) {
	x := &strict{newest: map[string]int64{}}
	p := newPeer(t, x.answer)
	o := newOut(t, p.url, "queue_config: {max_shards: 1, max_samples_per_send: 1000}")
	s := o.NewSender(false)
	at := int64(sendStart)
	for round := range 3 {
		for range 500 {
			at++
			s.Row("a", o.row("bad", at, 1))
			s.Row("a", o.row("good", at, 1))
		}
		expect(t, "lost", len(o.flush(s)), 500)
		requests, taken := x.look()
		expect(t, "taken", taken, 500)
		if most := 2 * (hopelessAfter + 20); requests > most || round > 0 && requests > 2 {
			t.Errorf("round %d has %d requests", round, requests)
		}
	}
}

// TestRepeated hands out rows again that the receiver had before the output ended, with newer ones among them: these
// arrive, and those are not lost, but only at the beginning.
func TestRepeated(t *testing.T) {
	const sources, before, all = 20, 10, 33
	x := &strict{newest: map[string]int64{}}
	p := newPeer(t, x.answer)
	o := newOut(t, p.url, "queue_config: {max_shards: 2, max_samples_per_send: 500}")
	send := func(s *Sender, rows int) []loss {
		for i := range rows {
			for k := range sources {
				s.Row("a", o.row(fmt.Sprint("k", k), sendStart+int64(i), 1, 2))
			}
		}
		return o.flush(s)
	}
	expect(t, "lost", len(send(o.NewSender(false), before)), 0)
	x.look()
	resume := func(backfill bool) *Sender {
		s := o.NewSender(backfill)
		s.Resume()
		return s
	}
	s := resume(false)
	expect(t, "lost", len(send(s, all)), 0)
	_, taken := x.look()
	expect(t, "taken", taken, sources*(all-before)*2)
	repeated := func() float64 { return o.value("thalweg_remote_write_repeated_samples_total", "lane", "live") }
	failed := func() float64 {
		return o.value("thalweg_remote_write_failed_samples_total", "lane", "live", "reason", "late")
	}
	expect(t, "repeated", repeated(), sources*before*2)
	expect(t, "failed", failed(), 0)

	// A batch later it is nothing of before the start.
	expect(t, "lost", len(send(s, 1)), sources)
	expect(t, "repeated", repeated(), sources*before*2)
	expect(t, "failed", failed(), sources*2)

	// What is refused for another reason is lost at any time.
	s = resume(false)
	s.Row("a", o.row("bad", sendStart, 1, 2))
	expect(t, "lost", len(o.flush(s)), 1)
	// And so is what is late, and what an output refuses that never delivered before.
	for _, s := range []*Sender{resume(true), o.NewSender(false)} {
		s.Row("a", o.row("k0", sendStart, 1, 2))
		expect(t, "lost", len(o.flush(s)), 1)
	}
}

// TestWhatIsRepetition reads answers.
func TestWhatIsRepetition(t *testing.T) {
	f := func(code int, words string, want bool) {
		t.Helper()
		expect(t, words, isRepetition(&answer{code: code, words: words}), want)
	}
	f(400, "out of order sample", true)
	f(400, "duplicate sample for timestamp", true)
	f(409, "store locally for endpoint: add 2 samples: out of order samples", true)
	f(400, "out of order sample for series a\nduplicate sample for timestamp 7 for series b", true)
	f(400, "out of order sample for series a\nlabel x is too long", false)
	f(400, "out of bounds", false)
	f(400, "too old sample", false)
	f(400, "", false)
	f(403, "out of order sample", false)
	f(500, "out of order sample", false)
}

// TestTookNone has a receiver of 2.0 that says that it took nothing of a request of one row: that is so.
func TestTookNone(t *testing.T) {
	x := &strict{newest: map[string]int64{}, from: sendStart}
	p := newPeer(t, x.answer)
	o := newOut(t, p.url, v2)
	s := o.NewSender(true)
	s.Row("a", o.row("k", sendStart-1, 1, 2))
	expect(t, "lost", len(o.flush(s)), 1)
	expect(t, "requests", len(p.all()), 1)
	expect(t, "late", o.value("thalweg_remote_write_failed_samples_total", "lane", "backfill", "reason", "late"), 2)
	expect(t, "refuses", o.value("thalweg_remote_write_refuses_backfill"), 1)
}

// TestWindowOfSome has late rows in the same requests, one half of which the receiver takes: the sites that it refuses, or
// the time, cost the others nothing.
func TestWindowOfSome(t *testing.T) {
	f := func(name string, row func(i int) (site, source string, at int64), lost func(n int) bool) {
		t.Run(name, func(t *testing.T) {
			x := &strict{newest: map[string]int64{}, from: sendStart}
			p := newPeer(t, x.answer)
			o := newOut(t, p.url, "queue_config: {max_shards: 1}")
			s := o.NewSender(true)
			gone, within := 0, 0
			for i := range 1000 {
				site, source, at := row(i)
				if at >= sendStart {
					within++
				}
				s.Row(site, o.row(source, at, 1))
				if i%100 == 99 {
					gone += len(o.flush(s))
				}
			}
			requests, taken := x.look()
			if gone+taken != 1000 || !lost(within-taken) {
				t.Errorf("%d rows arrived, and %d of %d are lost that the receiver would have taken", taken, within-taken, within)
			}
			if requests > 200 {
				t.Errorf("%d requests", requests)
			}
		})
	}
	const hour = 3600_000
	none := func(n int) bool { return n == 0 }
	f("sites", func(i int) (string, string, int64) {
		return fmt.Sprint("site", i%2), "k", sendStart + int64(i%2-1)*hour + int64(i)*1000
	}, none)
	f("sources", func(i int) (string, string, int64) {
		return "a", fmt.Sprint(i % 2), sendStart + int64(i%2-1)*hour + int64(i)*1000
	}, none)
	f("time", func(i int) (string, string, int64) { // four sources at a time
		return "a", fmt.Sprint(i % 4), sendStart + int64(i/4-125)*5000
	}, func(n int) bool { return n >= 0 && n <= 48 }) // of the minute behind what was refused
}

// lateReceiver takes nothing of before a time.
func lateReceiver(from *int64) func(int, *peerRequest, http.ResponseWriter) {
	var mu sync.Mutex
	return func(_ int, r *peerRequest, w http.ResponseWriter) {
		mu.Lock()
		defer mu.Unlock()
		if slices.ContainsFunc(r.samples, func(x peerSample) bool { return x.t < *from }) {
			http.Error(w, "out of order sample", http.StatusBadRequest)
			return
		}
		take(r, w)
	}
}

// TestRefusesLate has a receiver without an out-of-order window: live rows go through, and what is late is refused,
// mostly without asking, until the receiver takes it.
func TestRefusesLate(t *testing.T) {
	from := int64(sendStart)
	p := newPeer(t, lateReceiver(&from))
	o := newOut(t, p.url, "queue_config: {max_shards: 1}")
	live, backfill := o.NewSender(false), o.NewSender(true)
	late := func(at int64) (requests, refused int) {
		t.Helper()
		before := len(p.all())
		backfill.Row("a", o.row("k", at, 1, 2))
		for _, l := range o.flush(backfill) {
			expect(t, "why", l.why, "out of order sample")
			refused += l.samples
		}
		return len(p.all()) - before, refused
	}
	check := func(at int64, requests, refused int) {
		t.Helper()
		r, n := late(at)
		expect(t, "requests", r, requests)
		expect(t, "refused", n, refused)
	}
	expect(t, "refuses", o.value("thalweg_remote_write_refuses_backfill"), 0)
	check(sendStart-600_000, 1, 2)
	expect(t, "refuses", o.value("thalweg_remote_write_refuses_backfill"), 1)
	expect(t, "status", o.Status().RefusesBackfill, "out of order sample")
	for i := range int64(5) {
		check(sendStart-600_000+i, 0, 2)
	}
	expect(t, "failed", o.value("thalweg_remote_write_failed_samples_total", "lane", "backfill", "reason", "late"), 12)
	live.Row("a", o.row("k", sendStart, 1, 2))
	expect(t, "lost", len(o.flush(live)), 0)

	// It is asked again after a while, and once the rows are newer.
	o.add(probeEvery)
	check(sendStart-600_000, 1, 2)
	check(sendStart-600_000, 0, 2)
	check(sendStart-600_000+probeEvery.Milliseconds(), 1, 2)
	check(sendStart-600_000+probeEvery.Milliseconds(), 0, 2)

	// It gets a window.
	from = 0
	check(sendStart-600_000, 0, 2)
	o.add(probeEvery)
	check(sendStart-600_000, 1, 0)
	expect(t, "refuses", o.value("thalweg_remote_write_refuses_backfill"), 0)
	check(sendStart-600_000, 1, 0)
	expect(t, "status", o.Status().RefusesBackfill, "")

	// Newer rows that it takes are no proof, unless they are of a source whose rows it refused.
	from = sendStart
	check(sendStart-600_000, 1, 2)
	backfill.Row("a", o.row("other", sendStart, 1, 2))
	expect(t, "lost", len(o.flush(backfill)), 0)
	expect(t, "refuses", o.value("thalweg_remote_write_refuses_backfill"), 1)
	check(sendStart, 1, 0)
	expect(t, "refuses", o.value("thalweg_remote_write_refuses_backfill"), 0)
}

// TestWindow has a receiver that takes what is not too late: of a backlog that is longer than its window, it gets the
// later part.
func TestWindow(t *testing.T) {
	from := int64(sendStart - 30*60_000)
	p := newPeer(t, lateReceiver(&from))
	o := newOut(t, p.url, "queue_config: {max_shards: 1}")
	s := o.NewSender(true)
	lost := 0
	for at := int64(sendStart - 60*60_000); at < sendStart; at += 15_000 {
		s.Row("a", o.row("k", at, 1))
		s.Row("b", o.row("k", at, 1))
		if s.rows == 20 {
			lost += len(o.flush(s))
		}
	}
	lost += len(o.flush(s))
	if n := lost - 2*30*4; n < 0 || n > 20 {
		t.Errorf("%d rows are lost, of which %d would have been taken", lost, n)
	}
	// The boundary is looked for from minute to minute, for either site.
	if n := len(p.all()); n > 12+4*2*30 {
		t.Errorf("%d requests", n)
	}
}
