package node

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

// request returns the code and the body of an answer.
func request(t *testing.T, method, url, user, body string) (code int, answer string) {
	t.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if user != "" {
		r.SetBasicAuth(user, "password")
	}
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	return a.StatusCode, string(text)
}

const paid = `{"name":"paid_total","value":2,"labels":{"shop":"a"}}`

// A file with nothing but the section is a whole program.
func TestGatewayAlone(t *testing.T) {
	n := start(t, "{site: a, data_dir: '"+t.TempDir()+"', gateway: {listen_address: '127.0.0.1:0'}}")
	own := "http://" + n.gateway.listener.Addr().String()
	for _, at := range []string{n.URL(), own} {
		if code, answer := request(t, http.MethodPost, at+"/api/v1/events", "", paid); code != http.StatusOK {
			t.Errorf("%s: %d %s", at, code, answer)
		}
	}
	for _, page := range []string{n.URL() + "/gateway/metrics", own + "/gateway/metrics", own + "/metrics"} {
		if code, answer := request(t, http.MethodGet, page, "", ""); code != http.StatusOK || !strings.Contains(answer, "\npaid_total{shop=\"a\"} 4\n") {
			t.Errorf("%s: %d %s", page, code, answer)
		}
	}
	if code, answer := request(t, http.MethodGet, n.URL()+"/metrics", "", ""); code != http.StatusOK || strings.Contains(answer, "paid_total") || !strings.Contains(answer, "\nthalweg_events_taken_total 2\n") {
		t.Errorf("own metrics: %d %s", code, answer)
	}
	if code, answer := request(t, http.MethodGet, n.URL()+"/-/ready", "", ""); code != http.StatusOK {
		t.Errorf("ready: %d %s", code, answer)
	}
	if code, answer := request(t, http.MethodGet, n.URL()+"/", "", ""); code != http.StatusOK || !regexp.MustCompile(`event gateway at 127\.0\.0\.1:\d+`).MatchString(answer) {
		t.Errorf("page: %d %s", code, answer)
	}
}

// What cannot be reached says so.
func TestGatewayWithoutRedis(t *testing.T) {
	n := start(t, "{site: a, data_dir: '"+t.TempDir()+"', gateway: {redis: {address: '127.0.0.1:1'}}}")
	await(t, "the reason", func() bool {
		code, answer := request(t, http.MethodGet, n.URL()+"/-/ready", "", "")
		return code == http.StatusServiceUnavailable && strings.Contains(answer, "gateway") && strings.Contains(answer, "127.0.0.1:1")
	})
	if code, answer := request(t, http.MethodGet, n.URL()+"/gateway/metrics", "", ""); code != http.StatusOK {
		t.Errorf("%d %s", code, answer)
	}
}

// withUsers returns a web configuration with two users.
func withUsers(t *testing.T) (file string) {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte("password"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "web.yml")
	if err := os.WriteFile(file, []byte("basic_auth_users: {part: '"+string(hash)+"', all: '"+string(hash)+"'}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// A browser asks whether a page may post before it says who posts, and shows the page why not.
func TestPostsOfPagesWithUsers(t *testing.T) {
	n := startWith(t, "{site: a, data_dir: '"+t.TempDir()+"', gateway: {cors_origins: ['https://app']}}", withUsers(t))
	f := func(method, path, origin, user string, want int, allowed string) {
		t.Helper()
		r, err := http.NewRequest(method, n.URL()+path, strings.NewReader(paid))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Origin", origin)
		if method == http.MethodOptions {
			r.Header.Set("Access-Control-Request-Method", http.MethodPost)
		}
		if user != "" {
			r.SetBasicAuth(user, "password")
		}
		a, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		if got := a.Header.Values("Access-Control-Allow-Origin"); a.StatusCode != want || strings.Join(got, " ") != allowed {
			t.Errorf("%s %s of %s by %q: %s, allowed to %q", method, path, origin, user, a.Status, got)
		}
	}
	const path = "/api/v1/events"
	f(http.MethodOptions, path, "https://app", "", http.StatusNoContent, "https://app")
	f(http.MethodOptions, path, "https://other", "", http.StatusUnauthorized, "")
	f(http.MethodOptions, "/-/reload", "https://app", "", http.StatusUnauthorized, "")
	f(http.MethodPost, path, "https://app", "all", http.StatusOK, "https://app")
	f(http.MethodPost, path, "https://app", "", http.StatusUnauthorized, "https://app")
	f(http.MethodPost, path, "https://other", "", http.StatusUnauthorized, "")
}

// A user with a view of a part does not see pages that are not cut to it.
func TestPagesBehindViews(t *testing.T) {
	n := startWith(t, "{site: a, data_dir: '"+t.TempDir()+`', nats: {embedded: {listen: '127.0.0.1:0'}}, gateway: {}, nats_exporter: {},
hub: {views: [{users: [part], match: ['{site="a"}']}, {users: [all], match: ['{__name__=~".+"}']}]}}`, withUsers(t))
	f := func(user string, want int) {
		t.Helper()
		for _, page := range []string{"/gateway/metrics", "/nats/metrics"} {
			if code, answer := request(t, http.MethodGet, n.URL()+page, user, ""); code != want {
				t.Errorf("%s: %s: %d %s", page, user, code, answer)
			}
		}
	}
	f("part", http.StatusForbidden)
	f("all", http.StatusOK)
}
