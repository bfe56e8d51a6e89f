package hub

import (
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/telemetry"
)

// gapsKept is how long a gap that is final is shown.
const gapsKept = 7 * 24 * time.Hour

// ledgers say of every site which rows exist and which reached this hub. They know more than what the tail reader needs
// to tell repeats: they outlive the process (ledgerfile.go), and what the tail reader leaves out, because it begins near
// the head of the stream, is read for them alone (history.go).
//
// Times are in milliseconds since 1970, by the clock of the server that stored the messages. All methods are safe for
// concurrent use.
type ledgers struct {
	log     *slog.Logger
	repeats *telemetry.Repeats
	lost    *prometheus.CounterVec // rows, by cause

	mu    sync.Mutex
	sites map[string]*siteLedger
	// since is from when on everything was read; 0 as long as nothing was. until is up to when, and whole says that
	// nothing in between is left to be read.
	since, until int64
	whole        bool
	// position of the tail reader, as far as known: where another process finds out whether the stream is still the one.
	position bus.Position
}

type siteLedger struct {
	lane.Ledger
	came int64 // the last frame, on either lane
	// tail is the first epoch that the tail reader saw in this process: older ones that history brings stand before it.
	tail frame.Epoch
	told lane.Missing // what log and counters know
}

func newLedgers(log *slog.Logger, lost *prometheus.CounterVec) *ledgers {
	return &ledgers{log: log, repeats: telemetry.NewRepeats(log, repeatEvery), lost: lost, sites: map[string]*siteLedger{}}
}

// site returns the ledger of a site, which is made if need be. The caller holds mu.
func (l *ledgers) site(name string) *siteLedger {
	s := l.sites[name]
	if s == nil {
		s = &siteLedger{}
		l.sites[name] = s
	}
	return s
}

// reach notes that the tail reader has read up to a time.
func (l *ledgers) reach(at int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.whole {
		l.until = max(l.until, at)
	}
}

// stand notes where the tail reader stands; the zero value says that it has read nothing yet.
func (l *ledgers) stand(p bus.Position) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !p.IsZero() {
		l.position = p
	}
}

// void notes that the position is one in another stream.
func (l *ledgers) void() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.position = bus.Position{}
}

// stood is where the tail reader stood last, in this process or an earlier one.
func (l *ledgers) stood() bus.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.position
}

// view is one of the two readers that feed the ledgers.
type view struct {
	*ledgers
	// history: what is read is older than what the tail reader saw.
	history bool
	at      int64 // when the server stored the message at hand
}

// place makes room for a frame in a ledger. The caller holds mu.
func (v *view) place(s *siteLedger, h *frame.Header, backfill bool) {
	s.came = max(s.came, v.at)
	switch {
	case v.history && !backfill && s.tail != 0:
		s.PlaceBefore(h, s.tail)
	default:
		s.Place(h, backfill)
	}
	if !v.history && !backfill && s.tail == 0 {
		s.tail = h.Epoch
	}
}

// took notes a frame that came.
func (v *view) took(d *lane.Delivery) {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.site(d.Site)
	v.place(s, d.Header, d.Backfill)
	s.Add(d.Header, v.at)
	if d.Facts != nil {
		s.Settle(d.Header, d.Facts)
	}
}

// lose notes a loss notice.
func (v *view) lose(site string, loss frame.Loss) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.site(site).Lose(loss)
}

// reject notes that a row of a frame was not let in, unless that is known from an earlier life of this hub.
func (v *view) reject(site string, h *frame.Header) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if s := v.site(site); !s.Has(h.ID) {
		s.Reject(h, 1, v.at)
	}
}

// trouble notes a frame that could not be taken. While a reader catches up, what stands in front of a lane's first keyframe
// is nothing that it needs.
func (v *view) trouble(p *lane.Problem, catchingUp bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	m := p.Message
	switch s := v.sites[m.Site]; {
	case s == nil && p.Header == nil:
		return // who was never let in, or sends nothing that can be read, has no ledger
	case p.Header == nil:
		v.site(m.Site).Damage()
	case catchingUp && !p.Begun && p.Reason == lane.ReasonMismatch:
		s = v.site(m.Site)
		v.place(s, p.Header, m.Backfill)
		s.Add(p.Header, v.at)
	default:
		s = v.site(m.Site)
		v.place(s, p.Header, m.Backfill)
		s.Miss(p.Header, m.Backfill, p.Cause(), v.at)
	}
}

// newest is a site's newest frame that came, with its send time, and when a frame came last.
func (l *ledgers) newest(site string) (id frame.ID, sent, came int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.sites[site]; s != nil {
		id, sent = s.Newest()
		came = s.came
	}
	return id, sent, came
}

// missing of a site.
func (l *ledgers) missing(site string) lane.Missing {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.sites[site]; s != nil {
		return s.Missing()
	}
	return lane.Missing{}
}

// names of the sites with a ledger.
func (l *ledgers) names() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	names := make([]string, 0, len(l.sites))
	for name := range l.sites {
		names = append(names, name)
	}
	return names
}

// gaps lists at most limit gaps of all sites.
func (l *ledgers) gaps(limit int) []SiteGap {
	l.mu.Lock()
	defer l.mu.Unlock()
	return gapsOf(func(f func(string, *lane.Ledger)) {
		for name, s := range l.sites {
			f(name, &s.Ledger)
		}
	}, limit)
}

// Account is what a hub can say about its sites together.
type Account struct {
	// Since is from when on every row that the server stored is accounted for; zero as long as nothing was read.
	Since time.Time
	// Complete: nothing since then is left to be read. Until it is, gaps may close without anything arriving.
	Complete bool
	// Missing of all of them.
	Missing lane.Missing
}

func (l *ledgers) account(now time.Time, sees func(site string) bool) Account {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := Account{Complete: l.whole}
	for name, s := range l.sites {
		if sees != nil && !sees(name) {
			continue
		}
		m := s.Missing()
		a.Missing.Gaps += m.Gaps
		for c, rows := range m.Rows {
			a.Missing.Rows[c] += rows
		}
	}
	if l.since != 0 {
		a.Since = time.UnixMilli(max(l.since, now.Add(-gapsKept).UnixMilli()))
	}
	return a
}

// report tells log and counters what has changed. It waits until everything was read: before that, what is missing may be
// in the stream.
func (l *ledgers) report() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.whole {
		return
	}
	for name, s := range l.sites {
		m := s.Missing()
		if m == s.told {
			continue
		}
		for c := range m.Rows {
			l.tell(name, s, lane.Cause(c), s.told.Rows[c], m.Rows[c])
		}
		s.told = m
	}
}

// tell says how many rows of a site are missing for a cause. The caller holds mu.
func (l *ledgers) tell(site string, s *siteLedger, c lane.Cause, before, now uint64) {
	message, level := "site lost rows", slog.LevelWarn
	switch {
	case c == lane.NotArrived && before == 0 && now > 0:
		message = "rows of a site have not arrived"
	case c == lane.NotArrived && before > 0 && now == 0:
		l.repeats.Log(slog.LevelInfo, "arrived "+site, "no row of the site is awaited any more", slog.String("site", site))
		return
	case c == lane.NotArrived, now <= before:
		return
	default:
		l.lost.WithLabelValues(c.String()).Add(float64(now - before))
	}
	attrs := []slog.Attr{slog.String("site", site), slog.String("cause", c.String()), slog.Uint64("rows", now-before)}
	attrs = append(attrs, where(s.Gaps(), c, now-before)...)
	l.repeats.Log(level, "missing "+c.String()+" "+site, message, attrs...)
}

// where says between which times so many rows are missing that were not before: in the newest gaps that hold as many.
func where(gaps []lane.Gap, c lane.Cause, rows uint64) (attrs []slog.Attr) {
	var first, last lane.Gap
	n := 0
	for _, g := range slices.Backward(gaps) {
		if g.Cause != c {
			continue
		}
		if n++; n == 1 {
			last = g
		}
		if first = g; g.Rows >= rows {
			break
		}
		rows -= g.Rows
	}
	if n == 0 {
		return nil // knowledge of them went
	}
	attrs = append(attrs, slog.Time("from", time.UnixMilli(first.First)), slog.Time("to", time.UnixMilli(last.Last)), slog.Int("gaps", n))
	if n == 1 {
		attrs = append(attrs, slog.String("epoch", last.Epoch.String()), slog.Uint64("first_frame", last.From), slog.Uint64("last_frame", last.To))
	}
	return attrs
}

// trim forgets the gaps that are long known. It looks at every hole there is, so readers may have their turn after each
// site.
func (l *ledgers) trim(now time.Time) {
	for _, name := range l.names() {
		l.mu.Lock()
		if s := l.sites[name]; s != nil {
			s.Forget(now.Add(-gapsKept).UnixMilli())
		}
		l.mu.Unlock()
	}
}

// forget drops the ledgers of sites of which nothing came since a time, unless they are to be kept.
func (l *ledgers) forget(before int64, keep func(site string) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, s := range l.sites {
		if s.came < before && !keep(name) {
			delete(l.sites, name)
		}
	}
}
