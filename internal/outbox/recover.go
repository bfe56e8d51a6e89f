package outbox

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/thalweg/thalweg/internal/frame"
)

// Bounds for what is kept of corrupt files.
const (
	maxCorruptFiles = 8
	maxCorruptBytes = 64 << 20
)

// restore finds out what is in the directory. A file that is as long as the state file says is taken as it is: Open
// must be quick, and readers verify every frame. All others, and the newest in any case, are read.
func (o *Outbox) restore() error {
	files, err := o.fs.List()
	if err != nil {
		return fmt.Errorf("list files: %w", err)
	}
	slices.SortFunc(files, func(a, b FileInfo) int { return cmp.Compare(a.Name, b.Name) })
	saved, now := o.loadState(files), o.now()
	known := map[string]*group{}
	for i := range saved.Groups {
		if g := saved.Groups[i].group(now); g != nil {
			known[g.name] = g
		}
	}
	var found []FileInfo
	damaged := map[string]bool{} // and whether something else than a crash did it
	for _, f := range files {
		o.reserved = o.reserved || f.Name == reserveName && f.Size == reserveBytes
		name, evidence := strings.CutSuffix(f.Name, corruptSuffix)
		if ordinal, _, ok := parseGroupName(name); ok {
			o.ordinal = max(o.ordinal, ordinal+1)
			if !evidence {
				found = append(found, f)
			}
		}
		if strings.HasSuffix(f.Name, tmpSuffix) {
			o.remove(f.Name)
		}
	}
	for i, f := range found {
		old := known[f.Name]
		delete(known, f.Name)
		if old == nil || old.size != f.Size || i == len(found)-1 {
			var d *damage
			if old, d = o.examine(f, old); d != nil {
				damaged[f.Name] = !d.torn
			}
		}
		if old != nil {
			o.groups = append(o.groups, old)
		}
	}
	for _, sg := range saved.Groups {
		if g := known[sg.File]; g != nil {
			cause := CauseMissing
			if len(o.groups) == 0 || g.ordinal < o.groups[0].ordinal {
				cause = CauseDisk // evicted, and the disk was too full to write that down
			}
			lost := g.without(extent{})
			o.lose(cause, lost)
			o.spend(cause, g.storedBehind(extent{}), now)
			if len(lost) > 0 { // else it was deleted because it was done, and a crash kept that from being written down
				o.logger.Error("outbox file is missing", "file", g.name, "cause", string(cause), "rows", rows(lost))
			}
		}
	}
	o.cutUnaccepted()
	for _, f := range found {
		if corrupt, ok := damaged[f.Name]; ok {
			o.findHole(f.Name, corrupt, saved)
		}
	}
	o.adopt(saved)
	o.pruneCorrupt()
	o.logger.Info("outbox is open", "files", len(o.groups), "bytes", o.bytes, "last", o.last.ID.String(), "losses", len(o.losses))
	return nil
}

// findHole finds what a damaged file has lost that the state file does not know, or does not know to the end: what the next file
// counts as before it.
func (o *Outbox) findHole(name string, corrupt bool, saved *state) {
	ordinal, id, _ := parseGroupName(name)
	next := slices.IndexFunc(o.groups, func(g *group) bool { return g.ordinal > ordinal })
	if next < 0 || o.groups[next].ordinal != ordinal+1 || o.groups[next].epoch != id.Epoch {
		return // what follows is of other files, which may have been deleted in good order
	}
	from, rows, known := id.Number, uint64(0), id.Number == 1
	if next > 0 && o.groups[next-1].epoch == id.Epoch {
		if before := o.groups[next-1]; before.ordinal == ordinal || before.last+1 == from {
			from, rows, known = before.last+1, before.rowsAfter, true
		}
	}
	if i := slices.IndexFunc(saved.Groups, func(s stateGroup) bool { return s.File == name }); i >= 0 && saved.Groups[i].Last >= from {
		from, rows, known = saved.Groups[i].Last+1, saved.Groups[i].RowsAfter, true // the rest is announced by what is known
	}
	behind := o.groups[next]
	if from >= behind.first || rows >= behind.rowsBefore || !known && !corrupt {
		return // frames that were refused
	}
	loss := Range{Epoch: id.Epoch, From: from, To: behind.first - 1, FirstSent: behind.firstSent, LastSent: behind.firstSent}
	if known {
		loss.Rows = behind.rowsBefore - rows
	}
	o.lose(CauseCorrupt, []Range{loss})
}

// loadState returns what the state file says, or an empty state: then everything is read and sent again.
func (o *Outbox) loadState(files []FileInfo) *state {
	i := slices.IndexFunc(files, func(f FileInfo) bool { return f.Name == stateName })
	if i < 0 {
		return &state{}
	}
	s, err := o.readState(files[i].Size)
	if err == nil {
		return s
	}
	o.m.corruptFiles.Inc()
	o.logger.Error("outbox state is unreadable, everything is sent again", "file", stateName, "err", err)
	if err := o.fs.Rename(stateName, stateName+corruptSuffix); err != nil {
		o.logger.Error("outbox state cannot be put aside", "file", stateName, "err", err)
	}
	return &state{}
}

// examine reads a whole file and mends it if need be. It returns nil if no frame of it is left,
// and what was wrong with it. old is what the state
// file knows of it, or nil; what old has and the file has not is lost.
func (o *Outbox) examine(f FileInfo, old *group) (*group, *damage) {
	ordinal, id, _ := parseGroupName(f.Name)
	e, d, err := o.check(f.Name, f.Size, id)
	if err != nil {
		o.logger.Error("outbox file cannot be read", "file", f.Name, "err", err)
		if old != nil && old.size == f.Size {
			return old, nil // a reader will see
		}
		return nil, nil // the next Open may find more
	}
	g := &group{name: f.Name, ordinal: ordinal, extent: e, cut: d != nil && !d.torn}
	if old != nil {
		lost, stored := old.without(e), old.storedBehind(e)
		if len(lost)+len(stored) > 0 {
			cause := CauseMissing
			if d != nil {
				cause, d.torn = CauseCorrupt, false // it was whole once
			}
			o.lose(cause, lost)
			o.spend(cause, stored, o.now())
			g.cut = g.cut || len(lost) > 0
		}
		g.acked, g.grown = old.acked.remove(e.last+1, old.last), old.grown
	}
	if d != nil {
		o.mend(g, f.Size, d)
	}
	if e.size == 0 {
		return nil, d
	}
	return g, d
}

// check opens and verifies a file.
func (o *Outbox) check(name string, size int64, id frame.ID) (extent, *damage, error) {
	f, err := o.fs.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return extent{}, &damage{err: err}, nil
	}
	if err != nil {
		return extent{}, nil, err
	}
	defer f.Close()
	return verify(f, size, id)
}

// without returns what is neither in e, the beginning of g that is left, nor acknowledged. If something behind e was
// acknowledged and the state file does not say how many rows were not, each frame counts for as many as the others.
func (g *group) without(e extent) []Range {
	rest, ok := g.behind(e)
	if !ok {
		return nil
	}
	gaps := g.acked.gaps(rest.first, rest.last)
	if len(gaps) == 1 && gaps[0] == (span{rest.first, rest.last}) {
		return []Range{rest.asRange()}
	}
	all := g.acked.gaps(g.first, g.last)
	var ranges []Range
	for i, gap := range gaps {
		r := rest.part(gap)
		if j := len(all) - len(gaps) + i; len(g.savedRows) == len(all) && all[j] == gap {
			r.Rows = g.savedRows[j]
		}
		ranges = append(ranges, r)
	}
	return ranges
}

// storedBehind returns what is acknowledged and not in e, the beginning of g that is left.
func (g *group) storedBehind(e extent) []Range {
	rest, ok := g.behind(e)
	if !ok {
		return nil
	}
	var ranges []Range
	left := rest.rowsAfter - rest.rowsBefore
	for _, r := range g.without(e) {
		left -= min(left, r.Rows)
	}
	for _, a := range g.acked {
		if a.from = max(a.from, rest.first); a.from <= a.to {
			ranges = append(ranges, rest.part(a))
		}
	}
	if len(ranges) == 1 {
		ranges[0].Rows = left
	}
	return ranges
}

// behind is what of g comes behind e, its beginning; false if that is nothing.
func (g *group) behind(e extent) (extent, bool) {
	rest := g.extent
	if e.size > 0 {
		if e.last >= g.last {
			return rest, false
		}
		rest.first, rest.rowsBefore, rest.firstSent = e.last+1, e.rowsAfter, e.lastSent
		rest.size = max(0, g.size-e.size)
	}
	return rest, true
}

// part is some frames of e, of which each counts for as many rows as the others.
func (e *extent) part(s span) Range {
	rows, frames := e.rowsAfter-e.rowsBefore, e.frames()
	return Range{
		Epoch: e.epoch, From: s.from, To: s.to, Rows: (rows*(s.to-s.from+1) + frames - 1) / frames,
		FirstSent: e.firstSent, LastSent: e.lastSent,
	}
}

// mend cuts a file of a size behind the frames that g still has. What it cuts off is kept as evidence, unless a crash explains
// it. If the disk does not let it, the file stays as it is, and the rest of it is ignored.
func (o *Outbox) mend(g *group, size int64, d *damage) {
	var errs []error
	evidence := ""
	switch {
	case d.torn:
		o.m.tornFiles.Inc()
	case g.size == 0:
		evidence = g.name + corruptSuffix
		if err := o.fs.Rename(g.name, evidence); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	default:
		evidence = groupName(g.ordinal, frame.ID{Epoch: g.epoch, Number: g.last + 1}) + corruptSuffix
		errs = append(errs, o.copyRest(g.name, evidence, g.size, size))
	}
	switch {
	case g.size > 0:
		errs = append(errs, o.truncate(g.name, g.size))
	case d.torn:
		o.remove(g.name)
	}
	level, msg := o.logger.Warn, "outbox file was cut short by a crash"
	if !d.torn {
		o.m.corruptFiles.Inc()
		level, msg = o.logger.Error, "outbox file is corrupt"
	}
	level(msg, "file", g.name, "offset", g.size, "size", size, "kept_as", evidence, "err", errors.Join(append(errs, d.err)...))
}

// copyRest copies what of a file is behind offset, as far as it can be read.
func (o *Outbox) copyRest(from, to string, offset, size int64) error {
	src, err := o.fs.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := o.fs.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.NewOffsetWriter(dst, 0), io.NewSectionReader(src, offset, min(size-offset, maxCorruptBytes)))
	return errors.Join(err, dst.Close())
}

func (o *Outbox) truncate(name string, size int64) error {
	f, err := o.fs.Open(name)
	if err != nil {
		return err
	}
	err = f.Truncate(size)
	if err == nil && o.syncs() {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// cutUnaccepted removes frames at the end of a file that an Append wrote and then refused without being able to undo
// it: the next file of the epoch counts their rows again, which Append does not let accepted frames do.
func (o *Outbox) cutUnaccepted() {
	for i := len(o.groups) - 2; i >= 0; i-- {
		g, next := o.groups[i], o.groups[i+1]
		if g.epoch != next.epoch || g.rowsAfter <= next.rowsBefore {
			continue
		}
		keep := extent{}
		f, err := o.fs.Open(g.name)
		if err == nil {
			err = scan(f, 0, g.size, func(h *frame.Header, _ int64) bool {
				if h.RowsAfter() > next.rowsBefore {
					return false
				}
				keep.add(h)
				return true
			})
			_ = f.Close()
		}
		if err != nil {
			o.logger.Error("outbox file cannot be read", "file", g.name, "err", err)
			continue
		}
		size := g.size
		g.extent = keep
		o.mend(g, size, &damage{torn: true, err: errors.New("frames were refused when they were written")})
		if keep.size == 0 {
			o.groups = slices.Delete(o.groups, i, i+1)
		}
	}
}

// adopt completes what Open knows: sequence, sum, last frame, losses.
func (o *Outbox) adopt(saved *state) {
	now := o.now()
	for _, g := range o.groups {
		o.seq++
		g.seq = o.seq
		g.ackedAt, g.savedRows = now, nil
		if g.grown.IsZero() {
			g.grown = now
		}
		o.bytes += g.size
	}
	if g := o.newest(); g != nil {
		if f, err := o.fs.Open(g.name); err == nil {
			_ = scan(f, 0, g.size, func(h *frame.Header, _ int64) bool {
				o.last, o.lastIn = *h, g.ordinal
				return true
			})
			_ = f.Close()
		}
	}
	if l := saved.Last; l != nil && (o.last.Number == 0 || l.Ordinal > o.lastIn || l.Ordinal == o.lastIn && l.Number > o.last.Number) {
		o.lastIn = l.Ordinal
		o.last = frame.Header{
			Kind: frame.Kind(l.Kind), ID: frame.ID{Epoch: frame.Epoch(l.Epoch), Number: l.Number}, Base: l.Base,
			RowsBefore: l.RowsBefore, Rows: l.Rows, Sent: l.Sent, Size: l.Size,
		}
		o.ordinal = max(o.ordinal, l.Ordinal+1)
	}
	o.attempted = o.last.ID
	for _, epoch := range saved.Epochs {
		o.remember(frame.Epoch(epoch))
	}
	for _, g := range o.groups {
		o.remember(g.epoch)
	}
	var losses []Loss
	for _, l := range saved.Losses {
		loss := l.loss()
		if l.Told && slices.ContainsFunc(o.groups, func(g *group) bool { return g.ordinal == l.In }) {
			o.told = append(o.told, toldLoss{loss, l.In})
		} else {
			losses = append(losses, loss)
		}
	}
	o.losses = append(losses, o.losses...)
	var kept []spent
	for i := range saved.Spent {
		s := &saved.Spent[i]
		kept = append(kept, spent{s.loss(), now.Add(-time.Duration(max(0, s.AgeMs)) * time.Millisecond)})
	}
	o.spent = append(kept, o.spent...)
	for lane, t := range saved.Tips {
		o.tips[lane] = Tip{frame.ID{Epoch: frame.Epoch(t.Epoch), Number: t.Number}, t.Sequence, t.Doubtful}
	}
	o.dirty = true
}

// repair is what a reader calls who met something else than the frames that should be in a file.
func (o *Outbox) repair(g *group, cause error) error {
	o.write.Lock()
	defer o.write.Unlock()
	if !o.has(g) {
		return nil
	}
	e, d, err := o.check(g.name, g.size, frame.ID{Epoch: g.epoch, Number: g.first})
	if err != nil {
		return fmt.Errorf("verify outbox file %q: %w", g.name, err)
	}
	if d == nil {
		return fmt.Errorf("read outbox file %q, which is whole when read again: %w", g.name, cause)
	}
	lossCause := CauseCorrupt
	if errors.Is(d.err, fs.ErrNotExist) {
		lossCause = CauseMissing
	}
	d.torn = false // it was whole once
	newest := g == o.newest()
	if newest {
		o.endTail()
	}
	o.mu.Lock()
	size := g.size
	o.lose(lossCause, g.without(e))
	o.spend(lossCause, g.storedBehind(e), g.ackedAt)
	o.settleTold(g.ordinal, true)
	o.bytes -= size - e.size
	g.acked = g.acked.remove(e.last+1, g.last)
	g.cut = true
	if e.size > 0 {
		g.extent = e
	} else {
		g.size = 0
		o.forget(g)
	}
	o.mu.Unlock()
	o.mend(g, size, d)
	o.pruneCorrupt()
	if newest {
		return o.save() // the name of the last frame must outlive the frame
	}
	return nil
}

// pruneCorrupt deletes the oldest evidence.
func (o *Outbox) pruneCorrupt() {
	files, err := o.fs.List()
	if err != nil {
		o.logger.Error("outbox files cannot be listed", "err", err)
		return
	}
	files = slices.DeleteFunc(files, func(f FileInfo) bool { return !strings.HasSuffix(f.Name, corruptSuffix) })
	slices.SortFunc(files, func(a, b FileInfo) int { return cmp.Compare(b.Name, a.Name) })
	total := int64(0)
	for i, f := range files {
		total += f.Size
		if i >= maxCorruptFiles || total > maxCorruptBytes {
			o.remove(f.Name)
		}
	}
}
