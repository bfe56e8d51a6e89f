package natsd_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/identity"
	"github.com/thalweg/thalweg/internal/natsd"
)

func withEnrol(o *natsd.Options) { o.Config.Auth.Enrol = true }

// invite makes a join token, once the registry is there.
func invite(t *testing.T, s *bustest.Server, site string, lasts time.Duration, addresses ...string) *identity.Token {
	t.Helper()
	var token *identity.Token
	bustest.WaitFor(t, "join token", func() bool {
		made, _, err := s.Invite(t.Context(), site, addresses, lasts, "test")
		if err != nil {
			t.Log(err)
			return false
		}
		var parsed error
		if token, parsed = identity.ParseToken(made.String()); parsed != nil {
			t.Fatal(parsed)
		}
		return true
	})
	return token
}

func enrol(t *testing.T, dir string, token *identity.Token) (*identity.Credential, error) {
	t.Helper()
	e := identity.Enrolment{Dir: dir, Logger: bustest.Logger(t)}
	return e.Enrol(t.Context(), token)
}

// enrolled joins a site and returns its data directory.
func enrolled(t *testing.T, s *bustest.Server, site string, addresses ...string) string {
	t.Helper()
	dir := t.TempDir()
	if _, err := enrol(t, dir, invite(t, s, site, time.Hour, addresses...)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// edge connects as the site of a data directory, at the addresses of its credential or at others.
func edge(t *testing.T, dir string, urls ...string) *bus.Conn {
	t.Helper()
	file := identity.CredentialFile(dir)
	c, err := identity.ReadCredential(file)
	if err != nil {
		t.Fatal(err)
	}
	config := c.BusConfig()
	if len(urls) > 0 {
		config.URLs = urls
	}
	return bustest.Connect(t, bus.Options{Config: config, Site: c.Site, Login: identity.Login(file, c.Site), LoginSource: "credential"})
}

func connected(t *testing.T, c *bus.Conn) {
	t.Helper()
	bustest.WaitFor(t, "connection", func() bool { return c.State().Connected })
}

func refused(t *testing.T, c *bus.Conn) {
	t.Helper()
	bustest.WaitFor(t, "refusal", func() bool { s := c.State(); return !s.Connected && s.Refused })
}

// TestEnrolment is the life of a site's key: it joins, works, changes and is revoked.
func TestEnrolment(t *testing.T) {
	server := bustest.NewServer(t, withEnrol)
	hub := bustest.Connected(t, bus.Options{InProcess: server.Core(), Config: bustest.Config()})
	bustest.EnsureStream(t, hub)
	token := invite(t, server, "ams-1", time.Hour)
	dir := t.TempDir()
	c, err := enrol(t, dir, token)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(identity.CredentialFile(dir)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("credential: %v, %v", info.Mode(), err)
	}
	site := edge(t, dir)
	connected(t, site)
	lane := site.Root().Lane("ams-1", bus.Live)
	last, err := site.Publish(t.Context(), lane, []byte("row"), 0)
	if err != nil {
		t.Fatal(err)
	}

	// The token has been used, and does not do for another key.
	if _, err := enrol(t, t.TempDir(), token); err == nil || !strings.Contains(err.Error(), "has been used for another key") {
		t.Errorf("token is used twice: %v", err)
	}
	if _, err := enrol(t, dir, token); err == nil || !strings.Contains(err.Error(), "--force") {
		t.Errorf("credential is replaced unasked: %v", err)
	}

	// A new key: the connection goes over to it, and the old one is worth nothing.
	old, err := os.ReadFile(identity.CredentialFile(dir))
	if err != nil {
		t.Fatal(err)
	}
	rotation := identity.Enrolment{Dir: dir, Logger: bustest.Logger(t)}
	fresh, err := rotation.Rotate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if fresh.Public() == c.Public() {
		t.Error("the key is the same")
	}
	bustest.WaitFor(t, "old key to go", func() bool { return keys(t, server, "ams-1") == fresh.Public() })
	bustest.WaitFor(t, "publish with the new key", func() bool {
		next, err := site.Publish(t.Context(), lane, []byte("row"), last)
		if err == nil {
			last = next
		}
		return err == nil
	})
	before := t.TempDir()
	if err := os.WriteFile(identity.CredentialFile(before), old, 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, edge(t, before))
	if _, err := rotation.Rotate(t.Context()); err == nil || !strings.Contains(err.Error(), "less than") {
		t.Errorf("keys change without end: %v", err)
	}

	// Revoked, and for ever: another key may join.
	revoked, err := server.Registry().Revoke(t.Context(), "ams-1", "", "test")
	if err != nil || len(revoked) != 1 || revoked[0] != fresh.Public() {
		t.Errorf("revoked %v, %v", revoked, err)
	}
	refused(t, site)
	if _, err := enrol(t, dir, invite(t, server, "ams-1", time.Hour)); err == nil {
		t.Error("a revoked key joins again")
	}
	connected(t, edge(t, enrolled(t, server, "ams-1")))
	refused(t, site)
}

// keys are the public keys of a site.
func keys(t *testing.T, s *bustest.Server, site string) string {
	t.Helper()
	records, err := s.Registry().List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, r := range records {
		for _, k := range r.Keys {
			if r.Site == site {
				keys = append(keys, k.Public)
			}
		}
	}
	return strings.Join(keys, " ")
}

// TestEnrolmentInterrupted: who was killed, or did not get the answer, when the key was registered already runs the same
// line again, also when the token is no longer good.
func TestEnrolmentInterrupted(t *testing.T) {
	server := bustest.NewServer(t, withEnrol)
	token := invite(t, server, "ams-1", 3*time.Second)
	dir := t.TempDir()
	first, err := enrol(t, dir, token)
	if err != nil {
		t.Fatal(err)
	}
	again := func(when string) {
		t.Helper()
		if err := os.Rename(identity.CredentialFile(dir), filepath.Join(dir, "credential.new")); err != nil {
			t.Fatal(err)
		}
		if c, err := enrol(t, dir, token); err != nil || c.Public() != first.Public() || keys(t, server, "ams-1") != c.Public() {
			t.Errorf("%s: %v", when, err)
		}
	}
	again("at once")
	bustest.WaitFor(t, "token to expire", func() bool {
		records, err := server.Registry().List(t.Context())
		return err == nil && len(records[0].Joins) == 0
	})
	again("later")
	if _, err := os.Stat(filepath.Join(dir, "credential.new")); err == nil {
		t.Error("credential.new is left behind")
	}
}

// TestJoinExpires: a token is no good after its time, and none that nobody has made is.
func TestJoinExpires(t *testing.T) {
	server := bustest.NewServer(t, withEnrol)
	token := invite(t, server, "ams-1", time.Nanosecond)
	if _, err := enrol(t, t.TempDir(), token); err == nil || !strings.Contains(err.Error(), "server refused the credential (join token)") {
		t.Errorf("expired token: %v", err)
	}
	token = invite(t, server, "ams-1", time.Hour)
	token.Site = "lon-1"
	if _, err := enrol(t, t.TempDir(), token); err == nil || !strings.Contains(err.Error(), "server refused the credential (join token)") {
		t.Errorf("token of another site: %v", err)
	}
}

// TestRegistryRestored: over an older copy of JetStream's files, and over their loss, keys that were revoked stay so, and
// those that are valid do too.
func TestRegistryRestored(t *testing.T) {
	server := bustest.NewServer(t, withEnrol)
	stolen, kept := enrolled(t, server, "ams-1"), enrolled(t, server, "lon-1")
	server.Stop()
	older := server.CopyStore()
	server.Start()
	thief, honest := edge(t, stolen), edge(t, kept)
	connected(t, thief)
	connected(t, honest)
	if _, err := server.Registry().Revoke(t.Context(), "ams-1", "", "test"); err != nil {
		t.Fatal(err)
	}
	refused(t, thief)
	later := edge(t, enrolled(t, server, "fra-1"))
	connected(t, later)
	rotation := identity.Enrolment{Dir: kept, Logger: bustest.Logger(t)}
	if _, err := rotation.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, store := range []string{older, t.TempDir()} {
		server.Stop()
		server.RestoreStore(store)
		server.Start()
		for _, site := range []*bus.Conn{honest, later} {
			connected(t, site)
		}
		bustest.WaitFor(t, "registry as it was", func() bool { return keys(t, server, "ams-1") == "" && keys(t, server, "fra-1") != "" })
		refused(t, thief)
		refused(t, edge(t, stolen))
	}
}

// TestRegistryOfCluster: servers of a cluster share it.
func TestRegistryOfCluster(t *testing.T) {
	servers := bustest.NewCluster(t, func(i int, o *natsd.Options) {
		withEnrol(o)
		o.Stream.Replicas = 3
	})
	dir, token := t.TempDir(), invite(t, servers[0], "ams-1", time.Hour, servers[1].Addr())
	bustest.WaitFor(t, "site that joins at another server, which may not have read the registry yet", func() bool {
		_, err := enrol(t, dir, token)
		return err == nil
	})
	var sites []*bus.Conn
	for _, s := range servers {
		site := edge(t, dir, s.URL())
		connected(t, site)
		sites = append(sites, site)
	}
	servers[2].Stop()
	if _, err := servers[1].Registry().Revoke(t.Context(), "ams-1", "", "test"); err != nil {
		t.Fatal(err)
	}
	servers[2].Start()
	for _, site := range sites {
		refused(t, site)
	}
}

// TestEnrolledNeedsKey: where others need no credential, a site that has a key in the registry, or had one, does.
func TestEnrolledNeedsKey(t *testing.T) {
	server := bustest.NewServer(t)
	anonymous := bustest.Connected(t, bus.Options{Config: bustest.Config(server.URL()), Site: "ams-1"})
	other := bustest.Connected(t, bus.Options{Config: bustest.Config(server.URL()), Site: "lon-1"})
	dir := enrolled(t, server, "ams-1")
	refused(t, anonymous)
	site := edge(t, dir)
	connected(t, site)
	if _, err := server.Registry().Revoke(t.Context(), "ams-1", "", "test"); err != nil {
		t.Fatal(err)
	}
	refused(t, site)
	refused(t, anonymous)
	if !other.State().Connected {
		t.Error("the other site is not connected")
	}
}
