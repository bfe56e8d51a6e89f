package config

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestWebUsers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "web.yml")
	f := func(content string, want ...string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		users, err := WebUsers(file)
		if got := slices.Sorted(maps.Keys(users)); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: got %q, %v, want %q", content, got, err, want)
		}
	}
	f("")
	f("tls_server_config: {cert_file: a, key_file: b}\nhttp_server_config: {http2: false}")
	f("basic_auth_users:\n  alice: $2y$10$x\n  bob: $2y$10$y\n", "alice", "bob")
	if users, err := WebUsers(""); len(users) > 0 || err != nil {
		t.Errorf("no file: %v, %v", users, err)
	}
	if _, err := WebUsers(file + ".absent"); err == nil {
		t.Error("an absent file is no error")
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := WebUsers(file); err == nil {
		t.Error("a file that is not YAML is no error")
	}
}

func TestWebTLS(t *testing.T) {
	file := filepath.Join(t.TempDir(), "web.yml")
	f := func(content string, want bool) {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := WebTLS(file); err != nil || got != want {
			t.Errorf("%q: got %v, %v, want %v", content, got, err, want)
		}
	}
	f("", false)
	f("basic_auth_users: {alice: x}", false)
	f("tls_server_config: {cert_file: a, key_file: b}", true)
	if got, err := WebTLS(""); got || err != nil {
		t.Errorf("no file: %v, %v", got, err)
	}
	if _, err := WebTLS(file + ".absent"); err == nil {
		t.Error("an absent file is no error")
	}
}
