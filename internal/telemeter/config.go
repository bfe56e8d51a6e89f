package telemeter

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/exporter-toolkit/web"

	"github.com/thalweg/thalweg/internal/pipeline"
)

// Config of the endpoints for telemeter clients.
type Config struct {
	// Label that carries the id of a client. Every series that is taken has it, and one with the id of another client is
	// refused.
	Label string `yaml:"label"`
	// File with lines "ID TOKEN": who has the token may push as ID. # begins a comment; an id may have several tokens.
	// Read again on reload; what was authorised by a token that is no longer there is refused at once. Either this or
	// authorize_url must be set.
	TokensFile string `yaml:"tokens_file"`
	// Server that says who may push, as that of telemeter-server's --authorize.
	AuthorizeURL string `yaml:"authorize_url"`
	// File with the private key that signs the tokens of clients: RSA or EC, PEM or DER. Every hub must have the same.
	// Empty: the hubs make one and share it through a bucket of their NATS account. Read again on reload.
	SigningKeyFile string `yaml:"signing_key_file"`
	// How long a client may push before it has to show its own token again.
	TokenTTL model.Duration `yaml:"token_ttl"`
	// One push is taken from a client in this time; a twentieth less is let pass, for clients push at just this interval.
	// What is refused does not count. 0s: no limit.
	RateLimit model.Duration `yaml:"rate_limit"`
	// A push must be smaller than this, decompressed.
	LimitBytes units.Base2Bytes `yaml:"limit_bytes"`
	// How long what a client pushed is served when it pushes no more; at least hub.lookback.
	TTL model.Duration `yaml:"ttl"`
	// What stands before /authorize and /upload, such as /telemeter.
	PathPrefix string `yaml:"path_prefix"`
	// Selectors of the series that are taken from clients, as in /federate. Empty: everything is taken (telemeter-server
	// takes nothing then).
	Match []string `yaml:"match"`
	// HOST:PORT of a listener of its own, which serves nothing else. Empty: the web listener, whose basic authentication
	// clients do not have.
	ListenAddress string `yaml:"listen_address"`
	// TLS of that listener, as in Prometheus' web configuration. Without cert_file it is plain text.
	TLSServerConfig web.TLSConfig `yaml:"tls_server_config"`
}

// DefaultConfig is what an absent key means.
func DefaultConfig() Config {
	return Config{
		Label: "_id", TokenTTL: model.Duration(24 * time.Hour), RateLimit: model.Duration(270 * time.Second),
		LimitBytes: 500 * units.KiB, TTL: model.Duration(10 * time.Minute),
	}
}

// UnmarshalYAML decodes over the defaults.
func (c *Config) UnmarshalYAML(unmarshal func(any) error) error {
	*c = DefaultConfig()
	type plain Config
	return unmarshal((*plain)(c))
}

// SetDirectory joins relative file names with dir.
func (c *Config) SetDirectory(dir string) {
	c.TokensFile = config.JoinDir(dir, c.TokensFile)
	c.SigningKeyFile = config.JoinDir(dir, c.SigningKeyFile)
	c.TLSServerConfig.SetDirectory(dir)
}

// minTokenTTL is the least life of a token: clients take a shorter one for one that never expires.
const minTokenTTL = time.Minute

// maxLimitBytes is far beyond what fits a message.
const maxLimitBytes = 64 * units.MiB

var pathPrefix = regexp.MustCompile(`^(/[A-Za-z0-9._~-]+)*$`)

// Validate reports everything that is wrong, each error beginning with the key.
func (c *Config) Validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !model.UTF8Validation.IsValidLabelName(c.Label) || c.Label == model.MetricNameLabel {
		fail("label: %q is not a valid label name", c.Label)
	}
	switch {
	case c.TokensFile == "" && c.AuthorizeURL == "":
		fail("tokens_file: nobody could say who may push; set tokens_file or authorize_url")
	case c.TokensFile != "" && c.AuthorizeURL != "":
		fail("authorize_url: tokens_file says who may push already; remove one")
	}
	if u, err := url.Parse(c.AuthorizeURL); c.AuthorizeURL != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		fail("authorize_url: is not an http:// or https:// URL")
	}
	if time.Duration(c.TokenTTL) < minTokenTTL {
		fail("token_ttl: %s is less than %s", c.TokenTTL, model.Duration(minTokenTTL))
	}
	if c.RateLimit < 0 {
		fail("rate_limit: %s is negative", c.RateLimit)
	}
	if c.LimitBytes <= 0 || c.LimitBytes > maxLimitBytes {
		fail("limit_bytes: %s is not between 1 byte and %s", c.LimitBytes, maxLimitBytes)
	}
	if time.Duration(c.TTL) < time.Second {
		fail("ttl: %s is less than 1s", c.TTL)
	}
	if !pathPrefix.MatchString(c.PathPrefix) {
		fail("path_prefix: %q is not a path such as /telemeter", c.PathPrefix)
	}
	_, err := pipeline.ParseMatch(c.Match)
	errs = append(errs, err, c.validateListener())
	return errors.Join(errs...)
}

func (c *Config) validateListener() error {
	if c.ListenAddress == "" {
		if c.TLSServerConfig.IsEnabled() {
			return errors.New("tls_server_config: is for listen_address, which is empty; the web listener has --web.config.file")
		}
		return nil
	}
	if _, _, err := net.SplitHostPort(c.ListenAddress); err != nil {
		return fmt.Errorf("listen_address: %q is not HOST:PORT", c.ListenAddress)
	}
	return nil
}
