package hub

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
)

func TestPick(t *testing.T) {
	t.Parallel()
	// Each hub is name:parts, with a ! behind it if it is not ready.
	f := func(hubs, picked, uncovered string) {
		t.Helper()
		var all []Peer
		for item := range strings.FieldsSeq(hubs) {
			item, unready := strings.CutSuffix(item, "!")
			name, ranges, _ := strings.Cut(item, ":")
			parts, err := ParseParts(ranges)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, Peer{Name: name, Instance: "of-" + name, Parts: parts, Ready: !unready})
		}
		for range 5 { // in whatever order they are known
			rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			got, without := pick(all)
			var names []string
			for _, p := range got {
				names = append(names, p.Name)
			}
			if s := strings.Join(names, " "); s != picked || without.String() != uncovered {
				t.Errorf("of %s: picked %q without %q, want %q without %q", hubs, s, without, picked, uncovered)
			}
		}
	}
	f("", "", "0-63")
	f("a:0-63", "a", "")
	f("b:0-63 a:0-63", "a", "")
	f("b:0-63 a:0-63!", "b", "")
	f("a:0-31 b:0-31 c:32-63 d:32-63", "a c", "")
	f("a:0-31! b:0-31 c:32-63 d:32-63", "b c", "")
	f("a:0-31 c:32-62", "a c", "63")
	f("a:0-31 z:0-63", "z", "")            // the fewest hubs
	f("a:0-31 z:0-63! c:32-63", "a c", "") // until it is ready
	f("a:0-31 b:16-47 c:32-63", "a c", "") // never a part twice
	f("a:16-47 b:0-31 c:32-63", "a", "0-15,48-63")
}

// TestPeersForgetAndSettle follows what is said of another hub over time.
func TestPeersForgetAndSettle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPeers(&Hub{now: time.Now, control: &control{instance: "mine"}}, "")
		f := func(what string, want ...string) {
			t.Helper()
			p.mu.Lock()
			defer p.mu.Unlock()
			p.forget(time.Now())
			var names []string
			for _, h := range p.heard {
				names = append(names, h.Name)
			}
			slices.Sort(names)
			if !slices.Equal(names, want) {
				t.Errorf("%s: heard of %q, want %q", what, names, want)
			}
		}
		settled := func(what string, want bool) {
			t.Helper()
			if err := p.settled(); (err == nil) != want {
				t.Errorf("%s: settled: %v, want %v", what, err, want)
			}
		}
		settled("without a connection", false)
		p.connected(true, time.Now())
		settled("a moment after connecting", false)
		p.hear([]byte(`{"hub":"a","instance":"1","parts":"0-63","ready":true}`))
		p.hear([]byte(`{"hub":"me","instance":"mine","parts":"0-63","ready":true}`))
		f("its own announcement", "a")
		time.Sleep(listenFirst)
		settled("after a while", true)
		p.hear([]byte(`{"hub":"b","instance":"2","parts":"0-31","ready":true}`))
		f("both", "a", "b")
		time.Sleep(peerSilence - listenFirst + 1)
		f("one is silent", "b")
		p.hear([]byte(`{"hub":"b","instance":"2","parts":"0-31","gone":true}`))
		f("one says good-bye")
		p.connected(false, time.Now())
		settled("after the connection was lost", false)
	})
}

// A hub that cannot listen for others says why, and goes on trying.
func TestPeersThatCannotListen(t *testing.T) {
	server := bustest.NewServer(t)
	conn := bustest.Connect(t, bus.Options{Config: bustest.Config(server.URL())})
	c := newHub(t, conn)
	conn.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); c.peers.run(ctx) }()
	defer func() { cancel(); <-done }()
	bustest.WaitFor(t, "the reason", func() bool {
		_, _, err := c.Serving()
		return strings.Contains(err.Error(), "listen for other hubs") && c.logs.count("cannot listen for other hubs") == 1
	})
	select {
	case <-done:
		t.Error("it has given up")
	default:
	}
}

// What cannot be read is named in the log, once.
func TestAnnouncementsThatCannotBeRead(t *testing.T) {
	c := newHub(t, bustest.Hub(t, bustest.NewServer(t)))
	c.peers.hear([]byte(`{"hub":"a","parts":"0-63","ready":true}`))
	c.peers.hear([]byte(`{"hub":"a"`))
	if n := c.logs.count("announcement of another hub cannot be read", "it names no instance"); n != 1 || c.logs.count("announcement of another hub") != 1 {
		t.Errorf("%d lines tell why", n)
	}
	if n := len(c.Peers()); n != 1 {
		t.Errorf("%d hubs are known, want this one", n)
	}
}
