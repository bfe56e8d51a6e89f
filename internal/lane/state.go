package lane

import (
	"slices"

	"github.com/thalweg/thalweg/internal/frame"
)

// LedgerState is a ledger in a form that can be stored, as JSON for one.
type LedgerState struct {
	Epochs    []EpochState `json:"epochs"`
	Losses    []Loss       `json:"losses,omitempty"`
	Rejected  []Loss       `json:"rejected,omitempty"`
	Pending   frame.ID     `json:"pending,omitzero"`
	Said      Rank         `json:"said,omitzero"`
	Dropped   uint64       `json:"dropped,omitempty"`
	DroppedAt int64        `json:"droppedAt,omitempty"`
}

// EpochState is one epoch of a LedgerState.
type EpochState struct {
	Epoch  frame.Epoch       `json:"epoch"`
	Rank   uint32            `json:"rank"`
	Before frame.Predecessor `json:"before"`
	First  bool              `json:"first,omitempty"`
	Within bool              `json:"within,omitempty"`
	Cut    uint64            `json:"cut,omitempty"`
	Spans  []Span            `json:"spans"`
	End    End               `json:"end,omitzero"`
}

// State returns a copy of all that the ledger knows.
func (l *Ledger) State() LedgerState {
	s := LedgerState{
		Losses: slices.Clone(l.losses), Rejected: slices.Clone(l.rejected), Pending: l.pending, Said: l.said,
		Dropped: l.dropped, DroppedAt: l.droppedAt,
	}
	for _, e := range l.epochs {
		s.Epochs = append(s.Epochs, EpochState{e.id, e.rank, e.before, e.first, e.within, e.cut, append([]Span(nil), e.spans...), e.end})
	}
	return s
}

// LedgerFrom is the inverse of State. It takes the slices over.
func LedgerFrom(s LedgerState) Ledger {
	l := Ledger{losses: s.Losses, rejected: s.Rejected, pending: s.Pending, said: s.Said, dropped: s.Dropped, droppedAt: s.DroppedAt}
	for _, e := range s.Epochs {
		l.epochs = append(l.epochs, &epoch{e.Epoch, e.Rank, e.Before, e.First, e.Within, e.Cut, e.Spans, e.End})
		l.spans += len(e.Spans)
	}
	return l
}
