package outbox

import (
	"crypto/rand"
	"errors"
	"io/fs"
)

// The reserve is a file that keeps room on the disk for the state file: on a full disk it makes way for it. What was
// evicted, and which frame was the last, would be known to nobody if the process were killed before there is room again.
const (
	reserveName  = "reserve"
	reserveBytes = 64 << 10
	// reserveFree is how much there must be free to make it: frames go first.
	reserveFree = 4 * reserveBytes
)

// keepReserve makes the reserve if it is not there. That it cannot be made is no error: it is tried again by Expire.
// The caller holds write.
func (o *Outbox) keepReserve() {
	if o.reserved {
		return
	}
	if free, ok := o.fs.Free(); ok && free < reserveFree {
		return
	}
	content := make([]byte, reserveBytes)
	_, _ = rand.Read(content) // file systems that compress would keep no room for zeros; it never fails
	if err := o.writeFile(reserveName, content); err != nil {
		o.remove(reserveName)
		return
	}
	o.reserved = true
}

// spendReserve reports whether it made room.
func (o *Outbox) spendReserve() bool {
	if !o.reserved {
		return false
	}
	err := o.fs.Remove(reserveName)
	o.reserved = err != nil && !errors.Is(err, fs.ErrNotExist)
	return err == nil
}
