package identity

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nkeys"
	"golang.org/x/time/rate"
)

// memory is a Store that fails on command, in the two ways in which a write can fail.
type memory struct {
	mu       sync.Mutex
	records  map[string][]byte
	revision map[string]uint64
	// The next writes are lost before or after they have an effect, or are told to have been beaten.
	before, after, beaten int
}

var errLost = errors.New("lost")

func newMemory() *memory { return &memory{records: map[string][]byte{}, revision: map[string]uint64{}} }

func (m *memory) Get(_ context.Context, site string) (*Record, uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := &Record{Site: site}
	if b := m.records[site]; b != nil {
		if err := json.Unmarshal(b, r); err != nil {
			return nil, 0, err
		}
	}
	return r, m.revision[site], nil
}

func (m *memory) Put(_ context.Context, r *Record, revision uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	fails := func(n *int) bool {
		if *n == 0 {
			return false
		}
		*n--
		return true
	}
	if revision != m.revision[r.Site] {
		return ErrConflict
	}
	if fails(&m.beaten) {
		m.revision[r.Site]++
		return ErrConflict
	}
	if fails(&m.before) {
		return errLost
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	m.records[r.Site] = b
	m.revision[r.Site]++
	if fails(&m.after) {
		return errLost
	}
	return nil
}

func (m *memory) All(ctx context.Context) (all []*Record, err error) {
	for site := range m.records {
		r, _, err := m.Get(ctx, site)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// lines keeps what was logged.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// count is how often an event was logged.
func (l *lines) count(event string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), "audit="+event+" ")
}

func newTestRegistry() (*Registry, *memory, *lines) {
	m, log := newMemory(), &lines{}
	return NewRegistry(m, slog.New(slog.NewTextHandler(log, nil))), m, log
}

func userKey(t *testing.T) nkeys.KeyPair {
	t.Helper()
	key, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func publicOf(t *testing.T, key nkeys.KeyPair) string {
	t.Helper()
	s, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// request is the text of one with a secret or in place of an old key.
func request(t *testing.T, site string, key nkeys.KeyPair, secret []byte, old nkeys.KeyPair) []byte {
	t.Helper()
	r, err := newRequest(site, key, secret, old)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func answerOf(t *testing.T, g *Registry, site string, data []byte) Answer {
	t.Helper()
	var a Answer
	if err := json.Unmarshal(g.Answer(site, data), &a); err != nil {
		t.Fatal(err)
	}
	return a
}

// TestRegistryFaults crosses each operation with each way in which a write can fail: it is done once, and logged once.
func TestRegistryFaults(t *testing.T) {
	for name, fault := range map[string]func(*memory){
		"none":   func(*memory) {},
		"before": func(m *memory) { m.before = 1 },
		"after":  func(m *memory) { m.after = 1 },
		"beaten": func(m *memory) { m.beaten = 3 },
	} {
		t.Run(name, func(t *testing.T) {
			g, m, log := newTestRegistry()
			ctx := t.Context()
			fault(m)
			secret, _, err := g.Invite(ctx, "a", time.Hour, "me")
			if err != nil {
				t.Fatal(err)
			}
			first, second := userKey(t), userKey(t)
			fault(m)
			if a := answerOf(t, g, "a", request(t, "a", first, secret, nil)); a.Refused != "" {
				t.Fatalf("enrol: %+v", a)
			}
			fault(m)
			if a := answerOf(t, g, "a", request(t, "a", second, nil, first)); a.Refused != "" {
				t.Fatalf("rotate: %+v", a)
			}
			fault(m)
			if err := g.Confirm(ctx, "a", publicOf(t, second)); err != nil {
				t.Fatal(err)
			}
			fault(m)
			revoked, err := g.Revoke(ctx, "a", "", "me")
			if err != nil || len(revoked) != 1 || revoked[0] != publicOf(t, second) {
				t.Fatalf("revoked %v, %v", revoked, err)
			}
			all, err := g.List(ctx)
			if err != nil || len(all) != 1 || len(all[0].Keys)+len(all[0].Joins) != 0 || len(all[0].Revoked) != 1 {
				t.Errorf("in the end: %+v, %v", all, err)
			}
			for event, want := range map[string]int{
				auditJoinMade: 1, auditJoinUsed: 1, auditKeyAdded: 2, auditKeyReplaced: 1, auditKeyRevoked: 1, auditSiteRevoked: 1,
			} {
				if got := log.count(event); got != want {
					t.Errorf("%s was logged %d times, want %d", event, got, want)
				}
			}
		})
	}
}

// TestRace: of many who use a token at once, with keys of their own, one succeeds.
func TestRace(t *testing.T) {
	g, m, _ := newTestRegistry()
	secret, _, err := g.Invite(t.Context(), "a", time.Hour, "me")
	if err != nil {
		t.Fatal(err)
	}
	var racers sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for range 8 {
		data := request(t, "a", userKey(t), secret, nil)
		racers.Go(func() {
			// A process of its own, beside others.
			a := answerOf(t, NewRegistry(m, slog.New(slog.DiscardHandler)), "a", data)
			mu.Lock()
			defer mu.Unlock()
			if a.Refused == "" {
				won++
			} else if a.Refused != string(RefusedUsed) {
				t.Errorf("answer is %+v", a)
			}
		})
	}
	racers.Wait()
	if r, _, _ := m.Get(t.Context(), "a"); won != 1 || len(r.Keys) != 1 {
		t.Errorf("%d won, %d keys", won, len(r.Keys))
	}
}

// TestForgedRequests: nobody registers a key that is not his, or for a site that is not his.
func TestForgedRequests(t *testing.T) {
	g, m, log := newTestRegistry()
	secret, _, err := g.Invite(t.Context(), "a", time.Hour, "me")
	if err != nil {
		t.Fatal(err)
	}
	mine, victim, other := userKey(t), userKey(t), userKey(t)
	forge := func(change func(*Request)) []byte {
		r, err := newRequest("a", mine, secret, nil)
		if err != nil {
			t.Fatal(err)
		}
		change(r)
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	sign := func(key nkeys.KeyPair, r *Request) []byte {
		b, err := key.Sign(r.statement("a"))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	f := func(what string, data []byte, want string) {
		t.Helper()
		g.limiters = map[string]*rate.Limiter{}
		if a := answerOf(t, g, "a", data); !strings.Contains(a.Refused, want) || a.Again {
			t.Errorf("%s: %+v, want %q", what, a, want)
		}
	}
	f("another's key", forge(func(r *Request) { r.Key = publicOf(t, victim) }), string(RefusedProof))
	f("another's proof", forge(func(r *Request) { r.Proof = sign(victim, r) }), string(RefusedProof))
	f("no proof", forge(func(r *Request) { r.Proof = nil }), string(RefusedProof))
	f("another secret", forge(func(r *Request) { r.Secret = newSecret() }), string(RefusedProof))
	f("guessed secret", forge(func(r *Request) { r.Secret = newSecret(); r.Proof = sign(mine, r) }), string(RefusedToken))
	f("of another site", request(t, "b", mine, secret, nil), string(RefusedProof))
	f("neither", forge(func(r *Request) { r.Secret = nil }), "neither")
	f("both", forge(func(r *Request) { r.Replaces = publicOf(t, other) }), "both")
	f("in place of a key that is not known", request(t, "a", mine, nil, other), string(RefusedKey))
	f("an account's key", forge(func(r *Request) {
		account, err := nkeys.CreateAccount()
		if err != nil {
			t.Fatal(err)
		}
		r.Key = publicOf(t, account)
		r.Proof = sign(account, r)
	}), string(RefusedProof))
	f("no JSON", []byte("{"), "parse request")
	f("too long", []byte(strings.Repeat(" ", maxRequestBytes+1)), "bytes")
	if r, _, _ := m.Get(t.Context(), "a"); len(r.Keys) != 0 {
		t.Errorf("keys are %+v", r.Keys)
	}
	if log.count(auditJoinRefused) != 12 {
		t.Errorf("%d refusals were logged", log.count(auditJoinRefused))
	}

	// One that was registered cannot be used to register another without its owner.
	f("true", request(t, "a", victim, secret, nil), "")
	stolen := forge(func(r *Request) {
		r.Secret, r.Replaces = nil, publicOf(t, victim)
		r.Proof = sign(mine, r)
		r.OldProof = r.Proof
	})
	f("in place of another's key", stolen, string(RefusedProof))
}

// TestRequestsAreBounded: a site that asks without end is not heard, and others are.
func TestRequestsAreBounded(t *testing.T) {
	g, _, _ := newTestRegistry()
	g.now = func() time.Time { return start }
	for range requestBurst {
		answerOf(t, g, "a", nil)
	}
	if a := answerOf(t, g, "a", nil); !a.Again || !strings.Contains(a.Refused, "too many") {
		t.Errorf("answer is %+v", a)
	}
	if a := answerOf(t, g, "b", nil); a.Again {
		t.Errorf("answer to another is %+v", a)
	}
	g.now = func() time.Time { return at(requestEvery) }
	if a := answerOf(t, g, "a", nil); a.Again {
		t.Errorf("answer later is %+v", a)
	}
}

// TestRestore: what is newer comes back, and nothing else.
func TestRestore(t *testing.T) {
	g, m, log := newTestRegistry()
	newer := withKey(public(1))
	newer.Version = 5
	for range 2 {
		if err := g.Restore(t.Context(), newer); err != nil {
			t.Fatal(err)
		}
	}
	older := withKey(public(2))
	older.Version = 4
	if err := g.Restore(t.Context(), older); err != nil {
		t.Fatal(err)
	}
	if r, _, _ := m.Get(t.Context(), "a"); r.Version != 5 || r.keys() != public(1) || log.count(auditRestored) != 1 {
		t.Errorf("restored is %+v, logged %d times", r, log.count(auditRestored))
	}
}

func TestRevokeUnknown(t *testing.T) {
	g, _, _ := newTestRegistry()
	_, err := g.Revoke(t.Context(), "a", "", "me")
	if !errors.Is(err, RefusedSite) {
		t.Errorf("revoke: %v", err)
	}
}
