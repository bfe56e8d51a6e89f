package bustest

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Proxy forwards TCP connections and harms them on command.
type Proxy struct {
	listener net.Listener
	wait     sync.WaitGroup

	mu          sync.Mutex
	target      string
	links       map[*link]struct{}
	loseAnswers bool
	refuse      bool
	delay       time.Duration
	lost        int
	accepted    int
	closed      bool
}

// link is one forwarded connection.
type link struct {
	client, server net.Conn
	damaged        bool // bytes are missing, so it cannot go on
}

func (l *link) close() {
	l.client.Close()
	l.server.Close()
}

// NewProxy forwards to a host and port.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: listener, target: target, links: map[*link]struct{}{}}
	p.wait.Add(1)
	go p.accept()
	t.Cleanup(p.close)
	return p
}

// Addr is the host and port the proxy listens on.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// URL is Addr for a NATS client.
func (p *Proxy) URL() string { return "nats://" + p.Addr() }

// LoseAnswers swallows what the server sends, from now on, while what clients send still arrives. Switched off, it
// cuts the connections that lost something.
func (p *Proxy) LoseAnswers(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loseAnswers = on
	for l := range p.links {
		if l.damaged && !on {
			l.close()
		}
	}
}

// LostBytes counts what LoseAnswers has swallowed.
func (p *Proxy) LostBytes() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

// Accepted counts the connections that clients made.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// Refuse closes new connections at once.
func (p *Proxy) Refuse(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = on
}

// Delay holds back everything by d.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Cut closes all connections there are.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.close()
	}
}

func (p *Proxy) close() {
	p.listener.Close()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.Cut()
	p.wait.Wait()
}

func (p *Proxy) accept() {
	defer p.wait.Done()
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.wait.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer client.Close()
	p.mu.Lock()
	p.accepted++
	refuse, target := p.refuse, p.target
	p.mu.Unlock()
	if refuse {
		return
	}
	server, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	l := &link{client: client, server: server}
	defer l.close()
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.links[l] = struct{}{}
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.forward(l, server, client, false) })
	both.Go(func() { p.forward(l, client, server, true) })
	both.Wait()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

func (p *Proxy) forward(l *link, to io.Writer, from io.Reader, answers bool) {
	defer l.close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		lose, delay := answers && p.loseAnswers, p.delay
		if lose {
			l.damaged = true
			p.lost += n
		}
		p.mu.Unlock()
		if lose {
			continue
		}
		if delay > 0 {
			time.Sleep(delay) // the fault itself, not a wait for something
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}
