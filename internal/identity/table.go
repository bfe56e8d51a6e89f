package identity

import (
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"sync"
	"time"
)

// Verdict is what a Table thinks of a credential, a closed set. It is a reason for logs and metrics.
type Verdict string

// The verdicts.
const (
	Valid     Verdict = ""
	Unread    Verdict = "registry_unread" // nothing is known yet
	Unknown   Verdict = "unknown_key"
	Withdrawn Verdict = "revoked_key"
	BadJoin   Verdict = "unknown_join"
)

// Table is the registry in the memory of a server that admits clients. Nobody is in it before the whole registry has
// been read. All methods are safe for concurrent use.
type Table struct {
	ledger *RevokedFile
	copies *Copies

	mu       sync.RWMutex
	complete bool
	records  map[string]*Record
}

// NewTable begins empty. What the registry tells to be revoked is kept in the ledger as well, and what stands there is
// revoked whatever the registry says. Records are kept in copies.
func NewTable(ledger *RevokedFile, copies *Copies) *Table {
	return &Table{ledger: ledger, copies: copies, records: map[string]*Record{}}
}

// Changes are told what becomes of a Table. The functions are called one at a time.
type Changes struct {
	// Changed is called after each change by which somebody who was admitted may no longer be.
	Changed func()
	// Behind is called with the records that are newer in the copies than in the registry.
	Behind func([]*Record)
	// Damaged is told of records that cannot be read, which then stay what they were, and of what cannot be kept.
	Damaged func(error)
}

// Follow keeps the table like the registry until ctx ends.
func (t *Table) Follow(ctx context.Context, kv *KV, c Changes) {
	_ = kv.watch(ctx, watcher{ // until ctx ends, and then with its error
		record: func(r *Record) {
			if err := t.set(r); err != nil {
				c.Damaged(err)
			}
			if t.isComplete() {
				c.Changed()
			}
		},
		reset: func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.complete = false
			clear(t.records)
		},
		caughtUp: func() {
			t.mu.Lock()
			t.complete = true
			t.mu.Unlock()
			c.Changed()
			behind, err := t.behind()
			if err != nil {
				c.Damaged(err)
			}
			if len(behind) > 0 {
				c.Behind(behind)
			}
		},
		damaged: c.Damaged,
	})
}

// behind are the records that the registry has lost, or of which it has an older version than the copies.
func (t *Table) behind() ([]*Record, error) {
	kept, err := t.copies.All()
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.DeleteFunc(kept, func(k *Record) bool {
		r := t.records[k.Site]
		return r != nil && r.Version >= k.Version
	}), err
}

func (t *Table) isComplete() bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.complete
}

func (t *Table) set(r *Record) error {
	errs := []error{t.copies.Keep(r)}
	for _, k := range r.Revoked {
		errs = append(errs, t.ledger.Add(r.Site, k.Public, k.At))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.records[r.Site] = r
	return errors.Join(errs...)
}

// Key says whether a site may connect with a key. That the client has it is for the caller to check.
func (t *Table) Key(site, public string) Verdict {
	if t.ledger.Has(public) {
		return Withdrawn
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	switch r := t.records[site]; {
	case !t.complete:
		return Unread
	case r == nil || r.key(public) == nil:
		return Unknown
	default:
		return Valid
	}
}

// Replaces reports whether a key replaces another that is still there.
func (t *Table) Replaces(site, public string) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	r := t.records[site]
	return r != nil && r.key(public) != nil && r.key(public).Replaces != ""
}

// Join says whether somebody with this secret, as joinLogin sends it, may connect to enrol as a site, and until when.
func (t *Table) Join(site, secret string, now time.Time) (until time.Time, v Verdict) {
	raw, err := base64.RawURLEncoding.DecodeString(secret)
	if err != nil {
		return time.Time{}, BadJoin
	}
	hash := hashSecret(raw)
	t.mu.RLock()
	defer t.mu.RUnlock()
	r := t.records[site]
	if !t.complete {
		return time.Time{}, Unread
	}
	if r == nil {
		return time.Time{}, BadJoin
	}
	i := slices.IndexFunc(r.Joins, func(j Join) bool { return j.Hash == hash && now.Before(j.Expires) })
	if i < 0 {
		return time.Time{}, BadJoin
	}
	return r.Joins[i].Expires, Valid
}

// Knows reports whether a site has, or had, a credential in the registry.
func (t *Table) Knows(site string) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	r := t.records[site]
	return r != nil && len(r.Keys)+len(r.Revoked) > 0
}

// Enrolled counts the sites that have a key, as far as the registry was read.
func (t *Table) Enrolled() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	n := 0
	for _, r := range t.records {
		if len(r.Keys) > 0 {
			n++
		}
	}
	return n
}
