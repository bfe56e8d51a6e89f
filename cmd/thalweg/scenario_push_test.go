package main

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// pushRequest is one of a client of a Pushgateway, on a connection of its own.
func pushRequest(method, url, body string, header http.Header) (code int, answer string, err error) {
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	if header != nil {
		r.Header = header
	}
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	a, err := client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	return a.StatusCode, string(text), err
}

// cmdGroup makes a request to a Pushgateway as a client does.
func cmdGroup(ts *testscript.TestScript, neg bool, args []string) {
	want, args := option(args, "code", "200")
	ttl, args := option(args, "ttl", "")
	token, args := option(args, "token", "")
	usageOf(ts, !neg && (len(args) == 2 || len(args) == 3), "group [-code=N] [-ttl=DURATION] [-token=TOKEN] METHOD URL [FILE]")
	body, header := "", http.Header{}
	if len(args) == 3 {
		body = ts.ReadFile(args[2])
	}
	if ttl != "" {
		header.Set("Thalweg-TTL", ttl)
	}
	if token != "" {
		header.Set("Authorization", "Bearer "+token)
	}
	code, answer, err := pushRequest(args[0], args[1], body, header)
	if err != nil || strconv.Itoa(code) != want {
		of(ts).fail(ts, "%s %s: code %d, want %s, %v\n%s", args[0], args[1], code, want, err, answer)
	}
	fmt.Fprint(ts.Stdout(), answer)
}

// pushers are clients that push to groups of their own, each a number that grows, one push after the other.
type pushers struct {
	stop  chan struct{}
	once  sync.Once
	tasks sync.WaitGroup

	mu       sync.Mutex
	sent     []int // by client, the last number that was sent
	answered []int // and the last one that was answered with 200
}

// cmdPushers lets clients push until push-no-more. They do not mind that nobody answers.
func cmdPushers(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, !neg && len(args) == 3, "pushers NAME ADDRESS N")
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	p := &pushers{stop: make(chan struct{}), sent: make([]int, n), answered: make([]int, n)}
	of(ts).pushers[args[0]] = p
	for i := range n {
		p.tasks.Go(func() { p.push(i, fmt.Sprintf("http://%s/metrics/job/pushers/instance/i%d", args[1], i)) })
	}
}

func (p *pushers) push(i int, url string) {
	pause := time.NewTicker(5 * time.Millisecond)
	defer pause.Stop()
	for n := 1; ; n++ {
		p.mu.Lock()
		p.sent[i] = n
		p.mu.Unlock()
		if code, _, err := pushRequest(http.MethodPut, url, fmt.Sprintf("pushed_number %d\n", n), nil); err == nil && code == http.StatusOK {
			p.mu.Lock()
			p.answered[i] = n
			p.mu.Unlock()
		}
		select {
		case <-p.stop:
			return
		case <-pause.C:
		}
	}
}

// cmdPushed waits until clients have had N answers more, each of them.
func cmdPushed(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, !neg && len(args) == 2, "pushed NAME N")
	p := of(ts).pushers[args[0]]
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	p.mu.Lock()
	before := append([]int(nil), p.answered...)
	p.mu.Unlock()
	eventually(ts, func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		for i := range p.answered {
			if p.answered[i] < before[i]+n {
				return fmt.Errorf("client %d had an answer to push %d, and before to %d", i, p.answered[i], before[i])
			}
		}
		return nil
	})
}

// cmdPushNoMore ends clients.
func cmdPushNoMore(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, !neg && len(args) == 1, "push-no-more NAME")
	of(ts).pushers[args[0]].end()
}

func (p *pushers) end() {
	p.once.Do(func() { close(p.stop) })
	p.tasks.Wait()
}

// cmdEveryPush holds that a Pushgateway has of every client what was answered, or something later that was sent.
func cmdEveryPush(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, !neg && len(args) == 2, "every-push NAME URL")
	p := of(ts).pushers[args[0]]
	p.mu.Lock()
	answered := append([]int(nil), p.answered...)
	p.mu.Unlock()
	code, text, err := request("GET", args[1])
	if err != nil || code != http.StatusOK {
		of(ts).fail(ts, "GET %s: code %d, %v", args[1], code, err)
	}
	p.mu.Lock()
	sent := append([]int(nil), p.sent...)
	p.mu.Unlock()
	found := map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^pushed_number\{.*instance="i(\d+)".*\} (\d+)`).FindAllStringSubmatch(text, -1) {
		n, err := strconv.Atoi(m[2])
		ts.Check(err)
		found[m[1]] = n
	}
	for i := range answered {
		if n, ok := found[strconv.Itoa(i)]; !ok || n < answered[i] || n > sent[i] {
			of(ts).fail(ts, "client %d had an answer to push %d and has sent %d, and there is %d, %t", i, answered[i], sent[i], n, ok)
		}
	}
}
