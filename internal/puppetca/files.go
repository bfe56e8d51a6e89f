package puppetca

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// keyBits is what Puppet's agent takes.
const keyBits = 4096

// Layout is the ssl directory of Puppet's agent, and the name of a certificate in it.
type Layout struct{ Dir, Identity string }

// CAFile, CertFile and KeyFile are where the certificate of the CA, the own one and its key are.
func (l Layout) CAFile() string   { return filepath.Join(l.Dir, "certs", "ca.pem") }
func (l Layout) CertFile() string { return filepath.Join(l.Dir, "certs", l.Identity+".pem") }
func (l Layout) KeyFile() string  { return filepath.Join(l.Dir, "private_keys", l.Identity+".pem") }

func (l Layout) requestFile() string {
	return filepath.Join(l.Dir, "certificate_requests", l.Identity+".pem")
}

// Validate says what is wrong.
func (l Layout) Validate() error {
	if l.Dir == "" {
		return errors.New("ssl directory is missing")
	}
	if len(l.Identity) > maxIdentity || !identities.MatchString(l.Identity) {
		return fmt.Errorf("identity %q is not one to 255 of a-z, 0-9, dot, _ and -, as Puppet wants it", l.Identity)
	}
	return nil
}

func (c *Client) makeDirs() error {
	for _, d := range []struct {
		name string
		mode fs.FileMode
	}{
		{"", 0o771}, {"certificate_requests", 0o755}, {"certs", 0o755}, {"public_keys", 0o755}, {"private_keys", 0o750}, {"private", 0o750},
	} {
		if err := os.MkdirAll(filepath.Join(c.Dir, d.name), d.mode); err != nil {
			return fmt.Errorf("make ssl directory: %w", err)
		}
	}
	return nil
}

// authority is what the CA's certificate file holds.
type authority struct {
	certs []*x509.Certificate
	pool  *x509.CertPool
}

// authority returns the CA that is believed: the one in the directory or, if the caller can tell that it is the right
// one, the one that the network shows.
func (c *Client) authority(ctx context.Context) (*authority, error) {
	text, err := os.ReadFile(c.CAFile())
	if err == nil {
		ca, err := parseAuthority(text)
		if err != nil {
			return nil, fmt.Errorf("read certificate of the CA %q: %w", c.CAFile(), err)
		}
		if c.Fingerprint != "" {
			if err := ca.has(c.Fingerprint); err != nil {
				return nil, fmt.Errorf("check certificate of the CA %q: %w", c.CAFile(), err)
			}
		}
		return ca, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read certificate of the CA: %w", err)
	}
	if c.Fingerprint == "" && !c.TrustFirst {
		return nil, fmt.Errorf("there is no certificate of the CA in %q, and no fingerprint to know it by", c.CAFile())
	}
	// Nothing but the certificate is asked for over this connection, and it is believed for its fingerprint.
	client := httpClient(&tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
	text, code, err := c.do(ctx, client, http.MethodGet, "certificate/ca", "", nil)
	if err != nil {
		return nil, fmt.Errorf("fetch certificate of the CA: %w", err)
	}
	if code != http.StatusOK {
		return nil, fmt.Errorf("fetch certificate of the CA: it says %d %s: %s", code, http.StatusText(code), brief(text))
	}
	ca, err := parseAuthority(text)
	if err != nil {
		return nil, fmt.Errorf("fetch certificate of the CA: %w", err)
	}
	if c.Fingerprint != "" {
		if err := ca.has(c.Fingerprint); err != nil {
			return nil, fmt.Errorf("check certificate of the CA at %s: %w", c.Address, err)
		}
	} else {
		c.Logger.Warn("the certificate of the CA is believed because it is the first one seen", "fingerprint", fingerprint(ca.certs[0].Raw))
	}
	return ca, write(c.CAFile(), 0o644, text)
}

func parseAuthority(text []byte) (*authority, error) {
	a := &authority{pool: x509.NewCertPool()}
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		if !cert.IsCA {
			return nil, fmt.Errorf("certificate of %q is not of a CA", cert.Subject)
		}
		a.certs = append(a.certs, cert)
		a.pool.AddCert(cert)
	}
	if len(a.certs) == 0 {
		return nil, errors.New("it holds no certificate")
	}
	return a, nil
}

// has reports whether the last certificate of a chain that holds all the others, or one of them, has the fingerprint.
// What does not hang together with it is not believed.
func (a *authority) has(want string) error {
	sum, err := parseFingerprint(want)
	if err != nil {
		return err
	}
	var known *x509.Certificate
	var found []string
	for _, cert := range a.certs {
		if sha256.Sum256(cert.Raw) == sum {
			known = cert
		}
		found = append(found, fingerprint(cert.Raw))
	}
	if known == nil {
		return fmt.Errorf("no fingerprint is %s, found %s", want, strings.Join(found, " and "))
	}
	believed := map[*x509.Certificate]bool{known: true}
	for range a.certs { // a chain is no longer than that
		for _, cert := range a.certs {
			for other := range believed {
				if cert.CheckSignatureFrom(other) == nil || other.CheckSignatureFrom(cert) == nil {
					believed[cert] = true
					break
				}
			}
		}
	}
	for _, cert := range a.certs {
		if !believed[cert] {
			return fmt.Errorf("certificate of %q (%s) has nothing to do with the one of that fingerprint", cert.Subject, fingerprint(cert.Raw))
		}
	}
	return nil
}

func parseFingerprint(s string) (sum [sha256.Size]byte, err error) {
	b, err := hex.DecodeString(strings.ToLower(strings.NewReplacer(":", "", " ", "").Replace(s)))
	if err != nil || len(b) != len(sum) {
		return sum, fmt.Errorf("fingerprint %q is not 64 hexadecimal digits", s)
	}
	copy(sum[:], b)
	return sum, nil
}

// fingerprint writes a SHA-256 as Puppet's tools do.
func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return strings.ToUpper(strings.ReplaceAll(fmt.Sprintf("% x", sum[:]), " ", ":"))
}

// requestFingerprint is what "puppetserver ca list" shows for a request.
func requestFingerprint(text []byte) string {
	block, _ := pem.Decode(text)
	if block == nil {
		return ""
	}
	return fingerprint(block.Bytes)
}

// key reads the private key, or makes it.
func (c *Client) key() (*rsa.PrivateKey, error) {
	text, err := os.ReadFile(c.KeyFile())
	if errors.Is(err, fs.ErrNotExist) {
		key, err := rsa.GenerateKey(rand.Reader, cmp.Or(c.bits, keyBits))
		if err != nil {
			return nil, fmt.Errorf("make key: %w", err)
		}
		text := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
		return key, write(c.KeyFile(), 0o640, text)
	}
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("read key %q: it is not PEM", c.KeyFile())
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read key %q: %w", c.KeyFile(), err)
	}
	if key, ok := key.(*rsa.PrivateKey); ok {
		return key, nil
	}
	return nil, fmt.Errorf("read key %q: it is a %T, Puppet's are RSA", c.KeyFile(), key)
}

// request reads the certificate request, or makes one if there is none that is of the key.
func (c *Client) request(key *rsa.PrivateKey) ([]byte, error) {
	text, err := os.ReadFile(c.requestFile())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read certificate request: %w", err)
	}
	if block, _ := pem.Decode(text); block != nil {
		if r, err := x509.ParseCertificateRequest(block.Bytes); err == nil && key.PublicKey.Equal(r.PublicKey) && r.Subject.CommonName == c.Identity {
			return text, nil
		}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: c.Identity}, SignatureAlgorithm: x509.SHA256WithRSA,
	}, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	text = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	return text, write(c.requestFile(), 0o640, text)
}

// certificate reads the certificate, nil if there is none.
func (c *Client) certificate() (*x509.Certificate, error) {
	text, err := os.ReadFile(c.CertFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	cert, err := parseCertificate(text)
	if err != nil {
		return nil, fmt.Errorf("read certificate %q: %w", c.CertFile(), err)
	}
	return cert, nil
}

func parseCertificate(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("it is not a certificate in PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}

// check reports what is wrong with a certificate of this identity.
func (c *Client) check(cert *x509.Certificate, key crypto.Signer, ca *authority) error {
	if public, ok := key.Public().(*rsa.PublicKey); !ok || !public.Equal(cert.PublicKey) {
		return fmt.Errorf("it belongs to another key than %q: clean %q at the CA and remove the file", c.KeyFile(), c.Identity)
	}
	if cert.Subject.CommonName != c.Identity {
		return fmt.Errorf("it is of %q", cert.Subject.CommonName)
	}
	_, err := cert.Verify(x509.VerifyOptions{Roots: ca.pool, CurrentTime: c.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err
}

// write replaces a file as a whole.
func write(name string, mode fs.FileMode, content []byte) error {
	if old, err := os.ReadFile(name); err == nil && bytes.Equal(old, content) {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return fmt.Errorf("write %q: %w", name, err)
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("write %q: %w", name, err)
	}
	return nil
}
