package outbox

import (
	"errors"
	"fmt"
	"io/fs"
	"sort"

	"github.com/thalweg/thalweg/internal/frame"
)

// ErrHead means that the reader has read everything there is. More may come.
var ErrHead = errors.New("no frame behind this one yet")

// GapError means that frames between the last one read and what comes next are not there: evicted or unreadable. The
// reader goes on with Resume.
type GapError struct {
	// Missing is the first frame that should have come.
	Missing frame.ID
	// Resume is the keyframe that comes next; zero if there is nothing behind the gap yet.
	Resume frame.ID
}

func (e *GapError) Error() string {
	if e.Resume.Number == 0 {
		return fmt.Sprintf("frame %s is not in the outbox, and none behind it", e.Missing)
	}
	return fmt.Sprintf("frame %s is not in the outbox, which goes on with %s", e.Missing, e.Resume)
}

// Reader reads frames in the order in which they were appended, while more are. It is for one goroutine.
type Reader struct {
	o    *Outbox
	from frame.ID // where to begin, until that place has been found

	seq  uint64   // of the group to read; 0: from has not been looked for
	g    *group   // that group, or nil if there was none yet
	skip uint64   // number of the frame to read first; 0: the one at off
	off  int64    // of the next frame
	next frame.ID // the next frame
	file File     // of g, opened when needed
	buf  []byte
}

// Reader returns a reader that begins with a frame, or with the oldest one if from is zero. From may be the frame after
// the last one of an epoch; frames of an epoch that the outbox has never seen are missing (GapError), see ReaderAtHead.
// The caller closes it.
func (o *Outbox) Reader(from frame.ID) *Reader { return &Reader{o: o, from: from} }

// ReaderAtHead returns a reader that begins with the frame that is appended next.
func (o *Outbox) ReaderAtHead() *Reader {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := &Reader{o: o}
	r.toHead()
	return r
}

// Close lets go of the file that the reader has open.
func (r *Reader) Close() error {
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file = nil
	return err
}

// Next returns whole, verified frames of one epoch with consecutive numbers, as many as fit into max bytes and are in
// one file, but at least one; and the headers of the first and the last. The data is valid until the next call.
//
// The error is ErrHead if there is no more, and a *GapError where frames are missing; reading may go on after both.
// After any other error the same place is tried again.
func (r *Reader) Next(max int) (data []byte, first, last frame.Header, err error) {
	for {
		size, err := r.position()
		if err != nil {
			return nil, first, last, err
		}
		data, first, last, err = r.read(size, max)
		if err == nil {
			r.off += int64(len(data))
			r.next.Number = last.Number + 1
			return data, first, last, nil
		}
		if errors.Is(err, fs.ErrNotExist) && !r.o.has(r.g) {
			continue // evicted since
		}
		if !isDamage(err) && !errors.Is(err, fs.ErrNotExist) {
			return nil, first, last, fmt.Errorf("read outbox file %q: %w", r.g.name, err)
		}
		if err := r.o.repair(r.g, err); err != nil {
			return nil, first, last, err
		}
		_ = r.Close()
	}
}

// position finds the group to read from. It returns up to where the file may be read.
func (r *Reader) position() (size int64, err error) {
	r.o.mu.Lock()
	defer r.o.mu.Unlock()
	if r.seq == 0 {
		if err := r.locate(); err != nil {
			return 0, err
		}
	}
	groups := r.o.groups
	if r.g != nil && r.skip > r.g.last {
		r.skip, r.off = 0, r.g.size // it was cut off meanwhile
	}
	if r.g != nil && r.skip == 0 && r.off >= r.g.size {
		// A group that has been read to its end need not be there any longer.
		i := sort.Search(len(groups), func(i int) bool { return groups[i].seq > r.seq })
		if i == len(groups) {
			return 0, ErrHead
		}
		missing, hole := r.next, r.g.cut || groups[i].seq != r.seq+1
		r.moveTo(groups[i])
		if hole && r.next != missing {
			return 0, &GapError{Missing: missing, Resume: r.next}
		}
		return r.g.size, nil
	}
	i := sort.Search(len(groups), func(i int) bool { return groups[i].seq >= r.seq })
	if i == len(groups) {
		return 0, ErrHead
	}
	if g := groups[i]; g != r.g {
		missing, hole := r.next, g.seq != r.seq
		r.moveTo(g)
		if hole && missing.Number != 0 && r.next != missing {
			return 0, &GapError{Missing: missing, Resume: r.next}
		}
	}
	return r.g.size, nil
}

// locate looks for r.from. The caller holds mu.
func (r *Reader) locate() error {
	groups := r.o.groups
	if r.from.Number == 0 {
		if len(groups) == 0 {
			return ErrHead
		}
		r.moveTo(groups[0])
		return nil
	}
	var before, after *group // of the same epoch, around from
	for _, g := range groups {
		switch {
		case g.holds(r.from):
			r.moveTo(g)
			r.skip, r.next = r.from.Number, r.from
			return nil
		case g.epoch == r.from.Epoch && g.last < r.from.Number:
			before = g
		case g.epoch == r.from.Epoch && after == nil:
			after = g
		}
	}
	newest := r.o.last.ID
	switch {
	case before != nil && (after == nil || before.last+1 == r.from.Number):
		r.toEnd(before)
		return nil
	case len(groups) == 0 && r.from == (frame.ID{Epoch: newest.Epoch, Number: newest.Number + 1}):
		r.toHead()
		return nil
	case len(groups) == 0:
		r.toHead()
		return &GapError{Missing: r.from}
	case after == nil:
		after = groups[0]
	}
	r.moveTo(after)
	return &GapError{Missing: r.from, Resume: r.next}
}

// moveTo goes to the beginning of g.
func (r *Reader) moveTo(g *group) {
	_ = r.Close()
	r.g, r.seq, r.skip, r.off, r.next = g, g.seq, 0, 0, frame.ID{Epoch: g.epoch, Number: g.first}
}

// toEnd goes behind what g holds now.
func (r *Reader) toEnd(g *group) {
	r.moveTo(g)
	r.off, r.next.Number = g.size, g.last+1
}

// toHead goes behind everything.
func (r *Reader) toHead() {
	if n := len(r.o.groups); n > 0 {
		r.toEnd(r.o.groups[n-1])
		return
	}
	r.g, r.seq, r.skip, r.off, r.next = nil, r.o.seq+1, 0, 0, frame.ID{}
}

// read returns frames of r.g from r.off on. An error means that not even the first one could be read.
func (r *Reader) read(size int64, max int) (data []byte, first, last frame.Header, err error) {
	if r.file == nil {
		if r.file, err = r.o.fs.Open(r.g.name); err != nil {
			r.file = nil
			return nil, first, last, err
		}
	}
	if r.skip != 0 {
		err := scan(r.file, 0, size, func(h *frame.Header, off int64) bool {
			r.off = off
			return h.Number != r.skip
		})
		if err != nil {
			return nil, first, last, err
		}
		r.skip = 0
	}
	n := min(size-r.off, int64(max))
	h, err := readHeader(r.file, r.off, size)
	if err != nil {
		return nil, first, last, err
	}
	if n < int64(h.Size) {
		n = int64(h.Size)
	}
	if int64(cap(r.buf)) < n {
		r.buf = make([]byte, n)
	}
	data = r.buf[:n]
	if err := readFull(r.file, data, r.off); err != nil {
		return nil, first, last, err
	}
	want, good := r.next, 0
	for good < len(data) {
		h, one, _, err := frame.Split(data[good:])
		if err == nil {
			h, err = frame.Verify(one)
		}
		if err == nil && h.ID != want {
			err = fmt.Errorf("frame %s where %s should be", h.ID, want)
		}
		if err != nil && good == 0 {
			return nil, first, last, err
		}
		if err != nil {
			break // max ends here, or a damage does, which the next call meets
		}
		if good == 0 {
			first = h
		}
		last = h
		want.Number++
		good += h.Size
	}
	return data[:good], first, last, nil
}
