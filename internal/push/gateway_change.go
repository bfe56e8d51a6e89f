package push

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/common/model"

	"github.com/thalweg/thalweg/internal/series"
)

// ttlHeader of a push says how long its group is kept if nothing is pushed to it again.
const ttlHeader = "Thalweg-TTL"

// requestError is the answer to a request that changes nothing.
type requestError struct {
	status int
	result result
	wait   time.Duration // for Retry-After; 0: none
	err    error
}

func (e *requestError) Error() string { return e.err.Error() }

func (e *requestError) Unwrap() error { return e.err }

func malformed(err error) error {
	return &requestError{status: http.StatusBadRequest, result: resultMalformed, err: err}
}

// group serves the path of a group.
func (g *Gateway) group(w http.ResponseWriter, r *http.Request) {
	if rest := r.URL.Path[len("/metrics/job"):]; rest == "/" || rest == base64Suffix+"/" {
		u := *r.URL
		u.Path, u.RawPath = u.Path[:len(u.Path)-1], ""
		http.Redirect(w, r, u.String(), http.StatusTemporaryRedirect)
		return
	}
	var done result
	var err error
	switch r.Method {
	case http.MethodPut, http.MethodPost:
		done, err = resultPushed, g.limited(r, func() error { return g.push(w, r) })
	case http.MethodDelete:
		done, err = resultDeleted, g.limited(r, func() error { return g.delete(r) })
		if err == nil {
			w.WriteHeader(http.StatusAccepted)
		}
	default:
		w.Header().Set("Allow", "DELETE, OPTIONS, POST, PUT")
		if r.Method != http.MethodOptions {
			http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
		}
		return
	}
	g.answer(w, r, done, err)
}

// limited makes a change, unless too many of the site are under way.
func (g *Gateway) limited(r *http.Request, change func() error) error {
	site := g.siteOf(r)
	select {
	case site.changes <- struct{}{}:
		defer func() { <-site.changes }()
		return change()
	default:
		return unavailable("too many changes of groups are under way")
	}
}

func unavailable(why string) *requestError {
	return &requestError{status: http.StatusServiceUnavailable, result: resultUnavailable, wait: time.Second, err: errors.New(why)}
}

// answer counts a request, and says why it failed if it did.
func (g *Gateway) answer(w http.ResponseWriter, r *http.Request, done result, err error) {
	if err == nil {
		g.metrics.requests.WithLabelValues(string(done)).Inc()
		return
	}
	why, ok := errors.AsType[*requestError](err)
	if !ok {
		why = g.explain(r, err)
	}
	g.metrics.requests.WithLabelValues(string(why.result)).Inc()
	if why.wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(why.wait.Seconds()))))
	}
	http.Error(w, why.Error(), why.status)
}

// explain turns an error of a change into an answer.
func (g *Gateway) explain(r *http.Request, err error) *requestError {
	if full, ok := errors.AsType[*limitError](err); ok {
		g.repeats.Log(slog.LevelWarn, "limit", "push refused for lack of room", slog.String("path", r.URL.Path), slog.Any("err", full))
		return &requestError{status: http.StatusTooManyRequests, result: resultLimited, err: fmt.Errorf("no room: %w", err)}
	}
	if no, ok := errors.AsType[*Refusal](err); ok {
		e := &requestError{status: no.Status, result: resultRefused, wait: no.RetryAfter, err: err}
		switch no.Status {
		case http.StatusRequestEntityTooLarge:
			e.result = resultTooLarge
		case http.StatusTooManyRequests:
			e.result = resultLimited
		}
		return e
	}
	g.repeats.Log(slog.LevelError, "store", "push cannot be stored", slog.String("path", r.URL.Path), slog.Any("err", err))
	return unavailable("the push cannot be stored now")
}

// push does what a PUT or POST asks for.
func (g *Gateway) push(w http.ResponseWriter, r *http.Request) error {
	start := time.Now()
	by, err := parseGrouping(r.URL.Path)
	if err != nil {
		return malformed(err)
	}
	p := &push{replace: r.Method == http.MethodPut}
	if p.ttl, err = parseTTL(r.Header.Get(ttlHeader)); err != nil {
		return malformed(fmt.Errorf("header %s: %w", ttlHeader, err))
	}
	if err := g.read(w, r, p); err != nil {
		return err
	}
	group := g.siteOf(r).acquire(by)
	defer group.release()
	if r.Context().Err() != nil { // whoever waited for an earlier change has gone, and may have come again
		return unavailable("the client has gone")
	}
	p.at = g.options.Now()
	next, err := by.pushed(group.state, p)
	p.families = nil // they are large, and waiting may take long
	if err == nil {
		err = g.ownNames(next)
	}
	if err == nil {
		if err = next.makeRow(g.options.Catalog, by); err == nil {
			err = g.change(r.Context(), group, next)
		}
	}
	if inconsistent(err) {
		g.fail(r.Context(), group, p.at)
		return &requestError{
			status: http.StatusBadRequest, result: resultInconsistent,
			err: fmt.Errorf("pushed metrics are invalid or inconsistent with existing metrics: %w", err),
		}
	}
	if err == nil {
		g.metrics.seconds.Observe(time.Since(start).Seconds())
	}
	return err
}

// read reads the body of a push.
func (g *Gateway) read(w http.ResponseWriter, r *http.Request, p *push) error {
	site := g.siteOf(r)
	select {
	case site.reading <- struct{}{}:
		defer func() { <-site.reading }()
	case <-r.Context().Done():
		return unavailable("the client has gone")
	}
	// Not every ResponseWriter has deadlines.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(readTimeout))
	body, err := readBody(w, r, g.options.Limits.Body)
	if errors.Is(err, errTooLarge) {
		return &requestError{status: http.StatusRequestEntityTooLarge, result: resultTooLarge, err: err}
	}
	if err != nil {
		return malformed(err)
	}
	g.metrics.bodyBytes.Observe(float64(len(body)))
	site.decoding <- struct{}{} // which takes no longer than decoding does
	defer func() { <-site.decoding }()
	if p.families, err = decode(body, r.Header.Get("Content-Type")); err != nil {
		return malformed(err)
	}
	return nil
}

// parseTTL returns nil for no header.
func parseTTL(header string) (*time.Duration, error) {
	if header == "" {
		return nil, nil
	}
	d, err := model.ParseDuration(header)
	if err != nil {
		return nil, err
	}
	return (*time.Duration)(&d), nil
}

// storeError is about rows or records that could not be stored; other errors of a change are about what was pushed.
type storeError struct{ err error }

func (e *storeError) Error() string { return e.err.Error() }

func (e *storeError) Unwrap() error { return e.err }

// inconsistent reports whether it is the metrics that are wrong.
func inconsistent(err error) bool {
	if err == nil {
		return false
	}
	_, room := errors.AsType[*limitError](err)
	_, store := errors.AsType[*storeError](err)
	return !room && !store
}

// ownNames refuses families that the gateway serves beside those that are pushed.
func (g *Gateway) ownNames(s *state) error {
	if g.own == nil {
		return nil
	}
	for i := range s.families {
		if name := s.families[i].name; g.own.names[name] {
			return fmt.Errorf("metric family %q is one of the gateway itself", name)
		}
	}
	return nil
}

// fail notes in a locked group that a push to it was refused. The client has an answer without it.
func (g *Gateway) fail(ctx context.Context, group *group, at time.Time) {
	next := group.grouping.failed(group.state, at)
	err := next.makeRow(g.options.Catalog, group.grouping)
	if err == nil {
		err = g.change(ctx, group, next)
	}
	if err != nil {
		g.repeats.Log(slog.LevelWarn, "fail", "failure of a push cannot be noted", slog.String("group", group.key), slog.Any("err", err))
	}
}

// delete does what a DELETE asks for.
func (g *Gateway) delete(r *http.Request) error {
	by, err := parseGrouping(r.URL.Path)
	if err != nil {
		return malformed(err)
	}
	group := g.siteOf(r).acquire(by)
	defer group.release()
	return g.end(r.Context(), group)
}

// end deletes what is in a locked group. Rows that are never taken from its site are no reason to keep it.
func (g *Gateway) end(ctx context.Context, group *group) error {
	if group.state == nil {
		return nil
	}
	err := g.change(ctx, group, nil)
	if no, refused := errors.AsType[*Refusal](err); refused && no.RetryAfter == 0 {
		group.site.put(group, nil, 0)
		return g.journal.append(appendRecord(nil, group.site.name, group.grouping, nil))
	}
	return err
}

// change puts another state into a locked group, nil for none, and returns when that is durable, as a record and as a row.
// After an error the group holds what it held before.
func (g *Gateway) change(ctx context.Context, group *group, next *state) error {
	before, site := group.state, group.site
	ttl := g.settings.Load().TTL
	row := g.rowOf(group, next)
	// First in memory and then on disk, or a rewrite of the journal in between could undo the change.
	if err := site.replace(group, next, ttl); err != nil {
		return err
	}
	// A client that goes away now learns nothing, but what it pushed is no worse for that.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	journaled := make(chan error, 1)
	go func() { journaled <- g.journal.append(appendRecord(nil, site.name, group.grouping, next)) }()
	err := g.options.Commit(ctx, site.name, []*series.Row{row})
	if err = errors.Join(err, <-journaled); err == nil {
		if next != nil && !next.deadline(ttl).IsZero() {
			g.poke()
		}
		return nil
	}
	site.put(group, before, ttl)
	return &storeError{errors.Join(err, g.journal.append(appendRecord(nil, site.name, group.grouping, before)))}
}

// rowOf makes the next row of a locked group: what a state says, or the end for none.
func (g *Gateway) rowOf(group *group, s *state) *series.Row {
	t := max(g.options.Now().UnixMilli(), group.lastT+1, group.site.afterEnd())
	row := &series.Row{T: t, End: true}
	if s != nil {
		*row = *s.row
		row.T = t
	} else {
		row.Schema = g.schemaOf(group)
		group.site.ended(t)
	}
	row.Source, group.lastT = g.sourceOf(group), t
	return row
}

// schemaOf is that of the last row of a group.
func (g *Gateway) schemaOf(group *group) *series.Schema {
	if group.state == nil || group.state.row == nil {
		return g.options.Catalog.Empty()
	}
	return group.state.row.Schema
}

// sourceOf returns the source of a locked group.
func (g *Gateway) sourceOf(group *group) *series.Source {
	interval := g.settings.Load().Interval
	if group.source == nil || group.source.Interval != interval {
		group.source = &series.Source{Key: group.key, Labels: group.grouping.source(), Interval: interval}
	}
	return group.source
}
