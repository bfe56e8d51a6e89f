package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/thalweg/thalweg/internal/config"
	"github.com/thalweg/thalweg/internal/telemetry"
)

// Senders are not let in where nobody asks who they are, and not sent where they cannot log in.
func TestWhereSendersMayWrite(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tokens, users := file("tokens", "a secret\n"), file("web.yml", "basic_auth_users: {alice: $2y$10$abcdefghijklmnopqrstuuPCQMVoPEDfHEvDpCEWhdzbVgFlZl8ey}\n")
	log, err := telemetry.OpenLog(telemetry.LogOptions{Level: "debug", Output: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	f := func(role, receive, address, webConfig, want string) {
		t.Helper()
		cfg, err := config.Parse([]byte(fmt.Sprintf("site: a\ndata_dir: %q\nnats: {embedded: {listen: '127.0.0.1:0'}}\n%s: {receive: {%s}}\n", t.TempDir(), role, receive)))
		if err != nil {
			t.Fatal(err)
		}
		n, err := New(Options{Config: cfg, Log: log, ListenAddress: address, WebConfigFile: webConfig})
		if err == nil {
			n.close()
		}
		if got := fmt.Sprint(err); want == "" && err != nil || !strings.Contains(got, want) {
			t.Errorf("%s %s at %s: got %s, want %q", role, receive, address, got, want)
		}
	}
	const loopback, everywhere = "127.0.0.1:0", "0.0.0.0:0"
	f("edge", "remote_write: true", loopback, "", "")
	f("edge", "remote_write: true", everywhere, "", "start edge: receive.tokens_file: is empty, and everybody could write who reaches")
	f("edge", "remote_write: true, allow_anonymous: true", everywhere, "", "")
	f("edge", "pushgateway: true", everywhere, users, "")
	f("edge", "pushgateway: true, tokens_file: "+tokens, everywhere, "", "")
	f("hub", "pushgateway: true, tokens_file: "+tokens, loopback, users, "start hub: receive.listen_address: is empty, and senders with a token cannot log in")
	f("hub", "pushgateway: true, listen_address: '127.0.0.1:0', tokens_file: "+tokens, loopback, users, "")
	f("hub", "pushgateway: true, tokens_file: "+tokens+"x", loopback, "", "start hub: read tokens_file")
}
