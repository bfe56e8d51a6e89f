package push

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

const (
	// pushesAtOnce bounds the requests under way.
	pushesAtOnce = 8
	// pushTimeout is how long a gateway may take for one.
	pushTimeout = 30 * time.Second
	// After a failure nothing is pushed for so long, twice as long each time until one succeeds.
	firstPause, longestPause = 500 * time.Millisecond, 30 * time.Second
	// maxWords bounds what is quoted of an answer.
	maxWords = 1 << 10
)

// push goes through what waits until too much fails. Each group is pushed once, and waits on behind the others if that
// failed: one that the gateway cannot digest holds up nobody.
func (c *Client) push(ctx context.Context) {
	queue := slices.DeleteFunc(c.waiting, func(g *outgoing) bool { return !c.own(g) })
	c.waiting = nil
	if len(queue) > 0 && c.now().Sub(c.learned) > learnedFor {
		if _, err := c.learn(ctx); err != nil {
			c.waiting = queue
			c.note(ctx, false, len(queue), err.Error())
			return
		}
	}
	outcomes := c.pushAll(ctx, queue)
	c.pushFitting(ctx, queue, outcomes)
	var again []*outgoing
	var why string
	succeeded := false
	for i, g := range queue {
		o := &outcomes[i]
		switch o.result {
		case pushUntried:
			c.waiting = append(c.waiting, g)
		case pushFailed:
			again, why = append(again, g), cmp.Or(why, o.why)
		default:
			succeeded = succeeded || o.result == pushDone
			c.settle(g, o)
		}
	}
	c.waiting = append(c.waiting, again...)
	c.metrics.waiting.Set(float64(len(c.waiting)))
	c.metrics.groups.Set(float64(len(c.groups)))
	c.note(ctx, succeeded, len(again), why)
}

// pushAll pushes groups, some at a time, until pushesAtOnce more have failed than succeeded: then it is the gateway.
func (c *Client) pushAll(ctx context.Context, queue []*outgoing) []pushOutcome {
	outcomes := make([]pushOutcome, len(queue))
	var next atomic.Int64
	var failures atomic.Int64 // less what succeeded since
	var wg sync.WaitGroup
	for i := range min(pushesAtOnce, len(queue)) {
		b := c.bodies[i]
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(queue); i = int(next.Add(1)) - 1 {
				if failures.Load() >= pushesAtOnce || ctx.Err() != nil {
					outcomes[i].result = pushUntried
					continue
				}
				outcomes[i] = c.pushGroup(ctx, queue[i], b)
				switch n := failures.Load(); {
				case outcomes[i].result == pushFailed:
					failures.Add(1)
				case n > 0:
					failures.CompareAndSwap(n, n-1)
				}
			}
		})
	}
	wg.Wait()
	return outcomes
}

// pushFitting pushes again what was refused because it contradicts what the gateway has, as that has it.
func (c *Client) pushFitting(ctx context.Context, queue []*outgoing, outcomes []pushOutcome) {
	var places []int
	var refused []*outgoing
	for i := range outcomes {
		if outcomes[i].malformed {
			places, refused = append(places, i), append(refused, queue[i])
		}
	}
	if len(refused) == 0 || c.now().Sub(c.learned) < learnEvery {
		return
	}
	if news, err := c.learn(ctx); err != nil || !news {
		return
	}
	for i, o := range c.pushAll(ctx, refused) {
		outcomes[places[i]] = o
	}
}

// own notes whose group it is at the gateway, where another site may have pushed over it without publisher_label. It is
// false if the group has ended and is the other's: there is nothing to delete.
func (c *Client) own(g *outgoing) bool {
	if c.settings.publisher {
		return true
	}
	path := groupPath(g.job, g.instance, "")
	owner, owned := c.owners[path]
	switch {
	case !owned || owner == g.site:
	case len(g.members) == 0:
		c.settle(g, &pushOutcome{})
		return false
	default:
		c.metrics.overwritten.Inc()
		c.overwrites.Log(slog.LevelWarn, path, "two sites push into one group, each over what the other pushed: set publisher_label",
			slog.String("job", g.job), slog.String("instance", g.instance), slog.String("site", g.site), slog.String("other", owner))
	}
	c.owners[path] = g.site
	return true
}

// note draws the conclusions of a round of pushes: how long to pause, and what to tell.
func (c *Client) note(ctx context.Context, succeeded bool, failed int, why string) {
	if ctx.Err() != nil {
		return
	}
	if succeeded {
		c.metrics.last.Set(float64(c.now().UnixMilli()) / 1000)
	}
	if succeeded || failed == 0 {
		c.pause = 0
	}
	if failed == 0 {
		if c.problem.Swap(nil) != nil {
			c.repeats.Forget("failed")
			c.log.Info("pushes are taken again", "url", c.settings.url)
		}
		return
	}
	c.pause = min(max(2*c.pause, firstPause), longestPause)
	c.resume = c.now().Add(c.pause)
	c.problem.Store(&why)
	c.repeats.Log(slog.LevelWarn, "failed", "push failed and is tried again", slog.String("url", c.settings.url),
		slog.Int("waiting", len(c.waiting)), slog.String("err", why))
}

// pushOutcome is what became of a push.
type pushOutcome struct {
	result    pushResult
	why       string // for people
	malformed bool   // says the gateway, which means mostly that metrics contradict those of other groups
}

// pushGroup pushes a group or, if it has ended, deletes it.
func (c *Client) pushGroup(ctx context.Context, g *outgoing, b *clientBody) pushOutcome {
	s, now := c.settings, c.now()
	grouping := []labels.Label{{Name: model.JobLabel, Value: g.job}, {Name: model.InstanceLabel, Value: g.instance}}
	publisher := ""
	if s.publisher {
		publisher = g.site
		grouping = append(grouping, labels.Label{Name: "publisher", Value: g.site})
	}
	path := groupPath(g.job, g.instance, publisher)
	if len(g.members) == 0 {
		return c.send(ctx, http.MethodDelete, path, nil, "")
	}
	if c.isAged(g.newest(), now) {
		return pushOutcome{result: pushAged}
	}
	g.order()
	method := http.MethodPut
	if !g.complete(now) {
		method = http.MethodPost // replaces what the body has and keeps the rest
	}
	c.typesMu.Lock() // while one body is made the others are under way
	content, contentType := b.make(g, grouping, c.types)
	c.typesMu.Unlock()
	if b.dropped > 0 {
		c.metrics.dropped.Add(float64(b.dropped))
		c.repeats.Log(slog.LevelWarn, "dropped", "series are not pushed: the Push Gateway has another type for their names",
			slog.String("name", b.example), slog.Int("series", b.dropped), slog.String("group", path))
	}
	return c.send(ctx, method, path, content, contentType)
}

// send sends one request and judges the answer.
func (c *Client) send(ctx context.Context, method, path string, content []byte, contentType string) pushOutcome {
	ctx, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, c.settings.url+path, bytes.NewReader(content))
	if err != nil {
		return pushOutcome{result: pushRefused, why: err.Error()}
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	start := c.now()
	outcome := c.exchange(request)
	c.metrics.requests.WithLabelValues(string(outcome.result)).Inc()
	if outcome.result != pushFailed {
		c.metrics.seconds.Observe(c.now().Sub(start).Seconds())
	}
	return outcome
}

func (c *Client) exchange(request *http.Request) pushOutcome {
	response, err := c.settings.http.Do(request)
	if err != nil {
		return pushOutcome{result: pushFailed, why: err.Error()}
	}
	defer response.Body.Close()
	words, _ := io.ReadAll(io.LimitReader(response.Body, maxWords)) // what can be had of them
	why := fmt.Sprintf("%s %s: %s: %s", request.Method, request.URL.EscapedPath(), response.Status, strings.TrimSpace(string(words)))
	switch code := response.StatusCode; {
	case code/100 == 2:
		return pushOutcome{result: pushDone}
	case code/100 == 5, code == http.StatusTooManyRequests, code == http.StatusRequestTimeout:
		return pushOutcome{result: pushFailed, why: why}
	}
	return pushOutcome{result: pushRefused, why: why, malformed: response.StatusCode == http.StatusBadRequest}
}
