package lane

import "github.com/thalweg/thalweg/internal/frame"

// depositMark stands in the upper half of the epochs of sites without an edge, whose rows hubs write: any frame tells a
// hub that it may go on behind it. Edges have no such epochs.
const depositMark = frame.Epoch(0x4445504f_00000000)

// DepositEpoch makes the epoch of a site without an edge from a random number.
func DepositEpoch(random uint32) frame.Epoch { return depositMark | frame.Epoch(random) }

// IsDeposit reports whether hubs write the frames of an epoch.
func IsDeposit(e frame.Epoch) bool { return e&^0xffffffff == depositMark }

// Last returns the newest frame of an epoch that came and the rows of the epoch up to it; the zero value if none did.
func (l *Ledger) Last(id frame.Epoch) frame.Predecessor {
	e := l.find(id)
	if e == nil || len(e.spans) == 0 {
		return frame.Predecessor{}
	}
	last := e.spans[len(e.spans)-1]
	return frame.Predecessor{ID: frame.ID{Epoch: id, Number: last.To}, Rows: last.RowsAfter}
}
