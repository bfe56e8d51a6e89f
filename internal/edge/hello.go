package edge

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/thalweg/thalweg/internal/lane"
)

// helloInterval is how often an edge says hello while it is connected, so that a hub that starts later knows where to
// ask for a keyframe. Each is up to a fifth early. Without an answer the next ones come after helloRetry, twice that,
// and so on up to the interval.
const (
	helloInterval = 30 * time.Second
	helloRetry    = time.Second
	// otherHubs is how long an edge waits for other hubs than the first that answered, of which there may be maxHubs.
	otherHubs = 2 * time.Second
	maxHubs   = 16
)

// keepHello answers control requests and says hello at each connect and now and then, until ctx ends.
func (e *Edge) keepHello(ctx context.Context) {
	stop, err := e.conn.Serve(e.control, e.answerControl)
	if err != nil {
		e.log.Error("listen for control requests", "site", e.site, "err", err)
	} else {
		defer stop()
	}
	for unanswered := 0; ctx.Err() == nil; {
		wait := e.helloInterval
		state, changed := e.conn.Watch()
		answered, again := false, false
		if state.Connected {
			answered, again = e.sayHello(ctx)
		}
		switch {
		case again:
			wait, unanswered = min(helloRetry, e.helloInterval), 0
		case answered || !state.Connected:
			unanswered = 0
		default:
			wait = min(helloRetry<<min(unanswered, 10), e.helloInterval)
			unanswered++
		}
		t := time.NewTimer(wait - time.Duration(rand.Int64N(int64(wait/5))))
		select {
		case <-t.C:
		case <-changed:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// sayHello reports whether a hub answered, and whether they should be asked again soon. An edge goes on without: no hub
// may be there at the moment.
func (e *Edge) sayHello(ctx context.Context) (answered, again bool) {
	welcomes, err := e.greet(ctx)
	if len(welcomes) == 0 {
		e.status.set(PartHello, err.Error())
		return false, false
	}
	e.status.clear(PartHello)
	var offers []int
	for _, w := range welcomes {
		offers = append(offers, w.FrameVersion)
		if oldest := slices.Min(lane.FrameVersions()); w.FrameVersion < oldest {
			e.status.set(PartHello, fmt.Sprintf("hub %q reads frames up to version %d, this edge writes %d at least: upgrade the hub",
				w.Hub, w.FrameVersion, oldest))
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.welcomes = welcomes
	e.keepPace()
	e.sender.SetKeyframeInterval(e.keyframeInterval())
	before := e.version.Version()
	again = e.version.Round(offers)
	if now := e.version.Version(); now != before {
		e.sender.SetVersion(now)
		e.metrics.frameVersion.Set(float64(now))
		e.log.Info("frames are of another version from now on", "site", e.site, "version", now, "before", before, "hubs", len(welcomes))
	}
	return true, again
}

// greet says hello until no other hub answers. Without any answer it returns why.
func (e *Edge) greet(ctx context.Context) (welcomes []lane.Welcome, err error) {
	e.mu.Lock()
	hello := lane.Hello{
		Site: e.site, Version: e.release, Epoch: e.epoch.String(), FrameVersions: lane.FrameVersions(), Control: e.control,
	}
	e.mu.Unlock()
	for len(welcomes) < maxHubs {
		welcome, err := e.greetOne(ctx, &hello)
		if err != nil {
			return welcomes, err
		}
		if len(welcomes) == 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, e.otherHubs)
			defer cancel()
		}
		welcomes = append(welcomes, welcome)
		if welcome.Instance == "" || slices.Contains(hello.Heard, welcome.Instance) {
			return welcomes, nil // of a release that does not know how to stay silent
		}
		hello.Heard = append(hello.Heard, welcome.Instance)
	}
	return welcomes, nil
}

// greetOne says hello once, and measures the skew of the clocks.
func (e *Edge) greetOne(ctx context.Context, hello *lane.Hello) (welcome lane.Welcome, err error) {
	sent := e.now()
	hello.NowMs = sent.UnixMilli()
	data, err := json.Marshal(hello)
	if err != nil {
		panic("BUG: edge: encode hello: " + err.Error())
	}
	answer, err := e.conn.Request(ctx, e.conn.Root().Hello(e.site), data)
	if err != nil {
		return welcome, err
	}
	if err := json.Unmarshal(answer, &welcome); err != nil {
		return welcome, fmt.Errorf("parse answer to hello: %w", err)
	}
	// The hub's clock was read about half way between sending and now.
	answered := e.now()
	skew := sent.Add(answered.Sub(sent) / 2).Sub(time.UnixMilli(welcome.NowMs))
	e.metrics.skew.Set(skew.Seconds())
	e.mu.Lock()
	defer e.mu.Unlock()
	e.skew, e.greeted = skew, answered
	return welcome, nil
}

// answerControl does what a hub asks for.
func (e *Edge) answerControl(_ string, data []byte) []byte {
	var request lane.Control
	answer := lane.ControlAnswer{}
	if err := json.Unmarshal(data, &request); err != nil {
		answer.Reason = "request is not JSON"
	} else if request.Op != lane.OpKeyframe {
		answer.Reason = "unknown operation"
	} else {
		e.mu.Lock()
		answer.Done = e.sender.RequestKeyframe(e.now().UnixMilli(), true)
		e.mu.Unlock()
		if !answer.Done {
			answer.Reason = "there was a keyframe less than " + lane.KeyframeSpacing.String() + " ago"
		}
		e.metrics.keyframeRequests.Inc()
		e.log.Debug("hub asks for a keyframe", "site", e.site, "hub", request.Hub, "granted", answer.Done)
	}
	data, err := json.Marshal(answer)
	if err != nil {
		panic("BUG: edge: encode control answer: " + err.Error())
	}
	return data
}
