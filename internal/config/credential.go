package config

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/prometheus/common/config"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/identity"
)

// useCredential lets an edge use the credential that "thalweg enrol" has written into the data directory, if there is
// one: for everything if the file says nothing about NATS, or as the key for the urls that it gives without another.
func (c *Config) useCredential(dataDir string) error {
	if c.Edge == nil {
		return nil
	}
	client, runsServer := &c.NATS.Client, c.NATS.Embedded != nil
	if c.Edge.NATS != nil {
		client, runsServer = c.Edge.NATS, false
	}
	if hasCredential(client) || runsServer {
		return nil
	}
	file := identity.CredentialFile(dataDir)
	credential, err := identity.ReadCredential(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return c.places.locate("", fmt.Errorf("data_dir: %w", err))
	}
	if _, written := c.places["site"]; written && c.Site != credential.Site {
		return c.places.locate("", fmt.Errorf("site: is %q, but the credential %q is of site %q; remove one of them", c.Site, file, credential.Site))
	}
	c.Site = credential.Site
	merged := credential.BusConfig()
	if len(client.URLs) > 0 {
		ca := merged.TLSConfig
		merged = *client
		if merged.TLSConfig == (config.TLSConfig{}) {
			merged.TLSConfig = ca
		}
	} else {
		merged.ProxyURL = client.ProxyURL
		client.ProxyURL = "" // it is for the edge
	}
	merged.CredentialFile = file
	c.Edge.NATS = &merged
	return nil
}

// hasCredential reports whether a nats section says with what a client proves who it is.
func hasCredential(n *bus.Config) bool {
	return n.TokenFile != "" || n.CredentialsFile != "" || n.NKeySeedFile != "" || n.Username != "" ||
		n.TLSConfig.CertFile != "" || n.TLSConfig.Cert != ""
}
