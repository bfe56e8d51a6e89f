package natsmon

import (
	"fmt"
	"net/url"

	"github.com/prometheus/common/config"
)

// Config of the exporter of NATS metrics.
type Config struct {
	// HOST:PORT of a listener of its own, with /metrics. Empty: /nats/metrics of the web listener.
	ListenAddress string `yaml:"listen_address"`
	// Metrics of the server that runs in this process, where one does; also as rows in the lane of the edge.
	Embedded bool `yaml:"embedded"`
	// Servers with a monitoring port.
	Servers []ServerConfig `yaml:"servers"`
	// Clusters, each read through connections of its system account.
	System []SystemConfig `yaml:"system"`
	// Also emit the names and labels of another exporter, for dashboards: prometheus-nats-exporter, or empty.
	Compat string `yaml:"compat"`
	// What the names of the compatible metrics begin with: gnatsd (as prometheus-nats-exporter has it by default, with
	// jetstream for those of JetStream), or another prefix for both.
	CompatPrefix string `yaml:"compat_prefix"`
}

// ServerConfig is a server with a monitoring port.
type ServerConfig struct {
	// URL of the monitoring port, such as http://127.0.0.1:8222.
	URL string `yaml:"url"`
	// User and password, for a proxy before the port.
	BasicAuth *config.BasicAuth `yaml:"basic_auth"`
	// TLS of the connection.
	TLSConfig config.TLSConfig `yaml:"tls_config"`
}

// SystemConfig is a cluster, or several that are connected, which one connection of the system account sees.
type SystemConfig struct {
	// Servers to connect to (nats://, tls://, ws://, wss://).
	URLs []string `yaml:"urls"`
	// File with the credentials of a user of the system account.
	CredentialsFile string `yaml:"credentials_file"`
	// File with the seed of an nkey of such a user.
	NkeySeedFile string `yaml:"nkey_seed_file"`
	// User name, with the file of its password.
	Username     string `yaml:"username"`
	PasswordFile string `yaml:"password_file"`
	// TLS of the connection.
	TLSConfig config.TLSConfig `yaml:"tls_config"`
	// How many servers there are. 0: as many as answer.
	Expect int `yaml:"expect"`
}

// compatPNE is the one value of Compat besides none.
const compatPNE = "prometheus-nats-exporter"

// DefaultConfig is what an absent key means.
func DefaultConfig() Config { return Config{Embedded: true, CompatPrefix: "gnatsd"} }

// UnmarshalYAML decodes over the defaults.
func (c *Config) UnmarshalYAML(unmarshal func(any) error) error {
	*c = DefaultConfig()
	type plain Config
	return unmarshal((*plain)(c))
}

// Validate reports what is wrong, beginning with the key.
func (c *Config) Validate() error {
	if c.Compat != "" && c.Compat != compatPNE {
		return fmt.Errorf("compat: %q is not %s", c.Compat, compatPNE)
	}
	for i, s := range c.Servers {
		if u, err := url.Parse(s.URL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("servers[%d].url: %q is not http://HOST:PORT or https://HOST:PORT", i, s.URL)
		}
	}
	for i, s := range c.System {
		if len(s.URLs) == 0 {
			return fmt.Errorf("system[%d].urls: is empty", i)
		}
	}
	return nil
}
