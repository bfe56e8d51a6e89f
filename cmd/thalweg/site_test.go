package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/thalweg/thalweg/internal/identity"
	"github.com/thalweg/thalweg/internal/web"
)

// TestSiteSign: a key that was made at a site is signed at the hub, and the line that is printed fits the key. Nothing
// runs meanwhile.
func TestSiteSign(t *testing.T) {
	run := func(want int, args ...string) string {
		t.Helper()
		var stdout, stderr strings.Builder
		if code := execute(args, &stdout, &stderr); code != want {
			t.Fatalf("thalweg %q: exit code %d, want %d\n%s", args, code, want, stderr.String())
		}
		return stdout.String() + stderr.String()
	}
	account := func() (public string, seed []byte) {
		t.Helper()
		key, err := nkeys.CreateAccount()
		if err != nil {
			t.Fatal(err)
		}
		if public, err = key.PublicKey(); err != nil {
			t.Fatal(err)
		}
		if seed, err = key.Seed(); err != nil {
			t.Fatal(err)
		}
		return public, seed
	}
	dir := t.TempDir()
	data := "--data.dir=" + filepath.Join(dir, "data")
	made := run(exitOK, "enrol", "--new-key=ams-1", data)
	if again := run(exitOK, "enrol", "--new-key=ams-1", data); again != made {
		t.Errorf("asked again, the key is another: %s", again)
	}
	public := regexp.MustCompile(`\bU[A-Z0-9]{55}\b`).FindString(made)
	sites, _ := account()
	_, signing := account()
	keyFile := filepath.Join(dir, "signing.nk")
	if err := os.WriteFile(keyFile, signing, 0o600); err != nil {
		t.Fatal(err)
	}
	sign := []string{"site", "sign", "ams-1", "--public-key=" + public, "--account=" + sites, "--address=tls://nats.example:4222"}
	line := run(exitOK, append(sign, "--signing-key-file="+keyFile, "--domain=sea")...)
	token, err := identity.ParseToken(regexp.MustCompile(`thalweg1_\S+`).FindString(line))
	if err != nil || token.Site != "ams-1" || token.Domain != "sea" || token.JWT == "" || len(token.Secret) > 0 {
		t.Errorf("token is %+v, %v", token, err)
	}
	run(exitUsage, sign...)
	run(exitUsage, "enrol")
	run(exitUsage, "enrol", "--rotate", "thalweg1_x")
	run(exitUsage, "enrol", "thalweg1_x", data)
	run(exitError, "enrol", "--rotate", data)
	if said := run(exitError, "enrol", "--new-key=lon-1", data); !strings.Contains(said, `an enrolment of site "ams-1" has begun here`) {
		t.Errorf("another site's key: %s", said)
	}
}

func TestListSites(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var b strings.Builder
	err := listSites(&b, []web.Identity{
		{Site: "a", LastSeen: at, Keys: []web.IdentityKey{
			{Key: "UAAAAAAAAAAAAAAA", Added: at}, {Key: "UBBBBBBBBBBBBBBB", Added: at, Replaces: "UAAAAAAAAAAAAAAA"},
		}},
		{Site: "b", Joins: []web.PendingJoin{{Expires: at}}},
		{Site: "c", Revoked: 1},
		{Site: "d"},
	})
	const want = `SITE  STATE                  LAST SEEN             KEY           ADDED                 EXPIRES
a     enrolled               2026-01-02T03:04:05Z  UAAAAAAAAAAA  2026-01-02T03:04:05Z  never
a     replaces UAAAAAAAAAAA  2026-01-02T03:04:05Z  UBBBBBBBBBBB  2026-01-02T03:04:05Z  never
b     invited                -                     -             -                     2026-01-02T03:04:05Z
c     revoked                -                     -             -                     -
d     no key                 -                     -             -                     -
`
	if got := b.String(); err != nil || got != want {
		t.Errorf("printed\n%s%v\nwant\n%s", got, err, want)
	}
}
