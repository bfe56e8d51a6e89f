package edge

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	clearFile = "pseudonyms"
	// maxClear bounds the values in a file. When there are more it becomes the older one, and the one before is deleted.
	maxClear = 50_000
)

// ClearValue is a value of a label that left the site as a pseudonym.
type ClearValue struct{ Label, Value string }

// ClearValues keeps the values behind the pseudonyms of a site, in files that only the user of the process can read, for
// "thalweg reveal". It holds values, no pseudonyms: whoever has the key can work those out. Safe for concurrent use.
type ClearValues struct {
	dir string
	log *slog.Logger

	held                 prometheus.GaugeFunc
	evicted, writeErrors prometheus.Counter

	mu             sync.Mutex
	current, older map[ClearValue]bool
	pending        []ClearValue // not yet in the file
}

// OpenClearValues reads what is there in a directory. What cannot be read is logged, and collected anew.
func OpenClearValues(dir string, log *slog.Logger) *ClearValues {
	c := &ClearValues{dir: dir, log: log, current: map[ClearValue]bool{}, older: map[ClearValue]bool{}}
	for name, values := range map[string]map[ClearValue]bool{clearFile: c.current, clearFile + ".old": c.older} {
		list, err := readClear(filepath.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			log.Warn("values behind pseudonyms cannot be read", "err", err)
		}
		for _, v := range list {
			values[v] = true
		}
	}
	c.held = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "thalweg_edge_clear_values", Help: "Values behind pseudonyms that are kept for thalweg reveal.",
	}, func() float64 {
		c.mu.Lock()
		defer c.mu.Unlock()
		return float64(len(c.current) + len(c.older))
	})
	c.evicted = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "thalweg_edge_clear_values_evicted_total", Help: "Values behind pseudonyms that were forgotten because there were too many.",
	})
	c.writeErrors = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "thalweg_edge_clear_values_write_errors_total", Help: "Attempts to write values behind pseudonyms that failed and are repeated.",
	})
	return c
}

// Metrics to register.
func (c *ClearValues) Metrics() []prometheus.Collector {
	return []prometheus.Collector{c.held, c.evicted, c.writeErrors}
}

// Add takes a value up, which Save writes.
func (c *ClearValues) Add(label, value string) {
	v := ClearValue{label, value}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current[v] || c.older[v] {
		return
	}
	if len(c.current) >= 2*maxClear { // nothing could be written for long
		c.evicted.Inc()
		return
	}
	c.current[v] = true
	c.pending = append(c.pending, v)
}

// Save writes what is new. It reports whether older values were forgotten, those in use among them: who calls it adds
// these again.
func (c *ClearValues) Save() (forgotten bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pending) == 0 {
		return false
	}
	path := filepath.Join(c.dir, clearFile)
	err := appendClear(path, c.pending)
	if err == nil {
		c.pending = nil
		if len(c.current) < maxClear {
			return false
		}
		if err = os.Rename(path, path+".old"); err == nil {
			c.evicted.Add(float64(len(c.older)))
			c.current, c.older = map[ClearValue]bool{}, c.current
			return true
		}
	}
	c.writeErrors.Inc()
	c.log.Warn("values behind pseudonyms cannot be written; trying again", "err", err)
	return false
}

func appendClear(path string, values []ClearValue) error {
	var b bytes.Buffer
	b.WriteByte('\n') // behind what was perhaps not written to its end
	encoder := json.NewEncoder(&b)
	for _, v := range values {
		if err := encoder.Encode([2]string{v.Label, v.Value}); err != nil {
			return fmt.Errorf("encode value of %q: %w", v.Label, err)
		}
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b.Bytes())
	return errors.Join(err, f.Close())
}

// ReadClearValues returns the values behind the pseudonyms of a site, from its data directory; none if there is no file.
func ReadClearValues(dir string) ([]ClearValue, error) {
	var all []ClearValue
	for _, name := range []string{clearFile + ".old", clearFile} {
		list, err := readClear(filepath.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		all = append(all, list...)
	}
	return all, nil
}

// readClear returns the values of a file. A line that is none, such as one that was not written to its end, is left out.
func readClear(path string) (list []ClearValue, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var v [2]string
		if json.Unmarshal(lines.Bytes(), &v) == nil {
			list = append(list, ClearValue{v[0], v[1]})
		}
	}
	if err := lines.Err(); err != nil {
		return list, fmt.Errorf("read %q: %w", path, err)
	}
	return list, nil
}
