package outbox

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"
)

const (
	maxLosses = 1024
	maxDebris = 16
)

// Cause says why frames went away before the server had stored them.
type Cause string

const (
	CauseSize    Cause = "size"    // max_bytes
	CauseAge     Cause = "age"     // max_age
	CauseDisk    Cause = "disk"    // the disk was full
	CauseCorrupt Cause = "corrupt" // the file held something else
	CauseMissing Cause = "missing" // the file was not there, or was shorter, at Open

	// Of losses that the outbox is told of, see Lose.
	CauseUnwritten Cause = "unwritten" // Append refused the frames
	CauseOversize  Cause = "oversize"  // the server does not take the frame
)

// causes are those of the metrics: why the outbox itself lost something.
var causes = [...]Cause{CauseSize, CauseAge, CauseDisk, CauseCorrupt, CauseMissing}

// Loss is a range of frames that no hub will get.
type Loss struct {
	Range
	Cause Cause
}

// Losses returns the losses that have not been announced, oldest first. They survive a restart. There are at most
// 1024; if nobody announces them the oldest are forgotten.
func (o *Outbox) Losses() []Loss {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.shown = len(o.losses)
	return slices.Clone(o.losses)
}

// toldLoss is a loss of which a frame tells that the server is not known to have, and the ordinal of its file. Should
// that be lost as well, so is the announcement.
type toldLoss struct {
	Loss
	in uint64
}

// Announced takes the first n of what Losses last returned for announced: a frame that tells of them has been appended.
// They are losses again if that frame is lost in its turn.
func (o *Outbox) Announced(n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n = min(n, o.shown)
	if len(o.groups) > 0 {
		in := o.groups[len(o.groups)-1].ordinal
		for _, l := range o.losses[:n] {
			o.told = append(o.told, toldLoss{l, in})
		}
		o.told = o.told[max(0, len(o.told)-maxLosses):]
	}
	o.losses = slices.Delete(o.losses, 0, n)
	o.shown -= n
	o.dirty = true
}

// settleTold is for a file that goes, or a part of it: with lost set, what it told of has to be told again, and else if the
// server loses it. The caller holds mu.
func (o *Outbox) settleTold(ordinal uint64, lost bool) {
	var again []Loss
	o.told = slices.DeleteFunc(o.told, func(t toldLoss) bool {
		if t.in == ordinal {
			again = append(again, t.Loss)
		}
		return t.in == ordinal
	})
	if lost {
		o.losses = slices.Insert(o.losses, o.shown, again...)
		o.boundLosses()
		return
	}
	for _, l := range again {
		o.keepSpent(spent{l, o.now()})
	}
}

// Lose notes a loss of which the outbox cannot know, CauseUnwritten or CauseOversize: it is announced, and kept, as the
// outbox's own ones are.
func (o *Outbox) Lose(l Loss) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.note(l)
}

// lose notes and counts what the outbox itself has lost. The caller holds mu.
func (o *Outbox) lose(cause Cause, ranges []Range) {
	for _, r := range ranges {
		o.m.lostFrames.WithLabelValues(string(cause)).Add(float64(r.To - r.From + 1))
		o.m.lostRows.WithLabelValues(string(cause)).Add(float64(r.Rows))
		if cause == CauseSize || cause == CauseAge || cause == CauseDisk {
			o.dropped += r.Rows
		}
		o.note(Loss{Range: r, Cause: cause})
	}
}

// note adds a loss to those that are to be announced. The caller holds mu.
func (o *Outbox) note(l Loss) {
	o.dirty = true
	if n := len(o.losses); n > o.shown && o.losses[n-1].extend(&l) {
		return
	}
	o.losses = append(o.losses, l)
	o.boundLosses()
}

// extend takes over a loss that comes right behind l and is of the same cause.
func (l *Loss) extend(next *Loss) bool {
	to := next.To
	switch {
	case l.Cause != next.Cause:
		return false
	case l.Epoch == next.Epoch && l.To+1 == next.From:
	case l.Epoch != next.Epoch && next.From == 1 && next.Cause == CauseUnwritten:
		to += l.To // of an epoch of which no frame was stored: as good as one of the epoch before it
	default:
		return false
	}
	l.To, l.LastSent = to, next.LastSent
	l.Rows, l.Bytes = l.Rows+next.Rows, l.Bytes+next.Bytes
	return true
}

// boundLosses forgets the oldest losses if there are too many. The caller holds mu.
func (o *Outbox) boundLosses() {
	if n := len(o.losses) - maxLosses; n > 0 {
		o.losses = slices.Delete(o.losses, 0, n)
		o.shown = max(o.shown-n, 0)
		o.m.lossesForgotten.Add(float64(n))
	}
}

// Expire deletes the files that were acknowledged a resend_window ago, and those older than max_age; and it saves the
// state, at most every 5 s. Call it about once a second. An error says what did not work; it is tried again next time.
func (o *Outbox) Expire(now time.Time) error {
	o.write.Lock()
	defer o.write.Unlock()
	if o.closed {
		return ErrClosed
	}
	o.clearDebris()
	o.keepReserve()
	done, old, behind := o.expired(now)
	var errs []error
	// What is deleted must be known to be done, or the next Open takes it for missing.
	if behind && (len(done) > 0 || now.Sub(o.saved).Abs() >= stateInterval) {
		if err := o.save(); err != nil {
			return err
		}
		o.saved = now
	}
	for _, g := range done {
		errs = append(errs, o.drop(g, ""))
	}
	for _, g := range old {
		errs = append(errs, o.drop(g, CauseAge))
	}
	return errors.Join(errs...)
}

// expired returns what can go at a time, and whether the state file is behind. The newest group stays as long as it
// may grow.
func (o *Outbox) expired(now time.Time) (done, old []*group, behind bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.forgetSpent(now)
	window := time.Duration(o.config.ResendWindow)
	for i, g := range o.groups {
		if o.tail != nil && i == len(o.groups)-1 {
			break
		}
		if now.Before(g.ackedAt) {
			g.ackedAt = now // the clock was set back
		}
		if now.Before(g.grown) {
			g.grown = now
		}
		switch {
		case g.done() && now.Sub(g.ackedAt) >= window:
			done = append(done, g)
		case now.Sub(g.grown) > time.Duration(o.config.MaxAge):
			old = append(old, g)
		}
	}
	return done, old, o.dirty
}

// makeRoom evicts until the segments fit into max_bytes.
func (o *Outbox) makeRoom(segments []segment) error {
	limit := int64(o.config.MaxBytes)
	grows := segments[0].grows != nil
	if size := segments[0].size; grows && size > limit/2 {
		return fmt.Errorf("file %q would have %d bytes, more than half of max_bytes", segments[0].name, size)
	}
	need := int64(0)
	for i := range segments {
		need += segments[i].size - segments[i].offset
	}
	if need > limit {
		return fmt.Errorf("%d bytes are more than max_bytes, %d", need, limit)
	}
	for {
		o.mu.Lock()
		fits := o.bytes+need <= limit && len(o.groups)+len(segments) <= maxGroups
		o.mu.Unlock()
		if fits {
			return nil
		}
		if err := o.evictOldest(CauseSize, grows); err != nil {
			return err
		}
	}
}

// evictOldest deletes the oldest file, or rather the oldest of which the server has everything if there is one.
func (o *Outbox) evictOldest(cause Cause, keepNewest bool) error {
	o.mu.Lock()
	candidates := o.groups
	if keepNewest && len(candidates) > 0 {
		candidates = candidates[:len(candidates)-1]
	}
	var victim *group
	if i := slices.IndexFunc(candidates, (*group).done); i >= 0 {
		victim = candidates[i]
	} else if len(candidates) > 0 {
		victim = candidates[0]
	}
	o.mu.Unlock()
	if victim == nil {
		return fmt.Errorf("nothing is left to evict for lack of room (%s)", cause)
	}
	return o.drop(victim, cause)
}

// drop deletes the file of a group. What was not acknowledged of it is lost to cause; without a cause, only a group
// that is done is deleted. The caller holds write.
func (o *Outbox) drop(g *group, cause Cause) error {
	late := false
	if g == o.newest() {
		// The name of the last frame must outlive the frame. On a full disk without a reserve the file has to make room
		// for it first: only a kill in between costs the name.
		err := o.save()
		if late = err != nil && diskFull(err); err != nil && !late {
			return err
		}
		o.endTail()
	}
	o.mu.Lock()
	c := *g
	c.acked = slices.Clone(g.acked)
	o.mu.Unlock()
	if cause == "" && !c.done() {
		return nil // Unack came in between
	}
	ranges := o.unackedIn(&c)
	var stored []Range
	if cause != "" {
		stored = o.ackedIn(&c)
	}
	if err := o.fs.Remove(g.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete outbox file: %w", err)
	}
	o.mu.Lock()
	o.forget(g)
	o.lose(cause, ranges)
	o.spend(cause, stored, c.ackedAt)
	o.settleTold(g.ordinal, len(ranges) > 0)
	o.mu.Unlock()
	if late {
		_ = o.save() // counted, and tried again by Expire
	}
	if cause != "" {
		o.m.evictedFrames.WithLabelValues(string(cause)).Add(float64(c.frames()))
	}
	if len(ranges) > 0 {
		o.logger.Warn("outbox file evicted before it was sent", "file", g.name, "cause", string(cause),
			"epoch", g.epoch.String(), "from", ranges[0].From, "to", ranges[len(ranges)-1].To,
			"rows", rows(ranges), "first_sent", time.UnixMilli(g.firstSent).UTC())
	}
	return nil
}

// forget takes g out of the list. The caller holds mu.
func (o *Outbox) forget(g *group) {
	if i := slices.Index(o.groups, g); i >= 0 {
		o.groups = slices.Delete(o.groups, i, i+1)
		o.bytes -= g.size
		o.dirty = true
	}
}

// has reports whether g is still there.
func (o *Outbox) has(g *group) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Contains(o.groups, g)
}

func rows(ranges []Range) (n uint64) {
	for _, r := range ranges {
		n += r.Rows
	}
	return n
}

// remove deletes a file that is of no use, now or later.
func (o *Outbox) remove(name string) {
	if err := o.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		o.debris = append(o.debris, name)
	}
}

// clearDebris deletes what could not be deleted before.
func (o *Outbox) clearDebris() {
	names := o.debris
	o.debris = nil
	for _, name := range names {
		o.remove(name)
	}
}
