package config

import (
	"fmt"
	"os"

	"go.yaml.in/yaml/v2"
)

// WebUsers returns the names of those who can log in, according to a web configuration file of exporter-toolkit. There
// is nobody if there is no file, and then nobody has to.
func WebUsers(file string) (map[string]bool, error) {
	if file == "" {
		return nil, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read web configuration: %w", err)
	}
	// The toolkit checks everything, and all of it.
	var c struct {
		Users map[string]string `yaml:"basic_auth_users"`
	}
	if err := yaml.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("parse web configuration %q: %w", file, err)
	}
	users := map[string]bool{}
	for user := range c.Users {
		users[user] = true
	}
	return users, nil
}
