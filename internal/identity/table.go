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

	mu       sync.RWMutex
	complete bool
	records  map[string]*Record
}

// NewTable begins empty. What the registry tells to be revoked is kept in the ledger as well, and what stands there is
// revoked whatever the registry says.
func NewTable(ledger *RevokedFile) *Table {
	return &Table{ledger: ledger, records: map[string]*Record{}}
}

// Follow keeps the table like the registry until ctx ends. changed is called after each change by which somebody who
// was admitted may no longer be; damaged is told of records that cannot be read, which then stay what they were, and of
// revocations that cannot be kept.
func (t *Table) Follow(ctx context.Context, kv *KV, changed func(), damaged func(error)) {
	_ = kv.watch(ctx, watcher{ // until ctx ends, and then with its error
		record: func(r *Record) {
			if err := t.set(r); err != nil {
				damaged(err)
			}
			if t.isComplete() {
				changed()
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
			changed()
		},
		damaged: damaged,
	})
}

func (t *Table) isComplete() bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.complete
}

func (t *Table) set(r *Record) error {
	var errs []error
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
