package puppetca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// testCA answers as Puppet's CA does, in the three routes that a client needs and the one for renewal.
type testCA struct {
	t       *testing.T
	key     *ecdsa.PrivateKey
	cert    *x509.Certificate
	pem     string // what it shows as its certificate
	server  *httptest.Server
	address string

	mu       sync.Mutex
	requests map[string]*x509.CertificateRequest
	signed   map[string]string // PEM by name
	autosign bool
	asked    []string
	lifetime time.Duration
}

func newTestCA(t *testing.T) *testCA {
	ca := &testCA{t: t, requests: map[string]*x509.CertificateRequest{}, signed: map[string]string{}, autosign: true, lifetime: 5 * 365 * 24 * time.Hour}
	ca.key, ca.cert = authorityOf(t, "Puppet CA: test")
	ca.pem = pemOf("CERTIFICATE", ca.cert.Raw)
	serverKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "puppet"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, ca.cert, &serverKey.PublicKey, ca.key)
	must(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	ca.server = httptest.NewUnstartedServer(ca)
	ca.server.TLS = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: serverKey}}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool,
	}
	ca.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	ca.server.StartTLS()
	t.Cleanup(ca.server.Close)
	ca.address = strings.Replace(ca.server.Listener.Addr().String(), "127.0.0.1", "localhost", 1)
	return ca
}

func authorityOf(t *testing.T, name string) (*ecdsa.PrivateKey, *x509.Certificate) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(10 * 365 * 24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return key, cert
}

func (ca *testCA) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	what, ok := strings.CutPrefix(r.URL.Path, "/puppet-ca/v1/")
	if !ok || r.URL.Query().Get("environment") != "production" {
		http.Error(w, "no such route", http.StatusNotFound)
		return
	}
	ca.asked = append(ca.asked, r.Method+" "+what)
	kind, name, _ := strings.Cut(what, "/")
	switch {
	case r.Method == "GET" && what == "certificate/ca":
		fmt.Fprint(w, ca.pem)
	case r.Method == "GET" && kind == "certificate":
		if ca.signed[name] == "" {
			http.Error(w, "Could not find certificate "+name, http.StatusNotFound)
			return
		}
		fmt.Fprint(w, ca.signed[name])
	case r.Method == "PUT" && kind == "certificate_request":
		if ca.signed[name] != "" || ca.requests[name] != nil {
			http.Error(w, name+" already has a requested or signed certificate; ignoring certificate request", http.StatusBadRequest)
			return
		}
		text, _ := io.ReadAll(r.Body)
		block, _ := pem.Decode(text)
		request, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil || request.CheckSignature() != nil || request.Subject.CommonName != name {
			http.Error(w, "bad request", http.StatusBadRequest)
			return
		}
		ca.requests[name] = request
		if ca.autosign {
			ca.sign(name, request.PublicKey)
		}
	case r.Method == "POST" && what == "certificate_renewal" && len(r.TLS.PeerCertificates) == 1:
		cert := r.TLS.PeerCertificates[0]
		ca.sign(cert.Subject.CommonName, cert.PublicKey)
		fmt.Fprint(w, ca.signed[cert.Subject.CommonName])
	default:
		http.Error(w, "forbidden", http.StatusForbidden)
	}
}

// sign is used with mu held.
func (ca *testCA) sign(name string, key crypto.PublicKey) {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<60))
	must(ca.t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(ca.lifetime),
	}, ca.cert, key, ca.key)
	must(ca.t, err)
	ca.signed[name] = pemOf("CERTIFICATE", der)
}

func (ca *testCA) client(dir string) *Client {
	return &Client{
		Address: ca.address, Layout: Layout{dir, "ams-1.example.org"}, Fingerprint: fingerprint(ca.cert.Raw),
		Every: 10 * time.Millisecond, Wait: 30 * time.Second, Logger: slog.New(slog.DiscardHandler), bits: 2048,
	}
}

func pemOf(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func refused(t *testing.T, err error, words string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), words) {
		t.Errorf("error is %v, want one with %q", err, words)
	}
}

func TestEnrol(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t)
	ca.autosign = false
	dir := filepath.Join(t.TempDir(), "ssl")
	c := ca.client(dir)
	c.Fingerprint = strings.ToLower(strings.ReplaceAll(c.Fingerprint, ":", ""))
	done := make(chan error, 1)
	go func() { done <- c.Enrol(t.Context()) }()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		ca.mu.Lock()
		polls := 0
		for _, a := range ca.asked {
			if a == "GET certificate/"+c.Identity {
				polls++
			}
		}
		if polls > 1 { // it waits
			ca.sign(c.Identity, ca.requests[c.Identity].PublicKey)
			ca.mu.Unlock()
			break
		}
		ca.mu.Unlock()
		if time.Now().After(deadline) {
			t.Fatal("the certificate was not asked for twice")
		}
	}
	must(t, <-done)
	pair, err := tls.LoadX509KeyPair(c.CertFile(), c.KeyFile())
	must(t, err)
	if cn := pair.Leaf.Subject.CommonName; cn != c.Identity {
		t.Errorf("the certificate is of %q", cn)
	}
	for file, mode := range map[string]os.FileMode{
		c.KeyFile(): 0o640, c.CertFile(): 0o644, c.CAFile(): 0o644, c.requestFile(): 0o640, filepath.Join(dir, "private_keys"): os.ModeDir | 0o750,
	} {
		info, err := os.Stat(file)
		must(t, err)
		if info.Mode() != mode {
			t.Errorf("mode of %s is %s, want %s", file, info.Mode(), mode)
		}
	}
	if err := c.Enrol(t.Context()); !errors.Is(err, ErrEnrolled) {
		t.Errorf("second enrolment: %v, want ErrEnrolled", err)
	}

	// The certificate is used to get the next one.
	before := pair.Leaf.SerialNumber
	renewed, err := c.Renew(t.Context(), false)
	if err != nil || renewed {
		t.Errorf("renewal of a young certificate: %t, %v, want that nothing is done", renewed, err)
	}
	c.Now = func() time.Time { return pair.Leaf.NotAfter.Add(-time.Hour) }
	renewed, err = c.Renew(t.Context(), false)
	if err != nil || !renewed {
		t.Errorf("renewal of an old certificate: %t, %v", renewed, err)
	}
	after, err := c.certificate()
	must(t, err)
	if after.SerialNumber.Cmp(before) == 0 {
		t.Error("the certificate is the old one")
	}
}

// TestInterrupted begins where an earlier run stopped: after each file that it writes.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t)
	c := ca.client(t.TempDir())
	must(t, c.Enrol(t.Context()))
	for _, gone := range [][]string{
		{c.CertFile()},
		{c.CertFile(), c.requestFile()}, // a key without a request
		{c.CertFile(), c.requestFile(), c.CAFile()},
	} {
		for _, file := range gone {
			must(t, os.Remove(file))
		}
		if err := c.Enrol(t.Context()); err != nil {
			t.Errorf("without %q: %v", gone, err)
		}
		if _, err := tls.LoadX509KeyPair(c.CertFile(), c.KeyFile()); err != nil {
			t.Errorf("without %q: %v", gone, err)
		}
	}
	// The key is another one now, and the CA has a certificate of this name.
	for _, file := range []string{c.CertFile(), c.KeyFile()} {
		must(t, os.Remove(file))
	}
	refused(t, c.Enrol(t.Context()), "it belongs to another key")
	if _, err := os.Stat(c.CertFile()); err == nil {
		t.Error("a certificate of another key was kept")
	}
}

func TestTrust(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t)
	_, stranger := authorityOf(t, "somebody else")
	f := func(what, words string, change func(*Client)) {
		t.Helper()
		c := ca.client(t.TempDir())
		change(c)
		ca.mu.Lock()
		ca.asked = nil
		ca.mu.Unlock()
		err := c.Enrol(t.Context())
		ca.mu.Lock()
		defer ca.mu.Unlock()
		if words == "" {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
			return
		}
		refused(t, err, words)
		for _, a := range ca.asked {
			if a != "GET certificate/ca" {
				t.Errorf("%s: asked for %s of a CA that is not believed", what, a)
			}
		}
	}
	f("no fingerprint", "no fingerprint to know it by", func(c *Client) { c.Fingerprint = "" })
	f("first use", "", func(c *Client) {
		c.Fingerprint, c.TrustFirst = "", true
		delete(ca.requests, c.Identity)
		delete(ca.signed, c.Identity)
	})
	f("another fingerprint", "no fingerprint is", func(c *Client) { c.Fingerprint = fingerprint(stranger.Raw) })
	f("not a fingerprint", "is not 64 hexadecimal digits", func(c *Client) { c.Fingerprint = "AB:CD" })
	f("another CA on disk", "certificate signed by unknown authority", func(c *Client) {
		c.Fingerprint = ""
		must(t, c.makeDirs())
		must(t, os.WriteFile(c.CAFile(), []byte(pemOf("CERTIFICATE", stranger.Raw)), 0o644))
	})
	f("no CA on disk", "it holds no certificate", func(c *Client) {
		must(t, c.makeDirs())
		must(t, os.WriteFile(c.CAFile(), []byte("garbage"), 0o644))
	})
	ca.pem += pemOf("CERTIFICATE", stranger.Raw)
	f("somebody else beside the CA", "has nothing to do with the one of that fingerprint", func(*Client) {})
	ca.pem = "no certificate"
	f("garbage", "it holds no certificate", func(*Client) {})
}

func TestFailures(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t)
	ca.autosign = false
	c := ca.client(t.TempDir())
	c.Wait = 50 * time.Millisecond
	refused(t, c.Enrol(t.Context()), "the request was not signed within 50ms")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	refused(t, c.Enrol(ctx), "context canceled")
	ca.server.Close()
	refused(t, c.Enrol(t.Context()), "connection refused")
	for _, bad := range []Client{{Address: "puppet", Layout: Layout{"d", "a"}}, {Address: ":8140", Layout: Layout{"d", "a"}}} {
		refused(t, bad.Validate(), "is not HOST:PORT")
	}
	for _, identity := range []string{"", "../a", "A", ".hidden", "a/b"} {
		refused(t, Layout{"d", identity}.Validate(), "identity")
	}
}
