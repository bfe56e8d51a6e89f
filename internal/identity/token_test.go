package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func exampleToken() *Token {
	return &Token{Site: "ams-1", URLs: []string{"tls://hub.example:4222"}, Secret: newSecret(), Pin: make([]byte, pinBytes), Root: "metrics", Domain: "sea"}
}

func TestToken(t *testing.T) {
	token := exampleToken()
	got, err := ParseToken(" " + token.String() + "\n")
	if err != nil || !reflect.DeepEqual(got, token) {
		t.Errorf("token is %+v, %v", got, err)
	}
	f := func(what, text, want string) {
		t.Helper()
		if _, err := ParseToken(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	changed := func(change func(*Token)) string {
		c := exampleToken()
		change(c)
		return c.String()
	}
	f("empty", "", "begin with")
	f("another's", "eyJhbGciOi.x.y", "begin with")
	f("cut", token.String()[:60], "damaged")
	f("bad encoding", tokenPrefix+"=?", "damaged")
	f("later version", tokenPrefix+base64.RawURLEncoding.EncodeToString([]byte(`{"site":"a","colour":"red"}`)), "later version")
	f("long", tokenPrefix+strings.Repeat("A", maxTokenBytes), "characters")
	f("site", changed(func(t *Token) { t.Site = "a.b" }), `site name "a.b"`)
	f("no address", changed(func(t *Token) { t.URLs = nil }), "0 addresses")
	f("no URL", changed(func(t *Token) { t.URLs = []string{"hub:4222"} }), "urls[0]")
	f("short secret", changed(func(t *Token) { t.Secret = []byte{1} }), "secret")
	f("two proofs", changed(func(t *Token) { t.JWT = "x" }), "secret")
	f("short pin", changed(func(t *Token) { t.Pin = []byte{1} }), "pin")
	f("root", changed(func(t *Token) { t.Root = "a.>" }), "subject_root")
}

func FuzzToken(f *testing.F) {
	f.Add(exampleToken().String())
	f.Add(tokenPrefix + "e30")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ParseToken(text)
		if err != nil {
			return
		}
		again, err := ParseToken(token.String())
		if err != nil || !reflect.DeepEqual(again, token) {
			t.Errorf("%q: %+v, %v", text, again, err)
		}
	})
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"key":"U","secret":"AA==","proof":"AA=="}`))
	f.Add([]byte(`{"key":"U","replaces":"U","proof":"AA==","oldProof":""}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := parseRequest("a", data); err == nil {
			t.Errorf("%q has the proof of a key: %+v", data, r)
		}
	})
}

func FuzzCredential(f *testing.F) {
	c, err := newCredential("ams-1")
	if err != nil {
		f.Fatal(err)
	}
	file := filepath.Join(f.TempDir(), "credential")
	if err := c.write(file); err != nil {
		f.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"site":"a","urls":["nats://a"],"seed":"SU"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := parseCredential(data); err == nil {
			c.BusConfig()
			c.login()
		}
	})
}

func TestCredential(t *testing.T) {
	dir := t.TempDir()
	c, err := newCredential("ams-1")
	if err != nil {
		t.Fatal(err)
	}
	c.admit(exampleToken())
	file := CredentialFile(filepath.Join(dir, "data"))
	if err := c.write(file); err != nil {
		t.Fatal(err)
	}
	read, err := ReadCredential(file)
	if err != nil || !reflect.DeepEqual(read, c) {
		t.Errorf("read %+v, %v", read, err)
	}
	if shown := fmt.Sprintf("%v %+v %#v", c, c, *c); strings.Contains(shown, string(c.Seed)) {
		t.Errorf("the seed shows: %s", shown)
	}
	config := c.BusConfig()
	if config.SubjectRoot != "metrics" || config.Domain != "sea" || config.Stream.Name != "THALWEG" {
		t.Errorf("configuration is %+v", config)
	}
	login, err := Login(file, "ams-1")()
	if err != nil {
		t.Fatal(err)
	}
	signature, err := login.Sign([]byte("nonce"))
	if err != nil || !VerifyNonce(c.Public(), "nonce", base64.RawURLEncoding.EncodeToString(signature)) ||
		VerifyNonce(c.Public(), "another", base64.RawURLEncoding.EncodeToString(signature)) {
		t.Errorf("signature is not that of the nonce, %v", err)
	}
	if _, err := Login(file, "lon-1")(); err == nil || !strings.Contains(err.Error(), `of site "ams-1"`) {
		t.Errorf("credential of another site: %v", err)
	}
	if err := os.WriteFile(file, []byte(`{"seed":"SUSECRET"`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadCredential(file); err == nil || strings.Contains(err.Error(), "SUSECRET") || !strings.Contains(err.Error(), file) {
		t.Errorf("damaged credential: %v", err)
	}
}

func TestRevokedFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "data", "revoked-keys")
	log := &lines{}
	open := func() *RevokedFile {
		l, err := OpenRevoked(file, slog.New(slog.NewTextHandler(log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	one, two, three := publicOf(t, userKey(t)), publicOf(t, userKey(t)), publicOf(t, userKey(t))
	l := open()
	for range 2 {
		if err := l.Add("a", one, start); err != nil {
			t.Fatal(err)
		}
	}
	if l = open(); !l.Has(one) || l.Has(two) {
		t.Error("not what was added")
	}
	// A crash while a line was written costs that line only.
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(two[:20]); err != nil {
		t.Fatal(err)
	}
	f.Close()
	l = open()
	if err := l.Add("b", three, start); err != nil {
		t.Fatal(err)
	}
	if l = open(); !l.Has(one) || l.Has(two) || !l.Has(three) {
		t.Error("not what was added around a torn line")
	}
	if !strings.Contains(log.text.String(), `msg="line is no revoked key"`) {
		t.Error("the torn line is not named")
	}
}

// TestTable: nothing is known before everything was read.
func TestTable(t *testing.T) {
	ledger, err := OpenRevoked(filepath.Join(t.TempDir(), "revoked"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	table := NewTable(ledger, NewCopies(filepath.Join(t.TempDir(), "sites")))
	secret := newSecret()
	sent := base64.RawURLEncoding.EncodeToString(secret)
	record := withKey(public(1))
	record.Revoked = []Revoked{{Public: public(2)}}
	record.Joins = []Join{{Hash: hashSecret(secret), Expires: at(time.Hour)}}
	if err := table.set(record); err != nil {
		t.Fatal(err)
	}
	verdict := func(site string, n int, want Verdict) {
		t.Helper()
		if got := table.Key(site, public(n)); got != want {
			t.Errorf("key %d of site %s is %q, want %q", n, site, got, want)
		}
	}
	join := func(site, secret string, now time.Duration, want Verdict) {
		t.Helper()
		if _, got := table.Join(site, secret, at(now)); got != want {
			t.Errorf("token %q of site %s is %q, want %q", secret, site, got, want)
		}
	}
	verdict("a", 1, Unread)
	verdict("a", 2, Withdrawn)
	join("a", sent, 0, Unread)
	table.complete = true
	verdict("a", 1, Valid)
	verdict("a", 2, Withdrawn)
	verdict("a", 3, Unknown)
	verdict("b", 1, Unknown)
	join("a", sent, 0, Valid)
	join("a", sent, time.Hour, BadJoin)
	join("b", sent, 0, BadJoin)
	join("a", "x"+sent, 0, BadJoin)
	join("a", "?", 0, BadJoin)
	if table.Enrolled() != 1 {
		t.Errorf("%d sites are enrolled", table.Enrolled())
	}
	if !table.Knows("a") || table.Knows("b") {
		t.Error("knows the wrong sites")
	}
	// An older copy of the record.
	if err := table.set(&Record{Site: "a", Keys: []Key{{Public: public(2)}}}); err != nil {
		t.Fatal(err)
	}
	verdict("a", 2, Withdrawn)
}

// TestCopies: the newest version of each record is kept, until it is deleted by hand.
func TestCopies(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sites")
	c := NewCopies(dir)
	kept := func(want string) {
		t.Helper()
		all, err := c.All()
		got := ""
		for _, r := range all {
			got += fmt.Sprintf("%s %d, ", r.Site, r.Version)
		}
		if got != want || err != nil {
			t.Errorf("kept are %q, %v, want %q", got, err, want)
		}
	}
	keep := func(r *Record) {
		t.Helper()
		if err := c.Keep(r); err != nil {
			t.Fatal(err)
		}
	}
	kept("")
	keep(&Record{Site: "a", Version: 2})
	keep(&Record{Site: "b", Version: 1})
	kept("a 2, b 1, ")
	keep(&Record{Site: "a", Version: 1})
	keep(&Record{Site: "b", Version: 3})
	kept("a 2, b 3, ")
	keep(&Record{Site: "b", deleted: true})
	keep(&Record{Site: "b", deleted: true})
	kept("a 2, ")
	if err := os.WriteFile(filepath.Join(dir, "c.json"), []byte(`{"site":"a","version":9}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if all, err := c.All(); len(all) != 1 || err == nil || !strings.Contains(err.Error(), `site "c"`) {
		t.Errorf("a record in the wrong file: %v, %v", all, err)
	}
	keep(&Record{Site: "c", Version: 1})
	kept("a 2, c 1, ")
	table := NewTable(nil, c)
	table.records["a"] = &Record{Site: "a", Version: 2}
	if behind, err := table.behind(); err != nil || len(behind) != 1 || behind[0].Site != "c" {
		t.Errorf("behind are %v, %v", behind, err)
	}
}

// authority makes certificates.
type authority struct {
	t           *testing.T
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func (a *authority) issue(name string, ca bool, hosts ...string) *authority {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: ca, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	parent, signer := a.certificate, a.key
	if parent == nil {
		parent, signer = template, key
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(raw)
	if err != nil {
		a.t.Fatal(err)
	}
	return &authority{a.t, certificate, key}
}

func TestPin(t *testing.T) {
	self := &authority{t: t}
	root, otherRoot := self.issue("root", true), self.issue("other", true)
	leaf := root.issue("hub", false, "hub.example", "192.0.2.1")
	alone := self.issue("alone", false, "hub.example")
	chain := func(of ...*authority) (c []*x509.Certificate) {
		for _, a := range of {
			c = append(c, a.certificate)
		}
		return c
	}
	if _, err := Pin(chain(leaf)); err == nil || !strings.Contains(err.Error(), "append the certificate of its issuer") {
		t.Errorf("nothing to hold on to: %v", err)
	}
	if _, err := Pin(nil); err == nil {
		t.Error("no certificate has a pin")
	}
	pin, err := Pin(chain(leaf, root))
	if err != nil {
		t.Fatal(err)
	}
	f := func(what string, pin []byte, name, want string, shown ...*authority) {
		t.Helper()
		p := &pinned{pin: pin, urls: []string{"tls://192.0.2.1:4222", "tls://hub.example:4222"}}
		err := p.verify(tls.ConnectionState{ServerName: name, PeerCertificates: chain(shown...)})
		if want == "" && (err != nil || p.ca == "") || want != "" && (err == nil || !strings.Contains(err.Error(), want) || p.ca != "") {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	f("right", pin, "hub.example", "", leaf, root)
	f("by address", pin, "", "", leaf, root)
	f("renewed", pin, "hub.example", "", root.issue("hub", false, "hub.example"), root)
	f("another name", pin, "hub.invalid", "valid for", leaf, root)
	f("another authority", pin, "hub.example", "not the one of the join token", otherRoot.issue("hub", false, "hub.example"), otherRoot)
	f("the right authority beside a chain of another", pin, "hub.example", "unknown authority", otherRoot.issue("hub", false, "hub.example"), root)
	f("nothing", pin, "hub.example", "not the one of the join token")
	if pin, err = Pin(chain(alone)); err != nil {
		t.Fatal(err)
	}
	f("vouching for itself", pin, "hub.example", "", alone)
	f("its name, another key", pin, "hub.example", "not the one of the join token", self.issue("alone", false, "hub.example"))
}
