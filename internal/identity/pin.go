package identity

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
)

const pinBytes = sha256.Size

// Pin is what a token says of the certificate that vouches for servers with this chain: SHA-256 of its public key. It
// is nil if a certificate that the system knows vouches for them. The chain has to have its last certificate in it.
func Pin(chain []*x509.Certificate) ([]byte, error) {
	if len(chain) == 0 {
		return nil, errors.New("the server has no certificate")
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{Intermediates: pool(chain[1:])}); err == nil {
		return nil, nil
	}
	last := chain[len(chain)-1]
	if !last.IsCA && !bytes.Equal(last.RawIssuer, last.RawSubject) {
		return nil, fmt.Errorf("nothing vouches for the server's certificate %q: append the certificate of its issuer %q to the server's cert_file",
			last.Subject, last.Issuer)
	}
	return pinOf(last), nil
}

func pinOf(c *x509.Certificate) []byte {
	hash := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hash[:]
}

func pool(certificates []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certificates {
		p.AddCert(c)
	}
	return p
}

// pinned checks servers against a pin, and keeps the certificate that has it.
type pinned struct {
	pin  []byte
	urls []string
	ca   string // PEM; of the last connection
}

func (p *pinned) config() *tls.Config {
	// The chain is checked in full, only from another root than those of the system.
	return &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, VerifyConnection: p.verify}
}

func (p *pinned) verify(state tls.ConnectionState) error {
	chain := state.PeerCertificates
	for _, root := range chain {
		if !bytes.Equal(pinOf(root), p.pin) {
			continue
		}
		var err error
		for _, host := range p.hosts(state.ServerName) {
			_, err = chain[0].Verify(x509.VerifyOptions{
				Roots: pool([]*x509.Certificate{root}), Intermediates: pool(chain[1:]), DNSName: host,
			})
			if err == nil {
				p.ca = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}))
				return nil
			}
		}
		return fmt.Errorf("check the server's certificate: %w", err)
	}
	return errors.New("the server is not the one of the join token: none of its certificates is the one that the token names")
}

// hosts are the names that the server may have. That of an IP address is not part of a TLS handshake.
func (p *pinned) hosts(name string) []string {
	if name != "" {
		return []string{name}
	}
	var hosts []string
	for _, s := range p.urls {
		if u, err := url.Parse(s); err == nil && net.ParseIP(u.Hostname()) != nil {
			hosts = append(hosts, u.Hostname())
		}
	}
	return hosts
}
