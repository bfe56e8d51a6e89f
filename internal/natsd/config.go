package natsd

import (
	"fmt"
	"net"
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
	// settings in it are errors; where both say something, this configuration wins.
	ConfigFile string `yaml:"config_file"`
	// TLS of the listener, as in Prometheus' web configuration. Without cert_file the listener is plain text.
	TLSServerConfig web.TLSConfig `yaml:"tls_server_config"`
	// Who may connect.
	Auth Auth `yaml:"auth"`
	// Admit clients without a credential on a listener that is not loopback; their user name is taken as the name of
	// their site. On a loopback listener without auth they are admitted anyway.
	AllowAnonymous bool `yaml:"allow_anonymous"`
}

// Auth says who may connect to the embedded server.
type Auth struct {
	// File with lines "NAME TOKEN", where NAME is a site or @hub; # begins a comment. Read again on reload.
	TokensFile string `yaml:"tokens_file"`
}

// DefaultConfig is what an absent key means.
func DefaultConfig() Config { return Config{Listen: "127.0.0.1:4222"} }

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
	if c.AllowAnonymous && c.Auth.TokensFile != "" {
		return fmt.Errorf("allow_anonymous: would make auth.tokens_file %q pointless; remove one", c.Auth.TokensFile)
	}
	if !isLoopback(host) && !c.AllowAnonymous && c.Auth.TokensFile == "" {
		return fmt.Errorf("listen: %q is not loopback and nobody would need a credential: set auth.tokens_file, or allow_anonymous: true", c.Listen)
	}
	return nil
}
