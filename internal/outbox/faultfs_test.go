package outbox

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// fault is how an operation of memFS fails.
type fault int

const (
	noFault    fault = iota
	notApplied       // an error, and nothing happened
	applied          // an error, although it happened
	shortWrite       // an error after half of a write; otherwise as notApplied
	crashed          // as notApplied; the caller of crash then keeps what was synced
)

var errInjected = errors.New("injected fault")

// memFS is a directory in memory whose every operation can fail and that knows what a crash would leave.
type memFS struct {
	mu      sync.Mutex
	files   map[string]*memNode
	durable map[string]*memNode         // as of the last Sync
	journal []func(map[string]*memNode) // changes of the directory since
	ops     int                         // operations so far that change something
	inject  func(op int, call string) (fault, error)
	room    int // bytes of all files, if not 0
	locked  bool
}

type memNode struct {
	data   []byte
	synced []byte // what Sync saw last
}

func newMemFS() *memFS {
	return &memFS{files: map[string]*memNode{}, durable: map[string]*memNode{}}
}

// step counts an operation and decides its fate. Those that only look have number 0. The caller holds mu.
func (m *memFS) step(call string) (fault, error) {
	op := 0
	if verb, _, _ := strings.Cut(call, " "); verb != "read" && verb != "open" && verb != "list" {
		m.ops++
		op = m.ops
	}
	if m.inject == nil {
		return noFault, nil
	}
	f, err := m.inject(op, call)
	if f == noFault {
		return f, nil
	}
	return f, fmt.Errorf("%s: %w", call, err)
}

// change applies a change of the directory now, and for a crash some time until the next Sync.
func (m *memFS) change(f func(map[string]*memNode)) {
	f(m.files)
	m.journal = append(m.journal, f)
}

// crash returns the directory after a power loss. Of what was not synced, rng decides: the directory has some first
// part of its changes, a file some first part of what was appended, or zeros in its place.
func (m *memFS) crash(rng *rand.Rand) *memFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir := maps.Clone(m.durable)
	for _, f := range m.journal[:rng.IntN(len(m.journal)+1)] {
		f(dir)
	}
	after := newMemFS()
	for _, name := range slices.Sorted(maps.Keys(dir)) {
		node := dir[name]
		data := slices.Clone(node.synced)
		if extra := len(node.data) - len(data); extra > 0 && rng.IntN(2) == 0 {
			keep := rng.IntN(extra + 1)
			if rng.IntN(4) == 0 {
				data = append(data, make([]byte, keep)...)
			} else {
				data = append(data, node.data[len(data):len(data)+keep]...)
			}
		}
		after.files[name] = &memNode{data: data, synced: data}
	}
	after.durable = maps.Clone(after.files)
	return after
}

// bytes of all files. The caller holds mu.
func (m *memFS) bytes() (n int) {
	for _, node := range m.files {
		n += len(node.data)
	}
	return n
}

func (m *memFS) List() ([]FileInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.step("list"); err != nil {
		return nil, err
	}
	var files []FileInfo
	for name, n := range m.files {
		files = append(files, FileInfo{Name: name, Size: int64(len(n.data))})
	}
	return files, nil
}

func (m *memFS) Create(name string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, err := m.step("create " + name)
	if err != nil && f != applied {
		return nil, err
	}
	node := &memNode{}
	m.change(func(d map[string]*memNode) { d[name] = node })
	if err != nil {
		return nil, err
	}
	return &memFile{m, name, node}, nil
}

func (m *memFS) Open(name string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.step("open " + name); err != nil {
		return nil, err
	}
	node := m.files[name]
	if node == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &memFile{m, name, node}, nil
}

func (m *memFS) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, err := m.step("rename " + from)
	if err != nil && f != applied {
		return err
	}
	node := m.files[from]
	if node == nil {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	m.change(func(d map[string]*memNode) { delete(d, from); d[to] = node })
	return err
}

func (m *memFS) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, err := m.step("remove " + name)
	if err != nil && f != applied {
		return err
	}
	if m.files[name] == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	m.change(func(d map[string]*memNode) { delete(d, name) })
	return err
}

func (m *memFS) Sync() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, err := m.step("sync directory")
	if err != nil && f != applied {
		return err
	}
	m.durable, m.journal = maps.Clone(m.files), nil
	return err
}

func (m *memFS) Free() (int64, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return int64(max(0, m.room-m.bytes())), m.room > 0
}

func (m *memFS) Lock() (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.step("lock"); err != nil {
		return nil, err
	}
	if m.locked {
		return nil, ErrLocked
	}
	m.locked = true
	return memLock{m}, nil
}

type memLock struct{ m *memFS }

func (l memLock) Close() error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	l.m.locked = false
	return nil
}

type memFile struct {
	m    *memFS
	name string
	node *memNode
}

func (f *memFile) ReadAt(b []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if _, err := f.m.step("read " + f.name); err != nil {
		return 0, err
	}
	if off >= int64(len(f.node.data)) {
		return 0, io.EOF
	}
	n := copy(b, f.node.data[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(b []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	how, err := f.m.step("write " + f.name)
	switch how {
	case notApplied, crashed:
		return 0, err
	case shortWrite:
		b = b[:len(b)/2]
	}
	if end := int(off) + len(b); end > len(f.node.data) {
		if f.m.room > 0 && f.m.bytes()+end-len(f.node.data) > f.m.room {
			return 0, syscall.ENOSPC
		}
		data := make([]byte, end)
		copy(data, f.node.data)
		f.node.data = data
	}
	copy(f.node.data[off:], b)
	return len(b), err
}

func (f *memFile) Truncate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	how, err := f.m.step("truncate " + f.name)
	if err != nil && how != applied {
		return err
	}
	f.node.data = slices.Clone(f.node.data[:size])
	return err
}

func (f *memFile) Sync() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	how, err := f.m.step("sync " + f.name)
	if err != nil && how != applied {
		return err
	}
	f.node.synced = slices.Clone(f.node.data)
	return err
}

func (f *memFile) Close() error { return nil }
