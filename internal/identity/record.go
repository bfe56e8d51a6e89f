package identity

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Bounds of a record.
const (
	maxKeys    = 4
	maxJoins   = 4
	maxRevoked = 256 // in a record; files of servers keep all of them
	// rotationGap keeps a site from writing to the registry without end.
	rotationGap = time.Minute
)

// Record is what the registry knows of a site. Its methods change it or return a Refusal; they neither read a clock nor
// store anything.
type Record struct {
	Site string `json:"site"`
	// Version grows by one with each change.
	Version uint64    `json:"version"`
	Keys    []Key     `json:"keys,omitempty"`
	Revoked []Revoked `json:"revoked,omitempty"`
	Joins   []Join    `json:"joins,omitempty"`
	// Rotated is when a key of the site last registered another.
	Rotated time.Time `json:"rotated,omitzero"`

	deleted bool // by hand
}

// Key is a public key with which a site may connect.
type Key struct {
	Public string    `json:"key"`
	Added  time.Time `json:"added"`
	// By is who made the join token that was used, or the key that registered this one.
	By string `json:"by"`
	// Replaces is the key that goes when this one is used for the first time.
	Replaces string `json:"replaces,omitempty"`
}

// Revoked is a key that is refused for ever.
type Revoked struct {
	Public string    `json:"key"`
	At     time.Time `json:"at"`
}

// Join is a join token, of which only the hash is known. One that was used stays until it expires, so that a site that
// did not get the answer can ask again.
type Join struct {
	Hash    string    `json:"hash"` // see hashSecret
	By      string    `json:"by"`
	Expires time.Time `json:"expires"`
	Key     string    `json:"key,omitempty"` // that it was used for; "": none yet
}

// Refusal is why something is not done, in words for the one who asked.
type Refusal string

func (r Refusal) Error() string { return string(r) }

// The refusals that callers tell apart.
const (
	RefusedSite    Refusal = "there is no such site"
	RefusedToken   Refusal = "the join token is not known, or has expired"
	RefusedUsed    Refusal = "the join token has been used for another key"
	RefusedRevoked Refusal = "the key has been revoked"
	RefusedKey     Refusal = "the key is not one of this site"
	RefusedProof   Refusal = "the proof is not that of the key"
)

// prune forgets the join tokens that have expired.
func (r *Record) prune(now time.Time) {
	r.Joins = slices.DeleteFunc(r.Joins, func(j Join) bool { return !now.Before(j.Expires) })
}

// invite adds a join token.
func (r *Record) invite(hash, by string, now, expires time.Time) error {
	r.prune(now)
	if slices.ContainsFunc(r.Joins, func(j Join) bool { return j.Hash == hash }) {
		return nil // by an attempt whose answer was lost
	}
	r.Joins = slices.DeleteFunc(r.Joins, func(j Join) bool { return j.Key != "" && len(r.Joins) >= maxJoins })
	if len(r.Joins) >= maxJoins {
		return Refusal(fmt.Sprintf("%d join tokens of site %q are pending, and there may be no more; revoke the site, or wait until one expires", maxJoins, r.Site))
	}
	r.Joins = append(r.Joins, Join{Hash: hash, By: by, Expires: expires})
	return nil
}

// enrol adds a key for a join token. It reports whether anything has changed: nothing has if the token was used for
// this very key.
func (r *Record) enrol(hash, public string, now time.Time) (changed bool, err error) {
	r.prune(now)
	i := slices.IndexFunc(r.Joins, func(j Join) bool { return j.Hash == hash })
	if i < 0 {
		return false, RefusedToken
	}
	switch join := &r.Joins[i]; {
	case r.isRevoked(public):
		return false, RefusedRevoked
	case join.Key == public:
		return false, nil
	case join.Key != "":
		return false, RefusedUsed
	default:
		if err := r.add(Key{Public: public, Added: now, By: join.By}); err != nil {
			return false, err
		}
		join.Key = public
		return true, nil
	}
}

// rotate adds a key in place of another, which stays until the new one is used.
func (r *Record) rotate(old, public string, now time.Time) (changed bool, err error) {
	switch {
	case r.isRevoked(old), r.isRevoked(public):
		return false, RefusedRevoked
	case r.key(public) != nil && r.key(public).Replaces == old:
		return false, nil
	case r.key(old) == nil:
		return false, RefusedKey
	case now.Sub(r.Rotated) < rotationGap:
		return false, Refusal(fmt.Sprintf("the site changed its key less than %s ago", rotationGap))
	}
	if err := r.add(Key{Public: public, Added: now, By: old, Replaces: old}); err != nil {
		return false, err
	}
	r.Rotated = now
	return true, nil
}

func (r *Record) add(k Key) error {
	switch {
	case r.key(k.Public) != nil:
		return Refusal("the key is registered already")
	case len(r.Keys) >= maxKeys:
		return Refusal(fmt.Sprintf("site %q has %d keys, and there may be no more; revoke one", r.Site, maxKeys))
	}
	r.Keys = append(r.Keys, k)
	return nil
}

// confirm drops the key that another replaces, which has been used.
func (r *Record) confirm(public string) (dropped string, changed bool) {
	k := r.key(public)
	if k == nil || k.Replaces == "" {
		return "", false
	}
	dropped, k.Replaces = k.Replaces, ""
	r.Keys = slices.DeleteFunc(r.Keys, func(k Key) bool { return k.Public == dropped })
	return dropped, true
}

// revoke refuses a key from now on, given by at least its first characters; all keys and join tokens if it is "".
func (r *Record) revoke(prefix string, now time.Time) (revoked []string, changed bool, err error) {
	r.prune(now)
	matches := func(k Key) bool { return strings.HasPrefix(k.Public, prefix) }
	n := 0
	for _, k := range r.Keys {
		if matches(k) {
			n++
		}
	}
	switch {
	case prefix != "" && len(prefix) < minPrefix:
		return nil, false, Refusal(fmt.Sprintf("key %q is too short, give at least %d characters", prefix, minPrefix))
	case prefix != "" && n == 0:
		return nil, false, Refusal(fmt.Sprintf("site %q has no key that begins with %q", r.Site, prefix))
	case prefix != "" && n > 1:
		return nil, false, Refusal(fmt.Sprintf("site %q has %d keys that begin with %q", r.Site, n, prefix))
	}
	for _, k := range r.Keys {
		if matches(k) {
			revoked = append(revoked, k.Public)
			r.Revoked = append(r.Revoked, Revoked{Public: k.Public, At: now})
		}
	}
	r.Revoked = r.Revoked[max(0, len(r.Revoked)-maxRevoked):]
	r.Keys = slices.DeleteFunc(r.Keys, matches)
	changed = len(revoked) > 0
	if prefix == "" && len(r.Joins) > 0 {
		r.Joins, changed = nil, true
	}
	return revoked, changed, nil
}

func (r *Record) key(public string) *Key {
	for i := range r.Keys {
		if r.Keys[i].Public == public {
			return &r.Keys[i]
		}
	}
	return nil
}

func (r *Record) isRevoked(public string) bool {
	return slices.ContainsFunc(r.Revoked, func(k Revoked) bool { return k.Public == public })
}

// minPrefix is how much of a key has to be given to mean it, and Short how much of it is shown.
const minPrefix = 8

// Short is the beginning of a public key, by which people tell keys apart.
func Short(public string) string { return public[:min(len(public), 12)] }
