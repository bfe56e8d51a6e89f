//go:build linux

package chaos

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// row is one that an edge made.
type row struct {
	site, key   string
	epoch       string
	first, last uint64 // the frame that holds it is one of these
	accepted    bool
}

// made is what an edge said.
type made struct {
	site string

	mu    sync.Mutex
	epoch string
	fresh int // rows behind this were neither accepted nor refused
	rows  []*row
	bad   []string // lines
}

func (m *made) take(_ int, f []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case len(f) == 2 && f[0] == saidEpoch:
		m.epoch, m.fresh = f[1], len(m.rows)
	case len(f) == 5 && f[0] == saidRow:
		first, err := strconv.ParseUint(f[1], 10, 64)
		if err != nil {
			m.bad = append(m.bad, fmt.Sprint(f))
		}
		m.rows = append(m.rows, &row{site: m.site, key: m.site + " " + f[2] + " " + f[3] + " " + f[4], epoch: m.epoch, first: first})
	case len(f) == 2 && f[0] == saidAccepted:
		last, err := strconv.ParseUint(f[1], 10, 64)
		if err != nil {
			m.bad = append(m.bad, fmt.Sprint(f))
		}
		for _, r := range m.rows[m.fresh:] {
			r.last, r.accepted = last, true
		}
		m.fresh = len(m.rows)
	case len(f) == 1 && f[0] == saidRefused:
		m.fresh = len(m.rows)
	default:
		m.bad = append(m.bad, fmt.Sprint(f))
	}
}

// accepted returns copies of the rows that are.
func (m *made) accepted() (rows []row) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.rows {
		if r.accepted {
			rows = append(rows, *r)
		}
	}
	return rows
}

// gap is one that a hub's output reports.
type gap struct {
	site, epoch string
	from, to    uint64 // to is 0 if the end is not known
	rows        uint64
	cause       string
}

func (g *gap) holds(r *row) bool {
	return g.site == r.site && g.epoch == r.epoch && g.from <= r.last && (g.to == 0 || r.first <= g.to)
}

// record is what a hub's output delivered, and what it says that it lacks.
type record struct {
	mu      sync.Mutex
	sites   map[string]bool
	rows    map[string]batch // where they came last
	again   []repeat
	last    map[feed]batch
	ended   map[int]bool // in order
	gaps    []gap
	gathers []gap
	told    int // how often all gaps were
	bad     []string
}

// feed is one of the feeds of a life's output, and batch what it delivered between two flushes.
type (
	feed struct {
		life int
		lane string
	}
	batch struct {
		feed
		number int
	}
)

// repeat is a row that came again, after it had come in a batch.
type repeat struct {
	key    string
	before batch
}

func newRecord() *record {
	return &record{sites: map[string]bool{}, rows: map[string]batch{}, last: map[feed]batch{}, ended: map[int]bool{}}
}

func (r *record) take(life int, f []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case len(f) == 6 && f[0] == saidRow:
		lane, n, _ := strings.Cut(f[1], "/")
		number, err := strconv.Atoi(n)
		if err != nil {
			r.bad = append(r.bad, fmt.Sprint(f))
		}
		r.sites[f[2]] = true
		key := f[2] + " " + f[3] + " " + f[4] + " " + f[5]
		if before, ok := r.rows[key]; ok {
			r.again = append(r.again, repeat{key, before})
		}
		b := batch{feed{life, lane}, number}
		r.rows[key], r.last[b.feed] = b, b
	case len(f) == 7 && f[0] == saidGap:
		g := gap{site: f[1], epoch: f[2], cause: f[6]}
		if _, err := fmt.Sscan(f[3]+" "+f[4]+" "+f[5], &g.from, &g.to, &g.rows); err != nil {
			r.bad = append(r.bad, fmt.Sprint(f))
		}
		r.gathers = append(r.gathers, g)
	case len(f) == 1 && f[0] == saidGaps:
		r.gaps, r.gathers = r.gathers, nil
		r.told++
	case len(f) == 1 && f[0] == saidEnd:
		r.ended[life] = true
	default:
		r.bad = append(r.bad, fmt.Sprint(f))
	}
}

func (r *record) knows(site string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sites[site]
}

// lacks returns those of the rows that were not recorded and, if a gap with a named cause counts, stand in none.
func (r *record) lacks(rows []row, gapCounts bool) (missing []row) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range rows {
		if _, ok := r.rows[rows[i].key]; ok {
			continue
		}
		if gapCounts && r.gapOf(&rows[i], true) != nil {
			continue
		}
		missing = append(missing, rows[i])
	}
	return missing
}

// gapOf returns a gap in which a row may stand, of those with a named cause or of all. The caller holds mu.
func (r *record) gapOf(x *row, named bool) *gap {
	for i := range r.gaps {
		if g := &r.gaps[i]; g.holds(x) && (g.cause != unnamed || !named) {
			return g
		}
	}
	return nil
}

// unnamed is the cause of a gap that can still be filled, for all that the hub knows.
const unnamed = "not_arrived"

// illegal returns the repeats that no kill explains: a row may come again if its batch was the last of a process that
// was killed.
func (r *record) illegal() (list []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range r.again {
		if r.ended[x.before.life] || r.last[x.before.feed] != x.before {
			list = append(list, fmt.Sprintf("%s, which came in life %d, batch %d of lane %s, of %d", x.key, x.before.life, x.before.number, x.before.lane, r.last[x.before.feed].number))
		}
	}
	return list
}

// Waiting for the end.
const (
	patience = 2 * time.Minute  // for all rows
	stagnant = 45 * time.Second // without any progress, what is missing will not come
)

// settle waits until nothing more comes, and ends edges and hubs.
func (s *storm) settle() {
	for _, p := range s.edges {
		p.tell(func(k *task) { k.Calm = true }, command{Do: calmCommand})
	}
	s.await()
	for _, p := range s.edges {
		p.terminate()
	}
	s.await()
	for _, p := range s.hubs {
		p.terminate()
	}
}

func (s *storm) accepted() (rows []row) {
	for _, site := range sites {
		rows = append(rows, s.made[site.name].accepted()...)
	}
	return rows
}

// await polls until all rows that are accepted by now are recorded at all hubs, or no more come.
func (s *storm) await() {
	accepted := s.accepted()
	missing := make([][]row, len(s.records))
	for i := range missing {
		missing[i] = accepted
	}
	start, progress, least := time.Now(), time.Now(), -1
	for round := 0; time.Since(start) < patience && time.Since(progress) < stagnant; round++ {
		if round%10 == 0 {
			s.ensureStream()
			for _, p := range s.hubs {
				p.tell(nil, command{Do: gapsCommand})
			}
		}
		n := 0
		for i, r := range s.records {
			missing[i] = r.lacks(missing[i], true)
			n += len(missing[i])
		}
		if n == 0 {
			return
		}
		if n != least {
			least, progress = n, time.Now()
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.say("%d rows are still missing", least)
}

// judge holds the result against the promise.
func (s *storm) judge() {
	accepted := s.accepted()
	known := map[string]bool{}
	total := 0
	for _, m := range s.made {
		for _, r := range m.rows {
			known[r.key] = true
		}
		total += len(m.rows)
		s.complain("edge said", m.bad)
	}
	if len(accepted) < 100 {
		s.t.Errorf("only %d rows were accepted", len(accepted))
	}
	legitimate := s.legitimateCauses()
	for i, r := range s.records {
		name := s.hubs[i].name
		missing := r.lacks(accepted, false)
		var lost []row
		inGaps := 0
		for _, x := range missing {
			switch g := cmp.Or(r.gapOf(&x, true), r.gapOf(&x, false)); {
			case g == nil:
				lost = append(lost, x)
			case !legitimate[x.site][g.cause]:
				s.t.Errorf("%s: row %q stands in a gap of cause %s, which nothing explains: %+v", name, x.key, g.cause, *g)
				lost = append(lost, x)
			default:
				inGaps++
			}
		}
		s.explain(name, lost)
		var invented []string
		for key := range r.rows {
			if !known[key] {
				invented = append(invented, key)
			}
		}
		illegal := r.illegal()
		s.complain(name+" recorded a row that was never made", invented)
		s.complain(name+" recorded a row again", illegal)
		s.complain(name+" said", r.bad)
		gapRows := uint64(0)
		for _, g := range r.gaps {
			gapRows += g.rows
		}
		if gapRows < uint64(inGaps) {
			s.t.Errorf("%s: %d rows are missing, but the gaps have %d", name, inGaps, gapRows)
		}
		s.t.Logf("%s: %d rows made, %d accepted, %d recorded, %d missing in %d gaps of %d rows, %d lost, %d repeats, %d of them illegal",
			name, total, len(accepted), len(r.rows), inGaps, len(r.gaps), gapRows, len(lost), len(r.again), len(illegal))
	}
}

// complain reports the first few of a list.
func (s *storm) complain(what string, list []string) {
	for i, x := range list {
		if i == 10 {
			s.t.Errorf("... and %d more", len(list)-i)
			return
		}
		s.t.Errorf("%s: %s", what, x)
	}
}

// legitimateCauses returns, by site, why rows may be missing, by what happened to its disk.
func (s *storm) legitimateCauses() map[string]map[string]bool {
	causes := map[string]map[string]bool{}
	for _, site := range sites {
		causes[site.name] = map[string]bool{}
	}
	for _, x := range s.steps {
		c := causes[x.Actor]
		switch {
		case c == nil:
		case x.Fault == fullDisk, x.Fault == fullRestart:
			c["evicted"], c["unwritten"] = true, true
			c["corrupt"] = true // the file is not where the state says, which could not be written either
			c["expired"] = true // it was stored, evicted, and lost by the server
		case x.Fault == damage:
			c["corrupt"], c["expired"] = true, true
		}
	}
	return causes
}
