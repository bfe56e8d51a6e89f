package node

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/thalweg/thalweg/internal/config"
	"github.com/thalweg/thalweg/internal/telemeter"
	"github.com/thalweg/thalweg/internal/telemetry"
)

// telemeterClient is one that pushes to a node.
type telemeterClient struct {
	t   *testing.T
	url string
}

func (c telemeterClient) post(path, token, body string) *http.Response {
	c.t.Helper()
	r, err := http.NewRequest(http.MethodPost, c.url+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "text/plain; version=0.0.4")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { answer.Body.Close() })
	return answer
}

func (c telemeterClient) token() string {
	c.t.Helper()
	var a struct{ Token string }
	answer := c.post("/authorize?id=one", "secret", "")
	if err := json.NewDecoder(answer.Body).Decode(&a); err != nil || a.Token == "" {
		c.t.Fatalf("status %d: %v", answer.StatusCode, err)
	}
	return a.Token
}

func (c telemeterClient) pushes(token string, want int) {
	c.t.Helper()
	if answer := c.post("/upload", token, "up{_id=\"one\",tenant=\"east\"} 1\n"); answer.StatusCode != want {
		c.t.Errorf("status %d, want %d", answer.StatusCode, want)
	}
}

// A reload reads the files of hub.telemeter again, and a mistake in one of them leaves everything as it was.
func TestTelemeterReload(t *testing.T) {
	dir := t.TempDir()
	tokens, key := filepath.Join(dir, "tokens"), filepath.Join(dir, "key")
	write := func(path, content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	newKey := func() {
		t.Helper()
		k, err := telemeter.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		b, err := k.Encode()
		if err != nil {
			t.Fatal(err)
		}
		write(key, string(b))
	}
	newKey()
	write(tokens, "one secret\n")
	file := func(hub string) string {
		return fmt.Sprintf("site: core\ndata_dir: %q\nnats: {embedded: {listen: '127.0.0.1:0'}}\n"+
			"hub: {telemeter: {tokens_file: %q, signing_key_file: %q, rate_limit: 0s}%s}\n", filepath.Join(dir, "data"), tokens, key, hub)
	}
	n := start(t, file(""))
	reload := func(yaml string) error {
		n.options.Load = func() (*config.Config, error) { return config.Parse([]byte(yaml)) }
		return n.Reload(t.Context())
	}
	await(t, "a hub that is ready", func() bool {
		answer, err := http.Get(n.URL() + "/-/ready")
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
	c := telemeterClient{t, n.URL()}
	token := c.token()
	c.pushes(token, 200)
	if err := reload(file(", required_labels: {tenant: west}")); err != nil {
		t.Fatal(err)
	}
	c.pushes(token, 400) // required_labels are those that are in force
	if err := reload(file("")); err != nil {
		t.Fatal(err)
	}
	c.pushes(token, 200)
	write(key, "no key")
	if err := reload(file(", required_labels: {tenant: west}")); err == nil {
		t.Error("a file without a key is taken")
	}
	c.pushes(token, 200)
	newKey()
	write(tokens, "one\n")
	if err := reload(file("")); err == nil {
		t.Error("a tokens file with a mistake is taken")
	}
	c.pushes(token, 200)
	write(tokens, "one secret\n")
	if err := reload(file("")); err != nil {
		t.Fatal(err)
	}
	c.pushes(token, 401)
	c.pushes(c.token(), 200)
}

// Clients have no password: where the web listener asks for one, they need another listener.
func TestTelemeterBehindLogins(t *testing.T) {
	dir := t.TempDir()
	webConfig, tokens := filepath.Join(dir, "web.yml"), filepath.Join(dir, "tokens")
	for path, content := range map[string]string{
		webConfig: "basic_auth_users: {alice: $2a$04$fQu8nQpE1Dw1JzN5yOqJ5O4l0nDYXk0m4vEJr5X0QfG7v2hGmB3mC}", tokens: "one secret\n",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	try := func(listener string) error {
		t.Helper()
		c, err := config.Parse(fmt.Appendf(nil, "site: core\ndata_dir: %q\nnats: {urls: ['nats://127.0.0.1:1']}\nhub: {telemeter: {tokens_file: %q, listen_address: %q}}\n",
			filepath.Join(dir, "data"), tokens, listener))
		if err != nil {
			t.Fatal(err)
		}
		log, err := telemetry.OpenLog(telemetry.LogOptions{Level: "info", Output: t.Output()})
		if err != nil {
			t.Fatal(err)
		}
		n, err := New(Options{Config: c, Log: log, ListenAddress: "127.0.0.1:0", WebConfigFile: webConfig})
		if err == nil {
			n.close()
		}
		return err
	}
	if err := try(""); err == nil || !strings.Contains(err.Error(), "listen_address: is empty") {
		t.Errorf("on the web listener: %v", err)
	}
	if err := try("127.0.0.1:0"); err != nil {
		t.Errorf("on a listener of its own: %v", err)
	}
}
