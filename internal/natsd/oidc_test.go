package natsd_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/natsd"
)

// issuer is an OpenID provider.
type issuer struct {
	t      *testing.T
	server *httptest.Server

	mu   sync.Mutex
	keys map[string]*rsa.PrivateKey
}

func newIssuer(t *testing.T) *issuer {
	i := &issuer{t: t, keys: map[string]*rsa.PrivateKey{}}
	mux := http.NewServeMux()
	reply := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, map[string]any{"issuer": i.server.URL, "jwks_uri": i.server.URL + "/keys", "id_token_signing_alg_values_supported": []string{"RS256"}})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		i.mu.Lock()
		defer i.mu.Unlock()
		list := []map[string]string{}
		for id, key := range i.keys {
			list = append(list, map[string]string{
				"kty": "RSA", "kid": id, "alg": "RS256", "use": "sig", "e": "AQAB", "n": base64.RawURLEncoding.EncodeToString(key.N.Bytes()),
			})
		}
		reply(w, map[string]any{"keys": list})
	})
	i.server = httptest.NewServer(mux)
	t.Cleanup(i.server.Close)
	i.addKey("first")
	return i
}

func newRSA(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (i *issuer) addKey(id string) {
	key := newRSA(i.t)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys[id] = key
}

// token is one of site ams-1, except for what is changed.
func (i *issuer) token(id string, change map[string]any) string {
	claims := map[string]any{
		"iss": i.server.URL, "aud": "thalweg", "sub": "ams-1", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix(),
	}
	maps.Copy(claims, change)
	i.mu.Lock()
	key := i.keys[id]
	i.mu.Unlock()
	return signed(i.t, map[string]any{"alg": "RS256", "kid": id}, claims, key)
}

func signed(t *testing.T, header, claims map[string]any, key *rsa.PrivateKey) string {
	t.Helper()
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	text := part(header) + "." + part(claims)
	hash := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, hash[:])
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func (i *issuer) config(o *natsd.Options) {
	o.Config.Auth.OIDC = natsd.OIDC{Issuer: i.server.URL, Audience: "thalweg", Claim: "sub"}
}

// admits reports whether a token lets somebody in who does, or does not, say who he is.
func admits(t *testing.T, s *bustest.Server, name, token string) bool {
	t.Helper()
	nc, err := nats.Connect(s.URL(), func(o *nats.Options) error { o.User, o.Token = name, token; return nil })
	if err != nil {
		return false
	}
	defer nc.Close()
	// A site that may speak for itself.
	if _, err := nc.SubscribeSync(bus.DefaultRoot.NewControl("ams-1")); err != nil {
		t.Fatal(err)
	}
	flush(t, nc)
	return nc.LastError() == nil
}

func TestBearer(t *testing.T) {
	i := newIssuer(t)
	server := bustest.NewServer(t, i.config)
	bustest.WaitFor(t, "issuer to be found", func() bool { return admits(t, server, "", i.token("first", nil)) })
	f := func(what string, want bool, name, token string) {
		t.Helper()
		if got := admits(t, server, name, token); got != want {
			t.Errorf("%s: admitted is %t", what, got)
		}
	}
	changed := func(claim string, value any) string { return i.token("first", map[string]any{claim: value}) }
	f("named", true, "ams-1", i.token("first", nil))
	f("audiences", true, "", changed("aud", []string{"other", "thalweg"}))
	f("of another site", false, "lon-1", i.token("first", nil))
	f("for another service", false, "", changed("aud", "other"))
	f("by another issuer", false, "", changed("iss", "https://other.example"))
	f("expired", false, "", changed("exp", time.Now().Add(-time.Minute).Unix()))
	f("not yet", false, "", changed("nbf", time.Now().Add(time.Hour).Unix()))
	f("a hub", false, "", changed("sub", "@hub"))
	f("no site", false, "", changed("sub", ""))
	f("a name that is none", false, "", changed("sub", "a.>"))
	f("nobody's key", false, "", signed(t, map[string]any{"alg": "RS256", "kid": "first"}, map[string]any{
		"iss": i.server.URL, "aud": "thalweg", "sub": "ams-1", "exp": time.Now().Add(time.Hour).Unix(),
	}, newRSA(t)))
	unsigned := strings.Split(i.token("first", nil), ".")
	unsigned[0] = base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`))
	f("unsigned", false, "", strings.Join(unsigned[:2], ".")+".")
	f("rubbish", false, "", "a.b.c")

	// A new key is found, and the issuer need not be there for one that is known.
	i.addKey("second")
	bustest.WaitFor(t, "new key", func() bool { return admits(t, server, "", i.token("second", nil)) })
	i.server.Close()
	f("issuer is away", true, "", i.token("second", nil))
}

// TestBearerExpires: a connection ends with its token, and the next one has the token that is in the file then.
func TestBearerExpires(t *testing.T) {
	i := newIssuer(t)
	server := bustest.NewServer(t, i.config)
	bustest.WaitFor(t, "issuer to be found", func() bool { return admits(t, server, "", i.token("first", nil)) })
	file := filepath.Join(t.TempDir(), "token")
	short := i.token("first", map[string]any{"exp": time.Now().Add(3 * time.Second).Unix()})
	write(t, file, short)
	config := bustest.Config(server.URL())
	config.TokenFile = file
	site := bustest.Connected(t, bus.Options{Config: config, Site: "ams-1"})
	refused(t, site)
	write(t, file, i.token("first", nil))
	connected(t, site)
}

// TestIssuerComesLate: nobody is let in before it, and the server starts all the same.
func TestIssuerComesLate(t *testing.T) {
	i := newIssuer(t)
	var away sync.Mutex
	away.Lock()
	inner := i.server.Config.Handler
	i.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !away.TryLock() {
			http.Error(w, "away", http.StatusBadGateway)
			return
		}
		defer away.Unlock()
		inner.ServeHTTP(w, r)
	})
	server := bustest.NewServer(t, i.config)
	if admits(t, server, "", i.token("first", nil)) {
		t.Error("admitted by an issuer that is away")
	}
	away.Unlock()
	bustest.WaitFor(t, "issuer to be found", func() bool { return admits(t, server, "", i.token("first", nil)) })
}
