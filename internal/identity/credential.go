package identity

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/nats-io/nkeys"
	"github.com/prometheus/common/config"

	"github.com/thalweg/thalweg/internal/bus"
)

// The files in a data directory.
const (
	credentialFile = "credential"
	newFile        = "credential.new" // a key whose registration has begun
)

const maxCredentialBytes = 64 << 10

// CredentialFile is where the credential of a site is, in its data directory.
func CredentialFile(dir string) string { return filepath.Join(dir, credentialFile) }

// Credential is everything a site needs to connect, with its private key. It is a file that only its owner can read.
type Credential struct {
	Site string   `json:"site"`
	Part int      `json:"part"` // of the site, for people
	URLs []string `json:"urls,omitempty"`
	// CA is the certificate, in PEM, that vouches for the servers; "": one that the system knows does.
	CA     string `json:"ca,omitempty"`
	Root   string `json:"root,omitempty"`
	Stream string `json:"stream,omitempty"`
	Domain string `json:"domain,omitempty"`
	// JWT is what the server wants to see beside the signature of the key; "" at a server that knows the key.
	JWT string `json:"jwt,omitempty"`
	// Seed is the private key.
	Seed Secret `json:"seed"`
}

// Secret is text that prints as <secret>. Only JSON and a conversion show it.
type Secret string

func (Secret) String() string   { return "<secret>" }
func (Secret) GoString() string { return "<secret>" }

// ReadCredential reads a file. Its errors do not quote it.
func ReadCredential(file string) (*Credential, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read credential: %w", err)
	}
	defer clear(b)
	c, err := parseCredential(b)
	if err != nil {
		return nil, fmt.Errorf("read credential %q: %w", file, err)
	}
	return c, nil
}

func parseCredential(b []byte) (*Credential, error) {
	if len(b) > maxCredentialBytes {
		return nil, fmt.Errorf("it has %d bytes", len(b))
	}
	c := &Credential{}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(c); err != nil {
		return nil, errors.New("it is damaged, or of a later version of the program")
	}
	if err := bus.ValidSite(c.Site); err != nil {
		return nil, err
	}
	if _, err := c.public(); err != nil {
		return nil, errors.New("its seed is not the private key of a user")
	}
	if len(c.URLs) == 0 { // a key that is not admitted yet
		return c, nil
	}
	return c, checkAddresses(c.URLs, c.BusConfig())
}

// newCredential makes a key for a site.
func newCredential(site string) (*Credential, error) {
	key, err := nkeys.CreateUser()
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	defer key.Wipe()
	seed, err := key.Seed()
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return &Credential{Site: site, Part: bus.PartOf(site), Seed: Secret(seed)}, nil
}

// admit notes what a token says.
func (c *Credential) admit(t *Token) {
	c.URLs, c.Root, c.Stream, c.Domain, c.JWT, c.CA = t.URLs, t.Root, t.Stream, t.Domain, t.JWT, cmp.Or(t.CA, c.CA)
}

// BusConfig is how to reach the hubs; Login proves to them who this is.
func (c *Credential) BusConfig() bus.Config {
	b := busConfig(c.URLs, c.Root, c.Stream, c.Domain)
	if c.CA != "" {
		b.TLSConfig = config.TLSConfig{CA: c.CA}
	}
	return b
}

// Public is the public key.
func (c *Credential) Public() string {
	public, err := c.public()
	if err != nil {
		panic("BUG: identity: credential was not checked: " + err.Error())
	}
	return public
}

func (c *Credential) public() (string, error) {
	key, err := c.key()
	if err != nil {
		return "", err
	}
	defer key.Wipe()
	return key.PublicKey()
}

func (c *Credential) key() (nkeys.KeyPair, error) {
	key, err := nkeys.FromSeed([]byte(c.Seed))
	if err != nil {
		return nil, err
	}
	if public, err := key.PublicKey(); err != nil || !nkeys.IsValidPublicUserKey(public) {
		return nil, errors.New("not the key of a user")
	}
	return key, nil
}

// login proves the possession of the key.
func (c *Credential) login() bus.Login {
	shown := c.JWT
	if shown == "" {
		shown = c.Public()
	}
	// Thalweg's server finds the key in the token: the library cannot change Options.Nkey, and the server drops a JWT for
	// which it knows no operator.
	return bus.Login{Token: c.Public(), Key: shown, Sign: func(nonce []byte) ([]byte, error) {
		key, err := c.key()
		if err != nil {
			return nil, err
		}
		defer key.Wipe()
		return key.Sign(nonce)
	}}
}

// Login reads a credential at each connect, so that one that was replaced is in use from the next one on.
func Login(file, site string) func() (bus.Login, error) {
	return func() (bus.Login, error) {
		c, err := ReadCredential(file)
		if err != nil {
			return bus.Login{}, err
		}
		if c.Site != site {
			return bus.Login{}, fmt.Errorf("credential %q is of site %q, this is %q", file, c.Site, site)
		}
		return c.login(), nil
	}
}

// write replaces a file.
func (c *Credential) write(file string) error {
	text, err := json.MarshalIndent(c, "", "  ")
	if err == nil {
		defer clear(text)
		err = writeFile(file, append(text, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write credential: %w", err)
	}
	return nil
}
