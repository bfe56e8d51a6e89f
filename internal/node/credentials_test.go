package node

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/thalweg/thalweg/internal/web"
)

// TestWhoManagesCredentials: users who may read everything or, where there are no users, somebody on this machine.
func TestWhoManagesCredentials(t *testing.T) {
	ask := func(n *Node, method, user, path string, header ...string) (int, string) {
		t.Helper()
		r, err := http.NewRequest(method, n.URL()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if user != "" {
			r.SetBasicAuth(user, "secret")
		}
		for _, h := range header {
			r.Header.Set(h, "x")
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		var body struct {
			Error string
			Data  json.RawMessage
		}
		_ = json.NewDecoder(answer.Body).Decode(&body) // refusals of the listener are no JSON
		return answer.StatusCode, body.Error + string(body.Data)
	}
	const site, list = "/api/v1/thalweg/sites/lon-1", "/api/v1/thalweg/credentials"
	f := func(n *Node, method, user, path string, code int, want string, header ...string) {
		t.Helper()
		if got, body := ask(n, method, user, path, header...); got != code || !strings.Contains(body, want) {
			t.Errorf("%s %s as %q: %d %s, want %d and %q", method, path, user, got, body, code, want)
		}
	}
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	webConfig := filepath.Join(t.TempDir(), "web.yml")
	logIns := fmt.Sprintf("basic_auth_users: {alice: '%[1]s', carol: '%[1]s'}", hash)
	if err := os.WriteFile(webConfig, []byte(logIns), 0o600); err != nil {
		t.Fatal(err)
	}
	views := fmt.Sprintf(viewsYAML, t.TempDir()) + "    - {users: [carol], match: ['{__name__!=\"\"}']}\n"
	guarded := startWith(t, views, webConfig)
	await(t, "the registry", func() bool { code, _ := ask(guarded, "GET", "carol", list); return code == http.StatusOK })
	f(guarded, "POST", "carol", site, 200, "thalweg1_")
	f(guarded, "GET", "carol", list, 200, `"by":"carol 127.0.0.1:`)
	f(guarded, "POST", "carol", site+"."+url.PathEscape(">"), 400, "site name")
	f(guarded, "POST", "alice", site, 403, `user "alice" is limited by hub.views`)
	f(guarded, "GET", "alice", list, 403, "limited")
	f(guarded, "DELETE", "alice", site, 403, "limited")
	f(guarded, "POST", "", site, 401, "")
	f(guarded, "POST", "mallory", site, 401, "")
	f(guarded, "DELETE", "carol", site, 200, `"site":"lon-1"`)

	local := start(t, fmt.Sprintf("site: core\ndata_dir: %q\nnats: {embedded: {listen: '127.0.0.1:0'}}\nhub: {}\n", t.TempDir()))
	await(t, "the registry", func() bool { code, _ := ask(local, "GET", "", list); return code == http.StatusOK })
	f(local, "POST", "", site, 200, "thalweg1_")
	f(local, "POST", "", site, 403, "proxy", "X-Forwarded-For")
	f(local, "POST", "", site+"?address=hub.example:4222", 200, "nats://hub.example:4222 is not encrypted")
	_, body := ask(local, "GET", "", list)
	var identities []web.Identity
	if err := json.Unmarshal([]byte(body), &identities); err != nil || len(identities) != 1 || len(identities[0].Joins) != 2 || strings.Contains(body, "thalweg1_") {
		t.Errorf("list is %s, %v", body, err)
	}

	out := start(t, fmt.Sprintf("site: far\ndata_dir: %q\nnats: {urls: [%q]}\nhub: {}\n", t.TempDir(), local.NATSURL()))
	f(out, "POST", "", site, 400, "no NATS server runs in this process")
	f(out, "GET", "", list, 400, "no NATS server runs in this process")
}
