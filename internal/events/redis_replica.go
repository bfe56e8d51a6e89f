package events

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/thalweg/thalweg/internal/series"
)

// replica is a gateway that shares one aggregate with others. Whoever holds the lease takes events, shows the sums, and
// writes each record of its checkpoint to the journal in Redis, too; nobody else does anything. Who gets the lease next
// reads the journal, and goes on as this gateway would after a crash.
//
// The journal is a list of the bytes that the file has. Position and sums stand in the same record, and the server takes
// one only from the holder, so that the journal has one history, however long somebody stands still in between.
type replica struct {
	*Gateway
	config  *RedisConfig
	lease   *lease
	journal journal
	holder  string // of whom it was said that it has the lease
}

// journal is the state as the holder writes it.
type journal struct {
	lease  *lease
	number uint64 // of the last record
	whole  bool   // the next record has to hold everything
}

// replicas is what the claims of replicas have in the place of an id.
const replicas = "replicas"

const (
	// partBytes is how long the elements of the journal are at most: the server does nothing else while it takes one.
	partBytes = 1 << 20
	// partsAtOnce are read.
	partsAtOnce = 16
)

func newReplica(g *Gateway, c *RedisConfig) *replica {
	l := newLease(g, c, c.claimPrefix(replicas))
	return &replica{Gateway: g, config: c, lease: l, journal: journal{lease: l, whole: true}}
}

// run takes events for as long as this replica holds the lease, again and again until ctx ends.
func (r *replica) run(ctx context.Context) error {
	err := r.lease.hold(ctx, duty{watch: r.watch, work: r.serve})
	r.lease.release(ctx)
	return err
}

// serve takes events until ctx ends, because the gateway stops or has lost the lease.
func (r *replica) serve(ctx context.Context, before head) error {
	err := r.inherit(ctx, before)
	if err == nil {
		err = r.work(ctx, newRedisSource(r.Gateway, r.config, r.lease).sessions)
	}
	if errors.Is(context.Cause(ctx), errLost) {
		return r.resign()
	}
	return err
}

// watch looks at who has the lease before this replica tries to get it.
func (r *replica) watch(h head, mine bool) error {
	if own, err := r.ownID(); own && h.number != "" {
		return fmt.Errorf("directory %s has what this gateway counted by itself, which the sums of the replicas lack; "+
			"begin with an empty directory, or delete file id in it to do without", r.options.Dir)
	} else if err != nil {
		return err
	}
	r.mu.Lock()
	outdated := h.number != "" && (r.state.size > 0 || r.state.position.seq > 0) && !r.lease.wasOwn(h)
	r.mu.Unlock()
	if outdated { // if the journal is lost with its holder, sums of long ago would look like counters that began anew
		if err := r.forgetState(); err != nil {
			return err
		}
	}
	if !mine && h.token != "" && h.holder != r.holder {
		r.holder = h.holder
		r.options.Logger.Info("another replica takes the events, and this one watches it", "holder", h.holder)
	}
	r.metrics.redisUp.Set(1)
	r.repeats.Forget("redis")
	r.setSource("")
	return nil
}

// knowsMore reports whether the state goes further than the journal: this gateway wrote it, and the server lost its end. It
// is called with mu.
func (r *replica) knowsMore(before head) bool {
	return r.lease.wasOwn(before) && r.state.number > r.journal.number
}

// ownID reports whether the directory is one of a gateway that was no replica.
func (r *replica) ownID() (bool, error) {
	_, err := os.Stat(r.idFile())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (r *replica) idFile() string { return filepath.Join(r.options.Dir, "id") }

// inherit makes what the journal says the state, unless the state is what the server has forgotten.
func (r *replica) inherit(ctx context.Context, before head) error {
	r.journal.number, _ = strconv.ParseUint(before.number, 10, 64) // none: it begins
	r.journal.whole = true
	bring := r.lease.noteClaims
	if before.number == "" {
		bring = func() error { return r.bringClaims(ctx) }
	}
	if err := bring(); err != nil {
		return err
	}
	data, err := r.journal.read(ctx)
	if err != nil {
		return err
	}
	if len(data) > recordHeader && data[recordHeader] != stateVersion {
		return errors.New("the journal of the replicas was written by another version of the program")
	}
	now := r.options.Now().UnixMilli()
	r.mu.Lock()
	if len(data) > 0 && !r.knowsMore(before) {
		kept := r.state
		r.begin()
		if at, err := restoreRecords(data, r.state.restore); err != nil {
			r.state = kept
			r.mu.Unlock()
			return r.putAside(ctx, at, err)
		}
		r.state.restored(now)
	}
	r.memo.clear()
	r.durable = r.state.position.clone()
	r.replaying.Store(!r.state.clean)
	r.state.clean, r.changed = false, true
	size := r.state.size
	r.mu.Unlock()
	// Before anything counts, the journal has to say that somebody counts: who finds the record of an orderly end shows its
	// sums at once.
	if err := r.checkpoint(); err != nil {
		return fmt.Errorf("write what is known: %w", err)
	}
	r.mu.Lock()
	r.standby = false
	r.mu.Unlock()
	r.holder = ""
	r.options.Logger.Info("this replica takes the events from now on", "series", size, "before", before.holder)
	return nil
}

// putAside gives a journal that cannot be read another name, and begins with nothing.
func (r *replica) putAside(ctx context.Context, at int, cause error) error {
	_, err := r.lease.do(ctx, func(c *redisConn) (answer, error) {
		return c.do("RENAME", r.lease.key("journal"), r.lease.key("damaged"))
	})
	if err != nil {
		return err
	}
	r.options.Logger.Error("journal of the replicas is damaged; all series begin with nothing", "renamed_to", r.lease.key("damaged"), "byte", at, "err", cause)
	r.checkpoints.metrics.damaged.Set(1)
	r.mu.Lock()
	r.damaged = true
	r.mu.Unlock()
	if err := r.forgetState(); err != nil {
		return err
	}
	return fmt.Errorf("read journal: %w", cause)
}

// bringClaims makes the claims of a gateway that becomes the first replica theirs.
func (r *replica) bringClaims(ctx context.Context) error {
	_, err := r.lease.do(ctx, func(c *redisConn) (answer, error) { return answer{}, r.lease.bringClaims(c) })
	if err != nil {
		return err
	}
	if err := os.Remove(r.idFile()); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// resign forgets everything, for another replica counts on. It is called when nothing uses the state any more.
func (r *replica) resign() error {
	r.mu.Lock()
	r.standby = true
	lost := r.pending
	r.pending, r.failing = newCommit(), nil
	var last *series.Row
	if r.rows != nil {
		last = r.rows.end(max(r.options.Now().UnixMilli(), r.rows.row.T+1))
	}
	r.mu.Unlock()
	lost.err = errLost
	close(lost.done)
	r.options.Logger.Warn("another replica was faster; what this one took since its last record counts there")
	if last != nil && last.Schema.Len() > 0 {
		if err := r.options.Sink(last); err != nil {
			r.metrics.rowErrors.Inc()
			r.repeats.Log(slog.LevelError, "row", "row of the event gateway is not accepted", slog.Any("err", err))
		}
	}
	return r.forgetState()
}

// forgetState begins with nothing, on disk, too.
func (r *replica) forgetState() error {
	r.mu.Lock()
	r.begin()
	r.memo.clear()
	r.durable = r.state.position.clone()
	record := r.state.appendRecord(nil, true)
	r.changed = false
	r.mu.Unlock()
	return r.checkpoints.write(record, true)
}

// end returns a row in which all series have ended. The next one has other columns.
func (r *rows) end(t int64) *series.Row {
	n := r.schema.Len()
	row := &series.Row{
		Source: r.source, Schema: r.schema, T: t, Values: slices.Grow(r.row.Values[:0], n)[:n], Present: series.Bitmap(r.row.Present, n),
	}
	*r = *newRows(r.catalog, r.source)
	r.row.T = t
	return row
}

// write makes a record, which tells a position, a part of the journal. Without an error it is.
func (j *journal) write(ctx context.Context, record []byte, whole bool, at *position) error {
	flag := func(b bool) string {
		if b {
			return "1"
		}
		return "0"
	}
	l, before, number := j.lease, strconv.FormatUint(j.number, 10), strconv.FormatUint(j.number+1, 10)
	keys := []string{l.key("head"), l.key("journal"), l.key("next"), l.key("none")}
	first := true
	for part := range slices.Chunk(record, partBytes) {
		record = record[len(part):]
		sent := time.Now()
		a, err := l.do(ctx, func(c *redisConn) (answer, error) {
			return writeScript.run(c, keys, l.token, before, number, flag(whole), flag(first), flag(len(record) == 0), string(part),
				fmt.Sprintf("%d:%d", at.seq, at.offset))
		})
		if err == nil && string(a.text) != "ok" {
			err = errForgotten
			if string(a.text) == "lost" { // or nobody has it any more
				err = cmp.Or(l.renew(ctx), err)
			}
		}
		if err != nil {
			j.whole = true // nobody knows what is there
			return fmt.Errorf("write journal: %w", err)
		}
		l.heard(sent)
		first = false
	}
	j.number, j.whole = j.number+1, false
	l.note(head{token: l.token, number: number})
	return nil
}

// errForgotten is what a server answers that has not what was written to it.
var errForgotten = errors.New("redis has forgotten what was written to it; it is written anew")

// read returns the whole journal; nothing if there is none.
func (j *journal) read(ctx context.Context) (data []byte, err error) {
	for i := 0; ; i += partsAtOnce {
		a, err := j.lease.do(ctx, func(c *redisConn) (answer, error) {
			return c.do("LRANGE", j.lease.key("journal"), strconv.Itoa(i), strconv.Itoa(i+partsAtOnce-1))
		})
		if err != nil {
			return nil, fmt.Errorf("read journal: %w", err)
		}
		for _, part := range a.list {
			data = append(data, part.text...)
		}
		if len(a.list) < partsAtOnce {
			return data, nil
		}
	}
}
