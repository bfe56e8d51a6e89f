package lane

import "github.com/thalweg/thalweg/internal/frame"

// LedgerState is a ledger in a form that can be stored, as JSON for one.
type LedgerState struct {
	Epochs  []EpochState `json:"epochs"`
	Losses  []frame.Loss `json:"losses,omitempty"`
	Dropped uint64       `json:"dropped,omitempty"`
}

// EpochState is one epoch of a LedgerState.
type EpochState struct {
	Epoch  frame.Epoch       `json:"epoch"`
	Rank   uint32            `json:"rank"`
	Before frame.Predecessor `json:"before"`
	First  bool              `json:"first,omitempty"`
	Cut    uint64            `json:"cut,omitempty"`
	Spans  []Span            `json:"spans"`
}

// State returns a copy of all that the ledger knows.
func (l *Ledger) State() LedgerState {
	s := LedgerState{Losses: append([]frame.Loss(nil), l.losses...), Dropped: l.dropped}
	for _, e := range l.epochs {
		s.Epochs = append(s.Epochs, EpochState{e.id, e.rank, e.before, e.first, e.cut, append([]Span(nil), e.spans...)})
	}
	return s
}

// LedgerFrom is the inverse of State. It takes the slices over.
func LedgerFrom(s LedgerState) Ledger {
	l := Ledger{losses: s.Losses, dropped: s.Dropped}
	for _, e := range s.Epochs {
		l.epochs = append(l.epochs, &epoch{e.Epoch, e.Rank, e.Before, e.First, e.Cut, e.Spans})
		l.spans += len(e.Spans)
	}
	return l
}
