package events

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Queue is a list of events in Redis, as a sender sees it. It is for one goroutine at a time.
type Queue struct {
	conn     *redisConn
	key      string
	database int
}

// OpenQueue connects to the first of the servers that answers.
func OpenQueue(ctx context.Context, c RedisConfig) (*Queue, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	o, err := c.connect()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, endpoint := range o.endpoints {
		conn, err := dialRedis(ctx, o, endpoint, c.TLSConfig)
		if err == nil {
			return &Queue{conn: conn, key: c.Key, database: o.database}, nil
		}
		errs = append(errs, fmt.Errorf("connect to Redis at %s: %w", endpoint, err))
	}
	return nil, errors.Join(errs...)
}

// Close ends the connection.
func (q *Queue) Close() error { return q.conn.close() }

// Push sends payloads, each of which becomes an element, and returns how many elements the list has then. After an error
// nobody knows whether they are there.
func (q *Queue) Push(payloads ...string) (waiting int, err error) {
	a, err := q.conn.do(append([]string{"LPUSH", q.key}, payloads...)...)
	if err != nil {
		return 0, fmt.Errorf("push to %q: %w", q.key, err)
	}
	return int(a.n), nil
}

// Watch shows each payload that any sender pushes, until ctx ends; it takes nothing away. The server has to tell of all
// commands that it executes for that, which makes it slower as long as Watch is there. What show gets is its own. Elements
// that are not shown because their command was too long are counted.
func (q *Queue) Watch(ctx context.Context, show func(payload string)) (missed int, err error) {
	if _, err := q.conn.do("MONITOR"); err != nil {
		return 0, fmt.Errorf("watch %q: %w", q.key, err)
	}
	if err := q.conn.conn.SetDeadline(time.Time{}); err != nil {
		return 0, err
	}
	defer context.AfterFunc(ctx, func() { _ = q.conn.close() })()
	for {
		line, err := q.conn.in.ReadSlice('\n')
		whole := true
		for errors.Is(err, bufio.ErrBufferFull) {
			whole = false
			_, err = q.conn.in.ReadSlice('\n')
		}
		switch {
		case ctx.Err() != nil:
			return missed, nil
		case err != nil:
			return missed, fmt.Errorf("watch %q: %w", q.key, err)
		case !whole:
			missed++
			continue
		}
		for _, payload := range q.pushed(string(line)) {
			show(payload)
		}
	}
}

// pushed returns what a command that was executed has put into the list, as MONITOR tells of it:
//
//	+1339518083.107412 [0 127.0.0.1:60866] "lpush" "key" "payload"
func (q *Queue) pushed(line string) (payloads []string) {
	_, rest, ok := strings.Cut(line, " [")
	database, rest, between := strings.Cut(rest, " ")
	_, rest, closed := strings.Cut(rest, "] ")
	if !ok || !between || !closed || database != strconv.Itoa(q.database) {
		return nil
	}
	var args []string
	for {
		quoted, err := strconv.QuotedPrefix(rest)
		if err != nil {
			break
		}
		arg, err := strconv.Unquote(quoted)
		if err != nil {
			return nil
		}
		args = append(args, arg)
		rest = strings.TrimPrefix(rest[len(quoted):], " ")
	}
	if len(args) < 3 || args[1] != q.key || !strings.EqualFold(args[0], "LPUSH") && !strings.EqualFold(args[0], "RPUSH") {
		return nil
	}
	return args[2:]
}

// Check says of a payload what a gateway with the default limits, which knows no event yet, would do with each of its
// events: Taken, or why it would be dropped.
func Check(payload []byte) []Reason {
	var p Parser
	parsed, ok := p.Parse(payload)
	if !ok {
		return []Reason{Malformed}
	}
	c, now := DefaultConfig(), time.Now().UnixMilli()
	m := newMeta(&c)
	a := newAggregate(&c, m.names(), now)
	reasons := make([]Reason, len(parsed))
	for i := range parsed {
		reasons[i] = a.apply(&parsed[i], now)
	}
	return reasons
}
