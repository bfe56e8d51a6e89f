package outbox

import "time"

// spent is what the outbox no longer holds although the server stored it less than a resend_window ago: evicted for lack
// of room, or damaged. Should the server lose it as well, nobody has it, and it is a loss.
type spent struct {
	Loss
	at time.Time // of the acknowledgement, or later
}

// spend remembers what goes away although it is acknowledged. The caller holds mu.
func (o *Outbox) spend(cause Cause, ranges []Range, at time.Time) {
	for _, r := range ranges {
		o.keepSpent(spent{Loss{Range: r, Cause: cause}, at})
	}
}

func (o *Outbox) keepSpent(s spent) {
	o.dirty = true
	if n := len(o.spent); n > 0 && o.spent[n-1].extend(&s.Loss) {
		o.spent[n-1].at = s.at
		return
	}
	o.spent = append(o.spent, s)
	if n := len(o.spent) - maxLosses; n > 0 {
		o.spent = o.spent[n:]
		o.m.lossesForgotten.Add(float64(n))
	}
}

// loseSpent makes losses of what is spent: the server may have lost it. The caller holds mu.
func (o *Outbox) loseSpent() {
	if len(o.spent) == 0 {
		return
	}
	n := uint64(0)
	for i := range o.spent {
		o.note(o.spent[i].Loss)
		n += o.spent[i].Rows
	}
	o.spent = nil
	o.logger.Warn("what the server lost may be gone for good: the outbox had to drop a part of it after it was stored", "rows", n)
}

// forgetSpent forgets what nobody will ask for. The caller holds mu.
func (o *Outbox) forgetSpent(now time.Time) {
	kept := o.spent[:0]
	for _, s := range o.spent {
		if now.Before(s.at) {
			s.at = now // the clock was set back
		}
		if now.Sub(s.at) < time.Duration(o.config.ResendWindow) {
			kept = append(kept, s)
		}
	}
	if len(kept) < len(o.spent) {
		o.dirty = true
	}
	o.spent = kept
}
