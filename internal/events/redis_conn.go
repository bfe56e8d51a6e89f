package events

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/common/config"
)

// redisConn speaks RESP 2 with a Redis server. It never repeats a command: what a lost answer leaves open, only its user
// can find out. After an error it is of no use.
type redisConn struct {
	conn    net.Conn
	in      *bufio.Reader
	out     []byte
	timeout time.Duration
	wait    time.Duration // what the server may wait before it answers
}

// redisError is what a server answers to a command that it does not carry out.
type redisError string

func (e redisError) Error() string {
	if where, moved := strings.CutPrefix(string(e), "MOVED "); moved {
		_, node, _ := strings.Cut(where, " ")
		return fmt.Sprintf("the key belongs to node %s of a Redis cluster; name that one in redis.address", node)
	}
	return string(e)
}

// errRESP is an answer that is no answer.
var errRESP = errors.New("the answer is not of the Redis protocol")

// servers are those of a configuration, of which one is used at a time. They are safe for concurrent use.
type servers struct {
	config *RedisConfig
	next   atomic.Int64 // which one
}

// dial connects to the server whose turn it is. If that cannot be, it is the next one's.
func (s *servers) dial(ctx context.Context) (*redisConn, error) {
	o, err := s.config.connect()
	if err != nil {
		return nil, err
	}
	endpoint := s.of(o)
	conn, err := dialRedis(ctx, o, endpoint, s.config.TLSConfig)
	if err != nil {
		s.next.Add(1)
		return nil, fmt.Errorf("connect to %s: %w", endpoint, err)
	}
	return conn, nil
}

func (s *servers) of(o *connection) string { return o.endpoints[s.next.Load()%int64(len(o.endpoints))] }

// failed is told why a connection is not used any more. A server that refuses what it is asked, for it is a replica or
// loading, has had its turn.
func (s *servers) failed(err error) {
	if isRedisError(err) {
		s.next.Add(1)
	}
}

// inUse is the address of the server whose turn it is.
func (s *servers) inUse() string {
	o, err := parseConnection(s.config.Address)
	if err != nil {
		return ""
	}
	return s.of(o)
}

// dialRedis connects to an endpoint, logs in and selects the database.
func dialRedis(ctx context.Context, o *connection, endpoint string, tlsConfig *config.TLSConfig) (_ *redisConn, err error) {
	dialer := net.Dialer{Timeout: o.connectTimeout, KeepAlive: 15 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", endpoint)
	if err != nil {
		return nil, err
	}
	if o.tls || tlsConfig != nil {
		if conn, err = startTLS(ctx, conn, o, endpoint, tlsConfig); err != nil {
			return nil, err
		}
	}
	c := newRedisConn(conn, o.timeout)
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	if o.password != "" {
		args := []string{"AUTH", o.password}
		if o.user != "" {
			args = []string{"AUTH", o.user, o.password}
		}
		if _, err := c.do(args...); err != nil {
			return nil, fmt.Errorf("log in: %w", err)
		}
	}
	if _, err := c.do("SELECT", strconv.Itoa(o.database)); err != nil {
		return nil, fmt.Errorf("select database %d: %w", o.database, err)
	}
	if _, err := c.do("CLIENT", "SETNAME", o.clientName); err != nil && !isRedisError(err) {
		return nil, err
	}
	return c, nil
}

func newRedisConn(conn net.Conn, timeout time.Duration) *redisConn {
	c := &redisConn{conn: conn, timeout: timeout}
	c.in = bufio.NewReaderSize(progress{c}, 256<<10)
	return c
}

// progress reads what the server sends. The timeout is that of each piece: an answer may be long, and the link slow.
type progress struct{ *redisConn }

func (p progress) Read(b []byte) (int, error) {
	if err := p.conn.SetReadDeadline(time.Now().Add(p.timeout + p.wait)); err != nil {
		return 0, err
	}
	return p.conn.Read(b)
}

func startTLS(ctx context.Context, conn net.Conn, o *connection, endpoint string, c *config.TLSConfig) (net.Conn, error) {
	if c == nil {
		c = &config.TLSConfig{}
	}
	settings, err := config.NewTLSConfig(c)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("tls: %w", err), conn.Close())
	}
	if settings.ServerName == "" {
		settings.ServerName, _, _ = net.SplitHostPort(endpoint)
		if o.tlsHost != "" {
			settings.ServerName = o.tlsHost
		}
	}
	secure := tls.Client(conn, settings)
	ctx, cancel := context.WithTimeout(ctx, o.connectTimeout)
	defer cancel()
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("tls: %w", err), conn.Close())
	}
	return secure, nil
}

func isRedisError(err error) bool {
	_, is := errors.AsType[redisError](err)
	return is
}

// isFull reports whether a server refused a command for want of memory.
func isFull(err error) bool {
	e, is := errors.AsType[redisError](err)
	return is && strings.HasPrefix(string(e), "OOM ")
}

func (c *redisConn) close() error { return c.conn.Close() }

// send puts a command behind those that will be sent by flush.
func (c *redisConn) send(args ...string) {
	c.out = append(strconv.AppendInt(append(c.out, '*'), int64(len(args)), 10), "\r\n"...)
	for _, a := range args {
		c.out = append(strconv.AppendInt(append(c.out, '$'), int64(len(a)), 10), "\r\n"...)
		c.out = append(append(c.out, a...), "\r\n"...)
	}
}

// flush sends commands. Their answers have to begin, and to go on, within the timeout and what the server may wait in
// addition.
func (c *redisConn) flush(wait time.Duration) error {
	c.wait = wait
	if err := c.conn.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
		return err
	}
	_, err := c.conn.Write(c.out)
	c.out = c.out[:0]
	return err
}

// do sends a command and waits for its answer.
func (c *redisConn) do(args ...string) (answer, error) {
	c.send(args...)
	if err := c.flush(0); err != nil {
		return answer{}, err
	}
	return c.receive()
}

// answer is a number, a string, a list, or nil.
type answer struct {
	n    int64
	text []byte
	list []answer
	null bool
}

// receive reads an answer, which may be a redisError.
func (c *redisConn) receive() (answer, error) {
	kind, line, err := c.line()
	if err != nil {
		return answer{}, err
	}
	switch kind {
	case '+':
		return answer{text: append([]byte(nil), line...)}, nil
	case '-':
		return answer{}, redisError(line)
	}
	n, err := strconv.ParseInt(string(line), 10, 64)
	if err != nil {
		return answer{}, errRESP
	}
	switch {
	case kind == ':':
		return answer{n: n}, nil
	case n < 0:
		return answer{null: true}, nil
	case kind == '$':
		text, err := c.bulk(nil, n)
		return answer{text: text}, err
	case kind == '*':
		var a answer
		for range n {
			element, err := c.receive()
			if err != nil {
				return answer{}, err
			}
			a.list = append(a.list, element)
		}
		return a, nil
	}
	return answer{}, errRESP
}

// line reads the first line of an answer: a byte that says what it is, and more.
func (c *redisConn) line() (kind byte, rest []byte, err error) {
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return 0, nil, err
	}
	if len(line) < 3 || line[len(line)-2] != '\r' {
		return 0, nil, errRESP
	}
	return line[0], line[1 : len(line)-2], nil
}

// maxBulk bounds an element: Redis has none beyond.
const maxBulk = 512 << 20

// bulk appends a string of n bytes.
func (c *redisConn) bulk(dst []byte, n int64) ([]byte, error) {
	if n > maxBulk {
		return dst, errRESP
	}
	first, size := len(dst), int(n)+2
	dst = slices.Grow(dst, size)[:first+size]
	if _, err := io.ReadFull(c.in, dst[first:]); err != nil {
		return dst[:first], err
	}
	if dst[len(dst)-2] != '\r' {
		return dst[:first], errRESP
	}
	return dst[:len(dst)-2], nil
}

// head appends the first bytes of a string, and passes over the others.
func (c *redisConn) head(dst []byte, first int, n int64) ([]byte, error) {
	at := len(dst)
	dst = slices.Grow(dst, first)[:at+first]
	if _, err := io.ReadFull(c.in, dst[at:]); err != nil {
		return dst[:at], err
	}
	_, err := io.CopyN(io.Discard, c.in, n-int64(first)+2)
	return dst, err
}

// page is elements of a list. Its memory is used again.
type page struct {
	data []byte
	ends []int
	sent int64 // how many bytes the server sent for it
}

func (p *page) len() int { return len(p.ends) }

func (p *page) at(i int) []byte {
	first := 0
	if i > 0 {
		first = p.ends[i-1]
	}
	return p.data[first:p.ends[i]:p.ends[i]]
}

// receivePage reads a list of strings, which is what LRANGE answers. Of those longer than limit it keeps one byte more.
func (c *redisConn) receivePage(p *page, limit int) error {
	p.data, p.ends, p.sent = p.data[:0], p.ends[:0], 0
	kind, line, err := c.line()
	if err != nil {
		return err
	}
	if kind == '-' {
		return redisError(line)
	}
	n, ok := decimal(line)
	if !ok || kind != '*' {
		return errRESP
	}
	for range n {
		kind, line, err := c.line()
		if err != nil {
			return err
		}
		size, ok := decimal(line)
		if !ok || kind != '$' {
			return errRESP
		}
		p.sent += size
		if size > int64(limit) {
			p.data, err = c.head(p.data, limit+1, size)
		} else {
			p.data, err = c.bulk(p.data, size)
		}
		if err != nil {
			return err
		}
		p.ends = append(p.ends, len(p.data))
	}
	return nil
}

// decimal reads a number that is not negative.
func decimal(line []byte) (n int64, ok bool) {
	for _, c := range line {
		if c < '0' || c > '9' || n > maxBulk {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, len(line) > 0
}
