package bus

import (
	"path/filepath"
	"testing"

	"github.com/prometheus/common/config"
)

func TestPuppetLayout(t *testing.T) {
	c := DefaultConfig()
	c.PuppetSSLDir, c.PuppetIdentity = "ssl", "ams-1.example.org"
	c.TLSConfig.ServerName = "hub"
	c.SetDirectory("/etc")
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	want := config.TLSConfig{
		CAFile: filepath.FromSlash("/etc/ssl/certs/ca.pem"), CertFile: filepath.FromSlash("/etc/ssl/certs/ams-1.example.org.pem"),
		KeyFile: filepath.FromSlash("/etc/ssl/private_keys/ams-1.example.org.pem"), ServerName: "hub",
	}
	if got := c.TLS(); got != want {
		t.Errorf("TLS settings are %+v, want %+v", got, want)
	}
}
