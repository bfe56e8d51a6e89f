package natsd_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	promconfig "github.com/prometheus/common/config"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/identity"
	"github.com/thalweg/thalweg/internal/natsd"
)

// authority issues certificates, into files NAME.pem and NAME.key.
type authority struct {
	t           *testing.T
	dir         string
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.issue("ca", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) issue(name string, template *x509.Certificate) {
	a.t.Helper()
	must := func(err error) {
		if err != nil {
			a.t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore = time.Now().Add(-time.Hour)
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	if a.certificate == nil {
		template.Subject.CommonName = name
		a.certificate, a.key = template, key
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &key.PublicKey, a.key)
	must(err)
	if a.certificate == template {
		a.certificate, err = x509.ParseCertificate(raw)
		must(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(err)
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})
	if name != "ca" {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})...)
	}
	must(os.WriteFile(a.file(name+".pem"), chain, 0o600))
	must(os.WriteFile(a.file(name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
}

func (a *authority) server(o *natsd.Options) {
	a.issue("server", &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	t := &o.Config.TLSServerConfig
	t.TLSCertPath, t.TLSKeyPath, t.ClientCAs = a.file("server.pem"), a.file("server.key"), a.file("ca.pem")
	o.Config.Auth.MTLS = true
}

// client connects as a site with the certificate of a name, "" for none.
func (a *authority) client(t *testing.T, s *bustest.Server, site, name string) *bus.Conn {
	t.Helper()
	config := bustest.Config("tls://" + s.Addr())
	config.TLSConfig = promconfig.TLSConfig{CAFile: a.file("ca.pem")}
	if name != "" {
		config.TLSConfig.CertFile, config.TLSConfig.KeyFile = a.file(name+".pem"), a.file(name+".key")
	}
	return bustest.Connect(t, bus.Options{Config: config, Site: site})
}

func TestClientCertificates(t *testing.T) {
	a, stranger := newAuthority(t), newAuthority(t)
	server := bustest.NewServer(t, a.server)
	client := func(to *authority, name, common string, dns ...string) string {
		to.issue(name, &x509.Certificate{Subject: pkix.Name{CommonName: common}, DNSNames: dns, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		return name
	}
	good := client(a, "good", "ams-1")
	connected(t, a.client(t, server, "ams-1", good))
	connected(t, a.client(t, server, "lon-1", client(a, "dns", "", "lon-1.sites.example")))
	refused(t, a.client(t, server, "lon-1", good))
	refused(t, a.client(t, server, "ams-1", ""))
	refused(t, a.client(t, server, "", good)) // as a hub
	refused(t, a.client(t, server, "", client(a, "hub", "@hub")))

	// Of another authority: the connection does not come about.
	os.Rename(stranger.file(client(stranger, "evil", "ams-1")+".pem"), a.file("evil.pem"))
	os.Rename(stranger.file("evil.key"), a.file("evil.key"))
	evil := a.client(t, server, "ams-1", "evil")
	bustest.WaitFor(t, "refusal", func() bool { return strings.Contains(evil.State().Reason, "unknown certificate authority") })

	// It ends with its certificate.
	a.issue("short", &x509.Certificate{
		Subject: pkix.Name{CommonName: "ams-1"}, NotAfter: time.Now().Add(4 * time.Second), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	short := a.client(t, server, "ams-1", "short")
	connected(t, short)
	bustest.WaitFor(t, "certificate to expire", func() bool { return !short.State().Connected })

	// A site with a key needs none, and joins by what vouches for the server.
	dir := enrolled(t, server, "fra-1")
	if c, err := identity.ReadCredential(identity.CredentialFile(dir)); err != nil || !strings.Contains(c.CA, "BEGIN CERTIFICATE") || c.URLs[0] != "tls://"+server.Addr() {
		t.Errorf("credential is %+v, %v", c, err)
	}
	connected(t, edge(t, dir))
}
