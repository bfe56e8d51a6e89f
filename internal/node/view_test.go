package node

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/thalweg/thalweg/internal/config"
	"github.com/thalweg/thalweg/internal/telemetry"
)

const viewsYAML = `
site: ams-1
data_dir: %s
nats: {embedded: {listen: "127.0.0.1:0"}}
global: {scrape_interval: 1s, scrape_timeout: 1s}
edge: {}
hub:
  views:
    - {users: [alice], match: ['{site=~"ams.*",__name__=~"thalweg_build_info|up"}']}
    - {users: [bob, ghost], match: ['{site="fra"}']}
`

func TestViews(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	webConfig := filepath.Join(t.TempDir(), "web.yml")
	logIns := fmt.Sprintf("basic_auth_users: {alice: '%[1]s', bob: '%[1]s', carol: '%[1]s'}", hash)
	if err := os.WriteFile(webConfig, []byte(logIns), 0o600); err != nil {
		t.Fatal(err)
	}
	n := startWith(t, fmt.Sprintf(viewsYAML, t.TempDir()), webConfig)
	get := func(user, path string) (int, string) {
		t.Helper()
		r, err := http.NewRequest(http.MethodGet, n.URL()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if user != "" {
			r.SetBasicAuth(user, "secret")
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(body)
	}
	const everything = "/federate?match[]=%7B__name__!=%22%22%7D"
	await(t, "the edge's own metrics", func() bool {
		_, body := get("alice", everything)
		return strings.Contains(body, "\nthalweg_build_info{")
	})
	f := func(user, path string, code int, contains, lacks string) {
		t.Helper()
		got, body := get(user, path)
		if got != code || !strings.Contains(body, contains) || lacks != "" && strings.Contains(body, lacks) {
			t.Errorf("%s as %q: got %d %.1000s\nwant %d with %q and without %q", path, user, got, body, code, contains, lacks)
		}
	}
	const api = "/api/v1/thalweg/"
	nothing := `{"status":"success","data":[]}` + "\n"
	f("alice", everything, 200, "thalweg_build_info{", "go_goroutines")
	f("alice", api+"sites", 200, `"name":"ams-1"`, "")
	f("alice", api+"sources", 200, `"site":"ams-1"`, "")
	f("alice", "/", 200, "ams-1</", "")
	if code, body := get("bob", everything); code != 200 || body != "" {
		t.Errorf("bob: got %d %s", code, body)
	}
	f("carol", everything, 403, "hub.views", "up{")
	for _, user := range []string{"bob", "carol"} {
		for _, list := range []string{"sites", "lanes", "sources", "sources?site=ams-1"} {
			f(user, api+list, 200, nothing, "ams-1")
		}
		f(user, api+"gaps", 200, `"data":[],"account":`, "ams-1")
		f(user, "/debug/lanes", 200, "LAST ERROR", "ams-1")
	}
	f("", everything, 401, "", "up{")

	// Without passwords a name means nothing, whoever it is.
	if err := os.WriteFile(webConfig, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f("alice", everything, 403, "", "up{")
	f("alice", api+"sites", 200, nothing, "")
	without := *n.current().Hub
	without.Views = nil
	changed := *n.current()
	changed.Hub = &without
	if _, err := n.hub.newViews(n.current()); err == nil || !strings.Contains(err.Error(), "hub.views: nobody has to log in") {
		t.Errorf("views without users were taken: %v", err)
	}
	if err := n.hub.apply(&changed, nil); err != nil {
		t.Fatal(err)
	}
	f("", everything, 200, "go_goroutines", "")
}

func TestViewsNeedUsers(t *testing.T) {
	cfg, err := config.Parse([]byte(fmt.Sprintf(viewsYAML, t.TempDir())))
	if err != nil {
		t.Fatal(err)
	}
	log, err := telemetry.OpenLog(telemetry.LogOptions{Level: "debug", Output: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(Options{Config: cfg, Log: log, ListenAddress: "127.0.0.1:0"}); err == nil || !strings.Contains(err.Error(), "hub.views: nobody has to log in") {
		t.Errorf("started: %v", err)
	}
}
