package config

import (
	"fmt"
	"os"

	"github.com/prometheus/exporter-toolkit/web"
	"go.yaml.in/yaml/v2"
)

// WebUsers returns the names of those who can log in, according to a web configuration file of exporter-toolkit. There
// is nobody if there is no file, and then nobody has to.
func WebUsers(file string) (map[string]bool, error) {
	if file == "" {
		return nil, nil
	}
	c, err := readWeb(file)
	if err != nil {
		return nil, err
	}
	users := map[string]bool{}
	for user := range c.Users {
		users[user] = true
	}
	return users, nil
}

// WebTLS reports whether a listener with a web configuration file of exporter-toolkit speaks TLS. It does not if there
// is no file.
func WebTLS(file string) (bool, error) {
	if file == "" {
		return false, nil
	}
	c, err := readWeb(file)
	return c.TLS.IsEnabled(), err
}

// webConfig is what is read here of a web configuration; the toolkit checks everything, and all of it.
type webConfig struct {
	TLS   web.TLSConfig     `yaml:"tls_server_config"`
	Users map[string]string `yaml:"basic_auth_users"`
}

func readWeb(file string) (c webConfig, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return c, fmt.Errorf("read web configuration: %w", err)
	}
	if err := yaml.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("parse web configuration %q: %w", file, err)
	}
	return c, nil
}
