package hub

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
)

const (
	// compactAfter is how many bytes a journal grows at least, and by as much as its snapshot has, before it is written
	// anew.
	compactAfter = 4 << 20
	// restartEvery is how often the place to begin again goes into the journal, which is synced then.
	restartEvery = 2 * time.Second
	// laneIdle is how long a lane is silent before it no longer holds the restart back. Should it come to life again,
	// it begins with a keyframe: edges send one at least as often as hubs ask for (keyframeBound).
	laneIdle = time.Hour
)

// cursor is what an output has delivered, on disk: a journal of JSON lines that begins with a snapshot. Lines are
// written after each flush, and synced every restartEvery: kill -9 repeats what was in flight, a power loss what was
// delivered since the last sync, too.
type cursor struct {
	path   string
	file   *os.File
	grown  int // bytes behind the snapshot
	whole  int // bytes of the snapshot
	synced time.Time
	damage error // why lines were left out at open, other than one that was cut short

	mu sync.Mutex // guards what follows
	progress
}

// progress is what a journal says.
type progress struct {
	since          int64        // rows that the server stored before are not delivered; ms since 1970
	live, backfill bus.Position // where reading begins again
	ledgers        map[string]*lane.Ledger
	// number and instance of the last entry of the shared journal that this knows; see lease.
	number   uint64
	instance string
}

// cursorLine is one line of a journal; which field is set tells its kind.
type cursorLine struct {
	Snapshot *cursorSnapshot `json:"snapshot,omitempty"`
	Site     *cursorSite     `json:"site,omitempty"`
	Frame    *cursorFrame    `json:"frame,omitempty"`
	Loss     *cursorLoss     `json:"loss,omitempty"`
	Turned   *cursorTurned   `json:"turned,omitempty"`
	Live     *bus.Position   `json:"live,omitempty"`
	Backfill *bus.Position   `json:"backfill,omitempty"`
	Entry    *cursorEntry    `json:"entry,omitempty"`
	// Restart is that of both lanes, in journals of the release before.
	Restart *bus.Position `json:"restart,omitempty"`
}

// cursorSnapshot is followed by Count lines of a site.
type cursorSnapshot struct {
	Since    int64        `json:"since"`
	Live     bus.Position `json:"live,omitzero"`
	Backfill bus.Position `json:"backfill,omitzero"`
	Count    int          `json:"count"`
	// Restart and Sites are of the release before.
	Restart bus.Position                `json:"restart,omitzero"`
	Sites   map[string]lane.LedgerState `json:"sites,omitempty"`
}

type cursorSite struct {
	Name   string           `json:"name"`
	Ledger lane.LedgerState `json:"ledger"`
}

type cursorFrame struct {
	Site     string       `json:"site"`
	Backfill bool         `json:"backfill,omitempty"`
	Header   frame.Header `json:"header"`
}

// cursorLoss is a loss notice, which no frame that is read again after a restart may repeat.
type cursorLoss struct {
	Site string     `json:"site"`
	Loss frame.Loss `json:"loss"`
}

// cursorTurned tells how many rows of the frame in the line before were not let in by the site's guard, or not taken by
// the destination.
type cursorTurned struct {
	Rejected uint64 `json:"rejected,omitempty"`
	Refused  uint64 `json:"refused,omitempty"`
	At       int64  `json:"at"`
}

// cursorEntry names an entry of the shared journal that says what stands before.
type cursorEntry struct {
	Number   uint64 `json:"number"`
	Instance string `json:"instance"`
}

// replay puts together what the lines of a journal say.
type replay struct {
	progress
	begun *progress    // of a snapshot that is not whole yet
	lack  int          // lines of it that are still to come
	whole bool         // there was a snapshot
	last  *cursorFrame // in the line before
	// spoilt: a line could not be read, and no snapshot came since.
	spoilt bool
}

// take takes the next line.
func (r *replay) take(x *cursorLine) {
	last := r.last
	r.last = nil
	switch {
	case x.Snapshot != nil:
		r.snapshot(x.Snapshot)
		return
	case x.Site != nil && r.begun != nil:
		l := lane.LedgerFrom(x.Site.Ledger)
		r.begun.ledgers[x.Site.Name] = &l
		if r.lack--; r.lack == 0 {
			r.finish()
		}
		return
	}
	r.begun = nil // a snapshot that was broken off: what is known is older and goes on
	switch {
	case !r.whole:
	case x.Frame != nil:
		r.last = x.Frame
		r.frame(x.Frame)
	case x.Loss != nil:
		r.ledger(x.Loss.Site).Lose(x.Loss.Loss)
	case x.Turned != nil && last != nil:
		r.turned(last, x.Turned)
	case x.Live != nil:
		r.live = *x.Live
	case x.Backfill != nil:
		r.backfill = *x.Backfill
	case x.Restart != nil:
		r.live, r.backfill = *x.Restart, *x.Restart
	case x.Entry != nil:
		r.number, r.instance = x.Entry.Number, x.Entry.Instance
	}
}

// takeLines takes the whole lines, and returns the one that is cut short. What cannot be read is left out with all that follows up to
// the next snapshot: it is delivered again.
func (r *replay) takeLines(lines []byte) (cut []byte) {
	for {
		line, behind, found := bytes.Cut(lines, []byte{'\n'})
		if !found {
			return lines
		}
		var x cursorLine
		if err := json.Unmarshal(line, &x); err != nil {
			r.spoilt = true
		} else if r.spoilt = r.spoilt && x.Snapshot == nil; !r.spoilt {
			r.take(&x)
		}
		lines = behind
	}
}

func (r *replay) snapshot(s *cursorSnapshot) {
	r.begun = &progress{since: s.Since, live: s.Live, backfill: s.Backfill, ledgers: map[string]*lane.Ledger{}}
	if !s.Restart.IsZero() {
		r.begun.live, r.begun.backfill = s.Restart, s.Restart
	}
	for site, state := range s.Sites {
		l := lane.LedgerFrom(state)
		r.begun.ledgers[site] = &l
	}
	if r.lack = s.Count; r.lack == 0 {
		r.finish()
	}
}

func (r *replay) finish() {
	r.begun.number, r.begun.instance = r.number, r.instance
	r.progress, r.begun, r.whole = *r.begun, nil, true
}

func (p *progress) ledger(site string) *lane.Ledger {
	l := p.ledgers[site]
	if l == nil {
		l = &lane.Ledger{}
		p.ledgers[site] = l
	}
	return l
}

func (p *progress) frame(f *cursorFrame) {
	l := p.ledger(f.Site)
	l.Place(&f.Header, f.Backfill)
	l.Add(&f.Header, f.Header.Sent)
}

func (p *progress) turned(f *cursorFrame, t *cursorTurned) {
	l := p.ledger(f.Site)
	if t.Rejected > 0 {
		l.Reject(&f.Header, t.Rejected, t.At)
	}
	if t.Refused > 0 {
		l.RefuseByOutput(&f.Header, t.Refused, t.At)
	}
}

// lines is a snapshot.
func (p *progress) lines() []byte {
	var b journalBuffer
	b.put(&cursorLine{Snapshot: &cursorSnapshot{Since: p.since, Live: p.live, Backfill: p.backfill, Count: len(p.ledgers)}})
	for site, l := range p.ledgers {
		b.put(&cursorLine{Site: &cursorSite{site, l.State()}})
	}
	return b.Bytes()
}

// journalBuffer takes lines.
type journalBuffer struct{ bytes.Buffer }

func (b *journalBuffer) put(x *cursorLine) {
	line, err := json.Marshal(x)
	if err != nil {
		panic("BUG: hub: encode cursor: " + err.Error())
	}
	b.Write(line)
	b.WriteByte('\n')
}

// openCursor reads the journal, or begins one.
func openCursor(dir, name string, since int64) (*cursor, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open cursor: %w", err)
	}
	c := &cursor{path: filepath.Join(dir, token(name)+".cursor"), progress: progress{since: since, ledgers: map[string]*lane.Ledger{}}}
	if err := c.load(); err != nil {
		return nil, fmt.Errorf("open cursor %q: %w", c.path, err)
	}
	if err := c.compact(); err != nil {
		return nil, fmt.Errorf("open cursor %q: %w", c.path, err)
	}
	return c, nil
}

// load replays the journal. A last line that is cut short was never finished, and is left out. So is what stands behind
// a line that a power loss damaged: it is delivered again. The snapshot was synced; without it there is no cursor.
func (c *cursor) load() error {
	f, err := os.Open(c.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	var r replay
	lines := bufio.NewReader(f)
	for number := 1; ; number++ {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		var x cursorLine
		if err := json.Unmarshal(line, &x); err != nil {
			c.damage = fmt.Errorf("line %d: %w", number, err)
			break
		}
		r.take(&x)
	}
	if !r.whole {
		return errors.Join(errors.New("it does not begin with a snapshot"), c.damage)
	}
	c.progress = r.progress
	return nil
}

// note takes note of frames that a feed delivered and of where it would begin again, unless that is zero, and returns
// the lines that say so.
func (c *cursor) note(frames []delivered, backfill bool, restart bus.Position) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b journalBuffer
	for i := range frames {
		x := &frames[i]
		if !x.whole {
			continue
		}
		f := &cursorFrame{x.site, backfill, x.header}
		c.frame(f)
		b.put(&cursorLine{Frame: f})
		if x.rejected > 0 || x.refused > 0 {
			t := &cursorTurned{x.rejected, x.refused, x.stored}
			c.turned(f, t)
			b.put(&cursorLine{Turned: t})
		}
		for _, loss := range x.losses {
			c.ledger(x.site).Lose(loss)
			b.put(&cursorLine{Loss: &cursorLoss{x.site, loss}})
		}
	}
	switch {
	case restart.IsZero():
	case backfill:
		c.backfill = restart
		b.put(&cursorLine{Backfill: &restart})
	default:
		c.live = restart
		b.put(&cursorLine{Live: &restart})
	}
	return b.Bytes()
}

// enter takes note of an entry of the shared journal, and returns the line that says so.
func (c *cursor) enter(number uint64, instance string) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.number, c.instance = number, instance
	var b journalBuffer
	b.put(&cursorLine{Entry: &cursorEntry{number, instance}})
	return b.Bytes()
}

// adopt takes over what a shared journal says, until it is written with compact.
func (c *cursor) adopt(p progress) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.progress = p
}

// restartOf is where a feed begins.
func (c *cursor) restartOf(backfill bool) bus.Position {
	c.mu.Lock()
	defer c.mu.Unlock()
	if backfill {
		return c.backfill
	}
	return c.live
}

// forget drops sites, and gaps that are final and became known before a time.
func (c *cursor) forget(sites []string, before int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, site := range sites {
		delete(c.ledgers, site)
	}
	for _, l := range c.ledgers {
		l.Forget(before)
	}
}

// snapshot is the journal as one of a few lines.
func (c *cursor) snapshot() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lines()
}

// write appends lines, syncs now and then, and writes the journal anew when it has grown.
func (c *cursor) write(lines []byte) error {
	n, err := c.file.Write(lines)
	c.grown += n
	if err != nil {
		return fmt.Errorf("write cursor %q: %w", c.path, err)
	}
	if now := time.Now(); now.Sub(c.synced) >= restartEvery {
		c.synced = now
		if err := c.file.Sync(); err != nil {
			return fmt.Errorf("sync cursor %q: %w", c.path, err)
		}
	}
	if c.grown < max(compactAfter, c.whole) {
		return nil
	}
	return c.compact()
}

// compact replaces the journal by a snapshot.
func (c *cursor) compact() error {
	lines := c.snapshot()
	if c.number > 0 {
		lines = append(lines, c.enter(c.number, c.instance)...)
	}
	f, err := os.Create(c.path + ".new")
	if err != nil {
		return err
	}
	_, err = f.Write(lines)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(f.Name(), c.path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(c.path))
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if c.file != nil {
		_ = c.file.Close() // it has been replaced
	}
	c.file, c.grown, c.whole = f, 0, len(lines)
	return nil
}

func (c *cursor) close() error { return c.file.Close() }

// keyPlaces is where the last keyframes of the lanes of a feed stand, by site.
type keyPlaces map[string]*keyPlace

// keyPlace is where a lane's keyframes stand.
type keyPlace struct {
	before bus.Position // in front of the message with the one from which on it is read
	newest bus.Position // in front of that with the last one
	keySeq uint64
	last   time.Time // of the lane's last message, by the server's clock
}

// note takes note of a message; before is the position in front of it. With two, a lane is read from its last keyframe but
// one on, so that there is a row of each source that has some between keyframes.
func (k keyPlaces) note(site string, at time.Time, before bus.Position, s *lane.Site, backfill, two bool) {
	if s == nil {
		return
	}
	p := k[site]
	if p == nil {
		p = &keyPlace{before: before, newest: before}
		k[site] = p
	}
	p.last = at
	if key := s.KeyframeOf(backfill); key != 0 && key != p.keySeq {
		if p.keySeq, p.before = key, before; two {
			p.before = p.newest
		}
		p.newest = before
	}
}

// oldest is the oldest place at which a lane's last keyframe stands, of the lanes that are alive; zero as long as the
// first message of the stream is needed. If no lane is alive it is the position itself.
func (k keyPlaces) oldest(now time.Time, position bus.Position) bus.Position {
	maps.DeleteFunc(k, func(_ string, p *keyPlace) bool { return now.Sub(p.last) > laneIdle })
	oldest := position
	for _, p := range k {
		if p.before.IsZero() {
			return bus.Position{}
		}
		if p.before.Sequence < oldest.Sequence {
			oldest = p.before
		}
	}
	return oldest
}
