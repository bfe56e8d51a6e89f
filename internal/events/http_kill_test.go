package events

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestHTTPKilled kills a process that takes posts again and again. Senders send again what was not answered, with its id.
func TestHTTPKilled(t *testing.T) {
	if dir := os.Getenv("THALWEG_TEST_EVENTS_DIR"); dir != "" {
		x := open(t, dir, func(o *Options) { o.Now = time.Now })
		go func() { _ = x.Run(t.Context()) }()
		t.Error(http.ListenAndServe(os.Getenv("THALWEG_TEST_EVENTS_LISTEN"), x.Handlers()["/api/v1/events"]))
		return
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	start := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0], "-test.run=^TestHTTPKilled$")
		cmd.Env = append(os.Environ(), "THALWEG_TEST_EVENTS_DIR="+dir, "THALWEG_TEST_EVENTS_LISTEN="+address)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	// Four senders, each with an event at a time until it is answered.
	const each = 150
	var senders sync.WaitGroup
	for sender := range 4 {
		senders.Go(func() {
			for i := range each {
				event := fmt.Sprintf(`{"name":"a","value":1,"labels":{"sender":"%d"},"id":"%d/%d"}`, sender, sender, i)
				for end := time.Now().Add(time.Minute); !post(address, event); {
					if time.Now().After(end) {
						t.Errorf("event %d of sender %d is not taken", i, sender)
						return
					}
				}
			}
		})
	}
	done := make(chan struct{})
	go func() {
		senders.Wait()
		close(done)
	}()
	rng := rand.New(rand.NewPCG(8, 9))
	kills := 0
	for running := true; running; {
		cmd := start()
		select {
		case <-time.After(time.Duration(300+rng.IntN(500)) * time.Millisecond):
			kills++
		case <-done:
			running = false
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
	}
	x := open(t, dir, nil)
	defer x.crash()
	if got := strings.Count(x.dump(), fmt.Sprintf(" %d", each)); got != 4 {
		t.Errorf("after %d kills there is\n%s", kills, x.dump())
	}
	t.Logf("%d kills", kills)
}

// post reports whether an event was answered with 200.
func post(address, event string) bool {
	client := http.Client{Timeout: 5 * time.Second}
	answer, err := client.Post("http://"+address, "application/json", strings.NewReader(event))
	if err != nil {
		time.Sleep(10 * time.Millisecond)
		return false
	}
	_, _ = io.Copy(io.Discard, answer.Body)
	answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}
