package push

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/tsdb/fileutil"
)

const (
	// syncEvery is the least time between two syncs; all records that come in between share the next one.
	syncEvery = 20 * time.Millisecond
	// rewriteAfter is what the journal may grow beyond twice its size, and maxFiles how many files it may have, before it is
	// written anew.
	rewriteAfter = 1 << 20
	maxFiles     = 16

	journalSuffix = ".journal"
	damagedSuffix = ".damaged"
	newSuffix     = ".new"
)

var errClosed = errors.New("the journal of pushed groups is closed")

// journal is what makes groups durable: files of records, of which the last one about a group counts. Files are read in
// the order of their numbers. They are written anew, without what no longer counts, when they have doubled: behind a
// record that forgets everything before, and while appending goes on in the file after it.
type journal struct {
	dir     string
	log     *slog.Logger
	metrics *journalMetrics
	lock    fileutil.Releaser
	full    chan struct{} // it is time to rewrite

	mu   sync.Mutex
	next *batch

	writing  sync.Mutex // held to use the following
	closed   bool
	file     *os.File // nil: the next record begins another file
	size     int64    // of file
	number   int      // of the newest file
	files    []int    // numbers, ascending
	damaged  map[int]bool
	total    int64 // bytes in files
	baseline int64 // total when they were written anew last
	synced   time.Time
}

// batch are records that are synced together.
type batch struct {
	records []byte
	led     bool // somebody will write it
	done    chan struct{}
	err     error
}

type journalMetrics struct {
	bytes    prometheus.Gauge
	sync     prometheus.Histogram
	errors   prometheus.Counter
	rewrites prometheus.Counter
	torn     prometheus.Counter
	damaged  prometheus.Counter
}

func newJournalMetrics() *journalMetrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "thalweg_push_journal_" + name, Help: help})
	}
	return &journalMetrics{
		bytes: prometheus.NewGauge(prometheus.GaugeOpts{Name: "thalweg_push_journal_bytes", Help: "Size of the journal of pushed groups."}),
		sync: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "thalweg_push_journal_sync_duration_seconds",
			Help:    "Time it took to write changes of groups to disk.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 8),
		}),
		errors:   counter("errors_total", "Attempts to write changes of groups to disk, or the journal anew, that failed."),
		rewrites: counter("rewrites_total", "How often the journal was written anew, without what had become old."),
		torn:     counter("torn_files_total", "Files of the journal that a crash had cut short."),
		damaged:  counter("damaged_files_total", "Files of the journal found to hold something else than what was written. They are renamed to "+damagedSuffix+"."),
	}
}

// append returns when a record is on disk. Records of one group must not be appended at the same time.
func (j *journal) append(r []byte) error {
	j.mu.Lock()
	b := j.next
	b.records = append(b.records, r...)
	lead := !b.led
	b.led = true
	j.mu.Unlock()
	if lead {
		j.lead(b)
	}
	<-b.done
	return b.err
}

// lead writes a batch, with everything that joins it until its turn comes.
func (j *journal) lead(b *batch) {
	j.writing.Lock()
	defer j.writing.Unlock()
	if wait := time.Until(j.synced.Add(syncEvery)); wait > 0 {
		time.Sleep(wait)
	}
	j.mu.Lock()
	j.next = newBatch()
	j.mu.Unlock()
	start := time.Now()
	b.err = j.write(b.records)
	j.synced = time.Now()
	j.metrics.sync.Observe(j.synced.Sub(start).Seconds())
	close(b.done)
}

func newBatch() *batch { return &batch{done: make(chan struct{})} }

// write appends to the file and syncs it. After an error the file is cut to what it had, and another one begins.
func (j *journal) write(records []byte) error {
	if j.closed {
		return errClosed
	}
	if j.file == nil {
		if err := j.begin(j.number + 1); err != nil {
			j.metrics.errors.Inc()
			return err
		}
	}
	_, err := j.file.WriteAt(records, j.size)
	if err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		j.metrics.errors.Inc()
		return fmt.Errorf("write journal: %w", errors.Join(err, j.file.Truncate(j.size), j.leave()))
	}
	j.size += int64(len(records))
	j.grow(int64(len(records)))
	return nil
}

// begin makes the file of a number, to which is appended from now on.
func (j *journal) begin(number int) error {
	name := j.path(number)
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("begin journal: %w", err)
	}
	if err := syncDir(j.dir); err != nil {
		return fmt.Errorf("begin journal: %w", errors.Join(err, f.Close(), os.Remove(name)))
	}
	j.file, j.size, j.number = f, 0, number
	j.files = append(j.files, number)
	return nil
}

// grow counts bytes that were added, or are gone.
func (j *journal) grow(n int64) {
	j.total += n
	j.metrics.bytes.Set(float64(j.total))
	if j.total > 2*j.baseline+rewriteAfter || len(j.files) > maxFiles {
		select {
		case j.full <- struct{}{}:
		default:
		}
	}
}

// rewrite writes the journal anew. contents appends the records of all groups, as they are when it is called or later,
// in pieces to flush.
func (j *journal) rewrite(contents func(flush func(records []byte) error) error) error {
	j.writing.Lock()
	if j.closed {
		j.writing.Unlock()
		return errClosed
	}
	err := j.leave()
	old, number := slices.Clone(j.files), j.number+1
	if err == nil {
		err = j.begin(number + 1)
	}
	j.writing.Unlock()
	if err == nil {
		err = j.snapshot(number, contents)
	}
	if err != nil {
		j.metrics.errors.Inc()
		return fmt.Errorf("write journal anew: %w", err)
	}
	j.metrics.rewrites.Inc()
	j.writing.Lock()
	defer j.writing.Unlock()
	for _, n := range old {
		if err := j.retire(n); err != nil {
			j.log.Warn("old journal of pushed groups cannot be removed", "file", j.path(n), "err", err)
		}
	}
	j.files = append([]int{number}, j.files[len(old):]...)
	j.measure()
	j.baseline = j.total
	return nil
}

// retire removes a file that is not needed any more, or puts it aside if it was damaged.
func (j *journal) retire(number int) error {
	if j.damaged[number] {
		delete(j.damaged, number)
		return os.Rename(j.path(number), j.path(number)+damagedSuffix)
	}
	return os.Remove(j.path(number))
}

// snapshot writes the file of a number with everything there is. It is there whole or not at all.
func (j *journal) snapshot(number int, contents func(flush func([]byte) error) error) (err error) {
	name := j.path(number)
	f, err := os.OpenFile(name+newSuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(name+newSuffix))
		}
	}()
	w := bufio.NewWriterSize(f, 256<<10)
	flush := func(records []byte) error {
		_, err := w.Write(records)
		return err
	}
	err = flush(appendReset(nil))
	if err == nil {
		err = contents(flush)
	}
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(name+newSuffix, name); err != nil {
		return err
	}
	return syncDir(j.dir)
}

// measure sums up the files.
func (j *journal) measure() {
	j.total = 0
	for _, n := range j.files {
		if info, err := os.Stat(j.path(n)); err == nil {
			j.total += info.Size()
		}
	}
	j.metrics.bytes.Set(float64(j.total))
}

// close lets go of the directory. What is appended later fails.
func (j *journal) close() error {
	j.writing.Lock()
	defer j.writing.Unlock()
	if j.closed {
		return nil
	}
	j.closed = true
	return errors.Join(j.leave(), j.lock.Release())
}

// leave closes the file. One in which there is nothing goes, so that a full disk is not filled with names.
func (j *journal) leave() error {
	if j.file == nil {
		return nil
	}
	err := j.file.Close()
	j.file = nil
	if j.size == 0 {
		j.files = j.files[:len(j.files)-1]
		err = errors.Join(err, os.Remove(j.path(j.number)))
	}
	return err
}

func (j *journal) path(number int) string {
	return filepath.Join(j.dir, fmt.Sprintf("%08d%s", number, journalSuffix))
}

// syncDir makes creations and renames in a directory durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
