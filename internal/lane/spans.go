package lane

import (
	"slices"

	"github.com/thalweg/thalweg/internal/frame"
)

// Span is a run of consecutive frames of one epoch, both ends included, and where its rows stand in the epoch.
type Span struct {
	From, To              uint64
	RowsBefore, RowsAfter uint64
	// FirstSent and LastSent are the send times of the first and the last frame, in milliseconds since 1970.
	FirstSent, LastSent int64
	// Came is when the first frame came, by the clock of the ledger.
	Came int64
}

// SpanOf is the span of one frame that came at a time.
func SpanOf(h *frame.Header, at int64) Span {
	return Span{h.Number, h.Number, h.RowsBefore, h.RowsAfter(), h.Sent, h.Sent, at}
}

// Spans is a set of frames of one epoch: sorted, apart, merged where they touch.
type Spans []Span

// Has reports whether frame n is in the set.
func (s Spans) Has(n uint64) bool {
	i := s.search(n)
	return i < len(s) && s[i].From <= n
}

// search returns the first span that ends at n or behind it.
func (s Spans) search(n uint64) int {
	if k := len(s); k == 0 || s[k-1].To < n { // most frames come in order
		return k
	}
	i, _ := slices.BinarySearchFunc(s, n, func(x Span, n uint64) int {
		if x.To < n {
			return -1
		}
		return 1
	})
	return i
}

// Add returns the set with a span in it that does not overlap any other.
func (s Spans) Add(x Span) Spans {
	i := s.search(x.From)
	before := i > 0 && s[i-1].To+1 == x.From
	behind := i < len(s) && x.To+1 == s[i].From
	switch {
	case before && behind:
		s[i-1].To, s[i-1].RowsAfter, s[i-1].LastSent = s[i].To, s[i].RowsAfter, s[i].LastSent
		return slices.Delete(s, i, i+1)
	case before:
		s[i-1].To, s[i-1].RowsAfter, s[i-1].LastSent = x.To, x.RowsAfter, x.LastSent
	case behind:
		s[i].From, s[i].RowsBefore, s[i].FirstSent, s[i].Came = x.From, x.RowsBefore, x.FirstSent, x.Came
	default:
		return slices.Insert(s, i, x)
	}
	return s
}

// Rows counts the rows of all spans.
func (s Spans) Rows() (n uint64) {
	for _, x := range s {
		n += less(x.RowsAfter, x.RowsBefore)
	}
	return n
}
