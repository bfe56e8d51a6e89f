package node

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
)

// shown returns the value of a series of the page of a gateway; false if there is no page, or not that series.
func shown(t *testing.T, n *Node, series string) (float64, bool) {
	t.Helper()
	a, err := http.Get(n.URL() + "/gateway/metrics")
	if err != nil {
		return 0, false
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err != nil || a.StatusCode != http.StatusOK {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			return v, err == nil
		}
	}
	return 0, false
}

// deleteStream does so with the rights of a hub.
func deleteStream(t *testing.T, url, name string) {
	t.Helper()
	hub := bustest.Connected(t, bus.Options{Config: bustest.Config(url)})
	if answer, err := hub.Request(t.Context(), "$JS.API.STREAM.DELETE."+name, nil); err != nil || !strings.Contains(string(answer), `"success":true`) {
		t.Fatalf("%s: %v", answer, err)
	}
}

// send publishes n events of a site, every other one without waiting for an answer.
func send(t *testing.T, c *bus.Conn, site string, n int) {
	t.Helper()
	for i := range n {
		var err error
		if i%2 == 0 {
			_, err = c.Append(t.Context(), c.Root().Events(site), []byte(paid), "")
		} else {
			err = c.Tell(c.Root().Events(site), []byte(paid))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestGatewaysShareStream: two gateways count each event once between them, over the end of the
// stream.
func TestGatewaysShareStream(t *testing.T) {
	s := bustest.NewServer(t)
	dir := t.TempDir()
	file := func(name string) string {
		return fmt.Sprintf("{site: %s, data_dir: %q, nats: {urls: [%q]}, gateway: {nats: {}, http: false}}", name, filepath.Join(dir, name), s.URL())
	}
	a := start(t, file("a"))
	b := start(t, file("b"))
	for _, n := range []*Node{a, b} {
		await(t, "readiness", func() bool {
			code, _ := request(t, http.MethodGet, n.URL()+"/-/ready", "", "")
			return code == http.StatusOK
		})
	}
	senders := map[string]*bus.Conn{}
	for _, site := range []string{"ams-1", "ams-2"} {
		senders[site] = bustest.Connected(t, bus.Options{Config: bustest.Config(s.URL()), Site: site})
	}
	const series = `paid_total{shop="a"}`
	sum := func() float64 {
		x, _ := shown(t, a, series)
		y, _ := shown(t, b, series)
		return x + y
	}
	want := 0.0
	check := func(what string) {
		t.Helper()
		await(t, what, func() bool { return sum() >= want })
		if got := sum(); got != want {
			t.Errorf("%s: %v were counted, of %v", what, got, want)
		}
	}
	for range 5 {
		for site, c := range senders {
			send(t, c, site, 20)
			want += 40
		}
	}
	check("both")

	// The stream is deleted, and comes back by itself.
	deleteStream(t, s.URL(), "THALWEG_EVENTS")
	await(t, "another stream", func() bool {
		_, err := senders["ams-1"].Append(t.Context(), senders["ams-1"].Root().Events("ams-1"), []byte(paid), "")
		return err == nil
	})
	want += 2
	send(t, senders["ams-2"], "ams-2", 10)
	want += 20
	check("after the end of the stream")

	// A message with an id counts once, however often it is sent.
	for range 3 {
		if _, err := senders["ams-1"].Append(t.Context(), senders["ams-1"].Root().Events("ams-1"), []byte(paid), "again"); err != nil {
			t.Fatal(err)
		}
	}
	want += 2
	check("sent again")

	// A site sends for itself only.
	if _, err := senders["ams-1"].Append(t.Context(), senders["ams-1"].Root().Events("ams-2"), []byte(paid), ""); !errors.Is(err, bus.ErrDenied) {
		t.Errorf("for another site: %v", err)
	}
	// Garbage and what is too long are counted, and nothing waits for them.
	for _, payload := range []string{"{", `{"name":"` + strings.Repeat("a", 100<<10) + `"}`} {
		if _, err := senders["ams-1"].Append(t.Context(), senders["ams-1"].Root().Events("ams-1"), []byte(payload), ""); err != nil {
			t.Fatal(err)
		}
	}
	send(t, senders["ams-1"], "ams-1", 1)
	want += 2
	check("behind garbage")
}

// TestGatewayAtEdge: a gateway beside an edge takes the events of its own site, at a server in the process, and they travel
// as rows.
func TestGatewayAtEdge(t *testing.T) {
	n := start(t, fmt.Sprintf(`{site: ams-1, data_dir: %q, global: {scrape_interval: 1s, scrape_timeout: 1s}, edge: {},
		nats: {embedded: {listen: '127.0.0.1:0'}}, gateway: {nats: {}}}`, t.TempDir()))
	sender := bustest.Connected(t, bus.Options{Config: bustest.Config(n.NATSURL()), Site: "ams-1"})
	await(t, "a stream", func() bool {
		_, err := sender.Append(t.Context(), sender.Root().Events("ams-1"), []byte(paid), "")
		return err == nil
	})
	other := bustest.Connected(t, bus.Options{Config: bustest.Config(n.NATSURL()), Site: "ams-2"})
	if _, err := other.Append(t.Context(), other.Root().Events("ams-2"), []byte(paid), ""); err != nil {
		t.Fatal(err)
	}
	await(t, "the event", func() bool {
		v, ok := shown(t, n, `paid_total{shop="a"}`)
		return ok && v == 2
	})
	await(t, "its row", func() bool {
		_, page := request(t, http.MethodGet, n.URL()+"/federate?match[]=paid_total", "", "")
		return strings.Contains(page, "\npaid_total{")
	})
	// What gateways share is lost. It says what other gateways have taken, and there is none.
	deleteStream(t, n.NATSURL(), "KV_THALWEG_GATEWAYS")
	if _, err := sender.Append(t.Context(), sender.Root().Events("ams-1"), []byte(paid), ""); err != nil {
		t.Fatal(err)
	}
	await(t, "another event", func() bool {
		v, _ := shown(t, n, `paid_total{shop="a"}`)
		return v >= 4
	})
	if v, _ := shown(t, n, `paid_total{shop="a"}`); v != 4 {
		t.Errorf("%v were counted", v)
	}
}
