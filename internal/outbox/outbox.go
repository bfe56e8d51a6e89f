package outbox

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/thalweg/thalweg/internal/frame"
)

// maxGroups bounds the number of files, whatever their size: a week of keyframes every 30 s.
const maxGroups = 20_000

// maxPast bounds the epochs that are remembered when no frame of them is here any more.
const maxPast = 64

// Options of Open.
type Options struct {
	// Dir is created if absent. It belongs to this outbox alone.
	Dir    string
	Config Config
	Logger *slog.Logger
	// FS in place of Dir, for tests.
	FS FS
	// Now is the clock for acknowledgements; time.Now if nil.
	Now func() time.Time
}

// Outbox is a log of frames on disk. See the package comment.
type Outbox struct {
	fs     FS
	config Config
	logger *slog.Logger
	now    func() time.Time
	lock   io.Closer
	m      *metrics

	// write is held by whoever changes files, over writing and syncing. It is taken before mu.
	write     sync.Mutex
	tail      File     // of the newest group, while it may grow; nil: the next frame must be a keyframe
	attempted frame.ID // the newest frame that Append was given
	ordinal   uint64   // of the next file
	debris    []string // files that could not be deleted, to be tried again
	saved     time.Time
	closed    bool
	reserved  bool // the reserve is there; guarded by write

	// mu guards what follows. Nothing is read or written under it.
	mu     sync.Mutex
	groups []*group // by ordinal
	grew   int64    // bytes that the newest of them grew by last
	seq    uint64   // of the newest group
	bytes  int64    // of all groups
	last   frame.Header
	lastIn uint64        // ordinal of the file of last
	past   []frame.Epoch // the newest maxPast, oldest first, with the present one
	losses []Loss        // not yet announced
	shown  int           // how many of them Losses has returned
	told   []toldLoss
	spent  []spent
	tips   map[string]Tip

	dropped uint64 // see Stats.DroppedRows
	refused bool   // the last Append was
	opened  time.Time
	history history // of what was appended since
	dirty   bool    // the state file is behind in what no file of frames says
}

// Range is an inclusive range of frame numbers of one epoch, and what it holds.
type Range struct {
	Epoch    frame.Epoch
	From, To uint64
	// Rows that the frames complete; of a loss about so many if a part of the file was acknowledged since the state was
	// saved and the rest cannot be read, and 0 if nothing is known.
	Rows  uint64
	Bytes int64
	// FirstSent and LastSent are the send times of the first and the last frame, in milliseconds since 1970.
	FirstSent, LastSent int64
}

// Errors of Append.
var (
	// ErrKeyframeNeeded is wrapped by every error of Append but ErrClosed: the frames were not accepted, and the next
	// one must be a keyframe with a number above theirs. After a crash they may be there nevertheless, unless the
	// keyframe counts the same rows as still to come (RowsBefore).
	ErrKeyframeNeeded = errors.New("next frame must be a keyframe")
	ErrClosed         = errors.New("outbox is closed")
)

// Open opens the outbox in a directory, or makes one. What a crash or a bad disk did to the files is mended, counted
// and logged; only a directory that cannot be used at all, or is in use (ErrLocked), is an error.
func Open(opts Options) (*Outbox, error) {
	o := &Outbox{fs: opts.FS, config: opts.Config, logger: opts.Logger, now: opts.Now, m: newMetrics(), tips: map[string]Tip{}}
	if o.logger == nil {
		o.logger = slog.New(slog.DiscardHandler)
	}
	if o.now == nil {
		o.now = time.Now
	}
	o.opened = o.now()
	if o.fs == nil {
		if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
			return nil, fmt.Errorf("open outbox: %w", err)
		}
		o.fs = osDir(opts.Dir)
	}
	var err error
	if o.lock, err = o.fs.Lock(); err != nil {
		return nil, fmt.Errorf("open outbox %q: %w", opts.Dir, err)
	}
	if err := o.restore(); err != nil {
		return nil, errors.Join(fmt.Errorf("open outbox %q: %w", opts.Dir, err), o.lock.Close())
	}
	o.keepReserve()
	if free, ok := o.fs.Free(); ok && o.bytes+free < int64(o.config.MaxBytes) {
		o.logger.Warn("disk will be full before the outbox is: set edge.outbox.max_bytes lower, or make room", "dir", opts.Dir,
			"free_bytes", free, "stored_bytes", o.bytes, "max_bytes", int64(o.config.MaxBytes))
	}
	return o, nil
}

// Close saves the state and lets go of the directory. It may be called more than once.
func (o *Outbox) Close() error {
	o.write.Lock()
	defer o.write.Unlock()
	if o.closed {
		return nil
	}
	o.closed = true
	o.endTail()
	return errors.Join(o.save(), o.lock.Close())
}

// Last returns the header of the newest frame that the outbox ever stored, as far as it knows, whether or not the
// frame is still there. A new epoch names it as its predecessor.
func (o *Outbox) Last() (frame.Header, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.last, o.last.Number != 0
}

// crowdedDisk is how little room on the disk makes the only file crowded, beside what frames take.
const crowdedDisk = 16 << 10

// Crowded reports whether the newest file has a quarter of max_bytes, or is the only one and the disk about to be full.
// The next frame should be a keyframe then, which begins another file: only whole files can be evicted, and none that is
// to grow, so Append takes no more than half for one, and refuses a delta where nothing else can make room.
func (o *Outbox) Crowded() bool {
	o.mu.Lock()
	files := len(o.groups)
	large := files > 0 && o.groups[files-1].size >= int64(o.config.MaxBytes)/4
	room := crowdedDisk + 2*o.grew
	o.mu.Unlock()
	if large || files != 1 {
		return large
	}
	free, ok := o.fs.Free()
	return ok && free < room
}

// KeyframeBefore returns the frame from which the state before id can be had: the first one of the file that holds id.
// It reports false if no file does.
func (o *Outbox) KeyframeBefore(id frame.ID) (frame.ID, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, g := range o.groups {
		if g.holds(id) {
			return frame.ID{Epoch: g.epoch, Number: g.first}, true
		}
	}
	return frame.ID{}, false
}

// Append stores sealed frames, all or none, and returns when they are durable (with sync: flush). They continue the
// frames before them or begin with a keyframe; every keyframe begins a file. If there is no room the oldest files go,
// see Losses. The frames are not kept.
func (o *Outbox) Append(frames ...[]byte) error {
	o.write.Lock()
	defer o.write.Unlock()
	if o.closed {
		return ErrClosed
	}
	if len(frames) == 0 {
		return nil
	}
	segments, err := o.plan(frames)
	if err == nil {
		err = o.store(segments)
	}
	if err != nil {
		o.endTail()
		o.mu.Lock()
		o.refused = true
		o.shown = 0 // nobody was told of them
		o.mu.Unlock()
		o.m.appendErrors.Inc()
		return fmt.Errorf("append %d frames to outbox: %w: %w", len(frames), ErrKeyframeNeeded, err)
	}
	return nil
}

// segment is the part of an Append that goes into one file.
type segment struct {
	grows  *group // the newest group, or nil if the file is new
	name   string
	offset int64 // where the frames go
	frames [][]byte
	extent
	last frame.Header // of the last frame
	file File         // as soon as it is open
}

// plan checks the frames and splits them by file.
func (o *Outbox) plan(frames [][]byte) ([]segment, error) {
	var segments []segment
	if o.tail != nil {
		g := o.newest()
		segments = append(segments, segment{grows: g, name: g.name, offset: g.size, extent: g.extent})
	}
	last := o.last // changes only while write is held
	for _, data := range frames {
		h, err := frame.ParseHeader(data)
		if err != nil {
			return nil, err
		}
		if len(data) != h.Size {
			return nil, fmt.Errorf("frame %s has %d bytes behind its end", h.ID, len(data)-h.Size)
		}
		if h.Epoch == o.attempted.Epoch && h.Number <= o.attempted.Number {
			return nil, fmt.Errorf("frame %s comes after %s", h.ID, o.attempted)
		}
		if h.Epoch != o.attempted.Epoch && o.knows(h.Epoch) {
			return nil, fmt.Errorf("frame %s returns to an epoch of the past", h.ID)
		}
		if h.Epoch == last.Epoch && h.RowsBefore < last.RowsAfter() {
			return nil, fmt.Errorf("frame %s counts rows from %d, of which %d are stored", h.ID, h.RowsBefore, last.RowsAfter())
		}
		o.attempted, last = h.ID, h
		if h.Kind == frame.Keyframe {
			segments = append(segments, segment{name: groupName(o.ordinal, h.ID)})
			o.ordinal++
		}
		if len(segments) == 0 {
			return nil, fmt.Errorf("%s %s where a keyframe must stand", h.Kind, h.ID)
		}
		s := &segments[len(segments)-1]
		if err := s.follows(&h); err != nil {
			return nil, err
		}
		s.add(&h)
		s.frames = append(s.frames, data)
		s.last = h
	}
	if len(segments[0].frames) == 0 {
		segments = segments[1:]
	}
	return segments, nil
}

// store writes the segments and makes them part of the outbox. As long as there is no room for them it evicts.
func (o *Outbox) store(segments []segment) error {
	o.clearDebris()
	if len(o.debris) > maxDebris {
		return fmt.Errorf("%d files cannot be deleted, among them %s", len(o.debris), o.debris[0])
	}
	if err := o.makeRoom(segments); err != nil {
		return err
	}
	for {
		err := o.writeAll(segments)
		if err == nil {
			break
		}
		grows := segments[0].grows != nil
		if !diskFull(err) || grows && o.tail == nil {
			return err
		}
		if evictErr := o.evictOldest(CauseDisk, grows); evictErr != nil {
			return errors.Join(err, evictErr)
		}
	}
	o.commit(segments)
	return nil
}

// writeAll writes and syncs the segments, or undoes what it did. Where it cannot trust the newest file any longer it
// ends it.
func (o *Outbox) writeAll(segments []segment) error {
	for i := range segments {
		if err := o.writeOne(&segments[i]); err != nil {
			o.undo(segments[:i+1])
			return err
		}
	}
	if segments[len(segments)-1].grows == nil && o.syncs() {
		if err := o.fs.Sync(); err != nil {
			o.undo(segments)
			return fmt.Errorf("sync directory of outbox: %w", err)
		}
	}
	return nil
}

func (o *Outbox) writeOne(s *segment) error {
	if s.grows != nil {
		s.file = o.tail
	} else {
		o.debris = slices.DeleteFunc(o.debris, func(name string) bool { return name == s.name })
		f, err := o.fs.Create(s.name)
		if err != nil {
			return fmt.Errorf("create outbox file: %w", err)
		}
		s.file = f
	}
	off := s.offset
	for _, data := range s.frames {
		n, err := s.file.WriteAt(data, off)
		if err == nil && n < len(data) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return fmt.Errorf("write outbox file %q: %w", s.name, err)
		}
		off += int64(n)
	}
	if !o.syncs() {
		return nil
	}
	start := time.Now()
	err := s.file.Sync()
	o.m.sync.Observe(time.Since(start).Seconds())
	if err != nil {
		if s.grows != nil {
			// What the kernel did with the pages of a failed sync is anybody's guess.
			_ = o.tail.Truncate(s.offset)
			o.endTail()
		}
		return fmt.Errorf("sync outbox file %q: %w", s.name, err)
	}
	return nil
}

// undo removes what the segments wrote. Should that fail too, recovery finds frames that nobody was told about.
func (o *Outbox) undo(segments []segment) {
	for i := range segments {
		s := &segments[i]
		switch {
		case s.grows != nil && o.tail != nil:
			if err := o.tail.Truncate(s.offset); err != nil {
				o.endTail()
			}
		case s.grows == nil:
			if s.file != nil {
				_ = s.file.Close()
			}
			o.remove(s.name)
		}
		s.file = nil
	}
}

// commit publishes what has been written.
func (o *Outbox) commit(segments []segment) {
	for i := range segments {
		s := &segments[i]
		if s.grows == nil {
			o.endTail()
			o.tail = s.file
		}
		o.m.appendedFrames.Add(float64(len(s.frames)))
		o.m.appendedBytes.Add(float64(s.size - s.offset))
	}
	now := o.now()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refused = false
	for i := range segments {
		s := &segments[i]
		o.bytes += s.size - s.offset
		o.history.add(now.Sub(o.opened), s.size-s.offset)
		if s.grows != nil {
			s.grows.extent, s.grows.grown, o.grew = s.extent, now, s.size-s.offset
		} else {
			o.grew = 0
			ordinal, _, _ := parseGroupName(s.name)
			o.seq++
			o.groups = append(o.groups, &group{name: s.name, ordinal: ordinal, seq: o.seq, extent: s.extent, grown: now})
			o.dirty = true
			o.remember(s.epoch)
		}
		o.last, o.lastIn = s.last, o.groups[len(o.groups)-1].ordinal
	}
}

func (o *Outbox) syncs() bool { return o.config.Sync != SyncNone }

// endTail closes the newest file: it does not grow any more. The caller holds write.
func (o *Outbox) endTail() {
	if o.tail != nil {
		_ = o.tail.Close() // everything that counts has been synced
		o.tail = nil
	}
}

// newest returns the newest group, or nil.
func (o *Outbox) newest() *group {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.groups) == 0 {
		return nil
	}
	return o.groups[len(o.groups)-1]
}

func (o *Outbox) knows(epoch frame.Epoch) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.last.Epoch == epoch || slices.Contains(o.past, epoch) ||
		slices.ContainsFunc(o.groups, func(g *group) bool { return g.epoch == epoch })
}

// remember takes note of an epoch. The caller holds mu.
func (o *Outbox) remember(epoch frame.Epoch) {
	if !slices.Contains(o.past, epoch) {
		o.past = append(o.past, epoch)
		o.past = o.past[max(0, len(o.past)-maxPast):]
	}
}
