//go:build linux

package chaos

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// disk is a directory that can be full: a small file system of its own, or, where that is not allowed, one in which
// the files of its process cannot grow.
type disk struct {
	t     *testing.T
	dir   string
	small bool // a file system
}

// fileLimit is what files may have on a full disk that is not a file system.
const fileLimit = 4 << 10

// newDisk makes one at a directory, and says which kind it is if it is not a file system.
func newDisk(t *testing.T, dir string, size int64) *disk {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	d := &disk{t: t, dir: dir}
	if *fileLimitFlag || os.Getenv(namespaceVariable) == "" { // else a mount would outlive a test that is killed
		t.Logf("disk %s is full by RLIMIT_FSIZE", filepath.Base(dir))
		return d
	}
	err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size))
	if err != nil {
		t.Logf("disk %s is full by RLIMIT_FSIZE: mount: %v", filepath.Base(dir), err)
		return d
	}
	d.small = true
	t.Cleanup(func() {
		if *keepFlag {
			d.keep()
		}
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return d
}

// keep copies what is on the disk to a directory that outlives it.
func (d *disk) keep() {
	if err := os.CopyFS(d.dir+".disk", os.DirFS(d.dir)); err != nil {
		d.t.Error(err)
	}
}

func (d *disk) ballast() string { return filepath.Join(d.dir, "ballast") }

// fill leaves no room for more.
func (d *disk) fill(p *process) {
	if !d.small {
		p.limitFiles(fileLimit)
		return
	}
	f, err := os.OpenFile(d.ballast(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		d.t.Error(err)
		return
	}
	defer f.Close()
	var st syscall.Statfs_t
	if err := syscall.Statfs(d.dir, &st); err != nil {
		d.t.Error(err)
		return
	}
	block := int64(st.Bsize)
	for at, n := int64(0), int64(st.Bfree)*block; n >= block; {
		switch err := syscall.Fallocate(int(f.Fd()), 0, at, n); {
		case err == nil:
			at += n
		case errors.Is(err, syscall.ENOSPC): // others write too
			n /= 2
		case !errors.Is(err, syscall.EINTR):
			d.t.Errorf("fill disk %s: %v", d.dir, err)
			return
		}
	}
}

// free makes room again.
func (d *disk) free(p *process) {
	if !d.small {
		p.limitFiles(0)
	} else if err := os.Remove(d.ballast()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.t.Error(err)
	}
}

// empty deletes a directory and makes it anew.
func empty(t *testing.T, dir string) {
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Error(err)
	}
}
