package push

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// The oldest row that waits is told, over replacements, refusals and ends.
func TestClientOldest(t *testing.T) {
	g := newRecorder(t)
	p := newPushed(t, ClientConfig{URL: g.URL})
	a, b, c := sourceOf("node", "a"), sourceOf("node", "b"), sourceOf("node", "c")
	want := func(n int) {
		t.Helper()
		if got := p.Oldest(); got != n {
			t.Errorf("row %d is the oldest that waits, want %d", got, n)
		}
	}
	want(0)
	g.status = func(path string) int {
		switch path[len(path)-1:] {
		case "a":
			return http.StatusBadGateway
		case "b":
			return http.StatusNotFound
		}
		return http.StatusOK
	}
	p.Row("x", wholeRow(c, p.time, "up", 1.0))
	p.Row("x", wholeRow(a, p.time, "up", 1.0))
	p.Row("x", wholeRow(b, p.time, "up", 1.0))
	p.Row("x", wholeRow(sourceOf("", ""), p.time, "up", 1.0))
	want(0)
	p.flush(false)
	want(1)
	p.Row("x", wholeRow(c, p.time, "up", 1.0))
	p.Row("x", wholeRow(a, p.time, "up", 0.0))
	want(4)
	p.time = p.time.Add(time.Minute)
	p.flush(false)
	want(5)
	p.Row("x", endRow(a, p.time))
	want(6)
	p.time = p.time.Add(time.Minute)
	p.flush(false)
	want(6)

	// A source that ends while another one of its group does not.
	second := sourceOf("node", "a", "more", "b")
	p.Row("x", wholeRow(a, p.time, "up", 1.0))
	p.Row("x", wholeRow(second, p.time, "down", 1.0))
	p.Row("x", endRow(second, p.time))
	want(7)
	p.Row("x", wholeRow(a, p.time, "up", 1.0))
	want(10)
	g.answers(200)
	p.time = p.time.Add(time.Minute)
	p.flush(true)
	want(0)
}

// Groups that a gateway does not take do not keep the others from being pushed, however many they are, unless it takes
// none: then it is left alone.
func TestClientManyFailures(t *testing.T) {
	g := newRecorder(t)
	p := newPushed(t, ClientConfig{URL: g.URL})
	g.status = func(path string) int {
		if strings.Contains(path, "poison") {
			return http.StatusBadGateway
		}
		return http.StatusOK
	}
	for i := range 100 {
		p.Row("x", wholeRow(sourceOf("node", fmt.Sprint("good", i)), p.time, "up", 1.0))
		if i%3 == 0 {
			p.Row("x", wholeRow(sourceOf("node", fmt.Sprint("poison", i)), p.time, "up", 1.0))
		}
	}
	p.flush(false)
	if len(p.waiting) != 34 {
		t.Errorf("%d groups wait, want the 34 that are not taken", len(p.waiting))
	}
	g.takeRequests()
	p.time = p.time.Add(time.Minute)
	p.flush(false)
	if n := len(g.takeRequests()); n < pushesAtOnce || n > 2*pushesAtOnce {
		t.Errorf("a gateway that takes nothing got %d requests at a time", n)
	}
}
