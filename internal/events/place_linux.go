package events

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// place names a directory on a machine since its start: who has locked it knows that no other process of it lives. Two
// containers may have the same host name and the same path, but not the same directory.
func place(host, dir string) string {
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "" // nobody can tell
	}
	var s syscall.Stat_t
	if err := syscall.Stat(dir, &s); err != nil {
		return ""
	}
	return fmt.Sprintf("%s:%d:%d %s %s", strings.TrimSpace(string(boot)), s.Dev, s.Ino, host, dir)
}
