package push

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/prometheus/prometheus/tsdb/fileutil"
)

// openJournal reads the journal in a directory, which is made if it is not there. restore gets every record that can be
// read, in order. Errors of restore count as damage, as does everything else that a file holds.
func openJournal(dir string, log *slog.Logger, restore func(record) error) (_ *journal, err error) {
	j := &journal{dir: dir, log: log, metrics: newJournalMetrics(), next: newBatch(), full: make(chan struct{}, 1), damaged: map[int]bool{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock := filepath.Join(dir, "lock")
	j.lock, _, err = fileutil.Flock(lock)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("another process has it open (lock file %s)", lock)
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", lock, err)
	}
	if err := j.list(); err != nil {
		return nil, errors.Join(err, j.lock.Release())
	}
	for i, number := range slices.Clone(j.files) {
		if err := j.read(number, i == len(j.files)-1, restore); err != nil {
			return nil, errors.Join(err, j.lock.Release())
		}
	}
	j.measure()
	j.baseline = j.total / 2
	j.grow(0)
	return j, nil
}

// list finds the files, and removes what a crash left of one that was not finished.
func (j *journal) list() error {
	entries, err := os.ReadDir(j.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), journalSuffix+newSuffix) {
			if err := os.Remove(filepath.Join(j.dir, e.Name())); err != nil {
				return err
			}
			continue
		}
		digits, ok := strings.CutSuffix(e.Name(), journalSuffix)
		if n, err := strconv.Atoi(digits); ok && err == nil && n > 0 {
			j.files = append(j.files, n)
		}
	}
	slices.Sort(j.files)
	if len(j.files) > 0 {
		j.number = j.files[len(j.files)-1]
	}
	return nil
}

// read reads a file. The end of the last one may be missing: nobody had an answer to what stood there. A file that is
// damaged elsewhere is renamed, and what could be read of it is to be written anew.
func (j *journal) read(number int, last bool, restore func(record) error) error {
	name := j.path(number)
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	var lost int // bytes
	var cause error
	for at := 0; at < len(data); {
		r, n, err := nextRecord(data[at:])
		if err == nil {
			err = restore(r)
		} else {
			skip, more := resync(data[at:])
			if !more && last && cause == nil {
				return j.cut(name, at, len(data)-at)
			}
			if n = skip; !more {
				n = len(data) - at
			}
		}
		if err != nil {
			lost += n
			if cause == nil {
				cause = fmt.Errorf("at byte %d: %w", at, err)
			}
		}
		at += n
	}
	if cause == nil {
		return nil
	}
	j.metrics.damaged.Inc()
	j.log.Error("journal of pushed groups is damaged; what can be read of it is used", "file", name,
		"renamed_to", name+damagedSuffix, "bytes", lost, "err", cause)
	j.damaged[number] = true
	return nil
}

// cut cuts off what a crash left of the last records.
func (j *journal) cut(name string, size, lost int) error {
	j.metrics.torn.Inc()
	j.log.Warn("journal of pushed groups ends within a record, which nobody had an answer to; it is cut off", "file", name, "bytes", lost)
	if err := os.Truncate(name, int64(size)); err != nil {
		return fmt.Errorf("cut journal: %w", err)
	}
	return nil
}
