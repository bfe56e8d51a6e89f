package lane

import (
	"cmp"
	"math"
	"slices"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/value"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/series"
)

// EndsConfig bounds what Ends remembers of a site.
type EndsConfig struct {
	// MaxSources bounds the sources of a site. Beyond it no markers are made for new ones, which EndsStats counts.
	// Default 20,000.
	MaxSources int
	// Silence is after how long, by the times of its rows, a source is forgotten that nobody ended. Default 1 h, in
	// milliseconds.
	Silence int64
}

// maxRuns bounds the runs of a site. Beyond it the two oldest are one, as if nothing between them could come any more.
const maxRuns = 8

// Ends tells which series ended, and when, for destinations that want to be told with a stale marker: a series of whole
// rows ends with the first row that lacks it, and one of any row with its source. Partial rows end only what they say
// themselves.
//
// Rows come on two lanes, with holes that are filled later or never, over restarts of the edge and of the hub. What came
// without a hole is a run; within a run each row is compared with the one before it of its source. Two runs become one
// when nothing can come between them any more, and then the last row of the one is compared with the first of the other.
// So each end has one marker, at the time of the row that shows it. After a restart rows that were delivered before tell
// what was alive, and their ends are not told again; what a killed process might not have told is.
//
// What comes although it was given up (a gap with a final cause) is not compared with anything. Nor is what was delivered
// before and is read again later than what is around it: of sources of which nothing else was read it is forgotten.
//
// It is for one goroutine.
type Ends struct {
	cfg     EndsConfig
	sites   map[string]*endsSite
	stats   EndsStats
	row     series.Row // marker row
	columns []uint32
	present columnSet // of the row at hand
}

// EndsStats is what there is to show.
type EndsStats struct {
	// Sites, Runs and Sources are remembered at the moment.
	Sites, Runs, Sources int
	// Markers counts series that were said to have ended, Untracked rows of sources beyond MaxSources.
	Markers, Untracked uint64
}

// endsSite is what is known of one site.
type endsSite struct {
	runs []*endsRun // in the order of the site's life
	// The frame at hand, and its run; nil: its rows are not compared.
	at      frame.ID
	current *endsRun
}

// endsRun is a sequence of frames without a hole, from first to last.
type endsRun struct {
	first, last place
	// sealed: nothing can come before it, so that what its sources began with is not needed.
	sealed bool
	// fresh: since it began it has not been looked at whether it can be joined.
	fresh   bool
	sources map[string]*ending
	rows    int // since silent sources were looked for
	newest  int64
}

// place of a frame in the life of a site.
type place struct {
	id   frame.ID
	rank Rank
}

// ending is what a run knows of a source.
type ending struct {
	source *series.Source
	t      int64 // of its last row
	known  bool  // that one was delivered before
	ended  bool  // it was its end
	alive  columnSet
	floats columnSet // of histograms: the last one was a float histogram

	// first is the first whole row of the run, or the source's end; touched is what partial rows before that told of.
	// Neither is kept of a sealed run.
	first   *firstRow
	touched columnSet
}

// firstRow is what a run begins with.
type firstRow struct {
	t       int64
	known   bool
	present columnSet
}

// NewEnds returns one that knows nothing.
func NewEnds(cfg EndsConfig) *Ends {
	if cfg.MaxSources == 0 {
		cfg.MaxSources = 20_000
	}
	if cfg.Silence == 0 {
		cfg.Silence = 3_600_000
	}
	return &Ends{cfg: cfg, sites: map[string]*endsSite{}}
}

// Row takes a row from a Handler: from Row, or from Known if it was delivered before. It calls emit with markers, which
// are partial rows, valid until emit returns.
func (e *Ends) Row(d *Delivery, row *series.Row, known bool, emit func(*series.Row)) {
	s := e.sites[d.Site]
	if s == nil {
		s = &endsSite{}
		e.sites[d.Site] = s
		e.stats.Sites++
	}
	if s.at != d.Header.ID {
		s.at, s.current = d.Header.ID, s.place(d, &e.stats)
	}
	if r := s.current; r != nil {
		e.apply(r, row, known, emit)
	}
}

// Settle looks whether holes were closed. It is called after each frame (Handler.Done), after loss notices, and after
// rows that were delivered before, with the ledger of the site: what is closed when such rows are read was told then.
func (e *Ends) Settle(site string, l *Ledger, emit func(*series.Row)) {
	s := e.sites[site]
	if s == nil {
		return
	}
	if len(s.runs) > 1 {
		s.order(l)
	}
	for i := 0; i+1 < len(s.runs); {
		a, b := s.runs[i], s.runs[i+1]
		if len(s.runs) <= maxRuns && l.open(a.last.id, b.first.id) {
			i++
			continue
		}
		e.join(a, b, emit)
		s.runs = slices.Delete(s.runs, i+1, i+2)
		e.stats.Runs--
		if s.current == b {
			s.current = a
		}
	}
	for i, r := range s.runs {
		r.fresh = false
		if i == 0 && !r.sealed && l.nothingBefore(r.first.id) {
			e.seal(r)
		}
		if r.rows > 4*len(r.sources)+10_000 {
			e.sweep(r)
		}
	}
}

// Forget drops all that is known of a site.
func (e *Ends) Forget(site string) {
	if s := e.sites[site]; s != nil {
		for _, r := range s.runs {
			e.stats.Sources -= len(r.sources)
		}
		e.stats.Runs -= len(s.runs)
		e.stats.Sites--
		delete(e.sites, site)
	}
}

// Stats returns what there is to show.
func (e *Ends) Stats() EndsStats { return e.stats }

// place finds the run that a frame belongs to, or begins one. It returns nil for frames of which all around is settled.
func (s *endsSite) place(d *Delivery, stats *EndsStats) *endsRun {
	at := place{d.Header.ID, d.Rank}
	i := len(s.runs)
	for i > 0 && at.rank.Less(s.runs[i-1].first.rank) {
		i--
	}
	if i > 0 {
		r := s.runs[i-1]
		switch {
		case !r.last.rank.Less(at.rank):
			return nil
		case follows(r.last.id, d.Header):
			r.last = at
			return r
		}
	}
	r := &endsRun{first: at, last: at, fresh: true, sources: map[string]*ending{}}
	s.runs = slices.Insert(s.runs, i, r)
	stats.Runs++
	return r
}

// follows reports whether a frame is the next one behind another.
func follows(last frame.ID, h *frame.Header) bool {
	return h.ID == frame.ID{Epoch: last.Epoch, Number: last.Number + 1} ||
		h.Number == 1 && h.Flags&frame.FlagFirst != 0 && h.Predecessor.ID == last
}

// order brings the runs in the order that the ledger knows now: an epoch can turn out to be newer.
func (s *endsSite) order(l *Ledger) {
	for _, r := range s.runs {
		l.rerank(&r.first)
		l.rerank(&r.last)
	}
	slices.SortStableFunc(s.runs, func(a, b *endsRun) int {
		return cmp.Or(cmp.Compare(a.first.rank.Epoch, b.first.rank.Epoch), cmp.Compare(a.first.rank.Number, b.first.rank.Number))
	})
}

func (l *Ledger) rerank(p *place) {
	if e := l.find(p.id.Epoch); e != nil {
		p.rank.Epoch = e.rank
	}
}

// open reports whether rows may still come between two frames, of which the second is the newer one.
func (l *Ledger) open(a, b frame.ID) bool {
	byID := func(id frame.Epoch) int { return slices.IndexFunc(l.epochs, func(e *epoch) bool { return e.id == id }) }
	from, to := max(byID(a.Epoch), 0), byID(b.Epoch)
	if to < 0 {
		return false // it is older than all that is known
	}
	if e := l.epochs[to]; to == len(l.epochs)-1 && e.last() < b.Number && e.end.Number < b.Number {
		return true // it was not noted yet, nor what is before it
	}
	next, lost := l.successors(), l.sortedLosses()
	open := false
	for i := from; i <= to && !open; i++ {
		e := l.epochs[i]
		rest := lost[e.id]
		// Only its first frame tells where the epoch before ended.
		open = i > from && !e.first && !l.settled(i, 1) && (len(rest) == 0 || rest[0].From > 1)
		l.holes(i, next[e.id], func(g Gap, _ uint64) {
			rest = l.split(i, g, rest, func(part Gap) {
				before := e.id == a.Epoch && part.To <= a.Number
				behind := e.id == b.Epoch && part.From >= b.Number
				open = open || part.Cause == NotArrived && !before && !behind
			})
		})
	}
	return open
}

// nothingBefore reports whether nothing can come that is older than a frame.
func (l *Ledger) nothingBefore(id frame.ID) bool {
	i := slices.IndexFunc(l.epochs, func(e *epoch) bool { return e.id == id.Epoch })
	return i >= 0 && l.settled(i, id.Number-1)
}

// apply brings what a run knows of a source to its next row.
func (e *Ends) apply(r *endsRun, row *series.Row, known bool, emit func(*series.Row)) {
	x := r.sources[row.Source.Key]
	if x == nil {
		if len(r.sources) >= e.cfg.MaxSources {
			e.stats.Untracked++
			return
		}
		x = &ending{}
		r.sources[row.Source.Key] = x
		e.stats.Sources++
	}
	x.source, x.t, x.known, x.ended = row.Source, row.T, known, row.End
	r.newest = max(r.newest, row.T)
	r.rows++
	if row.End || row.Whole() {
		e.present.fill(row)
		e.end(x, &x.alive, &e.present, row.T, known, emit)
		if x.first == nil && !r.sealed {
			x.first = &firstRow{row.T, known, e.present.clone()}
		}
		x.alive.copyFrom(&e.present)
	} else {
		x.partial(row, x.first == nil && !r.sealed)
	}
	x.noteFloats(row)
	if row.End && r.sealed {
		delete(r.sources, row.Source.Key)
		e.stats.Sources--
	}
}

// partial takes what a partial row says: a series is alive, or has ended.
func (x *ending) partial(row *series.Row, touch bool) {
	x.alive.change(row.Schema)
	if touch {
		x.touched.change(row.Schema)
	}
	columns, histograms := row.Schema.Columns(), row.Histograms
	for i, c := range row.Columns {
		stale := value.IsStaleNaN(row.Values[i])
		if columns[c].Kind != series.Float {
			for len(histograms) > 0 && histograms[0].Column < c {
				histograms = histograms[1:]
			}
			stale = len(histograms) > 0 && histograms[0].Column == c && isStale(&histograms[0])
		}
		x.alive.put(int(c), !stale)
		if touch {
			x.touched.put(int(c), true)
		}
	}
}

func isStale(h *series.HistogramAt) bool {
	if h.H != nil {
		return value.IsStaleNaN(h.H.Sum)
	}
	return value.IsStaleNaN(h.FH.Sum)
}

// noteFloats notes of which kind the histograms of a row are.
func (x *ending) noteFloats(row *series.Row) {
	if len(row.Histograms) == 0 {
		return
	}
	x.floats.change(row.Schema)
	for i := range row.Histograms {
		x.floats.put(int(row.Histograms[i].Column), row.Histograms[i].FH != nil)
	}
}

// end tells which of the columns that were alive a row at a time lacks, unless that is known already.
func (e *Ends) end(x *ending, alive, present *columnSet, t int64, known bool, emit func(*series.Row)) {
	if known || alive.schema == nil {
		return
	}
	e.columns = alive.without(present, e.columns[:0])
	if len(e.columns) == 0 {
		return
	}
	e.stats.Markers += uint64(len(e.columns))
	x.floats.change(alive.schema)
	row := &e.row
	*row = series.Row{Source: x.source, Schema: alive.schema, T: t, Columns: e.columns, Values: row.Values[:0], Histograms: row.Histograms[:0]}
	stale := math.Float64frombits(value.StaleNaN)
	for _, c := range e.columns {
		kind := alive.schema.Column(int(c)).Kind
		switch {
		case kind == series.Float:
			row.Values = append(row.Values, stale)
			continue
		case x.floats.has(int(c)):
			row.Histograms = append(row.Histograms, series.HistogramAt{Column: c, FH: &histogram.FloatHistogram{Sum: stale, CounterResetHint: hint(kind)}})
		default:
			row.Histograms = append(row.Histograms, series.HistogramAt{Column: c, H: &histogram.Histogram{Sum: stale, CounterResetHint: hint(kind)}})
		}
		row.Values = append(row.Values, 0)
	}
	emit(row)
}

func hint(kind series.Kind) histogram.CounterResetHint {
	if kind == series.GaugeHistogram {
		return histogram.GaugeType
	}
	return histogram.UnknownCounterReset
}

// join makes one run of two between which nothing can come any more.
func (e *Ends) join(a, b *endsRun, emit func(*series.Row)) {
	keys := make([]string, 0, len(b.sources))
	for key := range b.sources {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(k, o string) int {
		return cmp.Or(cmp.Compare(b.sources[k].firstTime(), b.sources[o].firstTime()), cmp.Compare(k, o))
	})
	// What both sides know from before the restart, with nothing between them from the start, was told then.
	silent := a.fresh || b.fresh
	for _, key := range keys {
		x, y := a.sources[key], b.sources[key]
		if x == nil {
			a.sources[key] = y
			if a.sealed {
				y.first, y.touched = nil, columnSet{}
			}
			continue
		}
		e.stats.Sources--
		if y.first != nil {
			x.alive.remove(&y.touched)
			x.source = y.source
			e.end(x, &x.alive, &y.first.present, y.first.t, silent && x.known && y.first.known, emit)
		}
		x.join(y, b.sealed, a.sealed)
	}
	a.last, a.rows, a.newest = b.last, a.rows+b.rows, max(a.newest, b.newest)
	if a.sealed {
		e.dropEnded(a)
	}
}

func (x *ending) firstTime() int64 {
	if x.first == nil {
		return math.MaxInt64
	}
	return x.first.t
}

// join takes over what the later run y knows of the source.
func (x *ending) join(y *ending, whole, sealed bool) {
	x.source, x.t, x.known, x.ended = y.source, y.t, y.known, y.ended
	if whole || y.first != nil {
		x.alive, x.floats = y.alive, y.floats
	} else { // there were partial rows only
		x.alive.remove(&y.touched)
		x.alive.add(&y.alive)
		x.floats.remove(&y.touched)
		x.floats.add(&y.floats)
	}
	if x.first == nil && !sealed {
		x.first = y.first
		x.touched.add(&y.touched)
	}
}

// seal forgets what a run began with.
func (e *Ends) seal(r *endsRun) {
	r.sealed = true
	for _, x := range r.sources {
		x.first, x.touched = nil, columnSet{}
	}
	e.dropEnded(r)
}

// dropEnded forgets the sources of a sealed run that ended.
func (e *Ends) dropEnded(r *endsRun) {
	for key, x := range r.sources {
		if x.ended {
			delete(r.sources, key)
			e.stats.Sources--
		}
	}
}

// sweep forgets silent sources.
func (e *Ends) sweep(r *endsRun) {
	r.rows = 0
	for key, x := range r.sources {
		if x.t < r.newest-e.cfg.Silence {
			delete(r.sources, key)
			e.stats.Sources--
		}
	}
}
