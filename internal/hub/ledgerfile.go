package hub

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/lane"
)

// ledgerFile is the name of the file with the ledgers: JSON lines, the first about all sites, one for each site, the
// last a checksum of those before. It is replaced as a whole. What it lacks after a kill is read from the stream.
const ledgerFile = "ledgers"

type ledgersHead struct {
	Version  int          `json:"version"`
	Parts    Parts        `json:"parts"`
	Since    int64        `json:"since"`
	Until    int64        `json:"until"`
	Position bus.Position `json:"position,omitzero"`
	Sites    int          `json:"sites"`
}

type ledgerLine struct {
	Site   string           `json:"site"`
	Came   int64            `json:"came"`
	Ledger lane.LedgerState `json:"ledger"`
}

type ledgersTail struct {
	Checksum uint32 `json:"crc32c"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// save replaces the file in dir.
func (l *ledgers) save(dir string, parts Parts) error {
	data := l.encode(parts)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("save ledgers: %w", err)
	}
	path := filepath.Join(dir, ledgerFile)
	if err := replaceFile(path, data); err != nil {
		return fmt.Errorf("save ledgers %q: %w", path, err)
	}
	return nil
}

func (l *ledgers) encode(parts Parts) []byte {
	l.mu.Lock()
	head := ledgersHead{Version: 1, Parts: parts, Since: l.since, Until: l.until, Position: l.position, Sites: len(l.sites)}
	lines := make([]ledgerLine, 0, len(l.sites))
	for name, s := range l.sites {
		lines = append(lines, ledgerLine{name, s.came, s.State()})
	}
	l.mu.Unlock()
	var b bytes.Buffer
	put := func(x any) {
		line, err := json.Marshal(x)
		if err != nil {
			panic("BUG: hub: encode ledgers: " + err.Error())
		}
		b.Write(line)
		b.WriteByte('\n')
	}
	put(head)
	for i := range lines {
		put(&lines[i])
	}
	put(ledgersTail{crc32.Checksum(b.Bytes(), castagnoli)})
	return b.Bytes()
}

// replaceFile writes a file that is either the old or the new one, whatever happens meanwhile.
func replaceFile(path string, data []byte) error {
	f, err := os.Create(path + ".new")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes the names in a directory outlive a power loss.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// load reads the file in dir; none is no error. After an error the ledgers are empty. Sites of other parts than those
// given are left out; with parts that the file does not cover, all of it is, since nothing of them was read.
func (l *ledgers) load(dir string, parts Parts) error {
	path := filepath.Join(dir, ledgerFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("load ledgers: %w", err)
	}
	head, lines, err := decodeLedgers(data)
	if err != nil {
		return fmt.Errorf("load ledgers %q: %w", path, err)
	}
	if parts&^head.Parts != 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.since, l.until, l.position = head.Since, head.Until, head.Position
	for _, x := range lines {
		if parts.Has(uint32(bus.PartOf(x.Site))) {
			s := &siteLedger{Ledger: lane.LedgerFrom(x.Ledger), came: x.Came}
			s.told = s.Missing()
			l.sites[x.Site] = s
		}
	}
	return nil
}

func decodeLedgers(data []byte) (head ledgersHead, lines []ledgerLine, err error) {
	last := bytes.LastIndexByte(bytes.TrimSuffix(data, []byte{'\n'}), '\n') + 1
	var tail ledgersTail
	if err := json.Unmarshal(data[last:], &tail); err != nil {
		return head, nil, fmt.Errorf("checksum: %w", err)
	}
	if got := crc32.Checksum(data[:last], castagnoli); got != tail.Checksum {
		return head, nil, fmt.Errorf("checksum is %08x, the file says %08x", got, tail.Checksum)
	}
	r := bufio.NewReader(bytes.NewReader(data[:last]))
	d := json.NewDecoder(r)
	if err := d.Decode(&head); err != nil {
		return head, nil, fmt.Errorf("head: %w", err)
	}
	if head.Version != 1 {
		return head, nil, fmt.Errorf("version is %d, want 1", head.Version)
	}
	for i := range head.Sites {
		var line ledgerLine
		if err := d.Decode(&line); err != nil {
			return head, nil, fmt.Errorf("site %d of %d: %w", i+1, head.Sites, err)
		}
		lines = append(lines, line)
	}
	return head, slices.Clip(lines), nil
}
