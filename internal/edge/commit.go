package edge

import (
	"context"
	"time"

	"github.com/thalweg/thalweg/internal/series"
)

// commitSpacing is the least time between two flushes that callers of Commit make.
const commitSpacing = 20 * time.Millisecond

// commit is a caller of Commit and where its rows are: from the first to the last of the frames that sealed counts; both
// are 0 as long as there is no row.
type commit struct {
	first, last uint64
	err         error // why one of the frames is not in the outbox
}

// Commit runs accept, which gives it rows, and returns when they are as safe as after Flush. Callers share a flush, and
// there is one every 20 ms at most beside those of flush_interval.
//
// An error of accept ends it at once. An error of the outbox goes to those callers whose rows stood in the frames that it
// refused, and to nobody else. An error of ctx says nothing of the rows.
func (e *Edge) Commit(ctx context.Context, accept func(series.Sink) error) error {
	var c commit
	defer e.forget(&c)
	if err := accept(func(row *series.Row) error { return e.sink(row, &c) }); err != nil {
		return err
	}
	for {
		more, done, err := e.settled(&c)
		if done {
			return err
		}
		select {
		case <-more:
		case e.turn <- struct{}{}:
			err := e.flushFor(ctx, &c)
			<-e.turn
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// settled reports whether all frames with rows of a caller are in the outbox or lost, and with which error. Otherwise more
// is closed when that may be so.
func (e *Edge) settled(c *commit) (more <-chan struct{}, done bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.appended, e.sealed >= c.last, c.err
}

// flushFor flushes for all callers that wait, unless that has been done for c meanwhile. The caller has the turn.
func (e *Edge) flushFor(ctx context.Context, c *commit) error {
	if _, done, _ := e.settled(c); done {
		return nil
	}
	if wait := commitSpacing - time.Since(e.committed); wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	e.metrics.commits.Inc()
	_ = e.Flush()            // who lost a row by it is told
	e.committed = time.Now() // so that a slow disk leaves the inputs some time
	return nil
}

// note notes that the row which was encoded last is a caller's: it stands in the frames that it closed and in the one
// under construction. The caller holds mu, as below.
func (e *Edge) note(c *commit) {
	if c.first == 0 {
		c.first = e.sealed + 1
		e.commits[c] = struct{}{}
	}
	c.last = e.sealed + uint64(len(e.frames)) + 1
}

// lose tells the callers that have rows in frames which were refused.
func (e *Edge) lose(first, last uint64, err error) {
	for c := range e.commits {
		if c.first <= last && c.last >= first {
			c.err = err
		}
	}
}

func (e *Edge) forget(c *commit) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.commits, c)
}
