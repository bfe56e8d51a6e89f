package identity

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nkeys"
)

// RevokedFile is a list of revoked keys in a file of its own, one line each: key, site, time. It is only ever added to,
// by what the registry says, so that an older copy of the registry makes no key valid again. The text may be edited
// while nobody uses it.
type RevokedFile struct {
	path string

	mu   sync.RWMutex
	keys map[string]bool
	torn bool // its last line has no end
}

// OpenRevoked reads the file, which need not be there. Lines that are no revocation are logged and left alone.
func OpenRevoked(path string, log *slog.Logger) (*RevokedFile, error) {
	l := &RevokedFile{path: path, keys: map[string]bool{}}
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read revoked keys: %w", err)
	}
	l.torn = len(text) > 0 && text[len(text)-1] != '\n'
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		key, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case key == "" || key[0] == '#':
		case nkeys.IsValidPublicUserKey(key):
			l.keys[key] = true
		default:
			log.Error("line is no revoked key", "file", path, "line", n)
		}
	}
	return l, nil
}

// Has reports whether a key is revoked.
func (l *RevokedFile) Has(public string) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.keys[public]
}

// Add notes a key, which is revoked then even if the error says that this will not outlive the process.
func (l *RevokedFile) Add(site, public string, at time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.keys[public] {
		return nil
	}
	l.keys[public] = true
	line := fmt.Sprintf("%s %s %s\n", public, site, at.UTC().Format(time.RFC3339))
	if l.torn { // by a crash
		line = "\n" + line
	}
	if err := l.append(line); err != nil {
		l.torn = true // perhaps
		return fmt.Errorf("keep revoked key %s of site %q: %w", public, site, err)
	}
	l.torn = false
	return nil
}

func (l *RevokedFile) append(line string) error {
	if err := os.MkdirAll(filepath.Dir(l.path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return syncDir(filepath.Dir(l.path))
}
