package events

import (
	"strings"
	"testing"
)

// TestPendingCountsWhatIsClaimed has events in a list that was taken whole, of which a page has been read.
func TestPendingCountsWhatIsClaimed(t *testing.T) {
	x := open(t, t.TempDir(), withRedis)
	defer x.crash()
	s := newRedisSource(x.Gateway, x.options.Config.Redis, nil)
	s.setPending(7)
	s.setClaimed(5)
	shows := func(want string) {
		t.Helper()
		body, _ := x.page("")
		if want = metaPending + `{queueKey="prom-stream-gateway:metric-queue"} ` + want + "\n"; !strings.Contains(body, want) {
			t.Errorf("want %s in\n%s", want, body)
		}
	}
	shows("12")
	element := `{"name":"a_total","value":1}`
	p := &page{data: []byte(element + element), ends: []int{len(element), 2 * len(element)}}
	s.applyPage(p, position{seq: 1}, 5)
	shows("10")
}
