package natsd_test

import (
	"strings"
	"testing"

	"github.com/thalweg/thalweg/internal/natsd"
)

func TestAuthSettings(t *testing.T) {
	f := func(what, want string, change func(*natsd.Config)) {
		t.Helper()
		c := natsd.DefaultConfig()
		change(&c)
		err := c.Validate()
		if want == "" && err != nil || want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	provider := natsd.OIDC{Issuer: "https://id.example", Audience: "thalweg", Claim: "sub"}
	f("defaults", "", func(*natsd.Config) {})
	f("open", `listen: "0.0.0.0:4222" is not loopback`, func(c *natsd.Config) { c.Listen = "0.0.0.0:4222" })
	f("keys", "", func(c *natsd.Config) { c.Listen, c.Auth.Enrol = "0.0.0.0:4222", true })
	f("bearer tokens", "", func(c *natsd.Config) { c.Listen, c.Auth.OIDC = "0.0.0.0:4222", provider })
	f("for nothing", "allow_anonymous: would make auth pointless", func(c *natsd.Config) { c.AllowAnonymous, c.Auth.Enrol = true, true })
	f("no TLS", "auth.mtls: needs tls_server_config", func(c *natsd.Config) { c.Auth.MTLS = true })
	withTLS := func(c *natsd.Config) {
		c.Auth.MTLS = true
		c.TLSServerConfig.TLSCertPath, c.TLSServerConfig.TLSKeyPath = "c", "k"
	}
	f("no authority", "auth.mtls: needs tls_server_config", withTLS)
	f("authority", "", func(c *natsd.Config) { withTLS(c); c.TLSServerConfig.ClientCAs = "ca" })
	f("unverified", `auth.mtls: tls_server_config.client_auth_type "RequireAnyClientCert"`, func(c *natsd.Config) {
		withTLS(c)
		c.TLSServerConfig.ClientCAs, c.TLSServerConfig.ClientAuth = "ca", "RequireAnyClientCert"
	})
	f("plain issuer", "auth.oidc.issuer:", func(c *natsd.Config) { c.Auth.OIDC = provider; c.Auth.OIDC.Issuer = "http://id.example" })
	f("no issuer", "auth.oidc.audience: is set", func(c *natsd.Config) { c.Auth.OIDC.Audience = "thalweg" })
	f("no URL", "auth.oidc.issuer:", func(c *natsd.Config) { c.Auth.OIDC = provider; c.Auth.OIDC.Issuer = "id.example" })
	f("any audience", "auth.oidc.audience: is empty", func(c *natsd.Config) { c.Auth.OIDC = provider; c.Auth.OIDC.Audience = "" })
	f("no claim", "auth.oidc.claim: is empty", func(c *natsd.Config) { c.Auth.OIDC = provider; c.Auth.OIDC.Claim = "" })
}
