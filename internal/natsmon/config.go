package natsmon

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/prometheus/common/config"
	"github.com/prometheus/exporter-toolkit/web"
)

// Config of the exporter of NATS metrics.
type Config struct {
	// HOST:PORT of a listener of its own, with the metrics at /metrics. Empty: only /nats/metrics of the web listener.
	ListenAddress string `yaml:"listen_address"`
	// TLS of listen_address, as in Prometheus' web configuration. Without cert_file it is plain text.
	TLSServerConfig web.TLSConfig `yaml:"tls_server_config"`
	// Metrics of the server that runs in this process. Default: true where one does.
	Embedded bool `yaml:"embedded"`
	// Servers with a monitoring port.
	Servers []ServerConfig `yaml:"servers"`
	// Clusters, each read through one connection of its system account, without monitoring ports.
	System []SystemConfig `yaml:"system"`
	// Also emit the names and labels of another exporter, for its dashboards: prometheus-nats-exporter, or empty.
	Compat string `yaml:"compat"`
	// What the names of the compatible metrics begin with: gnatsd (as prometheus-nats-exporter has it by default, with
	// jetstream for those of JetStream), or another prefix for both.
	CompatPrefix string `yaml:"compat_prefix"`
}

// ServerConfig is a server with a monitoring port.
type ServerConfig struct {
	// URL of the monitoring port, such as http://127.0.0.1:8222, with http_base_path of the server if it has one.
	URL string `yaml:"url"`
	// User and password, for a proxy before the port: nats-server itself asks for none.
	BasicAuth *config.BasicAuth `yaml:"basic_auth"`
	// Certificates and names for https://, as in Prometheus.
	TLSConfig config.TLSConfig `yaml:"tls_config"`
}

// SystemConfig is a cluster, or several that are connected, which one connection of the system account sees.
type SystemConfig struct {
	// Servers to connect to: nats://, tls://, ws:// or wss://, with host and port. They are tried in turn.
	URLs []string `yaml:"urls"`
	// File with a user JWT of the system account and its seed, as nsc writes it (.creds). At most one of credentials_file,
	// nkey_seed_file and username may be set.
	CredentialsFile string `yaml:"credentials_file"`
	// File with the seed of the nkey of a user of the system account.
	NkeySeedFile string `yaml:"nkey_seed_file"`
	// Name of a user of the system account; its password stands in password_file.
	Username string `yaml:"username"`
	// File with the password of username.
	PasswordFile string `yaml:"password_file"`
	// Certificates and names for tls:// and wss://, as in Prometheus.
	TLSConfig config.TLSConfig `yaml:"tls_config"`
	// How many servers there are. 0: as many as answer.
	Expect int `yaml:"expect"`
}

const (
	// compatPNE is the one value of Compat besides none.
	compatPNE = "prometheus-nats-exporter"
	// defaultCompatPrefix is what that exporter has by default.
	defaultCompatPrefix = "gnatsd"
)

// DefaultConfig is what an absent key means.
func DefaultConfig() Config { return Config{Embedded: true, CompatPrefix: defaultCompatPrefix} }

// UnmarshalYAML decodes over the defaults.
func (c *Config) UnmarshalYAML(unmarshal func(any) error) error {
	*c = DefaultConfig()
	type plain Config
	return unmarshal((*plain)(c))
}

// SetDirectory joins relative file names with dir.
func (c *Config) SetDirectory(dir string) {
	c.TLSServerConfig.SetDirectory(dir)
	for i := range c.Servers {
		s := &c.Servers[i]
		s.BasicAuth.SetDirectory(dir)
		s.TLSConfig.SetDirectory(dir)
	}
	for i := range c.System {
		s := &c.System[i]
		for _, file := range []*string{&s.CredentialsFile, &s.NkeySeedFile, &s.PasswordFile} {
			*file = config.JoinDir(dir, *file)
		}
		s.TLSConfig.SetDirectory(dir)
	}
}

// Validate reports everything that is wrong, each error beginning with the key.
func (c *Config) Validate() error {
	return errors.Join(c.validateListener(), c.validateServers(), c.validateSystem(), c.validateCompat())
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

func (c *Config) validateServers() error {
	var errs []error
	seen := map[string]int{}
	for i := range c.Servers {
		s := &c.Servers[i]
		fail := func(key string, err error) {
			errs = append(errs, fmt.Errorf("servers[%d].%s: %w", i, key, err))
		}
		u, err := monitoringURL(s.URL)
		if err != nil {
			fail("url", err)
			continue
		}
		same := strings.ToLower(u.Scheme+"://"+u.Host) + strings.TrimRight(u.Path, "/")
		if first, twice := seen[same]; twice {
			fail("url", fmt.Errorf("%s is servers[%d] already", s.URL, first))
		}
		seen[same] = i
		if u.Scheme == "http" && s.TLSConfig != (config.TLSConfig{}) {
			fail("tls_config", fmt.Errorf("is set, but %s is not https://", s.URL))
		}
		for _, ref := range references(s.BasicAuth, s.TLSConfig) {
			fail(ref, errNoSecrets)
		}
		if s.BasicAuth != nil {
			client := config.HTTPClientConfig{BasicAuth: s.BasicAuth}
			if err := client.Validate(); err != nil {
				fail("basic_auth", err)
			}
		}
	}
	return errors.Join(errs...)
}

// errNoSecrets is of keys that are Prometheus' own.
var errNoSecrets = errors.New("there is no secret manager; give a file")

// references are the keys that are set and name secrets of a secret manager.
func references(auth *config.BasicAuth, tls config.TLSConfig) (keys []string) {
	if auth == nil {
		auth = &config.BasicAuth{}
	}
	for _, k := range []struct{ key, value string }{
		{"basic_auth.username_ref", auth.UsernameRef}, {"basic_auth.password_ref", auth.PasswordRef},
		{"tls_config.ca_ref", tls.CARef}, {"tls_config.cert_ref", tls.CertRef}, {"tls_config.key_ref", tls.KeyRef},
	} {
		if k.value != "" {
			keys = append(keys, k.key)
		}
	}
	return keys
}

// isPort reports whether the port of a URL, which may be left out, is one.
func isPort(s string) bool {
	n, err := strconv.Atoi(s)
	return s == "" || err == nil && n > 0 && n < 1<<16
}

// monitoringURL says what is wrong with the URL of a monitoring port, without quoting what may be a password.
func monitoringURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case s == "":
		return nil, errors.New("is empty; give http://HOST:8222, where 8222 is the http_port of the server")
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || !isPort(u.Port()):
		if err == nil && clientScheme(u.Scheme) {
			return nil, fmt.Errorf("%s:// is where clients connect; give the monitoring port, http://HOST:8222, or list the server under system", u.Scheme)
		}
		return nil, fmt.Errorf("%q is not http://HOST:PORT or https://HOST:PORT", redacted(s))
	case u.User != nil:
		return nil, errors.New("secrets stand in files, not in the URL: see basic_auth")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("%q is more than the address of the monitoring port", redacted(s))
	}
	return u, nil
}

func (c *Config) validateSystem() error {
	var errs []error
	seen := map[string]string{} // where a URL stands
	for i := range c.System {
		s := &c.System[i]
		fail := func(key, format string, args ...any) {
			errs = append(errs, fmt.Errorf("system[%d].%s: %w", i, key, fmt.Errorf(format, args...)))
		}
		if len(s.URLs) == 0 {
			fail("urls", "is empty")
		}
		for j, text := range s.URLs {
			key := fmt.Sprintf("urls[%d]", j)
			u, err := url.Parse(text)
			switch {
			case err != nil || u.Hostname() == "" || !isPort(u.Port()) || !clientScheme(u.Scheme):
				fail(key, "%q is not HOST:PORT after nats://, tls://, ws:// or wss://", redacted(text))
				continue
			case u.User != nil:
				fail(key, "secrets stand in files, not in the URL: see credentials_file and password_file")
				continue
			}
			if first := seen[strings.ToLower(u.Host)]; first != "" {
				fail(key, "%s is %s already", u.Host, first)
			}
			seen[strings.ToLower(u.Host)] = fmt.Sprintf("system[%d].%s", i, key)
		}
		for _, ref := range references(nil, s.TLSConfig) {
			fail(ref, "%w", errNoSecrets)
		}
		var set []string
		for _, k := range []struct{ key, value string }{
			{"credentials_file", s.CredentialsFile}, {"nkey_seed_file", s.NkeySeedFile}, {"username", s.Username},
		} {
			if k.value != "" {
				set = append(set, k.key)
			}
		}
		if len(set) > 1 {
			fail(set[1], "give one of %s", strings.Join(set, " and "))
		}
		if (s.Username == "") != (s.PasswordFile == "") {
			fail("password_file", "username and password_file belong together")
		}
		if s.Expect < 0 {
			fail("expect", "%d is less than 0", s.Expect)
		}
	}
	return errors.Join(errs...)
}

// prefix is what a compatible name may begin with; an underscore follows.
var prefix = regexp.MustCompile(`^[a-zA-Z_]([a-zA-Z0-9_]*[a-zA-Z0-9])?$`)

func (c *Config) validateCompat() error {
	switch {
	case c.Compat != "" && c.Compat != compatPNE:
		return fmt.Errorf("compat: %q is not %s", c.Compat, compatPNE)
	case !prefix.MatchString(c.CompatPrefix):
		return fmt.Errorf("compat_prefix: %q is not letters, digits and _, beginning with no digit and ending with no _", c.CompatPrefix)
	case c.Compat == "" && c.CompatPrefix != defaultCompatPrefix:
		return fmt.Errorf("compat_prefix: is set, but compat is empty; %s is what it may be", compatPNE)
	}
	return nil
}

func clientScheme(s string) bool { return s == "nats" || s == "tls" || s == "ws" || s == "wss" }

// userinfo is what stands before the @ of something like a URL.
var userinfo = regexp.MustCompile(`^(.*//)?[^@]*@`)

// redacted is a URL, or what should be one, without what may be a password.
func redacted(s string) string { return userinfo.ReplaceAllString(s, "${1}xxxxx@") }
