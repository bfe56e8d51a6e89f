package pipeline

import (
	"fmt"
	"log/slog"
	"maps"
	"strings"
)

// Usage is what a pipeline counts.
type Usage struct {
	Sources int
	Series  int // alive, and let in; 0 if no limit needs it
	Held    int // series that are there and refused by a limit
	// Refused since the pipeline was made: series by Reasons, and rows by RowReasons.
	Refused map[Reason]uint64
	// Worst are those of which most was refused lately by a limit, the worst first.
	Worst []Offender
}

// Usage returns the counts of the moment, with so many offenders at most.
func (p *Pipeline) Usage(offenders int) Usage {
	sources := p.len()
	p.limiter.mu.Lock()
	defer p.limiter.mu.Unlock()
	return Usage{
		Sources: sources, Series: p.limiter.active, Held: p.limiter.refused, Refused: maps.Clone(p.limiter.counts),
		Worst: p.limiter.worst.worst(offenders),
	}
}

// Since returns what limits have refused, by reason, beyond the counts of an earlier Usage. What rules drop on purpose is
// not among it.
func (u *Usage) Since(before map[Reason]uint64) map[Reason]uint64 {
	over := map[Reason]uint64{}
	for r, n := range u.Refused {
		if n > before[r] && !r.onPurpose() {
			over[r] = n - before[r]
		}
	}
	return over
}

// Attrs returns attributes for a line of log about what was refused: how much by which limit, and the worst offenders.
func Attrs(over map[Reason]uint64, u *Usage) (attrs []slog.Attr) {
	for _, r := range append(Reasons(), RowReasons()...) {
		if over[r] > 0 {
			attrs = append(attrs, slog.Uint64(string(r), over[r]))
		}
	}
	return append(attrs, slog.Int("refused_series", u.Held), slog.String("worst", strings.Join(u.Offenders(), ", ")))
}

// Offenders returns the worst in words.
func (u *Usage) Offenders() (worst []string) {
	for _, o := range u.Worst {
		worst = append(worst, fmt.Sprintf("%s %d (%s)", o.Name, o.Count, o.Reason))
	}
	return worst
}
