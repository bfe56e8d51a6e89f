package push

import (
	"errors"
	"fmt"
	"net/url"

	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
)

// ClientConfig is a Push Gateway that gets the last row of every source.
type ClientConfig struct {
	// Base URL of the Push Gateway, to which /metrics/job/... is appended. Credentials do not stand in it: see basic_auth.
	URL string `yaml:"url"`
	// Make the name of the site a part of every group, as label publisher. Without it two sites that have a job and an
	// instance of the same name overwrite each other.
	PublisherLabel bool `yaml:"publisher_label"`
	// Rows that are older than this when they could be pushed are dropped. 0s: none is. Less than two intervals of a
	// target drop rows that are merely late.
	MaxAge model.Duration `yaml:"max_age"`

	// How to reach it: basic_auth, authorization, oauth2, tls_config, proxy_url, http_headers and so on, as in Prometheus.
	HTTP config.HTTPClientConfig `yaml:",inline"`
}

// DefaultClientConfig is what an absent key means.
func DefaultClientConfig() ClientConfig {
	return ClientConfig{HTTP: config.DefaultHTTPClientConfig}
}

// UnmarshalYAML decodes over the defaults, and has Prometheus check its keys.
func (c *ClientConfig) UnmarshalYAML(unmarshal func(any) error) error {
	*c = DefaultClientConfig()
	type plain ClientConfig
	if err := unmarshal((*plain)(c)); err != nil {
		return err
	}
	return c.HTTP.Validate()
}

// SetDirectory joins relative file names with dir.
func (c *ClientConfig) SetDirectory(dir string) { c.HTTP.SetDirectory(dir) }

// Validate reports everything that is wrong, each error beginning with the key.
func (c *ClientConfig) Validate() error {
	var errs []error
	switch u, err := url.Parse(c.URL); {
	case c.URL == "":
		errs = append(errs, errors.New("url: is missing"))
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		errs = append(errs, errors.New("url: is not an http:// or https:// URL"))
	case u.User != nil:
		errs = append(errs, errors.New("url: has a user in it, who belongs into basic_auth"))
	case u.RawQuery != "" || u.Fragment != "":
		errs = append(errs, fmt.Errorf("url: %q has more than a path", c.URL))
	}
	if c.MaxAge < 0 {
		errs = append(errs, fmt.Errorf("max_age: %s is negative", c.MaxAge))
	}
	return errors.Join(errs...)
}
