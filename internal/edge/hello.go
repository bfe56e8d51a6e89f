package edge

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"time"

	"github.com/thalweg/thalweg/internal/lane"
)

// helloInterval is how often an edge says hello while it is connected, so that a hub that starts later knows where to
// ask for a keyframe. Each is up to a fifth early. Without an answer the next ones come after helloRetry, twice that,
// and so on up to the interval.
const (
	helloInterval = 30 * time.Second
	helloRetry    = time.Second
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
		wait := helloInterval
		state, changed := e.conn.Watch()
		switch {
		case !state.Connected:
			unanswered = 0
		case e.sayHello(ctx):
			unanswered = 0
		default:
			wait = min(helloRetry<<min(unanswered, 10), helloInterval)
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

// sayHello reports whether a hub answered. An edge goes on without: no hub may be there at the moment.
func (e *Edge) sayHello(ctx context.Context) bool {
	sent := e.now()
	hello, err := json.Marshal(lane.Hello{
		Site: e.site, Version: e.version, Epoch: e.epoch.String(), FrameVersions: lane.FrameVersions(), Control: e.control,
		NowMs: sent.UnixMilli(),
	})
	if err != nil {
		panic("BUG: edge: encode hello: " + err.Error())
	}
	answer, err := e.conn.Request(ctx, e.conn.Root().Hello(e.site), hello)
	if err != nil {
		e.status.set(PartHello, err.Error())
		return false
	}
	var welcome lane.Welcome
	if err := json.Unmarshal(answer, &welcome); err != nil {
		e.log.Warn("hub answered hello with something else", "site", e.site, "err", err)
		return false
	}
	e.status.clear(PartHello)
	// The hub's clock was read about half way between sending and now.
	middle := sent.Add(e.now().Sub(sent) / 2)
	e.metrics.skew.Set(float64(middle.UnixMilli()-welcome.NowMs) / 1000)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.welcome = welcome
	e.sender.SetKeyframeInterval(e.keyframeInterval())
	return true
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
