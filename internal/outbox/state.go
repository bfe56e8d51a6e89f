package outbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
	"time"

	"github.com/thalweg/thalweg/internal/frame"
)

const (
	stateName = "state.json"
	tmpSuffix = ".tmp"

	// stateInterval is how much knowledge of acknowledgements a crash may cost.
	stateInterval = 5 * time.Second
	maxStateBytes = 64 << 20
)

// stateFile is the content of the state file. The checksum, CRC32C in hexadecimal, is of the state as it stands there:
// a changed digit could make the outbox delete what nobody has.
type stateFile struct {
	Checksum string          `json:"checksum"`
	State    json.RawMessage `json:"state"`
}

type state struct {
	Last   *stateLast   `json:"last,omitempty"`
	Groups []stateGroup `json:"groups,omitempty"`
	Losses []stateLoss  `json:"losses,omitempty"`
	Spent  []stateSpent `json:"spent,omitempty"`
	// Tips by lane.
	Tips map[string]stateTip `json:"tips,omitempty"`
	// Epochs of the past, oldest first.
	Epochs []hexEpoch `json:"epochs,omitempty"`
}

type stateTip struct {
	Epoch    hexEpoch `json:"epoch"`
	Number   uint64   `json:"number"`
	Sequence uint64   `json:"sequence"`
	Doubtful bool     `json:"doubtful,omitempty"`
}

// stateLast is the header of the newest frame ever stored, and the ordinal of its file.
type stateLast struct {
	Ordinal    uint64   `json:"ordinal"`
	Kind       uint8    `json:"kind"`
	Epoch      hexEpoch `json:"epoch"`
	Number     uint64   `json:"number"`
	Base       uint64   `json:"base"`
	RowsBefore uint64   `json:"rows_before"`
	Rows       uint32   `json:"rows"`
	Sent       int64    `json:"sent"`
	Size       int      `json:"size"`
}

// stateGroup saves Open from reading a file that has not changed, and says what the server has of it.
type stateGroup struct {
	File       string      `json:"file"`
	Size       int64       `json:"size"`
	Last       uint64      `json:"last"`
	RowsBefore uint64      `json:"rows_before"`
	RowsAfter  uint64      `json:"rows_after"`
	FirstSent  int64       `json:"first_sent"`
	LastSent   int64       `json:"last_sent"`
	AgeMs      int64       `json:"age_ms"` // how long ago the newest frame came, as far as the outbox was open
	Acked      [][2]uint64 `json:"acked,omitempty"`
	Unacked    []uint64    `json:"unacked_rows,omitempty"` // rows of what is before, between and behind Acked
}

type stateLoss struct {
	Cause     Cause    `json:"cause"`
	Epoch     hexEpoch `json:"epoch"`
	From      uint64   `json:"from"`
	To        uint64   `json:"to"`
	Rows      uint64   `json:"rows"`
	Bytes     int64    `json:"bytes"`
	FirstSent int64    `json:"first_sent"`
	LastSent  int64    `json:"last_sent"`
	Told      bool     `json:"told,omitempty"` // by a frame in the file with the ordinal In
	In        uint64   `json:"in,omitempty"`
}

// stateSpent is what the server has and the outbox dropped.
type stateSpent struct {
	stateLoss
	AgeMs int64 `json:"age_ms"` // since the acknowledgement
}

// loss is the reverse of newStateLoss.
func (l *stateLoss) loss() Loss {
	return Loss{Cause: l.Cause, Range: Range{
		Epoch: frame.Epoch(l.Epoch), From: l.From, To: l.To, Rows: l.Rows, Bytes: l.Bytes,
		FirstSent: l.FirstSent, LastSent: l.LastSent,
	}}
}

// newStateLoss describes a loss.
func newStateLoss(l *Loss) stateLoss {
	return stateLoss{
		Cause: l.Cause, Epoch: hexEpoch(l.Epoch), From: l.From, To: l.To, Rows: l.Rows, Bytes: l.Bytes,
		FirstSent: l.FirstSent, LastSent: l.LastSent,
	}
}

// hexEpoch is an epoch as file names and logs spell it.
type hexEpoch frame.Epoch

func (e hexEpoch) MarshalText() ([]byte, error) { return []byte(frame.Epoch(e).String()), nil }

func (e *hexEpoch) UnmarshalText(b []byte) error {
	n, err := strconv.ParseUint(string(b), 16, 64)
	*e = hexEpoch(n)
	return err
}

// group rebuilds the group of a file with a valid name, or returns nil if this is not of one.
func (s *stateGroup) group(now time.Time) *group {
	ordinal, id, ok := parseGroupName(s.File)
	if !ok || s.Size < frame.HeaderSize || s.Last < id.Number || s.RowsAfter < s.RowsBefore {
		return nil
	}
	g := &group{name: s.File, ordinal: ordinal, extent: extent{
		epoch: id.Epoch, first: id.Number, last: s.Last, rowsBefore: s.RowsBefore, rowsAfter: s.RowsAfter,
		firstSent: s.FirstSent, lastSent: s.LastSent, size: s.Size,
	}, grown: now.Add(-time.Duration(max(0, s.AgeMs)) * time.Millisecond), savedRows: s.Unacked}
	for _, a := range s.Acked {
		if from, to := max(a[0], g.first), min(a[1], g.last); from <= to {
			g.acked = g.acked.add(from, to)
		}
	}
	return g
}

// partlyAcked returns copies of the groups of which a part is acknowledged, by name, with the rows of the rest. It reads
// headers.
func (o *Outbox) partlyAcked() map[string]*group {
	parts := map[string]*group{}
	o.mu.Lock()
	for _, g := range o.groups {
		if len(g.acked) > 0 && !g.done() {
			c := *g
			c.acked = slices.Clone(g.acked)
			parts[g.name] = &c
		}
	}
	o.mu.Unlock()
	for _, c := range parts {
		c.savedRows = nil
		for _, r := range o.unackedIn(c) {
			c.savedRows = append(c.savedRows, r.Rows)
		}
	}
	return parts
}

// snapshot is what save writes.
func (o *Outbox) snapshot() *state {
	parts := o.partlyAcked()
	o.mu.Lock()
	defer o.mu.Unlock()
	s := &state{}
	if h := &o.last; h.Number != 0 {
		s.Last = &stateLast{
			Ordinal: o.lastIn, Kind: uint8(h.Kind), Epoch: hexEpoch(h.Epoch), Number: h.Number, Base: h.Base,
			RowsBefore: h.RowsBefore, Rows: h.Rows, Sent: h.Sent, Size: h.Size,
		}
	}
	for _, epoch := range o.past {
		s.Epochs = append(s.Epochs, hexEpoch(epoch))
	}
	now := o.now()
	for _, g := range o.groups {
		sg := stateGroup{
			File: g.name, Size: g.size, Last: g.last, RowsBefore: g.rowsBefore, RowsAfter: g.rowsAfter,
			FirstSent: g.firstSent, LastSent: g.lastSent, AgeMs: now.Sub(g.grown).Milliseconds(),
		}
		for _, a := range g.acked {
			sg.Acked = append(sg.Acked, [2]uint64{a.from, a.to})
		}
		if c := parts[g.name]; c != nil && c.last == g.last && slices.Equal(c.acked, g.acked) {
			sg.Unacked = c.savedRows
		}
		s.Groups = append(s.Groups, sg)
	}
	for i := range o.losses {
		s.Losses = append(s.Losses, newStateLoss(&o.losses[i]))
	}
	for i := range o.told {
		l := newStateLoss(&o.told[i].Loss)
		l.Told, l.In = true, o.told[i].in
		s.Losses = append(s.Losses, l)
	}
	for i := range o.spent {
		s.Spent = append(s.Spent, stateSpent{newStateLoss(&o.spent[i].Loss), now.Sub(o.spent[i].at).Milliseconds()})
	}
	if len(o.tips) > 0 {
		s.Tips = make(map[string]stateTip, len(o.tips))
		for lane, t := range o.tips {
			s.Tips[lane] = stateTip{hexEpoch(t.Epoch), t.Number, t.Sequence, t.Doubtful}
		}
	}
	o.dirty = false
	return s
}

// save replaces the state file, for which the reserve makes room on a full disk. The caller holds write.
func (o *Outbox) save() error {
	s := o.snapshot()
	err := o.writeState(s)
	if diskFull(err) && o.spendReserve() {
		err = o.writeState(s)
	}
	if err == nil {
		return nil
	}
	o.mu.Lock()
	o.dirty = true
	o.mu.Unlock()
	o.m.stateErrors.Inc()
	return fmt.Errorf("save state of outbox: %w", err)
}

func (o *Outbox) writeState(s *state) error {
	raw, err := json.Marshal(s)
	if err != nil {
		return err
	}
	data, err := json.Marshal(stateFile{Checksum: stateChecksum(raw), State: raw})
	if err != nil {
		return err
	}
	if err := o.writeFile(stateName+tmpSuffix, data); err != nil {
		return err
	}
	if err := o.fs.Rename(stateName+tmpSuffix, stateName); err != nil {
		return err
	}
	if o.syncs() {
		return o.fs.Sync()
	}
	return nil
}

func (o *Outbox) writeFile(name string, data []byte) error {
	f, err := o.fs.Create(name)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	if err == nil && o.syncs() {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func stateChecksum(raw []byte) string {
	return fmt.Sprintf("%08x", crc32.Checksum(raw, crc32.MakeTable(crc32.Castagnoli)))
}

// readState reads a state file of a size.
func (o *Outbox) readState(size int64) (*state, error) {
	if size > maxStateBytes {
		return nil, fmt.Errorf("it has %d bytes, want at most %d", size, maxStateBytes)
	}
	f, err := o.fs.Open(stateName)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data := make([]byte, size)
	if err := readFull(f, data, 0); err != nil {
		return nil, err
	}
	var file stateFile
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, err
	}
	if got := stateChecksum(file.State); got != file.Checksum {
		return nil, fmt.Errorf("checksum does not match: computed %s, it says %q", got, file.Checksum)
	}
	s := &state{}
	if err := json.Unmarshal(file.State, s); err != nil {
		return nil, err
	}
	return s, nil
}
