package bustest

import (
	"math"
	mathrand "math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

const (
	// segment is what one packet of a harmed link carries.
	segment = 1460
	// lossPause is the least that a lost packet costs: TCP does not send it again before.
	lossPause = 200 * time.Millisecond
	// queueTime is how much a link with a rate holds, as the queue of a router does, before it stops taking more.
	queueTime = 100 * time.Millisecond
	// inFlight is how many pieces of a connection are on their way at most.
	inFlight = 256
	// kernelQueue is what the operating system may hold beside that for a connection to a link with a rate.
	kernelQueue = 16 << 10
)

// Proxy is a link: it forwards TCP connections and harms them on command. Rate, latency and loss are those of the link,
// each direction for itself, and not of one connection. All methods may be called at any time.
type Proxy struct {
	listener net.Listener
	wait     sync.WaitGroup

	mu          sync.Mutex
	target      string
	links       map[*link]struct{}
	loseAnswers bool
	refuse      bool
	rate        int // bytes a second, 0 for no limit
	latency     time.Duration
	loss        float64
	resume      chan struct{} // closed when a stall ends; nil without one
	free        [2]time.Time  // when the link has sent what it took, by direction
	lost        int
	accepted    int
	closed      bool
}

// link is one forwarded connection.
type link struct {
	client, server net.Conn
	done           chan struct{} // closed by close
	once           sync.Once
	damaged        bool // bytes are missing, so it cannot go on
	forgotten      bool
}

func (l *link) close() {
	l.once.Do(func() {
		close(l.done)
		l.client.Close()
		l.server.Close()
	})
}

// piece is bytes on their way.
type piece struct {
	data []byte
	due  time.Time
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

// SetRate limits each direction to so many bytes a second; 0 ends the limit. Set before a connection is made, it keeps
// the system's buffers small, so that they do not hide how slow the link is.
func (p *Proxy) SetRate(bytesPerSecond int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate = bytesPerSecond
	p.free = [2]time.Time{}
}

// SetLatency sets the time that a byte and its answer need together; each direction takes half of it.
func (p *Proxy) SetLatency(roundTrip time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.latency = roundTrip
}

// SetLoss loses a share of the packets, 0 to 1. TCP sends them again: the stream of their connection is held up for a
// round trip, or 200 ms if that is more.
func (p *Proxy) SetLoss(share float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loss = share
}

// Stall holds everything that is on its way, ends of connections included, until it is switched off: the cable is out.
// New connections are accepted and hear nothing.
func (p *Proxy) Stall(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case on && p.resume == nil:
		p.resume = make(chan struct{})
	case !on && p.resume != nil:
		close(p.resume)
		p.resume = nil
	}
}

// Forget makes the connections there are half-open, for ever: nothing gets through them any more and neither side is
// told, as when a NAT forgets them. New ones work.
func (p *Proxy) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.forgotten = true
	}
}

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
	l := &link{client: client, server: server, done: make(chan struct{})}
	defer l.close()
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.links[l] = struct{}{}
	slow := p.rate > 0
	p.mu.Unlock()
	for _, c := range []net.Conn{client, server} {
		if slow && c.(*net.TCPConn).SetReadBuffer(kernelQueue) != nil {
			return
		}
	}
	var both sync.WaitGroup
	both.Go(func() { p.forward(l, server, client, 0) })
	both.Go(func() { p.forward(l, client, server, 1) })
	both.Wait()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// forward carries one direction, 1 for what the server sends, until it ends or the link is closed.
func (p *Proxy) forward(l *link, to, from net.Conn, direction int) {
	pieces := make(chan piece, inFlight)
	var sender sync.WaitGroup
	sender.Go(func() { p.send(l, to, pieces) })
	defer sender.Wait()
	defer close(pieces)
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf[:p.portion()])
		if err != nil {
			return
		}
		due, room, forward := p.schedule(l, n, direction)
		if !forward {
			continue
		}
		select {
		case pieces <- piece{append([]byte(nil), buf[:n]...), due}:
		case <-l.done:
			return
		}
		if !l.sleep(room) {
			return
		}
	}
}

// portion is how many bytes to take at once: as the link sends them if it is a bad one.
func (p *Proxy) portion() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rate > 0 || p.loss > 0 {
		return segment
	}
	return 64 << 10
}

// schedule says when bytes taken now arrive, when the link takes more, and whether they arrive at all.
func (p *Proxy) schedule(l *link, n, direction int) (due, room time.Time, forward bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.forgotten {
		return due, room, false
	}
	if direction == 1 && p.loseAnswers {
		l.damaged = true
		p.lost += n
		return due, room, false
	}
	due = time.Now()
	if p.rate > 0 {
		if free := p.free[direction]; free.After(due) {
			due = free
		}
		due = due.Add(time.Duration(n) * time.Second / time.Duration(p.rate))
		p.free[direction] = due
		room = due.Add(-queueTime)
	}
	due = due.Add(p.latency / 2)
	packets := math.Ceil(float64(n) / segment)
	if p.loss > 0 && mathrand.Float64() > math.Pow(1-p.loss, packets) {
		due = due.Add(max(p.latency, lossPause))
	}
	return due, room, true
}

// send writes the pieces when they are due, and passes the end of their direction on.
func (p *Proxy) send(l *link, to net.Conn, pieces <-chan piece) {
	for piece := range pieces {
		if !l.sleep(piece.due) || !p.flows(l) {
			break
		}
		if _, err := to.Write(piece.data); err != nil {
			break
		}
	}
	p.mu.Lock()
	forgotten := l.forgotten
	p.mu.Unlock()
	if forgotten { // the other side is not told
		<-l.done
	}
	if p.flows(l) {
		l.close()
	}
	for range pieces { // the reader ends by itself, as the link is closed
	}
}

// flows waits for the end of a stall; it is false if the link was closed before.
func (p *Proxy) flows(l *link) bool {
	p.mu.Lock()
	resume := p.resume
	p.mu.Unlock()
	if resume == nil {
		return true
	}
	select {
	case <-resume:
		return true
	case <-l.done:
		return false
	}
}

// sleep returns at a time, or at once with false when the link is closed. It is the fault itself, not a wait for
// something.
func (l *link) sleep(until time.Time) bool {
	d := time.Until(until)
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.done:
		return false
	}
}
