package identity

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/thalweg/thalweg/internal/bus"
)

const (
	// tokenPrefix tells a join token from other strings, and its version.
	tokenPrefix   = "thalweg1_"
	maxTokenBytes = 8 << 10
	maxURLs       = 16
)

// Token is what a site has to know to join: one string that is handed over. Either it has a Secret, with which the site
// registers its key, or a JWT, which says that a signing key has already admitted the key.
type Token struct {
	Site   string   `json:"site"`
	URLs   []string `json:"urls"`
	Secret []byte   `json:"secret,omitempty"`
	JWT    string   `json:"jwt,omitempty"`
	// Pin is that of the certificate which vouches for the servers (see Pin), nil if one that the system knows does, or
	// nothing.
	Pin []byte `json:"pin,omitempty"`
	// CA is the certificate itself, in PEM, where there was room for it.
	CA string `json:"ca,omitempty"`
	// What differs from the defaults.
	Root   string `json:"root,omitempty"`
	Stream string `json:"stream,omitempty"`
	Domain string `json:"domain,omitempty"`
}

// String is the inverse of ParseToken. It holds the secret.
func (t *Token) String() string {
	text, err := json.Marshal(t)
	if err != nil {
		panic("BUG: identity: encode token: " + err.Error())
	}
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(text)
}

// ParseToken reads a token that was handed over. Errors do not quote it.
func ParseToken(s string) (*Token, error) {
	s = strings.TrimSpace(s)
	encoded, ok := strings.CutPrefix(s, tokenPrefix)
	if !ok {
		return nil, fmt.Errorf("parse join token: it does not begin with %q", tokenPrefix)
	}
	if len(s) > maxTokenBytes {
		return nil, fmt.Errorf("parse join token: it has %d characters", len(s))
	}
	text, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return nil, errors.New("parse join token: it is damaged, or not all of it is there")
	}
	t := &Token{}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields() // of a later version, whose meaning cannot be left out
	if err := d.Decode(t); err != nil {
		return nil, errors.New("parse join token: it is damaged, or for a later version of the program")
	}
	if err := t.check(); err != nil {
		return nil, fmt.Errorf("parse join token: %w", err)
	}
	return t, nil
}

func (t *Token) check() error {
	if err := bus.ValidSite(t.Site); err != nil {
		return err
	}
	if len(t.Pin) != 0 && len(t.Pin) != pinBytes {
		return fmt.Errorf("its pin has %d bytes", len(t.Pin))
	}
	if (len(t.Secret) == secretBytes) == (t.JWT != "") {
		return errors.New("it has no secret of the right length")
	}
	return checkAddresses(t.URLs, t.BusConfig())
}

// checkAddresses checks what a token or a credential says about how to reach the hubs.
func checkAddresses(urls []string, c bus.Config) error {
	if len(urls) == 0 || len(urls) > maxURLs {
		return fmt.Errorf("it has %d addresses, want 1 to %d", len(urls), maxURLs)
	}
	return c.Validate()
}

// BusConfig is how to reach the hubs, without a credential.
func (t *Token) BusConfig() bus.Config { return busConfig(t.URLs, t.Root, t.Stream, t.Domain) }

func busConfig(urls []string, root, stream, domain string) bus.Config {
	c := bus.DefaultConfig()
	c.URLs, c.Domain = urls, domain
	if root != "" {
		c.SubjectRoot = root
	}
	if stream != "" {
		c.Stream.Name = stream
	}
	return c
}

// SetBusConfig notes what a hub's configuration has else than the defaults.
func (t *Token) SetBusConfig(c bus.Config) {
	standard := bus.DefaultConfig()
	t.Domain = c.Domain
	if c.SubjectRoot != standard.SubjectRoot {
		t.Root = c.SubjectRoot
	}
	if c.Stream.Name != standard.Stream.Name {
		t.Stream = c.Stream.Name
	}
}

// Exposed reports whether others can read along on a connection to the address.
func Exposed(address string) bool {
	u, err := url.Parse(address)
	if err != nil || Encrypted(address) {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback())
}

// Encrypted reports whether a connection to the address uses TLS from its beginning.
func Encrypted(address string) bool {
	u, err := url.Parse(address)
	return err == nil && (u.Scheme == "tls" || u.Scheme == "wss")
}
