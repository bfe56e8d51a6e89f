package lane

import (
	"fmt"

	"github.com/thalweg/thalweg/internal/frame"
)

// recentFrames is how many frames of a site are recognised by what is in them, and not by their names alone.
const recentFrames = 64

// recent knows the checksums of the newest frames of a site. A machine that goes on from an older picture of its memory
// makes frames with names that were given before.
type recent struct {
	frames [recentFrames]struct {
		frame.ID
		sum uint32
	}
}

// note keeps the checksum of a frame.
func (r *recent) note(id frame.ID, sum uint32) {
	slot := &r.frames[id.Number%recentFrames]
	slot.ID, slot.sum = id, sum
}

// differs reports whether a frame of that name came with another checksum.
func (r *recent) differs(id frame.ID, sum uint32) bool {
	slot := &r.frames[id.Number%recentFrames]
	return slot.ID == id && slot.sum != sum
}

// conflictError is about a frame that is not the one that came under its name before.
type conflictError struct{ id frame.ID }

func (e *conflictError) Error() string {
	return fmt.Sprintf("frame %s came before with other content: the site goes on from an older state of its memory", e.id)
}
