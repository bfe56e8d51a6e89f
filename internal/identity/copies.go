package identity

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/thalweg/thalweg/internal/bus"
)

const copySuffix = ".json"

// Copies are the records in files of a server's own, one for each site. A registry that was lost, or is an older one that
// was restored, becomes whole again by them: otherwise all sites would have to join anew. They hold nothing secret.
type Copies struct{ dir string }

// NewCopies keeps them in a directory, which is made when it is needed.
func NewCopies(dir string) *Copies { return &Copies{dir} }

func (c *Copies) file(site string) string { return filepath.Join(c.dir, site+copySuffix) }

// Keep writes a record, unless a newer one is there. A record that was deleted takes its copy with it.
func (c *Copies) Keep(r *Record) error {
	if r.deleted {
		if err := os.Remove(c.file(r.Site)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove copy of a record: %w", err)
		}
		return nil
	}
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("keep copy of the record of site %q: %w", r.Site, err)
	}
	old, err := os.ReadFile(c.file(r.Site))
	if err == nil && bytes.Equal(old, text) {
		return nil
	}
	if kept, err := parseCopy(r.Site, old); err == nil && kept.Version > r.Version {
		return nil
	}
	if err := writeFile(c.file(r.Site), text); err != nil {
		return fmt.Errorf("keep copy of the record of site %q: %w", r.Site, err)
	}
	return nil
}

// All reads the records. The error is about those that cannot be read.
func (c *Copies) All() ([]*Record, error) {
	entries, err := os.ReadDir(c.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read copies of records: %w", err)
	}
	var all []*Record
	var errs []error
	for _, e := range entries {
		site, ok := strings.CutSuffix(e.Name(), copySuffix)
		if !ok || bus.ValidSite(site) != nil {
			continue // what a crash has left of a file, or somebody else's
		}
		text, err := os.ReadFile(c.file(site))
		if err == nil {
			var r *Record
			if r, err = parseCopy(site, text); err == nil {
				all = append(all, r)
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("read copy of a record: %w", err))
		}
	}
	return all, errors.Join(errs...)
}

func parseCopy(site string, text []byte) (*Record, error) {
	r := &Record{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("site %q: %w", site, err)
	}
	if r.Site != site {
		return nil, fmt.Errorf("site %q: the record is of site %q", site, r.Site)
	}
	return r, nil
}

// writeFile replaces a file that only its owner can read. After a crash it is the old one or the new one.
func writeFile(file string, text []byte) error {
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, filepath.Base(file)+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
