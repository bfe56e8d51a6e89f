package natsmon

import (
	"reflect"
	"strings"
	"testing"

	"github.com/prometheus/common/config"
)

func TestConfigIsValidated(t *testing.T) {
	f := func(change func(*Config), want ...string) {
		t.Helper()
		c := DefaultConfig()
		change(&c)
		err := c.Validate()
		if err == nil {
			if len(want) > 0 {
				t.Errorf("valid, want %q", want)
			}
			return
		}
		if got := strings.Split(err.Error(), "\n"); !reflect.DeepEqual(got, want) {
			t.Errorf("errors are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	servers := func(urls ...string) func(*Config) {
		return func(c *Config) {
			for _, u := range urls {
				c.Servers = append(c.Servers, ServerConfig{URL: u})
			}
		}
	}
	f(func(*Config) {})
	f(servers("http://127.0.0.1:8222", "https://nats-1.example.org/nats", "http://[::1]:8222"))
	f(servers(""), "servers[0].url: is empty; give http://HOST:8222, where 8222 is the http_port of the server")
	f(servers("localhost:8222", "http://"),
		`servers[0].url: "localhost:8222" is not http://HOST:PORT or https://HOST:PORT`,
		`servers[1].url: "http://" is not http://HOST:PORT or https://HOST:PORT`)
	f(servers("http://:8222", "http://a:99999"), `servers[0].url: "http://:8222" is not http://HOST:PORT or https://HOST:PORT`,
		`servers[1].url: "http://a:99999" is not http://HOST:PORT or https://HOST:PORT`)
	f(func(c *Config) {
		c.Servers = []ServerConfig{{
			URL: "https://a:8222", TLSConfig: config.TLSConfig{CARef: "ca", CertRef: "cert", KeyRef: "key"},
			BasicAuth: &config.BasicAuth{UsernameRef: "u", PasswordRef: "p"},
		}}
		c.System = []SystemConfig{{URLs: []string{"tls://a:4222"}, TLSConfig: config.TLSConfig{CARef: "ca"}}}
	}, "servers[0].basic_auth.username_ref: there is no secret manager; give a file",
		"servers[0].basic_auth.password_ref: there is no secret manager; give a file",
		"servers[0].tls_config.ca_ref: there is no secret manager; give a file",
		"servers[0].tls_config.cert_ref: there is no secret manager; give a file",
		"servers[0].tls_config.key_ref: there is no secret manager; give a file",
		"system[0].tls_config.ca_ref: there is no secret manager; give a file")
	f(servers("nats://a:4222"),
		"servers[0].url: nats:// is where clients connect; give the monitoring port, http://HOST:8222, or list the server under system")
	f(servers("http://me:hunter2@a:8222", "http://me:hunter2@%zz", "ftp://me:hunter2@a"),
		"servers[0].url: secrets stand in files, not in the URL: see basic_auth",
		`servers[1].url: "http://xxxxx@%zz" is not http://HOST:PORT or https://HOST:PORT`,
		`servers[2].url: "ftp://xxxxx@a" is not http://HOST:PORT or https://HOST:PORT`)
	f(servers("http://a:8222/varz?x=1"), `servers[0].url: "http://a:8222/varz?x=1" is more than the address of the monitoring port`)
	f(servers("http://a:8222", "http://A:8222/"), "servers[1].url: http://A:8222/ is servers[0] already")
	f(func(c *Config) {
		c.Servers = []ServerConfig{{
			URL: "http://a:8222", TLSConfig: config.TLSConfig{CAFile: "ca.pem"},
			BasicAuth: &config.BasicAuth{Username: "u", Password: "p", PasswordFile: "f"},
		}}
	}, "servers[0].tls_config: is set, but http://a:8222 is not https://",
		"servers[0].basic_auth: at most one of basic_auth password, password_file & password_ref must be configured")

	system := func(s ...SystemConfig) func(*Config) { return func(c *Config) { c.System = s } }
	f(system(SystemConfig{URLs: []string{"nats://a:4222", "tls://b:4222"}, CredentialsFile: "sys.creds", Expect: 3}))
	f(system(SystemConfig{}), "system[0].urls: is empty")
	f(system(SystemConfig{URLs: []string{"http://a:8222", "a:4222", "nats://me:hunter2@b"}}),
		`system[0].urls[0]: "http://a:8222" is not HOST:PORT after nats://, tls://, ws:// or wss://`,
		`system[0].urls[1]: "a:4222" is not HOST:PORT after nats://, tls://, ws:// or wss://`,
		"system[0].urls[2]: secrets stand in files, not in the URL: see credentials_file and password_file")
	f(system(SystemConfig{URLs: []string{"nats://a:4222"}}, SystemConfig{URLs: []string{"nats://b:4222", "tls://a:4222"}}),
		"system[1].urls[1]: a:4222 is system[0].urls[0] already")
	f(system(SystemConfig{URLs: []string{"nats://a:1"}, CredentialsFile: "c", Username: "u", Expect: -1}),
		"system[0].username: give one of credentials_file and username",
		"system[0].password_file: username and password_file belong together",
		"system[0].expect: -1 is less than 0")

	f(func(c *Config) { c.ListenAddress = "9100" }, `listen_address: "9100" is not HOST:PORT`)
	f(func(c *Config) { c.TLSServerConfig.TLSCertPath = "cert" },
		"tls_server_config: is for listen_address, which is empty; the web listener has --web.config.file")
	f(func(c *Config) { c.Compat, c.CompatPrefix = compatPNE, "nats" })
	f(func(c *Config) { c.Compat = "surveyor" }, `compat: "surveyor" is not prometheus-nats-exporter`)
	f(func(c *Config) { c.CompatPrefix = "nats" }, "compat_prefix: is set, but compat is empty; prometheus-nats-exporter is what it may be")
	for _, bad := range []string{"", "1a", "a_", "a-b", "a b", "ä"} {
		f(func(c *Config) { c.Compat, c.CompatPrefix = compatPNE, bad },
			`compat_prefix: "`+bad+`" is not letters, digits and _, beginning with no digit and ending with no _`)
	}
}

// Secrets in files are relative to the configuration.
func TestConfigInDirectory(t *testing.T) {
	c := Config{
		Servers: []ServerConfig{{BasicAuth: &config.BasicAuth{PasswordFile: "p"}, TLSConfig: config.TLSConfig{CAFile: "ca"}}, {}},
		System:  []SystemConfig{{CredentialsFile: "c", NkeySeedFile: "/n", PasswordFile: "p", TLSConfig: config.TLSConfig{KeyFile: "k"}}},
	}
	c.TLSServerConfig.TLSCertPath = "cert"
	c.SetDirectory("/etc/t")
	got := []string{
		c.TLSServerConfig.TLSCertPath, c.Servers[0].BasicAuth.PasswordFile, c.Servers[0].TLSConfig.CAFile,
		c.System[0].CredentialsFile, c.System[0].NkeySeedFile, c.System[0].PasswordFile, c.System[0].TLSConfig.KeyFile,
	}
	if want := []string{"/etc/t/cert", "/etc/t/p", "/etc/t/ca", "/etc/t/c", "/n", "/etc/t/p", "/etc/t/k"}; !reflect.DeepEqual(got, want) {
		t.Errorf("files are %q, want %q", got, want)
	}
}
