package events

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// pageElements is how many elements are read at a time, if pop_count is not more; firstPage with how many it begins.
	pageElements = 1000
	firstPage    = 32
	// pagesAhead are read while one is applied.
	pagesAhead = 2
	// idleWait is how long the server waits for an event before it says that there is none; firstWait what it is as long as
	// claims are to be deleted when they are in a checkpoint.
	idleWait  = 5 * time.Second
	firstWait = time.Second
	// fullPause is between two looks for events while the memory of the server is full.
	fullPause = time.Second
	// claimEvery bounds how often lists of a few events are claimed, so that they become fewer.
	claimEvery = 10 * time.Millisecond
	fewEvents  = 200
	// pendingEvery is how often it is looked how many events wait.
	pendingEvery = time.Second

	retryAtLeast = 100 * time.Millisecond
	retryAtMost  = 5 * time.Second
	// targetPageBytes is how long pages are of elements of which pageElements would be longer; maxPageBytes bounds the memory
	// that they keep.
	targetPageBytes = 1 << 20
	maxPageBytes    = 4 << 20
)

// redisSource takes events from a list of a Redis server, each once, whatever happens to this process or to answers.
//
// The list is claimed as a whole, by renaming it to a key with a number, which only the holder of the lease can. A claim does
// not change any more: its elements are read from the right, and how many of which claim have been applied is written with
// what they came to. What stands in a claim and not in that checkpoint is read again after a crash. A claim is deleted when
// a checkpoint says that it is done.
type redisSource struct {
	*Gateway
	config  *RedisConfig
	lease   *lease
	adopt   bool     // the state does not know which claims there are
	adopted []uint64 // numbers of those that were found, ascending
	claimed time.Time
	counted time.Time

	limit int // of an element, in bytes; a reload does not change it
	conn  *redisConn
	pages chan *page
	size  uint64   // of the next page, in elements
	dead  []string // to be pushed to dead_letter_key
}

// newRedisSource takes claims under a lease.
func newRedisSource(g *Gateway, c *RedisConfig, l *lease) *redisSource {
	s := &redisSource{Gateway: g, config: c, lease: l, pages: make(chan *page, pagesAhead+1), size: firstPage}
	for range cap(s.pages) {
		s.pages <- &page{}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	s.limit = int(g.options.Config.Limits.EventBytes)
	if g.state.position.seq == 0 {
		g.state.position.low, g.state.position.seq = 1, 1
		s.adopt = true
	}
	return s
}

// claimPrefix is what the keys of claims of a gateway begin with, which it knows by an id that is made once for a directory.
func (c *RedisConfig) claimPrefix(id string) string {
	// A cluster keeps keys together that have the same text in braces.
	queue := c.Key
	if !strings.Contains(queue, "{") {
		queue = "{" + queue + "}"
	}
	return queue + ":claim:" + id + ":"
}

// readID returns what a file says, which is made if it is not there.
func readID(name string) (string, error) {
	data, err := os.ReadFile(name)
	if id := strings.TrimSpace(string(data)); err == nil && id != "" {
		return id, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	id := make([]byte, 8)
	rand.Read(id)
	text := hex.EncodeToString(id)
	return text, writeFile(name, text)
}

// writeFile makes a file durable that holds a line of text.
func writeFile(name, text string) error {
	f, err := os.OpenFile(name+newSuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(name+newSuffix, name); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

// run takes events whenever this gateway has the lease, until ctx ends.
func (s *redisSource) run(ctx context.Context) {
	_ = s.lease.hold(ctx, duty{watch: s.watch, work: func(ctx context.Context, _ head) error { // which returns none
		s.sessions(ctx)
		return nil
	}})
}

// watch says why no events are taken, if another gateway has the lease.
func (s *redisSource) watch(h head, mine bool) error {
	if mine {
		return nil
	}
	s.setSource(fmt.Sprintf("gateway %s takes the events, with a copy of this data directory or with this one from elsewhere; "+
		"if it is gone, this one goes on in a moment", h.holder))
	s.repeats.Log(slog.LevelWarn, "lease", "another gateway takes the events with a copy of this data directory", slog.String("holder", h.holder))
	return nil
}

// sessions connects again and again until ctx ends.
func (s *redisSource) sessions(ctx context.Context) {
	for wait := retryAtLeast; ; wait = min(2*wait, retryAtMost) {
		worked, err := s.session(ctx)
		s.metrics.redisUp.Set(0)
		if ctx.Err() != nil {
			s.buryLast(ctx)
			return
		}
		if worked {
			wait = retryAtLeast
		}
		s.fail(err, s.lease.servers.inUse())
		select {
		case <-time.After(wait/2 + mathrand.N(wait/2)):
		case <-ctx.Done():
			return
		}
	}
}

// session takes events over one connection. It reports whether that worked for a while.
func (s *redisSource) session(ctx context.Context) (worked bool, err error) {
	conn, err := s.lease.servers.dial(ctx)
	if err != nil {
		return false, err
	}
	s.conn = conn
	stop := context.AfterFunc(ctx, func() { _ = conn.close() }) // ends whatever waits for an answer
	defer func() {
		if stop() {
			err = errors.Join(err, conn.close())
		}
	}()
	if !s.lease.replicas { // which have theirs brought before any is read
		if err := s.lease.bringClaims(conn); err != nil {
			return false, err
		}
	}
	if err := s.adoptClaims(); err != nil {
		return false, err
	}
	for ctx.Err() == nil {
		err = s.turn(ctx, &worked)
		if errors.Is(err, errHolder) { // which it is told, if nobody else is
			err = errors.Join(err, s.lease.renew(ctx))
		}
		if err != nil {
			s.lease.servers.failed(err)
			return worked, err
		}
	}
	return worked, ctx.Err()
}

// working says that the server does what it should.
func (s *redisSource) working(worked *bool) {
	if !*worked {
		*worked = true
		s.metrics.redisUp.Set(1)
		s.repeats.Forget("redis")
		s.setSource("")
	}
}

// at is the position of the events that have been applied.
func (g *Gateway) at() position {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state.position
}

// turn takes the next claim, if there is one.
func (s *redisSource) turn(ctx context.Context, worked *bool) error {
	if err := errors.Join(s.bury(s.conn), s.forget()); err != nil {
		return err
	}
	at := s.at()
	n, err := s.conn.do("LLEN", s.lease.claim(at.seq))
	if err != nil {
		return fmt.Errorf("length of %q: %w", s.lease.claim(at.seq), err)
	}
	switch {
	case uint64(n.n) > at.offset:
		return s.take(ctx, at, uint64(n.n), worked)
	case at.offset > 0: // there is less than was read already
		s.vanished(at)
		return nil
	}
	if s.skipTo(at) {
		return nil
	}
	s.replaying.Store(false) // there is no claim from before
	s.pace(ctx)
	claimed, err := claimScript.run(s.conn, []string{s.lease.key("head"), s.config.Key, s.lease.claim(at.seq)}, s.lease.token)
	switch {
	case err != nil:
		return err
	case claimed.text != nil:
		return fmt.Errorf("key %q is a %s, not a list", s.config.Key, claimed.text)
	case claimed.n < 0:
		return errHolder
	}
	s.working(worked)
	if claimed.n == 0 {
		return s.idle(ctx)
	}
	s.claimed = time.Now()
	s.metrics.claims.Inc()
	return nil
}

// pace waits if a few events were claimed a moment ago.
func (s *redisSource) pace(ctx context.Context) {
	if wait := time.Until(s.claimed.Add(claimEvery)); wait > 0 {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// idle waits until there is an event, or claims can be deleted. The server would move it to where it is, so that whoever
// waits takes nothing. A server whose memory is full does not let anybody wait.
func (s *redisSource) idle(ctx context.Context) error {
	s.setPending(0)
	for {
		wait := idleWait
		if at := s.at(); at.low < at.seq {
			wait = firstWait
		}
		s.conn.send("BLMOVE", s.config.Key, s.config.Key, "RIGHT", "RIGHT", strconv.FormatFloat(wait.Seconds(), 'f', 3, 64))
		if err := s.conn.flush(wait); err != nil {
			return err
		}
		a, err := s.conn.receive()
		if isFull(err) {
			s.repeats.Log(slog.LevelWarn, "full", "the memory of redis is full; it is asked for events every second", slog.Any("err", err))
			select {
			case <-time.After(fullPause):
			case <-ctx.Done():
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("wait at %q: %w", s.config.Key, err)
		}
		if !a.null {
			return nil
		}
		s.mu.Lock()
		s.meta.next().emptyPops++
		s.mu.Unlock()
		if wait == firstWait {
			return nil
		}
	}
}

// take reads a claim of n elements from where it has been read to.
func (s *redisSource) take(ctx context.Context, at position, n uint64, worked *bool) error {
	s.setClaimed(n - at.offset)
	if n-at.offset >= fewEvents {
		s.claimed = time.Time{} // there may be more at once
	}
	// The requests for pages go ahead of the pages that are applied; a goroutine reads the answers.
	full := make(chan read, pagesAhead)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(full)
		s.read(ctx, at, n, full)
	}()
	var err error
	for r := range full {
		if err == nil {
			if err = r.err; err == nil {
				err = s.takePage(&r, &at, n)
			}
			if err != nil {
				cancel()
			} else {
				s.working(worked)
			}
		}
		s.pages <- r.page
	}
	cancel()
	<-done
	if err == nil && at.offset < n {
		err = context.Canceled
	}
	return err
}

// read is a page, or why there is none.
type read struct {
	page *page
	size uint64 // how many elements it should have
	err  error
}

// read reads pages of a claim of n elements from a position on, until ctx ends or after an error.
func (s *redisSource) read(ctx context.Context, at position, n uint64, full chan<- read) {
	key, most := s.lease.claim(at.seq), uint64(max(pageElements, s.config.PopCount))
	for o := at.offset; o < n; {
		r := read{size: min(s.size, n-o)}
		select {
		case r.page = <-s.pages:
		case <-ctx.Done():
			return
		}
		// The elements behind the first o, from the right.
		s.conn.send("LRANGE", key, "-"+strconv.FormatUint(o+r.size, 10), "-"+strconv.FormatUint(o+1, 10))
		if r.err = s.conn.flush(0); r.err == nil {
			r.err = s.conn.receivePage(r.page, s.limit)
		}
		o += r.size
		if sent := uint64(r.page.sent); sent > targetPageBytes { // of long elements there are fewer in a page
			s.size = max(1, r.size*targetPageBytes/sent)
		} else if r.size == s.size {
			s.size = min(most, 2*s.size)
		}
		failed := r.err != nil
		select {
		case full <- r:
		case <-ctx.Done():
			s.pages <- r.page
			return
		}
		if failed {
			return
		}
	}
}

// takePage applies a page of a claim of n elements.
func (s *redisSource) takePage(r *read, at *position, n uint64) error {
	if uint64(r.page.len()) != r.size {
		s.vanished(*at)
		return errors.New("a claimed list has changed")
	}
	s.applyPage(r.page, *at, n)
	at.offset += r.size
	return nil
}

// applyPage applies a page at a position, whose claim has n elements, and advances the position.
func (s *redisSource) applyPage(p *page, at position, n uint64) {
	now := s.options.Now().UnixMilli()
	var o Outcome
	taken := 0
	s.mu.Lock()
	for last := p.len(); last > 0; last -= lookahead {
		probes := s.memo.look(p, max(last-lookahead, 0), last)
		for i := len(probes) - 1; i >= 0; i-- {
			before := o.lost()
			taken += s.applyProbe(&probes[i], s.limit, now, &o)
			if o.lost() > before {
				s.keepDead(probes[i].payload)
			}
		}
	}
	s.account(taken, &o)
	position := &s.state.position
	if position.offset = at.offset + uint64(p.len()); position.offset >= n {
		position.seq, position.offset = at.seq+1, 0
	}
	s.meta.claimed -= float64(p.len())
	s.mu.Unlock()
	if cap(p.data) > maxPageBytes {
		p.data = nil
	}
}

// lost counts what was dropped because something is wrong with it.
func (o *Outcome) lost() int {
	if o.Dropped == nil {
		return 0
	}
	return o.dropped() - o.Dropped[Duplicate] - o.Dropped[Stale] - o.Dropped[Relabelled]
}

// vanished goes on behind a claim of which the server has lost the rest.
func (s *redisSource) vanished(at position) {
	s.metrics.dropped[ClaimVanished].Inc()
	s.repeats.Log(slog.LevelError, "vanished", "redis has lost events that had been claimed", slog.String("key", s.lease.claim(at.seq)), slog.Uint64("taken", at.offset))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.position.seq, s.state.position.offset = at.seq+1, 0
	s.meta.claimed = 0
	s.changed = true
}

// forget deletes the claims that are done in the checkpoint.
func (s *redisSource) forget() error {
	s.mu.Lock()
	low, seq := s.state.position.low, s.durable.seq
	s.mu.Unlock()
	if low >= seq {
		return s.count()
	}
	seq = min(seq, low+unlinkAtOnce)
	if err := s.lease.unlink(s.conn, low, seq); err != nil {
		return err
	}
	s.mu.Lock()
	s.state.position.low = seq
	s.mu.Unlock()
	return s.count()
}

// count looks every now and then how many events wait.
func (s *redisSource) count() error {
	if time.Since(s.counted) < pendingEvery {
		return nil
	}
	a, err := s.conn.do("LLEN", s.config.Key)
	if isRedisError(err) { // who claims it is told why
		return nil
	}
	if err == nil {
		s.counted = time.Now()
		s.setPending(float64(a.n))
	}
	return err
}

func (s *redisSource) setPending(n float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.meta.pending = n
}

func (s *redisSource) setClaimed(n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.meta.claimed = float64(n)
}

// adoptClaims finds the claims of a gateway whose state is lost, which count from their beginning.
func (s *redisSource) adoptClaims() error {
	if !s.adopt {
		return nil
	}
	numbers, err := findClaims(s.conn, s.lease.prefix)
	if err != nil {
		return err
	}
	s.adopted, s.adopt = numbers, false
	if len(s.adopted) > 0 {
		s.options.Logger.Warn("claims of this gateway are there of which its state knows nothing; they count from their beginning",
			"claims", len(s.adopted), "first", s.adopted[0], "last", s.adopted[len(s.adopted)-1])
	}
	return nil
}

// findClaims returns the numbers of the claims whose keys begin with a prefix, in order.
func findClaims(c *redisConn, prefix string) (numbers []uint64, err error) {
	for cursor := "0"; ; {
		a, err := c.do("SCAN", cursor, "MATCH", escapeGlob(prefix)+"*", "COUNT", "1000")
		if err != nil {
			return nil, err
		}
		if len(a.list) != 2 {
			return nil, errRESP
		}
		for _, key := range a.list[1].list {
			if n, err := strconv.ParseUint(strings.TrimPrefix(string(key.text), prefix), 10, 64); err == nil {
				numbers = append(numbers, n)
			}
		}
		if cursor = string(a.list[0].text); cursor == "0" {
			slices.Sort(numbers)
			return slices.Compact(numbers), nil // SCAN may say the same twice
		}
	}
}

// skipTo goes on with the next claim that was found, if there is one behind a position at which there is none.
func (s *redisSource) skipTo(at position) bool {
	for len(s.adopted) > 0 && s.adopted[0] <= at.seq {
		s.adopted = s.adopted[1:]
	}
	if len(s.adopted) == 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.position.seq = s.adopted[0]
	if at.seq == 1 {
		s.state.position.low = s.adopted[0] // there never were others
	}
	s.changed = true
	return true
}

func escapeGlob(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`).Replace(s)
}
