//go:build linux || darwin || freebsd

package natsd

import (
	"math"
	"strings"
	"syscall"
)

// diskFull reports whether an error, of which the server passes on no more than the text, is about want of space.
func diskFull(err error) bool {
	for _, e := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		if strings.Contains(err.Error(), ": "+e.Error()) {
			return true
		}
	}
	return false
}

// diskSpace is how many bytes of the file system of a directory are free for this process, and its size; NaN if that
// is not known.
func diskSpace(dir string) (free, size float64) {
	var s syscall.Statfs_t
	if syscall.Statfs(dir, &s) != nil {
		return math.NaN(), math.NaN()
	}
	block := float64(s.Bsize)
	return float64(s.Bavail) * block, float64(s.Blocks) * block
}
