//go:build linux || darwin || freebsd

package outbox

import "syscall"

func (d osDir) Free() (bytes int64, ok bool) {
	var s syscall.Statfs_t
	if syscall.Statfs(string(d), &s) != nil {
		return 0, false
	}
	return max(0, int64(s.Bavail)) * int64(s.Bsize), true
}
