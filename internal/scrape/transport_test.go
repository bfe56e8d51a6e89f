package scrape

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
)

// scripted answers each connection with what script writes, byte for byte, after each request.
func scripted(t *testing.T, script func(w io.Writer, nth int) (keep bool)) (url string, connections *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	connections = new(atomic.Int64)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // the test has ended
			}
			connections.Add(1)
			go func() {
				defer conn.Close()
				r := bufio.NewReader(conn)
				for nth := 0; ; nth++ {
					if _, err := http.ReadRequest(r); err != nil {
						return // the client has closed the connection
					}
					if !script(conn, nth) {
						return
					}
				}
			}()
		}
	}()
	return "http://" + l.Addr().String() + "/metrics", connections
}

// fetched is what came of a request, as far as a scrape cares.
type fetched struct {
	status      int
	contentType string
	body        string
	failed      bool
	timedOut    bool
}

func ask(t *testing.T, client *http.Client, url string, timeout time.Duration) fetched {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		return fetched{failed: true, timedOut: errors.Is(err, context.DeadlineExceeded)}
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	return fetched{
		response.StatusCode, response.Header.Get("Content-Type"), string(content), err != nil,
		errors.Is(err, context.DeadlineExceeded),
	}
}

// The transport and net/http's give the same, whatever a target answers, and use a connection as often.
func TestTransportLikeNetHTTP(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
	long := strings.Repeat("metric 1\n", 20_000)
	never := make(chan struct{})
	t.Cleanup(func() { close(never) })
	say := func(text string) func(io.Writer, int) bool {
		return func(w io.Writer, _ int) bool {
			_, err := io.WriteString(w, text)
			return err == nil
		}
	}
	for name, script := range map[string]func(io.Writer, int) bool{
		"length":      say(head + "Content-Length: 6\r\n\r\nup 1\n\n"),
		"long":        say(fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", head, len(long), long)),
		"chunks":      say(head + "Transfer-Encoding: chunked\r\n\r\n3\r\nup \r\n2\r\n1\n\r\n0\r\n\r\n"),
		"trailer":     say(head + "Transfer-Encoding: chunked\r\nTrailer: X\r\n\r\n5\r\nup 1\n\r\n0\r\nX: y\r\n\r\n"),
		"empty":       say(head + "Content-Length: 0\r\n\r\n"),
		"no content":  say("HTTP/1.1 204 No Content\r\n\r\n"),
		"early hints": say("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + head + "Content-Length: 5\r\n\r\nup 1\n"),
		"only hints": func(w io.Writer, n int) bool {
			say(strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 10))(w, n)
			return false
		},
		"error":       say("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\n\r\nlater"),
		"says close":  say(head + "Connection: close\r\nContent-Length: 5\r\n\r\nup 1\n"),
		"until close": func(w io.Writer, n int) bool { say(head+"\r\nup 1\n")(w, n); return false },
		"HTTP/1.0": func(w io.Writer, n int) bool {
			say("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nup 1\n")(w, n)
			return false
		},
		"closes after each answer": func(w io.Writer, n int) bool { say(head+"Content-Length: 5\r\n\r\nup 1\n")(w, n); return false },
		"cut short":                func(w io.Writer, n int) bool { say(head+"Content-Length: 50\r\n\r\nup 1\n")(w, n); return false },
		"cut in a chunk": func(w io.Writer, n int) bool {
			say(head+"Transfer-Encoding: chunked\r\n\r\nff\r\nup 1\n")(w, n)
			return false
		},
		"bad chunk": func(w io.Writer, n int) bool {
			say(head+"Transfer-Encoding: chunked\r\n\r\nzz\r\n")(w, n)
			return false
		},
		"cut in the head":     func(w io.Writer, n int) bool { say("HTTP/1.1 200 OK\r\nContent-")(w, n); return false },
		"nothing":             func(io.Writer, int) bool { return false },
		"not HTTP":            func(w io.Writer, n int) bool { say("hello\r\n\r\n")(w, n); return false },
		"two lengths":         say(head + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nup 1\n"),
		"endless head":        func(w io.Writer, n int) bool { say(head+strings.Repeat("X: y\r\n", 2<<20))(w, n); return false },
		"switching protocols": func(w io.Writer, n int) bool { say("HTTP/1.1 101 Switching Protocols\r\n\r\n")(w, n); return false },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, connections := scripted(t, script)
			theirs := &http.Client{Transport: &http.Transport{DisableCompression: true}}
			ours := &http.Client{Transport: newTransport(theirs.Transport, (&net.Dialer{}).DialContext)}
			var want, got [3]fetched
			for i := range want {
				want[i] = ask(t, theirs, url, time.Minute)
			}
			used := connections.Swap(0)
			for i := range got {
				got[i] = ask(t, ours, url, time.Minute)
			}
			if got != want {
				t.Errorf("got %+v\nwant %+v", got, want)
			}
			if n := connections.Load(); n != used {
				t.Errorf("%d connections for 3 requests, net/http needs %d", n, used)
			}
			ours.CloseIdleConnections()
		})
	}
	for name, begin := range map[string]string{"silent": "", "stops in the head": "HTTP/1.1 200 OK\r\n", "stops in the body": head + "Content-Length: 50\r\n\r\nup 1\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, _ := scripted(t, func(w io.Writer, n int) bool { say(begin)(w, n); <-never; return false })
			client := &http.Client{Transport: newTransport(http.DefaultTransport, (&net.Dialer{}).DialContext)}
			if got := ask(t, client, url, 50*time.Millisecond); !got.failed || !got.timedOut {
				t.Errorf("%+v, want a timeout", got)
			}
		})
	}
}

// What follows an answer unasked is not taken for the next one.
func TestTransportTargetSaysTooMuch(t *testing.T) {
	url, connections := scripted(t, func(w io.Writer, _ int) bool {
		_, err := io.WriteString(w, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nup 1\nHTTP/1.1 200 OK\r\n")
		return err == nil
	})
	client := &http.Client{Transport: newTransport(http.DefaultTransport, (&net.Dialer{}).DialContext)}
	for i := range 3 {
		if got := ask(t, client, url, time.Minute); got.failed || got.body != "up 1\n" {
			t.Errorf("request %d: %+v", i, got)
		}
	}
	if n := connections.Load(); n != 3 {
		t.Errorf("%d connections, want one for each request", n)
	}
}

// A connection that its target has closed in the meantime costs nothing but a new one.
func TestTransportRepeatsOnStaleConnection(t *testing.T) {
	url, connections := scripted(t, func(w io.Writer, nth int) bool {
		if nth == 1 { // the second request of a connection meets one that is being closed
			return false
		}
		_, err := io.WriteString(w, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nup 1\n")
		return err == nil
	})
	client := &http.Client{Transport: newTransport(http.DefaultTransport, (&net.Dialer{}).DialContext)}
	for i := range 4 {
		if got := ask(t, client, url, time.Minute); got.failed || got.body != "up 1\n" {
			t.Errorf("request %d: %+v", i, got)
		}
	}
	if n := connections.Load(); n != 4 {
		t.Errorf("%d connections, want one for each request", n)
	}
}

func TestTransportUsesConnectionAgainAfterCompressedBody(t *testing.T) {
	var connections atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		fmt.Fprint(z, strings.Repeat("up 1\n", 10_000))
		z.Close()
	}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	client := &http.Client{Transport: newTransport(http.DefaultTransport, (&net.Dialer{}).DialContext)}
	memory := newMemory()
	for range 3 {
		response, err := client.Get(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		decoded, err := memory.decoder(response.Header.Get("Content-Encoding"), response.Body)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if n, err := b.ReadFrom(decoded); err != nil || n != 50_000 {
			t.Fatalf("%d bytes, %v", n, err)
		}
		decoded.Close()
		response.Body.Close()
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections for 3 requests", n)
	}
}

func TestTransportClosesConnectionsThatNobodyWants(t *testing.T) {
	here, there := net.Pipe()
	defer there.Close()
	tr := newTransport(http.DefaultTransport, nil)
	tr.put("a:80", here)
	tr.idle["a:80"][0].since = time.Now().Add(-idleTimeout)
	tr.swept = tr.idle["a:80"][0].since
	other, far := net.Pipe()
	defer far.Close()
	tr.put("b:80", other)
	if _, err := there.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the old connection: %v, want it closed", err)
	}
	if tr.take("a:80") != nil || tr.take("b:80") != other {
		t.Error("the new connection is not there, or the old one still is")
	}
}

// A target that does not answer occupies a connection and no buffer.
func TestTransportBuffersWhatHasBegun(t *testing.T) {
	const requests = 3
	asked, answer := make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked <- struct{}{}
		<-answer
		io.WriteString(w, "up 1\n")
	}))
	defer server.Close()
	tr := newTransport(http.DefaultTransport, (&net.Dialer{}).DialContext)
	var buffers atomic.Int64
	made := tr.exchanges.New
	tr.exchanges.New = func() any { buffers.Add(1); return made() }
	client := &http.Client{Transport: tr}
	var group sync.WaitGroup
	for range requests {
		group.Go(func() {
			if got := ask(t, client, server.URL, time.Minute); got.failed || got.body != "up 1\n" {
				t.Errorf("%+v", got)
			}
		})
	}
	for range requests {
		<-asked
	}
	if n := buffers.Load(); n != 0 {
		t.Errorf("%d buffers before anything came back", n)
	}
	close(answer)
	group.Wait()
	if n := buffers.Load(); n < 1 || n > requests {
		t.Errorf("%d buffers for %d answers", n, requests)
	}
}
