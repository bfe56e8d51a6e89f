package lane_test

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/series"
)

var stale = math.Float64frombits(value.StaleNaN)

// endsFrame is a frame of a made-up life.
type endsFrame struct {
	header frame.Header
	rows   []*series.Row
	lost   bool
	late   bool // it comes on the backfill lane
	came   bool
}

// endsLife is the life of a site: frames in the order in which they were made.
type endsLife struct {
	*rand.Rand
	catalog *series.Catalog
	sources []*endsSource
	frames  []*endsFrame
	now     int64
}

type endsSource struct {
	source  *series.Source
	schema  *series.Schema
	names   int // given so far
	partial int // percent of the rows
	fixed   bool
}

func newEndsLife(seed uint64) *endsLife {
	l := &endsLife{Rand: rand.New(rand.NewPCG(seed, 9)), catalog: series.NewCatalog(), now: 1_700_000_000_000}
	for i := range 2 + l.IntN(4) {
		s := &endsSource{source: &series.Source{Key: fmt.Sprint("s", i), Labels: labels.FromStrings("instance", fmt.Sprint(i))}, schema: l.catalog.Empty()}
		switch l.IntN(4) {
		case 0:
			s.partial, s.fixed = 100, true
		case 1:
			s.partial, s.fixed = 30, true
		}
		l.sources = append(l.sources, s)
		l.grow(s)
	}
	epoch, rowsBefore := frame.Epoch(seed<<8+1), uint64(0)
	number, before := uint64(0), frame.Predecessor{}
	outage := false
	for i := range 10 + l.IntN(60) {
		if l.IntN(15) == 0 && i > 3 { // the edge begins again
			before = frame.Predecessor{ID: frame.ID{Epoch: epoch, Number: number}, Rows: rowsBefore}
			epoch, number, rowsBefore = epoch+1, 0, 0
		}
		if l.IntN(8) == 0 {
			outage = !outage
		}
		f := &endsFrame{late: outage, lost: outage && l.IntN(4) == 0}
		for range l.IntN(4) {
			f.rows = append(f.rows, l.row())
		}
		number++
		f.header = frame.Header{ID: frame.ID{Epoch: epoch, Number: number}, RowsBefore: rowsBefore, Rows: uint32(len(f.rows)), Sent: l.now}
		if number == 1 {
			f.header.Flags, f.header.Predecessor = frame.FlagFirst, before
			f.lost = false // else nobody can tell where the epoch belongs, if nothing of it went live
		}
		rowsBefore += uint64(len(f.rows))
		l.frames = append(l.frames, f)
	}
	l.frames[0].late, l.frames[0].lost = false, false
	if seed%3 == 0 { // the hub begins in the middle
		l.frames[0].late, l.frames[1].late, l.frames[2].late = true, true, false
		l.frames[2].lost = false
	}
	last := l.frames[len(l.frames)-1]
	last.late, last.lost = false, false
	return l
}

// grow gives a source more columns, or others.
func (l *endsLife) grow(s *endsSource) {
	var columns []series.Column
	from := s.schema
	if l.IntN(3) == 0 && !s.fixed { // compacted: what is left has other numbers
		from = l.catalog.Empty()
		for i := range s.schema.Len() {
			if l.IntN(4) > 0 {
				columns = append(columns, *s.schema.Column(i))
			}
		}
		l.Shuffle(len(columns), func(i, j int) { columns[i], columns[j] = columns[j], columns[i] })
	}
	for range 1 + l.IntN(40) {
		s.names++
		columns = append(columns, series.Column{Labels: labels.FromStrings("__name__", fmt.Sprint("m", s.names)), Kind: series.Kind(max(0, l.IntN(9)-6))})
	}
	s.schema = l.catalog.Extend(from, columns)
}

func (l *endsLife) row() *series.Row {
	s := l.sources[l.IntN(len(l.sources))]
	l.now += int64(1 + l.IntN(10_000))
	if l.IntN(15) == 0 {
		return &series.Row{Source: s.source, Schema: s.schema, T: l.now, End: true}
	}
	if l.IntN(6) == 0 {
		l.grow(s)
	}
	n := s.schema.Len()
	row := &series.Row{Source: s.source, Schema: s.schema, T: l.now}
	partial := l.IntN(100) < s.partial
	all := !partial && l.IntN(4) == 0
	if partial {
		row.Columns = []uint32{}
	} else {
		row.Values = make([]float64, n)
		if !all {
			row.Present = series.Bitmap(nil, n)
		}
	}
	for c := range n {
		if !all && l.IntN(5) == 0 {
			continue
		}
		v, kind := 1.0, s.schema.Column(c).Kind
		if partial && l.IntN(4) == 0 {
			v = stale
		}
		switch {
		case kind == series.Float:
		case l.IntN(2) == 0:
			row.Histograms = append(row.Histograms, series.HistogramAt{Column: uint32(c), H: &histogram.Histogram{Sum: v}})
			v = 0
		default:
			row.Histograms = append(row.Histograms, series.HistogramAt{Column: uint32(c), FH: &histogram.FloatHistogram{Sum: v}})
			v = 0
		}
		switch {
		case partial:
			row.Columns, row.Values = append(row.Columns, uint32(c)), append(row.Values, v)
		case !all:
			series.SetBit(row.Present, c)
			fallthrough
		default:
			row.Values[c] = v
		}
	}
	return row
}

// showMarkers lists the series of a marker row, each with its time and kind.
func showMarkers(row *series.Row) (list []string) {
	for i, c := range row.Columns {
		kind := "neither"
		column := row.Schema.Column(int(c))
		if column.Kind == series.Float && value.IsStaleNaN(row.Values[i]) {
			kind = "float"
		}
		for _, h := range row.Histograms {
			switch {
			case h.Column != c:
			case h.H != nil && value.IsStaleNaN(h.H.Sum):
				kind = "histogram"
			case h.FH != nil && value.IsStaleNaN(h.FH.Sum):
				kind = "float histogram"
			}
		}
		list = append(list, fmt.Sprintf("%s %s @%d %s", row.Source.Key, column.Labels, row.T, kind))
	}
	return list
}

// wanted is the obvious version: the markers for the rows that came, in the order in which they were made.
func (l *endsLife) wanted() (markers []string) {
	type key struct{ source, series string }
	alive, floats := map[key]bool{}, map[key]bool{}
	kinds := map[key]series.Kind{}
	mark := func(k key, t int64) {
		kind := "float"
		switch {
		case kinds[k] != series.Float && floats[k]:
			kind = "float histogram"
		case kinds[k] != series.Float:
			kind = "histogram"
		}
		markers = append(markers, fmt.Sprintf("%s %s @%d %s", k.source, k.series, t, kind))
		delete(alive, k)
	}
	for _, f := range l.frames {
		if !f.came {
			continue
		}
		for _, row := range f.rows {
			keyOf := func(c int) key { return key{row.Source.Key, row.Schema.Column(c).Labels.String()} }
			there := map[key]bool{}
			if row.End || row.Whole() {
				for c := range row.Values {
					if row.Has(c) {
						there[keyOf(c)] = true
					}
				}
				for k := range maps.Clone(alive) {
					if k.source == row.Source.Key && !there[k] {
						mark(k, row.T)
					}
				}
			}
			for k := range there {
				alive[k] = true
			}
			for c := range row.Schema.Len() {
				kinds[keyOf(c)] = row.Schema.Column(c).Kind
			}
			for i, c := range row.Columns {
				alive[keyOf(int(c))] = !value.IsStaleNaN(row.Values[i])
			}
			for _, h := range row.Histograms {
				k := keyOf(int(h.Column))
				floats[k] = h.FH != nil
				if h.H != nil && value.IsStaleNaN(h.H.Sum) || h.FH != nil && value.IsStaleNaN(h.FH.Sum) {
					alive[k] = false
				}
			}
			maps.DeleteFunc(alive, func(_ key, is bool) bool { return !is })
		}
	}
	slices.Sort(markers)
	return markers
}

// endsHub takes the frames.
type endsHub struct {
	life    *endsLife
	ledger  lane.Ledger
	ends    *lane.Ends
	markers []string
}

func (h *endsHub) emit(row *series.Row) { h.markers = append(h.markers, showMarkers(row)...) }

func (h *endsHub) take(f *endsFrame, known bool) {
	header := f.header
	d := lane.Delivery{Site: "s", Rank: h.ledger.Place(&header, f.late), Backfill: f.late, Header: &header}
	for _, row := range f.rows {
		h.ends.Row(&d, row, known, h.emit)
	}
	if known {
		h.ends.Settle("s", &h.ledger, h.emit)
		return
	}
	h.ledger.Add(&header, f.header.Sent)
	f.came = true
	if !f.late && h.life.IntN(2) == 0 {
		h.ledger.Settle(&header, []frame.Fact{{Name: lane.FactPending, Value: h.pending(f)}})
	}
	h.ends.Settle("s", &h.ledger, h.emit)
}

// pending is what the site still holds, in a keyframe.
func (h *endsHub) pending(keyframe *endsFrame) string {
	for _, f := range h.life.frames {
		if f == keyframe {
			break
		}
		if !f.came && !f.lost {
			return f.header.ID.String()
		}
	}
	return ""
}

// restart begins a process with the ledger that the one before had written down, and reads again what came.
func (h *endsHub) restart() {
	h.ledger = lane.LedgerFrom(h.ledger.State())
	h.ends = lane.NewEnds(lane.EndsConfig{})
	for _, f := range h.life.frames {
		if f.came {
			h.take(f, true)
		}
	}
}

// play lets a life come to a hub over two lanes, and returns the markers.
func (l *endsLife) play(restarts bool) []string {
	h := &endsHub{life: l, ends: lane.NewEnds(lane.EndsConfig{})}
	var lanes [2][]*endsFrame
	for _, f := range l.frames {
		switch {
		case f.lost:
		case f.late:
			lanes[1] = append(lanes[1], f)
		default:
			lanes[0] = append(lanes[0], f)
		}
	}
	var last *endsFrame // that went live
	order := func(f *endsFrame) int { return slices.Index(l.frames, f) }
	for len(lanes[0])+len(lanes[1]) > 0 {
		i := l.IntN(2)
		// The backfill lane has what is older than something that went live.
		if len(lanes[i]) == 0 || i == 1 && len(lanes[0]) > 0 && (last == nil || order(last) < order(lanes[1][0])) {
			continue
		}
		f := lanes[i][0]
		lanes[i] = lanes[i][1:]
		if i == 0 {
			last = f
		}
		h.take(f, false)
		if restarts && l.IntN(10) == 0 {
			h.restart()
		}
	}
	for _, f := range l.frames {
		if f.lost {
			h.ledger.Lose(frame.Loss{
				Epoch: f.header.Epoch, From: f.header.Number, To: f.header.Number, Rows: uint64(f.header.Rows),
				First: f.header.Sent, Last: f.header.Sent, Cause: frame.CauseEvicted,
			})
			h.ends.Settle("s", &h.ledger, h.emit)
		}
	}
	slices.Sort(h.markers)
	return h.markers
}

// difference shows what is in one list and not in the other.
func difference(got, want []string) string {
	var s []byte
	for _, x := range got {
		if !slices.Contains(want, x) {
			s = fmt.Appendf(s, "too much: %s\n", x)
		}
	}
	for _, x := range want {
		if !slices.Contains(got, x) {
			s = fmt.Appendf(s, "missing:  %s\n", x)
		}
	}
	return string(s)
}

// TestEnds: whatever comes late, in parts or never, the markers are those of the rows that came, in their order.
func TestEnds(t *testing.T) {
	for seed := range uint64(400) {
		l := newEndsLife(seed)
		got := l.play(false)
		if want := l.wanted(); !slices.Equal(got, want) {
			t.Fatalf("seed %d: %d markers instead of %d:\n%s", seed, len(got), len(want), difference(got, want))
		}
	}
}

// TestEndsRestart: after restarts none is missing, none is made up, and none has another time.
func TestEndsRestart(t *testing.T) {
	for seed := range uint64(400) {
		l := newEndsLife(seed)
		got := slices.Compact(l.play(true))
		if want := l.wanted(); !slices.Equal(got, want) {
			t.Fatalf("seed %d: %d markers instead of %d:\n%s", seed, len(got), len(want), difference(got, want))
		}
	}
}

func FuzzEnds(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) {
		l := newEndsLife(seed)
		if got, want := l.play(false), l.wanted(); !slices.Equal(got, want) {
			t.Fatalf("%d markers instead of %d:\n%s", len(got), len(want), difference(got, want))
		}
	})
}

// endsRows feeds rows of one site without holes, a frame each.
type endsRows struct {
	ends   *lane.Ends
	ledger lane.Ledger
	header frame.Header
	d      lane.Delivery
	got    []string
}

func newEndsRows(cfg lane.EndsConfig) *endsRows {
	return &endsRows{ends: lane.NewEnds(cfg), header: frame.Header{ID: frame.ID{Epoch: 1}}}
}

func (r *endsRows) emit(row *series.Row) { r.got = append(r.got, showMarkers(row)...) }

func (r *endsRows) add(row *series.Row) {
	r.header.Number++
	r.header.RowsBefore, r.header.Rows, r.header.Sent = r.header.RowsAfter(), 1, row.T
	r.d = lane.Delivery{Site: "s", Rank: r.ledger.Place(&r.header, false), Header: &r.header}
	r.ends.Row(&r.d, row, false, r.emit)
	r.ledger.Add(&r.header, row.T)
	r.ends.Settle("s", &r.ledger, r.emit)
}

func endsSchema(columns int) *series.Schema {
	catalog := series.NewCatalog()
	var list []series.Column
	for i := range columns {
		list = append(list, series.Synthetic(fmt.Sprint("m", i), ""))
	}
	return catalog.Extend(catalog.Empty(), list)
}

func TestEndsBounds(t *testing.T) {
	r, schema := newEndsRows(lane.EndsConfig{MaxSources: 3}), endsSchema(2)
	add := func(key string, at int64) {
		r.add(&series.Row{Source: &series.Source{Key: key}, Schema: schema, T: at, Values: []float64{1, 2}})
	}
	for i := range 5 {
		add(fmt.Sprint(i), int64(i))
	}
	if s := r.ends.Stats(); s != (lane.EndsStats{Sites: 1, Runs: 1, Sources: 3, Untracked: 2}) {
		t.Errorf("with room for 3 of 5 sources: %+v", s)
	}
	for i := range 11_000 { // the others are silent
		add("0", 3_600_000+int64(i))
	}
	if s := r.ends.Stats(); s.Sources != 1 {
		t.Errorf("after an hour of silence of all but one source: %+v", s)
	}
	r.ends.Forget("s")
	r.ends.Forget("other")
	if s := r.ends.Stats(); s.Sites+s.Runs+s.Sources != 0 {
		t.Errorf("forgotten: %+v", s)
	}
	if len(r.got) > 0 {
		t.Errorf("nothing ended, and there are markers: %q", r.got)
	}
}

// TestEndsRuns: however many holes there are, and if none is ever filled, the last state is compared with.
func TestEndsRuns(t *testing.T) {
	r, schema := newEndsRows(lane.EndsConfig{}), endsSchema(2)
	source := &series.Source{Key: "a"}
	for i := range 50 {
		row := &series.Row{Source: source, Schema: schema, T: int64(i), Values: []float64{1, 2}}
		if i == 49 {
			row.Present = []uint64{1}
		}
		r.header.Number += 10
		r.header.RowsBefore += 10
		r.add(row)
	}
	if s := r.ends.Stats(); s.Runs > 8 || s.Sources > 8 {
		t.Errorf("after 50 holes: %+v", s)
	}
	if len(r.got) > 0 {
		t.Errorf("while the holes are open: %q", r.got)
	}
	r.ledger.Lose(frame.Loss{Epoch: 1, From: 1, To: 1000, Rows: 1000, Cause: frame.CauseEvicted})
	r.ends.Settle("s", &r.ledger, r.emit)
	if want := []string{`a {__name__="m1"} @49 float`}; !slices.Equal(r.got, want) {
		t.Errorf("after the loss: %q, not %q", r.got, want)
	}
}

// TestKnownRows: rows of frames that came before are handed out as such when they are decoded again.
func TestKnownRows(t *testing.T) {
	m := newMaker(t, 1, 2)
	messages := [][]byte{m.frame(), m.frame(), m.frame()}
	receiver := lane.NewReceiver(lane.ReceiverConfig{Decoder: func(string) (frame.DecoderConfig, bool) {
		return frame.DecoderConfig{Catalog: series.NewCatalog()}, true
	}})
	var got []string
	read := func(messages [][]byte) {
		for _, payload := range messages {
			receiver.Step(lane.Message{Site: "s", Payload: payload}, lane.Handler{
				Row: func(d *lane.Delivery, row *series.Row) {
					got = append(got, fmt.Sprint("new ", d.Header.Number, row.T-m.now))
				},
				Known: func(d *lane.Delivery, row *series.Row) {
					got = append(got, fmt.Sprint("known ", d.Header.Number, row.T-m.now))
				},
			})
		}
	}
	read(messages[:2])
	receiver.Restart()
	read(messages)
	want := []string{"new 1 -2000", "new 2 -1000", "known 1 -2000", "known 2 -1000", "new 3 0"}
	if !slices.Equal(got, want) {
		t.Errorf("rows %q, not %q", got, want)
	}
}

func TestEndsAllocatesNothing(t *testing.T) {
	r, schema := newEndsRows(lane.EndsConfig{}), endsSchema(200)
	row := &series.Row{Source: &series.Source{Key: "a"}, Schema: schema, Values: make([]float64, 200)}
	d := lane.Delivery{Site: "s", Header: &r.header}
	emit := func(*series.Row) {}
	step := func() {
		r.header.Number++
		d.Rank.Number = r.header.Number
		row.T++
		r.ends.Row(&d, row, false, emit)
		r.ends.Settle("s", &r.ledger, emit)
	}
	step()
	if n := testing.AllocsPerRun(100, step); n > 0 {
		t.Errorf("%v allocations for a row", n)
	}
}

// BenchmarkEnds reports what a row of a thousand series costs.
func BenchmarkEnds(b *testing.B) {
	r, schema := newEndsRows(lane.EndsConfig{}), endsSchema(1000)
	row := &series.Row{Source: &series.Source{Key: "scrape/node/host:9100"}, Schema: schema, Values: make([]float64, 1000)}
	row.Present = make([]uint64, 16)
	for i := range row.Present {
		row.Present[i] = ^uint64(0) >> 2
	}
	d := lane.Delivery{Site: "s", Header: &r.header}
	emit := func(*series.Row) {}
	for b.Loop() {
		r.header.Number++
		d.Rank.Number = r.header.Number
		r.ends.Row(&d, row, false, emit)
		r.ends.Settle("s", &r.ledger, emit)
	}
}
