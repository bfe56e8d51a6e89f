//go:build linux || darwin || freebsd

package natsmon

import "syscall"

// freeBytes is how many bytes of the file system of a directory this process can still use; nil if that is not known.
func freeBytes(dir string) *uint64 {
	var s syscall.Statfs_t
	if syscall.Statfs(dir, &s) != nil {
		return nil
	}
	free := uint64(s.Bavail) * uint64(s.Bsize)
	return &free
}
