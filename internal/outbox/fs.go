package outbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/prometheus/prometheus/tsdb/fileutil"
)

// FS is the directory of an outbox, as far as the outbox uses it. Names are plain file names. It exists so that tests
// can fail every single operation.
type FS interface {
	// List returns the regular files in any order.
	List() ([]FileInfo, error)
	// Create makes an empty file for reading and writing, in place of one of the same name.
	Create(name string) (File, error)
	// Open opens an existing file for reading and writing. Removing or renaming the file leaves it readable.
	Open(name string) (File, error)
	Rename(from, to string) error
	Remove(name string) error
	// Sync makes creations, renames and removals durable.
	Sync() error
	// Free is how many bytes more there is room for; not ok if that cannot be told.
	Free() (bytes int64, ok bool)
	// Lock keeps other processes out until the result is closed. The error wraps ErrLocked if there is one.
	Lock() (io.Closer, error)
}

// FileInfo is an entry of FS.List.
type FileInfo struct {
	Name string
	Size int64
}

// File is an open file. Reading and writing at different places may be concurrent.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Truncate(size int64) error
	// Sync makes the content durable.
	Sync() error
}

// ErrLocked means that another process has the outbox open.
var ErrLocked = errors.New("outbox is in use")

const lockName = "lock"

// osDir is the FS of a real directory.
type osDir string

func (d osDir) path(name string) string { return filepath.Join(string(d), name) }

func (d osDir) List() ([]FileInfo, error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, err
	}
	var files []FileInfo
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		files = append(files, FileInfo{Name: e.Name(), Size: info.Size()})
	}
	return files, nil
}

func (d osDir) Create(name string) (File, error) {
	return d.open(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
}

func (d osDir) Open(name string) (File, error) { return d.open(name, os.O_RDWR) }

// open keeps a nil *os.File out of the interface.
func (d osDir) open(name string, flag int) (File, error) {
	f, err := os.OpenFile(d.path(name), flag, 0o600)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (d osDir) Rename(from, to string) error { return os.Rename(d.path(from), d.path(to)) }

func (d osDir) Remove(name string) error { return os.Remove(d.path(name)) }

func (d osDir) Sync() error {
	f, err := os.Open(string(d))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Lock leaves the process id in the file for the message that the next process prints.
func (d osDir) Lock() (io.Closer, error) {
	name := d.path(lockName)
	lock, _, err := fileutil.Flock(name)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		if pid, err := os.ReadFile(name); err == nil && len(pid) > 0 {
			return nil, fmt.Errorf("%w by process %s (lock file %s)", ErrLocked, strings.TrimSpace(string(pid)), name)
		}
		return nil, fmt.Errorf("%w by another process (lock file %s)", ErrLocked, name)
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	// Only the message above needs it, and a full disk must not keep the edge from starting.
	_ = os.WriteFile(name, fmt.Appendf(nil, "%d\n", os.Getpid()), 0o600)
	return releaser{lock}, nil
}

type releaser struct{ lock fileutil.Releaser }

func (r releaser) Close() error { return r.lock.Release() }

// diskFull says whether deleting something may help.
func diskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
