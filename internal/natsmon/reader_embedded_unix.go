//go:build linux || darwin || freebsd

package natsmon

import "syscall"

// diskOf is the file system of a directory, as far as this process can use it; nil if that is not known.
func diskOf(dir string) *Disk {
	var s syscall.Statfs_t
	if syscall.Statfs(dir, &s) != nil {
		return nil
	}
	free, used := uint64(s.Bavail), uint64(s.Blocks)-uint64(s.Bfree)
	return &Disk{Free: free * uint64(s.Bsize), Size: (free + used) * uint64(s.Bsize)}
}
