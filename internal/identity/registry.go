package identity

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Events of credentials, the values of the log attribute audit.
const (
	auditJoinMade    = "join_made"
	auditJoinUsed    = "join_used"
	auditJoinRefused = "join_refused"
	auditKeyAdded    = "key_added"
	auditKeyReplaced = "key_replaced"
	auditKeyRevoked  = "key_revoked"
	auditSiteRevoked = "site_revoked"
	auditRestored    = "record_restored"
)

const (
	// attempts to change a record that others change too.
	attempts     = 10
	attemptPause = 50 * time.Millisecond
	// answerTimeout is how long the answer to a request may take.
	answerTimeout = 4 * time.Second
	// A site may ask so often for a key, and so many of them are remembered.
	requestEvery = 6 * time.Second
	requestBurst = 10
	maxLimiters  = 4096
)

// Registry changes records. Its methods are safe for concurrent use, by several processes.
type Registry struct {
	store Store
	log   *slog.Logger
	now   func() time.Time

	mu       sync.Mutex
	limiters map[string]*rate.Limiter // of requests, by site
}

// NewRegistry changes the records of a store.
func NewRegistry(store Store, log *slog.Logger) *Registry {
	return &Registry{store: store, log: log, now: time.Now, limiters: map[string]*rate.Limiter{}}
}

// change applies f to a record until it is stored. f may be called again, with a newer record.
func (g *Registry) change(ctx context.Context, site string, f func(*Record) (changed bool, err error)) error {
	var err error
	for attempt := range attempts {
		if attempt > 0 {
			t := time.NewTimer(attemptPause)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return errors.Join(context.Cause(ctx), err)
			}
		}
		var r *Record
		var revision uint64
		if r, revision, err = g.store.Get(ctx, site); err != nil {
			continue
		}
		changed, refusal := f(r)
		if refusal != nil {
			return refusal
		}
		if !changed {
			return nil
		}
		r.Version++
		if err = g.store.Put(ctx, r, revision); err == nil {
			return nil
		}
	}
	return err
}

// Invite makes a join token of a site, which need not be known, and returns its secret. by says who wants it.
func (g *Registry) Invite(ctx context.Context, site string, lasts time.Duration, by string) (secret []byte, expires time.Time, err error) {
	secret = newSecret()
	now := g.now()
	expires = now.Add(lasts)
	err = g.change(ctx, site, func(r *Record) (bool, error) {
		return true, r.invite(hashSecret(secret), by, now, expires)
	})
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("make join token: %w", err)
	}
	g.log.Info("join token made", "audit", auditJoinMade, "site", site, "by", by, "expires", expires, "token", Short(hashSecret(secret)))
	return secret, expires, nil
}

// Revoke refuses a key of a site from now on, given by its first characters, or all its keys and join tokens if it is
// "". It returns the public keys. by says who wants it.
func (g *Registry) Revoke(ctx context.Context, site, key, by string) (revoked []string, err error) {
	joins := 0
	err = g.change(ctx, site, func(r *Record) (bool, error) {
		if len(r.Keys)+len(r.Revoked)+len(r.Joins) == 0 {
			return false, RefusedSite
		}
		joins = len(r.Joins)
		keys, changed, err := r.revoke(key, g.now())
		if len(keys) > 0 { // else an attempt whose outcome was not known has succeeded
			revoked = keys
		}
		return changed, err
	})
	if err != nil {
		return nil, fmt.Errorf("revoke: %w", err)
	}
	for _, k := range revoked {
		g.log.Info("key revoked", "audit", auditKeyRevoked, "site", site, "key", k, "by", by)
	}
	if key == "" {
		g.log.Info("site revoked", "audit", auditSiteRevoked, "site", site, "keys", len(revoked), "joins", joins, "by", by)
	}
	return revoked, nil
}

// List returns all records, by site.
func (g *Registry) List(ctx context.Context) ([]*Record, error) {
	all, err := g.store.All(ctx)
	if err != nil {
		return nil, err
	}
	now := g.now()
	for _, r := range all {
		r.prune(now)
	}
	slices.SortFunc(all, func(a, b *Record) int { return cmp.Compare(a.Site, b.Site) })
	return all, nil
}

// Confirm is called when a key that replaces another was used: the other is no longer valid.
func (g *Registry) Confirm(ctx context.Context, site, public string) error {
	var dropped string
	err := g.change(ctx, site, func(r *Record) (bool, error) {
		key, changed := r.confirm(public)
		if changed {
			dropped = key
		}
		return changed, nil
	})
	if err != nil {
		return fmt.Errorf("drop the key that %s replaces: %w", Short(public), err)
	}
	if dropped != "" {
		g.log.Info("key replaced", "audit", auditKeyReplaced, "site", site, "key", dropped, "by", public)
	}
	return nil
}

// Restore puts a record back that is newer than what the registry has.
func (g *Registry) Restore(ctx context.Context, kept *Record) error {
	restored := false
	err := g.change(ctx, kept.Site, func(r *Record) (bool, error) {
		if r.deleted || r.Version >= kept.Version {
			return false, nil
		}
		*r = *kept
		r.Version-- // it grows when it is stored
		restored = true
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if restored {
		g.log.Warn("record of a site restored", "audit", auditRestored, "site", kept.Site, "version", kept.Version, "keys", len(kept.Keys))
	}
	return nil
}

// Answer answers a request for a key, as it arrived on the enrolment subject of a site: only who has a join token or a
// key of the site can publish there, and it counts only what is in the request.
func (g *Registry) Answer(site string, data []byte) []byte {
	var answer Answer
	if err := g.answer(site, data); err != nil {
		answer.Refused = err.Error()
		if _, final := errors.AsType[Refusal](err); !final {
			answer.Again = true
		}
	}
	text, err := json.Marshal(answer)
	if err != nil {
		panic("BUG: identity: encode answer: " + err.Error())
	}
	return text
}

func (g *Registry) answer(site string, data []byte) error {
	if !g.admits(site) {
		return errors.New("too many requests for keys of this site, try again later")
	}
	request, err := parseRequest(site, data)
	if err != nil {
		g.refuse(site, "", err)
		return Refusal(err.Error())
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	added := false
	by := ""
	err = g.change(ctx, site, func(r *Record) (bool, error) {
		var changed bool
		var err error
		if request.Replaces != "" {
			by = request.Replaces
			changed, err = r.rotate(request.Replaces, request.Key, g.now())
		} else {
			by = "token " + Short(hashSecret(request.Secret))
			changed, err = r.enrol(hashSecret(request.Secret), request.Key, g.now())
		}
		added = added || changed
		return changed, err
	})
	if _, refused := errors.AsType[Refusal](err); refused {
		g.refuse(site, request.Key, err)
		return err
	}
	if err != nil {
		g.log.Warn("register key", "site", site, "key", request.Key, "err", err)
		return fmt.Errorf("the hub cannot register the key now: %w", err)
	}
	if added && request.Replaces == "" {
		g.log.Info("join token used", "audit", auditJoinUsed, "site", site, "key", request.Key, "token", strings.TrimPrefix(by, "token "))
	}
	if added {
		g.log.Info("key added", "audit", auditKeyAdded, "site", site, "key", request.Key, "by", by)
	}
	return nil
}

func (g *Registry) refuse(site, key string, why error) {
	g.log.Warn("request for a key refused", "audit", auditJoinRefused, "site", site, "key", key, "reason", why)
}

// admits keeps one site from asking without end.
func (g *Registry) admits(site string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.limiters[site]
	if l == nil {
		if len(g.limiters) >= maxLimiters {
			clear(g.limiters)
		}
		l = rate.NewLimiter(rate.Every(requestEvery), requestBurst)
		g.limiters[site] = l
	}
	return l.AllowN(g.now(), 1)
}
