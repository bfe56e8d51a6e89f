package events

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// terms of a lease. Whoever holds it says so every beat, and relies on it for valid after the last time the server heard
// that; others take it when they have watched it stand still for patience. patience is more than valid, and clocks of
// different machines need only run at the same speed.
type terms struct {
	beat, valid, patience time.Duration
}

var defaultTerms = terms{beat: 2 * time.Second, valid: 6 * time.Second, patience: 8 * time.Second}

// lease is the right to take claims that begin with a prefix. One gateway has it at a time: which one stands in the key
// head, in which it counts. The server compares its token before it changes anything for it; so whoever stood still, or was
// cut off, and was taken for dead, cannot claim or write any more. It is safe for concurrent use.
type lease struct {
	g        *Gateway
	servers  *servers
	prefix   string
	token    string // of this tenure
	place    string // of the directory, which has one life at a time
	name     string // for people
	replicas bool

	talking sync.Mutex
	conn    *redisConn // nil: there is none; used with talking

	mu      sync.Mutex
	renewed time.Time // when what the server was last told was sent
	lose    context.CancelCauseFunc
	last    uint64   // highest number of a record of replicas that the server is known to have had
	tokens  []string // that the server is known to have had, the last ones
}

// tokensKnown is how many tokens of holders a lease keeps.
const tokensKnown = 16

// errLost ends what a gateway does for as long as it holds the lease.
var errLost = errors.New("another gateway takes the events")

func newLease(g *Gateway, c *RedisConfig, prefix string) *lease {
	host, err := os.Hostname()
	if err != nil {
		host = g.options.Site // for people, and no other than before
	}
	return &lease{
		g: g, servers: &servers{config: c}, prefix: prefix, token: rand.Text(), place: place(host, g.options.Dir),
		name: g.options.Site + " on " + host, replicas: c.Replicas,
	}
}

func (l *lease) terms() terms { return l.g.terms }

func (l *lease) key(name string) string { return l.prefix + name }

// head is who holds a lease, as the server has it. Everything is empty if nobody ever did.
type head struct {
	token, beat, place, holder string
	number, at                 string // of the last record of replicas, and its position
}

// duty is what a gateway does about a lease.
type duty struct {
	// watch is told who has it, and whether that is to be this gateway now, which it can refuse.
	watch func(h head, mine bool) error
	// work is done for as long as this gateway has it: ctx ends with it. It is told who had it before.
	work func(ctx context.Context, before head) error
}

// hold has a duty done until ctx ends. It returns what the last work returned, and leaves the lease to release.
func (l *lease) hold(ctx context.Context, d duty) (err error) {
	for wait := retryAtLeast; ; wait = min(2*wait, retryAtMost) {
		var worked bool
		worked, err = l.tenure(ctx, d)
		if ctx.Err() != nil {
			return err
		}
		if worked {
			wait = retryAtLeast
		}
		if err != nil && !errors.Is(err, errLost) {
			l.g.fail(err, l.servers.inUse())
		}
		select {
		case <-time.After(wait/2 + mathrand.N(wait/2)):
		case <-ctx.Done():
			return nil
		}
	}
}

// tenure waits for the lease, and has work done for as long as it lasts. It reports whether it came to that.
func (l *lease) tenure(ctx context.Context, d duty) (worked bool, err error) {
	before, err := l.acquire(ctx, d)
	if err != nil {
		l.drop()
		if ctx.Err() != nil {
			return false, nil
		}
		return false, err
	}
	l.g.metrics.holds.Set(1)
	l.g.metrics.takeovers.Inc()
	tenure, lose := context.WithCancelCause(ctx)
	l.mu.Lock()
	l.lose = lose
	l.mu.Unlock()
	var beats sync.WaitGroup
	beats.Go(func() { l.beat(tenure) })
	err = d.work(tenure, before)
	lose(nil)
	beats.Wait()
	l.g.metrics.holds.Set(0)
	switch {
	case ctx.Err() != nil: // it is left to whoever called
		return true, err
	case err != nil:
		l.release(ctx) // to somebody who can do with it
	default:
		l.drop()
	}
	l.token = rand.Text() // whoever finds the old one in Redis later knows that it is an older copy
	return true, err
}

// acquire waits until the lease is this gateway's own. It returns who had it before.
func (l *lease) acquire(ctx context.Context, d duty) (before head, err error) {
	every := time.NewTicker(l.terms().patience / 16)
	defer every.Stop()
	var seen head
	var since time.Time
	for {
		asked := time.Now()
		h, err := l.look(ctx)
		if err != nil {
			return h, err
		}
		// A server that stood still itself says nothing of who holds the lease.
		slow := time.Since(asked) > l.terms().beat/2
		if since.IsZero() || slow || h.token != seen.token || h.beat != seen.beat {
			seen, since = h, time.Now()
		}
		mine := l.free(h) || time.Since(since) >= l.terms().patience
		l.note(h)
		if err := d.watch(h, mine); err != nil {
			return h, err
		}
		if mine {
			held, err := l.take(ctx, h)
			if held {
				l.begin(h)
			}
			if held || err != nil {
				return h, err
			}
		}
		select {
		case <-every.C:
		case <-ctx.Done():
			return h, ctx.Err()
		}
	}
}

// wasOwn reports whether the last holder was a process of this directory, since whatever start of the machine.
func (l *lease) wasOwn(h head) bool {
	_, own, _ := strings.Cut(l.place, " ")
	_, last, _ := strings.Cut(h.place, " ")
	return own != "" && own == last
}

// free reports whether nobody who lives has the lease: it was given up, or its holder was a process of this directory.
// Replicas wait, too, when there is nothing at all, or less than there was: their server has forgotten who has it, who will
// come back.
func (l *lease) free(h head) bool {
	if l.replicas && l.rewound(h) {
		return false
	}
	return h.token == "" && (h.number != "" || !l.replicas) || h.place != "" && h.place == l.place
}

// rewound reports whether the server is known to have had later records of replicas.
func (l *lease) rewound(h head) bool {
	number, _ := strconv.ParseUint(h.number, 10, 64) // none: there is nothing
	l.mu.Lock()
	defer l.mu.Unlock()
	return number < l.last
}

// begin notes what the server has when the lease is taken, which counts from now on, be it less than it was.
func (l *lease) begin(h head) {
	l.mu.Lock()
	l.last = 0
	l.mu.Unlock()
	l.note(h)
}

// note remembers what the server has.
func (l *lease) note(h head) {
	number, _ := strconv.ParseUint(h.number, 10, 64)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = max(l.last, number)
	if h.token != "" && !slices.Contains(l.tokens, h.token) {
		l.tokens = append(l.tokens, h.token)
		l.tokens = l.tokens[max(0, len(l.tokens)-tokensKnown):]
	}
}

func (l *lease) look(ctx context.Context) (h head, err error) {
	a, err := l.do(ctx, func(c *redisConn) (answer, error) {
		return c.do("HMGET", l.key("head"), "token", "beat", "place", "holder", "number", "at")
	})
	if err != nil {
		return h, err
	}
	for i, field := range []*string{&h.token, &h.beat, &h.place, &h.holder, &h.number, &h.at} {
		if i < len(a.list) {
			*field = string(a.list[i].text)
		}
	}
	return h, nil
}

// take takes the lease if it is as it was seen, and renews one's own. It reports whether it is one's own now.
func (l *lease) take(ctx context.Context, seen head) (held bool, err error) {
	now := time.Now()
	a, err := l.do(ctx, func(c *redisConn) (answer, error) {
		return holdScript.run(c, []string{l.key("head"), l.key("none")}, l.token, l.place, l.name, seen.token, seen.beat)
	})
	if err != nil || a.n != 1 {
		return false, err
	}
	l.heard(now)
	return true, nil
}

// heard notes that the server took something from the holder that was sent then.
func (l *lease) heard(sent time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if sent.After(l.renewed) {
		l.renewed = sent
	}
}

// renew tells the server that the holder lives. If the server knows nobody, for it has forgotten everything, or has an older
// copy of it, the holder is who it was. If it is somebody else, the tenure ends, and the error is errLost.
func (l *lease) renew(ctx context.Context) error {
	held, err := l.take(ctx, head{})
	if err == nil && !held {
		held, err = l.retake(ctx)
	}
	if err == nil && !held {
		l.lost()
		err = errLost
	}
	return err
}

// retake takes the lease back if what the server has is of a time before this replica had it: its last record is an older
// one, and nobody has taken the lease since, for whoever stands there was known before, or others have not been patient yet.
func (l *lease) retake(ctx context.Context) (held bool, err error) {
	if !l.replicas {
		return false, nil
	}
	h, err := l.look(ctx)
	if err != nil || !l.rewound(h) {
		return false, err
	}
	l.mu.Lock()
	known := h.token == "" || slices.Contains(l.tokens, h.token) || time.Since(l.renewed) < l.terms().patience
	l.mu.Unlock()
	if !known {
		return false, nil
	}
	if held, err = l.take(ctx, h); held {
		l.g.options.Logger.Error("redis has come back with an older copy; this replica goes on, and writes its state anew", "holder_there", h.holder,
			"record_there", h.number)
	}
	return held, err
}

// beat renews the lease until ctx ends.
func (l *lease) beat(ctx context.Context) {
	for wait := l.terms().beat; ; {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		wait = l.terms().beat
		if err := l.renew(ctx); err != nil {
			wait = min(retryAtLeast, l.terms().beat)
		}
	}
}

// lost ends the tenure.
func (l *lease) lost() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.renewed = time.Time{}
	if l.lose != nil {
		l.lose(errLost)
	}
}

// valid reports whether nobody else can have the lease yet.
func (l *lease) valid() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Since(l.renewed) < l.terms().valid
}

// release deletes the claims that count, and gives up the lease, behind hold. What cannot be done for lack of a server, the
// next holder does.
func (l *lease) release(ctx context.Context) {
	defer l.drop()
	if !l.valid() {
		return
	}
	l.g.mu.Lock()
	low, seq := l.g.state.position.low, l.g.durable.seq
	l.g.mu.Unlock()
	keep := "0"
	if l.replicas {
		keep = "1"
	}
	_, err := l.do(context.WithoutCancel(ctx), func(c *redisConn) (answer, error) {
		for low < seq {
			last := min(seq, low+unlinkAtOnce)
			if err := l.unlink(c, low, last); err != nil {
				return answer{}, err
			}
			low = last
		}
		return releaseScript.run(c, []string{l.key("head")}, l.token, keep)
	})
	if err != nil {
		l.g.options.Logger.Warn("redis is not told that this gateway stops; the next one waits for a moment, or deletes what counts", "err", err)
	}
}

// claim is the key of a claim.
func (l *lease) claim(seq uint64) string { return l.prefix + strconv.FormatUint(seq, 10) }

// unlinkAtOnce is how many claims are deleted by one script.
const unlinkAtOnce = 100

// unlink deletes claims, from first up to, but not including, last, unless somebody else holds the lease: they may be his.
func (l *lease) unlink(c *redisConn, first, last uint64) error {
	keys := []string{l.key("head")}
	for n := first; n < last; n++ {
		keys = append(keys, l.claim(n))
	}
	a, err := unlinkScript.run(c, keys, l.token)
	if err == nil && a.n < 0 {
		err = errHolder
	}
	return err
}

// errHolder is the answer of a server to somebody who holds no lease that it knows of.
var errHolder = errors.New("the server did not know who takes the events")

// do has the server do something, over a connection that is made if there is none.
func (l *lease) do(ctx context.Context, what func(c *redisConn) (answer, error)) (answer, error) {
	l.talking.Lock()
	defer l.talking.Unlock()
	if l.conn == nil {
		conn, err := l.servers.dial(ctx)
		if err != nil {
			return answer{}, err
		}
		l.conn = conn
	}
	a, err := what(l.conn)
	if err != nil {
		_ = l.conn.close() // it is of no use
		l.conn = nil
		l.servers.failed(err)
	}
	return a, err
}

// reach returns an error if there is no connection and none can be made.
func (l *lease) reach(ctx context.Context) error {
	_, err := l.do(ctx, func(*redisConn) (answer, error) { return answer{}, nil })
	return err
}

// drop closes the connection.
func (l *lease) drop() {
	l.talking.Lock()
	defer l.talking.Unlock()
	if l.conn != nil {
		_ = l.conn.close() // nothing waits for an answer
		l.conn = nil
	}
}

// fail says that nothing can be had from Redis for now, or cannot be taken for want of a file.
func (g *Gateway) fail(err error, address string) {
	if isFileError(err) {
		g.setSource("no events can be taken: " + err.Error())
		g.repeats.Log(slog.LevelError, "file", "no events can be taken, for a file cannot be read or written; trying again", slog.Any("err", err))
		return
	}
	g.metrics.redisFails.Inc()
	g.metrics.redisUp.Set(0)
	g.setSource("no events can be taken from Redis: " + err.Error())
	g.repeats.Log(slog.LevelError, "redis", "no events can be taken from redis; trying again", slog.String("address", address), slog.Any("err", err))
}

// isFileError reports whether an error is about a file: of the state, or of a secret.
func isFileError(err error) bool {
	_, path := errors.AsType[*fs.PathError](err)
	_, link := errors.AsType[*os.LinkError](err)
	return path || link
}
