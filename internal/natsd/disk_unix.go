//go:build linux || darwin || freebsd

package natsd

import (
	"math"
	"syscall"
)

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
