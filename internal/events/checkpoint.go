package events

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/tsdb/fileutil"
)

// The state of a gateway is in one file, a record behind the other. The first holds everything, the others what has
// changed since the one before:
//
//	mark     4 bytes
//	length   8 bytes, little endian, of the content
//	CRC-32C  4 bytes, little endian, of the content
//	content  see checkpoint_record.go
//
// When the changes have become longer than everything, another file begins: it is written beside the old one, synced, and
// renamed to its name, which has a higher number, and then the old one is removed.
const (
	recordMark   = "TWev"
	recordHeader = len(recordMark) + 12

	stateSuffix   = ".events"
	newSuffix     = ".new"
	damagedSuffix = ".damaged"

	// changesAtLeast may always stand behind the first record.
	changesAtLeast = 4 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checkpoints is the directory with the state. One goroutine at a time uses it.
type checkpoints struct {
	dir     string
	log     *slog.Logger
	lock    fileutil.Releaser
	metrics *checkpointMetrics

	number  int      // of the newest file
	file    *os.File // nil: the next record is the first of another file
	size    int64
	first   int64 // size of the first record
	damaged bool  // what was there when it was opened could not be read
}

type checkpointMetrics struct {
	bytes   prometheus.Gauge
	seconds prometheus.Histogram
	errors  prometheus.Counter
	full    prometheus.Counter
	damaged prometheus.Gauge
	last    prometheus.Gauge
}

func newCheckpointMetrics() *checkpointMetrics {
	return &checkpointMetrics{
		bytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "thalweg_events_checkpoint_bytes", Help: "Size of the state of the event gateway on disk.",
		}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "thalweg_events_checkpoint_duration_seconds", Help: "Time it took to write what events had changed to disk.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 8),
		}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "thalweg_events_checkpoint_errors_total", Help: "Attempts to write the state of the event gateway that failed.",
		}),
		full: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "thalweg_events_checkpoint_full_total", Help: "How often the state of the event gateway was written as a whole.",
		}),
		damaged: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "thalweg_events_state_damaged",
			Help: "Whether the event gateway began with nothing because its state was damaged. The file was renamed to " + damagedSuffix + ".",
		}),
		last: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "thalweg_events_checkpoint_last_success_timestamp_seconds", Help: "When the state of the event gateway was last written.",
		}),
	}
}

func (m *checkpointMetrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.bytes, m.seconds, m.errors, m.full, m.damaged, m.last}
}

// openCheckpoints reads the state in a directory, which is made if it is not there. restore gets the contents of the
// records in order; after an error of it, it is called once more with nil, and nothing that was there counts.
func openCheckpoints(dir string, log *slog.Logger, restore func(content []byte) error) (_ *checkpoints, err error) {
	c := &checkpoints{dir: dir, log: log, metrics: newCheckpointMetrics()}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock := filepath.Join(dir, "lock")
	c.lock, _, err = fileutil.Flock(lock)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("another process has it open (lock file %s)", lock)
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", lock, err)
	}
	if err := c.read(restore); err != nil {
		return nil, errors.Join(err, c.lock.Release())
	}
	return c, nil
}

func (c *checkpoints) path(number int) string {
	return filepath.Join(c.dir, fmt.Sprintf("%08d%s", number, stateSuffix))
}

// read reads the newest file, and removes what a crash left of others.
func (c *checkpoints) read(restore func([]byte) error) error {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	var numbers []int
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), newSuffix) {
			if err := os.Remove(filepath.Join(c.dir, e.Name())); err != nil {
				return err
			}
		}
		digits, ok := strings.CutSuffix(e.Name(), stateSuffix)
		if n, err := strconv.Atoi(digits); ok && err == nil {
			numbers = append(numbers, n)
		}
	}
	if len(numbers) == 0 {
		return nil
	}
	slices.Sort(numbers)
	c.number = numbers[len(numbers)-1]
	for _, n := range numbers[:len(numbers)-1] {
		if err := os.Remove(c.path(n)); err != nil {
			return err
		}
	}
	data, err := os.ReadFile(c.path(c.number))
	if err != nil {
		return err
	}
	at, err := restoreRecords(data, restore)
	if err != nil {
		return c.putAside(at, err, restore)
	}
	if at < len(data) {
		c.log.Warn("state of the event gateway ends within a record, which nobody relied on", "file", c.path(c.number), "bytes", len(data)-at)
	}
	return nil // the next record is the first of another file, so that this one stays as it is
}

// restoreRecords hands out the records of a file. It returns how far they go; the end of the last one may be missing.
func restoreRecords(data []byte, restore func([]byte) error) (at int, err error) {
	for at < len(data) {
		content, n, ok := nextRecord(data[at:])
		if !ok {
			if at == 0 || recordsBehind(data[at:]) {
				return at, errors.New("it does not hold what was written")
			}
			return at, nil
		}
		if err := restore(content); err != nil {
			return at, err
		}
		at += n
	}
	return at, nil
}

// recordsBehind reports whether there is a good record behind the first byte of data.
func recordsBehind(data []byte) bool {
	for {
		i := bytes.Index(data[1:], []byte(recordMark))
		if i < 0 {
			return false
		}
		data = data[1+i:]
		if _, _, ok := nextRecord(data); ok {
			return true
		}
	}
}

func nextRecord(data []byte) (content []byte, n int, ok bool) {
	if len(data) < recordHeader || string(data[:len(recordMark)]) != recordMark {
		return nil, 0, false
	}
	size := binary.LittleEndian.Uint64(data[len(recordMark):])
	if size > uint64(len(data)-recordHeader) {
		return nil, 0, false
	}
	content = data[recordHeader : recordHeader+int(size)]
	if crc32.Checksum(content, castagnoli) != binary.LittleEndian.Uint32(data[len(recordMark)+8:]) {
		return nil, 0, false
	}
	return content, recordHeader + int(size), true
}

// putAside renames a damaged file. Nothing of it is used: sums that are less than they were look like counters that began
// anew, and what they had been would count twice.
func (c *checkpoints) putAside(at int, cause error, restore func([]byte) error) error {
	name := c.path(c.number)
	if err := os.Rename(name, name+damagedSuffix); err != nil {
		return err
	}
	c.damaged = true
	c.metrics.damaged.Set(1)
	c.log.Error("state of the event gateway is damaged; all series begin with nothing", "file", name, "renamed_to", name+damagedSuffix,
		"byte", at, "err", cause)
	return restore(nil)
}

// whole reports whether the next record has to hold everything.
func (c *checkpoints) whole() bool {
	return c.file == nil || c.size-c.first > max(changesAtLeast, 2*c.first)
}

// write makes a record durable. Without an error it is. With one nobody knows, and the next record is a whole one.
func (c *checkpoints) write(record []byte, whole bool) error {
	start := time.Now()
	err := c.put(record, whole)
	if err != nil {
		c.metrics.errors.Inc()
		if c.file != nil {
			err = errors.Join(err, c.file.Close())
			c.file = nil
		}
		return fmt.Errorf("write checkpoint: %w", err)
	}
	c.metrics.seconds.Observe(time.Since(start).Seconds())
	c.metrics.last.SetToCurrentTime()
	c.metrics.bytes.Set(float64(c.size))
	return nil
}

func (c *checkpoints) put(record []byte, whole bool) error {
	if whole {
		return c.begin(record)
	}
	n, err := c.file.WriteAt(record, c.size)
	c.size += int64(n)
	if err != nil {
		return err
	}
	return c.file.Sync()
}

// begin writes the first record of another file.
func (c *checkpoints) begin(record []byte) (err error) {
	name := c.path(c.number + 1)
	f, err := os.OpenFile(name+newSuffix, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if _, err := f.Write(record); err != nil {
		return errors.Join(err, os.Remove(name+newSuffix))
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, os.Remove(name+newSuffix))
	}
	if err := os.Rename(name+newSuffix, name); err != nil {
		return err
	}
	if err := syncDir(c.dir); err != nil {
		return err
	}
	old := c.path(c.number)
	c.number++
	if c.file != nil {
		_ = c.file.Close() // it is not needed any more
	}
	c.file, c.size, c.first = f, int64(len(record)), int64(len(record))
	c.metrics.full.Inc()
	if err := os.Remove(old); err != nil && !errors.Is(err, os.ErrNotExist) {
		c.log.Warn("old state of the event gateway cannot be removed", "file", old, "err", err)
	}
	return nil
}

func (c *checkpoints) close() error {
	var err error
	if c.file != nil {
		err = c.file.Close()
		c.file = nil
	}
	return errors.Join(err, c.lock.Release())
}

// syncDir makes renames in a directory durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
