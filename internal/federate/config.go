package federate

import "fmt"

// Config of the /federate endpoint.
type Config struct {
	// real: families carry their type, help and unit, in OpenMetrics and protobuf exemplars and start timestamps too.
	// untyped: exactly what Prometheus answers, which knows no types here and no OpenMetrics.
	Types Types `yaml:"types"`
}

// Types says which metadata /federate carries.
type Types string

const (
	Real    Types = "real"
	Untyped Types = "untyped"
)

// DefaultConfig is what an absent key means.
func DefaultConfig() Config { return Config{Types: Real} }

// UnmarshalYAML decodes over the defaults.
func (c *Config) UnmarshalYAML(unmarshal func(any) error) error {
	*c = DefaultConfig()
	type plain Config
	return unmarshal((*plain)(c))
}

// Validate reports what is wrong, beginning with the key.
func (c *Config) Validate() error {
	if c.Types != Real && c.Types != Untyped {
		return fmt.Errorf("types: %q is not real or untyped", c.Types)
	}
	return nil
}
