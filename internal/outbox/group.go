package outbox

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/thalweg/thalweg/internal/frame"
)

const (
	groupSuffix   = ".frames"
	corruptSuffix = ".corrupt"
)

// group is a file: a keyframe and the deltas after it, with numbers first to last. Everything but the name, ordinal,
// epoch and first changes under Outbox.mu only.
type group struct {
	name    string
	ordinal uint64 // order of creation over the life of the directory; holes mean nothing
	seq     uint64 // order since Open; a hole is a group that went away
	extent
	acked   spans
	ackedAt time.Time // of the newest acknowledgement
	// grown is when the newest frame came; later, if the outbox was not open all the time since. Frames' own times are of
	// a clock that may have been set.
	grown time.Time
	// cut says that frames behind the last one were lost, so that a reader who comes to the end has missed some.
	cut bool
	// savedRows are those of the gaps in acked, as the state file knew them; during Open only.
	savedRows []uint64
}

// extent is what the headers of a run of frames say together.
type extent struct {
	epoch       frame.Epoch
	first, last uint64
	rowsBefore  uint64 // of the first frame
	rowsAfter   uint64 // of the last frame
	firstSent   int64  // milliseconds since 1970
	lastSent    int64
	size        int64 // bytes
}

// add makes e end with h, and begin with it if e is empty.
func (e *extent) add(h *frame.Header) {
	if e.size == 0 {
		*e = extent{epoch: h.Epoch, first: h.Number, rowsBefore: h.RowsBefore, firstSent: h.Sent}
	}
	e.last, e.rowsAfter, e.lastSent = h.Number, h.RowsAfter(), h.Sent
	e.size += int64(h.Size)
}

// follows says why h cannot stand behind the frames of e in a file.
func (e *extent) follows(h *frame.Header) error {
	switch {
	case e.size == 0 && h.Kind != frame.Keyframe:
		return fmt.Errorf("%s %s where a keyframe must stand", h.Kind, h.ID)
	case e.size > 0 && (h.Kind != frame.Delta || h.Epoch != e.epoch || h.Number != e.last+1 || h.RowsBefore != e.rowsAfter):
		return fmt.Errorf("%s %s after %d rows does not follow %s/%d with %d rows",
			h.Kind, h.ID, h.RowsBefore, e.epoch, e.last, e.rowsAfter)
	}
	return nil
}

func (e *extent) holds(id frame.ID) bool {
	return e.epoch == id.Epoch && e.first <= id.Number && id.Number <= e.last
}

func (e *extent) frames() uint64 { return e.last - e.first + 1 }

func (e *extent) asRange() Range {
	return Range{
		Epoch: e.epoch, From: e.first, To: e.last, Rows: e.rowsAfter - e.rowsBefore, Bytes: e.size,
		FirstSent: e.firstSent, LastSent: e.lastSent,
	}
}

func groupName(ordinal uint64, id frame.ID) string {
	return fmt.Sprintf("%012d-%s-%020d%s", ordinal, id.Epoch, id.Number, groupSuffix)
}

// parseGroupName is the reverse of groupName and accepts nothing else.
func parseGroupName(name string) (ordinal uint64, id frame.ID, ok bool) {
	rest, ok := strings.CutSuffix(name, groupSuffix)
	parts := strings.Split(rest, "-")
	if !ok || len(parts) != 3 {
		return 0, frame.ID{}, false
	}
	ordinal, err1 := strconv.ParseUint(parts[0], 10, 64)
	epoch, err2 := strconv.ParseUint(parts[1], 16, 64)
	number, err3 := strconv.ParseUint(parts[2], 10, 64)
	id = frame.ID{Epoch: frame.Epoch(epoch), Number: number}
	if errors.Join(err1, err2, err3) != nil || ordinal >= 1e12 || groupName(ordinal, id) != name {
		return 0, frame.ID{}, false
	}
	return ordinal, id, true
}

// damage is what verify found wrong with a file.
type damage struct {
	torn bool // what is behind the whole frames looks like a write that a crash cut short, rather than like changed frames
	err  error
}

// verify reads the first size bytes of a file that should begin with frame id. What it returns describes the longest
// run of whole and consecutive frames; damage is nil if that is the whole file. The error is one of reading that says
// nothing about the file.
func verify(f io.ReaderAt, size int64, id frame.ID) (extent, *damage, error) {
	var e extent
	var buf []byte
	for e.size < size {
		data, h, err := readFrame(f, e.size, size, &buf)
		if err != nil && !isDamage(err) {
			return e, nil, err
		}
		if err != nil {
			last := len(data) > 0 && e.size+int64(len(data)) == size
			torn := last || errors.Is(err, frame.ErrShort) || zeros(f, e.size, size)
			return e, &damage{torn: torn, err: err}, nil
		}
		err = e.follows(&h)
		if err == nil && e.size == 0 && h.ID != id {
			err = fmt.Errorf("frame %s in the file of %s", h.ID, id)
		}
		if err != nil {
			return e, &damage{err: err}, nil
		}
		e.add(&h)
	}
	if size == 0 {
		return e, &damage{torn: true, err: fmt.Errorf("%w: empty file", frame.ErrShort)}, nil
	}
	return e, nil, nil
}

// readFrame reads and verifies the frame at off in a file that ends at size, into buf. With an error, data is the
// frame if its length made sense.
func readFrame(f io.ReaderAt, off, size int64, buf *[]byte) (data []byte, h frame.Header, err error) {
	h, err = readHeader(f, off, size)
	if err != nil {
		return nil, h, err
	}
	if cap(*buf) < h.Size {
		*buf = make([]byte, h.Size)
	}
	data = (*buf)[:h.Size]
	if err := readFull(f, data, off); err != nil {
		return nil, h, err
	}
	h, err = frame.Verify(data)
	if err != nil {
		return data, h, err
	}
	return data, h, nil
}

// readHeader reads the header of the frame at off without its checksum. It is complete but for the predecessor.
func readHeader(f io.ReaderAt, off, size int64) (frame.Header, error) {
	var b [frame.HeaderSize]byte
	n := min(int64(len(b)), size-off)
	if err := readFull(f, b[:n], off); err != nil {
		return frame.Header{}, err
	}
	h, err := frame.ParseHeader(b[:n])
	if errors.Is(err, frame.ErrShort) && h.Size > 0 && int64(h.Size) <= size-off {
		return h, nil // only these bytes end there, not the file
	}
	return h, err
}

// scan calls yield with the headers of the frames from off to size, and where each frame begins, until it returns false.
func scan(f io.ReaderAt, off, size int64, yield func(h *frame.Header, off int64) bool) error {
	for off < size {
		h, err := readHeader(f, off, size)
		if err != nil {
			return err
		}
		if !yield(&h, off) {
			return nil
		}
		off += int64(h.Size)
	}
	return nil
}

// ioError is a failed read, as opposed to bytes that are not what they should be.
type ioError struct{ err error }

func (e *ioError) Error() string { return e.err.Error() }
func (e *ioError) Unwrap() error { return e.err }

// isDamage tells wrong bytes, missing bytes and unreadable sectors from conditions that pass.
func isDamage(err error) bool {
	var failed *ioError
	return !errors.As(err, &failed) || errors.Is(err, io.EOF) || errors.Is(err, syscall.EIO)
}

func readFull(f io.ReaderAt, b []byte, off int64) error {
	n, err := f.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	return &ioError{fmt.Errorf("read %d bytes at %d: %w", len(b), off, err)}
}

// zeros reports whether a file holds nothing but zero bytes from off to size, as it may after a crash that lost the
// data but not the length.
func zeros(f io.ReaderAt, off, size int64) bool {
	var b, zero [4096]byte
	for off < size {
		n := min(int64(len(b)), size-off)
		if readFull(f, b[:n], off) != nil || !bytes.Equal(b[:n], zero[:n]) {
			return false
		}
		off += n
	}
	return true
}
