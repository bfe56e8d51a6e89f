package natsd

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"

	"github.com/prometheus/common/config"
	"github.com/prometheus/exporter-toolkit/web"
)

// Config describes the NATS server that runs in this process, with JetStream in data_dir/nats.
type Config struct {
	// Address for clients of other processes. On another address than loopback either auth or allow_anonymous must be
	// set.
	Listen string `yaml:"listen"`
	// File in the syntax of nats-server, for what has no key here (cluster, leafnodes, websocket, ...). Unknown
	// settings in it are errors; where both say something, this configuration wins. One block is not of nats-server:
	// metrics { port: 9100 } serves metrics of the server at /metrics on that port, of all addresses unless it has a host,
	// too.
	ConfigFile string `yaml:"config_file"`
	// TLS of the listener, as in Prometheus' web configuration. Without cert_file the listener is plain text.
	TLSServerConfig web.TLSConfig `yaml:"tls_server_config"`
	// Who may connect.
	Auth Auth `yaml:"auth"`
	// Admit clients without a credential on a listener that is not loopback; their user name is taken as the name of
	// their site. On a loopback listener without auth they are admitted anyway.
	AllowAnonymous bool `yaml:"allow_anonymous"`
}

// Auth says who may connect to the embedded server. Keys and join tokens of sites that "thalweg site add" invited are
// accepted in any case; everything that is set here is accepted beside them.
type Auth struct {
	// Nobody is admitted without a credential, also on a loopback listener: sites join by "thalweg enrol". Without
	// effect where another key of auth is set, which means the same.
	Enrol bool `yaml:"enrol"`
	// File with lines "NAME TOKEN", where NAME is a site or @hub; # begins a comment. Read again on reload.
	TokensFile string `yaml:"tokens_file"`
	// Accept client certificates that tls_server_config.client_ca_file vouches for. The site is the common name or, if
	// there is none, the first label of the first DNS name. Hubs need a token.
	MTLS bool `yaml:"mtls"`
	// Accept bearer tokens of an OpenID provider, which clients send as their token.
	OIDC OIDC `yaml:"oidc"`
}

// OIDC says whose bearer tokens are accepted. A connection ends with its token; edges read token_file at each connect.
type OIDC struct {
	// URL of the provider, whose keys are found at /.well-known/openid-configuration below it. Empty: none.
	Issuer string `yaml:"issuer"`
	// What must be among the audience (aud) of a token.
	Audience string `yaml:"audience"`
	// The claim that is the name of the site.
	Claim string `yaml:"claim"`
}

// enough reports whether clients can be asked for a credential.
func (a *Auth) enough() bool {
	return a.Enrol || a.TokensFile != "" || a.MTLS || a.OIDC.Issuer != ""
}

// setAuth is what somebody may do whose listener would be open.
const setAuth = "set auth.enrol: true (sites join by thalweg enrol), auth.tokens_file, auth.mtls or auth.oidc, or allow_anonymous: true"

// DefaultConfig is what an absent key means.
func DefaultConfig() Config {
	return Config{Listen: "127.0.0.1:4222", Auth: Auth{OIDC: OIDC{Claim: "sub"}}}
}

// UnmarshalYAML decodes over the defaults.
func (c *Config) UnmarshalYAML(unmarshal func(any) error) error {
	*c = DefaultConfig()
	type plain Config
	return unmarshal((*plain)(c))
}

// SetDirectory joins relative file names with dir.
func (c *Config) SetDirectory(dir string) {
	c.ConfigFile = config.JoinDir(dir, c.ConfigFile)
	c.Auth.TokensFile = config.JoinDir(dir, c.Auth.TokensFile)
	c.TLSServerConfig.SetDirectory(dir)
}

// Validate reports what is wrong, beginning with the key.
func (c *Config) Validate() error {
	host, port, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return fmt.Errorf("listen: %q is not HOST:PORT", c.Listen)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("listen: port %q of %q is not a number from 0 to 65535", port, c.Listen)
	}
	if c.AllowAnonymous && c.Auth.enough() {
		return errors.New("allow_anonymous: would make auth pointless; remove one")
	}
	if !isLoopback(host) && !c.AllowAnonymous && !c.Auth.enough() {
		return fmt.Errorf("listen: %q is not loopback and nobody would need a credential: %s", c.Listen, setAuth)
	}
	if err := c.validateMTLS(); err != nil {
		return err
	}
	return c.Auth.OIDC.validate()
}

func (c *Config) validateMTLS() error {
	t := &c.TLSServerConfig
	switch {
	case !c.Auth.MTLS:
		return nil
	case !t.IsEnabled() || t.ClientCAs == "" && t.ClientCAsText == "":
		return errors.New("auth.mtls: needs tls_server_config with client_ca_file")
	case t.ClientAuth != "" && t.ClientAuth != "VerifyClientCertIfGiven" && t.ClientAuth != "RequireAndVerifyClientCert":
		return fmt.Errorf("auth.mtls: tls_server_config.client_auth_type %q verifies no certificates", t.ClientAuth)
	}
	return nil
}

func (o *OIDC) validate() error {
	if o.Issuer == "" {
		if o.Audience != "" {
			return errors.New("auth.oidc.audience: is set, but issuer is empty")
		}
		return nil
	}
	u, err := url.Parse(o.Issuer)
	switch {
	case err != nil || u.Host == "":
		return fmt.Errorf("auth.oidc.issuer: %q is not a URL", o.Issuer)
	case u.Scheme != "https" && !(u.Scheme == "http" && isLoopback(u.Hostname())):
		return fmt.Errorf("auth.oidc.issuer: %q does not begin with https://", o.Issuer)
	case o.Audience == "":
		return errors.New("auth.oidc.audience: is empty; tokens for other services would do")
	case o.Claim == "":
		return errors.New("auth.oidc.claim: is empty")
	}
	return nil
}
