package hub

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/lane"
)

// A request that finds the queue full is made again with the next frame, not half a minute later.
func TestKeyframeRequestThatFindsNoRoom(t *testing.T) {
	c := newHub(t, bustest.Hub(t, bustest.NewServer(t))).control
	c.edges["ams-1"] = &greeted{}
	for range controlQueue {
		c.queue <- "other"
	}
	c.wantKeyframe("ams-1")
	if n := testutil.ToFloat64(c.hub.metrics.keyframeRequests.WithLabelValues("queue_full")); n != 1 {
		t.Errorf("%v requests found the queue full, want 1", n)
	}
	for range controlQueue {
		<-c.queue
	}
	c.wantKeyframe("ams-1")
	c.wantKeyframe("ams-1")
	if n := len(c.queue); n != 1 {
		t.Errorf("%d requests are queued, want 1", n)
	}
}

// Edges that are gone without a word do not hold up those behind them.
func TestKeyframeRequestsPassDeadEdges(t *testing.T) {
	server := bustest.NewServer(t)
	c := newHub(t, bustest.Hub(t, server))
	c.control.timeout = time.Hour
	release := make(chan struct{})
	edge := func(site string, answer func() []byte) {
		w := newWriter(t, server.URL(), site, 1, 1)
		control := w.conn.Root().NewControl(site)
		stop, err := w.conn.Serve(control, func(string, []byte) []byte { return answer() })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(stop)
		// The subscription is there once the server answers what was sent behind it.
		if _, err := w.conn.Last(t.Context(), w.conn.Root().Lane(site, "live")); err == nil {
			t.Fatal("the lane is not empty")
		}
		c.control.edges[site] = &greeted{hello: lane.Hello{Control: control}}
	}
	for i := range askers - 1 {
		edge(fmt.Sprintf("gone-%d", i), func() []byte {
			<-release
			return nil
		})
		c.control.wantKeyframe(fmt.Sprintf("gone-%d", i))
	}
	edge("ams-1", func() []byte {
		data, err := json.Marshal(lane.ControlAnswer{Done: true})
		if err != nil {
			t.Error(err)
		}
		return data
	})
	c.control.wantKeyframe("ams-1")
	runHub(t, c)
	t.Cleanup(func() { close(release) }) // before the hub and the edges are stopped
	bustest.WaitFor(t, "the answer of the edge behind the others", func() bool {
		return testutil.ToFloat64(c.metrics.keyframeRequests.WithLabelValues("granted")) == 1
	})
}
