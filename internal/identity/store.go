package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/thalweg/thalweg/internal/bus"
)

// Store keeps one record for each site.
type Store interface {
	// Get returns the record of a site and its revision: an empty one and 0 if there is none. What it returns may be
	// older than what is stored.
	Get(ctx context.Context, site string) (*Record, uint64, error)
	// Put stores a record if revision is that of the one it replaces; otherwise it returns ErrConflict. After another
	// error the record may be stored or not.
	Put(ctx context.Context, record *Record, revision uint64) error
	// All returns all records, in no order.
	All(ctx context.Context) ([]*Record, error)
}

// ErrConflict means that a record has changed since it was read.
var ErrConflict = errors.New("the record has changed")

// ErrNoRegistry means that the server has no registry of sites: it is about to make it.
var ErrNoRegistry = errors.New("the NATS server has no registry of sites yet; /-/ready may say why")

// Bucket is the name of the bucket with the registry that goes with a stream.
func Bucket(stream string) string { return stream + "_SITES" }

// KV is a Store in the bucket of a connection of a hub.
type KV struct{ conn *bus.Conn }

// NewKV uses a connection whose Options.Bucket is the registry's.
func NewKV(conn *bus.Conn) *KV { return &KV{conn} }

// Get implements Store.
func (k *KV) Get(ctx context.Context, site string) (*Record, uint64, error) {
	m, err := k.conn.Last(ctx, k.conn.KeySubject(site))
	switch {
	case errors.Is(err, bus.ErrNoMessage):
		return &Record{Site: site}, 0, nil
	case errors.Is(err, bus.ErrNoListener):
		return nil, 0, ErrNoRegistry
	case err != nil:
		return nil, 0, fmt.Errorf("read record of site %q: %w", site, err)
	}
	r, err := k.parse(&m)
	return r, m.Sequence, err
}

// Put implements Store.
func (k *KV) Put(ctx context.Context, r *Record, revision uint64) error {
	value, err := json.Marshal(r)
	if err == nil {
		_, err = k.conn.Publish(ctx, k.conn.KeySubject(r.Site), value, revision)
	}
	if _, conflict := errors.AsType[*bus.SequenceError](err); conflict {
		return ErrConflict
	}
	if err != nil {
		return fmt.Errorf("store record of site %q: %w", r.Site, err)
	}
	return nil
}

// All implements Store.
func (k *KV) All(ctx context.Context) ([]*Record, error) {
	ctx, done := context.WithCancelCause(ctx)
	defer done(nil)
	var all []*Record
	caughtUp := false
	err := k.watch(ctx, watcher{
		record: func(r *Record) { all = append(all, r) },
		reset:  func() { all = nil },
		caughtUp: func() {
			caughtUp = true
			done(nil)
		},
		trouble: func(err error) {
			if errors.Is(err, bus.ErrNoStream) {
				err = ErrNoRegistry
			}
			if err != nil {
				done(err)
			}
		},
	})
	if caughtUp {
		return all, nil
	}
	return nil, fmt.Errorf("read records of sites: %w", err)
}

// watcher is told what is in a bucket, and how it changes. Its functions are called one at a time.
type watcher struct {
	record   func(*Record)
	reset    func() // everything comes again
	caughtUp func() // everything that was there has come
	trouble  func(error)
	damaged  func(error) // a record that cannot be read
}

// watch blocks until ctx ends.
func (k *KV) watch(ctx context.Context, w watcher) error {
	reader, err := k.conn.NewReader(bus.ReaderOptions{
		Name: "sites", Subjects: []string{k.conn.KeySubject(">")}, CaughtUp: w.caughtUp, Trouble: w.trouble,
		Reset: func(bus.Reset) { w.reset() },
		Handle: func(m bus.Message) error {
			r, err := k.parse(&m)
			if err == nil {
				w.record(r)
			} else if w.damaged != nil {
				w.damaged(err)
			}
			return nil
		},
	})
	if err != nil {
		return err
	}
	return reader.Run(ctx)
}

// parse reads a value. None, as who deletes a key by hand leaves, is a record without anything.
func (k *KV) parse(m *bus.Message) (*Record, error) {
	site := strings.TrimPrefix(m.Subject, k.conn.KeySubject(""))
	if err := bus.ValidSite(site); err != nil {
		return nil, fmt.Errorf("read record at %q: %w", m.Subject, err)
	}
	r := &Record{deleted: len(m.Payload) == 0}
	if !r.deleted {
		if err := json.Unmarshal(m.Payload, r); err != nil {
			return nil, fmt.Errorf("read record of site %q: %w", site, err)
		}
	}
	r.Site = site
	return r, nil
}
