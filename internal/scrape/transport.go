package scrape

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"sync"
	"time"

	commonconfig "github.com/prometheus/common/config"
)

const (
	// idleTimeout is how long a connection is kept for the next scrape, as in Prometheus.
	idleTimeout = 5 * time.Minute
	// maxResponseHeader bounds what a target can make us hold, 1xx answers included, before the body_size_limit counts.
	maxResponseHeader = 1 << 20
	// readSize is how much is read at once: many exporters write 2 to 4 kB at a time.
	readSize = 64 << 10
)

// transport sends GET requests over plain HTTP/1.1 without goroutines of its own: the one that scrapes writes the
// request and reads the answer. To parse a body takes so little that http.Transport, which hands each request to one
// goroutine and its answer to another, would be most of what a scrape costs; its goroutines and buffers would be a
// large part of what a target occupies. Whatever is not plain goes to the http.Transport behind it. Safe for concurrent
// use.
type transport struct {
	other http.RoundTripper // for TLS, and hosts that have to be encoded
	dial  func(ctx context.Context, network, address string) (net.Conn, error)

	exchanges sync.Pool // of *exchange

	mu    sync.Mutex
	idle  map[string][]idleConn // by address, the one used last at the end
	swept time.Time
}

type idleConn struct {
	net.Conn
	since time.Time
}

// exchange has the buffer for an answer that has begun.
type exchange struct {
	limited io.LimitedReader // between the connection and reader
	reader  *bufio.Reader
}

// isPlain reports whether requests need nothing beside a connection to the target. What such a configuration says about
// TLS counts for https only.
func isPlain(c *commonconfig.HTTPClientConfig) bool {
	return c.BasicAuth == nil && c.Authorization == nil && c.OAuth2 == nil && c.BearerToken == "" && c.BearerTokenFile == "" &&
		c.HTTPHeaders == nil && c.ProxyURL.URL == nil && !c.ProxyFromEnvironment
}

func newTransport(other http.RoundTripper, dial func(ctx context.Context, network, address string) (net.Conn, error)) *transport {
	t := &transport{other: other, dial: dial, idle: map[string][]idleConn{}, swept: time.Now()}
	t.exchanges.New = func() any {
		x := &exchange{}
		x.reader = bufio.NewReaderSize(&x.limited, readSize)
		return x
	}
	return t
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(request *http.Request) (*http.Response, error) {
	u := request.URL
	if u.Scheme != "http" || request.Method != http.MethodGet || request.Body != nil && request.Body != http.NoBody || !isASCII(u.Host) {
		return t.other.RoundTrip(request)
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	address := net.JoinHostPort(u.Hostname(), port)
	if conn := t.take(address); conn != nil {
		// The target may have closed it since. A GET can be repeated if not a byte of the answer came.
		response, err := t.do(request, conn, address, true)
		if stale := (*staleError)(nil); !errors.As(err, &stale) {
			return response, err
		}
	}
	conn, err := t.dial(request.Context(), "tcp", address)
	if err != nil {
		return nil, err
	}
	return t.do(request, direct(conn), address, false)
}

func isASCII(s string) bool {
	return !slices.ContainsFunc([]byte(s), func(c byte) bool { return c >= 0x80 })
}

// staleError says that nothing came back over a connection that had been used before.
type staleError struct{ err error }

func (e *staleError) Error() string { return e.err.Error() }
func (e *staleError) Unwrap() error { return e.err }

// do sends the request and reads the head of the answer. The connection belongs to the body then, or is closed.
func (t *transport) do(request *http.Request, conn net.Conn, address string, reused bool) (*http.Response, error) {
	ctx := request.Context()
	if trace := httptrace.ContextClientTrace(ctx); trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{Conn: conn, Reused: reused})
	}
	b := &body{
		transport: t, conn: conn, address: address, ctx: ctx,
		// The only deadline there is, so that whatever fails by it fails with ctx done.
		stop: context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }),
	}
	response, err := b.begin(request)
	if err != nil {
		b.finish(false)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if stale := (*staleError)(nil); !reused && errors.As(err, &stale) {
			return nil, stale.err
		}
		return nil, err
	}
	b.source, b.reusable = response.Body, !response.Close && response.StatusCode != http.StatusSwitchingProtocols
	response.Body = b
	if response.ContentLength == 0 {
		b.finish(b.reusable)
	}
	return response, nil
}

// begin writes the request, and reads the head of the answer. Targets take their time before they answer, and many may
// do so at once: what is large is taken when the first byte is there.
func (b *body) begin(request *http.Request) (*http.Response, error) {
	var sent bytes.Buffer
	if err := request.Write(&sent); err != nil {
		return nil, fmt.Errorf("write request: %w", err)
	}
	if _, err := b.conn.Write(sent.Bytes()); err != nil {
		return nil, &staleError{fmt.Errorf("write request: %w", err)}
	}
	a := &startedConn{conn: b.conn}
	if _, err := io.ReadFull(b.conn, a.first[:]); err != nil {
		return nil, &staleError{fmt.Errorf("read answer: %w", err)}
	}
	b.exchange = b.transport.exchanges.Get().(*exchange)
	return b.exchange.head(request, a)
}

// startedConn is a connection whose first byte has been read.
type startedConn struct {
	conn  net.Conn
	first [1]byte
	begun bool // first has been given out
}

func (a *startedConn) Read(p []byte) (int, error) {
	if a.begun || len(p) == 0 {
		return a.conn.Read(p)
	}
	a.begun = true
	return copy(p, a.first[:]), nil
}

// head reads the head of an answer.
func (x *exchange) head(request *http.Request, a *startedConn) (*http.Response, error) {
	x.limited = io.LimitedReader{R: a, N: maxResponseHeader}
	x.reader.Reset(&x.limited)
	for {
		response, err := http.ReadResponse(x.reader, request)
		if err != nil {
			if x.limited.N <= 0 {
				err = fmt.Errorf("longer than %d bytes", maxResponseHeader)
			}
			return nil, fmt.Errorf("read head of answer: %w", err)
		}
		if response.StatusCode >= 200 || response.StatusCode == http.StatusSwitchingProtocols {
			x.limited.N = math.MaxInt64
			return response, nil
		}
	}
}

// body is that of an answer. It gives the connection back when it has been read to its end.
type body struct {
	transport *transport
	conn      net.Conn
	address   string
	ctx       context.Context // of the request, whose end ends reading
	stop      func() bool
	exchange  *exchange // nil until the answer begins
	finished  bool
	source    io.Reader
	reusable  bool
}

func (b *body) Read(p []byte) (int, error) {
	if b.finished {
		return 0, io.EOF
	}
	n, err := b.source.Read(p)
	if err == nil {
		return n, nil
	}
	ended := err == io.EOF
	if !ended && b.ctx.Err() != nil {
		err = b.ctx.Err()
	}
	b.finish(ended && b.reusable)
	return n, err
}

func (b *body) Close() error {
	b.finish(false) // does nothing if it was read to its end
	return nil
}

// finish lets go of the connection, and keeps it for the next request if it can be used again.
func (b *body) finish(reusable bool) {
	if b.finished {
		return
	}
	b.finished = true
	untouched := b.stop() // its deadline was not set
	x := b.exchange
	if reusable && untouched && x.reader.Buffered() == 0 {
		b.transport.put(b.address, b.conn)
	} else {
		_ = b.conn.Close() // nothing was to be written any more
	}
	if x != nil {
		x.limited.R = nil
		b.transport.exchanges.Put(x)
	}
}

// take returns the connection to the address that was used last, nil if there is none.
func (t *transport) take(address string) net.Conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := t.idle[address]
	if len(list) == 0 {
		return nil
	}
	last := list[len(list)-1]
	t.idle[address] = list[:len(list)-1]
	return last.Conn
}

// put keeps a connection, and closes those that nobody has wanted for a long time.
func (t *transport) put(address string, conn net.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	t.idle[address] = append(t.idle[address], idleConn{conn, now})
	if now.Sub(t.swept) >= idleTimeout {
		t.swept = now
		t.closeIdle(now.Add(-idleTimeout))
	}
}

// closeIdle closes the connections that have been idle since that time or longer.
func (t *transport) closeIdle(since time.Time) {
	for address, list := range t.idle {
		list = slices.DeleteFunc(list, func(c idleConn) bool {
			old := !c.since.After(since)
			if old {
				_ = c.Close()
			}
			return old
		})
		if t.idle[address] = list; len(list) == 0 {
			delete(t.idle, address)
		}
	}
}

// CloseIdleConnections is called by the method of http.Client of that name.
func (t *transport) CloseIdleConnections() {
	t.mu.Lock()
	t.closeIdle(time.Now())
	t.mu.Unlock()
	if c, ok := t.other.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
