package bustest

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// Disk is a directory that can be full.
type Disk struct {
	Dir string
	t   *testing.T
	own bool // it is a file system of its own
}

// diskVariable tells the process that OnSmallDisk starts where its disk is.
const diskVariable = "BUSTEST_DISK"

// OnSmallDisk runs a test in a process of its own, with a disk of so many bytes: a small file system that only this
// process sees or, where mounting is not allowed, a limit to the size of the files that it writes. It is called by a
// top-level test, and does nothing else there.
func OnSmallDisk(t *testing.T, size int64, test func(*testing.T, *Disk)) {
	t.Helper()
	if dir := os.Getenv(diskVariable); dir != "" {
		d := &Disk{Dir: dir, t: t}
		d.mount(size)
		test(t, d)
		return
	}
	user := &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	for _, attributes := range []*syscall.SysProcAttr{{Cloneflags: syscall.CLONE_NEWNS}, user, nil} {
		c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1")
		c.Env = append(os.Environ(), diskVariable+"="+t.TempDir())
		c.Stdout, c.Stderr = t.Output(), t.Output()
		c.SysProcAttr = attributes
		err := c.Start()
		if err != nil && attributes != nil { // not allowed here
			continue
		}
		if err == nil {
			err = c.Wait()
		}
		if err != nil {
			t.Fatalf("process with a small disk: %v", err)
		}
		return
	}
}

// mount makes the file system, if that is allowed here.
func (d *Disk) mount(size int64) {
	d.t.Helper()
	err := syscall.Mount("none", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, "")
	if err == nil {
		err = syscall.Mount("tmpfs", d.Dir, "tmpfs", 0, "mode=0700,size="+strconv.FormatInt(size, 10))
	}
	if d.own = err == nil; !d.own {
		d.t.Logf("the disk is a limit to the size of files, as mounting is not allowed here: %v", err)
		signal.Ignore(syscall.SIGXFSZ)
	}
}

// fileLimit is how large files may be on a full disk that is no file system.
const fileLimit = 4 << 10

// Fill leaves no room on the disk.
func (d *Disk) Fill() {
	d.t.Helper()
	if !d.own {
		d.limitFiles(fileLimit)
		return
	}
	f, err := os.OpenFile(d.ballast(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(f, zeros{}); !errors.Is(err, syscall.ENOSPC) {
		d.t.Fatalf("fill the disk: %v", err)
	}
}

// Free makes room again.
func (d *Disk) Free() {
	d.t.Helper()
	if !d.own {
		d.limitFiles(0)
	} else if err := os.Remove(d.ballast()); err != nil {
		d.t.Fatal(err)
	}
}

func (d *Disk) ballast() string { return filepath.Join(d.Dir, "ballast") }

// limitFiles limits the size of the files of this process; 0 ends the limit.
func (d *Disk) limitFiles(bytes uint64) {
	d.t.Helper()
	var limit syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit)
	if limit.Cur = limit.Max; bytes > 0 {
		limit.Cur = bytes
	}
	if err == nil {
		err = syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit)
	}
	if err != nil {
		d.t.Fatalf("limit the size of files: %v", err)
	}
}

// zeros has no end.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
