package receive

import (
	"errors"
	"fmt"
	"net"

	"github.com/prometheus/common/config"
	"github.com/prometheus/exporter-toolkit/web"

	"github.com/thalweg/thalweg/internal/push"
)

// Config of what is received. At a hub every sender needs a credential, which says as which site it writes. At an edge
// what comes is the site's own, and whoever reaches the listener may write unless there is a tokens_file.
type Config struct {
	// Take remote write, 1.0 and 2.0, at /api/v1/write.
	RemoteWrite bool `yaml:"remote_write"`
	// Take pushes as a Pushgateway does, at /metrics/job/..., and serve its API at /api/v1/metrics and /api/v1/status.
	Pushgateway bool               `yaml:"pushgateway"`
	Gateway     push.GatewayConfig `yaml:",inline"`

	// File with lines "NAME TOKEN": who has the token may write. NAME is the site at a hub, and any name at an edge; it
	// may have several tokens. # begins a comment. The token is sent as a bearer token, or as the password of the user
	// NAME. Read again on reload.
	TokensFile string `yaml:"tokens_file"`
	// At an edge: let everybody write who reaches a listener that is not loopback.
	AllowAnonymous bool `yaml:"allow_anonymous"`
	// HOST:PORT of a listener of its own, which serves nothing else but the pushed groups at /metrics. Empty: the web
	// listener.
	ListenAddress string `yaml:"listen_address"`
	// TLS of that listener, as in Prometheus' web configuration. Without cert_file it is plain text.
	TLSServerConfig web.TLSConfig `yaml:"tls_server_config"`
}

// Role says who receives.
type Role string

const (
	Edge Role = "edge"
	Hub  Role = "hub"
)

// On reports whether anything is received.
func (c *Config) On() bool { return c.RemoteWrite || c.Pushgateway }

// SetDirectory joins relative file names with dir.
func (c *Config) SetDirectory(dir string) {
	c.TokensFile = config.JoinDir(dir, c.TokensFile)
	c.TLSServerConfig.SetDirectory(dir)
}

// Validate reports everything that is wrong, each error beginning with the prefix and the key.
func (c *Config) Validate(prefix string, role Role) error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(prefix+format, args...)) }
	switch {
	case role == Hub && c.AllowAnonymous:
		fail("allow_anonymous: a hub knows the site of a sender by its credential alone; set tokens_file")
	case c.AllowAnonymous && c.TokensFile != "":
		fail("allow_anonymous: would make tokens_file pointless; remove one")
	case role == Hub && c.On() && c.TokensFile == "":
		fail("tokens_file: nobody could say as which site a sender writes; set it")
	}
	if err := c.Gateway.Validate(); err != nil {
		fail("%w", err)
	}
	if err := c.validateListener(role); err != nil {
		fail("%w", err)
	}
	return errors.Join(errs...)
}

func (c *Config) validateListener(role Role) error {
	if c.ListenAddress == "" {
		if c.TLSServerConfig.IsEnabled() {
			return errors.New("tls_server_config: is for listen_address, which is empty; the web listener has --web.config.file")
		}
		return nil
	}
	host, _, err := net.SplitHostPort(c.ListenAddress)
	switch {
	case err != nil:
		return fmt.Errorf("listen_address: %q is not HOST:PORT", c.ListenAddress)
	case !c.On():
		return errors.New("listen_address: nothing is received; set remote_write or pushgateway")
	case role == Edge && !loopback(host) && !c.Asks():
		return fmt.Errorf("listen_address: %q is not loopback and nobody would need a credential: %s", c.ListenAddress, ask)
	}
	return nil
}

// ask is what somebody may do whose listener would be open.
const ask = "set tokens_file, tls_server_config with client_auth_type: RequireAndVerifyClientCert, or allow_anonymous: true"

// Asks reports whether it is said who may write, everybody included.
func (c *Config) Asks() bool {
	return c.TokensFile != "" || c.AllowAnonymous || c.TLSServerConfig.ClientAuth == "RequireAndVerifyClientCert"
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip.IsLoopback()
}
