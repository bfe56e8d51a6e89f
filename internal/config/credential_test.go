package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/thalweg/thalweg/internal/bus"
)

// credential is one of site ams-1. Its key is of nobody.
const credential = `{"site": "ams-1", "part": 1, "urls": ["tls://hub.example:4222"], "ca": "-----BEGIN CERTIFICATE-----", "domain": "sea",
	"seed": "SUAOI4FBQHZST3U3JL2JEPYJO4EDOMFBOXADXSJY4UAYTEXQIOEJ2D6WUA"}`

// TestCredential: an edge that says nothing about NATS does as its credential says.
func TestCredential(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	file := write("data/credential", credential)
	other := filepath.Join(dir, "other")
	load := func(text, dataDir string) (*Config, error) { return Load(write("thalweg.yml", text), dataDir) }
	f := func(what, text, dataDir string, check func(*Config)) {
		t.Helper()
		c, err := load(text, dataDir)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		check(c)
	}
	enrolled := func(c *Config) {
		t.Helper()
		n := c.EdgeClient()
		equal(t, "site", c.Site, "ams-1")
		equal(t, "URLs", n.URLs, []string{"tls://hub.example:4222"})
		equal(t, "CA", n.TLSConfig.CA, "-----BEGIN CERTIFICATE-----")
		equal(t, "domain", n.Domain, "sea")
		equal(t, "file", n.CredentialFile, file)
		equal(t, "embedded", c.Embedded() == nil, c.Hub == nil)
	}
	f("least", "edge: {}", "", enrolled)
	f("named", "{site: ams-1, edge: {}}", "", enrolled)
	f("flag", "{data_dir: elsewhere, edge: {}}", filepath.Join(dir, "data"), enrolled)
	f("beside a hub with its own server", "{edge: {}, hub: {}}", "", enrolled)
	f("through a proxy", `{nats: {proxy_url: "http://proxy:3128"}, edge: {}}`, "", func(c *Config) {
		enrolled(c)
		equal(t, "proxy", c.EdgeClient().ProxyURL, "http://proxy:3128")
	})
	f("other addresses", `{nats: {urls: ["tls://b:1"]}, edge: {}}`, "", func(c *Config) {
		equal(t, "URLs", c.EdgeClient().URLs, []string{"tls://b:1"})
		equal(t, "CA", c.EdgeClient().TLSConfig.CA, "-----BEGIN CERTIFICATE-----")
		equal(t, "file", c.EdgeClient().CredentialFile, file)
		equal(t, "hub's file", c.HubClient().CredentialFile, "")
	})
	unused := func(c *Config) {
		t.Helper()
		equal(t, "file", c.EdgeClient().CredentialFile, "")
	}
	f("token instead", `{site: lon-1, nats: {urls: ["tls://b:1"], token_file: t}, edge: {}}`, "", unused)
	f("certificate instead", `{site: lon-1, nats: {urls: ["tls://b:1"], tls_config: {cert_file: c, key_file: k}}, edge: {}}`, "", unused)
	f("own server", `{site: lon-1, nats: {embedded: {}}, edge: {}}`, "", unused)
	f("hub", `{site: core, hub: {}}`, "", func(c *Config) { equal(t, "server", c.Embedded() != nil, true) })
	f("elsewhere", `{site: lon-1, edge: {}}`, other, func(c *Config) {
		unused(c)
		equal(t, "nats", *c.Embedded(), *parse(t, "{site: a, hub: {}}").Embedded())
		equal(t, "data directory", c.DataDir, other)
		equal(t, "client", c.EdgeClient(), bus.DefaultConfig())
	})

	fails := func(what, text, want string) {
		t.Helper()
		if _, err := load(text, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	fails("another site", "site: lon-1\nedge: {}", `line 1, column 1: site: is "lon-1", but the credential`)
	write("data/credential", credential[:50])
	fails("damaged", "edge: {}", "data_dir: read credential")
}
