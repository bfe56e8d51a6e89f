package receive

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func write(t *testing.T, content string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func newGuard(t *testing.T, c Config, logs *strings.Builder) *Guard {
	t.Helper()
	g, err := NewGuard(GuardOptions{Config: c, Logger: logger(logs)})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestGuard(t *testing.T) {
	file := write(t, "# name token\n\nams-1 secret-a # the first\nams-1 secret-b\nber-2 secret-c\n")
	logs := &strings.Builder{}
	g := newGuard(t, Config{RemoteWrite: true, TokensFile: file}, logs)
	h := g.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "as ", Sender(r)) }))
	f := func(what, want string, set func(*http.Request)) {
		t.Helper()
		r := httptest.NewRequest(http.MethodPost, "/api/v1/write", nil)
		set(r)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code == http.StatusUnauthorized && len(w.Header().Values("WWW-Authenticate")) != 2 {
			t.Errorf("%s: %v", what, w.Header())
		}
		if got := fmt.Sprint(w.Code, " ", strings.TrimSpace(w.Body.String())); got != want {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
	}
	bearer := func(token string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Authorization", token) }
	}
	basic := func(user, password string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth(user, password) }
	}
	f("bearer", "200 as ams-1", bearer("Bearer secret-a"))
	f("another token of the same", "200 as ams-1", bearer("bearer  secret-b"))
	f("basic", "200 as ber-2", basic("ber-2", "secret-c"))
	f("nothing", "401 a bearer token is needed, or a user with a token as password", func(*http.Request) {})
	f("unknown", "401 the token is not known", bearer("Bearer secret"))
	f("empty", "401 a bearer token is needed, or a user with a token as password", bearer("Bearer "))
	f("another's token", "401 the password is not a token of this user", basic("ams-1", "secret-c"))
	f("no password", "401 the password is not a token of this user", basic("ams-1", ""))
	f("another scheme", "401 a bearer token is needed, or a user with a token as password", bearer("Digest secret-a"))
	if n := testutil.ToFloat64(g.refused); n != 6 {
		t.Errorf("%v refusals are counted", n)
	}
	if got := logs.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "audit=receive_refused") || strings.Contains(got, "secret") {
		t.Errorf("logged:\n%s", got)
	}

	// Another file counts as soon as it is in force.
	use, err := g.Prepare(Config{RemoteWrite: true, TokensFile: write(t, "ber-2 secret-d\n")})
	if err != nil {
		t.Fatal(err)
	}
	f("before", "200 as ber-2", bearer("Bearer secret-c"))
	use()
	f("after", "401 the token is not known", bearer("Bearer secret-c"))
	f("the new one", "200 as ber-2", bearer("Bearer secret-d"))
	if _, err := g.Prepare(Config{TokensFile: file + "x"}); err == nil {
		t.Error("a file that is not there was read")
	}
	f("after a mistake", "200 as ber-2", bearer("Bearer secret-d"))
}

// An edge without a file asks nobody.
func TestGuardOfNobody(t *testing.T) {
	g := newGuard(t, Config{RemoteWrite: true}, &strings.Builder{})
	w := httptest.NewRecorder()
	g.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "as %q", Sender(r)) })).
		ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if w.Code != http.StatusOK || w.Body.String() != `as ""` {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestBadTokens(t *testing.T) {
	f := func(content, want string) {
		t.Helper()
		_, err := readTokens(write(t, content))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: got %v, want %q", content, err, want)
		}
	}
	f("a secret\nb", `line 2: want a name and a token, found 1 words beginning with "b"`)
	f("a secret-1 secret-2", "line 1: want a name and a token, found 3 words")
	f("a/b secret", `line 1: name "a/b" is not 1 to 64 letters, digits, _ and -`)
	f("a secret\na secret\nb secret", `line 3: "b" has the token of "a"`)
	f("a secret\n"+strings.Repeat("x", 70_000), "token too long")
}
