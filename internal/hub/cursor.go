package hub

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
)

const (
	// compactAfter is how many bytes a cursor's journal grows before it is written anew.
	compactAfter = 4 << 20
	// restartEvery is how often the place to begin again goes into the journal, which is synced then.
	restartEvery = 2 * time.Second
	// laneIdle is how long a lane is silent before it no longer holds the restart back. Should it come to life again,
	// it begins with a keyframe: edges send one at least as often as hubs ask for (keyframeBound).
	laneIdle = time.Hour
)

// cursor is what an output has delivered, on disk: a journal of JSON lines, the first of them a snapshot. A line is
// written after each flush, and synced every restartEvery: kill -9 repeats what was in flight, a power loss what was
// delivered since the last sync, too.
type cursor struct {
	path    string
	file    *os.File
	size    int64
	since   int64
	restart bus.Position
	ledgers map[string]lane.Ledger // at open
	damage  error                  // why lines were left out at open, other than one that was cut short

	places map[place]*keyPlace
	saved  time.Time
	buf    bytes.Buffer
}

type place struct {
	site     string
	backfill bool
}

// keyPlace is where a lane's last keyframe stands.
type keyPlace struct {
	before bus.Position // in front of the message with the keyframe
	keySeq uint64
	last   time.Time // of the lane's last message, by the server's clock
}

// cursorLine is one line of the journal; which field is set tells its kind.
type cursorLine struct {
	Snapshot *cursorSnapshot `json:"snapshot,omitempty"`
	Frame    *cursorFrame    `json:"frame,omitempty"`
	Loss     *cursorLoss     `json:"loss,omitempty"`
	Restart  *bus.Position   `json:"restart,omitempty"`
}

type cursorSnapshot struct {
	Since   int64                       `json:"since"`
	Restart bus.Position                `json:"restart"`
	Sites   map[string]lane.LedgerState `json:"sites"`
}

// cursorLoss is a loss notice, which no frame that is read again after a restart may repeat.
type cursorLoss struct {
	Site string     `json:"site"`
	Loss frame.Loss `json:"loss"`
}

type cursorFrame struct {
	Site     string       `json:"site"`
	Backfill bool         `json:"backfill,omitempty"`
	Header   frame.Header `json:"header"`
}

// openCursor reads the journal, or begins one.
func openCursor(dir, name string, since int64) (*cursor, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open cursor: %w", err)
	}
	c := &cursor{
		path: filepath.Join(dir, name+".cursor"), since: since,
		ledgers: map[string]lane.Ledger{}, places: map[place]*keyPlace{},
	}
	if err := c.load(); err != nil {
		return nil, fmt.Errorf("open cursor %q: %w", c.path, err)
	}
	states := map[string]lane.LedgerState{}
	for site, l := range c.ledgers {
		states[site] = l.State()
	}
	if err := c.compact(states); err != nil {
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
	r := bufio.NewReader(f)
	for number := 1; ; number++ {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var x cursorLine
		if err := json.Unmarshal(line, &x); err != nil {
			err = fmt.Errorf("line %d: %w", number, err)
			if number == 1 {
				return err
			}
			c.damage = err
			return nil
		}
		c.replay(&x)
	}
}

func (c *cursor) replay(x *cursorLine) {
	switch {
	case x.Snapshot != nil:
		c.since, c.restart = x.Snapshot.Since, x.Snapshot.Restart
		for site, state := range x.Snapshot.Sites {
			c.ledgers[site] = lane.LedgerFrom(state)
		}
	case x.Frame != nil:
		l := c.ledgers[x.Frame.Site]
		l.Place(&x.Frame.Header, x.Frame.Backfill)
		l.Add(&x.Frame.Header, x.Frame.Header.Sent)
		c.ledgers[x.Frame.Site] = l
	case x.Loss != nil:
		l := c.ledgers[x.Loss.Site]
		l.Lose(x.Loss.Loss)
		c.ledgers[x.Loss.Site] = l
	case x.Restart != nil:
		c.restart = *x.Restart
	}
}

// add notes frames that were delivered.
func (c *cursor) add(frames []delivered) error {
	for i := range frames {
		f := &frames[i]
		c.put(&cursorLine{Frame: &cursorFrame{f.site, f.backfill, f.header}})
		for _, loss := range f.losses {
			c.put(&cursorLine{Loss: &cursorLoss{f.site, loss}})
		}
	}
	return c.write()
}

func (c *cursor) put(x *cursorLine) {
	line, err := json.Marshal(x)
	if err != nil {
		panic("BUG: hub: encode cursor: " + err.Error())
	}
	c.buf.Write(line)
	c.buf.WriteByte('\n')
}

func (c *cursor) write() error {
	n, err := c.file.Write(c.buf.Bytes())
	c.size += int64(n)
	c.buf.Reset()
	if err != nil {
		return fmt.Errorf("write cursor %q: %w", c.path, err)
	}
	return nil
}

// save notes, now and then, where to begin again, syncs the journal, and writes it anew when it has grown.
func (c *cursor) save(restart bus.Position, ledgers func() map[string]lane.LedgerState) error {
	if now := time.Now(); now.Sub(c.saved) >= restartEvery && !restart.IsZero() {
		c.saved, c.restart = now, restart
		c.put(&cursorLine{Restart: &restart})
		if err := c.write(); err != nil {
			return err
		}
		if err := c.file.Sync(); err != nil {
			return fmt.Errorf("sync cursor %q: %w", c.path, err)
		}
	}
	if c.size < compactAfter {
		return nil
	}
	return c.compact(ledgers())
}

// compact replaces the journal by a snapshot.
func (c *cursor) compact(sites map[string]lane.LedgerState) error {
	c.put(&cursorLine{Snapshot: &cursorSnapshot{c.since, c.restart, sites}})
	f, err := os.Create(c.path + ".new")
	if err != nil {
		return err
	}
	n, err := f.Write(c.buf.Bytes())
	c.buf.Reset()
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
	c.file, c.size = f, int64(n)
	return nil
}

func (c *cursor) close() error { return c.file.Close() }

// note follows where the last keyframe of each lane stands.
func (c *cursor) note(site string, backfill bool, at time.Time, before bus.Position, s *lane.Site) {
	if s == nil {
		return
	}
	key := place{site, backfill}
	p := c.places[key]
	if p == nil {
		p = &keyPlace{before: before}
		c.places[key] = p
	}
	p.last = at
	if key := s.KeyframeOf(backfill); key != 0 && key != p.keySeq {
		p.keySeq, p.before = key, before
	}
}

// forgetPlaces is for a stream that turned out to be another one.
func (c *cursor) forgetPlaces() { clear(c.places) }

// oldestRestart is the oldest place at which a lane's last keyframe stands, of the lanes that are alive; zero before
// the first message that has one in front of it.
func (c *cursor) oldestRestart(now time.Time) bus.Position {
	var oldest bus.Position
	for key, p := range c.places {
		if now.Sub(p.last) > laneIdle {
			delete(c.places, key)
			continue
		}
		if p.before.IsZero() {
			return bus.Position{}
		}
		if oldest.IsZero() || p.before.Sequence < oldest.Sequence {
			oldest = p.before
		}
	}
	return oldest
}
