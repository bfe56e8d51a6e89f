package identity

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// at is a time after the start.
func at(d time.Duration) time.Time { return start.Add(d) }

// public invents a key; records do not look into them.
func public(n int) string { return fmt.Sprintf("UKEY%08d", n) }

// said fails unless an error is the refusal that is wanted, "" for none, or begins with it.
func said(t *testing.T, what string, err error, want Refusal) {
	t.Helper()
	if want == "" && err == nil {
		return
	}
	refusal, ok := errors.AsType[Refusal](err)
	if !ok || want == "" || !strings.Contains(string(refusal), string(want)) {
		t.Errorf("%s: %v, want %q", what, err, want)
	}
}

func (r *Record) keys() string {
	var keys []string
	for _, k := range r.Keys {
		keys = append(keys, k.Public)
	}
	return strings.Join(keys, " ")
}

func TestJoin(t *testing.T) {
	r := &Record{Site: "a"}
	said(t, "invite", r.invite("h", "me", at(0), at(time.Hour)), "")
	said(t, "invite again, after a doubtful answer", r.invite("h", "me", at(0), at(time.Hour)), "")
	if len(r.Joins) != 1 {
		t.Errorf("%d tokens", len(r.Joins))
	}
	f := func(what, hash, key string, now time.Duration, changes bool, want Refusal) {
		t.Helper()
		changed, err := r.enrol(hash, key, at(now))
		said(t, what, err, want)
		if changed != changes {
			t.Errorf("%s: changed is %t", what, changed)
		}
	}
	f("unknown token", "x", public(1), 0, false, RefusedToken)
	f("first use", "h", public(1), time.Minute, true, "")
	f("same key", "h", public(1), time.Minute, false, "")
	f("another key", "h", public(2), time.Minute, false, RefusedUsed)
	f("expired", "h", public(1), time.Hour, false, RefusedToken)
	if r.keys() != public(1) || r.Keys[0].By != "me" || !r.Keys[0].Added.Equal(at(time.Minute)) {
		t.Errorf("keys are %+v", r.Keys)
	}
}

func TestJoinsAreBounded(t *testing.T) {
	r := &Record{Site: "a"}
	for i := range maxJoins {
		said(t, "invite", r.invite(fmt.Sprint(i), "me", at(0), at(time.Hour)), "")
	}
	said(t, "one too many", r.invite("x", "me", at(0), at(time.Hour)), "are pending")
	if _, err := r.enrol("0", public(1), at(0)); err != nil {
		t.Fatal(err)
	}
	said(t, "when one was used", r.invite("x", "me", at(0), at(time.Hour)), "")
	said(t, "one too many", r.invite("y", "me", at(0), at(time.Hour)), "are pending")
	said(t, "when they have expired", r.invite("y", "me", at(time.Hour), at(2*time.Hour)), "")
	if len(r.Joins) != 1 {
		t.Errorf("%d tokens", len(r.Joins))
	}
}

func TestKeysAreBounded(t *testing.T) {
	r := &Record{Site: "a"}
	for i := range maxKeys + 1 {
		hash := fmt.Sprint(i)
		said(t, "invite", r.invite(hash, "me", at(0), at(time.Hour)), "")
		want := Refusal("")
		if i == maxKeys {
			want = "there may be no more"
		}
		_, err := r.enrol(hash, public(i), at(0))
		said(t, "key", err, want)
		r.prune(at(2 * time.Hour))
	}
}

// withKey is a site with a key.
func withKey(key string) *Record {
	return &Record{Site: "a", Keys: []Key{{Public: key, Added: start, By: "me"}}}
}

func TestRotate(t *testing.T) {
	r := withKey(public(1))
	f := func(what, old, fresh string, now time.Duration, changes bool, want Refusal, keys ...string) {
		t.Helper()
		changed, err := r.rotate(old, fresh, at(now))
		said(t, what, err, want)
		if changed != changes || r.keys() != strings.Join(keys, " ") {
			t.Errorf("%s: changed is %t, keys are %s", what, changed, r.keys())
		}
	}
	one, two, three := public(1), public(2), public(3)
	f("first", one, two, 0, true, "", one, two)
	f("again", one, two, 0, false, "", one, two)
	f("too soon", one, three, rotationGap-1, false, "less than", one, two)
	f("unknown key", three, public(4), rotationGap, false, RefusedKey, one, two)
	if dropped, changed := r.confirm(one); changed {
		t.Errorf("the old key drops %q", dropped)
	}
	if dropped, changed := r.confirm(two); dropped != one || !changed || r.keys() != two {
		t.Errorf("dropped %q, keys are %s", dropped, r.keys())
	}
	if _, changed := r.confirm(two); changed {
		t.Error("confirmed twice")
	}
	f("old key", one, three, rotationGap, false, RefusedKey, two)
	if _, _, err := r.revoke("", at(0)); err != nil {
		t.Fatal(err)
	}
	f("revoked key", two, three, rotationGap, false, RefusedRevoked)
	r = withKey(one)
	r.Revoked = []Revoked{{Public: two}}
	f("to a revoked key", one, two, 0, false, RefusedRevoked, one)
	f("to itself", one, one, 0, false, "registered already", one)
}

func TestRevoke(t *testing.T) {
	record := func() *Record {
		r := withKey("UAAAAAAAAAA1")
		r.Keys = append(r.Keys, Key{Public: "UAAAAAAAAAA2"}, Key{Public: "UBBBBBBBBBB1"})
		r.Joins = []Join{{Hash: "h", Expires: at(time.Hour)}}
		return r
	}
	f := func(prefix string, want Refusal, left string, joins int, revoked ...string) {
		t.Helper()
		r := record()
		got, changed, err := r.revoke(prefix, at(0))
		said(t, prefix, err, want)
		if !slices.Equal(got, revoked) || changed != (len(revoked) > 0) || r.keys() != left || len(r.Joins) != joins {
			t.Errorf("%q: revoked %v, changed %t, left %s and %d tokens", prefix, got, changed, r.keys(), len(r.Joins))
		}
		for _, k := range revoked {
			if !r.isRevoked(k) {
				t.Errorf("%q: %s is not noted", prefix, k)
			}
		}
	}
	all := "UAAAAAAAAAA1 UAAAAAAAAAA2 UBBBBBBBBBB1"
	f("", "", "", 0, strings.Fields(all)...)
	f("UBBBBBBB", "", "UAAAAAAAAAA1 UAAAAAAAAAA2", 1, "UBBBBBBBBBB1")
	f("UAAAAAAAAAA2", "", "UAAAAAAAAAA1 UBBBBBBBBBB1", 1, "UAAAAAAAAAA2")
	f("UAAAAAAA", "2 keys that begin", all, 1)
	f("UCCCCCCC", "no key that begins", all, 1)
	f("UB", "too short", all, 1)

	// For ever, as far as it is not too long.
	r := &Record{Site: "a"}
	for i := range maxRevoked + 1 {
		r.Keys = []Key{{Public: public(i)}}
		if _, _, err := r.revoke("", at(0)); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.Revoked) != maxRevoked || !r.isRevoked(public(maxRevoked)) {
		t.Errorf("%d revoked keys", len(r.Revoked))
	}
}
