package bus

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"

	"github.com/thalweg/thalweg/internal/puppetca"
)

// Config says how to reach NATS, and which stream carries the frames.
type Config struct {
	// Servers to connect to: nats://, tls://, ws:// or wss://, with host and port. They are tried in turn. Empty: the
	// server embedded in this process.
	URLs []string `yaml:"urls"`
	// File with a token, read again at each connect. At most one of token_file, credentials_file, nkey_seed_file and
	// username may be set. Default for an edge: data_dir/credential, as written by "thalweg enrol"; without urls it also
	// says where the hubs are.
	TokenFile string `yaml:"token_file"`
	// File with a user JWT and its seed, as nsc writes it (.creds).
	CredentialsFile string `yaml:"credentials_file"`
	// File with the seed of a user nkey.
	NKeySeedFile string `yaml:"nkey_seed_file"`
	// User name; its password stands in password_file.
	Username string `yaml:"username"`
	// File with the password of username.
	PasswordFile string `yaml:"password_file"`
	// Certificates and names for tls:// and wss://, as in Prometheus.
	TLSConfig config.TLSConfig `yaml:"tls_config"`
	// The ssl directory of a Puppet agent, which stands in place of ca_file, cert_file and key_file of tls_config: what
	// puppet_identity's certificate is, its key and that of the CA are found there.
	PuppetSSLDir string `yaml:"puppet_ssl_dir"`
	// Name of the certificate in puppet_ssl_dir.
	PuppetIdentity string `yaml:"puppet_identity"`
	// HTTP proxy to connect through (http://host:port). Empty: none; environment variables are not looked at.
	ProxyURL string `yaml:"proxy_url"`
	// JetStream domain of the stream, when it is behind a leaf node.
	Domain string `yaml:"domain"`
	// First part of every subject. Edges and hubs of one system must agree on it.
	SubjectRoot string `yaml:"subject_root"`
	// The stream that carries the frames of all sites.
	Stream StreamConfig `yaml:"stream"`

	// CredentialFile is the credential that "thalweg enrol" has written, if it is to be used. Connect does not look at it:
	// see package identity.
	CredentialFile string `yaml:"-"`
}

// StreamConfig describes the JetStream stream. Edges only need its name.
type StreamConfig struct {
	// Name of the stream.
	Name string `yaml:"name"`
	// Frames older than this are discarded by the server. It bounds how far back a hub that was away can read.
	MaxAge model.Duration `yaml:"max_age"`
	// The oldest frames are discarded when the stream grows beyond this.
	MaxBytes units.Base2Bytes `yaml:"max_bytes"`
	// Copies in a NATS cluster: 1, 3 or 5.
	Replicas int `yaml:"replicas"`
	// Hubs create the stream if it is absent and bring a different one into line. False: the stream is made by others,
	// hubs only check that it exists and captures the subjects, or is a copy of other streams (sources, mirror).
	Manage bool `yaml:"manage"`
}

// DefaultConfig is what an absent key means.
func DefaultConfig() Config {
	return Config{SubjectRoot: string(DefaultRoot), Stream: DefaultStreamConfig()}
}

// DefaultStreamConfig is what an absent key of stream means.
func DefaultStreamConfig() StreamConfig {
	return StreamConfig{
		Name:     "THALWEG",
		MaxAge:   model.Duration(24 * time.Hour),
		MaxBytes: 10 * units.GiB,
		Replicas: 1,
		Manage:   true,
	}
}

// UnmarshalYAML decodes over the defaults.
func (c *Config) UnmarshalYAML(unmarshal func(any) error) error {
	*c = DefaultConfig()
	type plain Config
	return unmarshal((*plain)(c))
}

// UnmarshalYAML decodes over the defaults.
func (c *StreamConfig) UnmarshalYAML(unmarshal func(any) error) error {
	*c = DefaultStreamConfig()
	type plain StreamConfig
	return unmarshal((*plain)(c))
}

// SetDirectory joins relative file names with dir.
func (c *Config) SetDirectory(dir string) {
	c.TokenFile = config.JoinDir(dir, c.TokenFile)
	c.CredentialsFile = config.JoinDir(dir, c.CredentialsFile)
	c.NKeySeedFile = config.JoinDir(dir, c.NKeySeedFile)
	c.PasswordFile = config.JoinDir(dir, c.PasswordFile)
	c.PuppetSSLDir = config.JoinDir(dir, c.PuppetSSLDir)
	c.TLSConfig.SetDirectory(dir)
}

// TLS returns the settings of TLS, with the files of puppet_ssl_dir if it is given.
func (c *Config) TLS() config.TLSConfig {
	t := c.TLSConfig
	if c.PuppetSSLDir != "" {
		l := puppetca.Layout{Dir: c.PuppetSSLDir, Identity: c.PuppetIdentity}
		t.CAFile, t.CertFile, t.KeyFile = l.CAFile(), l.CertFile(), l.KeyFile()
	}
	return t
}

// validatePuppet reports what is wrong with puppet_ssl_dir and puppet_identity.
func (c *Config) validatePuppet() error {
	if c.PuppetSSLDir == "" {
		if c.PuppetIdentity != "" {
			return errors.New("puppet_identity: is set, but puppet_ssl_dir is not")
		}
		return nil
	}
	t := c.TLSConfig
	if t.CA != "" || t.CAFile != "" || t.Cert != "" || t.CertFile != "" || t.Key != "" || t.KeyFile != "" {
		return errors.New("puppet_ssl_dir: stands in place of the files in tls_config; remove one")
	}
	if err := (puppetca.Layout{Dir: c.PuppetSSLDir, Identity: c.PuppetIdentity}).Validate(); err != nil {
		return fmt.Errorf("puppet_identity: %w", err)
	}
	return nil
}

// Validate reports everything that is wrong, each error beginning with the key.
func (c *Config) Validate() error {
	var errs []error
	for i, u := range c.URLs {
		if err := validateURL(u, "nats", "tls", "ws", "wss"); err != nil {
			errs = append(errs, fmt.Errorf("urls[%d]: %w", i, err))
		}
	}
	if c.ProxyURL != "" {
		if err := validateURL(c.ProxyURL, "http", "https"); err != nil {
			errs = append(errs, fmt.Errorf("proxy_url: %w", err))
		}
	}
	var set []string
	for _, k := range []struct{ key, value string }{
		{"token_file", c.TokenFile}, {"credentials_file", c.CredentialsFile},
		{"nkey_seed_file", c.NKeySeedFile}, {"username", c.Username},
	} {
		if k.value != "" {
			set = append(set, k.key)
		}
	}
	if len(set) > 1 {
		errs = append(errs, fmt.Errorf("%s: give one of %s", set[1], strings.Join(set, " and ")))
	}
	if (c.Username == "") != (c.PasswordFile == "") {
		errs = append(errs, errors.New("password_file: username and password_file belong together"))
	}
	errs = append(errs, c.validatePuppet())
	if !tokens.MatchString(c.SubjectRoot) {
		errs = append(errs, fmt.Errorf("subject_root: %q must be names of letters, digits, _ and -, joined by dots", c.SubjectRoot))
	}
	if err := c.Stream.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("stream.%w", err))
	}
	return errors.Join(errs...)
}

// Validate reports the first thing that is wrong, beginning with the key.
func (c *StreamConfig) Validate() error {
	switch {
	case !token.MatchString(c.Name):
		return fmt.Errorf("name: %q must be letters, digits, _ and -", c.Name)
	case time.Duration(c.MaxAge) < time.Minute:
		return fmt.Errorf("max_age: %s is less than 1m", c.MaxAge)
	case c.MaxBytes < units.MiB:
		return fmt.Errorf("max_bytes: %s is less than 1MiB", c.MaxBytes)
	case c.Replicas != 1 && c.Replicas != 3 && c.Replicas != 5:
		return fmt.Errorf("replicas: %d is not 1, 3 or 5", c.Replicas)
	}
	return nil
}

var (
	token  = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	tokens = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)
)

// validateURL never quotes what stands before an @, which may be a password.
func validateURL(s string, schemes ...string) error {
	u, err := url.Parse(s)
	if err != nil {
		var parse *url.Error
		if errors.As(err, &parse) {
			err = parse.Err
		}
		return fmt.Errorf("not a URL: %w", err)
	}
	for _, scheme := range schemes {
		if u.Scheme != scheme {
			continue
		}
		if u.Host == "" {
			return fmt.Errorf("%q names no host", u.Redacted())
		}
		if u.User != nil {
			return errors.New("secrets stand in files, not in the URL: see token_file and password_file")
		}
		return nil
	}
	return fmt.Errorf("%q does not begin with %s://", u.Redacted(), strings.Join(schemes, "://, "))
}
